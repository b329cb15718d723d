//! One runtime without threads: its workers, its monitor, its pool and its closer are stepped by the schedule.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, SystemTime};

use super::script::Setup;
use crate::blocking::Blocking;
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::core::{Core, Parts};
use crate::monitor::{self, Monitor};
use crate::parker::Parker;
use crate::pinning::Pinning;
use crate::runtime::Runtime;
use crate::spawner::{Spawner, Stage};
use crate::worker::{self, Worker};

/// A step of a thread that sleeps in the middle of something: others run meanwhile.
pub(super) type Sleep = fn(life: u32, parker: &Parker, until: Option<Time>);

thread_local! {
    /// What the schedule does when a thread sleeps in the middle of something.
    pub(super) static SLEEP: Cell<Option<Sleep>> = const { Cell::new(None) };
}

/// The time of a simulation, as one runtime sees it: once that has crashed, everything is over.
#[derive(Debug)]
pub(super) struct Hand {
    now: Arc<AtomicU64>,
    over: AtomicBool,
}

impl Hand {
    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Dial(Arc<Hand>);

impl Clock for Dial {
    fn now(&self) -> Time {
        let over = self.0.over.load(Ordering::Relaxed);
        Time::from_nanos(if over { u64::MAX } else { self.0.now.load(Ordering::Relaxed) })
    }

    fn system_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn arm(&self, _deadline: Time, _waker: &Waker) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// A waker that is looked at.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn raised() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    pub(super) fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn lower(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.raise();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}

type Run = Box<dyn FnOnce() + Send>;

/// The threads that the runtime asked for.
struct Cast {
    life: u32,
    hand: Arc<Hand>,
    asked: Mutex<Vec<(String, Run)>>,
}

impl Stage for Cast {
    fn start(&self, role: &str, run: Run) {
        if let Ok(mut asked) = self.asked.lock() {
            asked.push((role.to_owned(), run));
        }
    }

    fn sleep(&self, parker: &Parker, until: Option<Time>) {
        if let Some(sleep) = SLEEP.get()
            && !self.hand.over.load(Ordering::Relaxed)
        {
            sleep(self.life, parker, until);
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(Dial(self.hand.clone()))
    }
}

/// A thread that is stepped.
#[derive(Debug)]
pub(super) struct Bed {
    /// It sleeps until then.
    asleep: Option<Time>,
    called: bool,
    /// It is in the middle of a step, further down the stack.
    busy: bool,
    ended: bool,
    /// It is not stepped before this step of the simulation.
    pub(super) held: u64,
}

impl Bed {
    fn awake() -> Self {
        Self { asleep: None, called: false, busy: false, ended: false, held: 0 }
    }

