//! From a record to its attempts.

use std::task::{Context, Waker};

use crate::blocking::About;
use crate::busy::{Busy, Parked, Private, Reply, Said};
use crate::clock::Time;
use crate::core::{Core, STOPPED, SlotWaker, WorkerShared};
use crate::error::HandlerError;
use crate::gate::Key;
use crate::handler::{self, Kind, Running, Started};
use crate::metrics::WorkerCounters;
use crate::notice::Notice;
use crate::outcome::Outcome;
use crate::pool::Magazine;
use crate::record::Record;
use crate::sabotage::sabotage;
use crate::span;
use crate::sync::{Arc, Weak};
use crate::table::{Entry, Table};
use crate::unwind::{Panicked, guard};
use crate::work::{Completion, Work};

/// A worker's own things for a visit.
pub(crate) struct Local {
    pub(crate) id: usize,
    pub(crate) core: Weak<Core>,
    /// Blocks of records that have ended.
    pub(crate) blocks: Magazine,
    /// Spreads backoffs; no record of it matters.
    pub(crate) random: u64,
}

/// A visit to a lane, by the holder of its token.
pub(crate) struct Visit<'a> {
    pub(crate) core: &'a Core,
    /// What others may know of the worker that visits.
    pub(crate) own: &'a WorkerShared,
    pub(crate) table: &'a Table,
    pub(crate) local: &'a mut Local,
    pub(crate) private: &'a mut Private,
    pub(crate) lane: u32,
    /// Records that may still be started before others have their turn.
    pub(crate) budget: usize,
    /// The time, once somebody asked.
    pub(crate) now: Option<Time>,
}

/// What became of a record that was started.
pub(crate) enum Step {
    /// It has its outcome, or is given up: its key is free for the next.
    Ended,
    /// It keeps its key busy.
    Busy(Busy),
    /// It is given up or dead-lettered, and its key is not free for the next.
    Parked(Parked),
    /// It was submitted to what this visit's table does not know yet: the next visit starts it.
    Later(Work),
}

/// A record that is not handled yet.
pub(crate) enum Unhandled<'a> {
    /// It has not been started.
    New(Work),
    /// Its first attempt failed.
    Failed(&'a Arc<Entry>, Work, Result<HandlerError, Panicked>),
}

