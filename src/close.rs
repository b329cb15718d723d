//! Waiting for what is rare: that an old handler runs no more, that a subscription is gone, that a runtime has
//! closed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::clock::Time;
use crate::context::in_handler;
use crate::core::{Census, Command, Core};
use crate::handler::Version;
use crate::receipt::WaitError;
use crate::record::Record;
use crate::registry::Registry;
use crate::sabotage::sabotage;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, weak};
use crate::table::Entry;
use crate::wait_list::Place;

/// A swap of a handler under way: the new one is in force already.
///
/// Waited for (or awaited), it ends once no attempt runs with the old handler, or with one before it, and none ever will.
///
/// # Cancel safety
/// Dropped, it is a swap that nobody waits for.
///
/// ```
/// use keylane::{Handler, Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let orders = runtime.subscribe(Subscription::new("orders").skip(), |_: &Record| Ok(()))?;
/// orders.swap(Handler::sync(|_| Err("closed today".into()))).wait()?;
/// let outcome = orders.submit_tracked(Record::new("order-42", "placed"))?.wait()?;
/// assert!(outcome.failure().is_some());
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the swap has happened; wait for it if the old handler must not run any more"]
pub struct Swap {
    core: Arc<Core>,
    /// The table's version with the new handler, and the old handler; `None` if the subscription was gone.
    changed: Option<(u64, Arc<Version>)>,
    place: Option<Place>,
}

/// Why a wait for a swap ended before the old handler did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwapError {
    /// The time, or the runtime, is over: so many workers and attempts may still run the old handler.
    StillRunning {
        /// Workers that are in a visit begun before the swap.
        workers: usize,
        /// Pending futures and blocking calls.
        attempts: usize,
    },
    /// The caller is inside a handler, which may be the old one.
    WouldDeadlock,
    /// The subscription was removed before: there was nothing to swap.
    Removed,
}

impl fmt::Display for SwapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StillRunning { workers, attempts } => write!(
                f,
                "the old handler may still run on {workers} workers and in {attempts} attempts"
            ),
            Self::WouldDeadlock => WaitError::WouldDeadlock.fmt(f),
            Self::Removed => f.write_str("the subscription was removed before"),
        }
    }
}

impl std::error::Error for SwapError {}

impl Swap {
    pub(crate) fn new(core: &Arc<Core>, changed: Option<(u64, Arc<Version>)>) -> Self {
        Self { core: core.clone(), changed, place: None }
    }

    /// What may still run the old handler: workers, and attempts beyond a visit.
    fn running(&self) -> Result<(usize, usize), SwapError> {
        let Some((version, old)) = &self.changed else { return Err(SwapError::Removed) };
        Ok(still_running(&self.core.registry, *version, old))
    }

    /// Waits until the old handler runs no more.
    ///
    /// # Errors
    /// [`SwapError::WouldDeadlock`] inside a handler; [`SwapError::Removed`]; [`SwapError::StillRunning`] if the
    /// runtime is closed and has left it behind.
    pub fn wait(self) -> Result<(), SwapError> {
        self.wait_until(None)
    }

    /// Waits until the old handler runs no more, for at most `timeout`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`SwapError::StillRunning`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), SwapError> {
        self.wait_until(Some(self.core.clock.now().after(timeout)))
    }

    fn wait_until(&self, deadline: Option<Time>) -> Result<(), SwapError> {
        if self.running()? == (0, 0) {
            return Ok(());
        }
        if in_handler() {
            return Err(SwapError::WouldDeadlock);
        }
        self.core.wait_for(deadline, || self.running() == Ok((0, 0)) || self.core.has_ended());
        match self.running()? {
            (0, 0) => Ok(()),
            (workers, attempts) => Err(SwapError::StillRunning { workers, attempts }),
        }
    }
}

impl Future for Swap {
    type Output = Result<(), SwapError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.place = Some(this.core.watchers.join(this.place, cx.waker()));
        this.core.monitor.wake();
        match this.running() {
            Ok((0, 0)) => Poll::Ready(Ok(())),
            // It may be the old one: it would wait for itself.
            Ok(_) if in_handler() => Poll::Ready(Err(SwapError::WouldDeadlock)),
            Ok((workers, attempts)) if this.core.has_ended() => {
                Poll::Ready(Err(SwapError::StillRunning { workers, attempts }))
            }
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.place.take().into_iter().for_each(|place| self.core.watchers.leave(place));
    }
}

