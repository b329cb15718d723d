//! Models of finish against advance and sleep. Run with
//! `RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_ledger`.
//!
//! Weakened variants: `ledger_finish` sets the bit without Release; `ledger_wait` looks before it sets WAIT, not in
//! the same step.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};

use keylane::internals::{Ledger, Stored};
use loom::cell::UnsafeCell;
use loom::thread::{self, Thread};

/// How often something happened over all executions of a model.
#[derive(Default)]
struct Count(AtomicUsize);

impl Count {
    fn hit(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// Wakes the consume loop, which sleeps in `park`.
struct Unpark {
    thread: Thread,
    wakes: Arc<Count>,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wakes.hit();
        self.thread.unpark();
    }
}

fn waker(wakes: &Arc<Count>) -> Waker {
    Waker::from(Arc::new(Unpark { thread: thread::current(), wakes: Arc::clone(wakes) }))
}

/// Two deliveries of one word, finished by two threads; the loop sleeps until the frontier can move.
/// A lost wake-up is a deadlock, which the model reports.
// convict: ledger_wait
#[test]
fn ledger_wait_no_wake_up_is_lost() {
    static SLEPT: Count = Count(AtomicUsize::new(0));
    static REFUSED: Count = Count(AtomicUsize::new(0));
    static WOKEN: Count = Count(AtomicUsize::new(0));
    loom::model(|| {
        let wakes = Arc::new(Count::default());
        let (mut ledger, finished) = Ledger::new(2, None, waker(&wakes)).unwrap();
        let workers: Vec<_> = [1, 5]
            .map(|position| {
                let slot = ledger.deliver(position).unwrap();
                let finished = Arc::clone(&finished);
                thread::spawn(move || finished.finish(slot))
            })
            .into();
        let mut waits = 0;
        while ledger.frontier() != Some(6) {
            waits += 1;
            if ledger.prepare_wait() {
                SLEPT.hit();
                thread::park();
            } else {
                REFUSED.hit();
            }
            ledger.advance(|_| {});
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(wakes.get() <= waits, "one wait was woken twice");
        WOKEN.0.fetch_add(wakes.get(), SeqCst);
    });
    assert!(SLEPT.get() > 0 && REFUSED.get() > 0 && WOKEN.get() > 0);
}

/// As above, with the deliveries in two words and a loop that acts on any finish.
#[test]
fn no_wake_up_is_lost_waiting_for_any() {
    static SLEPT: Count = Count(AtomicUsize::new(0));
    static REFUSED: Count = Count(AtomicUsize::new(0));
    loom::model(|| {
        let wakes = Arc::new(Count::default());
        let (mut ledger, finished) = Ledger::new(4, None, waker(&wakes)).unwrap();
        let slots = [1, 2, 3].map(|position| ledger.deliver(position).unwrap());
        let worker = |slot| {
            let finished = Arc::clone(&finished);
            thread::spawn(move || finished.finish(slot))
        };
        // The oldest is finished last: waiting for it alone would be too long.
        let workers = [worker(slots[2]), worker(slots[1])];
        let mut reported = 0;
        while reported < 2 {
            if ledger.prepare_wait_any() {
                SLEPT.hit();
                thread::park();
            } else {
                REFUSED.hit();
            }
            ledger.advance(|_| reported += 1);
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        finished.finish(slots[0]);
        ledger.advance(|_| reported += 1);
        assert_eq!((reported, ledger.frontier()), (3, Some(4)));
    });
    assert!(SLEPT.get() > 0 && REFUSED.get() > 0);
}

/// What a handler did is visible to whom its finish is reported, through another finish of the word
/// and through WAIT.
// convict: ledger_finish
#[test]
fn ledger_finish_shows_what_the_handler_did() {
    static SEEN: Count = Count(AtomicUsize::new(0));
    loom::model(|| {
        let wakes = Arc::new(Count::default());
        let (mut ledger, finished) = Ledger::new(2, None, waker(&wakes)).unwrap();
        type Effect = loom::sync::Arc<UnsafeCell<u64>>;
        let effects = [0, 0].map(|_| Effect::new(UnsafeCell::new(0)));
        let workers = [1_u64, 2].map(|position| {
            let slot = ledger.deliver(position).unwrap();
            let finished = Arc::clone(&finished);
            let effect = Effect::clone(&effects[position as usize - 1]);
            thread::spawn(move || {
                #[allow(unsafe_code)]
                // SAFETY: the loop reads it after the finish is reported, which is what is modelled.
                effect.with_mut(|effect| unsafe { *effect = position });
                finished.finish(slot);
            })
        });
        let look = |position: u64| {
            #[allow(unsafe_code)]
            // SAFETY: the worker wrote it before the finish that was reported.
            let effect = effects[position as usize - 1].with(|effect| unsafe { *effect });
            assert_eq!(effect, position);
            SEEN.hit();
        };
        ledger.advance(look);
        ledger.prepare_wait();
        ledger.advance(look);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        ledger.advance(look);
        assert_eq!(ledger.frontier(), Some(3));
    });
    assert!(SEEN.get() > 0);
}

/// Around the ring while a worker finishes: a word is emptied and given out again, and nothing is
/// reported twice or not at all.
#[test]
fn words_are_used_again_while_others_finish() {
    static REUSED: Count = Count(AtomicUsize::new(0));
    loom::model(|| {
        let wakes = Arc::new(Count::default());
        // Two words of two slots.
        let (mut ledger, finished) = Ledger::new(2, None, waker(&wakes)).unwrap();
        let mut reported = Vec::new();
        for position in 0..2 {
            finished.finish(ledger.deliver(position).unwrap());
        }
        ledger.advance(|position| reported.push(position));
        let mut pending = [2, 3].map(|position| ledger.deliver(position).unwrap());
        let mut workers = Vec::new();
        for position in 4..6 {
            // The oldest finishes here, the next one there.
            let there = Arc::clone(&finished);
            let slot = pending[1];
            workers.push(thread::spawn(move || there.finish(slot)));
            finished.finish(pending[0]);
            ledger.advance(|position| reported.push(position));
            match ledger.deliver(position) {
                Ok(slot) => {
                    REUSED.hit();
                    pending = [slot; 2];
                    if position == 4 {
                        finished.finish(slot);
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        ledger.advance(|position| reported.push(position));
        reported.sort_unstable();
        assert_eq!(reported, [0, 1, 2, 3, 4]);
        assert_eq!(ledger.frontier(), Some(5));
    });
    assert!(REUSED.get() > 0);
}

/// An epoch ends while a handler of it finishes: the new epoch sees nothing of it.
#[test]
fn a_late_finish_stays_in_its_epoch() {
    static WOKEN: Count = Count(AtomicUsize::new(0));
    static QUIET: Count = Count(AtomicUsize::new(0));
    loom::model(|| {
        let wakes = Arc::new(Count::default());
        let (mut old, finished) = Ledger::new(1, None, waker(&wakes)).unwrap();
        let late = old.deliver(7).unwrap();
        let armed = old.prepare_wait();
        assert!(armed);
        let worker = thread::spawn(move || finished.finish(late));
        drop(old);
        let resume = Stored::new(7);
        let (mut new, finished) = Ledger::new(1, Some(&resume), waker(&wakes)).unwrap();
        let again = new.deliver(7).unwrap();
        worker.join().unwrap();
        assert!(!new.advance(|_| {}));
        assert_eq!(new.frontier(), Some(7));
        finished.finish(again);
        assert!(new.advance(|_| {}));
        if wakes.get() == 0 { QUIET.hit() } else { WOKEN.hit() }
    });
    assert!(WOKEN.get() > 0 && QUIET.get() > 0);
}
