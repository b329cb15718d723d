//! The slots of a gate that have something to say, under the model checker.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_gate
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use keylane::internals::ReadySet;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use model::{Reached, check};

/// Two wakers each put a slot and wake the lane; the holder takes whenever it is woken. Every slot is taken, once.
// convict: ready_order
#[test]
fn ready_order_a_slot_that_was_put_is_taken_once() {
    static EARLY: Reached = Reached::new("the holder took one slot before the other was put");
    static BOTH: Reached = Reached::new("the holder took both at once");
    check(|| {
        let set = Arc::new(ReadySet::new(2));
        // Plays the WAKE bit of the lane's tail word.
        let woken = Arc::new(AtomicBool::new(false));
        let wakers = [0, 1].map(|slot| {
            let (set, woken) = (set.clone(), woken.clone());
            thread::spawn(move || {
                set.put(slot);
                woken.swap(true, Ordering::AcqRel);
            })
        });
        let mut taken = [0; 2];
        let mut visit = || {
            let before: u32 = taken.iter().sum();
            if woken.swap(false, Ordering::AcqRel) {
                set.take(|slot| taken[slot as usize] += 1);
            }
            taken.iter().sum::<u32>() - before
        };
        let early = visit();
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        let late = visit();
        EARLY.here_if((early, late) == (1, 1));
        BOTH.here_if(early == 2 || late == 2);
        assert_eq!(taken, [1, 1]);
    });
    EARLY.assert();
    BOTH.assert();
}
