//! One key's history, judged as it happens.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;

use super::verdict::{Finding, SEQS_LISTED, ViolationKind};

/// How an [`Attempt`](super::Attempt) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// The handler succeeded: the record has finished.
    Done,
    /// The handler failed: the record has not finished and may be tried again.
    Failed,
    /// The record went to the dead letters: it has finished.
    DeadLettered,
    /// The record was given up on purpose: it has finished.
    Skipped,
}

/// What is known of a record's publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Published {
    /// Nothing, yet: a producer may learn of its success after the handler has run.
    #[default]
    Untold,
    /// The producer does not know: it may be handled and need not be.
    Perhaps,
    Yes,
    /// It was given back: it must not be started again.
    Returned,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    published: Published,
    started: bool,
    /// The last life of the consumer in which it finished.
    finished: Option<u32>,
    /// Committed by itself, whatever the frontier is.
    acked: bool,
}

impl Record {
    /// Whether a later record of its key has to wait for it, as far as is known.
    fn is_open(&self) -> bool {
        let expected = match self.published {
            Published::Yes => true,
            Published::Untold | Published::Perhaps => self.started,
            Published::Returned => false,
        };
        expected && self.finished.is_none()
    }
}

/// What an attempt is, by what happened before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handling {
    First,
    /// Of a record that has not finished, or not since the restart that explains its replay.
    Retry,
    /// Of a finished record, explained by a restart.
    Replay,
    /// Of a finished record that was committed.
    Regress,
    /// Of a finished record, explained by nothing.
    Duplicate,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyTotals {
    pub(super) published: u64,
    pub(super) finished: u64,
    pub(super) lost: u64,
}

#[derive(Debug)]
pub(super) struct Track {
    key: Bytes,
    records: BTreeMap<u64, Record>,
    /// (attempt, record) of the attempts that have not ended.
    running: Vec<(u64, u64)>,
    /// The latest record ever started.
    latest: Option<u64>,
    /// The latest record started in this life of the consumer.
    reached: Option<u64>,
    /// Everything up to and including this record is committed.
    frontier: Option<u64>,
    life: u32,
}

