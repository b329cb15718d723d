//! What is counted of a subscription and of publishes, and how others read it.

#[cfg(feature = "metrics")]
use crossbeam_utils::CachePadded;

use crate::latency::Latency;
use crate::metrics::Counter;

/// What is counted of a subscription, by whoever finds it. On the steady path nobody does: what is handled is counted
/// only with the feature `metrics`, by each thread for itself.
#[derive(Debug, Default)]
pub struct SubscriptionCounters {
    /// Attempts that failed.
    pub failed: Counter,
    /// Attempts that failed and were put off.
    pub retries: Counter,
    /// Attempts that panicked.
    pub panics: Counter,
    /// Attempts that passed their deadline.
    pub timeouts: Counter,
    /// Sync attempts that ran longer than they may without being declared blocking.
    pub overruns: Counter,
    /// Deliveries in the dead letters.
    pub dead_lettered: Counter,
    /// Deliveries in the dead letters behind a parked key.
    pub parked: Counter,
    /// Deliveries that were passed over.
    pub skipped: Counter,
    /// Deliveries that stopped the subscription or their source.
    pub stopped: Counter,
    /// Deliveries that were given back unfinished.
    pub abandoned: Counter,
    /// Records that a bus has delivered again.
    pub redelivered: Counter,
    /// Records that were not taken, by reason: in the order of `Refusal`.
    pub refused: [Counter; 5],
    #[cfg(feature = "metrics")]
    handled: Box<[CachePadded<Counter>]>,
    /// How long records took that were handled.
    #[cfg(feature = "metrics")]
    pub latency: crate::latency::Latencies,
}

/// Publishes by result.
#[derive(Debug, Default)]
pub struct Publishes {
    /// Confirmed.
    pub confirmed: Counter,
    /// Refused: the topic was full.
    pub full: Counter,
    /// Not known whether they were stored.
    pub unknown: Counter,
    /// Not stored, for any other reason.
    pub failed: Counter,
}

impl SubscriptionCounters {
    /// For `threads` threads that handle records.
    pub fn new(threads: usize) -> Self {
        let _ = threads;
        Self {
            #[cfg(feature = "metrics")]
            handled: (0..threads).map(|_| CachePadded::default()).collect(),
            ..Self::default()
        }
    }

    /// This thread has handled a record.
    #[cfg(feature = "metrics")]
    #[inline]
    pub fn handled(&self, thread: usize) {
        if let Some(handled) = self.handled.get(thread) {
            handled.add(1);
        }
    }

    /// What was counted.
    pub fn read(&self) -> SubscriptionCounts {
        let [full, closed, stopped, invalid_key, no_key] =
            self.refused.each_ref().map(Counter::get);
        SubscriptionCounts {
            #[cfg(feature = "metrics")]
            handled: Some(self.handled.iter().map(|handled| handled.get()).sum()),
            #[cfg(not(feature = "metrics"))]
            handled: None,
            failed: self.failed.get(),
            retries: self.retries.get(),
            panics: self.panics.get(),
            timeouts: self.timeouts.get(),
            overruns: self.overruns.get(),
            dead_lettered: self.dead_lettered.get(),
            parked: self.parked.get(),
            skipped: self.skipped.get(),
            stopped: self.stopped.get(),
            abandoned: self.abandoned.get(),
            redelivered: self.redelivered.get(),
            refused: RefusedCounts { full, closed, stopped, invalid_key, no_key },
        }
    }

    /// The latencies that were sampled; `None` without the feature `metrics`.
    pub fn latency(&self) -> Option<Latency> {
        #[cfg(feature = "metrics")]
        return Some(self.latency.read());
        #[cfg(not(feature = "metrics"))]
        None
    }
}

impl Publishes {
    /// What was counted.
    pub fn read(&self) -> PublishCounts {
        PublishCounts {
            confirmed: self.confirmed.get(),
            full: self.full.get(),
            unknown: self.unknown.get(),
            failed: self.failed.get(),
        }
    }
}

/// What was counted of a subscription since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SubscriptionCounts {
    /// Records handled; `None` without the feature `metrics`, which counts them.
    pub handled: Option<u64>,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that failed and were put off.
    pub retries: u64,
    /// Attempts that panicked.
    pub panics: u64,
    /// Attempts that passed their deadline.
    pub timeouts: u64,
    /// Sync attempts that ran longer than they may without being declared blocking.
    pub overruns: u64,
    /// Records in the dead letters.
    pub dead_lettered: u64,
    /// Records in the dead letters behind a parked key.
    pub parked: u64,
    /// Records that were passed over.
    pub skipped: u64,
    /// Records that stopped the subscription or their source.
    pub stopped: u64,
    /// Records that were given back unfinished.
    pub abandoned: u64,
    /// Records that a bus has delivered again.
    pub redelivered: u64,
    /// Records that were not taken.
    pub refused: RefusedCounts,
}

/// Records that were not taken, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RefusedCounts {
    /// The lane was full.
    pub full: u64,
    /// The runtime was closed.
    pub closed: u64,
    /// The subscription had stopped or was removed.
    pub stopped: u64,
    /// The key was empty or too long.
    pub invalid_key: u64,
    /// There was no key.
    pub no_key: u64,
}

/// Publishes by result, of all buses of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PublishCounts {
    /// Confirmed.
    pub confirmed: u64,
    /// Refused: the topic was full.
    pub full: u64,
    /// Not known whether they were stored.
    pub unknown: u64,
    /// Not stored, for any other reason.
    pub failed: u64,
}
