//! A visit to a lane: by whoever holds its token, for a quantum of records.
//!
//! 1. What the lane was woken for: commands, keys of the gate that have something to say, times that have come.
//! 2. Records from the ring, each to its handler or, if its key is busy, into the gate.
//! 3. The token: to rest if there is nothing more, else back in the queue.

use crate::attempt::{Local, Step, Unhandled, Visit};
use crate::busy::{Busy, Parked, Private, Said};
use crate::core::{CLOSING, Core, RUNNING, STOPPED};
use crate::gate::Admit;
use crate::outcome::Outcome;
use crate::ring::Drain;
use crate::sabotage::sabotage;
use crate::table::Table;
use crate::token::Token;
use crate::work::Work;

/// Visits a lane. The token comes back if there is more to do.
pub(crate) fn visit(
    core: &Core,
    table: &Table,
    local: &mut Local,
    mut token: Token,
) -> Option<Token> {
    let number = token.lane();
    let lane = core.lanes.get(number);
    let mut private =
        lane.take_private(&mut token).unwrap_or_else(|| Private::new(core.bounds(), RUNNING));
    let own = &core.workers[local.id];
    own.status.hold(number);
    let mut visit = Visit {
        core,
        own,
        table,
        local,
        private: &mut private,
        lane: number,
        budget: core.config.quantum,
        now: None,
    };
    if lane.ring().take_wake(&mut token) {
        visit.serve();
    }
    let mut ring = lane.ring().drain(&mut token);
    let first = ring.head();
    let mut blocked = false;
    while visit.drain(&mut ring) {
        // A key is busy: each record is asked for its own.
        let Some(front) = ring.peek() else { break };
        let slot = match visit.private.gate.admit(front.hash) {
            // What tests must notice: a busy key that holds up its neighbours.
            _ if cfg!(keylane_weak = "whole_lane_waits") || sabotage!(BusyKeyHoldsLane) => {
                blocked = true;
                break;
            }
            Admit::Free => None,
            Admit::Wait(slot) => Some(slot),
            Admit::KeyFull(_) | Admit::LaneFull => {
                blocked = true;
                break;
            }
        };
        let Some(work) = ring.pop() else { break };
        visit.budget -= 1;
        match slot {
            None => visit.fresh_slow(Unhandled::New(work)),
            Some(slot) => visit.behind(slot, work),
        }
        if own.status.asked() {
            visit.budget = 0;
        }
    }
    let taken = ring.head() - first;
    let exhausted = visit.budget == 0;
    lane.counters.taken.add(taken);
    lane.counters.held.set(private.gate.held() as u64);
    lane.counters.keys.set(private.gate.keys() as u64);
    lane.put_private(&mut token, private);
    lane.wake_waiting();
    if exhausted && !blocked {
        return Some(token);
    }
    lane.rest(token, blocked).err()
}

