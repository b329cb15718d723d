//! The registry and the list of those who wait, under the model checker.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_registry
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

#[path = "support/model.rs"]
mod model;

use keylane::Handler;
use keylane::internals::{Parker, Registry, Running, Version, WaitList, still_running};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use model::{Reached, check};

/// What only the handler of one table uses, and whoever swapped it away once that handler runs no more.
type Old = Arc<UnsafeCell<u32>>;

/// A table: its number, and what its handler uses.
type Table = (u32, Option<Old>);

/// A visit with a table.
fn visit(table: &Table) {
    if let Some(old) = &table.1 {
        // SAFETY: whether this is alone with the cell is what is modelled.
        old.with_mut(|uses| unsafe { *uses += 1 });
    }
}

/// What is done after a wait for a swap: the old handler is gone.
fn reclaim(old: &Old) -> u32 {
    // SAFETY: as above.
    old.with_mut(|uses| unsafe { uses.replace(1_000) })
}

fn swap(registry: &Registry<Table>) -> u64 {
    registry.update(|table| Ok::<_, ()>(((table.0 + 1, None), ()))).unwrap().0
}

/// A reader visits and takes new tables between visits: once it has seen the new one, it uses the old no more.
// convict: registry_seen
#[test]
fn registry_seen_means_that_the_old_table_is_out_of_use() {
    static USED: Reached = Reached::new("the old table was used");
    static BEHIND: Reached = Reached::new("the reader was behind");
    static AHEAD: Reached = Reached::new("the reader had seen it while it ran");
    check(|| {
        let old = Arc::new(UnsafeCell::new(0));
        let registry = Arc::new(Registry::new((0, Some(old.clone())), 1));
        let mut snapshot = registry.start(0);
        let there = registry.clone();
        let reader = thread::spawn(move || {
            for _ in 0..2 {
                there.refresh(&mut snapshot);
                visit(snapshot.table());
            }
            // Kept: the model judges uses, not drops.
            snapshot
        });
        let version = swap(&registry);
        if registry.all_seen(version) {
            AHEAD.here();
            assert_eq!(registry.behind(version).count(), 0);
            USED.here_if(reclaim(&old) > 0);
        } else {
            BEHIND.here();
        }
        let snapshot = reader.join().unwrap();
        registry.stop(snapshot);
        assert!(registry.all_seen(version));
    });
    USED.assert();
    BEHIND.assert();
    AHEAD.assert();
}

/// An attempt of the old handler outlives its visit and ends on another thread while the handler is swapped: whoever
/// waits for the swap comes after its last step.
// convict: running_drop
// convict: running_look
// convict: swap_order
#[test]
fn running_drop_running_look_swap_order_an_attempt_beyond_a_visit_is_waited_for() {
    static READER: Reached = Reached::new("the reader was behind");
    static ATTEMPT: Reached = Reached::new("only the attempt ran still");
    static ENDED: Reached = Reached::new("the attempt had ended");
    static NONE: Reached = Reached::new("no attempt was made");
    check(|| {
        let version = Version::new(Handler::sync(|_| Ok(())));
        let old = Arc::new(UnsafeCell::new(0));
        let registry = Arc::new(Registry::new((0, Some(old.clone())), 1));
        let mut snapshot = registry.start(0);
        let (there, handler) = (registry.clone(), version.clone());
        let reader = thread::spawn(move || {
            there.refresh(&mut snapshot);
            // A visit, which leaves an attempt behind if it has the old table.
            let attempt = snapshot.table().1.clone().map(|old| (Running::new(&handler), old));
            let polls = attempt.map(|(running, old)| {
                thread::spawn(move || {
                    visit(&(0, Some(old)));
                    drop(running);
                })
            });
            there.refresh(&mut snapshot);
            (snapshot, polls)
        });
        let number = swap(&registry);
        match still_running(&registry, number, &version) {
            (0, 0) => match reclaim(&old) {
                0 => NONE.here(),
                _ => ENDED.here(),
            },
            (0, _) => ATTEMPT.here(),
            _ => READER.here(),
        }
        let (mut snapshot, polls) = reader.join().unwrap();
        polls.into_iter().for_each(|polls| polls.join().unwrap());
        registry.refresh(&mut snapshot);
        assert_eq!(still_running(&registry, number, &version), (0, 0));
        registry.stop(snapshot);
    });
    READER.assert();
    ATTEMPT.assert();
    ENDED.assert();
    NONE.assert();
}

