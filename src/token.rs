//! The right to drain a lane, as a value.
//!
//! For each lane there is exactly one [`Token`], and it is in exactly one place: at rest in the lane's
//! tail word (the IDLE bit, see `ring`), in a [`TokenSet`] (one bit), or held by the thread that drains
//! the lane. Moving it is an atomic read-modify-write of the word it leaves or enters, so two
//! threads cannot both have it, and what the last holder wrote happens before what the next one
//! reads. A [`TokenCell`] gives its content to whoever holds the lane's token, without a lock.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32 as StdAtomicU32, Ordering as StdOrdering};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{UnsafeCell, unless, weak};

/// The tokens of one runtime; no other runtime's tokens open its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family(u32);

impl Family {
    /// A family of its own.
    ///
    /// # Panics
    /// After 2³² − 1 families in one process, since a number used twice would let one runtime's token
    /// open another's cell.
    pub fn new() -> Self {
        // std's atomic also under loom: the number orders nothing and outlives a model's execution.
        static NEXT: StdAtomicU32 = StdAtomicU32::new(0);
        let mut next = NEXT.load(StdOrdering::Relaxed);
        loop {
            assert!(next != u32::MAX, "too many runtimes were built in this process");
            match NEXT.compare_exchange_weak(
                next,
                next + 1,
                StdOrdering::Relaxed,
                StdOrdering::Relaxed,
            ) {
                Ok(_) => return Self(next),
                Err(now) => next = now,
            }
        }
    }
}

impl Default for Family {
    fn default() -> Self {
        Self::new()
    }
}

/// The right to drain one lane. Neither `Clone` nor `Copy`; never dropped while its lane lives.
#[derive(Debug)]
#[must_use = "a token that is dropped stalls its lane for good"]
pub struct Token {
    family: Family,
    lane: u32,
}

impl Token {
    /// Brings a token back into a thread's hands.
    ///
    /// # Safety
    /// The caller has just taken the one token of (`family`, `lane`) out of a word by a
    /// read-modify-write with acquire ordering, and the word no longer has it; or nobody ever made it.
    pub(crate) unsafe fn conjure(family: Family, lane: u32) -> Self {
        Self { family, lane }
    }

    /// The lane's number.
    #[inline]
    pub fn lane(&self) -> u32 {
        self.lane
    }

    /// The family it belongs to.
    #[inline]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Ends the token's life as a value: its place is now the word that the caller put it into.
    #[inline]
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

#[cfg(debug_assertions)]
impl Drop for Token {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // A lost token is a lane that nobody will ever drain again: found in tests, at once.
            panic!("the token of lane {} was dropped", self.lane);
        }
    }
}

/// A lane's private state: whoever has the token has the content, nobody else has.
pub struct TokenCell<T> {
    family: Family,
    lane: u32,
    value: UnsafeCell<T>,
}

// SAFETY: the content is reached only through `&mut Token`, of which there is one, and a token moves
// between threads with release and acquire; so `&TokenCell` gives at most one thread at a time
// access to `T`, as a mutex would, and `T: Send` is what that takes.
unsafe impl<T: Send> Sync for TokenCell<T> {}

impl<T> TokenCell<T> {
    /// The private state of lane `lane`.
    ///
    /// One cell may be made for each kind of state a lane has; all open with the same token.
    pub fn new(family: Family, lane: u32, value: T) -> Self {
        Self { family, lane, value: UnsafeCell::new(value) }
    }

    /// The content, for as long as the token is lent.
    ///
    /// # Panics
    /// If the token is another lane's: that would be two threads at one state.
    #[inline]
    pub fn with<R>(&self, token: &mut Token, f: impl FnOnce(&mut T) -> R) -> R {
        assert!(
            token.lane == self.lane && token.family == self.family,
            "a token opens only its own lane"
        );
        self.value.with_mut(|value| {
            // SAFETY: the token is this cell's (asserted) and unique, and it is borrowed mutably until
            // `f` returns; `R` cannot borrow from the content, since `f` is called for any lifetime.
            f(unsafe { &mut *value })
        })
    }
}

