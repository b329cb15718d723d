//! The thread that watches the others: it fires timers, notices handlers that overrun, and sees to it that
//! no lane waits for one. It sleeps without a limit while nothing runs and nothing is due.

use std::time::Duration;

use crate::clock::Time;
use crate::core::Core;
use crate::notice::Notice;
use crate::parker::Parker;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, weak};
use crate::worker;

/// Quiet looks, each after twice the time of the one before, until it sleeps without a limit.
const QUIET_LOOKS: u32 = 8;
/// How often it calls those who wait for something rare, should a call ever have been missed.
const CALL: Duration = Duration::from_millis(5);

/// What the monitor knows of a worker.
#[derive(Debug, Clone, Copy, Default)]
struct Watched {
    turn: u64,
    since: Time,
    reported: bool,
    late: bool,
}

/// The monitor, driven by its thread or look by look.
pub(crate) struct Monitor {
    core: Arc<Core>,
    watched: Vec<Watched>,
    quiet: u32,
    /// When it called those who wait for something rare.
    called: Time,
}

/// What the monitor does after a turn.
pub(crate) enum Next {
    /// It sleeps until it is called, or this has come on the runtime's clock.
    Sleep(Option<Time>),
    /// It sleeps for a moment of real time, or as above: somebody waits.
    Doze(Duration, Option<Time>),
}

/// Starts the monitor.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn start(core: &Arc<Core>, parker: Parker) -> std::io::Result<()> {
    let mut monitor = Monitor::new(core);
    core.spawner.spawn("mon", move || {
        let core = monitor.core.clone();
        while !core.exits() {
            match monitor.turn() {
                Next::Sleep(until) => parker.park_until(&*core.clock, until),
                Next::Doze(moment, until) => {
                    let limit = until.and_then(|until| core.clock.arm(until, parker.waker()));
                    parker.park(Some(limit.map_or(moment, |limit| limit.min(moment))));
                }
            }
            core.monitor.rise();
        }
        core.watchers.wake_all(|| ());
    })
}

impl Monitor {
    /// A monitor that has not looked yet.
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        let watched = vec![Watched::default(); core.workers.len()];
        Self { core: core.clone(), watched, quiet: 0, called: Time::ZERO }
    }

    /// Looks once, and calls who waits. After its sleep the caller has it `rise`.
    pub(crate) fn turn(&mut self) -> Next {
        let next = self.look();
        if self.core.watchers.is_empty() {
            return Next::Sleep(next);
        }
        // Whoever waits looks again by itself, but is called in any case: in real time, since the clock may
        // stand still. Not sooner after the last call: who is called may look and call back at once.
        let now = self.core.machine_clock.now();
        let since = now.since(self.called);
        if since < CALL && self.called != Time::ZERO {
            return Next::Doze(CALL - since, next);
        }
        self.called = now;
        self.core.watchers.notify();
        Next::Doze(CALL, next)
    }

    /// Looks once; returns when to look again, `None` if only when called.
    pub(crate) fn look(&mut self) -> Option<Time> {
        let now = self.core.clock.now();
        self.core.timers.fire(now, |lane| self.core.lanes.wake(lane));
        if self.watch(now) {
            self.quiet = 0;
            return Some(self.next(now.after(self.core.config.overrun)));
        }
        self.quiet += 1;
        if self.quiet <= QUIET_LOOKS {
            return Some(self.next(now.after(self.core.config.overrun * (1 << self.quiet))));
        }
        // First this, then a last look: a worker that gets up after the look finds it and calls.
        self.core.monitor.lie_down();
        if self.is_busy() || !self.core.watchers.is_empty() {
            self.core.monitor.rise();
            self.quiet = 0;
            return Some(self.next(now.after(self.core.config.overrun)));
        }
        self.core.timers.next()
    }

    fn next(&self, look: Time) -> Time {
        self.core.timers.next().map_or(look, |due| due.min(look))
    }

    fn is_busy(&self) -> bool {
        self.core.lanes.bells().iter().zip(&self.core.workers).any(|(bell, worker)| {
            worker.started.load(Ordering::Acquire)
                && !worker.ended.load(Ordering::Acquire)
                && !bell.is_parked()
        })
    }

    /// Looks at the workers. True if one is at work.
    fn watch(&mut self, now: Time) -> bool {
        let mut held_up = false;
        for id in 0..self.watched.len() {
            let status = &self.core.workers[id].status;
            let turn = status.turn();
            let watched = &mut self.watched[id];
            if watched.turn != turn {
                *watched = Watched { turn, since: now, ..Watched::default() };
                continue;
            }
            let ran = now.since(watched.since);
            if turn.is_multiple_of(2) || ran < self.core.config.overrun {
                continue;
            }
            // First this: who is woken for its lanes takes them from a worker that he sees stuck.
            if !weak!("monitor_stuck") {
                status.set_stuck(ran);
            }
            status.ask();
            self.report(id, ran);
            held_up |= !self.core.lanes.bell(id).is_quiet();
        }
        if held_up {
            self.relieve();
        }
        self.is_busy()
    }

    /// Says, once an attempt, that it overran; and that it passed its deadline.
    fn report(&mut self, id: usize, ran: Duration) {
        let watched = &mut self.watched[id];
        if watched.reported && watched.late {
            return;
        }
        let Some(seen) = self.core.workers[id].status.seen() else { return };
        let table = self.core.registry.load();
        let Some(Some(entry)) = table.subscriptions.get(seen.subscription as usize) else { return };
        let subscription = entry.name.to_string();
        if !watched.reported {
            watched.reported = true;
            let first = entry.state.counters.overruns.get() == 0;
            entry.state.counters.overruns.add_shared(1);
            if first {
                let (subscription, key) = (subscription.clone(), seen.key.clone());
                self.core.notice(&Notice::Overrun { subscription, key, ran });
            }
        }
        match entry.policy.deadline {
            Some(deadline) if ran >= deadline && !watched.late => {
                watched.late = true;
                entry.state.counters.timeouts.add_shared(1);
                self.core.notice(&Notice::DeadlinePassed { subscription, key: seen.key });
            }
            Some(_) => {}
            None => watched.late = true,
        }
    }

    /// Finds somebody for lanes whose worker is held up: one that sleeps, else a spare.
    fn relieve(&self) {
        let core = &self.core;
        let sleeper = core
            .lanes
            .bells()
            .iter()
            .zip(&core.workers)
            .find(|(bell, worker)| bell.is_parked() && !worker.ended.load(Ordering::Acquire));
        if let Some((bell, _)) = sleeper {
            if !weak!("monitor_wake_sleeper") {
                bell.wake();
            }
            return;
        }
        let free = |id: &usize| {
            let worker = &core.workers[*id];
            worker.started.load(Ordering::Acquire)
                && !worker.ended.load(Ordering::Acquire)
                && (!worker.status.is_stuck() || weak!("monitor_free"))
        };
        if (0..core.workers.len()).any(|id| free(&id)) {
            // It is at work on other lanes, and comes round to these.
            return;
        }
        let first = core.lanes.workers() as usize;
        let spare = (first..first + core.config.spares)
            .find(|&id| !core.workers[id].started.load(Ordering::Acquire));
        let Some(spare) = spare else { return };
        match worker::start(core, spare, None, Duration::ZERO) {
            Ok(()) => {
                core.spares.add(1);
                core.notice(&Notice::SpareStarted { running: core.spares.get() as usize });
            }
            Err(error) => {
                let error = error.to_string();
                core.notice(&Notice::NoThread { role: "a spare worker", error });
            }
        }
    }
}
