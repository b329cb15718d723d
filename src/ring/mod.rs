//! A lane's bounded ring: many producers, one consumer (whoever has the lane's [`Token`]).
//!
//! ```text
//! tail  = pos << 5 | EMPTY | WAKE | CLOSED | WAIT | IDLE     written by producers, and by the consumer at rest
//! head  = pos                                        written by the consumer only
//! slot  = { seq, message }                           seq == pos + 1: the message of `pos` is in, not taken yet
//! ```
//! A producer claims a position with one compare-exchange on `tail`, so a full ring gives the message
//! back; then it writes the message and publishes it with one store. All hand-offs of the lane are
//! read-modify-writes of that one word, whose modification order decides every race: there is no
//! fence and nothing sequentially consistent.
//!
//! A ring that rests empty begins anew at its first slot: the exchange that puts the token to rest also moves
//! `pos` up to the next multiple of the slots. So a lane that is mostly empty lives in its first few slots, which stay
//! in the caches, and its other slots take no memory. (Positions have 59 bits. That is 2⁴⁹ rests of a ring of 1,024: at
//! a million a second, 17 years.)
//!
//! The flags: see `word`. `weak!` names what is left out where a model must convict the change.

#![allow(unsafe_code)]

mod consumer;
mod producer;
mod slab;
mod word;

use crossbeam_utils::CachePadded;

pub use self::consumer::Drain;
pub use self::producer::Batch;
pub(crate) use self::producer::Refused;
use self::slab::{Slab, Slots};
pub use self::word::Restless;
use self::word::{CLOSED, EMPTY, IDLE, SHIFT, WAIT, WAKE, against_rest};
use crate::sabotage::sabotage;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, unless, weak};
use crate::token::{Family, Token};

/// Written by producers, and by the consumer when it rests.
#[derive(Debug)]
struct Producers {
    tail: AtomicU64,
    /// Positions below this have been free: a push may trust that without a look at the consumer's line.
    /// Never ahead of `head + limit`.
    free_until: AtomicU64,
}

/// Written by the token's holder only.
#[derive(Debug)]
struct Consumer {
    head: AtomicU64,
    /// Where the ring begins anew if the token has come out of an empty rest; else not above `head`. For the
    /// token's holders.
    anew: AtomicU64,
}

/// The bounded ring of one lane.
#[derive(Debug)]
pub struct Ring<M> {
    producers: CachePadded<Producers>,
    consumer: CachePadded<Consumer>,
    slots: Slots<M>,
    /// Positions are folded into slots by this mask; at least `limit` slots.
    mask: u64,
    /// The most messages it holds.
    limit: u64,
    family: Family,
    lane: u32,
}

// SAFETY: a ring owns the messages in its slots and gives each to one thread; positions and tokens
// (module docs) decide who touches a slot. So it may move and be shared where messages may move.
unsafe impl<M: Send> Send for Ring<M> {}
// SAFETY: as above.
unsafe impl<M: Send> Sync for Ring<M> {}

/// The rings of lanes `0..lanes`, each for at most `slots` messages, all tokens at rest. Untouched slots take
/// no memory: they are zero pages that the system maps at first use.
///
/// # Panics
/// If `slots` is 0, or if the memory cannot be reserved.
pub fn rings<M: Send>(lanes: u32, slots: usize) -> (Family, Vec<Ring<M>>) {
    const { assert!(align_of::<M>() <= 64, "a message fits a slot's alignment") };
    assert!(slots > 0, "a ring has at least one slot");
    // Checked: a size that wrapped would give a slab smaller than what its rings reach into.
    let stride = slots.checked_next_power_of_two();
    let spacing = stride.and_then(|stride| stride.checked_add(skew(stride)));
    let total = spacing.and_then(|spacing| spacing.checked_mul(lanes as usize));
    let (Some(stride), Some(spacing), Some(total)) = (stride, spacing, total) else {
        panic!("no memory for {lanes} lanes of {slots} slots");
    };
    let family = Family::new();
    let slab = Arc::new(Slab::<M>::new(total));
    let rings = (0..lanes).map(|lane| Ring {
        producers: CachePadded::new(Producers {
            tail: AtomicU64::new(IDLE | EMPTY),
            free_until: AtomicU64::new(slots as u64),
        }),
        consumer: CachePadded::new(Consumer { head: AtomicU64::new(0), anew: AtomicU64::new(0) }),
        slots: Slots::new(slab.clone(), lane as usize * spacing),
        mask: stride as u64 - 1,
        limit: slots as u64,
        family,
        lane,
    });
    (family, rings.collect())
}

