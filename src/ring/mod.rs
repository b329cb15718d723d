//! A lane's bounded ring: many producers, one consumer (whoever has the lane's [`Token`]).
//!
//! ```text
//! tail  = pos << 4 | WAKE | CLOSED | WAIT | IDLE     written by producers, and by the consumer at rest
//! head  = pos                                        written by the consumer only
//! slot  = { seq, message }                           seq == pos + 1: the message of `pos` is published
//! ```
//! A producer claims a position with one compare-exchange on `tail`, so a full ring gives the message
//! back; then it writes the message and publishes it with one store. All hand-offs of the lane are
//! read-modify-writes of that one word, whose modification order decides every race: there is no
//! fence and nothing sequentially consistent. (Positions have 60 bits: more than anyone will push.)
//!
//! The flags: see `word`. `weak!` names what is left out where a model must convict the change.

#![allow(unsafe_code)]

mod slab;
mod word;

use std::collections::VecDeque;

use crossbeam_utils::CachePadded;

use self::slab::{Slab, Slots};
pub use self::word::Restless;
use self::word::{CLOSED, IDLE, SHIFT, WAIT, WAKE, against_rest, kept_by_claim};
use crate::error::PushError;
use crate::sabotage::sabotage;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, unless, weak};
use crate::token::{Family, Token};

/// Written by producers, and by the consumer when it rests.
#[derive(Debug)]
struct Producers {
    tail: AtomicU64,
    /// A position that `head` has reached: never ahead of it, so a push may trust it without a look
    /// at the consumer's line.
    head_cache: AtomicU64,
}

/// The bounded ring of one lane.
#[derive(Debug)]
pub struct Ring<M> {
    producers: CachePadded<Producers>,
    head: CachePadded<AtomicU64>,
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
    let total = stride.and_then(|stride| stride.checked_mul(lanes as usize));
    let (Some(stride), Some(total)) = (stride, total) else {
        panic!("no memory for {lanes} lanes of {slots} slots");
    };
    let family = Family::new();
    let slab = Arc::new(Slab::<M>::new(total));
    let rings = (0..lanes).map(|lane| Ring {
        producers: CachePadded::new(Producers {
            tail: AtomicU64::new(IDLE),
            head_cache: AtomicU64::new(0),
        }),
        head: CachePadded::new(AtomicU64::new(0)),
        slots: Slots::new(slab.clone(), lane as usize * stride),
        mask: stride as u64 - 1,
        limit: slots as u64,
        family,
        lane,
    });
    (family, rings.collect())
}

impl<M> Ring<M> {
    /// The most messages it holds.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// How many messages it seems to hold. May be stale at once.
    #[inline]
    pub fn len(&self) -> usize {
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.producers.tail.load(Ordering::Relaxed) >> SHIFT;
        // Read at two instants: the difference is what it may be, held within what can be.
        tail.saturating_sub(head).min(self.limit) as usize
    }

    /// Whether it seems to hold none. May be stale at once.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position after the newest claimed one.
    pub fn tail(&self) -> u64 {
        // Acquire pairs with the release in `claim`: what the producer did before its push is seen.
        self.producers.tail.load(Ordering::Acquire) >> SHIFT
    }

    /// The position of the oldest message not taken.
    pub fn head(&self) -> u64 {
        // Acquire pairs with the release in `pop`: what the consumer did before it is seen.
        self.head.load(Ordering::Acquire)
    }

    /// Whether the token rests here and no message waits. Can change at once unless the ring is closed.
    pub fn is_at_rest(&self) -> bool {
        // Acquire pairs with the release of `rest`: what the last holder did is seen.
        let tail = self.producers.tail.load(Ordering::Acquire);
        tail & (IDLE | WAKE) == IDLE && tail >> SHIFT == self.head.load(Ordering::Relaxed)
    }

