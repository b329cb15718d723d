//! A sync handler that overruns costs one thread and one lane: its worker's other lanes are taken over, by a
//! worker that sleeps or by a spare, up to their bound.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dispatch.rs"]
mod dispatch;

use std::sync::Arc;
use std::time::Duration;

use dispatch::{Holds, Log, Shape, all_done, each_shape, ended, name_of, submit, until};
use keylane::testing::VirtualClock;
use keylane::{
    HandlerError, Letter, Notice, Outcome, Record, Runtime, Snapshot, Subscriber, Subscription, Why,
};
use parking_lot::Mutex;

const LANES: usize = 8;

type Notices = Arc<Mutex<Vec<Notice>>>;

/// A runtime whose notices are kept, and a sync handler that hangs while the record's name is held.
fn start(
    config: keylane::Config,
    clock: &VirtualClock,
    holds: &Holds,
    log: &Log,
) -> (Runtime, Subscriber, Notices) {
    let notices = Notices::default();
    let taken = notices.clone();
    let runtime = Runtime::builder()
        .config(config)
        .on_notice(move |notice| taken.lock().push(notice.clone()))
        .clock(clock.clone())
        .build()
        .unwrap();
    let (hold, log) = (holds.handle(), log.clone());
    let orders = runtime
        .subscribe(Subscription::new("o"), move |record: &Record| {
            log.add(name_of(record));
            hold.block(&name_of(record));
            Ok(())
        })
        .unwrap();
    (runtime, orders, notices)
}

/// One key of each lane.
fn keys(shape: Shape) -> Vec<String> {
    (0..LANES as u32).map(|lane| shape.keys_in(0, lane, 1).remove(0)).collect()
}

/// Waits until `done`. Time goes on only while all workers but the `hung` ones sleep, so that nobody else's
/// handler overruns, however slow the machine is.
#[track_caller]
fn pass_time(
    runtime: &Runtime,
    clock: &VirtualClock,
    hung: usize,
    what: &str,
    done: impl Fn() -> bool,
) {
    until(what, || {
        let workers = runtime.snapshot().workers;
        if workers.iter().filter(|worker| !worker.asleep).count() <= hung {
            clock.advance(Duration::from_millis(1));
        }
        done()
    });
}

fn overrunning(snapshot: &Snapshot) -> usize {
    let running = snapshot.workers.iter().filter_map(|worker| worker.running.as_ref());
    running.filter(|running| running.overruns).count()
}

fn count(notices: &Notices, which: impl Fn(&Notice) -> bool) -> usize {
    notices.lock().iter().filter(|notice| which(notice)).count()
}

#[test]
fn with_one_worker_a_spare_takes_the_other_lanes() {
    let shape = Shape { workers: 1, lanes: LANES };
    let (clock, holds, log) = (VirtualClock::new(), Holds::new(&["a1"]), Log::default());
    let keys = keys(shape);
    let (runtime, orders, notices) = start(shape.config(), &clock, &holds, &log);
    let a = [submit(&orders, &keys[0], "a1"), submit(&orders, &keys[0], "a2")];
    until("it hangs", || log.has("a1"));
    // Lanes that are ready when it hangs, and lanes that become so later.
    for _ in 0..3 {
        let others: Vec<_> = keys[1..].iter().map(|key| submit(&orders, key, "b")).collect();
        pass_time(&runtime, &clock, 1, "all others are handled", || {
            others.iter().all(|receipt| receipt.outcome().is_some())
        });
        all_done(&others);
    }
    assert_eq!(log.of("a"), ["a1"], "its own lane waits");

    let spare = |notice: &Notice| *notice == Notice::SpareStarted { running: 1 };
    until("the spare is said to run", || count(&notices, spare) == 1);
    let snapshot = runtime.snapshot();
    assert_eq!((snapshot.spares, overrunning(&snapshot)), (1, 1));
    assert_eq!(snapshot.subscriptions[0].overruns, 1);
    let busy = snapshot.busy.iter().find(|busy| busy.why == Why::Sync).unwrap();
    assert_eq!((busy.lane, busy.key.as_deref()), (0, Some(keys[0].as_bytes())));

    holds.open("a1");
    all_done(&a);
    // Said once a subscription, however often it happens.
    let key = keys[0].as_bytes();
    let overrun = |notice: &Notice| {
        matches!(notice, Notice::Overrun { subscription, key: Some(k), .. }
            if subscription == "o" && k == key)
    };
    assert_eq!(count(&notices, overrun), 1);
    assert_eq!(count(&notices, |n| matches!(n, Notice::Overrun { .. })), 1);
}

#[test]
fn a_second_overrun_is_counted_and_not_said_again() {
    let shape = Shape { workers: 1, lanes: LANES };
    let (clock, holds, log) = (VirtualClock::new(), Holds::new(&["a", "b"]), Log::default());
    let keys = keys(shape);
    let (runtime, orders, notices) = start(shape.config(), &clock, &holds, &log);
    for (number, (name, key)) in (1..).zip(["a", "b"].into_iter().zip(&keys)) {
        let receipt = submit(&orders, key, name);
        until("it hangs", || log.has(name));
        // A little after it is seen; and not at all once it has ended.
        let counted = || runtime.snapshot().subscriptions[0].overruns;
        pass_time(&runtime, &clock, 1, "it overruns", || counted() == number);
        holds.open(name);
        all_done([&receipt]);
        assert_eq!(counted(), number);
    }
    assert_eq!(count(&notices, |n| matches!(n, Notice::Overrun { .. })), 1);
}