impl Track {
    pub(super) fn new(key: Bytes) -> Self {
        let (records, running) = (BTreeMap::new(), Vec::new());
        Self { key, records, running, latest: None, reached: None, frontier: None, life: 0 }
    }

    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }

    pub(super) fn published(&mut self, seq: u64, found: &mut Vec<Finding>) {
        let overtaken_by = self.latest.filter(|&latest| latest > seq);
        let record = self.records.entry(seq).or_default();
        let news = record.published != Published::Yes;
        record.published = Published::Yes;
        // Told late: had it been told in time, the start of the later record would have been the gap.
        if let Some(later) = overtaken_by
            && news
            && !record.started
        {
            found.push(gap(Listed { seqs: vec![seq], count: 1 }, later));
        }
    }

    pub(super) fn perhaps_published(&mut self, seq: u64) {
        let record = self.records.entry(seq).or_default();
        if record.published == Published::Untold {
            record.published = Published::Perhaps;
        }
    }

    pub(super) fn returned(&mut self, seq: u64) {
        self.records.entry(seq).or_default().published = Published::Returned;
    }

    /// Notes the start of `attempt` and says what it is.
    pub(super) fn start(
        &mut self,
        seq: u64,
        attempt: u64,
        strict_replay: bool,
        found: &mut Vec<Finding>,
    ) -> Handling {
        let record = self.records.get(&seq).copied().unwrap_or_default();
        if let Some(&(_, other)) = self.running.last() {
            let mut seqs = vec![other.min(seq), other.max(seq)];
            seqs.dedup();
            let sentence =
                format!("record {seq} was started while an attempt at record {other} was running");
            found.push(Finding::new(ViolationKind::Overlap, seqs, sentence));
        }
        if record.published == Published::Returned {
            let sentence = format!("record {seq} was started after it had been given back");
            found.push(Finding::new(ViolationKind::Phantom, vec![seq], sentence));
        }
        let handling = if record.finished.is_some() {
            self.judge_repeat(seq, record, found)
        } else {
            self.judge_order(seq, record, found);
            if record.started { Handling::Retry } else { Handling::First }
        };
        if strict_replay {
            self.judge_replay(seq, found);
        }

        self.records.insert(seq, Record { started: true, ..record });
        self.latest = self.latest.max(Some(seq));
        self.reached = self.reached.max(Some(seq));
        self.running.push((attempt, seq));
        handling
    }

    /// A start of a record that has not finished.
    fn judge_order(&self, seq: u64, record: Record, found: &mut Vec<Finding>) {
        let later = if record.started { self.reached } else { self.latest };
        match later {
            Some(later) if later > seq => found.push(order(seq, later)),
            _ if record.started => {}
            _ => {
                // What lies before `latest` was judged when `latest` was started.
                let from = self.latest.map_or(Unbounded, Included);
                let mut open = Listed::default();
                for (&earlier, record) in self.records.range((from, Excluded(seq))) {
                    // One that runs was reported as an overlap.
                    if record.is_open() && !self.is_running(earlier) {
                        open.add(earlier);
                    }
                }
                if open.count > 0 {
                    found.push(gap(open, seq));
                }
            }
        }
    }

    /// A start of a record that has finished.
    fn judge_repeat(&self, seq: u64, record: Record, found: &mut Vec<Finding>) -> Handling {
        if self.is_committed(seq, record) {
            let sentence = match self.frontier {
                Some(frontier) if frontier > seq => {
                    format!(
                        "record {seq} was handled again after everything up to {frontier} was committed"
                    )
                }
                _ => format!("record {seq} was handled again after it was committed"),
            };
            found.push(Finding::new(ViolationKind::Regress, vec![seq], sentence));
            return Handling::Regress;
        }
        if record.finished == Some(self.life) {
            return Handling::Duplicate;
        }
        match self.reached {
            Some(reached) if reached == seq => return Handling::Retry,
            Some(reached) if reached > seq => found.push(order(seq, reached)),
            _ => {}
        }
        Handling::Replay
    }

    /// A replay that goes on with `seq`: what has not finished again since its start was committed.
    fn judge_replay(&self, seq: u64, found: &mut Vec<Finding>) {
        let Some(reached) = self.reached.filter(|&reached| reached < seq) else { return };
        for (&earlier, record) in self.records.range(reached..seq) {
            let replayed = record.finished == Some(self.life) || self.is_running(earlier);
            if record.finished.is_some() && !replayed && !self.is_committed(earlier, *record) {
                let sentence = format!(
                    "the replay went on to record {seq} before record {earlier}, which was not \
                     committed, had finished again"
                );
                found.push(Finding::new(ViolationKind::Gap, vec![earlier, seq], sentence));
            }
        }
    }

    /// Notes the end of `attempt`; `false` if it is not running (a restart wrote it off).
    pub(super) fn end(&mut self, attempt: u64, outcome: Ended) -> bool {
        let Some(index) = self.running.iter().position(|&(running, _)| running == attempt) else {
            return false;
        };
        let (_, seq) = self.running.swap_remove(index);
        if outcome != Ended::Failed
            && let Some(record) = self.records.get_mut(&seq)
        {
            record.finished = Some(self.life);
        }
        true
    }

    /// Everything up to and including `seq` was committed.
    pub(super) fn committed(&mut self, seq: u64, found: &mut Vec<Finding>) {
        if self.frontier >= Some(seq) {
            return;
        }
        let from = self.frontier.map_or(Unbounded, Excluded);
        let mut open = self.records.range((from, Included(seq)));
        if let Some((&open, _)) = open.find(|(_, record)| record.is_open() && !record.acked) {
            found.push(early_commit(open, seq));
        }
        self.frontier = Some(seq);
    }

    /// `seq` alone was committed.
    pub(super) fn acked(&mut self, seq: u64, found: &mut Vec<Finding>) {
        let record = self.records.entry(seq).or_default();
        if record.is_open() && !record.acked && self.frontier < Some(seq) {
            found.push(early_commit(seq, seq));
        }
        record.acked = true;
    }

    /// Catches up with the restarts since this key was last heard of.
    pub(super) fn enter(&mut self, life: u32) {
        if self.life != life {
            self.life = life;
            self.reached = None;
            self.running.clear();
        }
    }

    /// What can only be said at the end: losses and records nobody published.
    pub(super) fn conclude(&self, found: &mut Vec<Finding>) -> KeyTotals {
        let mut totals = KeyTotals::default();
        let mut lost = Listed::default();
        let mut phantoms = Listed::default();
        for (&seq, record) in &self.records {
            totals.finished += u64::from(record.finished.is_some());
            match record.published {
                Published::Yes => {
                    totals.published += 1;
                    if record.finished.is_none() {
                        lost.add(seq);
                    }
                }
                Published::Untold if record.started => phantoms.add(seq),
                Published::Untold | Published::Perhaps | Published::Returned => {}
            }
        }
        totals.lost = lost.count as u64;
        if let Some(&first) = lost.seqs.first() {
            let how = match self.records.get(&first) {
                _ if self.is_running(first) => "is still running",
                Some(record) if record.started => "was started and never finished",
                _ => "was never started",
            };
            let of = totals.published;
            let sentence = match lost.count {
                1 => format!("record {first} of {of} published {how}"),
                n => format!(
                    "{n} of {of} published did not finish: {}; {first} {how}",
                    lost.describe()
                ),
            };
            found.push(Finding::new(ViolationKind::Loss, lost.seqs, sentence));
        }
        if !phantoms.seqs.is_empty() {
            let sentence = format!("handled but never published: {}", phantoms.describe());
            found.push(Finding::new(ViolationKind::Phantom, phantoms.seqs, sentence));
        }
        totals
    }

    fn is_running(&self, seq: u64) -> bool {
        self.running.iter().any(|&(_, running)| running == seq)
    }

    fn is_committed(&self, seq: u64, record: Record) -> bool {
        record.acked || self.frontier >= Some(seq)
    }
}

