//! Topics of the memory bus: partitions with what was published and is not finished by everybody.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::hash::fnv1a32;
use crate::metrics::Counter;
use crate::position::Stored;
use crate::record::{Position, Record};
use crate::subscription::Start;
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
    /// How often it was made anew.
    made: u64,
    /// Groups that somebody reads for, and how far each has finished.
    groups: Vec<Group>,
    /// Where the others were, the one that left last at the end.
    left: VecDeque<(Arc<str>, Stored)>,
    /// Whether records are kept though nobody reads: dead letters are.
    keeps: bool,
    /// Records that went without anybody having read them.
    dropped: u64,
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    /// The subscription that reads for it.
    id: u32,
    /// Which log its position is of: of another it is lost.
    made: u64,
    frontier: u64,
    stored: Option<Stored>,
}

/// Where a group is in a partition.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Which log that is of: another may have the same offsets.
    pub(super) made: u64,
    pub(super) frontier: u64,
    pub(super) stored: Option<Stored>,
}

/// How far a subscription is in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) frontier: u64,
    pub(super) end: u64,
    pub(super) dropped: u64,
}

/// A position that the partition does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    /// The offset of the oldest record.
    pub(super) first: u64,
    /// The offset that the next one gets.
    pub(super) end: u64,
    /// Whether offsets have begun anew.
    pub(super) anew: bool,
}

/// Groups of a partition whose position is kept though nobody reads for them.
const LEFT: usize = 1_024;