#[test]
fn with_two_workers_the_one_that_sleeps_takes_them_and_no_spare_starts() {
    let shape = Shape { workers: 2, lanes: LANES };
    let (clock, holds, log) = (VirtualClock::new(), Holds::new(&["a"]), Log::default());
    let keys = keys(shape);
    let (runtime, orders, _) = start(shape.config(), &clock, &holds, &log);
    let a = submit(&orders, &keys[0], "a");
    until("it hangs", || log.has("a"));
    // One by one: some lanes are those of the one that hangs, and the other sleeps when they become ready.
    for key in &keys[1..] {
        let sleeps = || runtime.snapshot().workers.iter().any(|worker| worker.asleep);
        until("the other one sleeps", sleeps);
        let other = submit(&orders, key, "b");
        pass_time(&runtime, &clock, 1, "it is handled", || other.outcome().is_some());
        all_done([&other]);
    }
    assert_eq!((runtime.snapshot().spares, a.outcome()), (0, None));
    holds.open("a");
    all_done([&a]);
}

#[test]
fn spares_start_up_to_their_bound() {
    let shape = Shape { workers: 1, lanes: LANES };
    let hung = ["a", "b", "c"];
    let (clock, holds, log) = (VirtualClock::new(), Holds::new(&hung), Log::default());
    let keys = keys(shape);
    let (runtime, orders, notices) = start(shape.config().spares(2), &clock, &holds, &log);
    let mut receipts = Vec::new();
    for (number, (name, key)) in (1..).zip(hung.iter().zip(&keys)) {
        receipts.push(submit(&orders, key, name));
        pass_time(&runtime, &clock, number - 1, "it hangs", || log.has(name));
        pass_time(&runtime, &clock, number, "it overruns", || {
            overrunning(&runtime.snapshot()) == number
        });
    }
    let waits = submit(&orders, &keys[4], "d");
    let snapshot = runtime.snapshot();
    assert_eq!((snapshot.spares, snapshot.workers.len()), (2, 3));
    let [used] = &snapshot.bounds[..] else { panic!("{:?}", snapshot.bounds) };
    assert_eq!((used.bound, used.subscription.as_deref()), (keylane::Bound::Spares, Some("o")));
    assert_eq!(used.key.as_deref(), Some(keys[0].as_bytes()), "it has run longest");
    assert_eq!(count(&notices, |n| matches!(n, Notice::SpareStarted { .. })), 2);
    // However long that takes.
    (0..100).for_each(|_| clock.advance(Duration::from_millis(1)));
    assert_eq!((log.has("d"), waits.outcome()), (false, None), "there is nobody for it");
    holds.open("b");
    all_done([&waits, &receipts[1]]);
    assert_eq!((receipts[0].outcome(), receipts[2].outcome()), (None, None));
    holds.open("a");
    holds.open("c");
    all_done(&receipts);
}

/// What hangs need not be the handler: a dead letter's sink is a caller's code too.
#[test]
fn a_sink_that_hangs_costs_no_other_lane() {
    let shape = Shape { workers: 1, lanes: LANES };
    let (clock, holds, log) = (VirtualClock::new(), Holds::new(&["a"]), Log::default());
    let (keys, logged) = (keys(shape), log.clone());
    let runtime = Runtime::builder().config(shape.config()).clock(clock.clone()).build().unwrap();
    let hold = holds.handle();
    let policy = Subscription::new("o").dead_letter_to(move |letter: &Letter| {
        logged.add(name_of(&letter.record));
        hold.block(&name_of(&letter.record));
        Ok(())
    });
    let orders = runtime
        .subscribe(policy, |record: &Record| {
            if name_of(record) == "a" { Err(HandlerError::fatal("no")) } else { Ok(()) }
        })
        .unwrap();
    let a = submit(&orders, &keys[0], "a");
    until("it hangs", || log.has("a"));
    let others: Vec<_> = keys[1..].iter().map(|key| submit(&orders, key, "b")).collect();
    pass_time(&runtime, &clock, 1, "all others are handled", || {
        others.iter().all(|receipt| receipt.outcome().is_some())
    });
    all_done(&others);
    assert_eq!(a.outcome(), None);
    holds.open("a");
    assert!(matches!(ended(&a), Outcome::DeadLettered(_)));
}

/// A lane that has always more than a visit takes is one of its worker's lanes, not its only one.
#[test]
fn a_lane_that_never_runs_dry_leaves_others_their_turn() {
    each_shape(|shape| {
        // Without a spare, which would relieve a worker that the system has taken its core from.
        let config = shape.config().spares(0);
        let runtime = Runtime::builder().config(config).build().unwrap();
        let own = Arc::new(Mutex::new(None::<Subscriber>));
        let itself = own.clone();
        // Each record handled is followed by another, until one of another lane has been handled.
        let endless = runtime
            .subscribe(Subscription::new("endless"), move |record: &Record| {
                if let Some(endless) = &*itself.lock() {
                    let key = record.key().unwrap_or_default();
                    endless.try_submit(Record::new(key, "more")).map_err(|e| e.to_string())?;
                }
                Ok(())
            })
            .unwrap();
        let others = runtime.subscribe(Subscription::new("others"), |_: &Record| Ok(())).unwrap();
        *own.lock() = Some(endless.clone());
        let key = &shape.keys_of(0, 1)[0];
        // More than a visit takes, at every moment.
        for _ in 0..500 {
            endless.submit(Record::new(key, "one")).unwrap();
        }
        let receipts: Vec<_> = (0..shape.lanes as u32)
            .map(|lane| submit(&others, &shape.keys_in(1, lane, 1)[0], "in turn"))
            .collect();
        all_done(&receipts);
        *own.lock() = None;
    });
}
