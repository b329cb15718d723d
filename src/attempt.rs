//! From a record to its outcome: attempts, the failure policy, the dead letters.

use std::task::{Context, Waker};

use crate::blocking::About;
use crate::busy::{Busy, Parked, Private, Reply, Said};
use crate::clock::Time;
use crate::core::{CLOSING, Core, RUNNING, Returned, STOPPED, SlotWaker};
use crate::error::HandlerError;
use crate::handler::{Handled, Kind, Running, Started};
use crate::metrics::WorkerCounters;
use crate::notice::Notice;
use crate::outcome::{Failure, Outcome};
use crate::record::Record;
use crate::sabotage::sabotage;
use crate::subscription::{After, error_text};
use crate::sync::{Arc, Weak};
use crate::table::{Entry, Table};
use crate::unwind::{Panicked, guard};
use crate::work::{Completion, Work};

/// A worker's own things for a visit.
pub(crate) struct Local {
    pub(crate) id: usize,
    pub(crate) core: Weak<Core>,
    /// Spreads backoffs; no record of it matters.
    pub(crate) random: u64,
}

/// A visit to a lane, by the holder of its token.
pub(crate) struct Visit<'a> {
    pub(crate) core: &'a Core,
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

impl<'a> Visit<'a> {
    /// Starts a record. Its key is free, or it is next of its key in `slot`.
    #[inline]
    pub(crate) fn start(&mut self, work: Work, slot: u32) -> Step {
        let Some(entry) = self.open_entry(&work) else { return self.refuse(work) };
        if let Kind::Sync(handle) = &entry.version.handler.0 {
            // The common case, in a straight line.
            return match self.call(&work, 1, || handle(&work.record)) {
                Ok(Ok(())) => self.finish(work, Outcome::Done),
                failed => self.settle(entry, work, 1, failed, slot),
            };
        }
        self.attempt(entry, work, 1, slot)
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

    /// Whether this visit's table is the newest.
    #[cold]
    pub(crate) fn is_current(&self) -> bool {
        std::ptr::eq(&*self.core.registry.load(), self.table)
    }

    /// The subscription of a record that may be started: it is here and open, and so is the source.
    #[inline]
    pub(crate) fn open_entry(&self, work: &Work) -> Option<&'a Arc<Entry>> {
        let entry = self.table.subscription(work.subscription, work.generation)?;
        let stopped = self.core.phase() == STOPPED && !sabotage!(StartsAfterStop);
        if !entry.state.is_open() || stopped {
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
    fn attempt(&mut self, entry: &Arc<Entry>, work: Work, number: u32, slot: u32) -> Step {
        match &entry.version.handler.0 {
            Kind::Sync(handle) => {
                let said = self.call(&work, number, || handle(&work.record));
                self.settle(entry, work, number, said, slot)
            }
            Kind::Async(starts) => {
                let waker = self.waker(slot);
                let record = work.record.share();
                let began = entry.policy.deadline.map(|_| self.core.clock.now());
                let started = self
                    .call(&work, number, || starts.start(record, &mut Context::from_waker(&waker)));
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
                    let (subscription, state) = (entry.name.clone(), entry.state.clone());
                    move || {
                        let Some(core) = core.upgrade() else { return };
                        // What a lane looks at before it starts a record, again: it may have waited long.
                        let shut = core.phase() == STOPPED
                            || !state.is_open()
                            || source.is_some_and(|source| source.is_stopped());
                        let said = if shut || !reply.start() {
                            Said::NotStarted
                        } else {
                            if timed {
                                reply.begin(core.clock.now());
                                core.lanes.wake_slot(lane, slot);
                            }
                            let key = record.key().map(|key| key[..key.len().min(64)].to_vec());
                            let _listed = core.blocking.list(About { subscription, key });
                            Said::Ended(guard(|| handle(record)))
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
                match self.core.blocking.call(Box::new(call)) {
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
    #[inline]
    fn call<R>(
        &mut self,
        work: &Work,
        number: u32,
        handle: impl FnOnce() -> R,
    ) -> Result<R, Panicked> {
        work.record.set_attempt(number);
        self.counters().attempts.add(1);
        self.run(work, handle)
    }

    /// Runs a caller's code on this thread: seen by others, should it not return, and its panic a value.
    #[inline]
    pub(crate) fn run<R>(&self, work: &Work, run: impl FnOnce() -> R) -> Result<R, Panicked> {
        let status = &self.core.workers[self.local.id].status;
        status.enter(self.lane, work.subscription, work.record.key());
        let said = guard(run);
        status.leave();
        said
    }

    /// An attempt has ended.
    fn settle(
        &mut self,
        entry: &Arc<Entry>,
        work: Work,
        number: u32,
        said: Result<Handled, Panicked>,
        slot: u32,
    ) -> Step {
        match said {
            Ok(Ok(())) if sabotage!(HandledTwice) && number == 1 => {
                self.again(slot);
                let (due, error) = (self.now(), "".into());
                Step::Busy(Busy::Retry { work, number, due, error })
            }
            Ok(Ok(())) => self.finish(work, Outcome::Done),
            Ok(Err(error)) => self.failed(entry, work, number, error, slot),
            Err(_) if sabotage!(PanicLoses) => Step::Ended,
            Err(panicked) => {
                self.counters().panics.add(1);
                self.failed(entry, work, number, HandlerError::retryable(panicked), slot)
            }
        }
    }

    /// An attempt that goes on from an earlier visit has ended.
    pub(crate) fn ended(
        &mut self,
        work: Work,
        number: u32,
        said: Result<Handled, Panicked>,
        slot: u32,
    ) -> Step {
        match (self.table.subscription(work.subscription, work.generation), said) {
            (Some(entry), said) => self.settle(entry, work, number, said, slot),
            (None, Ok(Ok(()))) => self.finish(work, Outcome::Done),
            // Its policy went with its subscription.
            (None, said) => {
                let _ = guard(|| drop(said));
                self.release(work)
            }
        }
    }

    /// An attempt has failed: by policy.
    #[cold]
    fn failed(
        &mut self,
        entry: &Arc<Entry>,
        work: Work,
        number: u32,
        error: HandlerError,
        slot: u32,
    ) -> Step {
        let random = self.random();
        // Both are a caller's code: what an error says, and what is retryable.
        let text = guard(|| error_text(&error)).unwrap_or_else(|panicked| error_text(&panicked));
        let pause = guard(|| entry.policy.retry.pause(number, Some(&error), random)).ok().flatten();
        let _ = guard(|| drop(error));
        if let Some(pause) = pause {
            // Of a source that is gone another may have the record already: its key does not wait.
            if self.core.phase() >= CLOSING || self.open_entry(&work).is_none() {
                return self.release(work);
            }
            self.counters().retries.add(1);
            if sabotage!(RetryPassed) {
                let _ = self.core.lanes.push(self.lane, work);
                return Step::Ended;
            }
            let due = self.now_after().after(pause);
            if pause.is_zero() {
                self.again(slot);
            } else {
                self.due(due);
            }
            return Step::Busy(Busy::Retry { work, number, due, error: text });
        }
        let failure = Failure { error: text, attempts: number };
        match entry.policy.after {
            After::Skip => self.finish(work, Outcome::Skipped(failure)),
            After::Stop => self.stop(entry, work, failure),
            After::DeadLetter => self.post(entry, work, failure, 0, false, slot),
            After::Park => {
                let park = work.record.key().is_some();
                self.post(entry, work, failure, 0, park, slot)
            }
        }
    }

    /// Tries a record again that waited for it.
    pub(crate) fn retry(&mut self, work: Work, number: u32, slot: u32) -> Step {
        match self.open_entry(&work) {
            Some(entry) if self.core.phase() == RUNNING => {
                self.attempt(entry, work, number.saturating_add(1), slot)
            }
            _ => self.release(work),
        }
    }

    /// Gives a record up that will not be handled. What comes after it of its key must not be either:
    /// where that does not follow from its subscription's or source's state, the key stays shut.
    #[cold]
    pub(crate) fn release(&mut self, work: Work) -> Step {
        let shut = self.open_entry(&work).is_some();
        self.counters().outcomes.abandoned.add(1);
        if sabotage!(ReleasedIsFinished) {
            return self.finish(work, Outcome::Done);
        }
        self.give_back(work, Outcome::Abandoned);
        if shut { Step::Parked(Parked::Abandoned) } else { Step::Ended }
    }

    pub(crate) fn give_back(&mut self, work: Work, outcome: Outcome) {
        let (subscription, generation) = (work.subscription, work.generation);
        // A record of a source goes here, and with it a caller's payload.
        let record = guard(|| work.abandon(outcome)).ok().flatten();
        if let Some(record) = record
            && !sabotage!(CloseKeeps)
        {
            self.core.returned.lock().push(Returned { subscription, generation, record });
        }
    }

    /// A record has its outcome.
    #[inline]
    pub(crate) fn finish(&mut self, work: Work, outcome: Outcome) -> Step {
        let counters = self.counters();
        let outcomes = &counters.outcomes;
        match &outcome {
            Outcome::Done => outcomes.done.add(1),
            Outcome::DeadLettered(_) => outcomes.dead_lettered.add(1),
            Outcome::Parked => outcomes.parked.add(1),
            Outcome::Skipped(_) => outcomes.skipped.add(1),
            Outcome::Stopped(_) => outcomes.stopped.add(1),
            Outcome::Abandoned => outcomes.abandoned.add(1),
        }
        match work.completion {
            Completion::Untracked => {}
            Completion::Receipt(promise) if sabotage!(ReceiptUnfilled) => std::mem::forget(promise),
            Completion::Receipt(promise) => {
                // Whoever waits for it is woken by a waker of the caller's.
                let _ = guard(|| promise.fulfil(outcome));
            }
            Completion::Source(token) => match self.table.source(token.source, token.epoch) {
                Some(source) => source.finished.finish(token.slot),
                None if sabotage!(StaleEpochCounted) => {
                    let other = self.table.sources.get(token.source as usize);
                    other.into_iter().flatten().for_each(|other| other.finished.finish(token.slot));
                }
                None => counters.stale.add(1),
            },
        }
        recycle(work.record, counters);
        Step::Ended
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
        &self.core.workers[self.local.id].counters
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

/// Ends a record. A shared payload's drop is a caller's code.
#[inline]
fn recycle(record: Record, counters: &WorkerCounters) {
    if record.is_shared() {
        if guard(|| record.recycle()).is_err() {
            counters.panics.add(1);
        }
    } else {
        record.recycle();
    }
}
