//! Every aggregate's events in order, different aggregates in parallel, nothing lost.

mod clock;
mod error;
mod parker;
mod queue;
mod ring;
mod sync;
mod token;

pub use clock::{Clock, SystemClock, Time};
pub use error::{ConfigError, HandlerError, PushError};

/// The parts, for our own benches, tests and fuzz targets. Not covered by semver.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::parker::{Parker, Unparker, with_current};
    pub use crate::queue::{Queue, Single};
    pub use crate::ring::{Restless, Ring, rings};
    pub use crate::token::{Family, TOKENS_A_WORD, Token, TokenCell, TokenSet};
}
