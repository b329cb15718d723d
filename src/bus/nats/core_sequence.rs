//! Numbers on records of core NATS, by which a subscriber sees that some are missing.
//!
//! `kl-seq: PUBLISHER:N`: the publisher's N-th record of that subject, from 1. A publisher that has more subjects
//! than it can count begins again under another name.

use std::collections::HashMap;

use uuid::Uuid;

/// Subjects that are counted.
const SUBJECTS: usize = 65_536;

/// A publisher's numbers.
#[derive(Debug)]
pub(super) struct Sequences {
    publisher: String,
    last: HashMap<Box<str>, u64>,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { publisher: Uuid::now_v7().simple().to_string(), last: HashMap::new() }
    }
}

impl Sequences {
    /// The next number of a subject, and the header that says so.
    pub(super) fn next(&mut self, subject: &str) -> (u64, String) {
        if !self.last.contains_key(subject) && self.last.len() >= SUBJECTS {
            *self = Self::default();
        }
        let last = match self.last.get_mut(subject) {
            Some(last) => last,
            None => self.last.entry(subject.into()).or_default(),
        };
        *last += 1;
        (*last, format!("{}:{last}", self.publisher))
    }

    /// The last number of a subject was not used.
    pub(super) fn take_back(&mut self, subject: &str) {
        if let Some(last) = self.last.get_mut(subject) {
            *last -= 1;
        }
    }
}

/// What a subscriber has seen of publishers' numbers.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: HashMap<(Box<str>, Box<str>), u64>,
}

impl Seen {
    /// How many records are missing before this one. The first of a publisher and subject tells nothing, unless
    /// the subscriber was there before it.
    pub(super) fn missing(&mut self, subject: &str, mark: &str) -> u64 {
        let Some((publisher, number)) = mark.rsplit_once(':') else { return 0 };
        let Ok(number) = number.parse::<u64>() else { return 0 };
        if self.last.len() >= SUBJECTS {
            self.last.clear();
        }
        let last = self.last.insert((publisher.into(), subject.into()), number);
        last.map_or(0, |last| number.saturating_sub(last).saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_by_publisher_and_subject() {
        let (mut first, mut second, mut seen) =
            (Sequences::default(), Sequences::default(), Seen::default());
        let mut missing = |subject: &str, mark: &str| seen.missing(subject, mark);
        for number in 1..=3 {
            let (given, mark) = first.next("a");
            assert_eq!((given, missing("a", &mark)), (number, 0));
        }
        let (_lost, _too) = (first.next("a"), first.next("a"));
        assert_eq!(missing("a", &first.next("a").1), 2);
        assert_eq!(missing("b", &first.next("b").1), 0);
        assert_eq!(missing("a", &second.next("a").1), 0, "another publisher");
        let unused = first.next("a");
        first.take_back("a");
        assert_eq!(first.next("a"), unused);
        for odd in ["", ":", "x", "p:", "p:-1", "p:99999999999999999999999"] {
            assert_eq!(missing("a", odd), 0);
        }
    }

    #[test]
    fn more_subjects_than_can_be_counted_are_a_new_publisher() {
        let mut sequences = Sequences::default();
        let (_, first) = sequences.next("0");
        for subject in 1..=SUBJECTS {
            sequences.next(&subject.to_string());
        }
        let (number, again) = sequences.next("0");
        assert_eq!(number, 1);
        assert_ne!(first, again);
        assert!(sequences.last.len() <= SUBJECTS);
    }
}
