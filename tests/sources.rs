//! Sources: what a broker's consume loop sees of the runtime.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "testing", feature = "internals"))]

#[path = "support/dispatch.rs"]
mod dispatch;
#[path = "support/lifecycle.rs"]
mod support;

use std::task::Waker;

use keylane::internals::{
    DeliverError, Source, SourceError, SourceOptions, Status, Stored, Undelivered,
};
use keylane::testing::settle;
use keylane::{
    Config, HandlerError, Keyless, Letter, Position, Record, Refusal, Retry, Runtime, Subscriber,
    Subscription,
};
use support::*;

fn options(waker: &Waker) -> SourceOptions {
    SourceOptions { name: "orders/0".into(), window: None, resume: None, waker: waker.clone() }
}

fn at(key: &str, partition: u32, offset: u64) -> Record {
    numbered(key, offset).with_position(Position { partition, offset })
}

fn source(subscriber: &Subscriber) -> Source {
    subscriber.source(options(Waker::noop())).unwrap()
}

/// What the consume loop does once it is woken.
fn frontier(source: &mut Source) -> Option<u64> {
    source.ledger().advance(|_| ());
    source.ledger().frontier()
}

/// A subscription whose async records end when their flag is raised: by number.
fn flagged(runtime: &Runtime, flags: &[Flag]) -> Subscriber {
    let flags = flags.to_vec();
    runtime
        .subscribe_async(Subscription::new("s"), move |record| {
            let raised = flags[number(&record) as usize].wait();
            async {
                raised.await;
                Ok(())
            }
        })
        .unwrap()
}

// convict: whole_lane_waits
#[test]
fn the_frontier_follows_what_finishes_out_of_order() {
    dispatch::each_shape(|shape| {
        let runtime = shape.runtime();
        let flags: Vec<Flag> = (0..4).map(|_| Flag::new()).collect();
        let subscriber = flagged(&runtime, &flags);
        let mut source = source(&subscriber);
        for (offset, key) in (0..).zip(shape.keys_of(0, 4)) {
            source.deliver(at(&key, 0, offset)).unwrap();
        }
        settle(&runtime);
        for (done, (raised, expected)) in (1..).zip([(2, 0), (0, 1), (1, 3), (3, 4)]) {
            flags[raised].raise();
            settle(&runtime);
            assert_eq!(runtime.snapshot().outcomes.done, done);
            assert_eq!(frontier(&mut source), Some(expected));
        }
        assert_eq!(source.ledger().unfinished(), 0);
        assert!(runtime.close(HANG).unwrap().drained);
    });
}

#[test]
fn a_finish_wakes_the_sleeping_loop_once() {
    let runtime = narrow(100).build().unwrap();
    let flags = [Flag::new(), Flag::new()];
    let subscriber = flagged(&runtime, &flags);
    let (calls, waker) = Calls::new();
    let mut source = subscriber.source(options(&waker)).unwrap();
    source.deliver(at("a", 0, 0)).unwrap();
    source.deliver(at("b", 0, 1)).unwrap();
    settle(&runtime);
    assert!(source.ledger().prepare_wait());
    flags[0].raise();
    settle(&runtime);
    assert_eq!(calls.count(), 1);
    assert_eq!(frontier(&mut source), Some(1));
    flags[1].raise();
    settle(&runtime);
    assert_eq!(calls.count(), 1, "it does not sleep");
    assert!(!source.ledger().prepare_wait(), "there is news");
}

