//! Bells that are rung together: what one caller puts into many lanes wakes each of them once, and not for every message.

use crate::error::PushError;
use crate::lane::Lanes;
use crate::sync::weak;
use crate::token::Token;

/// Lanes that were at rest, have got something since, and whose workers have not been told.
///
/// Until [`ring`](Self::ring) nobody drains them, whoever else puts something in. So it is rung before its caller
/// sleeps, waits for room, or ends: it holds at most one token a lane, and never for longer than a turn. Within a turn it
/// rings by itself now and then, so that the first message does not wait for all the others.
#[derive(Debug, Default)]
pub struct Peal {
    tokens: Vec<Token>,
    /// Messages since it was rung.
    count: usize,
}

/// Messages after which it rings by itself.
const MOST: usize = 64;

impl Peal {
    /// Puts a message into a lane; if that was at rest, its worker is told by the next `ring`.
    ///
    /// # Errors
    /// Gives it back if the lane is full or closed. Then the workers have been told: the caller may wait for room.
    #[inline]
    pub fn push<M: Send, P: Send, C>(
        &mut self,
        lanes: &Lanes<M, P, C>,
        lane: u32,
        message: M,
    ) -> Result<(), PushError<M>> {
        match lanes.get(lane).ring().push(message) {
            Ok(token) => {
                self.tokens.extend(token);
                self.count += 1;
                if self.count == MOST {
                    self.ring(lanes);
                }
                Ok(())
            }
            Err(error) => {
                // The lane may be one of these: nobody else would make room in it.
                if !weak!("peal_full") {
                    self.ring(lanes);
                }
                Err(error)
            }
        }
    }

    /// Tells the workers, in the order in which the lanes got something.
    #[inline]
    pub fn ring<M: Send, P: Send, C>(&mut self, lanes: &Lanes<M, P, C>) {
        self.count = 0;
        if !self.tokens.is_empty() {
            self.ring_all(lanes);
        }
    }

    fn ring_all<M: Send, P: Send, C>(&mut self, lanes: &Lanes<M, P, C>) {
        for token in self.tokens.drain(..) {
            lanes.send(token);
            if weak!("peal_ring") {
                break;
            }
        }
    }
}
