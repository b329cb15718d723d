//! Every aggregate's events in order, different aggregates in parallel, nothing lost.
//!
//! `keylane` dispatches records to handlers by key. Records of one key are handled one after the other, in the
//! order they were submitted; records of different keys at the same time, on a few worker threads. A full
//! lane gives the record back, a failed record is tried again in place, and what closing leaves is handed
//! back: no record is dropped silently.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//! use keylane::{Record, Runtime, Subscription};
//!
//! let runtime = Runtime::builder().workers(2).build()?;
//!
//! let seen = Arc::new(Mutex::new(Vec::new()));
//! let noted = seen.clone();
//! let orders = runtime.subscribe(Subscription::new("orders"), move |record: &Record| {
//!     if record.key() == Some(b"order-42") {
//!         noted.lock().map_err(|_| "poisoned")?.push(record.payload().to_vec());
//!     }
//!     Ok(())
//! })?;
//!
//! for event in ["placed", "paid", "shipped"] {
//!     orders.submit(Record::new("order-42", event))?; // waits for room, at most 500 ms
//!     orders.submit(Record::new("order-43", event))?; // handled in parallel with the other
//! }
//! let report = runtime.close(Duration::from_secs(5))?; // drains what was taken
//! assert!(report.drained);
//! assert_eq!(*seen.lock().unwrap(), [&b"placed"[..], b"paid", b"shipped"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to begin
//!
//! | to | see |
//! |---|---|
//! | build a runtime, subscribe, look at it, close it | [`Runtime`], [`Builder`], [`Config`], [`Snapshot`] |
//! | handle in microseconds, asynchronously, or blocking | [`Runtime::subscribe`], [`subscribe_async`](Runtime::subscribe_async), [`subscribe_blocking`](Runtime::subscribe_blocking), [`Handler`] |
//! | submit now, waiting, as a future, in batches, with a receipt | [`Subscriber`], [`Record`], [`SubmitError`], [`Receipt`], [`Outcome`] |
//! | say what happens to a record that fails | [`Subscription`], [`Retry`], [`DeadLetter`], [`HandlerError`] |
//! | replace or remove a handler while it is in use | [`Subscriber::swap`], [`Subscriber::remove`], [`Subscriber::close`] |
//! | publish and subscribe by topic | [`Bus`], [`memory::MemoryBus`]; `nats::NatsBus` (feature `nats`) |
//! | share events with services in Go | [`Envelope`] and the module [`envelope`] |
//! | test all of that without waiting | the module `testing` (feature `testing`): virtual clock, faults, oracle, conformance |
//!
//! Everything that waits works on plain threads (`.wait()`, `.wait_timeout()`) and in async code (`.await`). No async
//! runtime is needed; with the feature `tokio`, handlers may use that one's timers and sockets.
//!
//! # What is promised
//!
//! - **Order** per (subscription, key): of two records, the second of which was submitted after the submit of the first
//!   had returned, the first has its outcome before the second is started. Attempts of one key never overlap.
//! - **Isolation**: an async or blocking handler that is slow, waiting to be tried again or hung delays its own key and
//!   no other, until one of the bounds in [`Bound`] is used up. A sync handler that is slow delays its lane; the
//!   other lanes of its worker are taken over after [`overrun`](Config::overrun).
//! - **Delivery**: a record that was taken has exactly one [`Outcome`]. From a source it is delivered at least once: what
//!   is not finished is delivered again after a crash. A dead letter is confirmed before its record is finished.
//! - **Give-back**: every refusal has the record in it, and [`Runtime::close`] reports what it did not handle.
//! - **No waiting inside a handler**: what would block there is refused ([`WaitError::WouldDeadlock`]).
//! - **Bounded memory**, independent of how many topics and subscriptions there are; each bound is an [option](Config).
//!
//! Not promised: order between keys, subscriptions or topics; exactly-once effects of handlers.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tokio` | [`Builder`] takes a tokio handle, in whose context handlers run |
//! | `serde` | [`Config`] in TOML and JSON; [`Snapshot`] and outcomes serialise |
//! | `metrics` | [`Exporter`](https://docs.rs/keylane/latest/keylane/struct.Exporter.html), for recorders of the `metrics` crate; handled records by subscription and sampled latencies in [`Snapshot`] |
//! | `tracing` | a span of the `tracing` crate around every attempt |
//! | `nats` | the module [`nats`](https://docs.rs/keylane/latest/keylane/nats/index.html): a bus over JetStream and core NATS |
//! | `testing` | the module `testing`, for `[dev-dependencies]` |
//!
//! A bus for Kafka is not built yet.
// What `internals` shows to benches, tests and fuzz targets is `pub`, and unreachable without it.
#![cfg_attr(not(feature = "internals"), allow(dead_code))]

