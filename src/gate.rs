//! A lane's table of keys that are busy: while one record of a key is in flight, waits to be tried again or
//! is parked, later records of that key wait here, and other keys of the lane go on.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::clock::Time;
use crate::sabotage::sabotage;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::weak;

/// What a gate may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Records that wait behind one key.
    pub key: usize,
    /// Records in the gate: those in flight and those that wait.
    pub lane: usize,
}

/// What the gate says to a record at the ring's front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Its key is free.
    Free,
    /// Its key is busy in this slot.
    Wait(u32),
    /// Its key is busy and as many wait for it as may: the lane stops.
    KeyFull(u32),
    /// The gate holds as many as it may: the lane stops.
    LaneFull,
}

/// The busy keys of one lane. `B` is what keeps a key busy, `P` why one is parked, `D` a record that waits.
///
/// Keys are told apart by their 64-bit hashes: two that share one are merely serialised.
#[derive(Debug)]
pub struct Gate<B, P, D> {
    bounds: Bounds,
    index: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
    slots: Vec<Option<Key<B, P, D>>>,
    free: Vec<u32>,
    held: usize,
}

/// A key in the gate: busy, or parked, or both.
#[derive(Debug)]
pub struct Key<B, P, D> {
    /// The hash of subscription and key.
    pub hash: u64,
    /// What keeps it busy.
    pub busy: Option<B>,
    /// Why it is parked.
    pub parked: Option<P>,
    /// When what keeps it busy began, as far as the holder has said.
    pub since: Time,
    /// When what keeps it busy came to the lane, or `UNSAID`.
    arrived: Time,
    waiting: VecDeque<(Time, D)>,
}

/// In the place of a time that the holder has not said.
const UNSAID: Time = Time::from_nanos(u64::MAX);

impl<B, P, D> Key<B, P, D> {
    /// When what keeps it busy came to the lane, as far as the holder has said.
    pub fn arrived(&self) -> Option<Time> {
        (self.arrived != UNSAID).then_some(self.arrived)
    }

    /// The records that wait for it, oldest first.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &D> {
        self.waiting.iter().map(|(_, record)| record)
    }
}

impl<B, P, D> Gate<B, P, D> {
    /// An empty gate.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, index: HashMap::default(), slots: Vec::new(), free: Vec::new(), held: 0 }
    }

    /// Whether no key is busy or parked.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Records in it: in flight and waiting.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Keys in it.
    pub fn keys(&self) -> usize {
        self.index.len()
    }

    /// What to do with the next record, of the key with this hash.
    #[inline]
    pub fn admit(&self, hash: u64) -> Admit {
        if self.held >= self.bounds.lane && !sabotage!(GateUnbounded) {
            return Admit::LaneFull;
        }
        match self.index.get(&hash) {
            None => Admit::Free,
            Some(&slot) => match &self.slots[slot as usize] {
                Some(key) if key.waiting.len() >= self.bounds.key => Admit::KeyFull(slot),
                Some(key) if key.waiting.is_empty() && sabotage!(NextBeforeEnd) => Admit::Free,
                _ => Admit::Wait(slot),
            },
        }
    }

    /// The slot that the next `hold` uses.
    #[inline]
    pub fn next_slot(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots.len() as u32)
    }

    /// Makes a free key busy.
    pub fn hold(&mut self, hash: u64, busy: Option<B>, parked: Option<P>) -> u32 {
        debug_assert!(!self.index.contains_key(&hash), "a busy key is not free");
        self.held += usize::from(busy.is_some());
        let slot = self.next_slot();
        let (since, arrived) = (Time::ZERO, UNSAID);
        let key = Some(Key { hash, busy, parked, since, arrived, waiting: VecDeque::new() });
        match self.free.pop() {
            Some(_) => self.slots[slot as usize] = key,
            None => self.slots.push(key),
        }
        if !sabotage!(GateForgets) {
            self.index.insert(hash, slot);
        }
        slot
    }

    /// The slot of the key with this hash.
    pub fn find(&self, hash: u64) -> Option<u32> {
        self.index.get(&hash).copied()
    }

    /// The key in `slot`.
    pub fn get(&self, slot: u32) -> Option<&Key<B, P, D>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Lets a record that arrived at `at` wait behind the key in `slot`; gives it back if no key is there.
    ///
    /// # Errors
    /// If no key is there.
    pub fn wait(&mut self, slot: u32, at: Time, record: D) -> Result<(), D> {
        match self.slots.get_mut(slot as usize) {
            Some(Some(key)) => {
                key.waiting.push_back((at, record));
                self.held += 1;
                Ok(())
            }
            _ => Err(record),
        }
    }

    /// Takes out what keeps the key busy: it is about to end or to change.
    pub fn take_busy(&mut self, slot: u32) -> Option<B> {
        let busy = self.slots.get_mut(slot as usize)?.as_mut()?.busy.take();
        self.held -= usize::from(busy.is_some());
        busy
    }

    /// Keeps the key busy with this.
    pub fn set_busy(&mut self, slot: u32, busy: B) {
        if let Some(Some(key)) = self.slots.get_mut(slot as usize) {
            debug_assert!(key.busy.is_none(), "one attempt at a time");
            self.held += usize::from(key.busy.is_none());
            key.busy = Some(busy);
        }
    }

    /// Says when what keeps the key busy began.
    pub fn stamp(&mut self, slot: u32, since: Time) {
        if let Some(Some(key)) = self.slots.get_mut(slot as usize) {
            key.since = since;
            if key.arrived == UNSAID {
                key.arrived = since;
            }
        }
    }

    /// Parks the key, or lets it go.
    pub fn set_parked(&mut self, slot: u32, parked: Option<P>) -> Option<P> {
        match self.slots.get_mut(slot as usize) {
            Some(Some(key)) => std::mem::replace(&mut key.parked, parked),
            _ => None,
        }
    }

    /// The next record that waits for the key.
    pub fn next(&mut self, slot: u32) -> Option<D> {
        let key = self.slots.get_mut(slot as usize)?.as_mut()?;
        let last = sabotage!(SuccessorOutOfTurn);
        let next = if last { key.waiting.pop_back() } else { key.waiting.pop_front() };
        let (arrived, record) = next?;
        key.arrived = arrived;
        self.held -= 1;
        Some(record)
    }

    /// Puts a record back in front of those that wait for the key in `slot`.
    pub fn put_back(&mut self, slot: u32, record: D) {
        if let Some(Some(key)) = self.slots.get_mut(slot as usize) {
            key.waiting.push_front((key.arrived, record));
            self.held += 1;
        }
    }

    /// Frees the key if nothing is left of it. True if it is free now.
    pub fn open(&mut self, slot: u32) -> bool {
        let Some(place) = self.slots.get_mut(slot as usize) else { return true };
        if let Some(key) = place {
            if key.busy.is_some() || key.parked.is_some() || !key.waiting.is_empty() {
                return false;
            }
            self.index.remove(&key.hash);
            *place = None;
            self.free.push(slot);
        }
        if self.index.is_empty() {
            self.shrink();
        }
        true
    }

    /// The slots in use. Changing the gate meanwhile is up to the caller.
    pub fn slots(&self) -> impl Iterator<Item = u32> + use<B, P, D> {
        let used: Vec<u32> = (0..self.slots.len() as u32)
            .filter(|&slot| self.slots[slot as usize].is_some())
            .collect();
        used.into_iter()
    }

    /// The keys in it, with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Key<B, P, D>)> {
        self.slots.iter().zip(0..).filter_map(|(key, slot)| Some((slot, key.as_ref()?)))
    }

    /// Gives memory back once a burst of busy keys is over.
    fn shrink(&mut self) {
        const KEEP: usize = 64;
        if self.slots.len() > KEEP {
            (self.slots, self.free) = (Vec::new(), Vec::new());
            self.index.shrink_to(KEEP);
        }
    }
}

