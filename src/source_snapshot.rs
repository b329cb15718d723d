//! A look at a source: how far it is, and what has become of what it delivered.

use std::time::Duration;

use crate::clock::Time;
use crate::metrics::Counter;
use crate::outcome::Failure;
use crate::progress::{NO_POSITION, UNSAID};
use crate::table::{SourceEntry, Table};

/// A source, as its loop said last: one partition of a bus, as one subscription reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SourceSnapshot {
    /// Its topic and partition: `orders/0`.
    pub name: String,
    /// The subscription that it feeds.
    pub subscription: String,
    /// The number of this assignment, unique in the runtime.
    pub epoch: u32,
    /// Deliveries to the runtime in this assignment.
    pub delivered: u64,
    /// Of these, finished, as its loop has noticed: one that waits for the oldest to end looks at the others after
    /// that. (Or gone from their source before they were.)
    pub finished: u64,
    /// The next offset to read after a restart: everything before it is finished. `None` before the first delivery
    /// of a source that went on nowhere.
    pub frontier: Option<u64>,
    /// How many offsets the frontier is behind the end of the partition, as the broker has said last; of a source that
    /// hears nothing of that, behind what was delivered.
    pub lag: u64,
    /// Deliveries above the frontier, finished or not.
    pub window: usize,
    /// How many there may be: `source_window`.
    pub window_limit: usize,
    /// Bytes of the records that are under way.
    pub bytes: usize,
    /// How many there may be: `source_bytes`.
    pub bytes_limit: usize,
    /// The offset that holds the frontier: the oldest unfinished delivery.
    pub oldest: Option<u64>,
    /// How long that is under way, or a little longer; as of the loop's last turn it was.
    pub oldest_age: Option<Duration>,
    /// How long ago it was committed, or its position stored; since this assignment began, if it was not.
    pub commit_age: Duration,
    /// Deliveries, over all assignments, that were no news and were not run: under way or finished already.
    pub absorbed: u64,
    /// Deliveries, over all assignments, that ended after their assignment had.
    pub stale: u64,
    /// Times, over all assignments, that it read nothing new until it knew what it might have lost, or was handed over.
    pub barriers: u64,
    /// Times, over all assignments, that its broker was reached again.
    pub reconnects: u64,
    /// Whether its subscription is paused: nothing new is read.
    pub paused: bool,
    /// Whether it has stopped: nothing of it is started any more.
    pub stopped: bool,
    /// The failure that stopped it, if one did.
    pub stopped_by: Option<Failure>,
}

impl SourceSnapshot {
    pub(crate) fn of(source: &SourceEntry, table: &Table, now: Time) -> Self {
        let (state, progress) = (&source.state, source.state.progress());
        let position = |counter: &Counter| Some(counter.get()).filter(|&at| at != NO_POSITION);
        let (delivered, frontier) = (progress.delivered.get(), position(&progress.frontier));
        let mut fed = table.subscriptions.iter().flatten();
        let fed = fed.find(|entry| entry.name == source.subscription);
        let age = |counter: &Counter| {
            let since = Some(counter.get()).filter(|&nanos| nanos != UNSAID);
            since.map(|nanos| now.since(Time::from_nanos(nanos)))
        };
        let counts = &source.counts;
        Self {
            name: source.name.to_string(),
            subscription: source.subscription.to_string(),
            epoch: source.epoch,
            delivered,
            finished: delivered.saturating_sub(progress.unfinished.get()),
            frontier,
            lag: match (progress.lag.get(), frontier, position(&progress.next)) {
                (UNSAID, Some(frontier), Some(next)) => next.saturating_sub(frontier),
                (UNSAID, ..) => 0,
                (lag, ..) => lag,
            },
            window: progress.window.get() as usize,
            window_limit: source.window,
            bytes: progress.bytes.get() as usize,
            bytes_limit: source.budget,
            oldest: position(&progress.oldest),
            oldest_age: age(&progress.oldest_since),
            commit_age: age(&progress.committed).unwrap_or_default(),
            absorbed: counts.absorbed.get(),
            stale: counts.stale.get(),
            barriers: counts.barriers.get(),
            reconnects: counts.reconnects.get(),
            paused: fed.is_some_and(|entry| entry.state.is_paused()),
            stopped: state.is_stopped() || fed.is_none_or(|entry| !entry.state.is_open()),
            stopped_by: state
                .stopped_by()
                .or_else(|| fed.and_then(|entry| entry.state.stopped_by())),
        }
    }
}