    fn runs(&mut self, now: Time, called: impl FnOnce() -> bool) -> bool {
        if self.busy || self.ended {
            return false;
        }
        match self.asleep {
            None => true,
            Some(until) => {
                self.called = self.called || called();
                self.called || until <= now
            }
        }
    }
}

/// One runtime.
pub(super) struct Node {
    pub(super) life: u32,
    pub(super) core: Arc<Core>,
    pub(super) runtime: RefCell<Option<Runtime>>,
    hand: Arc<Hand>,
    cast: Arc<Cast>,
    workers: RefCell<Vec<(Bed, Option<Worker>)>>,
    monitor: RefCell<(Bed, Option<Monitor>)>,
    /// Threads of the pool, less those in the middle of a call.
    blocking: Cell<usize>,
    in_call: Cell<usize>,
    pub(super) blocking_held: Cell<u64>,
    closers: RefCell<Vec<Run>>,
}

impl Node {
    pub(super) fn build(life: u32, seed: u64, setup: &Setup, now: &Arc<AtomicU64>) -> Rc<Self> {
        let config = Config::default()
            .lanes(setup.lanes)
            .slots(setup.slots)
            .workers(setup.workers)
            .spares(setup.spares)
            .steal(setup.steal)
            .quantum(setup.quantum)
            .key_waiting(setup.key_waiting)
            .lane_waiting(setup.lane_waiting)
            .source_window(setup.window)
            .parked_keys(setup.parked_keys)
            .blocking_threads(setup.blocking)
            .wait(Duration::from_millis(setup.wait_ms.into()))
            // Long, so that nobody is saved by it.
            .heartbeat(Duration::from_secs(10))
            .pinning(Pinning::Off)
            .spin(Duration::ZERO)
            .seed(seed);
        let hand = Arc::new(Hand { now: now.clone(), over: AtomicBool::new(false) });
        let cast = Arc::new(Cast { life, hand: hand.clone(), asked: Mutex::new(Vec::new()) });
        let spawner = Spawner {
            name: "sim".to_owned(),
            stack_size: config.stack_size,
            on_start: None,
            on_stop: None,
            #[cfg(feature = "tokio")]
            tokio: None,
            stage: Some(cast.clone()),
        };
        let own = spawner.clone();
        let blocking =
            Blocking::new(setup.blocking, Duration::ZERO, move |run| own.spawn("blk", run));
        let parker = Parker::new();
        let parts = Parts {
            clock: Arc::new(Dial(hand.clone())),
            workers: setup.workers as u32,
            monitor: parker.unparker(),
            not_pinned: None,
            blocking,
            on_notice: Box::new(|_| ()),
            spawner,
        };
        let core = Core::new(config, parts);
        let all = core.workers.len();
        let node = Self {
            life,
            runtime: RefCell::new(Some(Runtime::of(core.clone()))),
            hand,
            cast,
            workers: RefCell::new((0..all).map(|_| (Bed::awake(), None)).collect()),
            monitor: RefCell::new((Bed::awake(), Some(Monitor::new(&core)))),
            blocking: Cell::new(0),
            in_call: Cell::new(0),
            blocking_held: Cell::new(0),
            closers: RefCell::new(Vec::new()),
            core,
        };
        for id in 0..setup.workers {
            // Started as always; what would be its thread is in `asked`.
            let _ = worker::start(&node.core, id, None, Duration::ZERO);
        }
        Rc::new(node)
    }

    /// It has crashed: nothing of it is seen any more.
    pub(super) fn crash(&self) {
        self.hand.end();
    }

    pub(super) fn is_over(&self) -> bool {
        self.hand.over.load(Ordering::Relaxed)
    }

    /// Lets go of what would keep it, with nothing of it in the middle of a step.
    pub(super) fn clear(&self) {
        let runtime = self.runtime.borrow_mut().take();
        drop(runtime);
        drop(std::mem::take(&mut *self.closers.borrow_mut()));
        drop(self.monitor.borrow_mut().1.take());
        let workers = std::mem::take(&mut *self.workers.borrow_mut());
        drop(workers);
        let asked = self.cast.asked.lock().map(|mut asked| std::mem::take(&mut *asked));
        drop(asked);
    }

    /// Takes in the threads that were asked for.
    pub(super) fn collect(&self) {
        let asked = match self.cast.asked.lock() {
            Ok(mut asked) => std::mem::take(&mut *asked),
            Err(_) => return,
        };
        for (role, run) in asked {
            match role.as_str() {
                "blk" => self.blocking.set(self.blocking.get() + 1),
                "close" => self.closers.borrow_mut().push(run),
                _ => {
                    if let Some(id) = role.strip_prefix('w').and_then(|id| id.parse::<usize>().ok())
                    {
                        self.workers.borrow_mut()[id].1 = Some(Worker::new(&self.core, id));
                        self.core.monitor.watch();
                    }
                }
            }
        }
    }

    /// Whether worker `id` can make a step.
    pub(super) fn worker_runs(&self, id: usize, now: Time) -> bool {
        let mut workers = self.workers.borrow_mut();
        let (bed, worker) = &mut workers[id];
        worker.is_some() && bed.runs(now, || self.core.workers[id].unparker.take_call())
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.borrow().len()
    }

