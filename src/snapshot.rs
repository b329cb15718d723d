//! A look at a running runtime.

use std::cmp::Reverse;

use crate::bound::UsedUp;
use crate::busiest::together;
use crate::core::{CLOSING, Core, RUNNING};
use crate::counts::{PublishCounts, SubscriptionCounts};
use crate::holder::used_up;
use crate::inspect::{BusyKey, Why};
use crate::latency::Latency;
use crate::metrics::Outcomes;
use crate::outcome::Failure;
use crate::shutdown::inspect;
use crate::source_snapshot::SourceSnapshot;
use crate::subscription::ParkedKey;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// Parked keys of one subscription that a snapshot lists.
const PARKED_SHOWN: usize = 100;
/// Busiest keys that a snapshot lists.
const BUSIEST_SHOWN: usize = 100;
/// Busy keys that a snapshot lists.
const BUSY_SHOWN: usize = 1_000;

/// A runtime as it was at about one time. Counters are read one after the other.
///
/// ```
/// use std::time::Duration;
/// use keylane::{Phase, Record, RecordRef, Runtime, Subscription, Why};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let orders = runtime.subscribe_async(Subscription::new("orders"), |_: RecordRef| {
///     std::future::pending() // hangs
/// })?;
/// orders.submit(Record::new("order-42", "placed"))?;
/// orders.submit(Record::new("order-42", "paid"))?;
/// let busy = loop {
///     let snapshot = runtime.snapshot();
///     assert_eq!((snapshot.phase, snapshot.outcomes.done), (Phase::Running, 0));
///     match snapshot.busy.into_iter().next() {
///         Some(busy) if busy.waiting == 1 => break busy,
///         _ => std::thread::yield_now(),
///     }
/// };
/// assert_eq!((busy.key.as_deref(), busy.why), (Some(&b"order-42"[..]), Why::Future));
/// # runtime.close(Duration::ZERO)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// What it does with records.
    pub phase: Phase,
    /// Deliveries that ended, by outcome.
    pub outcomes: OutcomeCounts,
    /// Records in lanes and gates.
    pub in_flight: usize,
    /// Its lanes.
    pub lanes: Vec<LaneSnapshot>,
    /// Its workers, the spares that run included.
    pub workers: Vec<WorkerSnapshot>,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionSnapshot>,
    /// Its sources: the partitions that buses feed it from.
    pub sources: Vec<SourceSnapshot>,
    /// The key that has been busy longest while others wait behind it, and why.
    pub oldest: Option<BusyKey>,
    /// Busy keys, those that hold up most first; at most 1,000.
    pub busy: Vec<BusyKey>,
    /// Keys that make up most of what was handled lately, the busiest first; at most 100. Estimated from samples.
    pub busiest: Vec<BusiestKey>,
    /// Publishes by result, of all its buses.
    pub publishes: PublishCounts,
    /// Bounds that are used up now, each with what holds it: one entry for every key, lane, source and
    /// subscription that has used one up.
    pub bounds: Vec<UsedUp>,
    /// Threads that run blocking handlers, and calls that wait for one.
    pub blocking: (usize, usize),
    /// Spare workers that were started.
    pub spares: usize,
    /// Why workers are not bound to cores though that was asked for, if it was declined.
    pub not_pinned: Option<String>,
}

/// What a runtime does with records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Phase {
    /// They are taken and handled.
    Running,
    /// None is taken; those that were are handled.
    Closing,
    /// None is started any more.
    Stopped,
}

/// Deliveries that ended, by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OutcomeCounts {
    /// Handled.
    pub done: u64,
    /// In the dead letters.
    pub dead_lettered: u64,
    /// In the dead letters behind a parked key.
    pub parked: u64,
    /// Passed over.
    pub skipped: u64,
    /// Ended by stopping their subscription or source.
    pub stopped: u64,
    /// Given back unfinished.
    pub abandoned: u64,
    /// Attempts that failed and were put off.
    pub retries: u64,
    /// Attempts that panicked.
    pub panics: u64,
    /// Deliveries whose source had been given up when they ended.
    pub stale: u64,
}

/// A lane, as a snapshot saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LaneSnapshot {
    /// Records in its ring.
    pub depth: usize,
    /// Records in its gate: in flight, or waiting behind a busy key.
    pub held: usize,
    /// Keys in its gate.
    pub keys: usize,
    /// Records taken out of its ring so far, whatever became of them: those that wait in its gate, and those that
    /// were given back, are counted too. As of the end of its last visit.
    pub handled: u64,
}

/// A worker, as a snapshot saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WorkerSnapshot {
    /// Whether it sleeps.
    pub asleep: bool,
    /// The attempt that it is in.
    pub running: Option<Running>,
    /// Attempts that it started.
    pub attempts: u64,
    /// Lanes that it visited.
    pub visits: u64,
    /// Lanes that it took from others.
    pub steals: u64,
    /// Times that it went to sleep.
    pub parks: u64,
    /// Lanes that wait for it.
    pub waiting: u32,
}

/// An attempt that a worker is in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Running {
    /// The subscription.
    pub subscription: String,
    /// The first 64 bytes of the key; `None` if the record has none.
    pub key: Option<Vec<u8>>,
    /// Whether it has run longer than it may.
    pub overruns: bool,
}

/// A key that makes up much of what was handled lately.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BusiestKey {
    /// The subscription.
    pub subscription: String,
    /// The key's first 64 bytes; `None` for records without one.
    pub key: Option<Vec<u8>>,
    /// The lane.
    pub lane: u32,
    /// Its part of all attempts, 0 to 1, at least.
    pub share: f64,
}

