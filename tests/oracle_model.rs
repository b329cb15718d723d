//! The ordering oracle against a checker that is slow and plain: on any history both count the same
//! violations of each kind; and a legal history with one fault put into it is convicted of that fault.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use keylane::testing::ViolationKind::*;
use keylane::testing::{Attempt, Ended, Oracle, Verdict, ViolationKind};
use proptest::prelude::*;

const KINDS: [ViolationKind; 8] =
    [Order, Gap, Overlap, Loss, Duplicate, Regress, EarlyCommit, Phantom];

type Counts = BTreeMap<ViolationKind, u64>;

fn counts(verdict: &Verdict) -> Counts {
    KINDS.into_iter().map(|kind| (kind, verdict.count(kind))).filter(|(_, n)| *n > 0).collect()
}

// ---- any history, against the plain checker ----

/// What happened to one key. `id` numbers the attempts.
#[derive(Clone, Copy, Debug)]
enum Event {
    Publish(u64),
    Start { seq: u64, id: usize },
    End { id: usize, finishes: bool },
    Commit(u64),
    Ack(u64),
    Restart,
}
use Event::*;

/// Judges a history by looking at all of it again for every question. Each rule is written down as
/// the table in the oracle's documentation says it, with no state of its own.
struct Plain<'a>(&'a [Event]);

impl<'a> Plain<'a> {
    fn any(&self, f: impl Fn(&Event) -> bool) -> bool {
        self.0.iter().any(f)
    }

    fn before(&self, index: usize) -> Plain<'a> {
        Plain(&self.0[..index])
    }

    /// The part since the last restart.
    fn life(&self) -> Plain<'a> {
        let from = self.0.iter().rposition(|e| matches!(e, Restart)).map_or(0, |i| i + 1);
        Plain(&self.0[from..])
    }

    fn starts(&self) -> impl Iterator<Item = (u64, usize)> {
        self.0.iter().filter_map(|e| match e {
            Start { seq, id } => Some((*seq, *id)),
            _ => None,
        })
    }

    fn published(&self, seq: u64) -> bool {
        self.any(|e| matches!(e, Publish(s) if *s == seq))
    }

    fn started(&self, seq: u64) -> bool {
        self.any(|e| matches!(e, Start { seq: s, .. } if *s == seq))
    }

    /// Whether an attempt at it ended well in the life in which it started.
    fn finished(&self, seq: u64) -> bool {
        self.0.split(|e| matches!(e, Restart)).map(Plain).any(|life| {
            let ids: Vec<_> = life.starts().filter(|start| start.0 == seq).collect();
            life.any(|e| matches!(e, End { id, finishes: true } if ids.contains(&(seq, *id))))
        })
    }

    fn running(&self) -> Vec<u64> {
        let life = self.life();
        let ended = |id| life.any(|e| matches!(e, End { id: i, .. } if *i == id));
        life.starts().filter(|start| !ended(start.1)).map(|start| start.0).collect()
    }

    fn committed(&self, seq: u64) -> bool {
        self.any(|e| match e {
            Commit(upto) => seq <= *upto,
            Ack(s) => seq == *s,
            _ => false,
        })
    }

    /// Known, and not finished.
    fn open(&self, seq: u64) -> bool {
        (self.published(seq) || self.started(seq)) && !self.finished(seq)
    }

    fn judge(&self, seqs: u64, allowed: u64, strict: bool) -> Counts {
        let mut found = Counts::new();
        let mut duplicates = 0;
        for (index, event) in self.0.iter().enumerate() {
            let past = self.before(index);
            let mut add = |kind| *found.entry(kind).or_default() += 1;
            match *event {
                Publish(seq) => {
                    let overtaken = past.starts().any(|start| start.0 > seq);
                    if !past.published(seq) && !past.started(seq) && overtaken {
                        add(Gap);
                    }
                }
                Commit(upto) => {
                    if (1..=upto).any(|seq| past.open(seq) && !past.committed(seq)) {
                        add(EarlyCommit);
                    }
                }
                Ack(seq) => {
                    if past.open(seq) && !past.committed(seq) {
                        add(EarlyCommit);
                    }
                }
                Start { seq, .. } => {
                    let life = past.life();
                    if !past.running().is_empty() {
                        add(Overlap);
                    }
                    let reached = life.starts().map(|start| start.0).max();
                    if !past.finished(seq) {
                        let latest = past.starts().map(|start| start.0).max();
                        let later = if past.started(seq) { reached } else { latest };
                        let skipped = |s| past.open(s) && !past.running().contains(&s);
                        if later > Some(seq) {
                            add(Order);
                        } else if !past.started(seq) && (latest.unwrap_or(1)..seq).any(skipped) {
                            add(Gap);
                        }
                    } else if past.committed(seq) {
                        add(Regress);
                    } else if life.finished(seq) {
                        duplicates += 1;
                        if duplicates > allowed {
                            add(Duplicate);
                        }
                    } else if reached > Some(seq) {
                        add(Order);
                    }
                    if let Some(reached) = reached.filter(|_| strict) {
                        (reached..seq)
                            .filter(|&s| past.finished(s) && !life.finished(s))
                            .filter(|&s| !past.committed(s) && !past.running().contains(&s))
                            .for_each(|_| add(Gap));
                    }
                }
                End { .. } | Restart => {}
            }
        }
        if (1..=seqs).any(|seq| self.published(seq) && !self.finished(seq)) {
            found.insert(Loss, 1);
        }
        if (1..=seqs).any(|seq| self.started(seq) && !self.published(seq)) {
            found.insert(Phantom, 1);
        }
        found
    }
}