impl<T> std::fmt::Debug for TokenCell<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCell").field("lane", &self.lane).finish_non_exhaustive()
    }
}

/// Bits of a word that hold tokens; the highest bit is the word's flag.
pub const TOKENS_A_WORD: u32 = 63;

const FLAG: u64 = 1 << TOKENS_A_WORD;

/// A set of tokens that any thread may put into and take from: 63 tokens and one flag a word.
///
/// The set covers lanes `first`, `first + stride`, `first + 2·stride`, …; a token's index in it is the
/// number of strides.
#[derive(Debug)]
pub struct TokenSet {
    family: Family,
    first: u32,
    stride: u32,
    len: u32,
    words: Box<[AtomicU64]>,
}

impl TokenSet {
    /// An empty set for `len` lanes.
    pub fn new(family: Family, first: u32, stride: u32, len: u32) -> Self {
        let words = len.div_ceil(TOKENS_A_WORD).max(1);
        Self { family, first, stride, len, words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How many words it has.
    #[inline]
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// Puts a token in; `index` is its lane's place in the set. Says whether the word's flag was up.
    ///
    /// # Panics
    /// If the token's lane is not at `index`.
    #[inline]
    pub fn put(&self, index: u32, token: Token) -> bool {
        assert!(
            index < self.len
                && token.lane == self.first + self.stride * index
                && token.family == self.family,
            "a token goes to its own place"
        );
        token.forget();
        let (word, bit) = place(index);
        // Release: what the giver did to the lane happens before what the taker (`take`, `take_word`)
        // does. Acquire pairs with `try_raise`, so that whoever sees the flag sees what was done before it.
        let ordering = unless(weak!("token_put"), Ordering::AcqRel);
        let before = self.words[word].fetch_or(bit, ordering);
        debug_assert_eq!(before & bit, 0, "two tokens of one lane");
        before & FLAG != 0
    }

    /// Takes the token at `index`, if it is here.
    #[inline]
    pub fn take(&self, index: u32) -> Option<Token> {
        debug_assert!(index < self.len);
        let (word, bit) = place(index);
        // Acquire pairs with the release of `put`.
        let ordering = unless(weak!("token_take"), Ordering::Acquire);
        let before = if weak!("token_split") {
            let before = self.words[word].load(Ordering::Acquire);
            self.words[word].store(before & !bit, Ordering::Release);
            before
        } else {
            self.words[word].fetch_and(!bit, ordering)
        };
        if before & bit == 0 {
            return None;
        }
        // SAFETY: the bit was set and this read-modify-write cleared it, with acquire ordering; bits
        // are set only by `put`, which ends the token it is given.
        Some(unsafe { Token::conjure(self.family, self.first + self.stride * index) })
    }

    /// Takes any one token, looking at all words, from word `start` on.
    pub fn take_any(&self, start: u32) -> Option<Token> {
        let words = self.words.len();
        for step in 0..words {
            let word = (start as usize + step) % words;
            let mut bits = self.words[word].load(Ordering::Relaxed) & !FLAG;
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                if let Some(token) = self.take(word as u32 * TOKENS_A_WORD + bit) {
                    return Some(token);
                }
            }
        }
        None
    }

    /// Takes all tokens of a word and lowers its flag; `each` is given every one with its index. It must
    /// not panic: the tokens after that one would be lost.
    #[inline]
    pub fn take_word(&self, word: usize, mut each: impl FnMut(u32, Token)) {
        // A load first: an idle scan must not take the line from the producers. The swap's result is
        // what counts: between the two, others put and take.
        let seen = self.words[word].load(Ordering::Relaxed);
        if seen == 0 {
            return;
        }
        // Acquire pairs with the release of `put`.
        let ordering = unless(weak!("token_sweep"), Ordering::Acquire);
        let taken = self.words[word].swap(0, ordering);
        let mut bits = if weak!("token_load") { seen } else { taken } & !FLAG;
        while bits != 0 {
            let index = word as u32 * TOKENS_A_WORD + bits.trailing_zeros();
            bits &= bits - 1;
            // SAFETY: the swap cleared the bit, with acquire ordering; bits are set only by `put`, which
            // ends the token it is given; each bit is visited once.
            each(index, unsafe { Token::conjure(self.family, self.first + self.stride * index) });
        }
    }

    /// Whether the set seems empty. May be stale at once.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::Relaxed) & !FLAG == 0)
    }