/// A reader begins while a table is swapped: it reads the new one, or the swap waits for it.
// convict: registry_start
#[test]
fn registry_start_against_a_swap() {
    static MISSED: Reached = Reached::new("nobody read when the swap was waited for");
    static FOUND: Reached = Reached::new("the reader was found with the old table");
    static NEW: Reached = Reached::new("the reader began with the new table");
    check(|| {
        let old = Arc::new(UnsafeCell::new(0));
        let registry = Arc::new(Registry::new((0, Some(old.clone())), 2));
        let there = registry.clone();
        let reader = thread::spawn(move || {
            let snapshot = there.start(1);
            visit(snapshot.table());
            NEW.here_if(snapshot.table().0 == 1);
            snapshot
        });
        let version = swap(&registry);
        if registry.all_seen(version) {
            MISSED.here_if(reclaim(&old) == 0);
        } else {
            FOUND.here();
        }
        let snapshot = reader.join().unwrap();
        registry.stop(snapshot);
        assert!(registry.all_seen(version));
    });
    MISSED.assert();
    FOUND.assert();
    NEW.assert();
}

/// A reader ends while a table is swapped: its last visit comes before whatever follows the wait.
// convict: registry_stop
#[test]
fn registry_stop_against_a_swap() {
    static ENDED: Reached = Reached::new("the reader had ended after a visit with the old table");
    check(|| {
        let old = Arc::new(UnsafeCell::new(0));
        let registry = Arc::new(Registry::new((0, Some(old.clone())), 1));
        let snapshot = registry.start(0);
        let there = registry.clone();
        let reader = thread::spawn(move || {
            visit(snapshot.table());
            there.stop(snapshot);
        });
        let version = swap(&registry);
        if registry.all_seen(version) {
            ENDED.here_if(reclaim(&old) == 1);
        }
        reader.join().unwrap();
    });
    ENDED.assert();
}

/// Whoever sees a version has the table that goes with it, or a later one, and what came before it.
// convict: registry_version
#[test]
fn registry_version_comes_with_its_table() {
    static SEEN: Reached = Reached::new("a change was seen");
    check(|| {
        let registry = Arc::new(Registry::new((0, None), 1));
        let payload = Arc::new(UnsafeCell::new(0));
        let mut snapshot = registry.start(0);
        let (there, written) = (registry.clone(), payload.clone());
        let reader = thread::spawn(move || {
            let mut seen = 0;
            for _ in 0..2 {
                if there.is_newer(&snapshot) {
                    SEEN.here();
                    // SAFETY: the version says that it was written.
                    written.with(|written| assert_eq!(unsafe { *written }, 7));
                }
                there.refresh(&mut snapshot);
                assert!(snapshot.table().0 >= seen);
                seen = snapshot.table().0;
            }
            snapshot
        });
        // SAFETY: nobody looks before the change is published.
        payload.with_mut(|payload| unsafe { *payload = 7 });
        swap(&registry);
        swap(&registry);
        let mut snapshot = reader.join().unwrap();
        registry.refresh(&mut snapshot);
        assert_eq!(snapshot.table().0, 2);
        registry.stop(snapshot);
    });
    SEEN.assert();
}

/// Two wait for what others do, each for its own; each change is followed by a call under the lock. None sleeps on.
// convict: wait_list_take
#[test]
fn wait_list_take_wakes_everybody() {
    static SLEPT: Reached = Reached::new("somebody slept");
    static BOTH: Reached = Reached::new("the list was empty at the second call");
    check(|| {
        let list = Arc::new(WaitList::new());
        let done = Arc::new(AtomicUsize::new(0));
        let waiters = [1, 2].map(|wanted| {
            let (list, done) = (list.clone(), done.clone());
            thread::spawn(move || {
                let bed = Parker::new();
                let mut place = None;
                loop {
                    place = Some(list.join(place, bed.waker()));
                    if done.load(Ordering::Relaxed) >= wanted {
                        break;
                    }
                    SLEPT.here();
                    bed.park(None);
                }
                place.into_iter().for_each(|place| list.leave(place));
            })
        });
        for number in 1..=2 {
            done.store(number, Ordering::Relaxed);
            BOTH.here_if(number == 2 && list.is_empty());
            list.wake_all(|| ());
        }
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert!(list.is_empty());
    });
    SLEPT.assert();
    BOTH.assert();
}

/// One that leaves is not called, and takes nobody else's place with it.
// convict: wait_list_leave
#[test]
fn wait_list_leave_takes_no_other_place_along() {
    static SLEPT: Reached = Reached::new("the one that stayed slept");
    check(|| {
        let list = Arc::new(WaitList::new());
        let done = Arc::new(AtomicBool::new(false));
        let there = list.clone();
        let leaves = thread::spawn(move || {
            let place = there.join(None, std::task::Waker::noop());
            there.leave(place);
            // Once more: the place is gone, or another's by now.
            there.leave(place);
        });
        let (there, set) = (list.clone(), done.clone());
        let caller = thread::spawn(move || {
            set.store(true, Ordering::Relaxed);
            there.wake_all(|| ());
        });
        let bed = Parker::new();
        let mut place = None;
        loop {
            place = Some(list.join(place, bed.waker()));
            if done.load(Ordering::Relaxed) {
                break;
            }
            SLEPT.here();
            bed.park(None);
        }
        place.into_iter().for_each(|place| list.leave(place));
        leaves.join().unwrap();
        caller.join().unwrap();
        assert!(list.is_empty());
    });
    SLEPT.assert();
}
