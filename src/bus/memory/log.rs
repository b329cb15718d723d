//! Topics of the memory bus: partitions with what was published and is not finished by everybody.

use std::collections::VecDeque;

use crate::hash::fnv1a32;
use crate::metrics::Counter;
use crate::position::Stored;
use crate::record::{Position, Record};
use crate::sync::{Arc, Mutex};
use crate::wait_list::WaitList;

/// A topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) partitions: Box<[Partition]>,
    /// Places given to records without a key.
    keyless: Counter,
}

/// A partition of a topic.
#[derive(Debug)]
pub(super) struct Partition {
    log: Mutex<Log>,
    /// Publishers that wait for room.
    pub(super) waiting: WaitList,
}

#[derive(Debug)]
struct Log {
    records: VecDeque<Record>,
    /// The offset of the oldest.
    first: u64,
    capacity: usize,
    /// Subscriptions, and how far each has finished.
    groups: Vec<Group>,
    /// Whether records are kept though nobody reads: dead letters are.
    keeps: bool,
    /// Records that went without anybody having read them.
    dropped: u64,
}

#[derive(Debug)]
struct Group {
    id: u32,
    frontier: u64,
    stored: Option<Stored>,
}

/// How far a subscription is in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) frontier: u64,
    pub(super) end: u64,
    pub(super) dropped: u64,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, partitions: usize, capacity: usize) -> Self {
        let log = || Log {
            records: VecDeque::new(),
            first: 0,
            capacity,
            groups: Vec::new(),
            keeps: false,
            dropped: 0,
        };
        let partition = || Partition { log: Mutex::new(log()), waiting: WaitList::new() };
        let partitions = (0..partitions).map(|_| partition()).collect();
        Self { name, partitions, keyless: Counter::default() }
    }

    /// The partition of a record: FNV-1a of its key, as Go producers on Kafka and NATS' own mapping have it.
    pub(super) fn partition_of(&self, record: &Record) -> u32 {
        let count = self.partitions.len() as u64;
        let place = match record.key() {
            Some(key) => u64::from(fnv1a32(key)),
            None => self.keyless.next_shared(),
        };
        (place % count) as u32
    }

    /// Keeps what nobody reads, instead of dropping the oldest when there is no room.
    pub(super) fn keep(&self) {
        self.partitions.iter().for_each(|partition| partition.log.lock().keeps = true);
    }
}

impl Partition {
    /// Stores a record; gives it back if there is no room.
    pub(super) fn append(&self, number: u32, record: Record) -> Result<Position, Record> {
        let (position, oldest) = {
            let mut log = self.log.lock();
            let mut oldest = None;
            if log.records.len() >= log.capacity {
                if !log.groups.is_empty() || log.keeps {
                    return Err(record);
                }
                oldest = log.records.pop_front();
                log.first += 1;
                log.dropped += 1;
            }
            let position = Position { partition: number, offset: log.end() };
            log.records.push_back(record.with_position(position));
            (position, oldest)
        };
        oldest.into_iter().for_each(Record::recycle_quietly);
        Ok(position)
    }

    /// Copies up to `most` records from `offset` on; returns the offset of the first.
    pub(super) fn read(&self, offset: u64, most: usize, into: &mut VecDeque<Record>) -> u64 {
        let log = self.log.lock();
        let from = offset.max(log.first);
        let skip = (from - log.first) as usize;
        into.extend(log.records.iter().skip(skip).take(most).map(Record::copy));
        from
    }

    /// A subscription begins: at the oldest record, or after the newest.
    pub(super) fn join(&self, id: u32, latest: bool) {
        let mut log = self.log.lock();
        let frontier = if latest { log.end() } else { log.first };
        log.groups.push(Group { id, frontier, stored: None });
    }

    /// A subscription ends: what only it had not finished goes.
    pub(super) fn leave(&self, id: u32) {
        let mut log = self.log.lock();
        log.groups.retain(|group| group.id != id);
        let finished = log.trim();
        drop(log);
        finished.for_each(Record::recycle_quietly);
        self.waiting.wake_all(|| ());
    }

    /// Where a subscription goes on after a restart: its stored position, and its frontier.
    pub(super) fn stored(&self, id: u32) -> Option<(u64, Option<Stored>)> {
        let log = self.log.lock();
        let group = log.groups.iter().find(|group| group.id == id)?;
        Some((group.frontier, group.stored.clone()))
    }

    /// A subscription has come so far. Makes room for those who wait for it.
    pub(super) fn commit(&self, id: u32, frontier: u64, stored: Option<Stored>) {
        let mut log = self.log.lock();
        if let Some(group) = log.groups.iter_mut().find(|group| group.id == id) {
            group.frontier = group.frontier.max(frontier);
            group.stored = stored;
        }
        let finished = log.trim();
        drop(log);
        let freed = finished.len() > 0;
        finished.for_each(Record::recycle_quietly);
        if freed && !self.waiting.is_empty() {
            self.waiting.wake_all(|| ());
        }
    }

    pub(super) fn progress(&self, id: u32) -> Option<Progress> {
        let log = self.log.lock();
        let group = log.groups.iter().find(|group| group.id == id)?;
        Some(Progress { frontier: group.frontier, end: log.end(), dropped: log.dropped })
    }

    /// How many records it holds.
    pub(super) fn len(&self) -> usize {
        self.log.lock().records.len()
    }
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Takes out the records that every subscription has finished. They are for the caller to end once the
    /// lock is released: a payload's drop is somebody else's code, and may ask this log.
    fn trim(&mut self) -> std::vec::IntoIter<Record> {
        let finished = self.groups.iter().map(|group| group.frontier).min().unwrap_or(0);
        let count = finished.saturating_sub(self.first).min(self.records.len() as u64);
        self.first += count;
        self.records.drain(..count as usize).collect::<Vec<_>>().into_iter()
    }
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;

    fn topic(capacity: usize) -> Topic {
        Topic::new("t".into(), 1, capacity)
    }

    fn append(topic: &Topic, payload: &str) -> Result<u64, Record> {
        topic.partitions[0].append(0, Record::new("k", payload)).map(|position| position.offset)
    }

    #[test]
    fn what_everybody_has_finished_goes_and_makes_room() {
        let topic = topic(2);
        let partition = &topic.partitions[0];
        partition.join(1, false);
        partition.join(2, false);
        assert_eq!(append(&topic, "a").unwrap(), 0);
        assert_eq!(append(&topic, "b").unwrap(), 1);
        assert_eq!(append(&topic, "c").unwrap_err().payload(), b"c");
        partition.commit(1, 2, None);
        assert_eq!(partition.len(), 2);
        partition.commit(2, 1, None);
        assert_eq!(partition.len(), 1);
        assert_eq!(append(&topic, "c").unwrap(), 2);
        partition.leave(2);
        assert_eq!((partition.len(), partition.progress(1).unwrap().end), (1, 3));
    }

    #[test]
    fn without_a_reader_the_newest_are_kept_and_dead_letters_all() {
        let topic = topic(2);
        for payload in ["a", "b", "c"] {
            append(&topic, payload).unwrap();
        }
        let mut read = VecDeque::new();
        assert_eq!(topic.partitions[0].read(0, 10, &mut read), 1);
        assert_eq!(read.iter().map(Record::payload).collect::<Vec<_>>(), [b"b", b"c"]);
        topic.keep();
        assert!(append(&topic, "d").is_err());
    }
}