    /// How many tokens seem to be in it. May be stale at once.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| (word.load(Ordering::Relaxed) & !FLAG).count_ones()).sum()
    }

    /// Raises the flags of all words, if no token is in the set; else raises none.
    ///
    /// Whoever puts a token in afterwards sees the flag.
    pub fn try_raise(&self) -> bool {
        for (raised, word) in self.words.iter().enumerate() {
            if weak!("token_raise") {
                word.fetch_or(FLAG, Ordering::AcqRel);
                continue;
            }
            // Release pairs with the acquire in `put`: the raiser's last look at other state happens before
            // a putter's sight of the flag.
            let flagged =
                word.compare_exchange(0, FLAG, Ordering::Release, Ordering::Relaxed).is_ok();
            if !flagged {
                self.words[..raised].iter().for_each(lower);
                return false;
            }
        }
        true
    }

    /// Lowers the flags.
    pub fn lower(&self) {
        self.words.iter().for_each(lower);
    }

    /// Whether the flag is up. May be stale at once.
    #[inline]
    pub fn is_raised(&self) -> bool {
        self.words[0].load(Ordering::Relaxed) & FLAG != 0
    }
}

fn lower(word: &AtomicU64) {
    // Relaxed: the flag's fall orders nothing, and a read-modify-write lets the tokens that are in the word
    // keep the release they were put with.
    word.fetch_and(!FLAG, Ordering::Relaxed);
}

#[inline]
fn place(index: u32) -> (usize, u64) {
    ((index / TOKENS_A_WORD) as usize, 1 << (index % TOKENS_A_WORD))
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;

    fn token(family: Family, lane: u32) -> Token {
        // SAFETY: each test makes one token a lane of a family of its own.
        unsafe { Token::conjure(family, lane) }
    }

    #[test]
    fn a_token_is_taken_once_and_opens_its_cell() {
        let family = Family::new();
        let set = TokenSet::new(family, 1, 2, 130);
        let cell = TokenCell::new(family, 1 + 2 * 70, 5);
        assert!(!set.put(70, token(family, 141)));
        let mut token = set.take(70).unwrap();
        assert!(set.take(70).is_none());
        cell.with(&mut token, |value| *value += 1);
        assert_eq!(cell.with(&mut token, |value| *value), 6);
        token.forget();
    }

    #[test]
    #[should_panic(expected = "only its own lane")]
    fn a_foreign_token_opens_nothing() {
        let (one, other) = (Family::new(), Family::new());
        let cell = TokenCell::new(one, 3, ());
        let mut token = token(other, 3);
        cell.with(&mut token, |()| ());
    }

    #[test]
    fn the_flag_goes_up_only_over_an_empty_set() {
        let family = Family::new();
        let set = TokenSet::new(family, 0, 1, 200);
        set.put(150, token(family, 150));
        assert!(!set.try_raise() && !set.is_raised());
        set.take(150).unwrap().forget();
        assert!(set.try_raise() && set.is_raised());
        assert!(set.put(3, token(family, 3)));
        set.lower();
        assert_eq!((set.count(), set.is_raised()), (1, false));
        let mut seen = Vec::new();
        for word in 0..set.words() {
            set.take_word(word, |index, token| {
                seen.push(index);
                token.forget();
            });
        }
        assert_eq!(seen, [3]);
        assert!(set.is_empty() && set.take_any(0).is_none());
    }
}
