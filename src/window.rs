//! A ring of positions by slot, in the order of delivery: which slots are in use, and which
//! positions the ones before them still remember. Words of bits lie along the same ring.

use crate::finished::BITS;

/// The slots in use are `len` from `head`. Before them, `remembered` slots still hold the positions
/// that they had.
#[derive(Debug)]
pub(crate) struct Window {
    /// Ascending from the oldest remembered slot to the newest in use.
    positions: Box<[u64]>,
    head: usize,
    len: usize,
    remembered: usize,
    limit: usize,
    /// Below this nothing is remembered.
    horizon: u64,
}

impl Window {
    /// At most `limit` slots in use; nothing is remembered below `horizon`.
    pub(crate) fn new(limit: usize, horizon: u64) -> Self {
        // One word more than `limit` fills: the newest slot is never in the oldest slot's word, so
        // that a word can be cleared before its slots are used again.
        let words = limit.div_ceil(BITS) + 1;
        let positions = vec![0; words * BITS].into();
        Self { positions, head: 0, len: 0, remembered: 0, limit, horizon }
    }

    /// Words of bits around the whole ring.
    pub(crate) fn words(&self) -> usize {
        self.positions.len() / BITS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots in use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.limit
    }

    pub(crate) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// The oldest slot in use, or the one that will be next if there is none.
    pub(crate) fn head(&self) -> usize {
        self.head
    }

    /// The oldest position in use.
    pub(crate) fn first(&self) -> Option<u64> {
        (self.len > 0).then(|| self.positions[self.head])
    }

    /// The position a slot holds, in use or remembered or neither.
    pub(crate) fn position(&self, slot: usize) -> Option<u64> {
        self.positions.get(slot).copied()
    }

    /// The positions of a word's slots that are set in `bits`, ascending.
    pub(crate) fn positions_of(&self, word: usize, mut bits: u64) -> impl Iterator<Item = u64> {
        let slots = &self.positions[word * BITS..][..BITS];
        std::iter::from_fn(move || {
            let position = *slots.get(bits.trailing_zeros() as usize)?;
            bits &= bits - 1;
            Some(position)
        })
    }

    /// Uses the next slot for `position`, which is above all others. The caller knows there is room.
    pub(crate) fn push(&mut self, position: u64) -> usize {
        let capacity = self.positions.len();
        let slot = wrap(self.head + self.len, capacity);
        if self.remembered + self.len == capacity {
            self.remembered -= 1;
            self.horizon = self.positions[slot] + 1;
        }
        self.positions[slot] = position;
        self.len += 1;
        slot
    }

    /// Takes the newest slot out of use and forgets its position.
    pub(crate) fn pop(&mut self) {
        self.len -= 1;
    }

    /// Takes the `count` oldest slots out of use and remembers them; they are all in one word. Returns
    /// that word if the head has left it.
    pub(crate) fn release(&mut self, count: usize) -> Option<usize> {
        let word = self.head / BITS;
        self.head += count;
        self.len -= count;
        self.remembered += count;
        let left = self.head == (word + 1) * BITS;
        self.head = wrap(self.head, self.positions.len());
        left.then_some(word)
    }

    /// The slot that holds a position, and whether it is in use. O(log n).
    pub(crate) fn find(&self, position: u64) -> Option<(usize, bool)> {
        let capacity = self.positions.len();
        let oldest = wrap(self.head + capacity - self.remembered, capacity);
        let (mut low, mut high) = (0, self.remembered + self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            let slot = wrap(oldest + middle, capacity);
            match self.positions[slot].cmp(&position) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some((slot, middle >= self.remembered)),
            }
        }
        None
    }

    /// The words of the slots in use, oldest first, each with those slots' bits.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (mut slot, mut left, capacity) = (self.head, self.len, self.positions.len());
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let (word, first) = (slot / BITS, slot % BITS);
            let count = left.min(BITS - first);
            left -= count;
            slot = wrap(slot + count, capacity);
            Some((word, ((1 << count) - 1) << first))
        })
    }
}

/// `slot`, less than twice the ring's `capacity`, in the ring.
const fn wrap(slot: usize, capacity: usize) -> usize {
    if slot < capacity { slot } else { slot - capacity }
}
