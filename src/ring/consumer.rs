//! What the token's holder does: look at the oldest message, take it out.

use super::Ring;
use crate::sync::atomic::Ordering;
use crate::sync::{unless, weak};
use crate::token::Token;

/// A ring with its token in hand, for as long as that is lent: the token is looked at once.
#[derive(Debug)]
pub struct Drain<'a, M> {
    ring: &'a Ring<M>,
    /// The ring's head, which only the token's holder moves.
    head: u64,
    _token: &'a mut Token,
}

impl<M> Ring<M> {
    /// For the token's holder to take messages out.
    ///
    /// # Panics
    /// If the token is another lane's.
    #[inline]
    pub fn drain<'a>(&'a self, token: &'a mut Token) -> Drain<'a, M> {
        self.assert_own(token);
        let head = self.begin();
        if head != self.consumer.head.load(Ordering::Relaxed) {
            // It begins anew: for whoever waits until `head` is past what there was. Release pairs with the
            // acquires in `head` and `claim`.
            self.consumer.head.store(head, Ordering::Release);
        }
        Drain { ring: self, head, _token: token }
    }

    /// As [`Drain::pop`], once.
    #[inline]
    pub fn pop(&self, token: &mut Token) -> Option<M> {
        self.drain(token).pop()
    }
}

impl<M> Drain<'_, M> {
    /// The position of the oldest message not taken.
    #[inline]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The oldest message, if it is published.
    #[inline]
    pub fn peek(&self) -> Option<&M>
    where
        // A shared drain may be lent to several threads at once, and so may then the message.
        M: Sync,
    {
        let (ring, head) = (self.ring, self.head);
        let slot = ring.slots.get(head & ring.mask);
        if slot.seq.load(Ordering::Acquire) != head + 1 {
            return None;
        }
        // SAFETY: `seq` says, by acquire, that the message of `head` is in; only the token's holder
        // takes it out, through this drain mutably, which is lent for the reference's life.
        slot.message.with(|place| Some(unsafe { (*place).assume_init_ref() }))
    }

    /// Takes the oldest message, if it is published. `None` also while a producer is between its claim
    /// and its publication: the lane then does not rest, and the caller comes back later.
    #[inline]
    pub fn pop(&mut self) -> Option<M> {
        self.pop_to(|message| message)
    }

    /// As [`pop`](Self::pop), the message given to `take` as it comes out.
    #[inline(always)]
    pub fn pop_to<R>(&mut self, take: impl FnOnce(M) -> R) -> Option<R> {
        let (ring, head) = (self.ring, self.head);
        let slot = ring.slots.get(head & ring.mask);
        if slot.seq.load(Ordering::Acquire) != head + 1 {
            return None;
        }
        // SAFETY: `seq` says, by acquire, that the message of `head` is in; the head moves past it
        // below, so it is read once.
        let message = slot.message.with(|place| unsafe { (*place).assume_init_read() });
        // For the caches alone: a line that this core has written as well as read goes back to the producer whole,
        // one that it has only read has to be taken away from it first. Relaxed: the store of `head` comes after.
        slot.seq.store(0, Ordering::Relaxed);
        self.head = head + 1;
        // Release pairs with the acquires in `claim`: the slot may be filled again.
        ring.consumer.head.store(self.head, unless(weak!("ring_head"), Ordering::Release));
        Some(take(message))
    }
}