#[test]
fn a_restart_skips_what_was_finished_above_the_frontier() {
    let runtime = narrow(100).build().unwrap();
    let log = Log::new();
    let seen = log.clone();
    let policy = Subscription::new("s").retry(Retry::fixed(LONG).forever());
    let subscriber = runtime
        .subscribe(policy, move |record: &Record| {
            seen.push(number(record));
            match number(record) {
                1 if record.epoch() == 0 => Err(HandlerError::retryable("not yet")),
                _ => Ok(()),
            }
        })
        .unwrap();
    let mut first = source(&subscriber);
    for offset in 0..4 {
        first.deliver(at(&format!("k{offset}"), 0, offset)).unwrap();
    }
    settle(&runtime);
    assert_eq!(frontier(&mut first), Some(1));
    let stored: Stored = first.ledger().stored().unwrap();
    drop(first);
    settle(&runtime);
    let resume = Some(stored);
    let mut second = subscriber.source(SourceOptions { resume, ..options(Waker::noop()) }).unwrap();
    for offset in 1..5 {
        let result = second.deliver(at(&format!("k{offset}"), 0, offset).with_epoch(1));
        match offset {
            2 | 3 => assert!(matches!(
                result.unwrap_err(),
                Undelivered::Ledger(DeliverError::AlreadyFinished, _)
            )),
            _ => result.unwrap(),
        }
    }
    settle(&runtime);
    assert_eq!(frontier(&mut second), Some(5));
    assert_eq!(log.numbers(), [0, 1, 2, 3, 1, 4]);
    assert!(runtime.close(HANG).unwrap().drained, "what the first left, the second handled");
}

#[test]
fn a_full_lane_keeps_the_record_with_the_loop_and_calls_it() {
    let runtime = narrow(2).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    let (calls, waker) = Calls::new();
    let mut source = subscriber.source(options(&waker)).unwrap();
    source.deliver(at("k", 0, 0)).unwrap();
    door.wait_for(1);
    source.deliver(at("k", 0, 1)).unwrap();
    source.deliver(at("k", 0, 2)).unwrap();
    let Undelivered::Full(kept) = source.deliver(at("k", 0, 3)).unwrap_err() else {
        panic!("full")
    };
    let Undelivered::Full(kept) = source.deliver(kept).unwrap_err() else { panic!("still full") };
    assert_eq!((calls.count(), source.ledger().in_flight()), (0, 3));
    door.open();
    until("there is room", || calls.count() > 0);
    source.deliver(kept).unwrap();
    settle(&runtime);
    assert_eq!((log.numbers(), frontier(&mut source)), (vec![0, 1, 2, 3], Some(4)));
    assert!(runtime.close(HANG).unwrap().drained);
}

fn logged(runtime: &Runtime) -> (Subscriber, Log) {
    let log = Log::new();
    (runtime.subscribe(Subscription::new("s"), log.handler()).unwrap(), log)
}

#[test]
fn what_is_put_is_handled_once_its_lanes_are_rung() {
    dispatch::each_shape(|shape| {
        let runtime = shape.runtime();
        let (subscriber, log) = logged(&runtime);
        let mut source = source(&subscriber);
        let keys = shape.keys_of(0, 2);
        source.put(at(&keys[0], 0, 0)).unwrap();
        source.put(at(&keys[1], 0, 1)).unwrap();
        settle(&runtime);
        assert!(log.numbers().is_empty(), "nobody was told");
        // Whoever else puts something into the lane tells nobody either, and passes nothing.
        subscriber.submit(numbered(&keys[0], 2)).unwrap();
        source.put(at(&keys[0], 0, 3)).unwrap();
        source.ring();
        settle(&runtime);
        assert_eq!((log.numbers(), frontier(&mut source)), (vec![0, 1, 2, 3], Some(4)));
        source.put(at(&keys[0], 0, 4)).unwrap();
        source.deliver(at(&keys[1], 0, 5)).unwrap();
        settle(&runtime);
        assert_eq!(log.numbers(), [0, 1, 2, 3, 4, 5], "`deliver` rings for all");
        assert!(runtime.close(HANG).unwrap().drained);
    });
}

