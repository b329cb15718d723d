//! Every aggregate's events in order, different aggregates in parallel, nothing lost.
// What `internals` shows to benches, tests and fuzz targets is `pub`, and unreachable without it.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub, dead_code))]

mod armor;
mod bell;
mod clock;
mod config;
mod context;
mod delivery;
mod error;
mod finished;
mod gate;
mod handler;
mod hash;
mod lane;
mod ledger;
mod machine;
mod metrics;
mod option;
mod outcome;
mod parker;
mod pinning;
mod pool;
mod position;
mod queue;
mod receipt;
mod record;
mod registry;
mod ring;
mod subscription;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
mod token;
mod unwind;
mod wait_list;
mod window;

pub use clock::{Clock, SystemClock, Time};
pub use config::Config;
pub use error::{ConfigError, HandlerError, PushError};
pub use handler::{Handled, Handler};
pub use hash::LaneHash;
pub use outcome::{Failure, Outcome};
pub use pinning::Pinning;
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
    pub use crate::delivery::*;
    pub use crate::finished::*;
    pub use crate::gate::{Admit, Bounds, Gate, ReadySet};
    pub use crate::hash::{Route, Router, fnv1a32};
    pub use crate::lane::{Lane, Lanes};
    pub use crate::ledger::*;
    pub use crate::machine::{Core, Machine};
    pub use crate::parker::{Parker, Unparker, with_current};
    pub use crate::pinning::{Plan, pin_current, plan, spin_budget, workers};
    pub use crate::position::*;
    pub use crate::queue::{Queue, Single};
    pub use crate::receipt::{End, Promise, receipt};
    pub use crate::registry::{Registry, Snapshot};
    pub use crate::ring::{Restless, Ring, rings};
    pub use crate::timer::{Alarm, Timers};
    pub use crate::token::{Family, TOKENS_A_WORD, Token, TokenCell, TokenSet};
    pub use crate::wait_list::{Place, WaitList};
}
