//! A key that is slow, retrying or hung delays no other key of its lane, until a stated bound is used up.
//!
//! All keys of a test share one lane. Each test fails when the whole lane waits for a busy key:
//! `ci/convict.sh` builds that variant.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dispatch.rs"]
mod dispatch;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use dispatch::{Holds, Log, all_done, each_shape, ended, name_of, submit, until};
use keylane::testing::{VirtualClock, settle};
use keylane::{
    Bound, Handler, HandlerError, Letter, Outcome, Record, RecordRef, Retry, Runtime, Snapshot,
    Subscription, Why,
};
use parking_lot::Mutex;

/// An async handler that logs what it starts and ends, and is pending while the record's name is held.
fn held(holds: &Holds, log: &Log) -> Handler {
    let (hold, log) = (holds.handle(), log.clone());
    Handler::future(move |record: RecordRef| {
        let (hold, log, name) = (hold.clone(), log.clone(), name_of(&record));
        async move {
            log.add(format!("{name} starts"));
            hold.pass(&name).await;
            log.add(format!("{name} ends"));
            Ok(())
        }
    })
}

fn busy<'a>(snapshot: &'a Snapshot, key: &str) -> &'a keylane::BusyKey {
    let found = snapshot.busy.iter().find(|busy| busy.key.as_deref() == Some(key.as_bytes()));
    found.unwrap_or_else(|| panic!("{key} is not in {:#?}", snapshot.busy))
}

// convict: whole_lane_waits
#[test]
fn a_pending_future_delays_its_own_key_alone() {
    each_shape(|shape| {
        let (runtime, keys) = (shape.runtime(), shape.keys_of(0, 3));
        let (holds, log) = (Holds::new(&["a1"]), Log::default());
        let orders = runtime.subscribe_handler(Subscription::new("o"), held(&holds, &log)).unwrap();
        let a1 = submit(&orders, &keys[0], "a1");
        let a2 = submit(&orders, &keys[0], "a2");
        let others: Vec<_> =
            (0..50).map(|i| submit(&orders, &keys[1 + i % 2], &format!("b{i}"))).collect();
        all_done(&others);
        assert_eq!(log.of("a"), ["a1 starts"]);
        assert_eq!((a1.outcome(), a2.outcome()), (None, None));

        settle(&runtime); // what a lane holds is told at the end of a visit
        let snapshot = runtime.snapshot();
        let busy = busy(&snapshot, &keys[0]);
        assert_eq!((&busy.why, busy.waiting, busy.bound), (&Why::Future, 1, None));
        assert!(snapshot.bounds.is_empty());

        holds.open("a1");
        all_done([&a1, &a2]);
        assert_eq!(log.of("a"), ["a1 starts", "a1 ends", "a2 starts", "a2 ends"]);
    });
}

// convict: whole_lane_waits
#[test]
fn a_future_that_is_never_woken_delays_its_own_key_alone() {
    each_shape(|shape| {
        let (runtime, keys) = (shape.runtime(), shape.keys_of(0, 2));
        let never = keys[0].clone();
        let orders = runtime
            .subscribe_async(Subscription::new("o"), move |record: RecordRef| {
                let hangs = record.key() == Some(never.as_bytes());
                poll_fn(move |_| if hangs { Poll::Pending } else { Poll::Ready(Ok(())) })
            })
            .unwrap();
        let hung = [submit(&orders, &keys[0], "a1"), submit(&orders, &keys[0], "a2")];
        let others: Vec<_> = (0..100).map(|_| submit(&orders, &keys[1], "b")).collect();
        all_done(&others);
        let report = runtime.close(Duration::ZERO).unwrap();
        assert_eq!(hung.map(|receipt| ended(&receipt)), [Outcome::Abandoned, Outcome::Abandoned]);
        assert_eq!(report.records.len(), 2);
        assert_eq!(report.running, []);
    });
}

