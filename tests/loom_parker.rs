//! The parker under the model checker.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_parker
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
//! A wake-up that is lost leaves the sleeper without a deadline, which the checker reports as a deadlock.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use keylane::internals::Parker;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;

use model::{Reached, check_within};

/// Plain memory, whose unordered use the checker reports.
struct Plain(UnsafeCell<u32>);

// SAFETY: the checker sees to it that its uses are ordered; that is what the models are about.
#[allow(unsafe_code)]
unsafe impl Sync for Plain {}

impl Plain {
    fn set(&self, value: u32) {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        self.0.with_mut(|place| unsafe { *place = value });
    }

    fn get(&self) -> u32 {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        self.0.with(|place| unsafe { *place })
    }
}

/// One thread writes and unparks; the other parks and reads.
fn hand_over(early: &'static Reached, late: &'static Reached) -> impl Fn() + Send + Sync + 'static {
    move || {
        let parker = Parker::new();
        let unparker = parker.unparker();
        let data = Arc::new(Plain(UnsafeCell::new(0)));
        // What came first, for the record only: relaxed, they order nothing.
        let (parking, called) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let there = (data.clone(), parking.clone(), called.clone());
        let waker = thread::spawn(move || {
            let (data, parking, called) = there;
            data.set(7);
            late.here_if(parking.load(Relaxed));
            unparker.unpark();
            called.store(true, Relaxed);
        });
        early.here_if(called.load(Relaxed));
        parking.store(true, Relaxed);
        parker.park(None);
        assert_eq!(data.get(), 7);
        waker.join().unwrap();
    }
}

/// A `hand_over` that was early in one execution and late in another.
fn check_hand_over() {
    static EARLY: Reached = Reached::new("the wake-up came before the park");
    static LATE: Reached = Reached::new("the wake-up came after the park");
    check_within(4, hand_over(&EARLY, &LATE));
    EARLY.assert();
    LATE.assert();
}

// convict: parker_publish
#[test]
fn parker_publish_the_woken_sees_what_the_waker_did() {
    check_hand_over();
}

// convict: parker_kept
#[test]
fn parker_kept_a_wake_up_kept_orders_as_one_that_rings() {
    check_hand_over();
}

// convict: parker_woken
#[test]
fn parker_woken_a_wake_up_while_lying_down_orders_too() {
    check_hand_over();
}

// convict: parker_lock
#[test]
fn parker_lock_a_call_cannot_fall_between_the_state_and_the_sleep() {
    check_hand_over();
}

// convict: parker_check
#[test]
fn parker_check_nobody_lies_down_over_a_wake_up() {
    check_hand_over();
}

#[test]
fn two_wakers_are_both_heard() {
    static TWICE: Reached = Reached::new("the sleeper was woken for each");
    static ONCE: Reached = Reached::new("one wake-up stood for both");
    check_within(3, || {
        let parker = Parker::new();
        let flags = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let wakers = [0, 1].map(|number| {
            let (flags, waker) = (flags.clone(), parker.waker().clone());
            thread::spawn(move || {
                flags[number].store(true, Relaxed);
                waker.wake();
            })
        });
        let mut parks = 0;
        while !flags.iter().all(|flag| flag.load(Relaxed)) {
            parker.park(None);
            parks += 1;
        }
        TWICE.here_if(parks == 2);
        ONCE.here_if(parks == 1);
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
    TWICE.assert();
    ONCE.assert();
}

#[test]
fn two_threads_wake_each_other_in_turn() {
    check_within(3, || {
        let (here, there) = (Parker::new(), Parker::new());
        let (wake_here, wake_there) = (here.unparker(), there.unparker());
        let turns = Arc::new(Plain(UnsafeCell::new(0)));
        let other = turns.clone();
        let thread = thread::spawn(move || {
            for turn in [1, 3] {
                there.park(None);
                assert_eq!(other.get(), turn);
                other.set(turn + 1);
                wake_here.unpark();
            }
        });
        for turn in [0, 2] {
            assert_eq!(turns.get(), turn);
            turns.set(turn + 1);
            wake_there.unpark();
            here.park(None);
        }
        assert_eq!(turns.get(), 4);
        thread.join().unwrap();
    });
}
