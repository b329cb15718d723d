//! Asking lanes what is in their gates: each holder answers at its next visit.

use std::time::Duration;

use crate::block::Position;
use crate::bound::Bound;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// A question to some lanes, and what they have answered.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Lanes that have not answered.
    open: AtomicUsize,
    keys: Mutex<Vec<BusyKey>>,
}

/// A key that others of its kind wait for, and why it is busy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BusyKey {
    /// The lane.
    pub lane: u32,
    /// The subscription.
    pub subscription: String,
    /// The key's first 64 bytes; `None` if the record has none.
    pub key: Option<Vec<u8>>,
    /// Why it is busy.
    pub why: Why,
    /// The attempt that runs or ran last.
    pub attempt: u32,
    /// How long the record that keeps it busy has done so; for a sync handler at least this long.
    pub held_for: Duration,
    /// Records that wait behind it.
    pub waiting: usize,
    /// The source that the record came from, if it did and that goes on.
    pub source: Option<String>,
    /// The position of the record in its source.
    pub position: Option<Position>,
    /// Whether it holds up its whole lane or source: the bound that is used up.
    pub bound: Option<Bound>,
}

/// Why a key is busy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Why {
    /// A sync handler runs.
    Sync,
    /// An async handler's future is pending.
    Future,
    /// A blocking handler runs.
    Blocking,
    /// A blocking handler waits for one of the `blocking_threads`.
    WaitsForThread,
    /// It waits to be tried again.
    Retry {
        /// How long yet.
        after: Duration,
        /// What the last attempt said.
        error: Box<str>,
    },
    /// Its record is on its way to the dead letters.
    DeadLetter {
        /// How often it was sent.
        sends: u32,
    },
    /// It is parked, and no record of it is under way.
    Parked,
}

impl Inspection {
    /// For answers of `lanes` lanes.
    pub fn new(lanes: usize) -> Self {
        Self { open: AtomicUsize::new(lanes), keys: Mutex::default() }
    }

    /// A lane's answer. `keys` may be cut: what is shown is bounded.
    pub fn answer(&self, keys: Vec<BusyKey>) {
        self.keys.lock().extend(keys);
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether all have answered.
    pub fn is_complete(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// What was answered so far.
    pub fn take(&self) -> Vec<BusyKey> {
        std::mem::take(&mut *self.keys.lock())
    }
}
