//! The consume loop of a memory bus: reads partitions, delivers to the runtime, commits what is finished.
//! It never blocks on a lane: a record that finds no room is kept, and its partition read no further.

use std::collections::VecDeque;
use std::time::Duration;

use super::Shared;
use super::log::Topic;
use crate::bus::{BusError, BusReport};
use crate::clock::Time;
use crate::delivery::DeliverError;
use crate::envelope::{Envelope, extract_key};
use crate::outcome::Failure;
use crate::parker::Parker;
use crate::position::Stored;
use crate::record::Record;
use crate::reply::Answer;
use crate::source::{Source, SourceOptions, Undelivered};
use crate::subscriber::Subscriber;
use crate::sync::{Arc, Mutex};

/// How long a frontier may have moved without being committed.
const COMMIT: Duration = Duration::from_millis(5);
/// Records that one partition delivers before the next has its turn.
const TURN: usize = 256;

/// What the loop is told.
pub(super) enum Command {
    Add {
        feeds: Vec<Feed>,
        answer: Answer<Result<(), BusError>>,
    },
    /// Ends a subscription's feeds.
    Remove {
        group: u32,
        answer: Answer<()>,
    },
    /// Begins a subscription's feeds anew where they were committed.
    Restart {
        group: u32,
        finished: bool,
        answer: Answer<Result<(), BusError>>,
    },
    Close {
        deadline: Time,
        answer: Answer<Result<BusReport, BusError>>,
    },
}

/// One subscription's way through one partition.
pub(super) struct Feed {
    topic: Arc<Topic>,
    partition: u32,
    group: u32,
    subscriber: Subscriber,
    /// Whether records hold envelopes.
    envelope: bool,
    source: Option<Source>,
    /// The next offset to read.
    next: u64,
    /// Read and not delivered.
    read: VecDeque<Record>,
    standing: Arc<Standing>,
    /// The frontier that was committed last.
    committed: Option<u64>,
    changed: bool,
}

/// What others may know of a feed.
#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<Seen>);

#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) stopped_by: Option<Failure>,
    pub(super) unfinished: usize,
    pub(super) epoch: u32,
}

impl Standing {
    pub(super) fn seen(&self) -> Seen {
        self.0.lock().clone()
    }
}

impl Feed {
    pub(super) fn new(
        topic: &Arc<Topic>,
        partition: u32,
        subscriber: &Subscriber,
        envelope: bool,
        standing: Arc<Standing>,
    ) -> Self {
        Self {
            topic: topic.clone(),
            partition,
            group: subscriber.entry.generation,
            subscriber: subscriber.clone(),
            envelope,
            source: None,
            next: 0,
            read: VecDeque::new(),
            standing,
            committed: None,
            changed: false,
        }
    }

    /// Begins an assignment where the subscription is committed; with `finished`, what is finished above
    /// that is not delivered again.
    fn begin(&mut self, parker: &Parker, finished: bool) -> Result<(), BusError> {
        if finished {
            // What is finished by now and not committed would be delivered again.
            self.pump(false);
            self.commit();
        }
        // The old assignment first: what it finishes from here on counts no more.
        self.source = None;
        self.read.clear();
        let partition = &self.topic.partitions[self.partition as usize];
        let Some((frontier, stored)) = partition.stored(self.group) else { return Ok(()) };
        let stored = match stored {
            Some(stored) if finished => stored,
            _ => Stored::new(frontier),
        };
        self.next = stored.frontier();
        self.committed = Some(stored.frontier());
        let options =
            SourceOptions { window: None, resume: Some(stored), waker: parker.waker().clone() };
        let source = self.subscriber.source(options)?;
        *self.standing.0.lock() = Seen { stopped_by: None, unfinished: 0, epoch: source.epoch() };
        self.source = Some(source);
        Ok(())
    }

    /// Notes what is finished, and delivers what there is room for. True if it delivered something.
    fn pump(&mut self, reads: bool) -> bool {
        let Some(source) = &mut self.source else { return false };
        self.changed |= source.ledger().advance(|_| ());
        let mut delivered = 0;
        while reads && delivered < TURN && !source.is_stopped() {
            if self.read.is_empty() {
                let partition = &self.topic.partitions[self.partition as usize];
                self.next = partition.read(self.next, TURN, &mut self.read);
                self.next += self.read.len() as u64;
            }
            let Some(record) = self.read.pop_front() else { break };
            let record = keyed(record, self.envelope).with_epoch(u64::from(source.epoch()));
            match source.deliver(record) {
                Ok(()) => delivered += 1,
                Err(Undelivered::Full(record) | Undelivered::Stopped(record)) => {
                    self.read.push_front(record);
                    break;
                }
                Err(Undelivered::Ledger(DeliverError::WindowFull, record)) => {
                    self.read.push_front(record);
                    break;
                }
                Err(Undelivered::Ledger(
                    DeliverError::AlreadyFinished | DeliverError::InFlight | DeliverError::Passed,
                    _,
                )) => {}
                Err(Undelivered::Ledger(error, record)) => {
                    self.read.push_front(record);
                    let failure = Failure { error: error.to_string().into(), attempts: 0 };
                    source.stop_by(self.partition, &failure);
                }
                Err(Undelivered::Key(refusal, record)) => {
                    // Its order cannot be kept, and passing over it would lose it.
                    self.read.push_front(record);
                    let failure = Failure { error: refusal.to_string().into(), attempts: 0 };
                    source.stop_by(self.partition, &failure);
                }
            }
        }
        let mut seen = self.standing.0.lock();
        seen.unfinished = source.ledger().unfinished();
        if source.is_stopped() && seen.stopped_by.is_none() {
            seen.stopped_by = source.stopped_by();
        }
        delivered > 0
    }