// convict: whole_lane_waits
#[test]
fn a_record_that_waits_to_be_tried_again_delays_its_own_key_alone() {
    each_shape(|shape| {
        let (clock, keys, log) = (VirtualClock::new(), shape.keys_of(0, 2), Log::default());
        let runtime =
            Runtime::builder().config(shape.config()).clock(clock.clone()).build().unwrap();
        let policy =
            Subscription::new("o").retry(Retry::fixed(Duration::from_secs(60)).attempts(2));
        let logged = log.clone();
        let orders = runtime
            .subscribe(policy, move |record: &Record| {
                let name = name_of(record);
                logged.add(&name);
                let fails = name == "a1" && record.attempt() == 1;
                if fails { Err(HandlerError::retryable("not yet")) } else { Ok(()) }
            })
            .unwrap();
        let a = [submit(&orders, &keys[0], "a1"), submit(&orders, &keys[0], "a2")];
        let others: Vec<_> = (0..50).map(|_| submit(&orders, &keys[1], "b")).collect();
        all_done(&others);
        assert_eq!(log.of("a"), ["a1"]);
        settle(&runtime); // what a lane holds is told at the end of a visit
        let snapshot = runtime.snapshot();
        let busy = busy(&snapshot, &keys[0]);
        assert!(matches!(&busy.why, Why::Retry { error, .. } if &**error == "not yet"));
        assert_eq!((busy.attempt, busy.waiting), (1, 1));
        settle(&runtime);
        clock.advance(Duration::from_secs(60));
        all_done(&a);
        assert_eq!(log.of("a"), ["a1", "a1", "a2"]);
    });
}

// convict: whole_lane_waits
#[test]
fn a_dead_letter_on_its_way_delays_its_own_key_alone() {
    each_shape(|shape| {
        let (runtime, keys) = (shape.runtime(), shape.keys_of(0, 2));
        let holds = Holds::new(&["a1"]);
        struct Sink(dispatch::Hold);
        impl keylane::DeadLetter for Sink {
            fn send(&self, letter: Letter) -> keylane::Sending {
                let (hold, name) = (self.0.clone(), name_of(&letter.record));
                Box::pin(async move {
                    hold.pass(&name).await;
                    Ok(())
                })
            }
        }
        let policy = Subscription::new("o").dead_letter_to(Sink(holds.handle()));
        let orders = runtime
            .subscribe(policy, |record: &Record| {
                if name_of(record) == "a1" { Err(HandlerError::fatal("no")) } else { Ok(()) }
            })
            .unwrap();
        let a = [submit(&orders, &keys[0], "a1"), submit(&orders, &keys[0], "a2")];
        let others: Vec<_> = (0..50).map(|_| submit(&orders, &keys[1], "b")).collect();
        all_done(&others);
        assert_eq!(a[1].outcome(), None);
        settle(&runtime); // what a lane holds is told at the end of a visit
        let snapshot = runtime.snapshot();
        assert_eq!(busy(&snapshot, &keys[0]).why, Why::DeadLetter { sends: 1 });
        holds.open("a1");
        assert!(matches!(ended(&a[0]), Outcome::DeadLettered(_)));
        all_done(&a[1..]);
    });
}

// convict: whole_lane_waits
#[test]
fn a_blocking_handler_that_hangs_delays_its_own_key_alone() {
    each_shape(|shape| {
        let (runtime, keys) = (shape.runtime(), shape.keys_of(0, 3));
        let (holds, log) = (Holds::new(&["a1"]), Log::default());
        let (hold, logged) = (holds.handle(), log.clone());
        let orders = runtime
            .subscribe_blocking(Subscription::new("o"), move |record: RecordRef| {
                logged.add(format!("{} starts", name_of(&record)));
                hold.block(&name_of(&record));
                Ok(())
            })
            .unwrap();
        let a = [submit(&orders, &keys[0], "a1"), submit(&orders, &keys[0], "a2")];
        let others: Vec<_> = (0..20).map(|i| submit(&orders, &keys[1 + i % 2], "b")).collect();
        all_done(&others);
        until("its thread has begun", || log.has("a1 starts"));
        assert_eq!(log.of("a"), ["a1 starts"]);
        settle(&runtime); // what a lane holds is told at the end of a visit
        let snapshot = runtime.snapshot();
        assert_eq!(busy(&snapshot, &keys[0]).why, Why::Blocking);
        holds.open("a1");
        all_done(&a);
    });
}

