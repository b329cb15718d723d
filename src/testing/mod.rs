//! What a test of an event consumer needs: an [`Oracle`] that judges order, overlap, loss and
//! duplicates from what really happened, a [`VirtualClock`] that decides what time it is, and [`settle()`], which
//! returns once there is nothing left to do at that time. A test waits for nothing and sleeps never.
//!
//! ```
//! use keylane::testing::{Ended, Oracle, VirtualClock, settle};
//! use keylane::{MemoryBus, Record, Retry, Runtime, Subscription};
//! use std::time::Duration;
//!
//! let clock = VirtualClock::new();
//! let runtime = Runtime::builder().workers(1).clock(clock.clone()).build()?;
//! let bus = MemoryBus::new(&runtime)?;
//! let oracle = Oracle::new();
//!
//! let judge = oracle.clone();
//! let policy = Subscription::new("billing").retry(Retry::fixed(Duration::from_secs(60)));
//! let subscribed = bus.subscribe("orders", policy, move |record: &Record| {
//!     let attempt = judge.start(record.key().unwrap_or_default(), record.payload()[0].into());
//!     let fails = record.attempt() == 1;
//!     attempt.end(if fails { Ended::Failed } else { Ended::Done });
//!     if fails { Err("not yet".into()) } else { Ok(()) }
//! });
//! subscribed.wait()?;
//! for seq in 1..=2 {
//!     oracle.published("order-42", seq.into());
//!     bus.publish("orders", Record::new("order-42", [seq])).wait()?;
//! }
//! for minute in 0..2 {
//!     settle(&runtime); // the record has failed and waits
//!     assert_eq!(oracle.verdict().handled, minute);
//!     clock.advance(Duration::from_secs(60));
//! }
//! settle(&runtime);
//! oracle.verdict().assert_clean();
//! # runtime.stop_now();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`conformance`] is the suite that every bus has to pass.
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
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod sim;
mod track;
mod verdict;

pub use clock::VirtualClock;
pub use oracle::{Attempt, Oracle};
pub use settle::settle;
pub use track::Ended;
pub use verdict::{Verdict, Violation, ViolationKind};
