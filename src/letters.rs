//! What becomes of a record that failed for good: the dead letters, or the end of its source.

use crate::attempt::{Step, Visit};
use crate::busy::{Busy, Parked, Post};
use crate::core::CLOSING;
use crate::error::HandlerError;
use crate::handler::Handled;
use crate::notice::Notice;
use crate::outcome::{Failure, Outcome};
use crate::record::KeyText;
use crate::retry::jittered;
use crate::sabotage::sabotage;
use crate::subscription::{Letter, error_text};
use crate::sync::Arc;
use crate::table::Entry;
use crate::unwind::guard;
use crate::work::{Completion, Work};
use std::task::{Context, Poll};
use std::time::Duration;

/// Pauses between sends of a dead letter that is not taken.
const LETTER_FIRST: Duration = Duration::from_millis(50);
const LETTER_MOST: Duration = Duration::from_secs(10);

impl Visit<'_> {
    /// Sends a record whose key is parked after its predecessors.
    pub(crate) fn follow(&mut self, work: Work, slot: u32) -> Step {
        let Some(entry) = self.open_entry(&work) else { return self.refuse(work) };
        let failure = Failure { error: "its key is parked".into(), attempts: 0 };
        self.post(entry, work, failure, 0, false, slot)
    }

    /// Sends a record to the dead letters.
    pub(crate) fn post(
        &mut self,
        entry: &Arc<Entry>,
        work: Work,
        failure: Failure,
        sends: u32,
        park: bool,
        slot: u32,
    ) -> Step {
        let Some(sink) = &entry.dead_letter else { return self.stop(entry, work, failure) };
        let letter = Letter {
            record: work.record.share(),
            subscription: entry.name.clone(),
            error: failure.error.clone(),
            attempts: failure.attempts,
        };
        match self.run(&work.record, work.subscription, || sink.send(letter)) {
            Ok(sending) => {
                let post = Post::new(sending);
                self.posted(work, failure, sends + 1, park, post, slot)
            }
            Err(panicked) => {
                let said = Err(HandlerError::retryable(panicked));
                self.answered(work, failure, sends + 1, park, said, slot)
            }
        }
    }

    /// Looks whether a dead letter is confirmed.
    pub(crate) fn posted(
        &mut self,
        work: Work,
        failure: Failure,
        sends: u32,
        park: bool,
        mut post: Post,
        slot: u32,
    ) -> Step {
        let waker = self.waker(slot);
        let mut cx = Context::from_waker(&waker);
        let polled = self.run(&work.record, work.subscription, || {
            post.sending().map(|sending| sending.as_mut().poll(&mut cx))
        });
        let said = match polled {
            Ok(Some(Poll::Pending)) if sabotage!(LetterUnconfirmed) => Ok(()),
            Ok(Some(Poll::Pending)) => {
                let post = Some(post);
                return Step::Busy(Busy::Letter { post, work, failure, sends, due: None, park });
            }
            Ok(Some(Poll::Ready(said))) => said,
            Ok(None) => Err("the letter was lost".into()),
            Err(panicked) => Err(HandlerError::retryable(panicked)),
        };
        drop(post);
        self.answered(work, failure, sends, park, said, slot)
    }

    /// A dead letter was taken or not.
    fn answered(
        &mut self,
        work: Work,
        failure: Failure,
        sends: u32,
        park: bool,
        said: Handled,
        _slot: u32,
    ) -> Step {
        let entry = self.table.subscription(work.subscription, work.generation);
        match (said, entry) {
            (Ok(()), Some(entry)) => {
                if entry.state.letters().told(None) {
                    let subscription = entry.name.to_string();
                    self.core.notice(&Notice::LettersRecovered { subscription });
                }
                self.lettered(entry, work, failure, park)
            }
            (Ok(()), None) => self.finish(work, Outcome::DeadLettered(failure)),
            (Err(error), Some(entry)) => {
                let text =
                    guard(|| error_text(&error)).unwrap_or_else(|panicked| error_text(&panicked));
                let fatal = !error.is_retryable();
                let _ = guard(|| drop(error));
                if fatal {
                    let error = format!(
                        "{} (dead letter refused: {text}; the record is {})",
                        failure.error,
                        self.name_of(&work)
                    );
                    return self.stop(entry, work, Failure { error: error.into(), ..failure });
                }
                if entry.state.letters().told(Some(&text)) {
                    let (subscription, error) = (entry.name.to_string(), text);
                    self.core.notice(&Notice::LettersRefused { subscription, error });
                }
                if self.core.phase() >= CLOSING || self.open_entry(&work).is_none() {
                    return self.release(work);
                }
                let random = self.random();
                let due =
                    self.now_after().after(jittered(LETTER_FIRST, LETTER_MOST, sends, random));
                self.due(due);
                Step::Busy(Busy::Letter { post: None, work, failure, sends, due: Some(due), park })
            }
            (Err(_), None) => self.release(work),
        }
    }

    /// A record as a person finds it: where it stands, and its key.
    #[cold]
    fn name_of(&self, work: &Work) -> String {
        let key = match work.record.key() {
            Some(key) => format!("key \"{}\"", KeyText(key)),
            None => "no key".to_owned(),
        };
        match (self.source_of(work), work.record.position()) {
            (Some(source), Some(at)) => {
                format!("at offset {} of {}, with {key}", at.offset, source.name)
            }
            _ => format!("one with {key}"),
        }
    }

    /// A record is safe among the dead letters.
    fn lettered(&mut self, entry: &Entry, work: Work, failure: Failure, park: bool) -> Step {
        let key = work.record.key().unwrap_or_default();
        if failure.attempts == 0 {
            let source = self.source_of(&work).map(|source| &source.name);
            entry.state.followed(key, source);
            return self.finish(work, Outcome::Parked);
        }
        if !park {
            return self.finish(work, Outcome::DeadLettered(failure));
        }
        let (generation, state) = (work.generation, entry.state.clone());
        let parked = Parked::Key { generation, state, key: key.into() };
        let source = self.source_of(&work).map(|source| &source.name);
        if !entry.state.park(key, &failure.error, source, self.core.config.parked_keys) {
            let error = format!("{} (and as many keys are parked as may be)", failure.error).into();
            return self.stop(entry, work, Failure { error, ..failure });
        }
        self.finish(work, Outcome::DeadLettered(failure));
        Step::Parked(parked)
    }

    /// A failure stops the source, or in process the subscription. The record stays unfinished.
    #[cold]
    pub(crate) fn stop(&mut self, entry: &Entry, work: Work, failure: Failure) -> Step {
        let partition = work.record.position().map(|position| position.partition);
        match &work.completion {
            Completion::Source(token) => {
                if let Some(source) = self.table.source(token.source, token.epoch) {
                    source.state.stop(Some(&failure));
                }
            }
            _ => {
                entry.state.stop(&failure);
                self.core.wake_loops();
            }
        }
        let error = failure.error.clone();
        let subscription = entry.name.to_string();
        let outcome = Outcome::Stopped(failure);
        self.count(&work, &outcome);
        self.give_back(work, outcome);
        self.core.notice(&Notice::Stopped { subscription, partition, error });
        // What waits for it elsewhere is released, so that nothing lies there until the end.
        self.core.purge();
        Step::Ended
    }
}
