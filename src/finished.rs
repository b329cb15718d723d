//! The bits that workers set when a delivery is finished, and the wake-up that goes with them. All
//! that a ledger shares between threads is here.

use std::task::Waker;

use crate::delivery::Slot;
use crate::sabotage::sabotage;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::weak;

/// Slots in a word. Few in a model, so that it gets to the end of a word and around the ring.
pub(crate) const BITS: usize = if cfg!(keylane_loom) { 2 } else { 63 };
/// The bit of a word that says: the consume loop sleeps, or is about to; wake it.
const WAIT: u64 = 1 << 63;

/// The workers' half of a ledger.
#[derive(Debug)]
pub struct Finished {
    words: Box<[AtomicU64]>,
    waker: Waker,
}

impl Finished {
    /// `words` words, nothing finished; `waker` wakes the consume loop.
    pub(crate) fn new(words: usize, waker: Waker) -> Self {
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), waker }
    }

    /// Marks a delivery as finished, and wakes the consume loop if it sleeps for that. To be called
    /// exactly once a delivered slot, from any thread: one read-modify-write, no lock, no allocation.
    #[inline]
    pub fn finish(&self, slot: Slot) {
        let slot = slot.0 as usize;
        // Only another ledger's slot can be outside: it finishes nothing here.
        let Some(word) = self.words.get(slot / BITS) else { return };
        // Release: what the handler did happens before `read` (Acquire) reports it.
        let ordering = if weak!("ledger_finish") { Relaxed } else { Release };
        let before = word.fetch_or(bit(slot), ordering);
        if before & WAIT != 0 && !sabotage!(FinishUnsaid) {
            self.wake(word);
        }
    }

    /// Of all that saw WAIT, the one that clears it wakes. The others' bits were set before that, so
    /// the woken loop sees them.
    #[cold]
    fn wake(&self, word: &AtomicU64) {
        if word.fetch_and(!WAIT, Relaxed) & WAIT != 0 {
            self.waker.wake_by_ref();
        }
    }

    /// The finished bits of a word.
    pub(crate) fn read(&self, word: usize) -> u64 {
        // Acquire: partner of `finish`.
        self.words[word].load(Acquire) & !WAIT
    }

    /// Sets WAIT in a word and returns the bits finished before that. Whoever comes second in the
    /// word's order of changes sees the other: the loop a finished bit, or the finisher WAIT.
    pub(crate) fn arm(&self, word: usize) -> u64 {
        let word = &self.words[word];
        if weak!("ledger_wait") {
            let before = word.load(Acquire);
            word.fetch_or(WAIT, Relaxed);
            return before & !WAIT;
        }
        // Relaxed: only which came first counts here; what is finished is read by `read`.
        word.fetch_or(WAIT, Relaxed) & !WAIT
    }

    /// Clears WAIT in a word, unless a finisher did.
    pub(crate) fn disarm(&self, word: usize) {
        let word = &self.words[word];
        if word.load(Relaxed) & WAIT != 0 {
            word.fetch_and(!WAIT, Relaxed);
        }
    }

    /// Empties a word of which every slot was read as finished.
    pub(crate) fn clear(&self, word: usize) {
        // Relaxed: nobody else sets a bit in it until its slots are given out again, and those
        // finishes come after this by way of the record.
        self.words[word].store(0, Relaxed);
    }
}

/// The bit of a slot in its word.
pub(crate) const fn bit(slot: usize) -> u64 {
    1 << (slot % BITS)
}
