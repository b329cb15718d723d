//! What a ring is as a plain queue with one consumer, so that it can be held against another one.

use crossbeam_queue::ArrayQueue;

use crate::error::PushError;
use crate::ring::{Ring, rings};
use crate::token::Token;

/// A bounded queue that gives back what it cannot take: the ring, or what it is measured against.
pub trait Queue<M>: Send + Sync {
    /// Puts `message` in.
    ///
    /// # Errors
    /// Gives it back if there is no room.
    fn push(&self, message: M) -> Result<(), PushError<M>>;

    /// Takes the oldest message.
    fn pop(&mut self) -> Option<M>;
}

impl<M: Send> Queue<M> for ArrayQueue<M> {
    fn push(&self, message: M) -> Result<(), PushError<M>> {
        ArrayQueue::push(self, message).map_err(PushError::Full)
    }

    fn pop(&mut self) -> Option<M> {
        ArrayQueue::pop(self)
    }
}

/// One lane's ring with its token in hand: a plain queue with one consumer.
#[derive(Debug)]
pub struct Single<M> {
    ring: Ring<M>,
    token: Option<Token>,
}

impl<M: Send> Single<M> {
    /// A queue of `slots` messages.
    pub fn new(slots: usize) -> Self {
        let (_, mut rings) = rings(1, slots);
        let ring = match rings.pop() {
            Some(ring) => ring,
            None => unreachable!("one ring was asked for"),
        };
        let token = ring.wake();
        Self { ring, token }
    }

    /// The ring itself.
    pub fn ring(&self) -> &Ring<M> {
        &self.ring
    }
}

impl<M: Send> Queue<M> for Single<M> {
    fn push(&self, message: M) -> Result<(), PushError<M>> {
        self.ring.push(message).map(|token| debug_assert!(token.is_none()))
    }

    fn pop(&mut self) -> Option<M> {
        self.token.as_mut().and_then(|token| self.ring.pop(token))
    }
}

impl<M> Drop for Single<M> {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            token.forget();
        }
    }
}
