//! Every aggregate's events in order, different aggregates in parallel, nothing lost.
// What `internals` shows to benches, tests and fuzz targets is `pub`, and unreachable without it.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]

mod bell;
mod clock;
<<<<<<< HEAD
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
=======
mod config;
mod error;
mod hash;
mod machine;
mod option;
mod pinning;
>>>>>>> config
mod sync;
mod timer;
mod token;
mod unwind;
mod wait_list;

pub use clock::{Clock, SystemClock, Time};
pub use config::Config;
pub use error::{ConfigError, HandlerError, PushError};
<<<<<<< HEAD
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
=======
pub use hash::LaneHash;
pub use pinning::Pinning;

/// Not covered by semver: the parts, for our own benches, tests and fuzz targets.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::hash::{Route, Router, fnv1a32};
    pub use crate::machine::{Core, Machine};
    pub use crate::pinning::{Plan, pin_current, plan, spin_budget, workers};
>>>>>>> config
}
