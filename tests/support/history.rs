//! What happened in a test, recorded as it happens, by any number of processes, and judged afterwards by nothing else.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

/// Every fault is followed by progress within this time.
pub const RECOVERY: Duration = Duration::from_secs(15);

/// Something that happened, and when: since the epoch, the one clock that all processes of a machine can name.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at: Duration,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The broker has confirmed it.
    Published {
        key: String,
        seq: u64,
    },
    /// Nobody knows whether the broker has it.
    PerhapsPublished {
        key: String,
        seq: u64,
    },
    /// The broker was made to drop it.
    Removed {
        key: String,
        seq: u64,
    },
    /// A handler begins. Runs are numbered within a process.
    Start {
        process: u32,
        run: u64,
        key: String,
        seq: u64,
        attempt: u64,
    },
    End {
        process: u32,
        run: u64,
        done: bool,
    },
    /// The process is gone, and whatever ran there.
    Died {
        process: u32,
    },
    /// From here on progress is due.
    Healed {
        fault: String,
    },
}

impl Event {
    pub fn now(what: What) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        Self { at, what }
    }

    /// One line, for another process to read.
    pub fn line(&self) -> Option<String> {
        let at = self.at.as_nanos();
        match &self.what {
            What::Start { run, key, seq, attempt, .. } => {
                Some(format!("@S {at} {run} {key} {seq} {attempt}"))
            }
            What::End { run, done, .. } => Some(format!("@E {at} {run} {done}")),
            _ => None,
        }
    }

    /// What another process wrote; other lines are none of ours.
    pub fn of_line(process: u32, line: &str) -> Option<Self> {
        let mut words = line.get(line.find('@')?..)?.split_ascii_whitespace();
        let kind = words.next()?;
        let at = Duration::from_nanos(words.next()?.parse().ok()?);
        let run = words.next()?.parse().ok()?;
        let what = match kind {
            "@S" => What::Start {
                process,
                run,
                key: words.next()?.to_owned(),
                seq: words.next()?.parse().ok()?,
                attempt: words.next()?.parse().ok()?,
            },
            "@E" => What::End { process, run, done: words.next()?.parse().ok()? },
            _ => return None,
        };
        Some(Self { at, what })
    }
}

/// The record of one test. Clones are the same one.
#[derive(Clone, Default)]
pub struct History(Arc<Shared>);

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
    runs: AtomicU64,
}

/// The process that the test itself is.
pub const SELF: u32 = 0;

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&self, event: Event) {
        self.0.events.lock().push(event);
        self.0.changed.notify_all();
    }

    fn tell(&self, what: What) {
        self.add(Event::now(what));
    }

    pub fn published(&self, key: &str, seq: u64) {
        self.tell(What::Published { key: key.to_owned(), seq });
    }

    pub fn perhaps_published(&self, key: &str, seq: u64) {
        self.tell(What::PerhapsPublished { key: key.to_owned(), seq });
    }

    pub fn removed(&self, key: &str, seq: u64) {
        self.tell(What::Removed { key: key.to_owned(), seq });
    }

    pub fn healed(&self, fault: &str) {
        self.tell(What::Healed { fault: fault.to_owned() });
    }

    pub fn died(&self, process: u32) {
        self.tell(What::Died { process });
    }

    /// A handler of this process begins; it ends by [`ended`](Self::ended) with the number returned.
    pub fn started(&self, key: &str, seq: u64, attempt: u64) -> u64 {
        let run = self.0.runs.fetch_add(1, Relaxed);
        self.tell(What::Start { process: SELF, run, key: key.to_owned(), seq, attempt });
        run
    }

    pub fn ended(&self, run: u64, done: bool) {
        self.tell(What::End { process: SELF, run, done });
    }

    pub fn judge(&self) -> Judgement {
        Judgement::of(self.0.events.lock().clone())
    }

    /// Waits until `enough` holds of what is judged so far; says whether that came true in time.
    pub fn wait(&self, time: Duration, enough: impl Fn(&Judgement) -> bool) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let known = {
                let events = self.0.events.lock();
                events.clone()
            };
            let size = known.len();
            if enough(&Judgement::of(known)) {
                return true;
            }
            let mut events = self.0.events.lock();
            while events.len() == size {
                if self.0.changed.wait_until(&mut events, deadline).timed_out() {
                    return false;
                }
            }
            // Judging is linear in what happened: not once an event.
            self.0
                .changed
                .wait_until(&mut events, deadline.min(Instant::now() + Duration::from_millis(20)));
        }
    }

    /// Whether a handler of this record begins in time.
    pub fn wait_started(&self, key: &str, least: u64, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut events = self.0.events.lock();
        let mut read = 0;
        loop {
            let begun = |event: &Event| matches!(&event.what, What::Start { key: k, seq, .. } if k == key && *seq >= least);
            if events[read..].iter().any(begun) {
                return true;
            }
            read = events.len();
            if self.0.changed.wait_until(&mut events, deadline).timed_out() && events.len() == read
            {
                return false;
            }
        }
    }
}