/// The hash is one already.
#[derive(Debug, Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        debug_assert!(false, "keys of a gate are hashes");
    }

    fn write_u64(&mut self, hash: u64) {
        // A lane's keys share the high bits, which the table tells entries apart by.
        self.0 = hash.rotate_left(32);
    }
}

/// The slots of a lane's gate that have something to say: set by wakers, blocking threads and commands,
/// from any thread, taken by the lane's holder.
#[derive(Debug)]
pub struct ReadySet {
    words: Box<[AtomicU64]>,
    /// One bit a word that may be non-zero.
    summary: Box<[AtomicU64]>,
    /// Some slot past the last word may be ready.
    beyond: AtomicBool,
}

impl ReadySet {
    /// For slots `0..slots`.
    pub fn new(slots: usize) -> Self {
        let zeros = |n: usize| (0..n.max(1)).map(|_| AtomicU64::new(0)).collect();
        let words = slots.div_ceil(64);
        Self {
            words: zeros(words),
            summary: zeros(words.div_ceil(64)),
            beyond: AtomicBool::new(false),
        }
    }

    /// Says that `slot` is ready. The caller then wakes the lane.
    pub fn put(&self, slot: u32) {
        let word = slot as usize / 64;
        let Some(bits) = self.words.get(word) else {
            // Rare: several subscriptions with very many parked keys each. Release as below.
            self.beyond.store(true, Ordering::Release);
            return;
        };
        // Release pairs with the acquires in `take`. The word first: whoever sees the summary's bit sees
        // the word's, and a summary bit that comes too late for one `take` is there for the next, which the
        // caller's wake brings.
        if weak!("ready_order") {
            self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::AcqRel);
            bits.fetch_or(1 << (slot % 64), Ordering::AcqRel);
            return;
        }
        bits.fetch_or(1 << (slot % 64), Ordering::AcqRel);
        self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::AcqRel);
    }

    /// Takes all that are ready. True if slots that the set has no place for may be ready too: the caller
    /// then looks at every slot in use.
    pub fn take(&self, mut each: impl FnMut(u32)) -> bool {
        for (high, summary) in self.summary.iter().enumerate() {
            if summary.load(Ordering::Relaxed) == 0 {
                continue;
            }
            for low in ones(summary.swap(0, Ordering::AcqRel)) {
                let word = high * 64 + low as usize;
                for bit in ones(self.words[word].swap(0, Ordering::AcqRel)) {
                    each(word as u32 * 64 + bit);
                }
            }
        }
        // AcqRel: partner of the release in `put`, as above.
        self.beyond.load(Ordering::Relaxed) && self.beyond.swap(false, Ordering::AcqRel)
    }
}