/// Slots left out behind a ring of so many. Rings a power of two apart would all have their first slots, where a
/// ring that is mostly empty lives, in the same few sets of the caches. An odd number of slots leads through all.
fn skew(stride: usize) -> usize {
    if stride < 64 { 0 } else { 17 }
}

impl<M> Ring<M> {
    /// The most messages it holds.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// How many messages it seems to hold. May be stale at once.
    #[inline]
    pub fn len(&self) -> usize {
        let head = self.begin();
        let tail = self.producers.tail.load(Ordering::Relaxed) >> SHIFT;
        // Read at two instants: the difference is what it may be, held within what can be.
        tail.saturating_sub(head).min(self.limit) as usize
    }

    /// Whether it seems to hold none. May be stale at once.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position that `head` will have reached when all that is in it now has been taken.
    pub fn tail(&self) -> u64 {
        // Acquire pairs with the release in `claim`: what the producer did before its push is seen.
        let tail = self.producers.tail.load(Ordering::Acquire);
        // Nothing is in it, and `head` comes up to `pos` only with the next message.
        if tail & EMPTY != 0 { 0 } else { tail >> SHIFT }
    }

    /// The position of the oldest message not taken, or below if nobody has looked since the ring began anew.
    pub fn head(&self) -> u64 {
        // Acquire pairs with the release in `pop`: what the consumer did before it is seen.
        self.consumer.head.load(Ordering::Acquire)
    }

    /// Where the token's holder goes on.
    #[inline]
    fn begin(&self) -> u64 {
        let Consumer { head, anew } = &*self.consumer;
        // Relaxed: only the token's holder stores them, and tokens move with release and acquire.
        head.load(Ordering::Relaxed).max(anew.load(Ordering::Relaxed))
    }

    /// Whether the token rests here and no message waits. Can change at once unless the ring is closed.
    pub fn is_at_rest(&self) -> bool {
        // Acquire pairs with the release of `rest`: what the last holder did is seen.
        let tail = self.producers.tail.load(Ordering::Acquire);
        tail & (IDLE | WAKE) == IDLE && (tail & EMPTY != 0 || tail >> SHIFT == self.begin())
    }

    /// Whether pushes are refused for good.
    pub fn is_closed(&self) -> bool {
        self.producers.tail.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// How many positions from `pos` on are free when the consumer is at `head`.
    #[inline]
    fn room(&self, pos: u64, head: u64) -> u64 {
        self.limit.saturating_sub(pos.saturating_sub(head))
    }

    /// Puts the token to rest, if the ring is empty and nobody waits for the lane.
    ///
    /// # Errors
    /// Gives the token back with the reason.
    #[inline]
    pub fn rest(&self, token: Token) -> Result<(), Restless> {
        let head = self.begin();
        let anew = (head + self.mask) & !self.mask;
        // Before the exchange: whoever takes the token out must find it. Undone if there is none.
        if !weak!("ring_anew") {
            self.consumer.anew.store(anew, Ordering::Relaxed);
        }
        let rested = self.rest_if(token, anew << SHIFT | EMPTY, |flags, pos| {
            flags == 0 && (pos == head || weak!("ring_ignores_claims"))
        });
        if rested.is_err() {
            self.consumer.anew.store(head, Ordering::Relaxed);
        }
        rested
    }

    /// Puts the token to rest even over messages: the consumer cannot go on before `wake` is called.
    /// A push in between takes the token out all the same. Producers may wait meanwhile, if there is no room:
    /// woken for nothing, they would only wait again. WAIT stays for the next consumer to see.
    ///
    /// # Errors
    /// Gives the token back if there has been a wake, or producers wait though there is room.
    pub fn rest_blocked(&self, token: Token) -> Result<(), Restless> {
        let head = self.begin();
        self.rest_if(token, 0, |flags, pos| {
            let no_room = self.room(pos, head) == 0 || weak!("ring_rest_room");
            flags == 0 || flags == WAIT && no_room
        })
    }

    /// Puts the token to rest, as long as `may` says so of the flags and `pos`; `anew`: with this position and EMPTY.
    #[inline]
    fn rest_if(
        &self,
        token: Token,
        anew: u64,
        may: impl Fn(u64, u64) -> bool,
    ) -> Result<(), Restless> {
        self.assert_own(&token);
        // A load first: an exchange that fails still takes the line from the producers.
        let mut tail = self.producers.tail.load(Ordering::Relaxed);
        while may(tail & against_rest(), tail >> SHIFT) {
            let kept = if anew == 0 { tail } else { tail & (CLOSED | WAIT | WAKE) | anew };
            // Release pairs with the acquires in `claim` and `wake`: what this holder did happens before
            // what the next one does; and in `set_wait`: who waits sees the room that there is. A claim
            // that came first makes the exchange fail.
            match self.producers.tail.compare_exchange(
                tail,
                kept | IDLE,
                unless(weak!("ring_rest"), Ordering::Release),
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    token.forget();
                    return Ok(());
                }
                Err(now) => tail = now,
            }
        }
        Err(Restless { token, wait: tail & WAIT != 0, wake: tail & WAKE != 0 })
    }