/// What a history says of a consumer.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    pub published: usize,
    /// Records that were handled to a good end.
    pub handled: usize,
    pub starts: usize,
    /// Confirmed and never handled to a good end.
    pub lost: Vec<String>,
    /// A record began before an earlier one of its key had ended well for the first time.
    pub disorder: Vec<String>,
    /// Two handlers of one key ran at once in one process.
    pub overlaps: Vec<String>,
    /// The same in two processes, of which one was believed dead.
    pub overlaps_across: usize,
    /// Starts of records that had ended well before.
    pub duplicates: usize,
    /// Starts of records that nobody published.
    pub phantoms: Vec<String>,
    pub recoveries: Vec<Recovery>,
}

/// A fault's end, and how long it took until a record ended well for the first time; never is none.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub fault: String,
    pub healed: Duration,
    pub took: Option<Duration>,
}

/// One key, as it is judged.
#[derive(Default)]
struct Key {
    /// Whether it ended well, by sequence number. Removed ones are as good as done.
    records: BTreeMap<u64, Record>,
    /// Handlers that run: process, run.
    running: Vec<(u32, u64)>,
}

#[derive(Default)]
struct Record {
    confirmed: bool,
    published: bool,
    removed: bool,
    done: bool,
}

impl Judgement {
    fn of(mut events: Vec<Event>) -> Self {
        events.sort_by_key(|event| event.at);
        let mut verdict = Self::default();
        let mut keys: HashMap<String, Key> = HashMap::new();
        // What was published counts from the beginning: a confirmation may come after the handling.
        for event in &events {
            let (What::Published { key, seq }
            | What::PerhapsPublished { key, seq }
            | What::Removed { key, seq }) = &event.what
            else {
                continue;
            };
            let record = keys.entry(key.clone()).or_default().records.entry(*seq).or_default();
            record.published = true;
            record.confirmed |= matches!(event.what, What::Published { .. });
            record.removed |= matches!(event.what, What::Removed { .. });
        }
        let mut runs: HashMap<(u32, u64), (String, u64)> = HashMap::new();
        for Event { at, what } in events {
            match what {
                What::Start { process, run, key, seq, .. } => {
                    verdict.start(keys.entry(key.clone()).or_default(), process, run, &key, seq);
                    runs.insert((process, run), (key, seq));
                }
                What::End { process, run, done } => {
                    let Some((name, seq)) = runs.remove(&(process, run)) else { continue };
                    let Some(key) = keys.get_mut(&name) else { continue };
                    key.running.retain(|running| *running != (process, run));
                    let record = key.records.entry(seq).or_default();
                    if done && !std::mem::replace(&mut record.done, true) {
                        verdict.handled += 1;
                        verdict.progress(at);
                    }
                }
                What::Died { process } => {
                    for key in keys.values_mut() {
                        key.running.retain(|(of, _)| *of != process);
                    }
                }
                What::Healed { fault } => {
                    verdict.recoveries.push(Recovery { fault, healed: at, took: None });
                }
                _ => {}
            }
        }
        verdict.conclude(&keys)
    }