mod age;
mod armor;
mod attempt;
mod batch;
mod bell;
mod block;
mod blocking;
mod bound;
mod builder;
mod bus;
mod busiest;
mod busy;
mod clock;
mod close;
mod command;
mod config;
mod connect;
mod context;
mod core;
mod counts;
mod delivery;
mod ending;
pub mod envelope;
mod error;
#[cfg(feature = "metrics")]
mod export;
mod finished;
mod gate;
mod handler;
mod hash;
mod held;
mod holder;
mod inspect;
mod lane;
mod latency;
mod ledger;
mod letters;
mod machine;
mod metrics;
mod monitor;
mod notice;
mod option;
mod outage;
mod outcome;
mod parker;
mod peal;
mod pinning;
mod pool;
mod position;
mod progress;
mod queue;
mod receipt;
mod record;
mod registry;
mod reply;
mod retry;
mod ring;
mod runtime;
#[cfg_attr(not(keylane_sabotage), allow(dead_code, unused_macros))]
mod sabotage;
mod shutdown;
mod snapshot;
mod source;
mod source_snapshot;
mod span;
mod spawner;
#[cfg(keylane_loom)]
mod stage;
mod status;
mod submit;
mod subscriber;
mod subscription;
mod sync;
mod table;
mod tally;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
mod token;
mod undelivered;
mod unwind;
mod visit;
mod wait_list;
mod window;
mod work;
mod worker;

pub use bound::{Bound, UsedUp};
pub use builder::Builder;
pub use bus::memory;
pub use bus::memory::MemoryBus;
#[cfg(feature = "nats")]
pub use bus::nats;
#[cfg(feature = "nats")]
pub use bus::nats::NatsBus;
pub use bus::{
    BrokerError, BrokerErrorKind, Bus, BusClosing, BusError, BusEvent, BusReport, BusSubscription,
    Connecting, Events, Health, InvalidGroup, InvalidTopic, InvalidTopics, KeyMismatch, NextEvent,
    PublishError, PublishErrorKind, PublishFuture, Publishing, Reason, ReasonKind, Subscribing,
    Topics, Transport,
};
pub use clock::{Clock, SystemClock, Time};
pub use close::{Removal, Swap, SwapError};
pub use config::Config;
pub use counts::{PublishCounts, RefusedCounts, SubscriptionCounts};
pub use envelope::{
    DecodeError, Decoder, Envelope, EnvelopeError, IntoPayload, KeyNotFound, Timestamp, extract_key,
};
pub use error::{ConfigError, HandlerError, PushError};
#[cfg(feature = "metrics")]
pub use export::{Exporter, Exporting};
pub use handler::{Handled, Handler};
pub use hash::LaneHash;
pub use inspect::{BusyKey, Why};
pub use latency::Latency;
pub use notice::Notice;
pub use outcome::{Failure, Outcome};
pub use pinning::Pinning;
pub use receipt::{Receipt, WaitError};
pub use record::{Header, MAX_KEY, Position, Record, RecordRef};
pub use retry::Retry;
pub use runtime::{BuildError, Runtime, SubscribeError};
pub use shutdown::{Closing, LeftBehind, Report};
pub use snapshot::{
    BusiestKey, LaneSnapshot, OutcomeCounts, Phase, Running, Snapshot, SubscriptionSnapshot,
    WorkerSnapshot,
};
pub use source_snapshot::SourceSnapshot;
pub use submit::{BatchError, Refusal, SubmitAsync, SubmitError};
pub use subscriber::Subscriber;
pub use subscription::{
    DeadLetter, Keyless, Letter, OnLost, ParkedKey, Sending, Start, Subscription,
};

/// The parts, for our own benches, tests and fuzz targets. Not covered by semver.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::bell::Bell;
    pub use crate::blocking::Blocking;
    pub use crate::busy::Reply;
    pub use crate::close::still_running;
    pub use crate::core::Monitor;
    pub use crate::delivery::*;
    pub use crate::finished::*;
    pub use crate::gate::{Admit, Bounds, Gate, ReadySet};
    pub use crate::handler::{Running, Version};
    pub use crate::hash::{Route, Router, fnv1a32};
    pub use crate::lane::{Lane, Lanes};
    pub use crate::latency::PUT;
    pub use crate::ledger::*;
    pub use crate::machine::{Core, Machine};
    pub use crate::parker::{Parker, Unparker, with_current};
    pub use crate::peal::Peal;
    pub use crate::pinning::{Plan, pin_current, plan, spin_budget, workers};
    pub use crate::position::*;
    pub use crate::queue::{Queue, Single};
    pub use crate::receipt::{End, Promise, receipt};
    pub use crate::registry::{Registry, Snapshot as TableSnapshot};
    pub use crate::ring::{Batch, Drain, Restless, Ring, rings};
    pub use crate::source::{Source, SourceError, SourceOptions};
    #[cfg(keylane_loom)]
    pub use crate::stage::Stage;
    pub use crate::timer::{Alarm, Timers};
    pub use crate::token::{Family, TOKENS_A_WORD, Token, TokenCell, TokenSet};
    pub use crate::undelivered::Undelivered;
    pub use crate::wait_list::{Place, WaitList};
}

/// The README's programs, compiled and run as they stand there. They use the testing kit and, not run, the bus over NATS.
#[cfg(all(doctest, feature = "testing", feature = "nats"))]
#[doc = include_str!("../README.md")]
mod readme {}