const SEQS: u64 = 6;

#[derive(Clone, Debug)]
enum Step {
    Publish(u64),
    /// Starts the record this far from the last one started.
    Start(i64),
    /// Ends one of the attempts that run.
    End(usize, bool),
    /// Starts the next record and finishes it.
    Handle,
    Commit(u64),
    Ack(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let seq = 1..=SEQS;
    prop_oneof![
        3 => seq.clone().prop_map(Step::Publish),
        3 => (-2..=3_i64).prop_map(Step::Start),
        4 => (0..3_usize, any::<bool>()).prop_map(|(which, ok)| Step::End(which, ok)),
        4 => Just(Step::Handle),
        1 => seq.clone().prop_map(Step::Commit),
        1 => seq.prop_map(Step::Ack),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn agrees_with_the_plain_checker(
        published in 0..=SEQS,
        steps in proptest::collection::vec(step(), 0..30),
        allowed in 0..3_u64,
        strict: bool,
    ) {
        let mut oracle = Oracle::new().allow_duplicates(allowed);
        if strict {
            oracle = oracle.strict_replays();
        }
        let mut events = Vec::new();
        let mut attempts: Vec<(usize, Attempt)> = Vec::new();
        let (mut ids, mut at) = (0.., 0_i64);
        for seq in 1..=published {
            oracle.published("k", seq);
            events.push(Publish(seq));
        }
        for step in steps {
            match step {
                Step::Publish(seq) => {
                    oracle.published("k", seq);
                    events.push(Publish(seq));
                }
                Step::Start(by) => {
                    at = (at + by).clamp(1, SEQS as i64);
                    let (seq, id) = (at as u64, ids.next().unwrap());
                    attempts.push((id, oracle.start("k", seq)));
                    events.push(Start { seq, id });
                }
                Step::End(which, finishes) => {
                    if !attempts.is_empty() {
                        let (id, attempt) = attempts.remove(which % attempts.len());
                        attempt.end(if finishes { Ended::Done } else { Ended::Failed });
                        events.push(End { id, finishes });
                    }
                }
                Step::Handle => {
                    at = (at + 1).clamp(1, SEQS as i64);
                    let (seq, id) = (at as u64, ids.next().unwrap());
                    oracle.start("k", seq).end(Ended::Done);
                    events.extend([Start { seq, id }, End { id, finishes: true }]);
                }
                Step::Commit(seq) => {
                    oracle.committed("k", seq);
                    events.push(Commit(seq));
                }
                Step::Ack(seq) => {
                    oracle.acked("k", seq);
                    events.push(Ack(seq));
                }
                Step::Restart => {
                    oracle.restarted();
                    at = 0;
                    events.push(Restart);
                }
            }
        }
        let expected = Plain(&events).judge(SEQS, allowed, strict);
        prop_assert_eq!(counts(&oracle.verdict()), expected, "{:#?}", events);
    }
}

// ---- a legal history with one fault ----

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Swap,
    Drop,
    Repeat,
    Overlap,
    CommitEarly,
    ReplayCommitted,
    Invent,
}

impl Fault {
    /// What it must be convicted of, and of nothing else.
    fn kinds(self) -> &'static [ViolationKind] {
        match self {
            Self::None => &[],
            Self::Swap => &[Order, Gap],
            Self::Drop => &[Gap, Loss, EarlyCommit], // it goes on, and commits
            Self::Repeat => &[Duplicate],
            Self::Overlap => &[Overlap],
            Self::CommitEarly => &[EarlyCommit],
            Self::ReplayCommitted => &[Regress],
            Self::Invent => &[Phantom],
        }
    }
}

/// The sequence number of a key's nth record: holes are legal.
fn seq(n: u64) -> u64 {
    3 * n
}

