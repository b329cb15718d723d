//! What all threads of a runtime share.

use std::task::{Wake, Waker};

use crossbeam_utils::CachePadded;

use crate::blocking::Blocking;
use crate::busiest::Busiest;
use crate::busy::Private;
use crate::clock::Clock;
use crate::config::Config;
use crate::counts::Publishes;
use crate::gate::Bounds;
use crate::hash::Router;
use crate::inspect::Inspection;
use crate::lane::Lanes;
use crate::metrics::{Counter, WorkerCounters};
use crate::notice::{Notice, OnNotice};
use crate::parker::{Parker, Unparker};
use crate::receipt::End;
use crate::record::Record;
use crate::registry::Registry;
use crate::sabotage::sabotage;
use crate::spawner::Spawner;
use crate::status::Status;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, Weak, weak};
use crate::table::{SubscriptionState, Table};
use crate::timer::Timers;
use crate::unwind::guard;
use crate::wait_list::WaitList;
use crate::work::Work;

/// Records are taken and handled.
pub(crate) const RUNNING: u8 = 0;
/// No record is taken; those that were are handled; nothing is tried again.
pub(crate) const CLOSING: u8 = 1;
/// Nothing is started any more.
pub(crate) const STOPPED: u8 = 2;

/// What a lane's holder is told to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Let a parked key of this subscription go.
    Resume { generation: u32, key: Box<[u8]>, hash: u64 },
    /// Park a key of this subscription.
    Park {
        generation: u32,
        state: Arc<SubscriptionState>,
        key: Box<[u8]>,
        hash: u64,
        /// The source that it was parked in before a restart.
        of: Option<Arc<Restoring>>,
    },
    /// Give up the record that keeps this key busy, as the policy `skip` would.
    Skip { hash: u64 },
    /// Release what waits in the gate for subscriptions and sources that go on no more.
    Purge,
    /// Drop the async attempts of this subscription too.
    Cancel { subscription: u32, generation: u32 },
    /// Count what the gate holds of a subscription.
    Count(Arc<Census>),
    /// Say what is in the gate.
    Inspect(Arc<Inspection>),
}

/// Keys of a source that are being parked again. The last to let it go calls the source's loop.
#[derive(Debug)]
pub(crate) struct Restoring {
    /// The source's name.
    pub(crate) source: Arc<str>,
    pub(crate) waker: Waker,
}

impl Drop for Restoring {
    fn drop(&mut self) {
        let waker = std::mem::replace(&mut self.waker, Waker::noop().clone());
        let _ = guard(|| waker.wake());
    }
}

/// What all threads of a runtime share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    /// For what takes real time, and none on a clock that may stand still.
    pub(crate) machine_clock: Arc<dyn Clock>,
    pub(crate) router: Router,
    pub(crate) lanes: Lanes<Work, Private, Command>,
    pub(crate) registry: Registry<Table>,
    pub(crate) timers: Timers,
    pub(crate) blocking: Arc<Blocking>,
    pub(crate) end: Arc<End>,
    /// Those who wait for something rare: a swap, a removal, the close.
    pub(crate) watchers: WaitList,
    pub(crate) workers: Box<[WorkerShared]>,
    pub(crate) monitor: Monitor,
    /// Records submitted in process that were not handled.
    pub(crate) returned: Mutex<Vec<Returned>>,
    pub(crate) spares: Counter,
    pub(crate) publishes: Publishes,
    /// Why workers are not pinned, if they are not.
    pub(crate) not_pinned: Option<String>,
    /// Whether it was said already that a blocking call was made in async code.
    #[cfg(feature = "tokio")]
    pub(crate) said_async: AtomicBool,
    /// Threads of buses that feed this runtime.
    pub(crate) loops: Mutex<Vec<Unparker>>,
    /// Loops that are tasks of an executor.
    pub(crate) tasks: Mutex<Vec<Waker>>,
    pub(crate) spawner: Spawner,
    phase: CachePadded<AtomicU8>,
    exit: AtomicBool,
    on_notice: OnNotice,
}

/// A record that was submitted in process and not handled.
pub(crate) struct Returned {
    pub(crate) subscription: u32,
    pub(crate) generation: u32,
    pub(crate) record: Record,
}

/// What others may know of a worker.
pub(crate) struct WorkerShared {
    pub(crate) status: CachePadded<Status>,
    pub(crate) counters: CachePadded<WorkerCounters>,
    pub(crate) busiest: Busiest,
    /// Its bed, until its thread takes it.
    pub(crate) parker: Mutex<Option<Parker>>,
    pub(crate) unparker: Unparker,
    /// Whether its thread was started.
    pub(crate) started: AtomicBool,
    /// Whether its thread has ended.
    pub(crate) ended: AtomicBool,
}

