//! The pool of blocking threads under the model checker: every call runs, once, and every thread ends.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_blocking
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
//! A call that never runs, and a thread that never ends, are a deadlock.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use std::sync::Arc;
use std::time::Duration;

use keylane::Time;
use keylane::internals::{Blocking, Parker, Reply};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use model::{Reached, check, check_within};

/// A pool of at most `most` threads, counting those that it started.
fn pool(most: usize) -> (Arc<Blocking>, Arc<AtomicUsize>) {
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let pool = Blocking::new(most, Duration::from_secs(1), move |run| {
        count.fetch_add(1, Ordering::Relaxed);
        thread::spawn(run);
        Ok(())
    });
    (pool, started)
}

/// The idle thread's time is over as a call comes for it: it takes the call, or another thread is started for it.
// convict: blocking_idle
#[test]
fn blocking_idle_a_thread_that_gives_up_leaves_no_call_behind() {
    static TAKEN: Reached = Reached::new("the idle thread took the call");
    static ANOTHER: Reached = Reached::new("it had ended and another thread was started");
    check_within(3, || {
        let (pool, started) = pool(1);
        let bed = Parker::new();
        let done = bed.unparker();
        pool.call(Time::ZERO, Box::new(move || done.unpark())).unwrap();
        bed.park(None);
        let there = pool.clone();
        let time = thread::spawn(move || there.expire());
        let done = bed.unparker();
        pool.call(Time::ZERO, Box::new(move || done.unpark())).unwrap();
        bed.park(None);
        time.join().unwrap();
        match started.load(Ordering::Relaxed) {
            1 => TAKEN.here(),
            _ => ANOTHER.here(),
        }
        pool.end();
    });
    TAKEN.assert();
    ANOTHER.assert();
}

/// Two calls come to one idle thread, and the first does not return before the second has run: that gets a thread
/// of its own.
// convict: blocking_called
#[test]
fn blocking_called_two_calls_do_not_count_on_one_idle_thread() {
    static IDLE: Reached = Reached::new("there was an idle thread for the first");
    static NONE: Reached = Reached::new("there was none");
    check(|| {
        let (pool, started) = pool(2);
        let bed = Arc::new(Parker::new());
        let done = bed.unparker();
        pool.call(Time::ZERO, Box::new(move || done.unpark())).unwrap();
        bed.park(None);
        let second = Parker::new();
        let tells = second.unparker();
        let done = bed.unparker();
        pool.call(
            Time::ZERO,
            Box::new(move || {
                second.park(None);
                done.unpark();
            }),
        )
        .unwrap();
        if started.load(Ordering::Relaxed) == 1 {
            IDLE.here()
        } else {
            NONE.here()
        }
        pool.call(Time::ZERO, Box::new(move || tells.unpark())).unwrap();
        bed.park(None);
        pool.end();
    });
    IDLE.assert();
    NONE.assert();
}

/// The end comes at any moment: a call that waits is run all the same, and no thread stays.
// convict: blocking_end
#[test]
fn blocking_end_lets_no_thread_and_no_call_wait() {
    static QUEUED: Reached = Reached::new("the call waited when the end came");
    static RAN: Reached = Reached::new("it ran before");
    check(|| {
        let (pool, started) = pool(1);
        let bed = Parker::new();
        let done = bed.unparker();
        pool.call(Time::ZERO, Box::new(move || done.unpark())).unwrap();
        if pool.load().1 > 0 {
            QUEUED.here()
        } else {
            RAN.here()
        }
        pool.end();
        bed.park(None);
        assert_eq!(started.load(Ordering::Relaxed), 1);
    });
    QUEUED.assert();
    RAN.assert();
}

/// The system gives no thread for one of two calls: that waits for the other's thread, or comes back as an error; it is
/// not both run and refused, nor neither.
// convict: blocking_refused
#[test]
fn blocking_refused_a_call_is_run_or_refused() {
    static LATE: Reached = Reached::new("the call was only late");
    static REFUSED: Reached = Reached::new("the call was refused");
    check(|| {
        let given = AtomicUsize::new(0);
        let pool = Blocking::new(2, Duration::from_secs(1), move |run| {
            if given.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(std::io::Error::other("not now"));
            }
            thread::spawn(run);
            Ok(())
        });
        let ran = Arc::new(AtomicUsize::new(0));
        let [first, second] = [1, 10].map(|number| {
            let (pool, ran) = (pool.clone(), ran.clone());
            let count = move || {
                ran.fetch_add(number, Ordering::AcqRel);
            };
            move || pool.call(Time::ZERO, Box::new(count)).map_or(0, |()| number)
        });
        let second = thread::spawn(second);
        let taken = first() + second.join().unwrap();
        pool.end();
        while pool.load() != (0, 0) {
            thread::yield_now();
        }
        assert_eq!(ran.load(Ordering::Acquire), taken);
        if taken == 11 { LATE.here() } else { REFUSED.here() }
    });
    LATE.assert();
    REFUSED.assert();
}

/// Whoever waits for a blocking call gives it up as its thread comes to it: it runs, or it does not, and the
/// lane that takes the record back knows that no run begins after that.
// convict: reply_start
#[test]
fn reply_start_a_call_that_was_given_up_does_not_start() {
    static STARTED: Reached = Reached::new("the call had started");
    static GIVEN_UP: Reached = Reached::new("the call was given up in time");
    check_within(3, || {
        let (pool, _) = pool(1);
        let reply = Arc::new(Reply::default());
        let over = Arc::new(AtomicUsize::new(0));
        let (call, seen) = (reply.clone(), over.clone());
        pool.call(
            Time::ZERO,
            Box::new(move || {
                let given_up = seen.load(Ordering::Acquire) == 1;
                if call.start() {
                    assert!(!given_up, "it was given up before");
                    STARTED.here();
                } else {
                    GIVEN_UP.here();
                }
            }),
        )
        .unwrap();
        reply.give_up();
        over.store(1, Ordering::Release);
        pool.end();
    });
    STARTED.assert();
    GIVEN_UP.assert();
}
