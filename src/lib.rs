//! Every aggregate's events in order, different aggregates in parallel, nothing lost.

mod clock;
mod error;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;

pub use clock::{Clock, SystemClock, Time};
pub use error::{ConfigError, HandlerError, PushError};