/// The bound of `blocking_threads`: calls past it wait for a thread; what needs none goes on.
// convict: whole_lane_waits
#[test]
fn blocking_handlers_hold_nobody_up_until_all_threads_are_in_use() {
    each_shape(|shape| {
        let runtime =
            Runtime::builder().config(shape.config().blocking_threads(2)).build().unwrap();
        let keys = shape.keys_of(0, 4);
        let (holds, log) = (Holds::new(&["a", "b"]), Log::default());
        let (hold, seen) = (holds.handle(), log.clone());
        let blocking = runtime
            .subscribe_blocking(Subscription::new("blocking"), move |record: RecordRef| {
                seen.add(name_of(&record));
                hold.block(&name_of(&record));
                Ok(())
            })
            .unwrap();
        let sync = runtime.subscribe(Subscription::new("sync"), |_: &Record| Ok(())).unwrap();
        let a = submit(&blocking, &keys[0], "a");
        all_done([&submit(&blocking, &keys[1], "free")]);
        assert!(runtime.snapshot().bounds.is_empty());
        // Its thread may have taken the call and not begun it yet: then `b` would be the one that has run longest.
        until("the handler has begun", || log.has("a"));

        let b = submit(&blocking, &keys[1], "b");
        let c = submit(&blocking, &keys[2], "c");
        settle(&runtime); // both have been called for
        let mut snapshot = runtime.snapshot();
        until("one of them waits for a thread", || {
            snapshot = runtime.snapshot();
            snapshot.blocking == (2, 1)
        });
        assert_eq!(snapshot.bounds[0].bound, Bound::BlockingThreads);
        assert_eq!(busy(&snapshot, &keys[2]).why, Why::WaitsForThread);
        assert_eq!(
            snapshot.bounds[0].key.as_deref(),
            Some(keys[0].as_bytes()),
            "it has run longest"
        );
        // Neighbours in the same lane that need no thread.
        let others: Vec<_> =
            shape.keys_of(1, 3).iter().map(|key| submit(&sync, key, "s")).collect();
        all_done(&others);
        assert_eq!(c.outcome(), None);

        holds.open("b");
        all_done([&b, &c]);
        assert_eq!(a.outcome(), None);
        holds.open("a");
        all_done([&a]);
        assert!(runtime.snapshot().bounds.is_empty());
    });
}

/// Of the calls that wait for a thread the one whose record arrived first is next, though it became ready last.
// convict: whole_lane_waits
#[test]
fn blocking_handlers_start_in_the_order_of_arrival() {
    each_shape(|shape| {
        let clock = VirtualClock::new();
        let config = shape.config().blocking_threads(2);
        let runtime = Runtime::builder().config(config).clock(clock.clone()).build().unwrap();
        let keys = shape.keys_of(0, 4);
        let (holds, log) = (Holds::new(&["a-1", "b", "other"]), Log::default());
        let (hold, seen) = (holds.handle(), log.clone());
        let orders = runtime
            .subscribe_blocking(Subscription::new("o"), move |record: RecordRef| {
                seen.add(name_of(&record));
                hold.block(&name_of(&record));
                Ok(())
            })
            .unwrap();
        let first = [(0, "other"), (1, "a-1"), (1, "a-2")];
        let mut receipts: Vec<_> =
            first.into_iter().map(|(key, name)| submit(&orders, &keys[key], name)).collect();
        until("both threads are in use", || log.len() == 2);
        settle(&runtime);
        clock.advance(Duration::from_millis(1));
        for (key, name) in [(2, "b"), (3, "c")] {
            receipts.push(submit(&orders, &keys[key], name));
        }
        settle(&runtime);
        holds.open("a-1");
        all_done([&receipts[1]]);
        // The second of `a` is called for once its lane knows: mostly after `c`, which is younger.
        until("the free thread has gone on, and the lane knows", || {
            log.has("b") && (log.has("a-2") || runtime.snapshot().blocking == (2, 2))
        });
        holds.open("other");
        until("the next call has begun", || log.len() >= 4);
        holds.open("b");
        all_done(&receipts);
        let place = |name| log.all().iter().position(|seen| seen == name);
        assert!(place("a-2") < place("c"), "{:?}", log.all());
    });
}

/// A record that is tried again takes its turn behind those that came meanwhile.
// convict: whole_lane_waits
#[test]
fn blocking_retries_do_not_pass_newcomers() {
    each_shape(|shape| {
        let clock = VirtualClock::new();
        let config = shape.config().blocking_threads(1);
        let runtime = Runtime::builder().config(config).clock(clock.clone()).build().unwrap();
        let keys = shape.keys_of(0, 3);
        let (holds, log) = (Holds::new(&["b"]), Log::default());
        let (hold, seen) = (holds.handle(), log.clone());
        let policy =
            Subscription::new("o").retry(Retry::fixed(Duration::from_millis(5)).attempts(2));
        let orders = runtime
            .subscribe_blocking(policy, move |record: RecordRef| {
                let name = name_of(&record);
                seen.add(format!("{name}{}", record.attempt()));
                hold.block(&name);
                if name == "a" && record.attempt() == 1 { Err("not yet".into()) } else { Ok(()) }
            })
            .unwrap();
        let a = submit(&orders, &keys[0], "a");
        until("its first attempt has failed", || {
            settle(&runtime);
            runtime.snapshot().outcomes.retries == 1
        });
        let b = submit(&orders, &keys[1], "b");
        until("the only thread is in use", || log.has("b1"));
        clock.advance(Duration::from_millis(1));
        let c = submit(&orders, &keys[2], "c");
        settle(&runtime);
        clock.advance(Duration::from_millis(5));
        until("both wait for the thread", || runtime.snapshot().blocking == (1, 2));
        holds.open("b");
        all_done([&a, &b, &c]);
        assert_eq!(log.all(), ["a1", "b1", "c1", "a2"]);
    });
}

