//! A worker: takes lanes in turn, from its own bell or from workers that are held up, and sleeps when there
//! is none.
//!
//! How a runtime's threads end:
//! 1. `exit` is set and everybody is woken;
//! 2. a worker finishes its visit, finds no lane in its bell and leaves;
//! 3. one that is in a handler leaves when the handler returns; nobody waits for it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::attempt::Local;
use crate::clock::Time;
use crate::core::Core;
use crate::parker::Parker;
use crate::pinning::pin_current;
use crate::pool::Magazine;
use crate::registry::Snapshot;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, model_yield, weak};
use crate::table::Table;
use crate::token::Token;
use crate::visit::visit;

/// Looks at the bell between two looks at the clock.
const LOOKS: u32 = 32;
/// Visits after which a worker looks for lanes of others that are held up, though it has some of its own.
const RELIEF: u32 = 8;
/// Rounds of the loop after which a worker notes which key it is at; a multiple of `RELIEF`.
const SAMPLE: u32 = 256;
/// Rounds of looks that end any spin: a virtual clock may stand still.
const ROUNDS: u32 = 1_024;

/// One worker, driven by its thread or step by step.
pub(crate) struct Worker {
    core: Arc<Core>,
    local: Local,
    table: Snapshot<Table>,
    /// Lanes in the order of their turns. Another worker may have taken one meanwhile.
    turns: VecDeque<u32>,
    /// Which lanes are in `turns`: each at most once, also if it was taken and came back meanwhile.
    queued: Box<[bool]>,
    /// Turns left before it looks again for lanes that have become ready.
    round: usize,
    /// How much of the spin budget has been worth it lately, in eighths.
    spin: u32,
    /// It has slept, and the monitor does not know yet that it is up: a heartbeat alone is not worth a call.
    dozed: bool,
    steps: u32,
}

/// What a worker does after a step.
pub(crate) enum Next {
    /// Another step.
    Step,
    /// It sleeps until it is called, or this has come on the runtime's clock; then it gets up.
    Sleep(Time),
    /// It ends.
    End,
}

