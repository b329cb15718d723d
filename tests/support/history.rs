//! What happened in a test, recorded as it happens, by any number of processes, and judged afterwards by nothing else.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::Write;
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
    /// Whether handlers' events go to standard output instead, a line each.
    echo: bool,
}

/// The process that the test itself is.
pub const SELF: u32 = 0;

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    /// One for a process whose standard output another reads: it keeps nothing.
    pub fn echoing() -> Self {
        Self(Arc::new(Shared { echo: true, ..Shared::default() }))
    }

    pub fn add(&self, event: Event) {
        if self.0.echo
            && let Some(line) = event.line()
        {
            let mut out = std::io::stdout().lock();
            // Whole before the handler goes on; a reader that is gone has ended us.
            let _ = out.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| out.flush());
            return;
        }
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

    /// When handlers of this process began, since a time.
    pub fn starts_of(&self, process: u32, since: Duration) -> Vec<Duration> {
        let events = self.0.events.lock();
        let starts = events.iter().filter(|event| {
            matches!(event.what, What::Start { process: of, .. } if of == process)
                && event.at >= since
        });
        starts.map(|event| event.at).collect()
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