    /// Tells the consumer of work beside the ring. If the lane was at rest its token comes out, for the
    /// caller to bring to a worker; else the holder will look before it rests.
    pub fn wake(&self) -> Option<Token> {
        let mut tail = self.producers.tail.load(Ordering::Relaxed);
        loop {
            if weak!("ring_wake") && tail & WAKE != 0 {
                return None;
            }
            // A read-modify-write also when WAKE is set already: only so does this thread's work come
            // before the holder's look (release here, acquire in `take_wake`). Acquire as in `claim`.
            match self.producers.tail.compare_exchange_weak(
                tail,
                (tail | WAKE) & !IDLE,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return self.token_of(tail),
                Err(now) => tail = now,
            }
        }
    }

    /// Whether there has been a `wake` since the last call: if so, look for its work now.
    #[inline]
    pub fn take_wake(&self, token: &mut Token) -> bool {
        self.assert_own(token);
        if self.producers.tail.load(Ordering::Relaxed) & WAKE == 0 {
            return false;
        }
        // Acquire pairs with the release in `wake`.
        let ordering = unless(weak!("ring_look"), Ordering::Acquire);
        self.producers.tail.fetch_and(!WAKE, ordering) & WAKE != 0
    }

    /// Says that a producer is about to sleep until there is room; it must try once more after this
    /// and before it sleeps. False if the ring is closed.
    pub fn set_wait(&self) -> bool {
        // Acquire pairs with the release of `rest`: on a lane at rest the next try sees that there is
        // room. On any other lane the consumer cannot rest without a look at WAIT.
        let ordering = unless(weak!("ring_wait"), Ordering::Acquire);
        self.producers.tail.fetch_or(WAIT, ordering) & CLOSED == 0
    }

    /// Whether producers wait for room. May be stale at once; `rest` is what cannot miss it.
    #[inline]
    pub fn has_wait(&self) -> bool {
        self.producers.tail.load(Ordering::Relaxed) & WAIT != 0
    }

    /// Clears WAIT, before those who wait are woken.
    pub fn clear_wait(&self) {
        // Release pairs with the acquire in `set_wait`: who waits from here on sees the room that there is.
        self.producers.tail.fetch_and(!WAIT, Ordering::Release);
    }

    /// Refuses every push from here on.
    pub fn close(&self) {
        // Acquire pairs with the release in `claim`: whoever closes sees what came before each push
        // that was not refused.
        self.producers.tail.fetch_or(CLOSED, Ordering::Acquire);
    }

    /// The token that was at rest in `tail`, which a read-modify-write with acquire has just replaced by
    /// a value without IDLE.
    #[inline]
    fn token_of(&self, tail: u64) -> Option<Token> {
        if tail & IDLE == 0 && !sabotage!(TwoOnALane) {
            return None;
        }
        // SAFETY: IDLE is the token's place in this word; it was set (by `rings`, which makes the family
        // and so the only token, or by `rest_if`, which ends the one it is given) and the caller's
        // exchange has cleared it, with acquire ordering.
        Some(unsafe { Token::conjure(self.family, self.lane) })
    }

    #[inline]
    fn assert_own(&self, token: &Token) {
        assert!(
            token.lane() == self.lane && token.family() == self.family,
            "a token drains only its own lane"
        );
    }
}

impl<M> Ring<M> {
    /// Drops what was not taken. For whoever drops the ring, and so has it alone: hence relaxed.
    fn clear(&self) {
        loop {
            let head = self.begin();
            let slot = self.slots.get(head & self.mask);
            if slot.seq.load(Ordering::Relaxed) != head + 1 {
                return;
            }
            // Before the message goes: should its drop panic, it is not dropped again.
            self.consumer.head.store(head + 1, Ordering::Relaxed);
            // SAFETY: nobody else is here; the message is in and the head has moved past it.
            drop(slot.message.with(|place| unsafe { (*place).assume_init_read() }));
        }
    }
}

impl<M> Drop for Ring<M> {
    fn drop(&mut self) {
        /// Goes on behind a message whose drop panicked.
        struct Rest<'a, M>(&'a Ring<M>);
        impl<M> Drop for Rest<'_, M> {
            fn drop(&mut self) {
                self.0.clear();
            }
        }
        if std::mem::needs_drop::<M>() {
            let _rest = Rest(self);
            self.clear();
        }
    }
}
