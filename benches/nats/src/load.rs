//! What is in the streams: records that say which of their key they are, so that whoever handles them can judge order and
//! completeness.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use async_nats::HeaderMap;
use keylane::nats::TopicOptions;

/// A stream's content.
#[derive(Clone, Debug)]
pub struct Load {
    pub stream: &'static str,
    /// The subjects of the stream.
    pub filter: &'static str,
    pub topic: &'static str,
    pub form: Form,
    pub keys: u32,
    pub messages: u64,
    pub size: usize,
    /// Whether a raw loop asks for the stream's own subjects, which the server serves faster than others.
    pub whole: bool,
}

/// Where the key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nowhere: all records are one sequence.
    Plain,
    /// In the subject.
    Keyed,
    /// In a header of this name.
    Header(&'static str),
}

impl Load {
    /// The key of a record: a random sequence, the same in every run.
    pub fn key_of(&self, at: u64) -> u32 {
        let mixed = (at ^ 0x5bd1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        u32::try_from(mixed % u64::from(self.keys)).unwrap_or(0)
    }

    pub fn key(&self, key: u32) -> String {
        format!("order-{key}")
    }

    pub fn subject(&self, key: u32) -> String {
        match self.form {
            // One partition: the bus' own form of a subject with a key.
            Form::Keyed => format!("{}.0.order-{key}", self.topic),
            Form::Plain | Form::Header(_) => self.topic.to_owned(),
        }
    }

    /// The subjects that a consumer asks for: as the bus does.
    pub fn consumed(&self) -> String {
        match self.form {
            Form::Keyed if !self.whole => format!("{}.0.*", self.topic),
            Form::Plain | Form::Keyed | Form::Header(_) => self.filter.to_owned(),
        }
    }

    /// The same, read by a loop that asks for the whole stream.
    pub fn whole(&self) -> Self {
        Self { whole: true, ..self.clone() }
    }

    pub fn header(&self, key: u32) -> Option<HeaderMap> {
        let Form::Header(name) = self.form else { return None };
        let mut headers = HeaderMap::new();
        headers.insert(name, self.key(key).as_str());
        Some(headers)
    }

    pub fn options(&self) -> TopicOptions {
        let options = match self.form {
            Form::Keyed => TopicOptions::keyed(1),
            Form::Plain | Form::Header(_) => TopicOptions::plain(),
        };
        options.stream(self.stream)
    }

    pub fn payload(&self, key: u32, number: u32) -> Vec<u8> {
        let mut payload = vec![b'x'; self.size.max(8)];
        payload[..4].copy_from_slice(&key.to_le_bytes());
        payload[4..8].copy_from_slice(&number.to_le_bytes());
        payload
    }
}

/// What was handled, and whether as it must be. Any thread may note, but of a key only one at a time.
pub struct Tally {
    last: Box<[AtomicU32]>,
    count: AtomicU64,
    wrong: AtomicU64,
    again: AtomicU64,
    stop: AtomicBool,
    /// Messages to handle.
    pub wanted: u64,
}

impl Tally {
    pub fn new(load: &Load, wanted: u64) -> Self {
        Self {
            last: (0..load.keys).map(|_| AtomicU32::new(0)).collect(),
            count: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            again: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            wanted: wanted.min(load.messages),
        }
    }

    /// A record was handled.
    #[inline]
    pub fn note(&self, payload: &[u8]) {
        let number = |at: usize| payload.get(at..at + 4).map(|b| [b[0], b[1], b[2], b[3]]);
        let (Some(key), Some(number)) = (number(0), number(4)) else {
            self.wrong.fetch_add(1, Relaxed);
            return;
        };
        let number = u32::from_le_bytes(number);
        let Some(last) = self.last.get(u32::from_le_bytes(key) as usize) else {
            self.wrong.fetch_add(1, Relaxed);
            return;
        };
        match number.checked_sub(last.load(Relaxed)) {
            Some(1) => last.store(number, Relaxed),
            Some(0) | None => {
                self.again.fetch_add(1, Relaxed);
                return;
            }
            Some(_) => {
                self.wrong.fetch_add(1, Relaxed);
            }
        }
        self.count.fetch_add(1, Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Whether the arm is to end.
    pub fn is_over(&self) -> bool {
        self.stop.load(Relaxed) || self.count() >= self.wanted
    }

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Records out of order or with some of their key missing before them; records that came again.
    pub fn faults(&self) -> (u64, u64) {
        (self.wrong.load(Relaxed), self.again.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_a_swap_are_seen() {
        let load = Load {
            stream: "S",
            filter: "s",
            topic: "s",
            form: Form::Plain,
            keys: 2,
            messages: 9,
            size: 16,
            whole: false,
        };
        let tally = Tally::new(&load, 9);
        for (key, number) in [(0, 1), (1, 1), (0, 2), (0, 2), (1, 3)] {
            tally.note(&load.payload(key, number));
        }
        assert_eq!((tally.count(), tally.faults()), (4, (1, 1)));
        tally.note(b"short");
        assert_eq!(tally.faults(), (2, 1));
    }
}
