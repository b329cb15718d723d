//! One subscription's way through one partition: reads, delivers, notes what is finished. It never blocks on
//! a lane: a record that finds no room is kept, and its partition read no further.

use std::collections::VecDeque;
use std::task::Waker;

use super::log::{Lost, Place, Topic};
use crate::bus::keyed::{KeyIn, keyed};
use crate::bus::{BusError, BusEvent, BusHealth, BusReport, ReasonKind};
use crate::clock::Time;
use crate::delivery::DeliverError;
use crate::outcome::Failure;
use crate::position::Stored;
use crate::record::Record;
use crate::reply::Answer;
use crate::source::{Source, SourceOptions};
use crate::subscriber::Subscriber;
use crate::subscription::OnLost;
use crate::sync::{Arc, Mutex};
use crate::undelivered::Undelivered;

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
    /// Which of the subscription's topics that is.
    pub(super) place: u32,
    pub(super) partition: u32,
    pub(super) group: u32,
    pub(super) subscriber: Subscriber,
    /// Which of the partition's logs it reads.
    made: u64,
    /// Its name: topic and partition.
    name: Arc<str>,
    /// What it is called where it is one of many: of each subscription there may be one of its name.
    label: String,
    key_in: KeyIn,
    health: BusHealth,
    waker: Waker,
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
    /// When this turn of the loop began.
    pub(super) now: Time,
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
        place: u32,
        partition: u32,
        subscriber: &Subscriber,
        key_in: KeyIn,
        health: &BusHealth,
        standing: Arc<Standing>,
    ) -> Self {
        Self {
            name: format!("{}/{partition}", topic.name).into(),
            label: format!("{}/{partition} of {}", topic.name, subscriber.name()),
            made: 0,
            key_in,
            health: health.clone(),
            waker: Waker::noop().clone(),
            topic: topic.clone(),
            place,
            partition,
            group: subscriber.entry.generation,
            subscriber: subscriber.clone(),
            source: None,
            next: 0,
            read: VecDeque::new(),
            standing,
            committed: None,
            changed: false,
            delivered: 0,
            now: Time::ZERO,
        }
    }

    /// Lets go what was read and not delivered: its payloads' drops are a caller's code.
    fn forget(&mut self) {
        self.read.drain(..).for_each(Record::recycle_quietly);
    }

    /// Begins an assignment where the group is committed; with `finished`, what is finished above that is not
    /// delivered again.
    pub(super) fn begin(&mut self, waker: &Waker, finished: bool) -> Result<(), BusError> {
        if finished {
            // What is finished by now and not committed would be delivered again.
            self.pump(false);
            self.commit();
        }
        // The old assignment first: what it finishes from here on counts no more.
        self.source = None;
        self.forget();
        self.waker = waker.clone();
        let partition = &self.topic.partitions[self.partition as usize];
        let Some(Place { made, frontier, stored }) = partition.place(self.group) else {
            return Ok(());
        };
        self.made = made;
        let stored = match stored {
            Some(stored) if finished => stored,
            _ => Stored::new(frontier),
        };
        self.next = stored.frontier();
        self.committed = Some(stored.frontier());
        let options = SourceOptions {
            name: self.name.clone(),
            window: None,
            resume: Some(stored),
            waker: waker.clone(),
        };
        let source = self.subscriber.source(options)?;
        self.health.forget(&self.label);
        *self.standing.0.lock() = Seen { stopped_by: None, unfinished: 0, epoch: source.epoch() };
        self.source = Some(source);
        Ok(())
    }

    /// Notes what is finished, and delivers what there is room for. True if it delivered something.
    pub(super) fn pump(&mut self, reads: bool) -> bool {
        let Some(source) = &mut self.source else { return false };
        self.changed |= source.ledger().advance(|_| ()) | source.parked_changed();
        let mut delivered = 0;
        while reads
            && delivered < TURN
            && let Some(record) = self.next_record()
        {
            let offset = record.position().map_or(0, |position| position.offset);
            if !self.deliver(record) {
                break;
            }
            delivered += 1;
            if offset < self.delivered {
                self.subscriber.entry.state.counters.redelivered.add_shared(1);
            }
            self.delivered = self.delivered.max(offset + 1);
        }
        self.source.iter_mut().for_each(Source::ring);
        self.show();
        delivered > 0
    }

    /// The next record to deliver, if its source takes any: what was read is not held back by a pause.
    fn next_record(&mut self) -> Option<Record> {
        loop {
            let source = self.source.as_ref().filter(|source| !source.is_stopped())?;
            if let Some(record) = self.read.pop_front() {
                let record = record.with_topic_index(self.place);
                return Some(record.with_epoch(u64::from(source.epoch())));
            }
            // While it is paused it is only looked whether the position is still there.
            let most = if source.is_paused() { 0 } else { TURN };
            let partition = &self.topic.partitions[self.partition as usize];
            match partition.read(self.next, self.made, most, &mut self.read) {
                Ok(next) => self.next = next,
                Err(lost) => self.lose(lost)?,
            }
            if self.read.is_empty() {
                return None;
            }
        }
    }

    /// Delivers a record, or keeps it. True if the next one may come.
    fn deliver(&mut self, record: Record) -> bool {
        let Some(source) = &mut self.source else { return false };
        match source.put(keyed(record, self.key_in)) {
            Ok(()) => true,
            Err(
                Undelivered::Full(record)
                | Undelivered::Stopped(record)
                | Undelivered::Bytes(record)
                | Undelivered::Ledger(DeliverError::WindowFull, record),
            ) => {
                self.read.push_front(record);
                false
            }
            Err(Undelivered::Ledger(
                DeliverError::AlreadyFinished | DeliverError::InFlight | DeliverError::Passed,
                _,
            )) => true,
            Err(Undelivered::Ledger(error, record)) => {
                self.read.push_front(record);
                self.stop(error.to_string())
            }
            Err(Undelivered::Key(refusal, record)) => {
                // Its order cannot be kept, and passing over it would lose it.
                self.read.push_front(record);
                self.stop(refusal.to_string())
            }
        }
    }

    fn stop(&mut self, error: String) -> bool {
        let failure = Failure { error: error.into(), attempts: 0 };
        self.source.iter().for_each(|source| source.stop_by(self.partition, &failure));
        false
    }

    /// The partition does not have the position to go on at: as the subscription says. `None` if it does not go on
    /// now.
    fn lose(&mut self, lost: Lost) -> Option<()> {
        let Lost { first, end, anew } = lost;
        let to = match self.subscriber.entry.policy.on_lost {
            OnLost::Stop => None,
            OnLost::Earliest => Some(first),
            OnLost::Latest => Some(end),
        };
        let under_way = self.unfinished() > 0;
        if under_way && to.is_some_and(|to| anew || to < self.next) {
            // Offsets begin anew: those of before come to their end first.
            return None;
        }
        let then = to.map_or_else(
            || "reading stops, as `on_lost_position` says".to_owned(),
            |to| format!("reading goes on at {to}"),
        );
        let made = if anew { "was made anew and " } else { "" };
        let error = format!(
            "position {} of {} is lost, it {made}has {first} to {end}: {then}",
            self.next, self.name
        );
        let source = self.label.clone();
        self.health.say(BusEvent::PositionLost { source, error: error.clone() });
        match to {
            None => {
                self.health.raise(ReasonKind::LostPosition, &self.label, &*error);
                self.stop(error);
                return None;
            }
            // What is under way ends as it would have.
            Some(to) if under_way => self.next = to,
            Some(to) => {
                self.topic.partitions[self.partition as usize].relocate(self.group, to);
                self.begin(&self.waker.clone(), false).ok()?;
            }
        }
        Some(())
    }

    /// Says how far it is.
    fn show(&mut self) {
        let Some(source) = &mut self.source else { return };
        let end = self.topic.partitions[self.partition as usize].end();
        let frontier = source.ledger().frontier().unwrap_or(self.next);
        source.set_lag(end.saturating_sub(frontier));
        source.turn(self.now);
        let mut seen = self.standing.0.lock();
        seen.unfinished = source.ledger().unfinished();
        if source.is_stopped()
            && seen.stopped_by.is_none()
            && let Some(failure) = source.stopped_by()
        {
            seen.stopped_by = Some(failure.clone());
            drop(seen);
            self.health.source_stopped(&self.label, &failure.error);
        }
    }

    /// Stores how far the subscription has come.
    pub(super) fn commit(&mut self) {
        let Some(source) = &mut self.source else { return };
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let (Some(frontier), stored) = (source.ledger().frontier(), source.stored_with_parked())
        else {
            return;
        };
        source.committed(self.now);
        self.committed = Some(frontier);
        self.topic.partitions[self.partition as usize].commit(self.group, frontier, stored);
    }

    /// Whether it has read what its source has no room for.
    pub(super) fn waits(&self) -> bool {
        let full = |source: &Source| source.is_full();
        !self.read.is_empty() && self.source.as_ref().is_some_and(full)
    }

    pub(super) fn unfinished(&mut self) -> usize {
        self.source.as_mut().map_or(0, |source| source.ledger().unfinished())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.health.forget(&self.label);
        self.forget();
    }
}