    /// Whether pushes are refused for good.
    pub fn is_closed(&self) -> bool {
        self.producers.tail.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Puts a message in. If the lane was at rest, its token comes out: the caller sees to it that a
    /// worker gets it.
    ///
    /// # Errors
    /// Gives the message back if the ring is full or closed.
    #[inline]
    pub fn push(&self, message: M) -> Result<Option<Token>, PushError<M>> {
        match self.claim(1) {
            Ok((pos, _, token)) => {
                self.publish(pos, message);
                Ok(token)
            }
            Err(Refused::Full) => Err(PushError::Full(message)),
            Err(Refused::Closed) => Err(PushError::Closed(message)),
        }
    }

    /// Takes as many messages from the front of `messages` as there is room for, with one claim.
    ///
    /// # Errors
    /// If none was taken: the ring is full or closed.
    pub fn push_batch(
        &self,
        messages: &mut VecDeque<M>,
    ) -> Result<(usize, Option<Token>), PushError<()>> {
        if messages.is_empty() {
            return Ok((0, None));
        }
        match self.claim(messages.len() as u64) {
            Ok((pos, count, token)) => {
                for (pos, message) in (pos..pos + count).zip(messages.drain(..count as usize)) {
                    self.publish(pos, message);
                }
                Ok((count as usize, token))
            }
            Err(Refused::Full) => Err(PushError::Full(())),
            Err(Refused::Closed) => Err(PushError::Closed(())),
        }
    }

    /// Claims up to `want` positions: (the first, how many, the token if it was at rest).
    #[inline]
    fn claim(&self, want: u64) -> Result<(u64, u64, Option<Token>), Refused> {
        let producers = &*self.producers;
        let mut tail = producers.tail.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED != 0 && !weak!("ring_closed") {
                return Err(Refused::Closed);
            }
            let pos = tail >> SHIFT;
            // A stale `tail` may be behind `head`: there seems to be room, and the exchange fails.
            // Acquire pairs with the release below: whoever stored this head had seen the consumer's
            // release of the slots behind it, and so has whoever trusts it. (Its claim would say so too,
            // but it may not have come to that yet.)
            let ordering = unless(weak!("ring_cache"), Ordering::Acquire);
            let mut room = self.room(pos, producers.head_cache.load(ordering));
            if room < want {
                // Acquire pairs with the release in `pop`: the messages are out of their slots.
                let head = self.head.load(Ordering::Acquire);
                room = self.room(pos, head);
                if room == 0 {
                    let now = producers.tail.load(Ordering::Relaxed);
                    if now != tail {
                        tail = now;
                        continue;
                    }
                    return Err(Refused::Full);
                }
                let ordering = unless(weak!("ring_cache"), Ordering::Release);
                producers.head_cache.store(head, ordering);
            }
            let count = want.min(room);
            let next = (pos + count) << SHIFT | (tail & kept_by_claim());
            // Acquire pairs with the release of `rest`: with IDLE cleared the token is here, and what its
            // last holder did must be seen. Release pairs with the acquires in `close` and `tail`:
            // whoever counts this claim sees what came before it.
            match producers.tail.compare_exchange_weak(
                tail,
                next,
                unless(weak!("ring_claim"), Ordering::AcqRel),
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok((pos, count, self.token_of(tail))),
                Err(now) => tail = now,
            }
        }
    }

    /// How many positions from `pos` on are free when the consumer is at `head`.
    #[inline]
    fn room(&self, pos: u64, head: u64) -> u64 {
        self.limit.saturating_sub(pos.saturating_sub(head))
    }

    /// Fills a claimed position. Nothing here can panic: a claimed position must be published.
    #[inline]
    fn publish(&self, pos: u64, message: M) {
        let slot = self.slots.get(pos & self.mask);
        slot.message.with_mut(|place| {
            // SAFETY: the claim gave `pos` to this thread alone, and the slot's last message is out:
            // `claim` saw, by acquire, a head past it. Nobody reads it before `seq` says so.
            unsafe { (*place).write(message) };
        });
        // Release pairs with the acquire in `peek` and `pop`: the message is in.
        slot.seq.store(pos + 1, unless(weak!("ring_publish"), Ordering::Release));
    }

