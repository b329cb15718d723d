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
use crate::handler::{Handler, Version};
use crate::inspect::{BusyKey, Inspection};
use crate::lane::Lane;
use crate::metrics::Outcomes;
use crate::notice::Notice;
use crate::receipt::WaitError;
use crate::record::{KeyText, Record};
use crate::sabotage::sabotage;
use crate::subscription::{DeadLetterTo, Subscription};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::table::Entry;
use crate::unwind::guard;
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
    /// Whether the close gave nothing up and left nothing behind.
    pub drained: bool,
    /// Records that were submitted in process and not handled, with their subscription's name; it is empty
    /// for one that was removed before. Given to the first who asks.
    pub records: Vec<(String, Record)>,
    /// Handlers that had not returned.
    pub running: Vec<LeftBehind>,
    /// Records, about, that wait behind a running sync handler in its lane and could not be reached. Once it
    /// has returned, the next who asks for the report gets them.
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
        if !sabotage!(DeadlineIgnored) {
            self.deadline.fetch_min(deadline.as_nanos(), Ordering::AcqRel);
        }
        let before = given_up(&self.core);
        if self.begun.swap(true, Ordering::AcqRel) {
            // Whoever was first may not have come as far: after this call nothing is taken either.
            self.core.lanes.close();
            return self.core.watchers.wake_all(|| ());
        }
        // From this call on nothing is taken, whenever the closer's turn comes.
        self.core.enter_phase(CLOSING);
        if self.is_due() {
            self.core.enter_phase(STOPPED);
        }
        let own = self.clone();
        let started = self.core.spawner.spawn("close", move || own.run_to_its_end(before));
        if let Err(error) = started {
            let error = error.to_string();
            self.core.notice(&Notice::NoThread { role: "closing", error });
            if in_handler() {
                // It would wait for itself until the deadline.
                self.deadline.store(0, Ordering::Release);
            }
            // Without a thread for it, the caller does it.
            self.run_to_its_end(before);
        }
    }

    /// Should it panic, which it must not (a clock of the caller's may), then nobody waits for it for ever.
    fn run_to_its_end(&self, before: u64) {
        if guard(|| self.run(before)).is_ok() {
            return;
        }
        let core = &self.core;
        core.enter_phase(STOPPED);
        core.end.end();
        core.exit();
        let report = self.make_report(before, left_behind(core));
        *self.report.lock() = Some(Report { drained: false, ..report });
        core.watchers.wake_all(|| ());
    }

    fn is_due(&self) -> bool {
        self.core.clock.now().as_nanos() >= self.deadline.load(Ordering::Acquire)
    }

    /// `before` deliveries had been given up when it began.
    fn run(&self, before: u64) {
        let core = &self.core;
        while !is_quiet(core) && !self.is_due() {
            let deadline = Time::from_nanos(self.deadline.load(Ordering::Acquire));
            core.wait_for(Some(deadline), || is_quiet(core) || self.is_due());
        }
        core.enter_phase(STOPPED);
        release(core);
        // Blocking calls have the same moment.
        core.wait_for_real(MOMENT, || core.blocking.running().is_empty());
        let running = left_behind(core);
        core.end.end();
        core.exit();
        core.wait_for_real(MOMENT, || core.has_ended());
        *self.report.lock() = Some(self.make_report(before, running));
        core.watchers.wake_all(|| ());
        let _ = guard(|| let_go(core));
    }

    fn make_report(&self, before: u64, running: Vec<LeftBehind>) -> Report {
        let core = &self.core;
        let records = self.take_returned();
        let abandoned = given_up(core);
        let unreachable = if is_quiet(core) {
            0
        } else {
            let held = |lane: &Lane<_, _, _>| lane.ring().len() + lane.counters.held.get() as usize;
            core.lanes.iter().map(held).sum()
        };
        let all = records.is_empty() && running.is_empty() && unreachable == 0;
        Report { drained: all && abandoned == before, records, running, unreachable, abandoned }
    }

    /// The records that were given back and not fetched, with their subscriptions' names.
    fn take_returned(&self) -> Vec<(String, Record)> {
        let returned = std::mem::take(&mut *self.core.returned.lock());
        let table = self.core.registry.load();
        let named = returned.into_iter().map(|returned| {
            let entry = table.subscription(returned.subscription, returned.generation);
            (entry.map_or_else(String::new, |entry| entry.name.to_string()), returned.record)
        });
        named.collect()
    }

    /// The report, if it is made.
    fn take_report(&self) -> Option<Report> {
        let mut report = self.report.lock();
        let made = report.as_mut()?;
        // What was out of reach comes back when the handler before it returns.
        let late = self.take_returned();
        made.unreachable = made.unreachable.saturating_sub(late.len());
        made.records.extend(late);
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

/// Deliveries that were given up so far, those that a failure stopped among them.
fn given_up(core: &Core) -> u64 {
    let of = |outcomes: &Outcomes| outcomes.abandoned.get() + outcomes.stopped.get();
    core.workers.iter().map(|worker| of(&worker.counters.outcomes)).sum()
}

/// Asks all lanes with busy keys what these are, and waits a moment for the answers.
pub(crate) fn inspect(core: &Arc<Core>) -> Vec<BusyKey> {
    if core.exits() {
        // Nobody is there to answer.
        return Vec::new();
    }
    let lanes: Vec<u32> = (0..core.lanes.len())
        .filter(|&lane| core.lanes.get(lane).counters.keys.get() > 0)
        .collect();
    let inspection = Arc::new(Inspection::new(lanes.len()));
    for lane in lanes {
        // A lane whose handler hangs answers nobody: one question at a time waits there.
        let asks = |command: &Command| matches!(command, Command::Inspect(_));
        core.lanes.command_anew(lane, Command::Inspect(inspection.clone()), asks);
    }
    core.wait_for_real(MOMENT, || inspection.is_complete());
    inspection.take()
}

/// Releases what lanes hold, but for those that a running handler holds.
fn release(core: &Arc<Core>) {
    // The closer visits too: all workers may be held up.
    let mut closer = Worker::new(core, core.workers.len() - 1);
    let waits = || core.lanes.bells().iter().any(|bell| !bell.is_quiet());
    loop {
        while closer.turn() || closer.steal(true) {}
        // A handler that ends within a moment frees its lane; one that does not is left behind.
        if is_quiet(core) || !core.wait_for_real(MOMENT, || waits() || is_quiet(core)) {
            break;
        }
    }
    closer.end();
}

/// The handlers that have not returned.
fn left_behind(core: &Core) -> Vec<LeftBehind> {
    let table = core.registry.load();
    let sync = core.workers.iter().filter_map(|worker| worker.status.seen()).map(|seen| {
        let entry = table.subscriptions.get(seen.subscription as usize).and_then(Option::as_ref);
        let subscription = entry.map_or_else(String::new, |entry| entry.name.to_string());
        LeftBehind { subscription, key: seen.key, blocking: false }
    });
    let blocking = core.blocking.running().into_iter().map(|call| LeftBehind {
        subscription: call.subscription.to_string(),
        key: call.key,
        blocking: true,
    });
    sync.chain(blocking).collect()
}

/// Lets the handlers and dead letters go: they may hold handles of this runtime, which would keep each other.
fn let_go(core: &Core) {
    let _ = core.change(|table| {
        let mut table = table.clone();
        for entry in table.subscriptions.iter_mut().flatten() {
            let mut policy = Subscription::clone(&entry.policy);
            policy.dead_letter = DeadLetterTo::default();
            *entry = Arc::new(Entry {
                id: entry.id,
                generation: entry.generation,
                salt: entry.salt,
                name: entry.name.clone(),
                policy: Arc::new(policy),
                dead_letter: None,
                version: Version::new(Handler::sync(|_| Ok(()))),
                fed: entry.fed,
                state: entry.state.clone(),
            });
        }
        Ok::<_, ()>((table, ()))
    });
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
