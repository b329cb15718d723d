//! Those who wait for something that happens rarely: threads and tasks, as wakers.

use std::task::Waker;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// A list of wakers. Whoever registers looks at its condition once more before it sleeps.
#[derive(Debug)]
pub struct WaitList {
    /// How many wait; read without the lock by those who have nobody to wake.
    len: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: Vec<(u64, Waker)>,
}

/// A place in the list; given up by [`WaitList::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl WaitList {
    /// An empty list.
    pub fn new() -> Self {
        Self { len: AtomicUsize::new(0), waiting: Mutex::new(Waiting::default()) }
    }

    /// Registers `waker`, again if it has a `place` still.
    pub fn join(&self, place: Option<Place>, waker: &Waker) -> Place {
        let mut waiting = self.waiting.lock();
        if let Some(Place(id)) = place
            && let Some(entry) = waiting.wakers.iter_mut().find(|entry| entry.0 == id)
        {
            entry.1.clone_from(waker);
            return Place(id);
        }
        let id = waiting.next;
        waiting.next += 1;
        waiting.wakers.push((id, waker.clone()));
        self.len.store(waiting.wakers.len(), Ordering::Release);
        Place(id)
    }

    /// Gives the place up.
    pub fn leave(&self, place: Place) {
        let mut waiting = self.waiting.lock();
        waiting.wakers.retain(|entry| entry.0 != place.0);
        self.len.store(waiting.wakers.len(), Ordering::Release);
    }

    /// Wakes everybody and empties the list; `before` runs under its lock.
    pub fn wake_all(&self, before: impl FnOnce()) {
        let woken = {
            let mut waiting = self.waiting.lock();
            before();
            self.len.store(0, Ordering::Release);
            std::mem::take(&mut waiting.wakers)
        };
        // After the lock is let go, so that the woken do not run into it.
        for (_, waker) in woken {
            waker.wake();
        }
    }

    /// Wakes everybody, if there seems to be anybody. May miss one who has just joined: for waits
    /// that look again by themselves.
    #[inline]
    pub fn notify(&self) {
        if self.len.load(Ordering::Relaxed) != 0 {
            self.wake_all(|| ());
        }
    }

    /// Whether nobody seems to wait. May be stale at once.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}
