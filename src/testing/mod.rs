//! What a test of an event consumer needs: an [`Oracle`] that judges order, overlap, loss and
//! duplicates from what really happened, and a [`VirtualClock`] that decides what time it is.
//!
//! Needs the feature `testing`, which belongs in `[dev-dependencies]`:
//!
//! ```toml
//! [dev-dependencies]
//! keylane = { version = "0.1", features = ["testing"] }
//! ```

mod clock;
pub mod conformance;
mod oracle;
mod settle;
mod track;
mod verdict;

pub use clock::VirtualClock;
pub use oracle::{Attempt, Oracle};
pub use settle::settle;
pub use track::Ended;
pub use verdict::{Verdict, Violation, ViolationKind};