/// The bound of `key_waiting`.
// convict: whole_lane_waits
#[test]
fn a_key_holds_its_lane_up_once_as_many_records_wait_for_it_as_may() {
    each_shape(|shape| {
        let runtime = Runtime::builder().config(shape.config().key_waiting(3)).build().unwrap();
        let keys = shape.keys_of(0, 2);
        let (holds, log) = (Holds::new(&["a0"]), Log::default());
        let orders = runtime.subscribe_handler(Subscription::new("o"), held(&holds, &log)).unwrap();
        let mut a: Vec<_> = (0..4).map(|i| submit(&orders, &keys[0], &format!("a{i}"))).collect();
        // Three wait behind the first: the bound is reached, and nobody is held up yet.
        all_done([&submit(&orders, &keys[1], "b0")]);
        settle(&runtime); // what a lane holds is told at the end of a visit
        let snapshot = runtime.snapshot();
        assert_eq!((busy(&snapshot, &keys[0]).waiting, snapshot.lanes[0].held), (3, 4));

        a.push(submit(&orders, &keys[0], "a4"));
        let behind = submit(&orders, &keys[1], "b1");
        settle(&runtime);
        let snapshot = runtime.snapshot();
        let named = busy(&snapshot, &keys[0]);
        assert_eq!((named.bound, named.waiting), (Some(Bound::KeyWaiting), 3));
        let [used] = &snapshot.bounds[..] else { panic!("{:?}", snapshot.bounds) };
        assert_eq!(
            (used.bound, used.key.as_deref()),
            (Bound::KeyWaiting, Some(keys[0].as_bytes()))
        );
        assert_eq!(snapshot.lanes[0].depth, 2, "the lane's ring is not drained further");
        assert_eq!(behind.outcome(), None);

        holds.open("a0");
        all_done(&a);
        all_done([&behind]);
        let starts: Vec<_> =
            (0..5).flat_map(|i| [format!("a{i} starts"), format!("a{i} ends")]).collect();
        assert_eq!(log.of("a"), starts);
        settle(&runtime);
        assert!(runtime.snapshot().bounds.is_empty());
    });
}

/// The bound of `lane_waiting`.
// convict: whole_lane_waits
#[test]
fn busy_keys_hold_their_lane_up_once_its_gate_holds_as_many_records_as_may() {
    each_shape(|shape| {
        let runtime = Runtime::builder().config(shape.config().lane_waiting(3)).build().unwrap();
        let keys = shape.keys_of(0, 4);
        let names = ["a", "b", "c"];
        let (holds, log) = (Holds::new(&names), Log::default());
        let orders = runtime.subscribe_handler(Subscription::new("o"), held(&holds, &log)).unwrap();
        let held: Vec<_> =
            names.iter().zip(&keys).take(2).map(|(name, key)| submit(&orders, key, name)).collect();
        all_done([&submit(&orders, &keys[3], "free")]);
        let third = submit(&orders, &keys[2], "c");
        let behind = submit(&orders, &keys[3], "d");
        settle(&runtime);
        let snapshot = runtime.snapshot();
        let [used] = &snapshot.bounds[..] else { panic!("{:?}", snapshot.bounds) };
        assert_eq!((used.bound, used.lane), (Bound::LaneWaiting, Some(0)));
        for key in &keys[..3] {
            assert_eq!(busy(&snapshot, key).bound, Some(Bound::LaneWaiting));
        }
        assert_eq!((snapshot.lanes[0].held, snapshot.lanes[0].depth), (3, 1));
        assert!(!log.has("d starts"));

        holds.open("b");
        all_done([&held[1], &behind]);
        assert_eq!((held[0].outcome(), third.outcome()), (None, None));
        settle(&runtime); // what a lane holds is told at the end of a visit
        assert!(runtime.snapshot().bounds.is_empty());
        holds.open("a");
        holds.open("c");
        all_done([&held[0], &third]);
    });
}

