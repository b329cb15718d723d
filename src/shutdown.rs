//! The end of a runtime.
//!
//! 1. CLOSING: every lane refuses pushes; what is queued and running goes on, nothing is tried again.
//! 2. When all lanes are done, or the deadline has come: STOPPED. Nothing is started; lanes release what they
//!    hold, async attempts are dropped.
//! 3. Lanes that no worker can come to are released by the closer. Handlers that have not returned are left
//!    behind and named.
//! 4. Receipts still open are abandoned, threads end, the report is made.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::clock::Time;
use crate::context::in_handler;
use crate::core::{CLOSING, Command, Core, STOPPED};
use crate::inspect::{BusyKey, Inspection, Why};
use crate::notice::Notice;
use crate::receipt::WaitError;
use crate::record::{KeyText, Record};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::wait_list::Place;
use crate::worker::Worker;

/// How long the closer waits, in real time, for what takes no time: answers of lanes, ends of threads.
const MOMENT: Duration = Duration::from_millis(200);

/// What a closed runtime leaves.
///
/// ```
/// use std::time::Duration;
/// use keylane::{Record, RecordRef, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let orders = runtime.subscribe_async(Subscription::new("orders"), |_: RecordRef| {
///     std::future::pending() // hangs
/// })?;
/// orders.submit(Record::new("order-42", "placed"))?;
/// let report = runtime.close(Duration::ZERO)?;
/// assert!(!report.drained && report.running.is_empty()); // a pending future is dropped
/// let (subscription, record) = &report.records[0];
/// assert_eq!((&subscription[..], record.payload()), ("orders", &b"placed"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Whether everything that was taken was handled to its end.
    pub drained: bool,
    /// Records that were submitted in process and not handled, with their subscription's name. Given
    /// to the first who asks.
    pub records: Vec<(String, Record)>,
    /// Handlers that had not returned.
    pub running: Vec<LeftBehind>,
    /// Records that wait behind such a handler in its lane and could not be reached: they are
    /// dropped when it returns.
    pub unreachable: usize,
    /// Deliveries that were given up: records given back, and those of sources, which are delivered again.
    pub abandoned: u64,
}

/// A handler that had not returned when its runtime was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LeftBehind {
    /// The subscription.
    pub subscription: String,
    /// The first 64 bytes of the record's key; `None` if it has none.
    pub key: Option<Vec<u8>>,
    /// Whether it is a blocking handler, else a sync one.
    pub blocking: bool,
}

impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.blocking { "blocking" } else { "sync" };
        write!(f, "a {kind} handler of {:?}", self.subscription)?;
        match &self.key {
            Some(key) => write!(f, " with key {}", KeyText(key)),
            None => Ok(()),
        }
    }
}

/// The end of a runtime, begun once and waited for by any number.
pub(crate) struct Ending {
    core: Arc<Core>,
    begun: AtomicBool,
    /// In nanoseconds of the clock; only ever earlier.
    deadline: AtomicU64,
    /// Taken out by the first who asks, but for its records the same for all.
    report: Mutex<Option<Report>>,
}

impl Ending {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self {
            core,
            begun: AtomicBool::new(false),
            deadline: AtomicU64::new(u64::MAX),
            report: Mutex::new(None),
        })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Begins it, or brings its deadline forward.
    pub(crate) fn begin(self: &Arc<Self>, deadline: Time) {
        self.deadline.fetch_min(deadline.as_nanos(), Ordering::AcqRel);
        if self.begun.swap(true, Ordering::AcqRel) {
            return self.core.watchers.wake_all(|| ());
        }
        // From this call on nothing is taken, whenever the closer's turn comes.
        self.core.enter_phase(CLOSING);
        if self.is_due() {
            self.core.enter_phase(STOPPED);
        }
        let own = self.clone();
        let started = self.core.spawner.spawn("close", move || own.run());
        if let Err(error) = started {
            let error = error.to_string();
            self.core.notice(&Notice::NoThread { role: "closing", error });
            // Without a thread for it, the caller does it.
            self.run();
        }
    }

    fn is_due(&self) -> bool {
        self.core.clock.now().as_nanos() >= self.deadline.load(Ordering::Acquire)
    }

    fn run(&self) {
        let core = &self.core;
        let drained = loop {
            let deadline = Time::from_nanos(self.deadline.load(Ordering::Acquire));
            core.wait_for(Some(deadline), || is_quiet(core) || self.is_due());
            if is_quiet(core) {
                break core.phase() < STOPPED;
            }
            if self.is_due() {
                break false;
            }
        };
        let blocking = if drained { Vec::new() } else { blocking_calls(core) };
        core.enter_phase(STOPPED);
        let mut running = release(core);
        running.extend(blocking);
        core.end.end();
        core.exit();
        core.wait_for_real(MOMENT, || {
            core.workers.iter().all(|worker| {
                !worker.started.load(Ordering::Acquire)
                    || worker.ended.load(Ordering::Acquire)
                    || worker.status.is_running()
            })
        });
        *self.report.lock() = Some(self.make_report(drained, running));
        core.watchers.wake_all(|| ());
    }

    fn make_report(&self, drained: bool, running: Vec<LeftBehind>) -> Report {
        let core = &self.core;
        let table = core.registry.load();
        let returned = std::mem::take(&mut *core.returned.lock());
        let records: Vec<_> = returned
            .into_iter()
            .map(|returned| {
                let entry = table.subscription(returned.subscription, returned.generation);
                let name = entry.map_or_else(String::new, |entry| entry.name.to_string());
                (name, returned.record)
            })
            .collect();
        let unreachable = core.lanes.iter().map(|lane| lane.ring().len()).sum();
        let abandoned = core.workers.iter().map(|w| w.counters.outcomes.abandoned.get()).sum();
        Report { drained: drained && records.is_empty(), records, running, unreachable, abandoned }
    }

    /// The report, if it is made.
    fn take_report(&self) -> Option<Report> {
        let mut report = self.report.lock();
        let made = report.as_mut()?;
        let rest = Report {
            drained: made.drained,
            records: Vec::new(),
            running: made.running.clone(),
            unreachable: made.unreachable,
            abandoned: made.abandoned,
        };
        Some(std::mem::replace(made, rest))
    }

    pub(crate) fn wait(&self) -> Result<Report, WaitError> {
        if let Some(report) = self.take_report() {
            return Ok(report);
        }
        if in_handler() {
            return Err(WaitError::WouldDeadlock);
        }
        self.core.wait_for(None, || self.report.lock().is_some());
        self.take_report().ok_or(WaitError::TimedOut)
    }
}

