//! Receipts under the model checker: one outcome, and whoever waits for it gets it.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_receipt
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use keylane::internals::{End, Parker, receipt};
use keylane::{Outcome, WaitError};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use model::{Hourglass, Reached, Still, check, check_within};

/// The record ends while the runtime does, and somebody looks: whatever he sees first is the outcome for good,
/// and the promise is told whether it was its.
// convict: receipt_outcome
#[test]
fn receipt_outcome_is_one_and_the_same_for_all() {
    static DONE: Reached = Reached::new("the record was first");
    static ENDED: Reached = Reached::new("the runtime was first");
    check(|| {
        let end = End::new(Arc::new(Still));
        let (promise, receipt) = receipt(&end);
        let fulfils = thread::spawn(move || promise.fulfil(Outcome::Done));
        let ends = thread::spawn(move || end.end());
        let first = receipt.outcome();
        let second = receipt.outcome();
        let was_first = fulfils.join().unwrap();
        ends.join().unwrap();
        let last = receipt.outcome().expect("both have come");
        for seen in [first, second].into_iter().flatten() {
            assert_eq!(seen, last, "an outcome changed");
        }
        assert_eq!(was_first, last == Outcome::Done);
        if was_first { DONE.here() } else { ENDED.here() }
    });
    DONE.assert();
    ENDED.assert();
}

/// A thread waits without a limit while the runtime ends, and nobody keeps the promise: it is told of the end.
// convict: receipt_end
#[test]
fn receipt_end_wakes_who_waits() {
    static ENDED: Reached = Reached::new("the end came first");
    static DONE: Reached = Reached::new("the record came first");
    check(|| {
        let end = End::new(Arc::new(Still));
        let (promise, receipt) = receipt(&end);
        let ends = thread::spawn(move || end.end());
        assert_eq!(receipt.wait(), Ok(Outcome::Abandoned));
        ends.join().unwrap();
        assert!(!promise.fulfil(Outcome::Done));
    });
    check(|| {
        let end = End::new(Arc::new(Still));
        let (promise, receipt) = receipt(&end);
        let fulfils = thread::spawn(move || promise.fulfil(Outcome::Done));
        let ends = thread::spawn(move || end.end());
        let outcome = receipt.wait().unwrap();
        assert_eq!(fulfils.join().unwrap(), outcome == Outcome::Done);
        ends.join().unwrap();
        if outcome == Outcome::Done { DONE.here() } else { ENDED.here() }
    });
    ENDED.assert();
    DONE.assert();
}

/// A record is handled while somebody comes to wait: he is told, be it by the look after he has joined.
// convict: receipt_watched
#[test]
fn receipt_watched_a_waiter_that_comes_late_is_told() {
    static QUICK: Reached = Reached::new("nobody waited yet");
    static WAITED: Reached = Reached::new("somebody waited");
    check(|| {
        let end = End::new(Arc::new(Still));
        let (promise, receipt) = receipt(&end);
        let handles = thread::spawn(move || match promise.done() {
            Ok(()) => QUICK.here(),
            Err(promise) => {
                WAITED.here();
                assert!(promise.fulfil(Outcome::Done));
            }
        });
        assert_eq!(receipt.wait(), Ok(Outcome::Done));
        handles.join().unwrap();
    });
    QUICK.assert();
    WAITED.assert();
}

/// Who sees that a record is handled sees what its handler did; and the end of the runtime changes nothing then.
// convict: receipt_done
#[test]
fn receipt_done_publishes_what_the_handler_did() {
    static SEEN: Reached = Reached::new("it was seen to be handled");
    check(|| {
        let end = End::new(Arc::new(Still));
        let (promise, receipt) = receipt(&end);
        let effect = Arc::new(AtomicUsize::new(0));
        let there = effect.clone();
        let handles = thread::spawn(move || {
            there.store(1, Ordering::Relaxed);
            if let Err(promise) = promise.done() {
                assert!(!promise.fulfil(Outcome::Done));
            }
            end.end();
        });
        if receipt.outcome() == Some(Outcome::Done) {
            SEEN.here();
            assert_eq!(effect.load(Ordering::Relaxed), 1);
        }
        handles.join().unwrap();
        assert!(receipt.outcome().is_some());
    });
    SEEN.assert();
}

/// Two wait for one receipt while its promise is kept or dropped: both get the outcome.
// convict: receipt_wake
#[test]
fn receipt_wake_reaches_every_waiter() {
    static KEPT: Reached = Reached::new("the promise was kept");
    static DROPPED: Reached = Reached::new("the promise was dropped");
    for keep in [true, false] {
        check(move || {
            let end = End::new(Arc::new(Still));
            let (promise, receipt) = receipt(&end);
            let expected = if keep { Outcome::Done } else { Outcome::Abandoned };
            let receipt = Arc::new(receipt);
            let (there, same) = (receipt.clone(), expected.clone());
            let waits = thread::spawn(move || assert_eq!(there.wait(), Ok(same)));
            let ends = thread::spawn(move || {
                if keep {
                    assert!(promise.fulfil(Outcome::Done));
                    KEPT.here();
                } else {
                    drop(promise);
                    DROPPED.here();
                }
            });
            assert_eq!(receipt.wait(), Ok(expected));
            waits.join().unwrap();
            ends.join().unwrap();
        });
    }
    KEPT.assert();
    DROPPED.assert();
}

