//! Those who wait for something that happens rarely: threads and tasks, as wakers.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, weak};
use crate::unwind::guard;

/// A list of wakers. Whoever registers looks at its condition once more before it sleeps.
#[derive(Debug)]
pub struct WaitList {
    /// How many wait; read without the lock by those who have nobody to wake.
    len: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// Wakers in the order in which they came. Cloning, waking and dropping one is a caller's code, which may come
/// back here: whoever has this under a lock does that with the lock let go.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Waiting {
    /// Registers `waker`, again if it has a `place` still. Returns the waker that it replaces.
    pub(crate) fn join(&mut self, place: Option<Place>, waker: Waker) -> (Place, Option<Waker>) {
        if let Some(place) = place
            && let Some(known) = self.wakers.get_mut(&place.0)
        {
            return (place, Some(std::mem::replace(known, waker)));
        }
        let place = Place(self.next);
        self.next += 1;
        self.wakers.insert(place.0, waker);
        (place, None)
    }

    /// Gives the place up. Returns its waker, unless that was taken.
    pub(crate) fn leave(&mut self, place: Place) -> Option<Waker> {
        if weak!("wait_list_leave") {
            return self.wakers.pop_first().map(|(_, waker)| waker);
        }
        self.wakers.remove(&place.0)
    }

    /// All of them, out: for `wake`.
    pub(crate) fn take(&mut self) -> BTreeMap<u64, Waker> {
        std::mem::take(&mut self.wakers)
    }
}

/// Wakes them. A panic of one ends with it: the thread has others to wake, and may have a lane in hand.
pub(crate) fn wake(wakers: BTreeMap<u64, Waker>) {
    for waker in wakers.into_values() {
        let _ = guard(|| waker.wake());
    }
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
        let waker = waker.clone();
        let mut waiting = self.waiting.lock();
        let (place, replaced) = waiting.join(place, waker);
        // Relaxed: those who read it without the lock may be late.
        self.len.store(waiting.wakers.len(), Ordering::Relaxed);
        drop(waiting);
        drop(replaced);
        place
    }

    /// Gives the place up.
    pub fn leave(&self, place: Place) {
        let mut waiting = self.waiting.lock();
        let left = waiting.leave(place);
        self.len.store(waiting.wakers.len(), Ordering::Relaxed);
        drop(waiting);
        drop(left);
    }

    /// Wakes everybody and empties the list; `before` runs under its lock.
    ///
    /// Who joins before this is woken; who joins after it sees, in its look after that, what was done before.
    pub fn wake_all(&self, before: impl FnOnce()) {
        if weak!("wait_list_take") && self.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        before();
        self.len.store(0, Ordering::Relaxed);
        let woken = waiting.take();
        drop(waiting);
        wake(woken);
    }

    /// Wakes everybody, if there seems to be anybody. May miss one who has just joined: for waits
    /// that look again by themselves.
    #[inline]
    pub fn notify(&self) {
        if self.len.load(Ordering::Relaxed) != 0 {
            self.wake_all(|| ());
        }
    }

    /// How many wait. May be stale at once.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
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
