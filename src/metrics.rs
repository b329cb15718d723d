//! Counters. On the steady path each has one writer, which adds to a plain number and publishes it with a relaxed
//! store; what is rare may have many.
//!
//! std's atomics, not `sync`'s: they order nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number. May be stale at once.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds, for the one writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets, for the one writer.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Counts one, for many writers, and returns what it was.
    #[inline]
    pub fn next_shared(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds, for many writers.
    #[inline]
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

/// What a lane's holder counts.
#[derive(Debug, Default)]
pub struct LaneCounters {
    /// Records taken out of the ring.
    pub taken: Counter,
    /// Records in the gate.
    pub held: Counter,
    /// Keys in the gate.
    pub keys: Counter,
}

/// What a worker counts.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Attempts that it started.
    pub attempts: Counter,
    /// Visits to lanes.
    pub visits: Counter,
    /// Lanes that it took from other workers.
    pub steals: Counter,
    /// Times that it went to sleep.
    pub parks: Counter,
    /// Deliveries that ended, by outcome.
    pub outcomes: Outcomes,
    /// Attempts that failed and were put off.
    pub retries: Counter,
    /// Attempts that panicked.
    pub panics: Counter,
    /// Deliveries whose source had been given up when they ended.
    pub stale: Counter,
}

/// Deliveries by outcome.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Handled.
    pub done: Counter,
    /// In the dead letters.
    pub dead_lettered: Counter,
    /// In the dead letters behind a parked key.
    pub parked: Counter,
    /// Passed over.
    pub skipped: Counter,
    /// Ended by stopping their subscription or source.
    pub stopped: Counter,
    /// Given back unfinished.
    pub abandoned: Counter,
}