    pub(super) fn worker_held(&self, id: usize) -> u64 {
        self.workers.borrow()[id].0.held
    }

    pub(super) fn hold_worker(&self, id: usize, until: u64) {
        self.workers.borrow_mut()[id].0.held = until;
    }

    /// Worker `id` makes a step.
    pub(super) fn step_worker(&self, id: usize) {
        let (asleep, mut worker) = {
            let mut workers = self.workers.borrow_mut();
            let (bed, worker) = &mut workers[id];
            bed.called = false;
            bed.busy = true;
            let Some(worker) = worker.take() else { return };
            (bed.asleep.take().is_some(), worker)
        };
        let next = if asleep {
            worker.get_up();
            worker::Next::Step
        } else {
            worker.step(Duration::ZERO)
        };
        let mut asleep = None;
        let worker = match next {
            worker::Next::Step => Some(worker),
            worker::Next::Sleep(until) => {
                asleep = Some(until);
                Some(worker)
            }
            worker::Next::End => {
                worker.end();
                None
            }
        };
        let mut workers = self.workers.borrow_mut();
        // Cleared meanwhile, if it has crashed.
        if let Some((bed, place)) = workers.get_mut(id) {
            (bed.busy, bed.asleep, bed.ended) = (false, asleep, worker.is_none());
            *place = worker;
        }
    }

    pub(super) fn monitor_runs(&self, now: Time) -> bool {
        let mut monitor = self.monitor.borrow_mut();
        let (bed, monitor) = &mut *monitor;
        monitor.is_some() && bed.runs(now, || self.core.monitor.unparker.take_call())
    }

    pub(super) fn monitor_held(&self) -> u64 {
        self.monitor.borrow().0.held
    }

    pub(super) fn hold_monitor(&self, until: u64) {
        self.monitor.borrow_mut().0.held = until;
    }

    pub(super) fn step_monitor(&self, now: Time) {
        let mut place = self.monitor.borrow_mut();
        let (bed, monitor) = &mut *place;
        bed.called = false;
        if bed.asleep.take().is_some() {
            self.core.monitor.rise();
        }
        if self.core.exits() {
            bed.ended = true;
            *monitor = None;
            drop(place);
            return self.core.watchers.wake_all(|| ());
        }
        let Some(own) = monitor else { return };
        // It runs nobody's code but wakers', which only raise flags.
        bed.asleep = Some(match own.turn() {
            monitor::Next::Sleep(until) => until.unwrap_or(Time::from_nanos(u64::MAX)),
            monitor::Next::Doze(moment, until) => {
                until.map_or(now.after(moment), |until| until.min(now.after(moment)))
            }
        });
    }

    pub(super) fn blocking_runs(&self) -> bool {
        self.blocking.get() > 0
    }

    pub(super) fn in_calls(&self) -> usize {
        self.in_call.get()
    }

    pub(super) fn step_blocking(&self) {
        self.blocking.set(self.blocking.get() - 1);
        self.in_call.set(self.in_call.get() + 1);
        let goes_on = self.core.blocking.step();
        self.in_call.set(self.in_call.get() - 1);
        self.blocking.set(self.blocking.get() + usize::from(goes_on));
    }

    pub(super) fn closer_runs(&self) -> bool {
        !self.closers.borrow().is_empty()
    }

    /// The closer runs, to its end: its sleeps are steps of others.
    pub(super) fn step_closer(&self) {
        let run = self.closers.borrow_mut().pop();
        if let Some(run) = run {
            run();
        }
    }

    /// When its monitor gets up by itself. Workers do too, after a heartbeat, but nothing may depend on that.
    pub(super) fn next(&self) -> Option<Time> {
        let monitor = self.monitor.borrow();
        monitor.0.asleep.filter(|_| monitor.1.is_some())
    }

    /// Whether none of its threads is in the middle of a step.
    pub(super) fn is_unwound(&self) -> bool {
        self.in_call.get() == 0 && self.workers.borrow().iter().all(|(bed, _)| !bed.busy)
    }
}