/// A wait with a limit ends with the outcome or when its time is over. The receipt is good after that, and nothing
/// of the wait is left with the runtime.
// convict: receipt_leave
#[test]
fn receipt_leave_a_wait_ends_when_its_time_is_over() {
    static IN_TIME: Reached = Reached::new("the outcome came in time");
    static TOO_LATE: Reached = Reached::new("the time was over first");
    check(|| {
        let clock = Arc::new(Hourglass::new());
        let end = End::new(clock.clone());
        let (promise, receipt) = receipt(&end);
        let fulfils = thread::spawn(move || assert!(promise.fulfil(Outcome::Done)));
        let time = thread::spawn(move || clock.run_out());
        match receipt.wait_timeout(Duration::from_nanos(500)) {
            Ok(outcome) => {
                assert_eq!(outcome, Outcome::Done);
                IN_TIME.here();
            }
            Err(WaitError::TimedOut) => TOO_LATE.here(),
            Err(error) => panic!("{error}"),
        }
        fulfils.join().unwrap();
        time.join().unwrap();
        assert_eq!(receipt.outcome(), Some(Outcome::Done));
        assert!(end.is_unwatched());
    });
    IN_TIME.assert();
    TOO_LATE.assert();
}

/// Nobody keeps the promise, and the time runs out at any moment of the wait, also as it looks at the clock and lies
/// down: it ends, or it would sleep for good.
// convict: parker_due
#[test]
fn parker_due_a_wait_does_not_oversleep() {
    static BEGUN: Reached = Reached::new("the wait had begun");
    check_within(3, || {
        let clock = Arc::new(Hourglass::new());
        let end = End::new(clock.clone());
        let (promise, receipt) = receipt(&end);
        let seen = end.clone();
        let time = thread::spawn(move || {
            // The limit counts from the call, and the clock has but one end.
            while seen.is_unwatched() {
                thread::yield_now();
            }
            BEGUN.here();
            clock.run_out();
        });
        assert_eq!(receipt.wait_timeout(Duration::from_nanos(500)), Err(WaitError::TimedOut));
        time.join().unwrap();
        assert!(promise.fulfil(Outcome::Done));
        assert_eq!(receipt.outcome(), Some(Outcome::Done));
    });
    BEGUN.assert();
}

/// The outcome comes, and then the time runs out: the wait returns the outcome, however late it comes to look.
// convict: receipt_over
#[test]
fn receipt_over_an_outcome_that_came_in_time_is_not_missed() {
    static BEFORE: Reached = Reached::new("the outcome came before the wait");
    static WAITED: Reached = Reached::new("the outcome came during the wait");
    check_within(3, || {
        let clock = Arc::new(Hourglass::new());
        let end = End::new(clock.clone());
        let (promise, receipt) = receipt(&end);
        let seen = end.clone();
        let both = thread::spawn(move || {
            if seen.is_unwatched() {
                BEFORE.here()
            } else {
                WAITED.here()
            }
            assert!(promise.fulfil(Outcome::Done));
            clock.run_out();
        });
        // The limit counts from the call, so the clock may stand at its end by then: that is a limit of nothing.
        let outcome = receipt.wait_timeout(Duration::from_nanos(500));
        both.join().unwrap();
        assert_eq!(outcome, Ok(Outcome::Done));
    });
    BEFORE.assert();
    WAITED.assert();
}

/// A task that is handed from one waker to another: the last one is woken.
#[test]
fn a_task_is_woken_by_its_newest_waker() {
    static PENDING: Reached = Reached::new("the task was pending with its second waker");
    check(|| {
        let end = End::new(Arc::new(Still));
        let (promise, receipt) = receipt(&end);
        let fulfils = thread::spawn(move || assert!(promise.fulfil(Outcome::Done)));
        let mut receipt = pin!(receipt);
        let (first, second) = (Parker::new(), Parker::new());
        let mut polled = receipt.as_mut().poll(&mut Context::from_waker(first.waker()));
        while polled.is_pending() {
            polled = receipt.as_mut().poll(&mut Context::from_waker(second.waker()));
            if polled.is_pending() {
                PENDING.here();
                second.park(None);
            }
        }
        assert_eq!(polled, Poll::Ready(Outcome::Done));
        fulfils.join().unwrap();
    });
    PENDING.assert();
}