/// Whether no lane has anything left.
fn is_quiet(core: &Core) -> bool {
    core.lanes.iter().all(|lane| lane.ring().is_at_rest() && lane.counters.held.get() == 0)
}

/// The blocking calls under way, as far as lanes can say at once.
fn blocking_calls(core: &Arc<Core>) -> Vec<LeftBehind> {
    let keys = inspect(core);
    keys.into_iter()
        .filter(|key| key.why == Why::Blocking)
        .map(|key| LeftBehind { subscription: key.subscription, key: key.key, blocking: true })
        .collect()
}

/// Asks all lanes with busy keys what these are, and waits a moment for the answers.
pub(crate) fn inspect(core: &Arc<Core>) -> Vec<BusyKey> {
    let lanes: Vec<u32> = (0..core.lanes.len())
        .filter(|&lane| core.lanes.get(lane).counters.keys.get() > 0)
        .collect();
    let inspection = Arc::new(Inspection::new(lanes.len()));
    for lane in lanes {
        core.lanes.command(lane, Command::Inspect(inspection.clone()));
    }
    core.wait_for_real(MOMENT, || inspection.is_complete());
    inspection.take()
}

/// Releases what lanes hold, but for those that a running handler holds: these are returned.
fn release(core: &Arc<Core>) -> Vec<LeftBehind> {
    // The closer visits too: all workers may be held up.
    let mut closer = Worker::new(core, core.workers.len() - 1);
    let mut patience = core.workers.len() + 2;
    while !is_quiet(core) && patience > 0 {
        while closer.turn() || closer.steal(true) {}
        let held_up = || {
            core.lanes.iter().zip(0..).all(|(lane, number)| {
                let quiet = lane.ring().is_at_rest() && lane.counters.held.get() == 0;
                quiet || running(core).any(|seen| seen.lane == number)
            })
        };
        let waits = || core.lanes.bells().iter().any(|bell| !bell.is_quiet());
        core.wait_for_real(MOMENT, || waits() || held_up());
        if held_up() {
            break;
        }
        if !waits() {
            patience -= 1;
        }
    }
    closer.end();
    let table = core.registry.load();
    let left = running(core).map(|seen| {
        let entry = table.subscriptions.get(seen.subscription as usize).and_then(Option::as_ref);
        LeftBehind {
            subscription: entry.map_or_else(String::new, |entry| entry.name.to_string()),
            key: seen.key,
            blocking: false,
        }
    });
    left.collect()
}

fn running(core: &Core) -> impl Iterator<Item = crate::status::Seen> + use<'_> {
    core.workers.iter().filter_map(|worker| worker.status.seen())
}

/// Waiting for a runtime to close, as a future.
///
/// # Cancel safety
/// Dropped, the close goes on; another [`close_async`](crate::Runtime::close_async) waits for it again.
#[must_use = "a future does nothing unless it is polled; the close has begun all the same"]
pub struct Closing {
    ending: Arc<Ending>,
    place: Option<Place>,
}

impl Closing {
    pub(crate) fn new(ending: &Arc<Ending>) -> Self {
        Self { ending: ending.clone(), place: None }
    }

    /// Waits on a plain thread.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] inside a handler; the close goes on.
    pub fn wait(self) -> Result<Report, WaitError> {
        self.ending.wait()
    }
}

impl Future for Closing {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let this = &mut *self;
        this.place = Some(this.ending.core.watchers.join(this.place, cx.waker()));
        this.ending.take_report().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.place.take().into_iter().for_each(|p| self.ending.core.watchers.leave(p));
    }
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closing")
    }
}
