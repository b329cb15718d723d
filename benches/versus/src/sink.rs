//! Where every arm's records end: the handler that all share, and the judge of what it saw.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::histogram::Histogram;
use crate::load::{Handle, Item, KEYS, now, work};

/// Threads that may handle records of one round.
const LINES: usize = 512;

/// One round's handler and judge.
pub struct Sink {
    handle: Handle,
    /// The place that each key has reached. Nobody but the key's one handler at a time writes it.
    last: Box<[AtomicU32]>,
    wrong: AtomicU64,
    /// A count for each thread, on a line of its own.
    counts: Box<[Line]>,
    lines: AtomicUsize,
    round: u64,
    /// From the intended time to the handler's start.
    pub latency: Histogram,
}

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

static ROUNDS: AtomicU64 = AtomicU64::new(1);
thread_local! {
    /// The round for which this thread last took a line, and the line.
    static LINE: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// What the judge says of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Records that were not their key's next.
    pub disordered: u64,
    /// Records that were never handled (or twice: those are out of order as well).
    pub lost: u64,
}

impl Verdict {
    pub fn violations(self) -> u64 {
        self.disordered + self.lost
    }
}

impl Sink {
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            last: (0..KEYS).map(|_| AtomicU32::new(0)).collect(),
            wrong: AtomicU64::new(0),
            counts: (0..LINES).map(|_| Line::default()).collect(),
            lines: AtomicUsize::new(0),
            round: ROUNDS.fetch_add(1, Ordering::Relaxed),
            latency: Histogram::default(),
        }
    }

    /// The handler: reads the whole payload, checks that it is its key's next, works, counts.
    #[inline]
    pub fn handle(&self, payload: &[u8]) {
        if self.see(payload) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.count();
    }

    /// The handler up to where it would block: whether it has to.
    #[inline]
    pub fn see(&self, payload: &[u8]) -> bool {
        let (words, _) = payload.as_chunks::<8>();
        let mut sum = 0_u64;
        for word in words {
            sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
        black_box(sum);
        let word = words.first().map_or(0, |word| u64::from_le_bytes(*word));
        let stamp = words.get(1).map_or(0, |word| u64::from_le_bytes(*word));
        if stamp != 0 {
            self.latency.add(now().saturating_sub(stamp));
        }
        let (key, place) = ((word >> 32) as u32, word as u32);
        let number = (key & 0x7fff_ffff) as usize % KEYS;
        // Relaxed, a load and a store: an arm whose handlers of one key overlap loses counts here, and is convicted.
        if self.last[number].load(Ordering::Relaxed) + 1 != place {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
        self.last[number].store(place, Ordering::Relaxed);
        match self.handle {
            Handle::Nothing => false,
            Handle::Micro => {
                work();
                false
            }
            Handle::Block => key >> 31 != 0,
        }
    }

    /// One more is handled.
    #[inline]
    pub fn count(&self) {
        let (round, line) = LINE.get();
        let line = if round == self.round { line } else { self.new_line() };
        let count = &self.counts[line].0;
        // The line is this thread's own: a plain addition. The release carries `last` to whoever waits.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    #[cold]
    fn new_line(&self) -> usize {
        let line = self.lines.fetch_add(1, Ordering::AcqRel);
        assert!(line < LINES, "more threads than lines");
        LINE.set((self.round, line));
        line
    }

    /// How many are handled.
    pub fn total(&self) -> u64 {
        let used = self.lines.load(Ordering::Acquire).min(LINES);
        self.counts[..used].iter().map(|count| count.0.load(Ordering::Acquire)).sum()
    }

    /// Waits until `count` are handled, with as little disturbance as that can be done. False if nothing happens.
    #[inline]
    pub fn reach(&self, count: u64) -> bool {
        for _ in 0..100 {
            if self.total() >= count {
                return true;
            }
            // Not at once again: each look takes the handlers' lines from them.
            (0..64).for_each(|_| std::hint::spin_loop());
        }
        self.wait(count)
    }

    /// Waits until `count` are handled. False if nothing happens any more.
    pub fn wait(&self, count: u64) -> bool {
        let (mut before, mut since) = (0, now());
        loop {
            let total = self.total();
            if total >= count {
                return true;
            }
            if total != before {
                (before, since) = (total, now());
            } else if now() - since > 3_000_000_000 {
                return false;
            }
            std::thread::yield_now();
        }
    }

    /// Judges a round after which nothing more comes.
    pub fn verdict(&self, streams: &[Vec<Item>]) -> Verdict {
        let mut places = vec![0_u32; KEYS];
        for item in streams.iter().flatten() {
            places[item.number() as usize] = item.place;
        }
        let sent: u64 = streams.iter().map(|stream| stream.len() as u64).sum();
        let late = places.iter().zip(&self.last);
        let late = late.filter(|(place, last)| last.load(Ordering::Acquire) != **place).count();
        let lost = sent.abs_diff(self.total()).max(late as u64);
        Verdict { disordered: self.wrong.load(Ordering::Acquire), lost }
    }
}
