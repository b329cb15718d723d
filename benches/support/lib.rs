//! What the benches share: an allocator that counts, a load with its check, and runtimes to put it through.

pub mod allocator;
pub mod bed;
pub mod gated;
pub mod lanes;
#[cfg(any(feature = "metrics", feature = "tracing"))]
pub mod listen;
pub mod load;
pub mod machine;
pub mod process;