impl Visit<'_> {
    /// Handles records for as long as no key is busy. False if the visit is over: its quantum is, or the ring is
    /// empty.
    fn drain(&mut self, ring: &mut Drain<'_, Work>) -> bool {
        // Looked at once more: it may have come while something of the gate was handled.
        if self.core.phase() == STOPPED {
            return self.budget > 0;
        }
        while self.budget > 0 {
            if !self.private.gate.is_empty() {
                return true;
            }
            let taken = ring.pop_to(|work| {
                self.budget -= 1;
                if let Err(unhandled) = self.handle(work) {
                    self.fresh_slow(unhandled);
                }
            });
            if taken.is_none() {
                return false;
            }
            if self.own.status.asked() {
                self.budget = 0;
            }
        }
        false
    }

    /// A record whose key is free, if it is not a sync one that is handled at once.
    #[inline(never)]
    fn fresh_slow(&mut self, unhandled: Unhandled<'_>) {
        let slot = self.private.gate.next_slot();
        let (hash, step) = match unhandled {
            Unhandled::New(work) => (work.hash, self.start(work, slot)),
            Unhandled::Failed(entry, work, said) => {
                (work.hash, self.settle(entry, work, 1, said.map(Err), slot))
            }
        };
        match step {
            Step::Ended => {}
            Step::Busy(busy) => {
                let slot = self.private.gate.hold(hash, Some(busy), None);
                self.stamp(slot);
            }
            Step::Parked(parked) => {
                self.private.gate.hold(hash, None, Some(parked));
            }
            Step::Later(work) => {
                let slot = self.private.gate.hold(hash, None, None);
                self.private.gate.put_back(slot, work);
                self.again(slot);
                self.budget = 0;
            }
        }
    }

    /// Notes when a record began to keep its key busy.
    fn stamp(&mut self, slot: u32) {
        let now = self.now();
        self.private.gate.stamp(slot, now);
    }

    /// A record whose key is in the gate.
    fn behind(&mut self, slot: u32, work: Work) {
        let now = self.now();
        if let Err(work) = self.private.gate.wait(slot, now, work) {
            debug_assert!(false, "admitted to a slot with no key");
            return self.fresh_slow(Unhandled::New(work));
        }
        if self.private.gate.get(slot).is_some_and(|key| key.busy.is_none()) {
            self.advance(slot);
        }
    }

    /// What the lane was woken for.
    #[cold]
    fn serve(&mut self) {
        let lane = self.core.lanes.get(self.lane);
        let phase = self.core.phase();
        if self.private.phase != phase {
            self.private.phase = phase;
            self.follow_phase(phase);
        }
        for command in lane.take_commands() {
            self.obey(command);
        }
        let mut ready = Vec::new();
        if lane.ready().take(|slot| ready.push(slot)) {
            ready = self.private.gate.slots().collect();
        }
        // In turn: a key that used up a visit comes last in the next.
        ready.sort_unstable();
        let first = ready.partition_point(|&slot| slot < self.private.turn);
        ready.rotate_left(first);
        for slot in ready {
            self.look(slot, false);
        }
        self.look_at_due();
        // However long the queues in the gate are, the ring has its share of each visit.
        self.budget = self.budget.max(self.core.config.quantum.div_ceil(2));
    }

    /// Looks at the keys whose time has come.
    fn look_at_due(&mut self) {
        let Some(next) = self.private.next_due else { return };
        let now = self.now();
        if next > now {
            // The timer may just have gone off, for an earlier time that an earlier visit has dealt with.
            return self.core.timers.set_lane(self.lane, next);
        }
        self.private.next_due = None;
        for slot in self.private.gate.slots() {
            match self.busy_due(slot) {
                Some(due) if due <= now => self.look(slot, true),
                Some(due) => self.due(due),
                None => {}
            }
        }
    }

    fn busy_due(&self, slot: u32) -> Option<crate::clock::Time> {
        self.private.gate.get(slot)?.busy.as_ref()?.due()
    }

    /// Looks at what keeps a key busy: has it ended, or its time come? Then goes on with the key.
    fn look(&mut self, slot: u32, timed: bool) {
        if let Some(busy) = self.private.gate.take_busy(slot) {
            let step = self.progress(busy, slot, timed);
            self.settle_slot(slot, step);
        }
        self.advance(slot);
    }

    pub(crate) fn settle_slot(&mut self, slot: u32, step: Step) {
        match step {
            Step::Ended => {}
            Step::Busy(busy) => self.private.gate.set_busy(slot, busy),
            Step::Parked(parked) => {
                self.private.gate.set_parked(slot, Some(parked));
            }
            Step::Later(work) => {
                self.private.gate.put_back(slot, work);
                self.budget = 0;
            }
        }
    }

    /// Starts the next records of a key whose last one has ended, one after the other.
    pub(crate) fn advance(&mut self, slot: u32) {
        let mut started = false;
        while self.private.gate.get(slot).is_some_and(|key| key.busy.is_none()) {
            if self.budget == 0
                && self.private.gate.get(slot).is_some_and(|k| k.waiting().len() > 0)
            {
                // Others have their turn first; this lane comes back.
                if started {
                    self.private.turn = slot + 1;
                }
                return self.again(slot);
            }
            let Some(work) = self.private.gate.next(slot) else {
                self.private.gate.open(slot);
                return;
            };
            self.budget = self.budget.saturating_sub(1);
            started = true;
            let step = match self.private.gate.get(slot).and_then(|key| key.parked.as_ref()) {
                Some(Parked::Abandoned) => self.release(work),
                Some(Parked::Key { key, .. })
                    if work.record.key() == Some(&key[..]) && !sabotage!(ParkedLetThrough) =>
                {
                    self.follow(work, slot)
                }
                // Free, or of another key whose hash is the same.
                _ => self.start(work, slot),
            };
            if let Step::Busy(_) = step {
                self.stamp(slot);
            }
            self.settle_slot(slot, step);
        }
    }

    /// Goes on with what keeps a key busy.
    fn progress(&mut self, busy: Busy, slot: u32, timed: bool) -> Step {
        match busy {
            Busy::Future { mut attempt, running, work, number, deadline } => {
                let waker = self.waker(slot);
                let mut cx = std::task::Context::from_waker(&waker);
                self.own.status.enter(work.subscription, &work.record);
                let polled = attempt.poll(&mut cx);
                self.own.status.leave();
                match polled {
                    std::task::Poll::Ready(said) => {
                        drop((attempt, running));
                        self.ended(work, number, said, slot)
                    }
                    std::task::Poll::Pending if timed && self.is_due(deadline) => {
                        let step = self.expire(attempt, work, number, slot);
                        drop(running);
                        step
                    }
                    std::task::Poll::Pending => {
                        deadline.into_iter().for_each(|deadline| self.due(deadline));
                        Step::Busy(Busy::Future { attempt, running, work, number, deadline })
                    }
                }
            }
            Busy::Blocking { reply, running, work, number, deadline } => match reply.take() {
                Some(Said::Ended(said)) => {
                    drop(running);
                    self.ended(work, number, said, slot)
                }
                Some(Said::NotStarted) => {
                    drop(running);
                    self.release(work)
                }
                None => {
                    // Counted from the handler's start, which may come long after the call.
                    let began = reply.take_began().and_then(|began| self.deadline(&work, began));
                    let deadline = deadline.or(began);
                    let deadline = if timed && self.is_due(deadline) {
                        self.report_deadline(&work);
                        None
                    } else {
                        deadline
                    };
                    Step::Busy(Busy::Blocking { reply, running, work, number, deadline })
                }
            },
            Busy::Retry { work, number, due, error } => {
                if self.core.phase() > RUNNING {
                    self.release(work)
                } else if self.is_due(Some(due)) {
                    self.retry(work, number, slot)
                } else {
                    self.due(due);
                    Step::Busy(Busy::Retry { work, number, due, error })
                }
            }
            Busy::Letter { post: Some(post), work, failure, sends, park, .. } => {
                self.posted(work, failure, sends, park, post, slot)
            }
            Busy::Letter { post: None, work, failure, sends, due, park } => {
                if !self.is_due(due) {
                    due.into_iter().for_each(|due| self.due(due));
                    return Step::Busy(Busy::Letter {
                        post: None,
                        work,
                        failure,
                        sends,
                        due,
                        park,
                    });
                }
                match self.open_entry(&work) {
                    Some(entry) => self.post(entry, work, failure, sends, park, slot),
                    None => self.release(work),
                }
            }
        }
    }

    pub(crate) fn is_due(&mut self, due: Option<crate::clock::Time>) -> bool {
        due.is_some_and(|due| due <= self.now())
    }

    #[cold]
    fn report_deadline(&self, work: &Work) {
        let entry = self.table.subscription(work.subscription, work.generation);
        entry.inspect(|entry| entry.state.counters.timeouts.add_shared(1));
        let subscription = entry.map_or_else(String::new, |entry| entry.name.to_string());
        let key = work.record.key().map(|key| key[..key.len().min(64)].to_vec());
        self.core.notice(&crate::notice::Notice::DeadlinePassed { subscription, key });
    }

    /// The runtime closes (nothing is tried again) or has stopped (nothing goes on).
    #[cold]
    fn follow_phase(&mut self, phase: u8) {
        for slot in self.private.gate.slots() {
            let over = match self.private.gate.get(slot).and_then(|key| key.busy.as_ref()) {
                Some(Busy::Retry { .. } | Busy::Letter { post: None, .. }) => phase >= CLOSING,
                Some(_) => phase == STOPPED,
                None => false,
            };
            if over {
                self.give_up(slot);
            }
            if phase == STOPPED {
                while let Some(work) = self.private.gate.next(slot) {
                    self.release(work);
                }
            }
            // With nothing busy, what waits is released one by one; the key stays shut.
            self.advance(slot);
        }
    }

    /// Drops what keeps a key busy, its record unfinished, and shuts the key.
    pub(crate) fn give_up(&mut self, slot: u32) {
        let Some(busy) = self.private.gate.take_busy(slot) else { return };
        let step = self.release_busy(busy);
        self.settle_slot(slot, step);
    }

    pub(crate) fn release_busy(&mut self, busy: Busy) -> Step {
        if let Busy::Blocking { reply, .. } = &busy
            && matches!(reply.take(), Some(Said::Ended(Ok(Ok(())))))
        {
            // It was handled, and only this lane did not know yet.
            return self.finish(busy.into_work(), Outcome::Done);
        }
        let work = busy.into_work();
        self.release(work)
    }
}