impl Worker {
    /// Worker `id`; the spares follow the workers, and the closer them.
    pub(crate) fn new(core: &Arc<Core>, id: usize) -> Self {
        let local = Local {
            id,
            core: Arc::downgrade(core),
            blocks: Magazine::new(),
            random: core.router.seed() ^ (id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        let table = core.registry.start(id);
        let lanes = core.lanes.len() as usize;
        let (turns, queued) = (VecDeque::with_capacity(lanes), vec![false; lanes].into());
        let core = core.clone();
        Self { core, local, table, turns, queued, round: 0, spin: 8, dozed: false, steps: 0 }
    }

    /// Visits the next lane. False if there is none.
    pub(crate) fn turn(&mut self) -> bool {
        // What became ready stands behind what has its turn already, and is looked for once a round: lanes that come
        // back to their place begin no round, or one that never runs dry would keep all others out.
        while self.round > 0 || self.collect() {
            while let Some(lane) = self.next_in_round() {
                let token = self.core.lanes.bell(self.local.id).take(lane);
                // Also if it was taken meanwhile: it may come back.
                if token.is_some() || !weak!("worker_queued") {
                    self.queued[lane as usize] = false;
                }
                if let Some(token) = token {
                    self.visit(token);
                    return true;
                }
            }
        }
        false
    }

    fn next_in_round(&mut self) -> Option<u32> {
        self.round = self.round.checked_sub(1)?;
        self.turns.pop_front()
    }

    /// Begins a round: gives every lane a turn that has become ready. False if none has one.
    fn collect(&mut self) -> bool {
        let (turns, queued) = (&mut self.turns, &mut self.queued);
        self.core.lanes.bell(self.local.id).collect(|lane| queue(turns, queued, lane));
        self.round = turns.len();
        self.round > 0
    }

    /// Takes a lane from a worker that is held up, and visits it. False if there is none.
    fn relieve(&mut self) -> bool {
        self.steal_if(|core, other| core.workers[other].status.is_stuck())
    }

    /// Takes a lane from a worker that is held up, or has more than it is at, and visits it. False if
    /// there is none. With `any`, from any worker.
    pub(crate) fn steal(&mut self, any: bool) -> bool {
        self.steal_if(|core, other| {
            let bell = core.lanes.bell(other);
            any || core.workers[other].status.is_stuck() && !weak!("worker_steal")
                || core.config.steal
                    // First what is cheap to see.
                    && !bell.is_parked()
                    && !bell.is_quiet()
                    && bell.waiting() >= 2
        })
    }

    fn steal_if(&mut self, worth: impl Fn(&Core, usize) -> bool) -> bool {
        let workers = self.core.workers.len();
        for step in 1..workers {
            let other = (self.local.id + step) % workers;
            if worth(&self.core, other)
                && let Some(token) = self.core.lanes.bell(other).steal(0)
            {
                self.core.workers[self.local.id].counters.steals.add(1);
                self.visit(token);
                return true;
            }
        }
        false
    }

    fn visit(&mut self, token: Token) {
        if std::mem::take(&mut self.dozed) {
            // Before the visit, and after PARKED was taken back in `sleep`: see `Monitor::watch`.
            self.core.monitor.watch();
        }
        // With the token in hand: a lane's visits then see tables in the order they were made.
        if self.core.registry.refresh(&mut self.table) {
            self.core.watchers.notify();
        }
        let core = &*self.core;
        if let Some(token) = visit(core, self.table.table(), &mut self.local, token) {
            let lane = token.lane();
            core.lanes.bell(self.local.id).put_back(token);
            queue(&mut self.turns, &mut self.queued, lane);
            // It may wait for a producer that has claimed a place and not filled it yet.
            model_yield();
        }
        core.workers[self.local.id].counters.visits.add(1);
        core.watchers.notify();
    }

    /// Looks for work for as long as a wake-up would cost. True if there is some.
    fn spin(&mut self, budget: Duration) -> bool {
        if budget.is_zero() {
            return false;
        }
        let bell = self.core.lanes.bell(self.local.id);
        let until = self.core.clock.now().after(budget * self.spin / 8);
        for _ in 0..ROUNDS {
            for _ in 0..LOOKS {
                if !bell.is_quiet() {
                    self.spin = (self.spin + 2).min(8);
                    return true;
                }
                std::hint::spin_loop();
            }
            if self.core.clock.now() >= until {
                break;
            }
        }
        // Not below an eighth, or it would never find out that work comes fast again.
        self.spin = (self.spin - 1).max(1);
        false
    }

    /// Notes which key it was at last, for those who ask which are the busiest.
    fn sample(&self) {
        let own = &self.core.workers[self.local.id];
        own.busiest.sample(own.counters.attempts.get(), || own.status.last());
    }

    /// Visits a lane if there is one, else lies down: the caller has it sleep and get up. `spin` is how long
    /// it may look for work before that.
    pub(crate) fn step(&mut self, spin: Duration) -> Next {
        // Or a worker with no end of lanes of its own would never come round to those of another that is
        // held up, to which the monitor leaves them while anybody is free.
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(RELIEF) {
            if self.steps.is_multiple_of(SAMPLE) {
                self.sample();
            }
            if self.relieve() {
                return Next::Step;
            }
        }
        if self.turn() || self.steal(false) || self.spin(spin) {
            return Next::Step;
        }
        if self.core.exits() {
            return Next::End;
        }
        self.lie_down()
    }

    fn lie_down(&mut self) -> Next {
        let bell = self.core.lanes.bell(self.local.id);
        if !bell.lie_down() {
            return Next::Step;
        }
        if self.core.registry.refresh(&mut self.table) {
            self.core.watchers.notify();
        }
        if self.core.exits() {
            self.get_up();
            return Next::Step;
        }
        // Where visits are rare; beside a sleep it costs nothing.
        self.sample();
        self.core.workers[self.local.id].counters.parks.add(1);
        self.core.watchers.notify();
        Next::Sleep(self.core.clock.now().after(self.core.config.heartbeat))
    }

    /// It has slept.
    pub(crate) fn get_up(&mut self) {
        self.core.lanes.bell(self.local.id).rise();
        self.dozed = true;
        if self.core.registry.refresh(&mut self.table) {
            self.core.watchers.notify();
        }
    }

    /// Reads the table no more.
    pub(crate) fn end(self) {
        let core = self.core;
        core.registry.stop(self.table);
        core.workers[self.local.id].ended.store(true, Ordering::Release);
        // None may be missed: it may be the last call ever, the monitor having ended before.
        core.watchers.wake_all(|| ());
    }
}

/// Gives a lane a turn, unless it has one.
fn queue(turns: &mut VecDeque<u32>, queued: &mut [bool], lane: u32) {
    if !std::mem::replace(&mut queued[lane as usize], true) {
        turns.push_back(lane);
    }
}

/// Starts worker `id` on a thread of its own, on `core` if that is given.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn start(
    shared: &Arc<Core>,
    id: usize,
    core: Option<usize>,
    spin: Duration,
) -> std::io::Result<()> {
    let worker = &shared.workers[id];
    let Some(parker) = worker.parker.lock().take() else { return Ok(()) };
    worker.started.store(true, Ordering::Release);
    let run = {
        let shared = shared.clone();
        move || {
            if let Some(core) = core
                && !pin_current(core)
            {
                let reason = format!("the system refused core {core}");
                shared.notice(&crate::notice::Notice::NotPinned { reason });
            }
            run(&shared, id, &parker, spin);
        }
    };
    let started = shared.spawner.spawn(&format!("w{id}"), run);
    if started.is_err() {
        worker.ended.store(true, Ordering::Release);
    }
    started
}

pub(crate) fn run(core: &Arc<Core>, id: usize, parker: &Parker, spin: Duration) {
    let mut worker = Worker::new(core, id);
    core.monitor.watch();
    loop {
        match worker.step(spin) {
            Next::Step => {}
            Next::Sleep(until) => {
                parker.park_until(&*core.clock, Some(until));
                worker.get_up();
            }
            Next::End => break,
        }
    }
    worker.end();
}
