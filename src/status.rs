//! What a worker does right now, for others to see: written with plain stores for every attempt, read by
//! the monitor and by snapshots.

use std::time::Duration;

use crate::record::Record;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Words of a key that are shown.
const WORDS: usize = 8;

/// A worker's current attempt.
///
/// `turn` is odd while a handler runs. A reader that finds the same odd number before and after has read
/// one attempt's fields; what it reads orders nothing, so all of it is relaxed but for `turn`.
#[derive(Debug, Default)]
pub struct Status {
    turn: AtomicU64,
    lane: AtomicU32,
    subscription: AtomicU32,
    key_len: AtomicU32,
    key: [AtomicU64; WORDS],
    /// Set by the monitor: the attempt has run too long. Cleared by the worker.
    stuck: AtomicBool,
    /// Set by the monitor: how long it had run when it was looked at last, in nanoseconds.
    ran: AtomicU64,
    /// Set by the monitor: others wait for this worker. Cleared by the worker.
    yields: AtomicBool,
}

/// An attempt that was seen running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Tells attempts of one worker apart.
    pub turn: u64,
    /// The lane it holds.
    pub lane: u32,
    /// The subscription whose handler runs.
    pub subscription: u32,
    /// The first 64 bytes of the key; `None` if it has none.
    pub key: Option<Vec<u8>>,
}

/// The subscription, lane and key of a worker's last attempt, for the worker: no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    subscription: u32,
    lane: u32,
    key_len: u32,
    /// Zero past the key's end.
    key: [u64; WORDS],
}

impl Last {
    /// A number that differs between most attempts that differ.
    pub fn mark(&self) -> u64 {
        let first = u64::from(self.subscription) << 32 | u64::from(self.key_len);
        let mix = |mark: u64, word: &u64| (mark ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.key.iter().fold(first, |mark, word| mix(mark.rotate_left(29), word))
    }

    /// The same as what others see of a running attempt.
    pub fn seen(&self) -> Seen {
        let key = (self.key_len != NO_KEY).then(|| {
            self.key
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .take(self.key_len as usize)
                .collect()
        });
        Seen { turn: 0, lane: self.lane, subscription: self.subscription, key }
    }
}

const NO_KEY: u32 = u32::MAX;

impl Status {
    /// The worker's next attempts are at records of this lane. For the worker.
    #[inline]
    pub fn hold(&self, lane: u32) {
        // Pairs with the fence in `seen`: whoever reads a field of this turn finds that the last one has ended.
        fence(Ordering::Release);
        self.lane.store(lane, Ordering::Relaxed);
    }

    /// An attempt begins. For the worker.
    #[inline]
    pub fn enter(&self, subscription: u32, record: &Record) {
        // As in `hold`.
        fence(Ordering::Release);
        self.subscription.store(subscription, Ordering::Relaxed);
        match record.short_key() {
            Some((len, words)) => {
                self.key_len.store(len, Ordering::Relaxed);
                self.key[0].store(words[0], Ordering::Relaxed);
                self.key[1].store(words[1], Ordering::Relaxed);
            }
            None => self.show(record.key()),
        }
        let turn = self.turn.load(Ordering::Relaxed);
        // Release pairs with the acquires in `seen`: the fields are those of this turn.
        self.turn.store(turn + 1, Ordering::Release);
    }

    /// Writes no key, or one that is not short.
    #[cold]
    fn show(&self, key: Option<&[u8]>) {
        let Some(key) = key else { return self.key_len.store(NO_KEY, Ordering::Relaxed) };
        self.key_len.store(key.len().min(WORDS * 8) as u32, Ordering::Relaxed);
        for (word, bytes) in self.key.iter().zip(key.chunks(8)) {
            let mut shown = [0; 8];
            shown[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(shown), Ordering::Relaxed);
        }
    }

    /// The attempt has returned. For the worker.
    #[inline]
    pub fn leave(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn + 1, Ordering::Release);
        if self.stuck.load(Ordering::Relaxed) {
            self.stuck.store(false, Ordering::Relaxed);
        }
    }

