//! Putting a thread to sleep and waking it.

use std::task::{Wake, Waker};
use std::time::Duration;

use crate::clock::{Clock, Time};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, Condvar, Mutex, unless, wait, weak};

/// Nobody sleeps and nobody called.
const EMPTY: u32 = 0;
/// The thread sleeps, or is about to.
const PARKED: u32 = 1;
/// A wake-up is waiting to be used.
const NOTIFIED: u32 = 2;

/// A thread's bed: the thread parks, others unpark it. A wake-up that comes before the park is kept, so
/// the park returns at once; several count as one. A park may return without one.
///
/// | state | becomes | by |
/// |---|---|---|
/// | EMPTY | PARKED | `park` |
/// | EMPTY, PARKED | NOTIFIED | `unpark`, which rings only a PARKED one |
/// | NOTIFIED | EMPTY | `park`, returning |
/// | PARKED | EMPTY | `park`, its time over |
#[derive(Debug)]
pub struct Parker {
    bed: Arc<Bed>,
    waker: Waker,
}

/// Wakes the thread of a [`Parker`].
#[derive(Debug, Clone)]
pub struct Unparker(Arc<Bed>);

#[derive(Debug)]
struct Bed {
    state: AtomicU32,
    lock: Mutex<()>,
    condvar: Condvar,
}

impl Parker {
    /// A parker for one thread.
    pub fn new() -> Self {
        let bed = Arc::new(Bed {
            state: AtomicU32::new(EMPTY),
            lock: Mutex::new(()),
            condvar: Condvar::new(),
        });
        Self { waker: Waker::from(bed.clone()), bed }
    }

    /// A handle that wakes the thread.
    pub fn unparker(&self) -> Unparker {
        Unparker(self.bed.clone())
    }

    /// The same as a `Waker`.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Sleeps until woken, or for `timeout`.
    pub fn park(&self, timeout: Option<Duration>) {
        let state = &self.bed.state;
        // Acquire (here and below) pairs with the release in `unpark`: what the waker did before it called
        // is seen after.
        let ordering = unless(weak!("parker_kept"), Ordering::Acquire);
        if state.compare_exchange(NOTIFIED, EMPTY, ordering, Ordering::Relaxed).is_ok() {
            return;
        }
        let mut guard = self.bed.lock.lock();
        // Relaxed: the lock decides when the sleeper can be rung.
        let lies_down =
            state.compare_exchange(EMPTY, PARKED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if lies_down || weak!("parker_check") {
            wait(&self.bed.condvar, &mut guard, timeout);
        }
        // Whatever ended the wait (a call, the time, nothing): one swap takes a wake-up if there is one.
        state.swap(EMPTY, unless(weak!("parker_woken"), Ordering::Acquire));
    }

    /// Sleeps until woken, or until `deadline` has come on `clock`.
    pub fn park_until(&self, clock: &dyn Clock, deadline: Option<Time>) {
        match deadline {
            None => self.park(None),
            Some(deadline) => match clock.arm(deadline, &self.waker) {
                // It came between the caller's look at the clock and this.
                Some(Duration::ZERO) if !weak!("parker_due") => {}
                limit => self.park(limit),
            },
        }
    }
}

impl Default for Parker {
    fn default() -> Self {
        Self::new()
    }
}

impl Unparker {
    /// Wakes the thread, now or at its next park.
    pub fn unpark(&self) {
        self.0.unpark();
    }

    /// Whether both wake the same thread.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Takes the wake-up that waits to be used, if there is one: for a simulator in the thread's place.
    pub fn take_call(&self) -> bool {
        self.0.state.compare_exchange(NOTIFIED, EMPTY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Whether the thread sleeps and nobody has called it. May be stale at once.
    pub fn is_asleep(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == PARKED
    }
}

impl Bed {
    fn unpark(&self) {
        // Release pairs with the acquires in `park`.
        let ordering = unless(weak!("parker_publish"), Ordering::Release);
        if self.state.swap(NOTIFIED, ordering) == PARKED {
            // The sleeper holds the lock from setting PARKED until it waits: taking it once means that
            // the call cannot fall between the two. It is let go first, so that the woken can run.
            if !weak!("parker_lock") {
                drop(self.lock.lock());
            }
            self.condvar.notify_one();
        }
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        self.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.unpark();
    }
}

#[cfg(not(keylane_loom))]
thread_local! {
    static CURRENT: Parker = Parker::new();
}

/// Runs `f` with the calling thread's own parker, for threads that are not the runtime's.
#[cfg(not(keylane_loom))]
pub fn with_current<R>(f: impl FnOnce(&Parker) -> R) -> R {
    let mut f = Some(f);
    let run = CURRENT.try_with(|parker| f.take().map(|f| f(parker)));
    match (run, f) {
        (Ok(Some(result)), _) => result,
        // The thread is ending and its locals are gone: one for this wait alone.
        (_, Some(f)) => f(&Parker::new()),
        (_, None) => unreachable!("`f` is taken only to be run"),
    }
}

/// Runs `f` with a parker of the calling thread.
#[cfg(keylane_loom)]
pub fn with_current<R>(f: impl FnOnce(&Parker) -> R) -> R {
    f(&Parker::new())
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_wake_up_before_the_park_is_kept_and_used_once() {
        let parker = Parker::new();
        parker.unparker().unpark();
        parker.waker().wake_by_ref();
        parker.park(None);
        parker.park(Some(Duration::from_micros(1)));
    }

    #[test]
    fn a_deadline_that_has_passed_does_not_sleep() {
        let clock = SystemClock::new();
        Parker::new().park_until(&clock, Some(clock.now()));
    }

    #[test]
    fn threads_wake_each_other() {
        let (here, there) = (Parker::new(), Parker::new());
        let (wake_here, wake_there) = (here.unparker(), there.unparker());
        let thread = std::thread::spawn(move || {
            for _ in 0..1_000 {
                there.park(None);
                wake_here.unpark();
            }
        });
        for _ in 0..1_000 {
            wake_there.unpark();
            here.park(None);
        }
        // The other may still be waiting for one that came as a pair with the last.
        while !thread.is_finished() {
            wake_there.unpark();
        }
        thread.join().unwrap();
    }
}