impl<'a> Visit<'a> {
    /// Handles a record whose key is free, if its handler is a sync one and all goes well; else what became of it
    /// comes back, or the record itself, if somebody has to look closer.
    ///
    /// Only while the lane has not heard that the runtime has stopped: whoever stops it asks every worker to end
    /// its visit, so that is not looked at for each record.
    #[inline(always)]
    pub(crate) fn handle(&mut self, work: Work) -> Result<(), Unhandled<'a>> {
        let Some(entry) = self.taking_entry(&work) else { return Err(Unhandled::New(work)) };
        let Kind::Sync(handle) = &entry.version.handler.0 else {
            return Err(Unhandled::New(work));
        };
        if span::is_wanted(&entry.policy) {
            return Err(Unhandled::New(work));
        }
        // In pieces, so that only the record is in memory.
        let Work { record, hash, subscription, generation, completion } = work;
        let work = |record, completion| Work { record, hash, subscription, generation, completion };
        match self.call(&record, subscription, 1, || handle(&record)) {
            Ok(Ok(())) => {
                self.own.counters.outcomes.done.add(1);
                self.handled(entry, &record);
                match completion {
                    // Nothing to drop: said so, since it would be looked for.
                    Completion::Untracked => std::mem::forget(completion),
                    completion => self.tell(completion, Outcome::Done),
                }
                self.recycle(record);
                Ok(())
            }
            Ok(Err(error)) => Err(Unhandled::Failed(entry, work(record, completion), Ok(error))),
            Err(panicked) => Err(Unhandled::Failed(entry, work(record, completion), Err(panicked))),
        }
    }

    /// Starts a record. Its key is free, or it is next of its key in `slot`.
    pub(crate) fn start(&mut self, work: Work, slot: u32) -> Step {
        match self.open_entry(&work) {
            Some(entry) => self.attempt(entry, work, 1, slot),
            None => self.refuse(work),
        }
    }

    /// A record that may not be started, as far as this visit's table says. It may be younger than that: a
    /// lane is pushed to while it is visited.
    #[cold]
    pub(crate) fn refuse(&mut self, work: Work) -> Step {
        if self.is_ahead(&work) && self.core.phase() != STOPPED {
            return Step::Later(work);
        }
        self.release(work)
    }

    /// Whether the record's subscription or source is younger than this visit's table.
    #[cold]
    pub(crate) fn is_ahead(&self, work: &Work) -> bool {
        // One counter numbers both, and the table has the next number.
        let ahead = |number: u32| number.wrapping_sub(self.table.generation) < u32::MAX / 2;
        let source = match &work.completion {
            Completion::Source(token) => ahead(token.epoch),
            _ => false,
        };
        ahead(work.generation) || source
    }

    /// Whether a record may be started neither now nor with a newer table.
    pub(crate) fn is_shut_out(&self, work: &Work) -> bool {
        self.open_entry(work).is_none() && !self.is_ahead(work)
    }

    /// The subscription of a record that may be started: it is here and open, and so is the source.
    pub(crate) fn open_entry(&self, work: &Work) -> Option<&'a Arc<Entry>> {
        let stopped = self.core.phase() == STOPPED && !sabotage!(StartsAfterStop);
        if stopped { None } else { self.taking_entry(work) }
    }

    #[inline(always)]
    fn taking_entry(&self, work: &Work) -> Option<&'a Arc<Entry>> {
        let entry = self.table.subscription(work.subscription, work.generation)?;
        if !entry.state.is_open() {
            return None;
        }
        if let Completion::Source(token) = &work.completion
            && self.table.source(token.source, token.epoch).is_none_or(|s| s.state.is_stopped())
            && !sabotage!(EpochNotFenced)
        {
            return None;
        }
        Some(entry)
    }

    /// Makes an attempt at a record.
    pub(crate) fn attempt(
        &mut self,
        entry: &Arc<Entry>,
        work: Work,
        number: u32,
        slot: u32,
    ) -> Step {
        let about = span::About::new(&entry.policy, self.lane, number);
        match &entry.version.handler.0 {
            Kind::Sync(handle) => {
                let record = &work.record;
                let said = self.call(record, work.subscription, number, move || {
                    about.span(record).in_scope(|| handle(record))
                });
                self.settle(entry, work, number, said, slot)
            }
            Kind::Async(starts) => {
                let waker = self.waker(slot);
                let record = work.record.share();
                let began = entry.policy.deadline.map(|_| self.core.clock.now());
                let mut cx = Context::from_waker(&waker);
                let (starts, cx) = (&**starts, &mut cx);
                let started = self.call(&work.record, work.subscription, number, move || {
                    handler::start(starts, record, cx, about)
                });
                match started {
                    Ok(Started::Ready(said)) => self.settle(entry, work, number, said, slot),
                    Ok(Started::Pending(attempt)) => {
                        let running = Running::new(&entry.version);
                        let deadline = began.and_then(|began| self.deadline(&work, began));
                        Step::Busy(Busy::Future { attempt, running, work, number, deadline })
                    }
                    Err(panicked) => self.settle(entry, work, number, Err(panicked), slot),
                }
            }
            Kind::Blocking(handle) => {
                let reply = Arc::new(Reply::default());
                // Shared with the call: it may outlive what waits for it here.
                let running = Arc::new(Running::new(&entry.version));
                let timed = entry.policy.deadline.is_some();
                work.record.set_attempt(number);
                let source = match &work.completion {
                    Completion::Source(token) => self.table.source(token.source, token.epoch),
                    _ => None,
                };
                let source = source.map(|source| source.state.clone());
                let call = {
                    let (core, reply, handle, running) =
                        (self.local.core.clone(), reply.clone(), handle.clone(), running.clone());
                    let (record, lane) = (work.record.share(), self.lane);
                    let entry = entry.clone();
                    move || {
                        let Some(core) = core.upgrade() else { return };
                        // What a lane looks at before it starts a record, again: it may have waited long.
                        let shut = core.phase() == STOPPED
                            || !entry.state.is_open()
                            || source.is_some_and(|source| source.is_stopped());
                        let said = if shut || !reply.start() {
                            Said::NotStarted
                        } else {
                            if timed {
                                reply.begin(core.clock.now());
                                core.lanes.wake_slot(lane, slot);
                            }
                            let key = record.key().map(|key| key[..key.len().min(64)].to_vec());
                            let subscription = entry.name.clone();
                            let _listed = core.blocking.list(About { subscription, key });
                            let about = span::About::new(&entry.policy, lane, number);
                            Said::Ended(guard(|| about.span(&record).in_scope(|| handle(record))))
                        };
                        drop(running);
                        reply.set(said);
                        core.lanes.wake_slot(lane, slot);
                        if core.exits() {
                            core.watchers.wake_all(|| ());
                        }
                    }
                };
                // What it holds is a caller's, and may be dropped there: the record, the handler.
                let call = || drop(guard(call));
                let attempts = &self.counters().attempts;
                attempts.add(1);
                // One that is tried again takes its turn anew, or failing keys would keep newcomers out for ever.
                let arrived = self.private.gate.get(slot).and_then(Key::arrived);
                let arrived = arrived.filter(|_| number == 1).unwrap_or_else(|| self.now());
                match self.core.blocking.call(arrived, Box::new(call)) {
                    Ok(()) => {
                        let deadline = None;
                        Step::Busy(Busy::Blocking { reply, running, work, number, deadline })
                    }
                    Err(error) => {
                        let role = "a blocking handler";
                        self.core.notice(&Notice::NoThread { role, error: error.to_string() });
                        let said = Ok(Err(HandlerError::from(error)));
                        self.settle(entry, work, number, said, slot)
                    }
                }
            }
        }
    }

    /// Runs a handler on this thread.
    #[inline(always)]
    fn call<R>(
        &self,
        record: &Record,
        subscription: u32,
        number: u32,
        handle: impl FnOnce() -> R,
    ) -> Result<R, Panicked> {
        record.set_attempt(number);
        self.own.counters.attempts.add(1);
        self.run(record, subscription, handle)
    }

    /// Runs a caller's code on this thread: seen by others, should it not return, and its panic a value.
    #[inline(always)]
    pub(crate) fn run<R>(
        &self,
        record: &Record,
        subscription: u32,
        run: impl FnOnce() -> R,
    ) -> Result<R, Panicked> {
        self.own.status.enter(subscription, record);
        let said = guard(run);
        self.own.status.leave();
        said
    }

    /// The waker of a slot of the lane's gate.
    pub(crate) fn waker(&mut self, slot: u32) -> Waker {
        let wakers = &mut self.private.wakers;
        if wakers.len() <= slot as usize {
            wakers.resize(slot as usize + 1, None);
        }
        let (core, lane) = (&self.local.core, self.lane);
        wakers[slot as usize].get_or_insert_with(|| SlotWaker::waker(core, lane, slot)).clone()
    }

    /// The deadline of an attempt that began then, if its subscription has one.
    pub(crate) fn deadline(&mut self, work: &Work, began: Time) -> Option<Time> {
        let entry = self.table.subscription(work.subscription, work.generation)?;
        let deadline = began.after(entry.policy.deadline?);
        self.due(deadline);
        Some(deadline)
    }

    /// The time, read at most once a visit.
    pub(crate) fn now(&mut self) -> Time {
        *self.now.get_or_insert_with(|| self.core.clock.now())
    }

    /// The time after an attempt: what the visit has read may be long ago.
    pub(crate) fn now_after(&mut self) -> Time {
        let now = self.core.clock.now();
        self.now = Some(now);
        now
    }

    /// The lane is to be looked at by then.
    pub(crate) fn due(&mut self, due: Time) {
        if self.private.next_due.is_none_or(|next| due < next) {
            self.private.next_due = Some(due);
            self.core.timers.set_lane(self.lane, due);
        }
    }

    /// The slot is to be looked at in the next visit, which is to come.
    pub(crate) fn again(&mut self, slot: u32) {
        self.core.lanes.wake_slot(self.lane, slot);
    }

    pub(crate) fn counters(&self) -> &'a WorkerCounters {
        &self.own.counters
    }

    /// xorshift64: spreads backoffs.
    pub(crate) fn random(&mut self) -> u64 {
        let random = &mut self.local.random;
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