#[test]
fn a_source_that_ends_before_it_rings_leaves_no_lane_behind() {
    dispatch::each_shape(|shape| {
        let runtime = shape.runtime();
        let (subscriber, log) = logged(&runtime);
        let keys = shape.keys_of(0, 2);
        let mut source = source(&subscriber);
        source.put(at(&keys[0], 0, 0)).unwrap();
        drop(source);
        subscriber.submit(numbered(&keys[1], 1)).unwrap();
        settle(&runtime);
        // Of an assignment that has ended nothing is started.
        assert_eq!(log.numbers().last(), Some(&1));
        assert!(runtime.close(HANG).unwrap().drained);
    });
}

#[test]
fn a_lane_that_is_filled_within_a_turn_is_emptied_without_another_call() {
    let runtime = narrow(2).build().unwrap();
    let (subscriber, log) = logged(&runtime);
    let (calls, waker) = Calls::new();
    let mut source = subscriber.source(options(&waker)).unwrap();
    let mut kept = None;
    for offset in 0.. {
        match source.put(at("k", 0, offset)) {
            Ok(()) => {}
            Err(Undelivered::Full(record)) => {
                kept = Some(record);
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    until("there is room", || calls.count() > 0);
    settle(&runtime);
    let before = log.numbers().len() as u64;
    source.deliver(kept.unwrap()).unwrap();
    settle(&runtime);
    assert!(before >= 2);
    assert_eq!(log.numbers(), (0..=before).collect::<Vec<_>>());
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn a_full_window_keeps_the_record_with_the_loop() {
    let runtime = narrow(100).build().unwrap();
    let flags: Vec<Flag> = (0..4).map(|_| Flag::new()).collect();
    let subscriber = flagged(&runtime, &flags);
    let (calls, waker) = Calls::new();
    let mut source =
        subscriber.source(SourceOptions { window: Some(2), ..options(&waker) }).unwrap();
    source.deliver(at("a", 0, 0)).unwrap();
    source.deliver(at("b", 0, 1)).unwrap();
    let Undelivered::Ledger(DeliverError::WindowFull, kept) =
        source.deliver(at("c", 0, 2)).unwrap_err()
    else {
        panic!("the window is full")
    };
    settle(&runtime);
    let [used] = &runtime.snapshot().bounds[..] else { panic!("one bound is used up") };
    assert_eq!(
        (used.bound, used.source.as_deref()),
        (keylane::Bound::SourceWindow, Some("orders/0"))
    );
    assert_eq!(
        (used.offset, used.key.as_deref()),
        (Some(0), Some(&b"a"[..])),
        "the oldest holds it"
    );
    flags[1].raise();
    settle(&runtime);
    assert_eq!(frontier(&mut source), Some(0), "the first still holds the window");
    assert!(source.ledger().is_full());
    assert!(source.ledger().prepare_wait());
    flags[0].raise();
    until("the loop is woken", || calls.count() == 1);
    assert_eq!(frontier(&mut source), Some(2));
    source.deliver(kept).unwrap();
    flags[2].raise();
    settle(&runtime);
    assert_eq!(frontier(&mut source), Some(3));
    assert!(runtime.snapshot().bounds.is_empty());
}

// convict: whole_lane_waits
#[test]
fn a_failure_stops_its_source_and_no_other() {
    dispatch::each_shape(|shape| {
        let runtime = shape.runtime();
        let stone = shape.stone(&runtime, 0);
        let keys = shape.keys_of(1, 2);
        let (k, bad) = (&keys[0], keys[1].clone());
        let log = Log::new();
        let seen = log.clone();
        let subscriber = runtime
            .subscribe(Subscription::new("s"), move |record: &Record| {
                if record.key() == Some(bad.as_bytes()) {
                    return Err(HandlerError::fatal("cannot be read"));
                }
                seen.push(number(record));
                Ok(())
            })
            .unwrap();
        let ((calls, waker), mut other) = (Calls::new(), source(&subscriber));
        let mut stops = subscriber.source(options(&waker)).unwrap();
        stops.deliver(at(k, 1, 0)).unwrap();
        stops.deliver(at(&keys[1], 1, 1)).unwrap();
        settle(&runtime);
        assert!(stops.is_stopped() && calls.count() > 0);
        assert_eq!(&*stops.stopped_by().unwrap().error, "cannot be read");
        assert!(matches!(stops.deliver(at(k, 1, 2)), Err(Undelivered::Stopped(_))));
        assert_eq!(frontier(&mut stops), Some(1));
        assert!(!other.is_stopped() && subscriber.stopped_by().is_none());
        other.deliver(at(k, 2, 7)).unwrap();
        settle(&runtime);
        assert_eq!((log.numbers(), frontier(&mut other)), (vec![0, 7], Some(8)));
        assert_eq!(runtime.snapshot().outcomes.stopped, 1);
        stone.lift();
    });
}

#[test]
fn a_source_that_is_dropped_is_stale_and_its_successor_is_not_touched() {
    let runtime = narrow(100).build().unwrap();
    let flags: Vec<Flag> = (0..3).map(|_| Flag::new()).collect();
    let subscriber = flagged(&runtime, &flags);
    let mut first = source(&subscriber);
    first.deliver(at("a", 0, 0)).unwrap();
    first.deliver(at("b", 0, 1)).unwrap();
    settle(&runtime);
    let epoch = first.epoch();
    drop(first);
    // Takes the same place in the table.
    let mut second = source(&subscriber);
    assert_ne!(second.epoch(), epoch);
    second.deliver(at("c", 0, 0).with_epoch(1)).unwrap();
    settle(&runtime);
    flags[1].raise();
    settle(&runtime);
    assert_eq!(runtime.snapshot().outcomes.stale, 1);
    assert_eq!((frontier(&mut second), second.ledger().unfinished()), (Some(0), 1));
    flags[0].raise();
    settle(&runtime);
    assert_eq!(frontier(&mut second), Some(1));
    assert_eq!(runtime.snapshot().outcomes.stale, 2, "the first 0, and not the second");
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn what_a_dropped_source_has_queued_is_not_handled() {
    let runtime = narrow(100).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    let mut first = source(&subscriber);
    (0..5).for_each(|offset| first.deliver(at("k", 0, offset)).unwrap());
    door.wait_for(1);
    drop(first);
    let mut second = source(&subscriber);
    (0..5).for_each(|offset| second.deliver(at("k", 0, offset)).unwrap());
    door.open();
    settle(&runtime);
    assert_eq!(log.numbers(), [0, 0, 1, 2, 3, 4], "the one that ran, then the second's, in order");
    assert_eq!(frontier(&mut second), Some(5));
    let report = runtime.close(HANG).unwrap();
    assert!(report.drained && report.records.is_empty());
}

#[test]
fn a_removal_leaves_a_sources_records_unfinished_and_a_new_epoch_gets_them() {
    let runtime = narrow(100).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    let mut first = source(&subscriber);
    (0..5).for_each(|offset| first.deliver(at("k", 0, offset)).unwrap());
    door.wait_for(1);
    let removal = subscriber.remove();
    assert!(first.is_stopped());
    assert!(matches!(first.deliver(at("k", 0, 5)), Err(Undelivered::Stopped(_))));
    door.open();
    assert!(removal.wait().unwrap().is_empty(), "a source's records are its own");
    assert_eq!(frontier(&mut first), Some(1));
    assert!(matches!(subscriber.source(options(Waker::noop())), Err(SourceError::Removed)));
    let resume = first.ledger().stored();
    drop(first);
    let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
    let mut second = subscriber.source(SourceOptions { resume, ..options(Waker::noop()) }).unwrap();
    assert_eq!(second.ledger().status(0), Status::Passed);
    (1..6).for_each(|offset| second.deliver(at("k", 0, offset)).unwrap());
    settle(&runtime);
    assert_eq!((log.numbers(), frontier(&mut second)), (vec![0, 1, 2, 3, 4, 5], Some(6)));
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn close_leaves_what_waits_to_be_tried_again_unfinished() {
    let runtime = narrow(100).build().unwrap();
    let policy = Subscription::new("s").retry(Retry::fixed(LONG).forever());
    let log = Log::new();
    let seen = log.clone();
    let subscriber = runtime
        .subscribe(policy, move |record: &Record| {
            seen.push(number(record));
            if number(record) == 1 { Err(HandlerError::retryable("no")) } else { Ok(()) }
        })
        .unwrap();
    let mut source = source(&subscriber);
    (0..4).for_each(|offset| source.deliver(at("k", 0, offset)).unwrap());
    settle(&runtime);
    let report = runtime.close(HANG).unwrap();
    assert!(!report.drained && report.records.is_empty());
    assert_eq!(report.abandoned, 3);
    assert_eq!((log.numbers(), frontier(&mut source)), (vec![0, 1], Some(1)));
    assert!(matches!(source.deliver(at("k", 0, 4)), Err(Undelivered::Stopped(_))));
    assert_eq!(source.ledger().newest(), Some(3), "what was refused was not delivered");
}

#[test]
fn keys_from_a_broker() {
    let runtime = narrow(100).build().unwrap();
    let log = Log::new();
    let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
    let rejects =
        runtime.subscribe(Subscription::new("r").keyless(Keyless::Reject), log.handler()).unwrap();
    let mut takes = source(&subscriber);
    takes.deliver(at("", 0, 0)).unwrap();
    takes.deliver(Record::keyless(1u64.to_le_bytes())).unwrap_err();
    takes
        .deliver(
            Record::keyless(1u64.to_le_bytes()).with_position(Position { partition: 0, offset: 1 }),
        )
        .unwrap();
    let oversized = "x".repeat(4_097);
    takes.deliver(at(&oversized, 0, 2)).unwrap(); // its bus has the failure policy take it
    let refused = source(&rejects).deliver(at("", 0, 0)).unwrap_err();
    assert!(matches!(refused, Undelivered::Key(Refusal::NoKey, _)));
    settle(&runtime);
    assert_eq!((log.numbers(), frontier(&mut takes)), (vec![0, 1, 2], Some(3)));
}

#[test]
fn a_window_out_of_its_range_is_refused() {
    let runtime = narrow(100).build().unwrap();
    let subscriber = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
    for window in [0, usize::MAX] {
        let options = SourceOptions { window: Some(window), ..options(Waker::noop()) };
        let Err(SourceError::Config(error)) = subscriber.source(options) else {
            panic!("{window}")
        };
        assert!(error.to_string().contains("1 to 4194304"), "{error}");
    }
    assert!(Runtime::builder().config(Config::default().source_window(0)).build().is_err());
}

#[test]
fn a_thousand_assignments_leave_nothing() {
    let runtime = narrow(100).build().unwrap();
    let subscriber = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
    let mut epochs = std::collections::BTreeSet::new();
    for offset in 0..1_000 {
        let options = SourceOptions { window: Some(8), ..options(Waker::noop()) };
        let mut source = subscriber.source(options).unwrap();
        source.deliver(at("k", 0, offset)).unwrap();
        assert!(epochs.insert(source.epoch()));
        if offset % 50 == 0 {
            settle(&runtime);
        }
    }
    settle(&runtime);
    let outcomes = runtime.snapshot().outcomes;
    assert_eq!(outcomes.stale + outcomes.abandoned + outcomes.done, 1_000);
    assert_eq!(runtime.snapshot().in_flight, 0);
}

/// A subscription that parks a key at its first failure, which records whose number is 7 are.
fn parking(runtime: &Runtime, name: &str, log: &Log, letters: &Log) -> Subscriber {
    let (seen, dead) = (log.clone(), letters.clone());
    let policy = Subscription::new(name).park_key().dead_letter_to(move |letter: &Letter| {
        dead.push(number(&letter.record));
        Ok(())
    });
    let handler = move |record: &Record| {
        seen.push(number(record));
        if number(record) == 7 { Err("broken".into()) } else { Ok(()) }
    };
    runtime.subscribe(policy, handler).unwrap()
}

#[test]
fn parked_keys_are_stored_and_parked_again_before_anything_is_delivered() {
    let runtime = narrow(100).build().unwrap();
    let (log, letters) = (Log::new(), Log::new());
    let subscriber = parking(&runtime, "s", &log, &letters);
    let mut first = source(&subscriber);
    let mut other = subscriber
        .source(SourceOptions { name: "orders/1".into(), ..options(Waker::noop()) })
        .unwrap();
    first.deliver(at("own", 0, 7)).unwrap();
    other.deliver(at("other", 1, 7)).unwrap();
    settle(&runtime);
    assert!(first.parked_changed() && !first.parked_changed());
    assert!(subscriber.park(b"by hand"));
    settle(&runtime);
    assert!(first.parked_changed());
    assert_eq!((frontier(&mut first), frontier(&mut other)), (Some(8), Some(8)));
    // Its own, and the one of which nobody knows whose it is.
    let stored = first.stored_with_parked().unwrap();
    assert_eq!(stored.parked(), [b"by hand".to_vec(), b"own".to_vec()]);
    assert_eq!(other.stored_with_parked().unwrap().parked(), [b"by hand", &b"other"[..]]);
    let text = stored.encode(Stored::LIMIT).text;
    drop((first, other));
    drop(subscriber.remove());

    // The lane is held up, so that the keys cannot be parked yet.
    let (door, held) = (Door::new(), Door::new());
    let (wait, came) = (door.clone(), held.clone());
    let blocker = runtime
        .subscribe(Subscription::new("blocker"), move |_: &Record| {
            came.open();
            wait.pass();
            Ok(())
        })
        .unwrap();
    blocker.submit(Record::new("x", "")).unwrap();
    until("the lane is held up", || held.is_open());
    let again = parking(&runtime, "again", &log, &letters);
    let (calls, waker) = Calls::new();
    let resume = Some(Stored::decode(&text).unwrap());
    let mut second = again.source(SourceOptions { resume, ..options(&waker) }).unwrap();
    let Undelivered::Full(kept) = second.deliver(at("own", 0, 8)).unwrap_err() else {
        panic!("its key is not parked yet")
    };
    assert_eq!(calls.count(), 0);
    door.open();
    until("the loop is called", || calls.count() == 1);
    second.deliver(kept).unwrap();
    second.deliver(at("free", 0, 9)).unwrap();
    settle(&runtime);
    assert_eq!((log.numbers(), letters.numbers()), (vec![7, 7, 9], vec![7, 7, 8]));
    assert_eq!(again.parked().len(), 2);
    again.resume(b"own");
    settle(&runtime);
    assert!(second.parked_changed());
    assert_eq!(second.stored_with_parked().unwrap().parked(), [b"by hand".to_vec()]);
}

#[test]
fn bytes_count_until_their_record_is_finished_or_given_up() {
    let runtime = narrow(100).build().unwrap();
    let flags: Vec<Flag> = (0..4).map(|_| Flag::new()).collect();
    let raised = flags.clone();
    let policy = Subscription::new("s").source_bytes(3 * 1_024);
    let subscriber = runtime
        .subscribe_async(policy, move |record: keylane::RecordRef| {
            let flag = raised[record.position().unwrap().offset as usize].wait();
            async {
                flag.await;
                Ok(())
            }
        })
        .unwrap();
    let (calls, waker) = Calls::new();
    let mut source = subscriber.source(options(&waker)).unwrap();
    let large = |key: &str, offset| {
        Record::new(key, vec![0; 1_023]).with_position(Position { partition: 0, offset })
    };
    ["a", "b", "c"].iter().zip(0..).for_each(|(k, n)| source.deliver(large(k, n)).unwrap());
    assert_eq!((source.ledger().bytes(), source.room()), (3 * 1_024, 0));
    let Undelivered::Bytes(kept) = source.deliver(large("d", 3)).unwrap_err() else {
        panic!("its bytes are used up")
    };
    assert!(source.is_full());
    settle(&runtime);
    let [used] = &runtime.snapshot().bounds[..] else { panic!("one bound is used up") };
    assert_eq!((used.bound, used.offset), (keylane::Bound::SourceBytes, Some(0)));
    assert!(source.ledger().prepare_wait_any());
    flags[1].raise();
    until("the loop is woken, though the oldest holds", || calls.count() == 1);
    assert_eq!(frontier(&mut source), Some(0));
    assert_eq!(source.room(), 1_024);
    source.deliver(kept).unwrap();
    assert!(!source.is_full());
    assert_eq!(source.ledger().rewind([]), Some(0));
    assert_eq!(source.ledger().bytes(), 3 * 1_024, "what runs is held still");
    flags.iter().for_each(Flag::raise);
    settle(&runtime);
    assert_eq!((frontier(&mut source), source.ledger().bytes()), (Some(4), 0));
    // A record larger than all that may be is taken alone.
    let huge = Record::new("e", vec![0; 9_000]).with_position(Position { partition: 0, offset: 4 });
    assert!(source.deliver(huge).is_ok());
    runtime.stop_now();
}

#[test]
fn what_is_counted_of_a_source_outlives_its_assignments() {
    let runtime = narrow(100).build().unwrap();
    let flags: Vec<Flag> = (0..2).map(|_| Flag::new()).collect();
    let subscriber = flagged(&runtime, &flags);
    let seen = || {
        let sources = runtime.snapshot().sources;
        let source = sources.iter().find(|source| source.name == "orders/0").unwrap();
        (source.absorbed, source.stale, source.barriers, source.reconnects)
    };
    let mut first = source(&subscriber);
    first.deliver(at("a", 0, 0)).unwrap();
    assert_eq!(first.ledger().rewind([]), Some(0));
    first.deliver(at("a", 0, 0)).unwrap_err();
    first.counts().barriers.add(1);
    first.counts().reconnects.add(2);
    settle(&runtime);
    assert_eq!(seen(), (1, 0, 1, 2));
    drop(first);
    let mut second = source(&subscriber);
    second.deliver(at("a", 0, 1)).unwrap();
    flags[0].raise();
    settle(&runtime);
    assert_eq!(seen(), (1, 1, 1, 2), "the end of the first came late");
    flags[1].raise();
    settle(&runtime);
    assert_eq!((frontier(&mut second), seen()), (Some(2), (1, 1, 1, 2)));
}

#[test]
fn ages_and_lag_are_told_by_the_loop_and_read_by_anybody() {
    let clock = keylane::testing::VirtualClock::new();
    let runtime = narrow(100).clock(clock.clone()).build().unwrap();
    let flags: Vec<Flag> = (0..2).map(|_| Flag::new()).collect();
    let subscriber = flagged(&runtime, &flags);
    let mut source = source(&subscriber);
    let second = std::time::Duration::from_secs(1);
    let now = || runtime.clock().now();
    source.turn(now());
    source.deliver(at("a", 0, 0)).unwrap();
    source.turn(now());
    clock.advance(second);
    source.deliver(at("b", 0, 1)).unwrap();
    source.set_lag(9);
    source.turn(now());
    clock.advance(second);
    settle(&runtime);
    let seen = || runtime.snapshot().sources.remove(0);
    assert_eq!(
        (seen().lag, seen().oldest_age, seen().commit_age),
        (9, Some(2 * second), 2 * second)
    );
    flags[0].raise();
    settle(&runtime);
    assert_eq!(frontier(&mut source), Some(1));
    source.committed(now());
    source.turn(now());
    clock.advance(second);
    assert_eq!((seen().oldest_age, seen().commit_age), (Some(2 * second), second));
    flags[1].raise();
    settle(&runtime);
    assert_eq!(frontier(&mut source), Some(2));
    source.turn(now());
    assert_eq!((seen().oldest_age, seen().bytes), (None, 0));
}
