//! The consume loop of a memory bus: gives each feed its turn, commits what is finished, and sleeps.

use super::feed::{Command, Feed};
use super::shared::Shared;
use crate::bus::{BusError, BusReport};
use crate::clock::Time;
use crate::notice::Notice;
use crate::parker::Parker;
use crate::reply::Answer;
use crate::source::Source;
use crate::sync::Arc;
use crate::unwind::guard;
use std::time::Duration;

/// How long a frontier may have moved without being committed.
const COMMIT: Duration = Duration::from_millis(5);
/// Who waits for the close.
type Closer = Answer<Result<BusReport, BusError>>;

/// The loop, on its thread.
pub(super) struct Loop {
    shared: Arc<Shared>,
    feeds: Vec<Feed>,
    closing: Option<(Time, Vec<Closer>)>,
    committed: Time,
}

impl Loop {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let shared = shared.clone();
        Self { shared, feeds: Vec::new(), closing: None, committed: Time::ZERO }
    }

    /// Runs until the bus is closed or dropped; or until a turn panics, which it must not: then, too, everybody who
    /// waits for the bus hears that it has ended.
    pub(super) fn run(mut self, parker: &Parker) {
        self.shared.begin_loop();
        let turned = guard(|| self.turns(parker));
        self.end(turned.is_ok());
        if let Err(panicked) = turned {
            let error = panicked.to_string();
            self.shared.runtime.core().notice(&Notice::BusFailed { bus: "memory", error });
        }
    }

    fn turns(&mut self, parker: &Parker) {
        loop {
            for command in self.shared.take_commands() {
                self.obey(command, parker);
            }
            self.leave_removed();
            let mut delivered = false;
            let now = self.shared.runtime.clock().now();
            for feed in &mut self.feeds {
                let reads = self.closing.is_none() && !self.shared.faults.holds(&feed.topic.name);
                feed.now = now;
                delivered |= feed.pump(reads);
            }
            if now.since(self.committed) >= COMMIT {
                self.commit(now);
            }
            if self.is_closed(now) || self.shared.is_abandoned() {
                return;
            }
            if !delivered {
                self.sleep(now, parker);
            }
        }
    }

    fn commit(&mut self, now: Time) {
        self.committed = now;
        self.feeds.iter_mut().for_each(Feed::commit);
    }

    /// Sleeps until something is published, finished or commanded. While a frontier has moved that is not
    /// committed yet, finishers need not call: the next commit is near.
    fn sleep(&mut self, now: Time, parker: &Parker) {
        let dirty = self.feeds.iter().any(|feed| feed.changed);
        let full = self.feeds.iter().any(Feed::waits);
        let closing = self.closing.as_ref().map(|closing| closing.0);
        let commit = dirty.then(|| self.committed.after(COMMIT).max(now));
        let deadline = closing.into_iter().chain(commit).min();
        let mut may = true;
        if full || !dirty || closing.is_some() {
            for feed in &mut self.feeds {
                // Room for bytes comes with any record that ends, other room with the oldest.
                let any = feed.waits();
                if let Some(source) = &mut feed.source
                    && source.ledger().unfinished() > 0
                {
                    let ledger = source.ledger();
                    may &= if any { ledger.prepare_wait_any() } else { ledger.prepare_wait() };
                }
            }
        }
        if may {
            let clock = self.shared.runtime.clock().clone();
            parker.park_until(&*clock, deadline);
        }
        for feed in &mut self.feeds {
            if let Some(source) = &mut feed.source {
                source.ledger().cancel_wait();
            }
        }
    }

    fn obey(&mut self, command: Command, parker: &Parker) {
        match command {
            Command::Add { mut feeds, answer } => {
                let begun = feeds.iter_mut().try_for_each(|feed| feed.begin(parker.waker(), true));
                if begun.is_ok() {
                    self.feeds.append(&mut feeds);
                }
                answer.give(begun);
            }
            Command::Remove { group, answer } => {
                for feed in self.feeds.extract_if(.., |feed| feed.group == group) {
                    feed.topic.partitions[feed.partition as usize].leave(group);
                    self.shared.health.forget(feed.subscriber.name());
                }
                answer.give(());
            }
            Command::Restart { group, finished, answer } => {
                let mut own = self.feeds.iter_mut().filter(|feed| feed.group == group);
                answer.give(own.try_for_each(|feed| feed.begin(parker.waker(), finished)));
            }
            Command::Close { deadline, answer } => match &mut self.closing {
                Some((earlier, answers)) => {
                    *earlier = deadline.min(*earlier);
                    answers.push(answer);
                }
                None => self.closing = Some((deadline, vec![answer])),
            },
        }
    }

    /// Subscriptions may also be removed from the runtime: nobody waits for them any more.
    fn leave_removed(&mut self) {
        for feed in self.feeds.extract_if(.., |feed| feed.subscriber.entry.state.is_removed()) {
            feed.topic.partitions[feed.partition as usize].leave(feed.group);
            self.shared.health.forget(feed.subscriber.name());
            self.shared.subscriptions.lock().retain(|member| member.group != feed.group);
        }
    }

    /// Whether the bus is to close and what was read is finished, or the time or the runtime is over.
    fn is_closed(&mut self, now: Time) -> bool {
        let Some((deadline, _)) = &self.closing else { return false };
        // Without workers nothing is finished any more.
        let over = now >= *deadline || self.shared.runtime.core().exits();
        over || self.feeds.iter_mut().all(|feed| {
            feed.source.as_ref().is_none_or(Source::is_stopped) || feed.unfinished() == 0
        })
    }

    /// Ends the subscriptions and answers everybody. What a loop that was cut short knows is not committed.
    fn end(&mut self, whole: bool) {
        let unfinished = guard(|| {
            if whole {
                self.feeds.iter_mut().for_each(|feed| {
                    feed.pump(false);
                });
                self.commit(self.committed);
            }
            self.feeds.iter_mut().map(Feed::unfinished).sum()
        });
        for feed in std::mem::take(&mut self.feeds) {
            let _ = guard(|| {
                let subscriber = feed.subscriber.clone();
                drop(feed);
                // The source's end released what was queued; the removal is the rest's end.
                drop(subscriber.remove());
            });
        }
        let unfinished = unfinished.unwrap_or(0);
        let report = BusReport { drained: whole && unfinished == 0, unfinished };
        self.shared.health.end("the bus is closed");
        self.shared.end(report);
        for answer in self.closing.take().into_iter().flat_map(|closing| closing.1) {
            answer.give(Ok(report));
        }
    }
}
