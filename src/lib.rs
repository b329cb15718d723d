//! Every aggregate's events in order, different aggregates in parallel, nothing lost.

mod bell;
mod clock;
mod context;
mod error;
mod gate;
mod handler;
mod lane;
mod metrics;
mod outcome;
mod parker;
mod pool;
mod queue;
mod receipt;
mod record;
mod registry;
mod ring;
mod subscription;
mod sync;
mod timer;
mod token;
mod unwind;
mod wait_list;

pub use clock::{Clock, SystemClock, Time};
pub use error::{ConfigError, HandlerError, PushError};
pub use handler::{Handled, Handler};
pub use outcome::{Failure, Outcome};
pub use receipt::{Receipt, WaitError};
pub use record::{Header, MAX_KEY, Position, Record, RecordRef};
pub use subscription::{
    DeadLetter, Keyless, Letter, ParkedKey, Retry, Sending, Start, Subscription,
};

/// The parts, for our own benches, tests and fuzz targets. Not covered by semver.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::bell::Bell;
    pub use crate::gate::{Admit, Bounds, Gate, ReadySet};
    pub use crate::lane::{Lane, Lanes};
    pub use crate::parker::{Parker, Unparker, with_current};
    pub use crate::queue::{Queue, Single};
    pub use crate::receipt::{End, Promise, receipt};
    pub use crate::registry::{Registry, Snapshot};
    pub use crate::ring::{Restless, Ring, rings};
    pub use crate::timer::{Alarm, Timers};
    pub use crate::token::{Family, TOKENS_A_WORD, Token, TokenCell, TokenSet};
    pub use crate::wait_list::{Place, WaitList};
}
