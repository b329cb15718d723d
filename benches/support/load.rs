//! The load: 10,000 keys drawn uniformly, payloads of 64 bytes that carry their key's sequence number, and what
//! handlers do with them.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use keylane::Record;

/// Different keys.
pub const KEYS: usize = 10_000;
/// Bytes of a payload.
pub const PAYLOAD: usize = 64;

/// An endless load: which key comes next, and what it says.
pub struct Load {
    keys: Vec<String>,
    sequence: Vec<u64>,
    burst: u64,
    sent: u64,
    current: usize,
    random: u64,
}

impl Load {
    /// Keys drawn one by one (`burst` 1), or each for `burst` records in a row, which all go to its lane.
    pub fn new(burst: u64) -> Self {
        let keys = (0..KEYS).map(|key| format!("order-{key:06}")).collect();
        let sequence = vec![0; KEYS];
        Self { keys, sequence, burst, sent: 0, current: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next record. Its payload begins with the key's number and its place in the key's sequence.
    #[inline]
    pub fn record(&mut self) -> Record {
        if self.sent.is_multiple_of(self.burst) {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.current = ((u128::from(self.random) * KEYS as u128) >> 64) as usize;
        }
        self.sent += 1;
        self.sequence[self.current] += 1;
        let mut payload = [7; PAYLOAD];
        payload[..8].copy_from_slice(&(self.current as u64).to_le_bytes());
        payload[8..16].copy_from_slice(&self.sequence[self.current].to_le_bytes());
        Record::new(&self.keys[self.current], payload)
    }
}

/// The eight words of a payload.
#[inline]
pub fn words(record: &Record) -> impl Iterator<Item = u64> {
    record.payload().as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
}

/// What every timed handler does: reads the whole payload.
#[inline]
pub fn read(record: &Record) {
    black_box(words(record).fold(0, u64::wrapping_add));
}

/// How much was handled: a count for each thread on a line of its own, so that workers do not meet in it.
pub struct Handled {
    counts: Box<[Line]>,
}

const LINES: usize = 64;

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

static THREADS: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static LINE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % LINES);
}

impl Default for Handled {
    fn default() -> Self {
        Self { counts: (0..LINES).map(|_| Line::default()).collect() }
    }
}

impl Handled {
    /// One more. A read-modify-write, since threads of different runtimes may share a line.
    #[inline]
    pub fn add(&self) {
        LINE.with(|line| self.counts[line.get()].0.fetch_add(1, Ordering::Relaxed));
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum()
    }

    /// Waits until `count` are handled.
    pub fn wait(&self, count: u64) {
        while self.total() < count {
            std::thread::yield_now();
        }
    }
}

/// Judges order and completeness: what a handler saw of each key.
pub struct Check {
    last: Vec<AtomicU64>,
    wrong: AtomicU64,
}

impl Default for Check {
    fn default() -> Self {
        Self { last: (0..KEYS).map(|_| AtomicU64::new(0)).collect(), wrong: AtomicU64::new(0) }
    }
}

impl Check {
    /// A record was handled: it must be the one after its key's last.
    pub fn see(&self, record: &Record) {
        let mut words = words(record);
        let (key, place) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        if self.last[key as usize].swap(place, Ordering::AcqRel) + 1 != place {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Panics unless exactly the first `count` records of a load were handled, each key's in order.
    pub fn assert(&self, count: u64) {
        let seen: u64 = self.last.iter().map(|last| last.load(Ordering::Acquire)).sum();
        let wrong = self.wrong.load(Ordering::Relaxed);
        assert_eq!((seen, wrong), (count, 0), "handled, and out of order");
    }
}