    /// Stores how far the subscription has come.
    fn commit(&mut self) {
        let Some(source) = &mut self.source else { return };
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let ledger = source.ledger();
        let (Some(frontier), stored) = (ledger.frontier(), ledger.stored()) else { return };
        self.committed = Some(frontier);
        self.topic.partitions[self.partition as usize].commit(self.group, frontier, stored);
    }

    fn unfinished(&mut self) -> usize {
        self.source.as_mut().map_or(0, |source| source.ledger().unfinished())
    }
}

/// A record with the key that its envelope or its headers give it, if it has none of its own.
fn keyed(record: Record, envelope: bool) -> Record {
    if !envelope || record.key().is_some() {
        return record;
    }
    let decoded = Envelope::decode(record.payload()).ok().map(Envelope::into_owned);
    let headers = record
        .headers()
        .filter_map(|header| Some((std::str::from_utf8(header.name).ok()?, header.value?)));
    match extract_key(decoded.as_ref(), headers, None, None) {
        Ok(key) => {
            let key = key.to_owned();
            record.with_key(key.as_bytes(), decoded)
        }
        Err(_) => record,
    }
}

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

    pub(super) fn run(mut self, parker: &Parker) {
        loop {
            for command in self.shared.take_commands() {
                self.obey(command, parker);
            }
            self.leave_removed();
            let mut delivered = false;
            for feed in &mut self.feeds {
                let reads = self.closing.is_none() && !self.shared.faults.holds(&feed.topic.name);
                delivered |= feed.pump(reads);
            }
            let now = self.shared.runtime.clock().now();
            if now.since(self.committed) >= COMMIT {
                self.commit(now);
            }
            if self.is_closed(now) || self.shared.is_abandoned() {
                break;
            }
            if !delivered {
                self.sleep(now, parker);
            }
        }
        self.end();
    }

    fn commit(&mut self, now: Time) {
        self.committed = now;
        self.feeds.iter_mut().for_each(Feed::commit);
    }

    /// Sleeps until something is published, finished or commanded. While a frontier has moved that is not
    /// committed yet, finishers need not call: the next commit is near.
    fn sleep(&mut self, now: Time, parker: &Parker) {
        let dirty = self.feeds.iter().any(|feed| feed.changed);
        let full = self.feeds.iter_mut().any(|feed| {
            !feed.read.is_empty()
                && feed.source.as_mut().is_some_and(|source| source.ledger().is_full())
        });
        let mut deadline = self.closing.as_ref().map(|closing| closing.0);
        let mut may = true;
        if dirty && !full && self.closing.is_none() {
            deadline = Some(self.committed.after(COMMIT).max(now));
        } else {
            for feed in &mut self.feeds {
                if let Some(source) = &mut feed.source
                    && source.ledger().unfinished() > 0
                {
                    may &= source.ledger().prepare_wait();
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
                let begun = feeds.iter_mut().try_for_each(|feed| feed.begin(parker, true));
                if begun.is_ok() {
                    self.feeds.append(&mut feeds);
                }
                answer.give(begun);
            }
            Command::Remove { group, answer } => {
                for feed in self.feeds.extract_if(.., |feed| feed.group == group) {
                    feed.topic.partitions[feed.partition as usize].leave(group);
                }
                answer.give(());
            }
            Command::Restart { group, finished, answer } => {
                let mut own = self.feeds.iter_mut().filter(|feed| feed.group == group);
                answer.give(own.try_for_each(|feed| feed.begin(parker, finished)));
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

    fn end(mut self) {
        let now = self.shared.runtime.clock().now();
        for feed in &mut self.feeds {
            feed.pump(false);
        }
        self.commit(now);
        let unfinished = self.feeds.iter_mut().map(Feed::unfinished).sum();
        for feed in self.feeds {
            let Feed { source, subscriber, .. } = feed;
            drop(source);
            // The source's end released what was queued; the removal is the rest's end.
            drop(subscriber.remove());
        }
        let report = BusReport { drained: unfinished == 0, unfinished };
        self.shared.end(report);
        for answer in self.closing.into_iter().flat_map(|closing| closing.1) {
            answer.give(Ok(report));
        }
    }
}