    fn start(&mut self, key: &mut Key, process: u32, run: u64, name: &str, seq: u64) {
        self.starts += 1;
        let earlier = key.records.range(..seq).find(|(_, r)| r.published && !r.done && !r.removed);
        let done = key.records.get(&seq).is_some_and(|record| record.done);
        if let Some((earlier, _)) = earlier
            && !done
        {
            self.disorder.push(format!("{name}: {seq} began before {earlier} had ended"));
        }
        if !key.records.get(&seq).is_some_and(|record| record.published) {
            self.phantoms.push(format!("{name}: {seq} began and nobody published it"));
        }
        self.duplicates += usize::from(done);
        if key.running.iter().any(|(of, _)| *of == process) {
            self.overlaps.push(format!("{name}: {seq} began while another ran"));
        } else {
            self.overlaps_across += usize::from(!key.running.is_empty());
        }
        key.running.push((process, run));
    }

    /// A record ended well for the first time.
    fn progress(&mut self, at: Duration) {
        for recovery in &mut self.recoveries {
            recovery.took.get_or_insert(at.saturating_sub(recovery.healed));
        }
    }

    fn conclude(mut self, keys: &HashMap<String, Key>) -> Self {
        for (name, key) in keys {
            for (seq, record) in &key.records {
                self.published += usize::from(record.confirmed);
                if record.confirmed && !record.removed && !record.done {
                    self.lost.push(format!("{name}: {seq}"));
                }
            }
        }
        self
    }

    /// Everything that was confirmed is handled.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }

    /// Nothing lost, no order broken, progress after every fault, and no more duplicates than that.
    pub fn is_sound(&self, duplicates: usize) -> bool {
        self.is_complete() && self.is_ordered() && self.recovered() && self.duplicates <= duplicates
    }

    pub fn is_ordered(&self) -> bool {
        self.disorder.is_empty() && self.overlaps.is_empty() && self.phantoms.is_empty()
    }

    pub fn recovered(&self) -> bool {
        self.recoveries.iter().all(|recovery| recovery.took.is_some_and(|took| took <= RECOVERY))
    }