/// A subscription, as a snapshot saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SubscriptionSnapshot {
    /// Its name.
    pub name: String,
    /// The failure that stopped it, if one did.
    pub stopped_by: Option<Failure>,
    /// What was said of the first of its dead letters that was not taken, while that is so.
    pub letter_outage: Option<Box<str>>,
    /// How many keys are parked.
    pub parked_keys: usize,
    /// The first hundred of them.
    pub parked: Vec<ParkedKey>,
    /// Sync attempts that ran longer than they may.
    pub overruns: u64,
    /// Pending futures and blocking calls.
    pub running: usize,
    /// What was counted of it.
    pub counts: SubscriptionCounts,
    /// How long its records took, sampled; `None` without the feature `metrics`.
    pub latency: Option<Latency>,
}

impl Snapshot {
    pub(crate) fn of(core: &Arc<Core>) -> Self {
        let table = core.registry.load();
        let name = |id: u32| {
            let entry = table.subscriptions.get(id as usize).and_then(Option::as_ref);
            entry.map_or_else(String::new, |entry| entry.name.to_string())
        };
        let lanes: Vec<_> = core
            .lanes
            .iter()
            .map(|lane| LaneSnapshot {
                depth: lane.ring().len(),
                held: lane.counters.held.get() as usize,
                keys: lane.counters.keys.get() as usize,
                handled: lane.counters.taken.get(),
            })
            .collect();
        let mut busy = inspect(core);
        let mut workers = Vec::new();
        for (worker, bell) in core.workers.iter().zip(core.lanes.bells()) {
            if !worker.started.load(Ordering::Acquire) {
                continue;
            }
            let seen = worker.status.seen();
            if let Some(seen) = &seen
                && worker.status.is_stuck()
            {
                busy.push(BusyKey {
                    lane: seen.lane,
                    subscription: name(seen.subscription),
                    key: seen.key.clone(),
                    why: Why::Sync,
                    attempt: 0,
                    held_for: worker.status.ran(),
                    waiting: lanes.get(seen.lane as usize).map_or(0, |lane| lane.depth),
                    source: None,
                    position: None,
                    bound: None,
                });
            }
            workers.push(WorkerSnapshot {
                asleep: bell.is_parked(),
                running: seen.map(|seen| Running {
                    subscription: name(seen.subscription),
                    key: seen.key,
                    overruns: worker.status.is_stuck(),
                }),
                attempts: worker.counters.attempts.get(),
                visits: worker.counters.visits.get(),
                steals: worker.counters.steals.get(),
                parks: worker.counters.parks.get(),
                waiting: bell.waiting(),
            });
        }
        let oldest =
            busy.iter().filter(|key| key.waiting > 0).max_by_key(|key| key.held_for).cloned();
        let subscriptions: Vec<_> = table
            .subscriptions
            .iter()
            .flatten()
            .map(|entry| {
                let mut parked = entry.state.parked();
                let parked_keys = parked.len();
                parked.truncate(PARKED_SHOWN);
                SubscriptionSnapshot {
                    name: entry.name.to_string(),
                    stopped_by: entry.state.stopped_by(),
                    letter_outage: entry.state.letters().outage(),
                    parked_keys,
                    parked,
                    overruns: entry.state.counters.overruns.get(),
                    running: entry.version.running(),
                    counts: entry.state.counters.read(),
                    latency: entry.state.counters.latency(),
                }
            })
            .collect();
        let sources: Vec<_> = table
            .sources
            .iter()
            .flatten()
            .map(|source| SourceSnapshot::of(source, &table, core.clock.now()))
            .collect();
        let bounds = used_up(core, &table, &busy);
        busy.sort_by_key(|key| Reverse((key.bound.is_some(), key.waiting)));
        busy.truncate(BUSY_SHOWN);
        Self {
            phase: match core.phase() {
                RUNNING => Phase::Running,
                CLOSING => Phase::Closing,
                _ => Phase::Stopped,
            },
            outcomes: OutcomeCounts::of(core),
            in_flight: lanes.iter().map(|lane| lane.depth + lane.held).sum(),
            bounds,
            lanes,
            workers,
            subscriptions,
            sources,
            oldest,
            busy,
            busiest: busiest(core, name),
            publishes: core.publishes.read(),
            blocking: core.blocking.load(),
            spares: core.spares.get() as usize,
            not_pinned: core.not_pinned.clone(),
        }
    }
}

/// The workers' busiest keys.
fn busiest(core: &Core, name: impl Fn(u32) -> String) -> Vec<BusiestKey> {
    let (keys, total) = together(core.workers.iter().map(|worker| &worker.busiest));
    let shown = keys.into_iter().take(BUSIEST_SHOWN).map(|(seen, weight)| BusiestKey {
        subscription: name(seen.subscription),
        key: seen.key,
        lane: seen.lane,
        share: weight as f64 / total as f64,
    });
    shown.collect()
}

impl OutcomeCounts {
    fn of(core: &Core) -> Self {
        let mut sum = Self::default();
        for worker in &core.workers {
            let counters = &worker.counters;
            let Outcomes { done, dead_lettered, parked, skipped, stopped, abandoned } =
                &counters.outcomes;
            sum.done += done.get();
            sum.dead_lettered += dead_lettered.get();
            sum.parked += parked.get();
            sum.skipped += skipped.get();
            sum.stopped += stopped.get();
            sum.abandoned += abandoned.get();
            sum.retries += counters.retries.get();
            sum.panics += counters.panics.get();
            sum.stale += counters.stale.get();
        }
        sum
    }
}