/// One key as a right consumer sees it: how many records were published, the last one it has handled
/// or gone back to, and the last one committed.
#[derive(Default)]
struct Key {
    published: u64,
    at: u64,
    committed: u64,
}

struct Consumer {
    oracle: Oracle,
    keys: [Key; 3],
}

impl Consumer {
    fn publish(&mut self, key: usize, count: u64) {
        for _ in 0..count {
            self.keys[key].published += 1;
            self.oracle.published([key as u8], seq(self.keys[key].published));
        }
    }

    fn available(&self, key: usize) -> bool {
        self.keys[key].published > self.keys[key].at
    }

    fn start(&self, key: usize, n: u64) -> Attempt {
        self.oracle.start([key as u8], seq(n))
    }

    fn handle(&self, key: usize, n: u64) {
        self.start(key, n).end(Ended::Done);
    }

    /// Handles the next record after `failures` failed attempts.
    fn next(&mut self, key: usize, failures: u8) {
        let n = self.keys[key].at + 1;
        (0..failures).for_each(|_| drop(self.start(key, n)));
        match (failures, n % 5) {
            (0, 0) => self.oracle.skipped([key as u8], seq(n)),
            (2, _) => self.oracle.dead_lettered([key as u8], seq(n)),
            _ => self.handle(key, n),
        }
        self.keys[key].at = n;
    }

    fn commit(&mut self, key: usize, upto: u64) {
        let k = &mut self.keys[key];
        k.committed = k.committed.max(upto);
        self.oracle.committed([key as u8], seq(k.committed));
    }

    /// A crash: what runs is gone, and every key goes back to what it committed.
    fn restart(&mut self, running: bool) {
        for key in (0..self.keys.len()).filter(|&key| running && self.available(key)) {
            std::mem::forget(self.start(key, self.keys[key].at + 1));
        }
        self.oracle.restarted();
        self.keys.iter_mut().for_each(|k| k.at = k.committed);
    }

    fn drain(&mut self, key: usize) {
        while self.available(key) {
            self.next(key, 0);
        }
    }

    /// Handles two records that nobody has started, and does one thing wrong.
    fn inject(&mut self, key: usize, fault: Fault) {
        self.drain(key);
        self.publish(key, 2);
        let (first, second) = (self.keys[key].at + 1, self.keys[key].at + 2);
        match fault {
            Fault::None => [first, second].iter().for_each(|&n| self.handle(key, n)),
            Fault::Swap => [second, first].iter().for_each(|&n| self.handle(key, n)),
            Fault::Drop => self.handle(key, second),
            Fault::Repeat => [first, first, second].iter().for_each(|&n| self.handle(key, n)),
            Fault::Overlap => {
                let running = self.start(key, first);
                self.handle(key, second);
                running.end(Ended::Done);
            }
            Fault::CommitEarly => {
                self.commit(key, first);
                [first, second].iter().for_each(|&n| self.handle(key, n));
            }
            Fault::ReplayCommitted => {
                [first, second].iter().for_each(|&n| self.handle(key, n));
                self.commit(key, second);
                self.restart(false);
                self.handle(key, second);
            }
            Fault::Invent => {
                self.handle(key, first);
                self.oracle.start([key as u8], seq(first) + 1).end(Ended::Done);
                self.handle(key, second);
            }
        }
        self.keys[key].at = second;
        self.commit(key, second);
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    use Fault::*;
    proptest::sample::select(vec![
        None,
        Swap,
        Drop,
        Repeat,
        Overlap,
        CommitEarly,
        ReplayCommitted,
        Invent,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn convicts_the_one_fault_in_a_legal_history(
        moves in proptest::collection::vec((0..8_u8, 0..3_usize, 0..3_u8), 0..60),
        fault in fault(),
        at in 0..60_usize,
        faulty in 0..3_usize,
    ) {
        let mut c = Consumer { oracle: Oracle::new(), keys: Default::default() };
        let at = at.min(moves.len());
        for (i, &(what, key, n)) in moves.iter().enumerate() {
            if i == at {
                c.inject(faulty, fault);
            }
            match what {
                0 | 1 => c.publish(key, 1 + u64::from(n)),
                2..=5 if c.available(key) => c.next(key, n),
                6 => c.commit(key, c.keys[key].at.saturating_sub(u64::from(n))),
                7 => c.restart(n > 0),
                _ => {}
            }
        }
        if at == moves.len() {
            c.inject(faulty, fault);
        }
        (0..3).for_each(|key| c.drain(key));
        let verdict = c.oracle.verdict();
        let convicted: Vec<_> = counts(&verdict).into_keys().collect();
        prop_assert_eq!(&convicted[..], fault.kinds(), "{}", verdict);
        for violation in &verdict.violations {
            prop_assert_eq!(&violation.key[..], &[faulty as u8][..]);
        }
    }
}