/// How to reach the monitor.
#[derive(Debug)]
pub struct Monitor {
    pub(crate) unparker: Unparker,
    /// It sleeps without a limit: whoever goes to work wakes it.
    sleeps: AtomicBool,
}

/// What a core is made of beside its configuration.
pub(crate) struct Parts {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) workers: u32,
    pub(crate) monitor: Unparker,
    pub(crate) blocking: Arc<Blocking>,
    pub(crate) not_pinned: Option<String>,
    pub(crate) on_notice: OnNotice,
    pub(crate) spawner: Spawner,
}

impl Core {
    pub(crate) fn new(config: Config, parts: Parts) -> Arc<Self> {
        // The last one closes the runtime: it must find a place when all others are held up.
        let threads = parts.workers as usize + config.spares + 1;
        let workers: Box<[_]> = (0..threads).map(|_| WorkerShared::new()).collect();
        let lanes = Lanes::new(
            config.lanes as u32,
            config.slots,
            parts.workers,
            workers.iter().map(|worker| worker.unparker.clone()).collect(),
            // Parked keys have slots beside those of busy ones.
            config.lane_waiting + config.parked_keys,
        );
        Arc::new(Self {
            router: Router::new(config.hash, config.seed, config.lanes as u32),
            registry: Registry::new(Table::default(), threads),
            timers: Timers::new(config.lanes as u32, parts.monitor.clone()),
            blocking: parts.blocking,
            end: End::new(parts.clock.clone()),
            watchers: WaitList::new(),
            monitor: Monitor::new(parts.monitor),
            returned: Mutex::new(Vec::new()),
            spares: Counter::default(),
            publishes: Publishes::default(),
            not_pinned: parts.not_pinned,
            #[cfg(feature = "tokio")]
            said_async: AtomicBool::new(false),
            loops: Mutex::new(Vec::new()),
            tasks: Mutex::new(Vec::new()),
            machine_clock: parts.spawner.machine_clock(),
            spawner: parts.spawner,
            phase: CachePadded::new(AtomicU8::new(RUNNING)),
            exit: AtomicBool::new(false),
            on_notice: parts.on_notice,
            clock: parts.clock,
            config,
            lanes,
            workers,
        })
    }

    /// The phase: RUNNING, CLOSING or STOPPED.
    #[inline]
    pub(crate) fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    /// Moves on to `phase`, unless it is further. True if it was this call.
    pub(crate) fn enter_phase(&self, phase: u8) -> bool {
        let before = self.phase.fetch_max(phase, Ordering::AcqRel);
        if before >= phase {
            return false;
        }
        self.lanes.close();
        // First this: a worker that ends its visit for the asking finds every lane told.
        self.wake_lanes();
        self.workers.iter().for_each(|worker| worker.status.ask());
        true
    }

    /// Brings every lane to a worker, so that it follows the phase.
    pub(crate) fn wake_lanes(&self) {
        (0..self.lanes.len()).for_each(|lane| self.lanes.wake(lane));
    }

    /// Wakes the buses' loops: what they feed has changed its standing.
    pub(crate) fn wake_loops(&self) {
        self.loops.lock().iter().for_each(Unparker::unpark);
        // Called without the lock: a waker is an executor's code.
        let tasks = self.tasks.lock().clone();
        tasks.iter().for_each(Waker::wake_by_ref);
    }

    /// Has every lane release what waits for subscriptions and sources that go on no more.
    pub(crate) fn purge(&self) {
        (0..self.lanes.len()).for_each(|lane| self.lanes.command(lane, Command::Purge));
    }

    /// Wakes every worker: to take a new table, to end.
    pub(crate) fn wake_workers(&self) {
        self.lanes.bells().iter().for_each(|bell| bell.wake());
    }

    /// Ends the threads, those that are in a handler once it returns.
    pub(crate) fn exit(&self) {
        self.exit.store(true, Ordering::Release);
        self.blocking.end();
        self.wake_workers();
        self.monitor.unparker.unpark();
        // A bus that closes waits for handlers: there will be none.
        self.wake_loops();
    }

    /// Whether threads are to end.
    #[inline]
    pub(crate) fn exits(&self) -> bool {
        self.exit.load(Ordering::Acquire)
    }

    /// Whether threads have ended, all but those whose handlers have not returned: these are left behind, and
    /// nothing more comes of any lane that is to be waited for.
    pub(crate) fn has_ended(&self) -> bool {
        self.exits()
            && self.workers.iter().all(|worker| {
                !worker.started.load(Ordering::Acquire)
                    || worker.ended.load(Ordering::Acquire)
                    || worker.status.is_running()
            })
    }