/// Sequence numbers: all counted, the first listed.
#[derive(Default)]
struct Listed {
    seqs: Vec<u64>,
    count: usize,
}

impl Listed {
    fn add(&mut self, seq: u64) {
        self.count += 1;
        if self.seqs.len() < SEQS_LISTED {
            self.seqs.push(seq);
        }
    }

    /// "record 4", or "records 4, 5, 6 and 12 more".
    fn describe(&self) -> String {
        let listed: Vec<String> = self.seqs.iter().map(u64::to_string).collect();
        let noun = if self.count == 1 { "record" } else { "records" };
        match self.count - self.seqs.len() {
            0 => format!("{noun} {}", listed.join(", ")),
            more => format!("{noun} {} and {more} more", listed.join(", ")),
        }
    }
}

fn order(seq: u64, later: u64) -> Finding {
    let sentence = format!("record {seq} was started after record {later}");
    Finding::new(ViolationKind::Order, vec![seq, later], sentence)
}

fn gap(mut open: Listed, seq: u64) -> Finding {
    let sentence = format!("record {seq} was started before {} had finished", open.describe());
    open.seqs.push(seq);
    Finding::new(ViolationKind::Gap, open.seqs, sentence)
}

fn early_commit(open: u64, upto: u64) -> Finding {
    let sentence = match open == upto {
        true => format!("record {open} was committed before it had finished"),
        false => format!("everything up to {upto} was committed before record {open} had finished"),
    };
    let mut seqs = vec![open, upto];
    seqs.dedup();
    Finding::new(ViolationKind::EarlyCommit, seqs, sentence)
}
