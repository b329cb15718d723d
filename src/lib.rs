//! Every aggregate's events in order, different aggregates in parallel, nothing lost.
// What `internals` shows to benches, tests and fuzz targets is `pub`, and unreachable without it.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]

mod clock;
mod config;
mod error;
mod hash;
mod machine;
mod option;
mod pinning;
mod sync;

pub use clock::{Clock, SystemClock, Time};
pub use config::Config;
pub use error::{ConfigError, HandlerError, PushError};
pub use hash::LaneHash;
pub use pinning::Pinning;

/// Not covered by semver: the parts, for our own benches, tests and fuzz targets.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::hash::{Route, Router, fnv1a32};
    pub use crate::machine::{Core, Machine};
    pub use crate::pinning::{Plan, pin_current, plan, spin_budget, workers};
}
