//! What producers do: claim positions, fill them, publish them.

use std::collections::VecDeque;

use super::word::{CLOSED, EMPTY, SHIFT, kept_by_claim};
use super::{Producers, Ring};
use crate::error::PushError;
use crate::sync::atomic::Ordering;
use crate::sync::{unless, weak};
use crate::token::Token;

/// Why no position was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

/// A position that is this thread's to fill. Everything behind it waits for that, so nothing comes between.
#[must_use = "a position that is not filled stalls its lane for good"]
pub(crate) struct Claim<'a, M> {
    ring: &'a Ring<M>,
    pos: u64,
    /// The tail's word before the claim.
    tail: u64,
}

impl<M> Claim<'_, M> {
    /// Fills the position. If the lane was at rest, its token comes out: the caller sees to it that a
    /// worker gets it.
    #[inline(always)]
    pub(crate) fn fill(self, message: M) -> Option<Token> {
        self.ring.publish(self.pos, message);
        self.ring.token_of(self.tail)
    }
}

/// Messages in order, to be put in with as few claims as may be.
pub trait Batch<M> {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first: one of `len`.
    fn next(&mut self) -> Option<M>;
}

impl<M> Batch<M> for VecDeque<M> {
    fn len(&self) -> usize {
        self.len()
    }

    fn next(&mut self) -> Option<M> {
        self.pop_front()
    }
}

impl Producers {
    /// Says that positions below `free` are free. Returns up to where they are known to be: one that is late must not
    /// have others look where the consumer's `head` is behind.
    #[inline]
    fn raise(&self, free: u64) -> u64 {
        let mut known = self.free_until.load(Ordering::Relaxed);
        // Not `fetch_max`, which the thread sanitizer does not see.
        while known < free {
            // Release pairs with the acquire in `try_claim`.
            let ordering = unless(weak!("ring_cache"), Ordering::Release);
            let raised =
                self.free_until.compare_exchange_weak(known, free, ordering, Ordering::Relaxed);
            match raised {
                Ok(_) => known = free,
                Err(now) => known = now,
            }
        }
        known
    }
}

impl<M> Ring<M> {
    /// Puts a message in. If the lane was at rest, its token comes out: the caller sees to it that a
    /// worker gets it.
    ///
    /// # Errors
    /// Gives the message back if the ring is full or closed.
    #[inline]
    pub fn push(&self, message: M) -> Result<Option<Token>, PushError<M>> {
        match self.claim_one() {
            Ok(claim) => Ok(claim.fill(message)),
            Err(Refused::Full) => Err(PushError::Full(message)),
            Err(Refused::Closed) => Err(PushError::Closed(message)),
        }
    }

    /// Takes as many messages from the front of `messages` as there is room for, with one claim.
    ///
    /// # Errors
    /// If none was taken: the ring is full or closed.
    #[inline]
    pub fn push_batch(
        &self,
        messages: &mut impl Batch<M>,
    ) -> Result<(usize, Option<Token>), PushError<()>> {
        if messages.is_empty() {
            return Ok((0, None));
        }
        match self.claim(messages.len() as u64) {
            Ok((pos, count, tail)) => {
                for pos in pos..pos + count {
                    // A batch is as long as it says: a position that stayed empty would stall the lane.
                    let Some(message) = messages.next() else { unreachable!("a short batch") };
                    self.publish(pos, message);
                }
                Ok((count as usize, self.token_of(tail)))
            }
            Err(Refused::Full) => Err(PushError::Full(())),
            Err(Refused::Closed) => Err(PushError::Closed(())),
        }
    }

    /// Claims the next position.
    #[inline(always)]
    pub(crate) fn claim_one(&self) -> Result<Claim<'_, M>, Refused> {
        let tail = self.producers.tail.load(Ordering::Relaxed);
        let slow = tail & (CLOSED | EMPTY) != 0;
        let claimed = match if slow { None } else { self.try_claim(tail, 1) } {
            Some((pos, _)) => Ok((pos, 1, tail)),
            None => self.claim(1),
        };
        claimed.map(|(pos, _, tail)| Claim { ring: self, pos, tail })
    }

    /// Claims up to `want` positions: (the first, how many, the tail's word before).
    #[inline(never)]
    fn claim(&self, want: u64) -> Result<(u64, u64, u64), Refused> {
        let producers = &*self.producers;
        loop {
            let tail = producers.tail.load(Ordering::Relaxed);
            if tail & CLOSED != 0 && !weak!("ring_closed") {
                return Err(Refused::Closed);
            }
            let pos = tail >> SHIFT;
            let empty = tail & EMPTY != 0 && !weak!("ring_empty");
            if empty || producers.free_until.load(Ordering::Relaxed) < pos + want {
                // An empty ring begins anew at `pos`, whatever the consumer's `head` still says: and so it must be
                // known to those who claim next, who cannot tell. Else: acquire pairs with the release in `pop`:
                // the messages are out of their slots.
                let head = if empty { pos } else { self.consumer.head.load(Ordering::Acquire) };
                if producers.raise(head + self.limit) <= pos {
                    if producers.tail.load(Ordering::Relaxed) != tail {
                        continue;
                    }
                    return Err(Refused::Full);
                }
            }
            if let Some((pos, count)) = self.try_claim(tail, want) {
                return Ok((pos, count, tail));
            }
        }
    }

    /// Claims up to `want` positions, if the tail is still `tail` and there is room as far as is known.
    #[inline(always)]
    fn try_claim(&self, tail: u64, want: u64) -> Option<(u64, u64)> {
        let producers = &*self.producers;
        let pos = tail >> SHIFT;
        // A stale `tail` may be behind `head`: there seems to be room, and the exchange fails.
        // Acquire pairs with the release above: whoever stored this had seen the consumer's release of the
        // slots before it, and so has whoever trusts it. (Its claim would say so too, but it may not have
        // come to that yet.)
        let ordering = unless(weak!("ring_cache"), Ordering::Acquire);
        let free = producers.free_until.load(ordering);
        if free <= pos {
            return None;
        }
        let count = want.min(free - pos);
        let next = (pos + count) << SHIFT | (tail & kept_by_claim());
        // Acquire pairs with the release of `rest`: with IDLE cleared the token is here, and what its
        // last holder did must be seen. Release pairs with the acquires in `close` and `tail`:
        // whoever counts this claim sees what came before it.
        let claimed = producers.tail.compare_exchange_weak(
            tail,
            next,
            unless(weak!("ring_claim"), Ordering::AcqRel),
            Ordering::Relaxed,
        );
        claimed.is_ok().then_some((pos, count))
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
}