/// A full ring behind a used-up bound is backpressure: a handler that submits to its own lane gets its record
/// back, without waiting for itself.
// convict: whole_lane_waits
#[test]
fn a_handler_that_submits_to_its_own_full_lane_gets_the_record_back() {
    each_shape(|shape| {
        let config = shape.config().slots(2).wait(Duration::from_secs(3_600));
        let runtime = Runtime::builder().config(config).build().unwrap();
        let keys = shape.keys_of(0, 3);
        let holds = Holds::new(&["held", "full"]);
        let own = Arc::new(Mutex::new(None::<keylane::Subscriber>));
        let said = Arc::new(Mutex::new(Vec::new()));
        let hold = holds.handle();
        let (itself, heard) = (own.clone(), said.clone());
        let orders = runtime
            .subscribe_async(Subscription::new("o"), move |record: RecordRef| {
                let (hold, name) = (hold.clone(), name_of(&record));
                if name == "asks" {
                    // Sync code within the handler, on the worker: the test fills the lane meanwhile.
                    hold.block("full");
                    let orders = itself.lock().clone().unwrap();
                    let key = record.key().unwrap().to_vec();
                    let mut heard = heard.lock();
                    heard.push(orders.submit(Record::new(&key, "more")).map_err(|e| e.refusal()));
                    heard.push(orders.submit(Record::new(&key, "more")).map_err(|e| e.refusal()));
                    heard.push(orders.submit(Record::new(&key, "over")).map_err(|e| e.refusal()));
                }
                async move {
                    hold.pass(&name).await;
                    Ok(())
                }
            })
            .unwrap();
        *own.lock() = Some(orders.clone());
        let held = submit(&orders, &keys[0], "held");
        let asks = submit(&orders, &keys[1], "asks");
        holds.open("full");
        all_done([&asks]);
        assert_eq!(*said.lock(), [Ok(()), Ok(()), Err(keylane::Refusal::Full)]);
        all_done([&submit(&orders, &keys[1], "later")]);
        holds.open("held");
        all_done([&held]);
        *own.lock() = None;
    });
}

/// Wakes from other threads, many at once and late ones, are as good as one: the future ends once, and
/// nobody else is polled for it.
// convict: whole_lane_waits
#[test]
fn a_storm_of_wakes_ends_a_future_once() {
    each_shape(|shape| {
        let (runtime, keys) = (shape.runtime(), shape.keys_of(0, 3));
        let wakers = Arc::new(Mutex::new(Vec::<Waker>::new()));
        let (polls, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (kept, polled, ended_) = (wakers.clone(), polls.clone(), ends.clone());
        let orders = runtime
            .subscribe_async(Subscription::new("o"), move |record: RecordRef| {
                let (kept, polled, ends) = (kept.clone(), polled.clone(), ended_.clone());
                let stormed = name_of(&record) == "storm";
                let mut left = 200;
                poll_fn(move |cx| {
                    if !stormed {
                        return Poll::Ready(Ok(()));
                    }
                    polled.fetch_add(1, Ordering::Relaxed);
                    left -= 1;
                    if left == 0 {
                        ends.fetch_add(1, Ordering::Relaxed);
                        return Poll::Ready(Ok(()));
                    }
                    kept.lock().push(cx.waker().clone());
                    Poll::Pending
                })
            })
            .unwrap();
        let storm = [submit(&orders, &keys[0], "storm"), submit(&orders, &keys[1], "storm")];
        all_done([&submit(&orders, &keys[2], "b")]);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while storm.iter().any(|receipt| receipt.outcome().is_none()) {
                        let wakers = wakers.lock().clone();
                        wakers.iter().for_each(Waker::wake_by_ref);
                        std::thread::yield_now();
                    }
                });
            }
        });
        all_done(&storm);
        let others: Vec<_> = (0..100).map(|_| submit(&orders, &keys[2], "b")).collect();
        wakers.lock().iter().for_each(Waker::wake_by_ref); // long after their futures' end
        all_done(&others);
        settle(&runtime);
        assert_eq!((polls.load(Ordering::Relaxed), ends.load(Ordering::Relaxed)), (400, 2));
        drop((orders, runtime));
        wakers.lock().drain(..).for_each(Waker::wake); // and after the runtime's
    });
}
