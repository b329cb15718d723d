//! Bytes of the records that the runtime holds of a source.

use crate::finished::BITS;

/// Sizes by slot, and their sum.
#[derive(Debug)]
pub(crate) struct Held {
    sizes: Box<[u32]>,
    bytes: usize,
}

impl Held {
    /// Nothing, in so many slots.
    pub(crate) fn new(slots: usize) -> Self {
        Self { sizes: vec![0; slots].into(), bytes: 0 }
    }

    /// The record of a slot has so many bytes; of more than 4 GiB that many count.
    pub(crate) fn hold(&mut self, slot: usize, bytes: usize) {
        self.free(slot);
        if let Some(size) = self.sizes.get_mut(slot) {
            *size = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.bytes += *size as usize;
        }
    }

    /// The record of a slot is held no more.
    pub(crate) fn free(&mut self, slot: usize) {
        if let Some(size) = self.sizes.get_mut(slot) {
            self.bytes -= std::mem::take(size) as usize;
        }
    }

    /// As [`free`](Self::free), for each of these bits of a word of slots.
    pub(crate) fn free_word(&mut self, word: usize, mut bits: u64) {
        if self.bytes == 0 {
            return;
        }
        while bits != 0 {
            self.free(word * BITS + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }

    /// Bytes in all.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_sum_of_what_is_held() {
        let mut held = Held::new(3 * BITS);
        for slot in 0..2 * BITS {
            held.hold(slot, slot + 1);
        }
        held.hold(0, 1_000);
        let all = (2..=2 * BITS).sum::<usize>() + 1_000;
        assert_eq!(held.bytes(), all);
        held.free_word(0, 0b101);
        held.free(0);
        held.free(usize::MAX);
        assert_eq!(held.bytes(), all - 1_003);
        held.free_word(0, u64::MAX);
        held.free_word(1, u64::MAX);
        assert_eq!(held.bytes(), 0);
    }
}