    pub fn assert_sound(&self, duplicates: usize) {
        assert!(self.is_sound(duplicates), "at most {duplicates} duplicates are allowed\n{self}");
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "published {}, handled {}, starts {}, lost {}, disorder {}, overlaps {} (across processes {}), duplicates {}, phantoms {}",
            self.published,
            self.handled,
            self.starts,
            self.lost.len(),
            self.disorder.len(),
            self.overlaps.len(),
            self.overlaps_across,
            self.duplicates,
            self.phantoms.len(),
        )?;
        for (what, list) in [
            ("lost", &self.lost),
            ("disorder", &self.disorder),
            ("overlap", &self.overlaps),
            ("phantom", &self.phantoms),
        ] {
            for entry in list.iter().take(5) {
                writeln!(f, "  {what}: {entry}")?;
            }
        }
        for recovery in &self.recoveries {
            match recovery.took {
                Some(took) => writeln!(f, "  {}: progress after {took:?}", recovery.fault)?,
                None => writeln!(f, "  {}: no progress", recovery.fault)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keylane::testing::{Ended, Oracle, ViolationKind};
    use proptest::prelude::*;

    fn history(published: u64) -> History {
        let history = History::new();
        (1..=published).for_each(|seq| history.published("k", seq));
        history
    }

    fn handle(history: &History, seq: u64) {
        history.ended(history.started("k", seq, 1), true);
    }

    #[test]
    fn a_history_in_order_is_sound() {
        let history = history(3);
        handle(&history, 1);
        history.healed("a cut");
        history.ended(history.started("k", 2, 1), false); // a retry in place
        handle(&history, 2);
        handle(&history, 3);
        history.judge().assert_sound(0);
        assert_eq!(history.judge().starts, 4);
    }

    #[test]
    fn each_rule_is_broken_by_what_breaks_it() {
        let lost = history(2);
        handle(&lost, 1);
        assert_eq!(lost.judge().lost.len(), 1);

        let disorder = history(2);
        handle(&disorder, 2);
        handle(&disorder, 1);
        let verdict = disorder.judge();
        assert_eq!(
            (verdict.disorder.len(), verdict.duplicates, verdict.is_complete()),
            (1, 0, true)
        );

        let overlap = history(1);
        let run = overlap.started("k", 1, 1);
        handle(&overlap, 1);
        overlap.ended(run, true);
        assert_eq!((overlap.judge().overlaps.len(), overlap.judge().disorder.len()), (1, 0));

        let phantom = history(1);
        handle(&phantom, 1);
        handle(&phantom, 2);
        assert_eq!(phantom.judge().phantoms.len(), 1);

        let stalled = history(1);
        handle(&stalled, 1);
        stalled.healed("a cut");
        assert!(!stalled.judge().recovered());
    }

    #[test]
    fn duplicates_of_what_is_done_are_counted_and_break_no_order() {
        let history = history(3);
        for seq in [1, 2, 1, 2, 3] {
            handle(&history, seq);
        }
        let verdict = history.judge();
        assert_eq!((verdict.duplicates, verdict.is_ordered()), (2, true));
        assert!(verdict.is_sound(2) && !verdict.is_sound(1));
    }

    #[test]
    fn what_was_removed_or_never_confirmed_need_not_be_handled() {
        let history = history(2);
        history.removed("k", 1);
        history.perhaps_published("k", 3);
        handle(&history, 2);
        history.judge().assert_sound(0);
    }

    #[test]
    fn a_dead_process_runs_nothing_and_a_second_one_is_told_apart() {
        let history = history(2);
        let start = |process, run, seq| {
            let key = "k".to_owned();
            history.add(Event::now(What::Start { process, run, key, seq, attempt: 1 }));
        };
        let end = |process, run| history.add(Event::now(What::End { process, run, done: true }));
        start(1, 0, 1);
        history.died(1);
        start(2, 0, 1);
        end(2, 0);
        start(2, 1, 2);
        start(3, 0, 1);
        end(2, 1);
        let verdict = history.judge();
        assert_eq!(
            (verdict.overlaps.len(), verdict.overlaps_across, verdict.duplicates),
            (0, 1, 1)
        );
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let key = "order-7".to_owned();
        for what in [
            What::Start { process: 4, run: 3, key, seq: 9, attempt: 2 },
            What::End { process: 4, run: 3, done: false },
        ] {
            let event = Event::now(what);
            let line = event.line().unwrap();
            assert_eq!(Event::of_line(4, &line), Some(event.clone()));
            assert_eq!(Event::of_line(4, &format!("test role ... {line}\n")), Some(event));
        }
        for other in ["", "test result: ok", "@S", "@S 1 2", "@X 1 2 3", "@S x y z 1 1"] {
            assert_eq!(Event::of_line(4, other), None, "{other}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Where the oracle of the crate knows the same rules, it finds the same, although it looks at events as they
        /// come and this at the whole.
        #[test]
        fn the_oracle_agrees(steps in prop::collection::vec((0..3_u8, 1..7_u64, any::<bool>()), 0..60)) {
            let (history, oracle) = (History::new(), Oracle::new().allow_duplicates(u64::MAX));
            let key = |key: u8| format!("k{key}");
            for k in 0..3 {
                for seq in 1..7 {
                    history.published(&key(k), seq);
                    oracle.published(key(k), seq);
                }
            }
            let mut running = HashMap::new();
            for (k, seq, done) in steps {
                if let Some((run, attempt)) = running.remove(&(k, seq)) {
                    history.ended(run, done);
                    keylane::testing::Attempt::end(attempt, if done { Ended::Done } else { Ended::Failed });
                } else {
                    let run = history.started(&key(k), seq, 1);
                    running.insert((k, seq), (run, oracle.start(key(k), seq)));
                }
            }
            let (verdict, theirs) = (history.judge(), oracle.verdict());
            let found = |kind| theirs.violations.iter().any(|violation| violation.kind == kind);
            prop_assert_eq!(verdict.lost.len() as u64, theirs.lost);
            prop_assert_eq!(verdict.duplicates as u64, theirs.duplicates);
            prop_assert_eq!(!verdict.overlaps.is_empty(), found(ViolationKind::Overlap));
            // The oracle names one thing a start.
            let theirs = found(ViolationKind::Gap)
                || found(ViolationKind::Order)
                || found(ViolationKind::Overlap);
            prop_assert!(verdict.disorder.is_empty() || theirs);
            prop_assert!(!found(ViolationKind::Gap) || !verdict.disorder.is_empty());
            drop(running);
        }
    }
}
