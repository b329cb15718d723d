//! Every aggregate's events in order, different aggregates in parallel, nothing lost.

#[cfg_attr(not(feature = "internals"), allow(dead_code))]
mod armor;
mod clock;
#[cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub))]
mod delivery;
mod error;
#[cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub))]
mod finished;
#[cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub))]
mod ledger;
#[cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub))]
mod position;
mod sync;
#[cfg_attr(not(feature = "internals"), allow(dead_code))]
mod window;

pub use clock::{Clock, SystemClock, Time};
pub use error::{ConfigError, HandlerError, PushError};

/// The parts, for our own benches, tests and fuzz targets. Not covered by semver.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::delivery::*;
    pub use crate::finished::*;
    pub use crate::ledger::*;
    pub use crate::position::*;
}
