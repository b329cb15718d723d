//! How far a source is, as its loop says once a turn, and what is counted of it over all its assignments.

use crate::metrics::Counter;

/// No source delivers this position.
pub const NO_POSITION: u64 = u64::MAX;
/// A number that was not said.
pub(crate) const UNSAID: u64 = u64::MAX;

/// How far a source is, as its loop said last: each number by itself.
#[derive(Debug)]
pub struct Progress {
    /// Deliveries to the runtime.
    pub delivered: Counter,
    /// Of these, not finished.
    pub unfinished: Counter,
    /// Deliveries above the frontier, the finished ones among them.
    pub window: Counter,
    /// Bytes of the records that are not finished.
    pub bytes: Counter,
    /// The next position to read after a restart; `NO_POSITION` if there is none.
    pub frontier: Counter,
    /// The oldest unfinished position; `NO_POSITION` if there is none.
    pub oldest: Counter,
    /// Past every position delivered; `NO_POSITION` if there is none.
    pub next: Counter,
    /// How far the frontier is behind the end, as the broker said last.
    pub lag: Counter,
    /// Since when the oldest delivery is under way, in nanoseconds of the runtime's clock.
    pub oldest_since: Counter,
    /// When it was committed last, in nanoseconds of the runtime's clock.
    pub committed: Counter,
}

impl Default for Progress {
    fn default() -> Self {
        let unsaid = || {
            let counter = Counter::default();
            counter.set(UNSAID);
            counter
        };
        Self {
            delivered: Counter::default(),
            unfinished: Counter::default(),
            window: Counter::default(),
            bytes: Counter::default(),
            frontier: unsaid(),
            oldest: unsaid(),
            next: unsaid(),
            lag: unsaid(),
            oldest_since: unsaid(),
            committed: unsaid(),
        }
    }
}

/// What is counted of a source of a subscription, whatever its assignment. All of it is rare.
#[derive(Debug, Default)]
pub struct SourceCounts {
    /// Deliveries that were no news: under way, waiting or finished already.
    pub absorbed: Counter,
    /// Deliveries that ended after their assignment had.
    pub stale: Counter,
    /// Times that it read nothing new until it knew what it might have lost, or was handed over.
    pub barriers: Counter,
    /// Times that its broker was reached again.
    pub reconnects: Counter,
}