    /// The oldest message, if it is published.
    #[inline]
    pub fn peek<'a>(&'a self, token: &'a Token) -> Option<&'a M>
    where
        // A shared token may be lent to several threads at once, and so may then the message.
        M: Sync,
    {
        self.assert_own(token);
        let head = self.head.load(Ordering::Relaxed);
        let slot = self.slots.get(head & self.mask);
        if slot.seq.load(Ordering::Acquire) != head + 1 {
            return None;
        }
        // SAFETY: `seq` says, by acquire, that the message of `head` is in; only the token's holder
        // takes it out, which needs the token mutably, and the token is lent for the reference's life.
        slot.message.with(|place| Some(unsafe { (*place).assume_init_ref() }))
    }

    /// Takes the oldest message, if it is published. `None` also while a producer is between its claim
    /// and its publication: the lane then does not rest, and the caller comes back later.
    #[inline]
    pub fn pop(&self, token: &mut Token) -> Option<M> {
        self.assert_own(token);
        // Relaxed: only the token's holder stores it, and tokens move with release and acquire.
        let head = self.head.load(Ordering::Relaxed);
        let slot = self.slots.get(head & self.mask);
        if slot.seq.load(Ordering::Acquire) != head + 1 {
            return None;
        }
        // SAFETY: `seq` says, by acquire, that the message of `head` is in; the head moves past it
        // below, so it is read once.
        let message = slot.message.with(|place| unsafe { (*place).assume_init_read() });
        // Release pairs with the acquires in `claim`: the slot may be filled again.
        self.head.store(head + 1, unless(weak!("ring_head"), Ordering::Release));
        Some(message)
    }

    /// Puts the token to rest, if the ring is empty and nobody waits for the lane.
    ///
    /// # Errors
    /// Gives the token back with the reason.
    #[inline]
    pub fn rest(&self, token: Token) -> Result<(), Restless> {
        self.rest_if(token, |flags, pos, head| {
            flags == 0 && (pos == head || weak!("ring_ignores_claims"))
        })
    }

    /// Puts the token to rest even over messages: the consumer cannot go on before `wake` is called.
    /// A push in between takes the token out all the same. Producers may wait meanwhile, if there is no room:
    /// woken for nothing, they would only wait again. WAIT stays for the next consumer to see.
    ///
    /// # Errors
    /// Gives the token back if there has been a wake, or producers wait though there is room.
    pub fn rest_blocked(&self, token: Token) -> Result<(), Restless> {
        self.rest_if(token, |flags, pos, head| {
            let no_room = self.room(pos, head) == 0 || weak!("ring_rest_room");
            flags == 0 || flags == WAIT && no_room
        })
    }

    #[inline]
    fn rest_if(&self, token: Token, may: impl Fn(u64, u64, u64) -> bool) -> Result<(), Restless> {
        self.assert_own(&token);
        let head = self.head.load(Ordering::Relaxed);
        // A load first: an exchange that fails still takes the line from the producers.
        let mut tail = self.producers.tail.load(Ordering::Relaxed);
        while may(tail & against_rest(), tail >> SHIFT, head) {
            // Release pairs with the acquires in `claim` and `wake`: what this holder did happens before
            // what the next one does; and in `set_wait`: who waits sees the room that there is. A claim
            // that came first makes the exchange fail.
            match self.producers.tail.compare_exchange(
                tail,
                tail | IDLE,
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

enum Refused {
    Full,
    Closed,
}

impl<M> Ring<M> {
    /// Drops what was not taken. For whoever drops the ring, and so has it alone: hence relaxed.
    fn clear(&self) {
        loop {
            let head = self.head.load(Ordering::Relaxed);
            let slot = self.slots.get(head & self.mask);
            if slot.seq.load(Ordering::Relaxed) != head + 1 {
                return;
            }
            // Before the message goes: should its drop panic, it is not dropped again.
            self.head.store(head + 1, Ordering::Relaxed);
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