/// The positions of a word's ones.
fn ones(mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = bits.checked_ilog2()?;
        bits ^= 1 << bit;
        Some(bit)
    })
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn ready_slots_are_taken_once() {
        let set = ReadySet::new(5_000);
        for slot in [0, 63, 64, 4_095, 4_096, 4_999, 63] {
            set.put(slot);
        }
        let mut taken = Vec::new();
        set.take(|slot| taken.push(slot));
        taken.sort_unstable();
        assert_eq!(taken, [0, 63, 64, 4_095, 4_096, 4_999]);
        set.take(|slot| panic!("{slot} was taken twice"));
    }

    #[test]
    fn a_slot_that_the_set_has_no_place_for_is_not_forgotten() {
        let set = ReadySet::new(64);
        set.put(64);
        set.put(3);
        let mut taken = Vec::new();
        assert!(set.take(|slot| taken.push(slot)), "all slots in use are to be looked at");
        assert_eq!(taken, [3]);
        assert!(!set.take(|slot| panic!("{slot} was taken twice")));
    }

    /// Two keys with one hash are told apart by nobody: the second waits for the first, and both go on.
    #[test]
    fn keys_whose_hashes_collide_are_only_serialised() {
        let mut gate: Gate<&str, (), &str> = Gate::new(Bounds { key: 2, lane: 8 });
        let slot = gate.hold(7, Some("a-1"), None);
        assert_eq!(gate.admit(7), Admit::Wait(slot));
        gate.wait(slot, Time::ZERO, "b-1").unwrap();
        assert_eq!(gate.admit(8), Admit::Free, "a third key is not held up");
        assert_eq!(gate.take_busy(slot), Some("a-1"));
        assert_eq!(gate.next(slot), Some("b-1"));
        gate.set_busy(slot, "b-1");
        gate.wait(slot, Time::ZERO, "a-2").unwrap();
        assert_eq!((gate.take_busy(slot), gate.next(slot)), (Some("b-1"), Some("a-2")));
        assert!(gate.open(slot));
        assert_eq!(gate.admit(7), Admit::Free);
    }

    proptest::proptest! {
        /// The gate does what a table of queues does, within its bounds.
        #[test]
        fn gate_is_a_queue_for_each_key(ops in proptest::collection::vec((0u64..6, 0u8..4), 0..400)) {
            let bounds = Bounds { key: 3, lane: 8 };
            let mut gate: Gate<u32, (), u32> = Gate::new(bounds);
            // The model: for each busy key, its record in flight and those that wait.
            let mut model: BTreeMap<u64, (Option<u32>, VecDeque<u32>)> = BTreeMap::new();
            for (id, (hash, op)) in (0..).zip(ops) {
                let held: usize =
                    model.values().map(|(busy, waiting)| waiting.len() + usize::from(busy.is_some())).sum();
                assert_eq!(gate.held(), held);
                assert_eq!(gate.keys(), model.len());
                if op < 3 {
                    match gate.admit(hash) {
                        Admit::LaneFull => assert!(held >= bounds.lane),
                        Admit::Free => {
                            assert!(!model.contains_key(&hash) && held < bounds.lane);
                            let slot = gate.next_slot();
                            assert_eq!(gate.hold(hash, Some(id), None), slot);
                            model.insert(hash, (Some(id), VecDeque::new()));
                        }
                        Admit::Wait(slot) => {
                            assert!(model[&hash].1.len() < bounds.key);
                            gate.wait(slot, Time::from_nanos(id.into()), id).unwrap();
                            model.get_mut(&hash).unwrap().1.push_back(id);
                        }
                        Admit::KeyFull(_) => assert_eq!(model[&hash].1.len(), bounds.key),
                    }
                } else if let Some((busy, waiting)) = model.get_mut(&hash) {
                    // The record in flight ends; the next one starts, or the key is free.
                    let (slot, key) = gate.iter().find(|(_, key)| key.hash == hash).unwrap();
                    assert_eq!(key.waiting().copied().collect::<Vec<_>>(), Vec::from(waiting.clone()));
                    assert!(!gate.open(slot));
                    assert_eq!(gate.take_busy(slot), busy.take());
                    match waiting.pop_front() {
                        Some(next) => {
                            assert_eq!(gate.next(slot), Some(next));
                            let arrived = gate.get(slot).and_then(Key::arrived);
                            assert_eq!(arrived, Some(Time::from_nanos(next.into())));
                            gate.set_busy(slot, next);
                            *busy = Some(next);
                        }
                        None => {
                            assert_eq!(gate.next(slot), None);
                            assert!(gate.open(slot));
                            model.remove(&hash);
                        }
                    }
                }
            }
        }
    }
}