impl Topic {
    pub(super) fn new(name: Arc<str>, partitions: usize, capacity: usize) -> Self {
        let log = || Log {
            records: VecDeque::new(),
            first: 0,
            capacity,
            made: 0,
            groups: Vec::new(),
            left: VecDeque::new(),
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

    /// Copies up to `most` records from `offset` on; returns the offset of the next.
    pub(super) fn read(
        &self,
        offset: u64,
        made: u64,
        most: usize,
        into: &mut VecDeque<Record>,
    ) -> Result<u64, Lost> {
        let log = self.log.lock();
        let (first, end) = (log.first, log.end());
        let anew = log.made != made;
        if anew || !(first..=end).contains(&offset) {
            return Err(Lost { first, end, anew });
        }
        let skip = (offset - first) as usize;
        into.extend(log.records.iter().skip(skip).take(most).map(Record::copy));
        Ok(end.min(offset + most as u64))
    }

    /// A subscription begins to read for its group: where that was, or at what is left from there on; else as it says.
    pub(super) fn join(&self, id: u32, group: &Arc<str>, start: Start) {
        let mut log = self.log.lock();
        if let Some(own) = log.groups.iter_mut().find(|own| own.name == *group) {
            // Its reader was removed, and the loop has not seen that yet.
            own.id = id;
            return;
        }
        let known = log.left.iter().position(|(left, _)| left == group);
        let (frontier, stored) = match known.and_then(|place| log.left.remove(place)) {
            Some((_, stored)) if stored.frontier() >= log.first => {
                (stored.frontier(), Some(stored))
            }
            Some(_) => (log.first, None),
            None => (log.start(start), None),
        };
        let made = log.made;
        log.groups.push(Group { name: group.clone(), id, made, frontier, stored });
    }

    /// A subscription ends: its group's position is kept, what only that had not finished is not.
    pub(super) fn leave(&self, id: u32) {
        let mut log = self.log.lock();
        let mut left = log.groups.extract_if(.., |group| group.id == id).collect::<Vec<_>>();
        left.retain(|group| group.made == log.made);
        for Group { name, frontier, stored, .. } in left {
            if log.left.len() >= LEFT {
                log.left.pop_front();
            }
            log.left.push_back((name, stored.unwrap_or_else(|| Stored::new(frontier))));
        }
        let finished = log.trim();
        drop(log);
        finished.for_each(Record::recycle_quietly);
        self.waiting.wake_all(|| ());
    }

    /// Where a subscription goes on after a restart.
    pub(super) fn place(&self, id: u32) -> Option<Place> {
        let log = self.log.lock();
        let Group { made, frontier, stored, .. } =
            log.groups.iter().find(|group| group.id == id)?;
        Some(Place { made: *made, frontier: *frontier, stored: stored.clone() })
    }

    /// A subscription has come so far. Makes room for those who wait for it.
    pub(super) fn commit(&self, id: u32, frontier: u64, stored: Option<Stored>) {
        let mut log = self.log.lock();
        let made = log.made;
        let mut own = log.groups.iter_mut();
        if let Some(group) = own.find(|group| group.id == id && group.made == made) {
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

    /// A subscription goes on elsewhere.
    pub(super) fn relocate(&self, id: u32, frontier: u64) {
        let mut log = self.log.lock();
        let made = log.made;
        if let Some(group) = log.groups.iter_mut().find(|group| group.id == id) {
            (group.made, group.frontier, group.stored) = (made, frontier, None);
        }
    }

    /// Drops all records; with `anew` offsets begin at 0 again, as if it had been made anew.
    pub(super) fn purge(&self, anew: bool) {
        let mut log = self.log.lock();
        log.first = if anew { 0 } else { log.end() };
        if anew {
            log.made += 1;
            log.left.clear();
        }
        let purged = std::mem::take(&mut log.records);
        drop(log);
        purged.into_iter().for_each(Record::recycle_quietly);
        self.waiting.wake_all(|| ());
    }

    pub(super) fn progress(&self, id: u32) -> Option<Progress> {
        let log = self.log.lock();
        let group = log.groups.iter().find(|group| group.id == id)?;
        Some(Progress { frontier: group.frontier, end: log.end(), dropped: log.dropped })
    }

    /// The offset that the next record gets.
    pub(super) fn end(&self) -> u64 {
        self.log.lock().end()
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

    fn start(&self, start: Start) -> u64 {
        match start {
            Start::Earliest => self.first,
            Start::Latest => self.end(),
            Start::At(time) => {
                let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
                let nanos = i64::try_from(since(time).as_nanos()).unwrap_or(i64::MAX);
                let at = |record: &Record| record.timestamp().is_some_and(|at| at >= nanos);
                let found = self.records.iter().position(at);
                found.map_or(self.end(), |place| self.first + place as u64)
            }
            // If it is not there, the first read says so.
            Start::Position(offset) => offset,
        }
    }

    /// Takes out the records that every subscription has finished. They are for the caller to end once the
    /// lock is released: a payload's drop is somebody else's code, and may ask this log.
    fn trim(&mut self) -> std::vec::IntoIter<Record> {
        // Whose position is lost has finished nothing of what is here.
        let finished = |group: &Group| if group.made == self.made { group.frontier } else { 0 };
        let finished = self.groups.iter().map(finished).min().unwrap_or(0);
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
        partition.join(1, &"a".into(), Start::Earliest);
        partition.join(2, &"b".into(), Start::Earliest);
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
    fn a_group_that_comes_back_goes_on_where_it_was_or_at_what_is_left() {
        let (topic, group) = (topic(9), Arc::<str>::from("a"));
        let partition = &topic.partitions[0];
        partition.join(1, &group, Start::Earliest);
        partition.join(2, &"b".into(), Start::Earliest);
        assert_eq!((0..4).map(|_| append(&topic, "x").unwrap()).last(), Some(3));
        partition.commit(1, 1, Some(Stored::new(1)));
        partition.leave(1);
        partition.join(3, &group, Start::Latest);
        assert_eq!(partition.progress(3).unwrap().frontier, 1);
        // Its reader is removed, and the loop comes late.
        partition.join(4, &group, Start::Latest);
        partition.leave(3);
        assert_eq!(partition.progress(4).unwrap().frontier, 1);
        partition.leave(4);
        partition.commit(2, 3, None);
        partition.join(5, &group, Start::Latest);
        assert_eq!(partition.progress(5).unwrap().frontier, 3);
    }

    #[test]
    fn a_position_that_is_not_there_is_lost() {
        let topic = topic(9);
        let (partition, mut read) = (&topic.partitions[0], VecDeque::new());
        partition.join(1, &"a".into(), Start::Earliest);
        assert_eq!((0..3).map(|_| append(&topic, "x").unwrap()).last(), Some(2));
        let lost = |first, end, anew| Err(Lost { first, end, anew });
        assert_eq!(partition.read(3, 0, 9, &mut read), Ok(3));
        assert_eq!(partition.read(4, 0, 9, &mut read), lost(0, 3, false));
        partition.commit(1, 2, None);
        partition.purge(false);
        assert_eq!(partition.read(0, 0, 9, &mut read), lost(3, 3, false));
        partition.purge(true);
        // The same offset, of another log: nobody has finished what is there.
        assert_eq!(append(&topic, "y").unwrap(), 0);
        partition.commit(1, 1, None);
        assert_eq!(partition.read(0, 0, 9, &mut read), lost(0, 1, true));
        partition.relocate(1, 0);
        assert_eq!(partition.place(1).unwrap().made, 1);
        assert_eq!((partition.read(0, 1, 9, &mut read), read.len()), (Ok(1), 1));
    }

    #[test]
    fn without_a_reader_the_newest_are_kept_and_dead_letters_all() {
        let topic = topic(2);
        for payload in ["a", "b", "c"] {
            append(&topic, payload).unwrap();
        }
        let mut read = VecDeque::new();
        assert_eq!(topic.partitions[0].read(1, 0, 10, &mut read), Ok(3));
        assert_eq!(read.iter().map(Record::payload).collect::<Vec<_>>(), [b"b", b"c"]);
        topic.keep();
        assert!(append(&topic, "d").is_err());
    }
}
