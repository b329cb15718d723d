//! A worker's ready set: the tokens of its lanes that have work, and whether it sleeps.

use crossbeam_utils::CachePadded;

use crate::parker::Unparker;
use crate::sync::weak;
use crate::token::{Family, Token, TokenSet};

/// The bell of one worker.
///
/// `ready` has the tokens of its own lanes that were woken; `taken` those of any lane that it has in
/// turn. Both are open to other workers, so that a handler that does not return holds up no lane but its own.
/// The flag of `ready` says PARKED.
#[derive(Debug)]
pub struct Bell {
    ready: CachePadded<TokenSet>,
    taken: CachePadded<TokenSet>,
    sleeper: Unparker,
}

impl Bell {
    /// The bell of worker `worker` of `workers`, for `lanes` lanes; `sleeper` wakes its thread.
    pub fn new(family: Family, worker: u32, workers: u32, lanes: u32, sleeper: Unparker) -> Self {
        // A spare worker is at home nowhere.
        let own = if worker < workers { lanes.saturating_sub(worker).div_ceil(workers) } else { 0 };
        Self {
            ready: CachePadded::new(TokenSet::new(family, worker, workers, own)),
            taken: CachePadded::new(TokenSet::new(family, 0, 1, lanes)),
            sleeper,
        }
    }

    /// Hands the worker a lane of its own, at `index` among them, and wakes it if it sleeps.
    #[inline]
    pub fn ring(&self, index: u32, token: Token) {
        if weak!("bell_ring") {
            let parked = self.ready.is_raised();
            self.ready.put(index, token);
            return if parked {
                self.sleeper.unpark()
            };
        }
        // Of this and `lie_down` one sees the other: they are read-modify-writes of one word.
        if self.ready.put(index, token) {
            self.sleeper.unpark();
        }
    }

    /// Wakes the worker, whatever it does.
    pub fn wake(&self) {
        self.sleeper.unpark();
    }

    /// Moves what is ready to `taken`; `each` is told every lane.
    #[inline]
    pub fn collect(&self, mut each: impl FnMut(u32)) {
        for word in 0..self.ready.words() {
            self.ready.take_word(word, |_, token| {
                let lane = token.lane();
                self.taken.put(lane, token);
                each(lane);
            });
        }
    }

    /// The token of a lane that the worker has in turn, unless another worker took it.
    #[inline]
    pub fn take(&self, lane: u32) -> Option<Token> {
        self.taken.take(lane)
    }

    /// Puts a lane at the worker's disposal again: it, or another, comes back to it.
    #[inline]
    pub fn put_back(&self, token: Token) {
        self.taken.put(token.lane(), token);
    }

    /// Takes a lane away from the worker.
    pub fn steal(&self, start: u32) -> Option<Token> {
        if weak!("bell_steal") {
            return self.taken.take_any(start);
        }
        self.taken.take_any(start).or_else(|| self.ready.take_any(start))
    }

    /// How many lanes wait for the worker. May be stale at once.
    pub fn waiting(&self) -> u32 {
        self.ready.count() + self.taken.count()
    }

    /// Whether no lane waits for the worker. May be stale at once.
    pub fn is_quiet(&self) -> bool {
        self.ready.is_empty() && self.taken.is_empty()
    }

    /// Says PARKED, if nothing is ready. The worker then sleeps until it is woken, and calls `rise`.
    pub fn lie_down(&self) -> bool {
        self.ready.try_raise()
    }

    /// Takes PARKED back.
    pub fn rise(&self) {
        self.ready.lower();
    }

    /// Whether the worker sleeps, or is about to. May be stale at once.
    pub fn is_parked(&self) -> bool {
        self.ready.is_raised()
    }
}