/// Readers that have not seen `version` of the table yet, and attempts of the `old` handler that it replaced.
pub fn still_running<T>(registry: &Registry<T>, version: u64, old: &Version) -> (usize, usize) {
    if weak!("swap_order") {
        let attempts = old.running();
        return (registry.behind(version).count(), attempts);
    }
    if sabotage!(SwapWaitsNot) {
        return (0, 0);
    }
    // Readers first: one that has seen the new table starts no attempt of the old handler.
    let readers = registry.behind(version).count();
    (readers, old.running())
}

impl fmt::Debug for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swap").field("running", &self.running()).finish_non_exhaustive()
    }
}

/// The removal of a subscription under way.
///
/// Waited for (or awaited), it ends once nothing of the subscription runs any more, with the records
/// that were submitted in process and not handled. A sync handler that does not return, of whatever subscription, keeps
/// its lane, and with it what is queued there: [`wait_timeout`](Self::wait_timeout) limits the wait for it. It ends as
/// well with the runtime's close, whose report names the handlers that were left behind.
///
/// # Cancel safety
/// The removal goes on without it. Dropped while a [`close`](crate::Subscriber::close) still drains, it is a removal at
/// once; records that come back afterwards are in the report of the runtime's close.
#[must_use = "what was queued and not handled comes back from `wait`"]
pub struct Removal {
    core: Arc<Core>,
    entry: Arc<Entry>,
    stage: Stage,
    place: Option<Place>,
}

enum Stage {
    /// What is queued is handled, until then.
    Draining { until: Time, rest: Rest },
    /// Removed with this version of the table: what runs ends, what is queued is released.
    Removed { version: u64, last: Option<Arc<Version>>, rest: Rest },
}

/// What lanes may still hold of a subscription.
struct Rest {
    /// Positions that lanes must have come past.
    tails: Vec<u64>,
    census: Option<Arc<Census>>,
    /// In real time, when lanes may be asked again.
    again: Time,
}

/// The least pause between two questions to all lanes: whoever waits is called more often.
const PAUSE: Duration = Duration::from_millis(1);

impl Removal {
    pub(crate) fn begin(core: &Arc<Core>, entry: &Arc<Entry>) -> Self {
        let stage = remove(core, entry, false);
        Self::new(core, entry, stage)
    }

    pub(crate) fn drain(core: &Arc<Core>, entry: &Arc<Entry>, timeout: Duration) -> Self {
        entry.state.drain();
        let until = core.clock.now().after(timeout);
        Self::new(core, entry, Stage::Draining { until, rest: Rest::of(core) })
    }

    fn new(core: &Arc<Core>, entry: &Arc<Entry>, stage: Stage) -> Self {
        let (core, entry) = (core.clone(), entry.clone());
        Self { core, entry, stage, place: None }
    }

    /// Waits until nothing of the subscription runs. Returns the records that were submitted in process
    /// and not handled.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] inside a handler, unless it is done already.
    pub fn wait(mut self) -> Result<Vec<Record>, WaitError> {
        self.wait_until(None)
    }

    /// As [`wait`](Self::wait), for at most `timeout`. When that is over the removal goes on; wait again.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`WaitError::TimedOut`].
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Vec<Record>, WaitError> {
        self.wait_until(Some(self.core.clock.now().after(timeout)))
    }

    fn wait_until(&mut self, deadline: Option<Time>) -> Result<Vec<Record>, WaitError> {
        if !self.advance() {
            if in_handler() {
                return Err(WaitError::WouldDeadlock);
            }
            let core = self.core.clone();
            while !self.advance() {
                // A drain has a deadline of its own, after which it is a removal.
                let until = match &self.stage {
                    Stage::Draining { until, .. } => {
                        Some(deadline.map_or(*until, |deadline| deadline.min(*until)))
                    }
                    Stage::Removed { .. } => deadline,
                };
                let met = core.wait_for(until, || self.advance());
                if !met && deadline.is_some_and(|deadline| core.clock.now() >= deadline) {
                    return Err(WaitError::TimedOut);
                }
            }
        }
        Ok(self.take_records())
    }