    /// The turn, odd while a handler runs.
    #[inline]
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Whether a handler seems to run.
    pub fn is_running(&self) -> bool {
        self.turn() % 2 == 1
    }

    /// The attempt that runs, if one does.
    pub fn seen(&self) -> Option<Seen> {
        let turn = self.turn();
        if turn.is_multiple_of(2) {
            return None;
        }
        let key = match self.key_len.load(Ordering::Relaxed) {
            NO_KEY => None,
            len => {
                let words = self.key.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes());
                Some(words.take(len as usize).collect())
            }
        };
        let seen = Seen {
            turn,
            lane: self.lane.load(Ordering::Relaxed),
            subscription: self.subscription.load(Ordering::Relaxed),
            key,
        };
        // Pairs with the fence in `enter`.
        fence(Ordering::Acquire);
        (self.turn.load(Ordering::Relaxed) == turn).then_some(seen)
    }

    /// The last attempt, ended or not. For the worker.
    pub fn last(&self) -> Last {
        let key_len = self.key_len.load(Ordering::Relaxed);
        let mut left = if key_len == NO_KEY { 0 } else { key_len as usize };
        let key = self.key.each_ref().map(|word| {
            let used = left.min(8);
            left -= used;
            let mask = u64::MAX.checked_shr(64 - 8 * used as u32).unwrap_or(0);
            word.load(Ordering::Relaxed) & mask
        });
        Last {
            subscription: self.subscription.load(Ordering::Relaxed),
            lane: self.lane.load(Ordering::Relaxed),
            key_len,
            key,
        }
    }

    /// Says that the attempt has run too long, and how long. For the monitor.
    pub fn set_stuck(&self, ran: Duration) {
        self.ran.store(u64::try_from(ran.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.stuck.store(true, Ordering::Relaxed);
    }

    /// How long an attempt that runs too long had run when the monitor looked last.
    pub fn ran(&self) -> Duration {
        Duration::from_nanos(self.ran.load(Ordering::Relaxed))
    }

    /// Whether the attempt has run too long.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) && self.is_running()
    }

    /// Asks the worker to end its visit soon. For the monitor.
    pub fn ask(&self) {
        self.yields.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked. For the worker, which then ends its visit.
    #[inline]
    pub fn asked(&self) -> bool {
        self.yields.load(Ordering::Relaxed) && {
            self.yields.store(false, Ordering::Relaxed);
            true
        }
    }
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_seen_and_what_has_ended_is_not() {
        let status = Status::default();
        assert_eq!(status.seen(), None);
        status.hold(7);
        status.enter(3, &Record::new([9; 70], ""));
        let seen = status.seen().unwrap();
        assert_eq!((seen.lane, seen.subscription, seen.key), (7, 3, Some(vec![9; 64])));
        status.set_stuck(Duration::from_millis(3));
        assert!(status.is_stuck() && status.ran() == Duration::from_millis(3));
        status.leave();
        assert!(!status.is_stuck() && status.seen().is_none());
        status.enter(3, &Record::keyless(""));
        assert_eq!(status.seen().unwrap().key, None);
        status.leave();
        let key: Vec<u8> = (1..=70).collect();
        for len in 0..=70 {
            status.enter(3, &Record::new(&key[..len], "payload"));
            assert_eq!(status.seen().unwrap().key.as_deref(), Some(&key[..len.min(64)]));
            status.leave();
            let last = status.last();
            assert_eq!(last.seen().key.as_deref(), Some(&key[..len.min(64)]));
            // What an earlier, longer key has left behind does not count.
            status.enter(3, &Record::new([0xff; 64], ""));
            status.leave();
            status.enter(3, &Record::new(&key[..len], ""));
            status.leave();
            assert_eq!(status.last(), last);
        }
        status.ask();
        assert!(status.asked() && !status.asked());
    }
}