    /// What a lane's gate may hold.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { key: self.config.key_waiting, lane: self.config.lane_waiting }
    }

    /// Says something to whoever runs this. Not with a lock held: it is a caller's code.
    #[cold]
    pub(crate) fn notice(&self, notice: &Notice) {
        let _ = guard(|| (self.on_notice)(notice));
    }

    /// Publishes a change of the table and has every reader take it.
    pub(crate) fn change<R, E>(
        &self,
        change: impl FnOnce(&Table) -> Result<(Table, R), E>,
    ) -> Result<(u64, R), E> {
        let changed = self.registry.update(change)?;
        self.wake_workers();
        Ok(changed)
    }

    /// Waits until `done` says so, or until `deadline`: for what is rare. `done` is looked at whenever
    /// a worker has got on, and now and then.
    pub(crate) fn wait_for(
        &self,
        deadline: Option<crate::clock::Time>,
        mut done: impl FnMut() -> bool,
    ) -> bool {
        crate::parker::with_current(|parker| {
            let mut place = None;
            let met = loop {
                place = Some(self.watchers.join(place, parker.waker()));
                self.monitor.wake();
                if done() {
                    break true;
                }
                if deadline.is_some_and(|deadline| self.clock.now() >= deadline) {
                    break false;
                }
                self.spawner.sleep(parker, &*self.clock, deadline);
            };
            place.into_iter().for_each(|place| self.watchers.leave(place));
            met
        })
    }

    /// As [`wait_for`](Self::wait_for), for at most `limit` of real time: for what takes none on any
    /// clock.
    pub(crate) fn wait_for_real(
        &self,
        limit: std::time::Duration,
        mut done: impl FnMut() -> bool,
    ) -> bool {
        let clock = &*self.machine_clock;
        let deadline = clock.now().after(limit);
        crate::parker::with_current(|parker| {
            let mut place = None;
            let met = loop {
                place = Some(self.watchers.join(place, parker.waker()));
                self.monitor.wake();
                if done() {
                    break true;
                }
                if clock.now() >= deadline {
                    break false;
                }
                let look = clock.now().after(std::time::Duration::from_millis(5));
                self.spawner.sleep(parker, clock, Some(look));
            };
            place.into_iter().for_each(|place| self.watchers.leave(place));
            met
        })
    }
}

/// Counting what gates hold of a subscription.
#[derive(Debug)]
pub(crate) struct Census {
    pub(crate) subscription: u32,
    pub(crate) generation: u32,
    pub(crate) open: AtomicUsize,
    pub(crate) held: AtomicUsize,
}

impl Census {
    pub(crate) fn answer(&self, held: usize) {
        self.held.fetch_add(held, Ordering::AcqRel);
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Monitor {
    /// The monitor that `unparker` wakes.
    pub fn new(unparker: Unparker) -> Self {
        Self { unparker, sleeps: AtomicBool::new(false) }
    }

    /// Wakes the monitor, for somebody who waits: it then calls him now and then.
    ///
    /// Whatever it sleeps for: on a clock that stands still even a short sleep has no end.
    pub fn wake(&self) {
        if weak!("monitor_wake") {
            return self.watch();
        }
        self.unparker.unpark();
    }

    /// Wakes the monitor if it sleeps without a limit, for a worker that has got up.
    pub fn watch(&self) {
        if weak!("monitor_watch") {
            if self.sleeps.load(Ordering::Acquire) {
                self.unparker.unpark();
            }
            return;
        }
        // A read-modify-write, as is the monitor's: of a worker that gets up and a monitor that lies down
        // one sees the other. Release and acquire, each pairs with the other's.
        if self.sleeps.swap(false, Ordering::AcqRel) {
            self.unparker.unpark();
        }
    }

    /// The monitor is about to sleep without a limit. It then looks once more: whoever gets up after that
    /// look wakes it.
    pub fn lie_down(&self) {
        self.sleeps.swap(true, Ordering::AcqRel);
    }

    /// The monitor is awake.
    pub fn rise(&self) {
        // A read-modify-write, so that a worker that got up before this is seen, though it need not call.
        self.sleeps.swap(false, Ordering::Acquire);
    }
}

impl WorkerShared {
    fn new() -> Self {
        let parker = Parker::new();
        Self {
            status: CachePadded::default(),
            counters: CachePadded::default(),
            busiest: Busiest::default(),
            unparker: parker.unparker(),
            parker: Mutex::new(Some(parker)),
            started: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

/// Wakes a slot of a lane's gate. Weak: a waker may outlive its runtime.
pub(crate) struct SlotWaker {
    core: Weak<Core>,
    lane: u32,
    slot: u32,
}

impl SlotWaker {
    pub(crate) fn waker(core: &Weak<Core>, lane: u32, slot: u32) -> Waker {
        Waker::from(Arc::new(Self { core: core.clone(), lane, slot }))
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(core) = self.core.upgrade()
            && !sabotage!(LostWakeUp)
        {
            core.lanes.wake_slot(self.lane, self.slot);
        }
    }
}
