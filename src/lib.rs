//! Every aggregate's events in order, different aggregates in parallel, nothing lost.
// What `internals` shows to benches, tests and fuzz targets is `pub`, and unreachable without it.
#![cfg_attr(not(feature = "internals"), allow(dead_code))]

mod armor;
mod attempt;
mod bell;
mod blocking;
mod busy;
mod clock;
mod close;
mod config;
mod context;
mod core;
mod delivery;
pub mod envelope;
mod error;
mod finished;
mod gate;
mod handler;
mod hash;
mod inspect;
mod lane;
mod ledger;
mod machine;
mod metrics;
mod monitor;
mod notice;
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
mod runtime;
mod shutdown;
mod snapshot;
mod source;
mod spawner;
mod status;
mod submit;
mod subscriber;
mod subscription;
mod sync;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
mod token;
mod unwind;
mod visit;
mod wait_list;
mod window;
mod work;
mod worker;

pub use clock::{Clock, SystemClock, Time};
pub use close::{Removal, Swap, SwapError};
pub use config::Config;
pub use envelope::{
    DecodeError, Decoder, Envelope, EnvelopeError, IntoPayload, KeyNotFound, Timestamp, extract_key,
};
pub use error::{ConfigError, HandlerError, PushError};
pub use handler::{Handled, Handler};
pub use hash::LaneHash;
pub use inspect::{Bound, BusyKey, Why};
pub use notice::Notice;
pub use outcome::{Failure, Outcome};
pub use pinning::Pinning;
pub use receipt::{Receipt, WaitError};
pub use record::{Header, MAX_KEY, Position, Record, RecordRef};
pub use runtime::{BuildError, Builder, Runtime, SubscribeError};
pub use shutdown::{Closing, LeftBehind, Report};
pub use snapshot::{
    LaneSnapshot, OutcomeCounts, Phase, Running, Snapshot, SubscriptionSnapshot, WorkerSnapshot,
};
pub use submit::{BatchError, Refusal, SubmitAsync, SubmitError};
pub use subscriber::Subscriber;
pub use subscription::{
    DeadLetter, Keyless, Letter, ParkedKey, Retry, Sending, Start, Subscription,
};

/// The parts, for our own benches, tests and fuzz targets. Not covered by semver.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::bell::Bell;
    pub use crate::core::Monitor;
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
    pub use crate::registry::{Registry, Snapshot as TableSnapshot};
    pub use crate::ring::{Restless, Ring, rings};
    pub use crate::source::{Source, SourceError, SourceOptions, Undelivered};
    pub use crate::timer::{Alarm, Timers};
    pub use crate::token::{Family, TOKENS_A_WORD, Token, TokenCell, TokenSet};
    pub use crate::wait_list::{Place, WaitList};
}
