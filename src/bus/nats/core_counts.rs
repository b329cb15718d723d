//! What is counted of topics of core NATS.

use crate::metrics::Counter;

/// What a subscription to topics of core NATS has counted, of all of them together. Every message that reached this
/// process is in `received` or in `dropped_by_client`, and every received one in `taken`, `dropped_when_full` or
/// `refused` as soon as that is known: a handler may run a moment before its record is counted as taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CoreCounts {
    /// Messages taken from the connection.
    pub received: u64,
    /// Records that the runtime took.
    pub taken: u64,
    /// Records dropped since their lane was full, and stayed so for as long as the topic's
    /// [`WhenFull`](super::WhenFull) says.
    pub dropped_when_full: u64,
    /// Records that the runtime refused for another reason: a stopped subscription, a key that is not allowed, none.
    pub refused: u64,
    /// Messages that reached the connection and were dropped there, since its buffer was full.
    pub dropped_by_client: u64,
    /// Messages that are missing in publishers' own numbers: lost anywhere on the way, those that the client dropped
    /// among them. Exact if the subscription is the only one of its group, and the publishers are buses of this crate.
    pub missing: u64,
    /// How often something may have been lost that nobody can count: the connection was cut.
    pub gaps_possible: u64,
}

/// What is counted, by the loop alone.
#[derive(Debug, Default)]
pub(super) struct CoreCounters {
    pub(super) received: Counter,
    pub(super) taken: Counter,
    pub(super) dropped_when_full: Counter,
    pub(super) refused: Counter,
    pub(super) dropped_by_client: Counter,
    pub(super) missing: Counter,
    pub(super) gaps_possible: Counter,
}

impl CoreCounts {
    /// Those of two topics together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            taken: self.taken + other.taken,
            dropped_when_full: self.dropped_when_full + other.dropped_when_full,
            refused: self.refused + other.refused,
            dropped_by_client: self.dropped_by_client + other.dropped_by_client,
            missing: self.missing + other.missing,
            gaps_possible: self.gaps_possible + other.gaps_possible,
        }
    }
}

impl CoreCounters {
    pub(super) fn read(&self) -> CoreCounts {
        CoreCounts {
            received: self.received.get(),
            taken: self.taken.get(),
            dropped_when_full: self.dropped_when_full.get(),
            refused: self.refused.get(),
            dropped_by_client: self.dropped_by_client.get(),
            missing: self.missing.get(),
            gaps_possible: self.gaps_possible.get(),
        }
    }
}