    /// Goes on as far as can be. True when it is done.
    fn advance(&mut self) -> bool {
        let (core, entry) = (&self.core, &self.entry);
        if let Stage::Draining { until, rest } = &mut self.stage {
            // Once the threads end nothing is handled any more.
            let over = core.exits() || core.clock.now() >= *until;
            if !over && !rest.is_over(core, entry) {
                return false;
            }
            self.stage = remove(core, entry, over);
        }
        match &mut self.stage {
            Stage::Removed { .. } if sabotage!(RemovalWaitsNot) => true,
            Stage::Draining { .. } => false,
            // What still runs is left behind, as the report of the close says.
            Stage::Removed { .. } if core.has_ended() => true,
            Stage::Removed { version, last, rest } => {
                core.registry.all_seen(*version)
                    && last.as_ref().is_none_or(|last| last.running() == 0)
                    && rest.is_over(core, entry)
            }
        }
    }

    fn take_records(&self) -> Vec<Record> {
        let own = (self.entry.id, self.entry.generation);
        let mut returned = self.core.returned.lock();
        let records = returned
            .extract_if(.., |returned| (returned.subscription, returned.generation) == own)
            .map(|returned| returned.record);
        records.collect()
    }
}

/// Takes the subscription out of the table. `cancel` drops its async attempts too.
fn remove(core: &Arc<Core>, entry: &Entry, cancel: bool) -> Stage {
    entry.state.remove();
    let removed = core.change(|table| {
        let Some(current) = table.subscription(entry.id, entry.generation) else { return Err(()) };
        let last = current.version.clone();
        let mut table = table.clone();
        table.subscriptions[entry.id as usize] = None;
        Ok((table, last))
    });
    core.wake_loops();
    // Read after the table: what was pushed before is below.
    let rest = Rest::of(core);
    if cancel {
        // Instead of a purge: a key's attempt is given up before what waits behind it.
        let (subscription, generation) = (entry.id, entry.generation);
        for lane in 0..core.lanes.len() {
            core.lanes.command(lane, Command::Cancel { subscription, generation });
        }
    } else {
        core.purge();
    }
    match removed {
        Ok((version, last)) => Stage::Removed { version, last: Some(last), rest },
        Err(()) => Stage::Removed { version: 0, last: None, rest },
    }
}

impl Rest {
    /// What may have been pushed by now.
    fn of(core: &Core) -> Self {
        let tails = core.lanes.iter().map(|lane| lane.ring().tail()).collect();
        Self { tails, census: None, again: Time::ZERO }
    }

    /// Whether nothing of the subscription is queued or under way.
    fn is_over(&mut self, core: &Core, entry: &Entry) -> bool {
        if core.exits() {
            // No lane answers any more. What can be released is, once the threads have ended.
            return core.has_ended();
        }
        let mut lanes = core.lanes.iter().zip(&self.tails);
        if !lanes.all(|(lane, &tail)| lane.ring().head() >= tail) {
            return false;
        }
        // All of it has left the rings. Every lane is asked, since a holder's visit may be under way: its
        // answer comes after that, and after what it was told to release.
        let Some(asked) = &self.census else {
            let now = core.machine_clock.now();
            if now >= self.again {
                self.again = now.after(PAUSE);
                self.census = Some(ask(core, entry));
            }
            return false;
        };
        if asked.open.load(Ordering::Acquire) > 0 {
            return false;
        }
        let over = asked.held.load(Ordering::Acquire) == 0;
        if !over {
            self.census = None;
        }
        over
    }
}

fn ask(core: &Core, entry: &Entry) -> Arc<Census> {
    let census = Arc::new(Census {
        subscription: entry.id,
        generation: entry.generation,
        open: AtomicUsize::new(core.lanes.len() as usize),
        held: AtomicUsize::new(0),
    });
    for lane in 0..core.lanes.len() {
        core.lanes.command(lane, Command::Count(census.clone()));
    }
    census
}

impl Future for Removal {
    type Output = Result<Vec<Record>, WaitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.place = Some(this.core.watchers.join(this.place, cx.waker()));
        this.core.monitor.wake();
        if this.advance() {
            return Poll::Ready(Ok(this.take_records()));
        }
        if in_handler() { Poll::Ready(Err(WaitError::WouldDeadlock)) } else { Poll::Pending }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.place.take().into_iter().for_each(|place| self.core.watchers.leave(place));
        if let Stage::Draining { .. } = self.stage {
            self.stage = remove(&self.core, &self.entry, false);
        }
    }
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removal").field("subscription", &self.entry.name).finish_non_exhaustive()
    }
}
