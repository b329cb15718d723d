//! One subscription's way through one partition: reads, delivers, notes what is finished. It never blocks on
//! a lane: a record that finds no room is kept, and its partition read no further.

use std::collections::VecDeque;

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
    pub(super) topic: Arc<Topic>,
    pub(super) partition: u32,
    pub(super) group: u32,
    pub(super) subscriber: Subscriber,
    /// Whether records hold envelopes.
    pub(super) envelope: bool,
    pub(super) source: Option<Source>,
    /// The next offset to read.
    pub(super) next: u64,
    /// Read and not delivered.
    pub(super) read: VecDeque<Record>,
    pub(super) standing: Arc<Standing>,
    /// The frontier that was committed last.
    pub(super) committed: Option<u64>,
    pub(super) changed: bool,
    /// What is below this offset was delivered before.
    pub(super) delivered: u64,
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
            delivered: 0,
        }
    }

    /// Lets go what was read and not delivered: its payloads' drops are a caller's code.
    fn forget(&mut self) {
        self.read.drain(..).for_each(Record::recycle_quietly);
    }

    /// Begins an assignment where the subscription is committed; with `finished`, what is finished above
    /// that is not delivered again.
    pub(super) fn begin(&mut self, parker: &Parker, finished: bool) -> Result<(), BusError> {
        if finished {
            // What is finished by now and not committed would be delivered again.
            self.pump(false);
            self.commit();
        }
        // The old assignment first: what it finishes from here on counts no more.
        self.source = None;
        self.forget();
        let partition = &self.topic.partitions[self.partition as usize];
        let Some((frontier, stored)) = partition.stored(self.group) else { return Ok(()) };
        let stored = match stored {
            Some(stored) if finished => stored,
            _ => Stored::new(frontier),
        };
        self.next = stored.frontier();
        self.committed = Some(stored.frontier());
        let options = SourceOptions {
            name: format!("{}/{}", self.topic.name, self.partition).into(),
            window: None,
            resume: Some(stored),
            waker: parker.waker().clone(),
        };
        let source = self.subscriber.source(options)?;
        *self.standing.0.lock() = Seen { stopped_by: None, unfinished: 0, epoch: source.epoch() };
        self.source = Some(source);
        Ok(())
    }

    /// Notes what is finished, and delivers what there is room for. True if it delivered something.
    pub(super) fn pump(&mut self, reads: bool) -> bool {
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
            let offset = record.position().map_or(0, |position| position.offset);
            match source.deliver(record) {
                Ok(()) => {
                    delivered += 1;
                    if offset < self.delivered {
                        self.subscriber.entry.state.counters.redelivered.add_shared(1);
                    }
                    self.delivered = self.delivered.max(offset + 1);
                }
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
        source.show();
        let mut seen = self.standing.0.lock();
        seen.unfinished = source.ledger().unfinished();
        if source.is_stopped() && seen.stopped_by.is_none() {
            seen.stopped_by = source.stopped_by();
        }
        delivered > 0
    }

    /// Stores how far the subscription has come.
    pub(super) fn commit(&mut self) {
        let Some(source) = &mut self.source else { return };
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let ledger = source.ledger();
        let (Some(frontier), stored) = (ledger.frontier(), ledger.stored()) else { return };
        self.committed = Some(frontier);
        self.topic.partitions[self.partition as usize].commit(self.group, frontier, stored);
    }

    pub(super) fn unfinished(&mut self) -> usize {
        self.source.as_mut().map_or(0, |source| source.ledger().unfinished())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.forget();
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
