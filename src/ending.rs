//! From an attempt's end to its record's outcome: the failure policy, and who is told.

use crate::attempt::{Step, Visit};
use crate::busy::{Busy, Parked};
use crate::core::{CLOSING, RUNNING, Returned};
use crate::error::HandlerError;
use crate::handler::{Attempt, Handled};
use crate::outcome::{Failure, Outcome};
use crate::record::Record;
use crate::sabotage::sabotage;
use crate::subscription::{After, error_text};
use crate::sync::Arc;
use crate::table::{Entry, deadline_passed};
use crate::unwind::{Panicked, guard};
use crate::work::{Completion, Work};

impl Visit<'_> {
    /// An attempt has ended.
    pub(crate) fn settle(
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
            Ok(Ok(())) => {
                self.handled(entry, &work.record);
                self.finish(work, Outcome::Done)
            }
            Ok(Err(error)) => self.failed(entry, work, number, error, slot),
            Err(_) if sabotage!(PanicLoses) => Step::Ended,
            Err(panicked) => {
                self.counters().panics.add(1);
                entry.state.counters.panics.add_shared(1);
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
        entry.state.counters.failed.add_shared(1);
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
            entry.state.counters.retries.add_shared(1);
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
        if sabotage!(ReleasedIsFinished) {
            return self.finish(work, Outcome::Done);
        }
        let outcome = self.stopped_by(&work).map_or(Outcome::Abandoned, Outcome::Stopped);
        self.count(&work, &outcome);
        self.give_back(work, outcome);
        if shut { Step::Parked(Parked::Abandoned) } else { Step::Ended }
    }

    /// The failure that stopped the subscription of a record that was submitted in process, if one did.
    fn stopped_by(&self, work: &Work) -> Option<Failure> {
        if let Completion::Source(_) = &work.completion {
            return None;
        }
        self.table.subscription(work.subscription, work.generation)?.state.stopped_by()
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
    pub(crate) fn finish(&mut self, work: Work, outcome: Outcome) -> Step {
        match &outcome {
            Outcome::Done => self.own.counters.outcomes.done.add(1),
            other => self.count(&work, other),
        }
        self.tell(work.completion, outcome);
        self.recycle(work.record);
        Step::Ended
    }

    /// Keeps the block for the next record.
    #[inline(always)]
    pub(crate) fn recycle(&mut self, record: Record) {
        if let Err(record) = record.recycle_to(&mut self.local.blocks) {
            self.recycle_slowly(record);
        }
    }

    /// Tells whoever is to be told.
    #[inline(never)]
    pub(crate) fn tell(&self, completion: Completion, outcome: Outcome) {
        match completion {
            Completion::Untracked => {}
            Completion::Receipt(promise) if sabotage!(ReceiptUnfilled) => std::mem::forget(promise),
            Completion::Receipt(promise) => {
                let waited = if outcome.is_done() { promise.done() } else { Err(promise) };
                // Whoever waits for it is woken by a waker of the caller's.
                let _ = waited.map_err(|promise| guard(|| promise.fulfil(outcome)));
            }
            Completion::Source(token) => match self.table.source(token.source, token.epoch) {
                Some(source) => source.finished.finish(token.slot),
                None if sabotage!(StaleEpochCounted) => {
                    let other = self.table.sources.get(token.source as usize);
                    other.into_iter().flatten().for_each(|other| other.finished.finish(token.slot));
                }
                None => {
                    self.own.counters.stale.add(1);
                    self.table.count_stale(token.epoch);
                }
            },
        }
    }

    #[inline(never)]
    fn recycle_slowly(&self, record: Record) {
        // The drop of a shared payload is a caller's code.
        if guard(|| record.recycle()).is_err() {
            self.own.counters.panics.add(1);
        }
    }

    /// An async attempt has run too long: it is dropped, and counts as failed.
    pub(crate) fn expire(&mut self, attempt: Attempt, work: Work, number: u32, slot: u32) -> Step {
        drop(attempt);
        let entry = self.table.subscription(work.subscription, work.generation);
        entry.inspect(|entry| entry.state.counters.timeouts.add_shared(1));
        let after = entry.and_then(|entry| entry.policy.deadline).unwrap_or_default();
        self.ended(work, number, Ok(Err(deadline_passed(after))), slot)
    }
}
