//! Subscriptions that come, change and go while their records are queued, running, pending or waiting.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "testing", feature = "internals"))]

#[path = "support/dispatch.rs"]
mod dispatch;
#[path = "support/lifecycle.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use keylane::testing::{VirtualClock, settle};
use keylane::{
    Handler, HandlerError, Record, Refusal, Retry, Runtime, SubscribeError, Subscriber,
    Subscription, SwapError, WaitError,
};
use parking_lot::Mutex;
use support::*;

const SECOND: Duration = Duration::from_secs(1);

fn retry() -> Retry {
    Retry::fixed(60 * SECOND).forever()
}

#[test]
fn a_name_is_taken_until_it_is_removed() {
    let runtime = narrow(10).build().unwrap();
    let (first, second) = (Log::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), first.handler()).unwrap();
    let again = runtime.subscribe(Subscription::new("s"), second.handler());
    assert_eq!(again.unwrap_err(), SubscribeError::AlreadySubscribed("s".into()));
    subscriber.submit(numbered("k", 1)).unwrap();
    settle(&runtime);
    assert!(subscriber.remove().wait().unwrap().is_empty());
    assert_eq!(subscriber.submit(numbered("k", 2)).unwrap_err().refusal(), Refusal::Stopped);
    let subscriber = runtime.subscribe(Subscription::new("s"), second.handler()).unwrap();
    subscriber.submit(numbered("k", 3)).unwrap();
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!((first.numbers(), second.numbers()), (vec![1], vec![3]));
}

#[test]
fn several_subscriptions_share_a_runtime_and_a_key() {
    let runtime = narrow(10).build().unwrap();
    let logs = [Log::new(), Log::new()];
    let [a, b] = ["a", "b"].map(|name| {
        let log = &logs[usize::from(name == "b")];
        runtime.subscribe(Subscription::new(name), log.handler()).unwrap()
    });
    a.submit(numbered("k", 1)).unwrap();
    b.submit(numbered("k", 2)).unwrap();
    assert_eq!((a.name(), b.name()), ("a", "b"));
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!(logs.map(|log| log.numbers()), [[1], [2]]);
}

#[test]
fn a_swap_is_in_force_for_what_is_queued_and_waits_for_what_runs() {
    let runtime = narrow(10).build().unwrap();
    let (door, old, new) = (Door::new(), Log::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), old.behind(&door)).unwrap();
    subscriber.submit(numbered("k", 1)).unwrap();
    door.wait_for(1);
    let swap = subscriber.swap(Handler::sync(new.handler()));
    let running = SwapError::StillRunning { workers: 1, attempts: 0 };
    assert_eq!(swap.wait_timeout(Duration::from_millis(5)), Err(running));
    assert_eq!(swap.wait_timeout(Duration::ZERO), Err(running));
    door.open();
    swap.wait().unwrap();
    let before = old.numbers();
    // After the wait the old handler runs no more.
    (2..6).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!((before, old.numbers(), new.numbers()), (vec![1], vec![1], vec![2, 3, 4, 5]));
}

// convict: whole_lane_waits
#[test]
fn a_swap_waits_for_pending_and_blocking_attempts() {
    dispatch::each_shape(|shape| {
        let runtime = shape.runtime();
        let (door, flag, new) = (Door::new(), Flag::new(), Log::new());
        let at_door = door.clone();
        let blocking = runtime
            .subscribe_blocking(Subscription::new("blocking"), move |_| {
                at_door.pass();
                Ok(())
            })
            .unwrap();
        let at_flag = flag.clone();
        let pending = runtime
            .subscribe_async(Subscription::new("async"), move |_| {
                let raised = at_flag.wait();
                async {
                    raised.await;
                    Ok(())
                }
            })
            .unwrap();
        let keys = [0, 1].map(|nth| shape.keys_of(nth, 2));
        blocking.submit(numbered(&keys[0][0], 0)).unwrap();
        pending.submit(numbered(&keys[1][0], 0)).unwrap();
        door.wait_for(1);
        settle(&runtime);
        for (handled, subscriber, keys, release) in [
            (1, &blocking, &keys[0], Box::new(|| door.open()) as Box<dyn Fn()>),
            (2, &pending, &keys[1], Box::new(|| flag.raise())),
        ] {
            let swap = subscriber.swap(Handler::sync(new.handler()));
            let running = SwapError::StillRunning { workers: 0, attempts: 1 };
            assert_eq!(swap.wait_timeout(Duration::from_millis(50)), Err(running));
            subscriber.submit(numbered(&keys[1], 1)).unwrap();
            settle(&runtime);
            assert_eq!(new.numbers().len(), handled, "the new one runs beside it");
            // An attempt of a version before the one that is replaced is waited for as well.
            let again = subscriber.swap(Handler::sync(new.handler()));
            assert_eq!(again.wait_timeout(Duration::from_millis(50)), Err(running));
            release();
            block_on(swap).unwrap();
            again.wait().unwrap();
        }
        assert!(runtime.close(HANG).unwrap().drained);
    });
}

// convict: whole_lane_waits
#[test]
fn what_waits_to_be_tried_again_gets_the_new_handler() {
    dispatch::each_shape(|shape| {
        let clock = VirtualClock::new();
        let builder = Runtime::builder().config(shape.config());
        let runtime = builder.clock(clock.clone()).build().unwrap();
        let new = Log::new();
        let subscriber = runtime
            .subscribe(Subscription::new("s").retry(retry()), |_: &Record| {
                Err(HandlerError::retryable("no"))
            })
            .unwrap();
        let keys = shape.keys_of(0, 2);
        (0..3).for_each(|n| subscriber.submit(numbered(&keys[0], n)).unwrap());
        settle(&runtime);
        let swap = subscriber.swap(Handler::sync(new.handler()));
        swap.wait().unwrap();
        subscriber.submit(numbered(&keys[1], 9)).unwrap();
        settle(&runtime);
        assert_eq!(new.numbers(), [9], "another key's");
        clock.advance(60 * SECOND);
        settle(&runtime);
        assert_eq!(new.numbers(), [9, 0, 1, 2]);
        runtime.stop_now();
    });
}

#[test]
fn a_swap_of_what_is_gone_says_so() {
    let runtime = narrow(10).build().unwrap();
    let subscriber = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
    drop(subscriber.remove());
    let nothing = || Handler::sync(|_| Ok(()));
    assert_eq!(subscriber.swap(nothing()).wait(), Err(SwapError::Removed));
    assert_eq!(block_on(subscriber.swap(nothing())), Err(SwapError::Removed));
    // A removal of what is gone ends all the same.
    assert!(subscriber.remove().wait().unwrap().is_empty());
}

/// Calls `inside` in a handler of each kind, with the subscriber, and waits for its end.
fn inside_each_kind(inside: impl Fn(&Subscriber) + Send + Sync + Clone + 'static) {
    for kind in 0..3 {
        let runtime = narrow(10).build().unwrap();
        let own: Arc<Mutex<Option<Subscriber>>> = Arc::default();
        let (cell, inside) = (own.clone(), inside.clone());
        let run = Arc::new(move || {
            if let Some(subscriber) = cell.lock().take() {
                inside(&subscriber);
            }
        });
        let handler = match kind {
            0 => Handler::sync(move |_| {
                run();
                Ok(())
            }),
            1 => Handler::future(move |_| {
                let run = run.clone();
                async move {
                    run();
                    Ok(())
                }
            }),
            _ => Handler::blocking(move |_| {
                run();
                Ok(())
            }),
        };
        let subscriber = runtime.subscribe_handler(Subscription::new("s"), handler).unwrap();
        *own.lock() = Some(subscriber.clone());
        let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
        assert!(receipt.wait().unwrap().is_done(), "kind {kind}");
        assert!(runtime.close(HANG).unwrap().running.is_empty());
    }
}

#[test]
fn swap_inside_a_handler_does_not_wait_for_itself() {
    inside_each_kind(|subscriber| {
        let swap = subscriber.swap(Handler::sync(|_| Ok(())));
        assert_eq!(swap.wait_timeout(LONG), Err(SwapError::WouldDeadlock));
        assert_eq!(swap.wait(), Err(SwapError::WouldDeadlock));
    });
    inside_each_kind(|subscriber| {
        let awaited = block_on(subscriber.swap(Handler::sync(|_| Ok(()))));
        assert_eq!(awaited, Err(SwapError::WouldDeadlock));
    });
}

#[test]
fn remove_inside_a_handler_does_not_wait_for_itself() {
    inside_each_kind(|subscriber| {
        let mut removal = subscriber.remove();
        assert_eq!(removal.wait_timeout(LONG).unwrap_err(), WaitError::WouldDeadlock);
        assert_eq!(removal.wait().unwrap_err(), WaitError::WouldDeadlock);
    });
    inside_each_kind(|subscriber| {
        assert_eq!(block_on(subscriber.remove()).unwrap_err(), WaitError::WouldDeadlock);
    });
    inside_each_kind(|subscriber| {
        assert_eq!(subscriber.close(LONG).wait().unwrap_err(), WaitError::WouldDeadlock);
    });
}

#[test]
fn swaps_from_many_threads_leave_one_handler() {
    let runtime = narrow(100).wait(HANG).workers(2).build().unwrap();
    let counts: Arc<[AtomicUsize; 4]> = Arc::default();
    let counting = |n: usize| {
        let counts = counts.clone();
        Handler::sync(move |_| {
            counts[n].fetch_add(1, SeqCst);
            Ok(())
        })
    };
    let subscriber = runtime.subscribe_handler(Subscription::new("s"), counting(0)).unwrap();
    thread::scope(|scope| {
        for n in 0..4 {
            let (subscriber, counting) = (&subscriber, &counting);
            scope.spawn(move || {
                for _ in 0..50 {
                    subscriber.swap(counting(n)).wait().unwrap();
                    subscriber.submit(numbered("k", 0)).unwrap();
                }
            });
        }
    });
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!(counts.iter().map(|count| count.load(SeqCst)).sum::<usize>(), 200);
}

#[test]
fn a_removal_returns_what_waits_in_rings_and_gates() {
    let clock = VirtualClock::new();
    let runtime = Runtime::builder()
        .lanes(64)
        .workers(1)
        .clock(clock.clone())
        .on_notice(|_| ())
        .build()
        .unwrap();
    let subscriber = runtime
        .subscribe(Subscription::new("s").retry(retry()), |_: &Record| {
            Err(HandlerError::retryable("no"))
        })
        .unwrap();
    // In every lane a key that waits to be tried again, and records behind it.
    for n in 0..600 {
        subscriber.submit(numbered(&format!("key-{}", n % 200), n)).unwrap();
    }
    settle(&runtime);
    let mut back = numbers(&subscriber.remove().wait().unwrap());
    back.sort_unstable();
    assert_eq!(back, (0..600).collect::<Vec<_>>());
    settle(&runtime); // what a lane holds is told at the end of a visit
    let snapshot = runtime.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.subscriptions.len()), (0, 0));
    runtime.stop_now();
    assert!(runtime.close(HANG).unwrap().records.is_empty(), "given back once");
}

#[test]
fn a_removal_waits_for_pending_attempts_and_tells_when_its_time_is_over() {
    let runtime = narrow(10).build().unwrap();
    let flag = Flag::new();
    let at_flag = flag.clone();
    let subscriber = runtime
        .subscribe_async(Subscription::new("s"), move |_| {
            let raised = at_flag.wait();
            async {
                raised.await;
                Ok(())
            }
        })
        .unwrap();
    (0..3).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    settle(&runtime);
    let mut removal = subscriber.remove();
    assert_eq!(removal.wait_timeout(Duration::from_millis(20)).unwrap_err(), WaitError::TimedOut);
    flag.raise();
    assert_eq!(numbers(&block_on(removal).unwrap()), [1, 2]);
    assert_eq!(runtime.snapshot().outcomes.done, 1);
    runtime.close(HANG).unwrap();
}

#[test]
fn a_subscription_closes_after_what_is_queued() {
    let runtime = narrow(100).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    (0..20).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    door.wait_for(1);
    let closing = subscriber.close(HANG);
    assert_eq!(subscriber.submit(numbered("k", 20)).unwrap_err().refusal(), Refusal::Stopped);
    door.open();
    assert!(closing.wait().unwrap().is_empty());
    assert_eq!(log.numbers(), (0..20).collect::<Vec<_>>());
    assert!(runtime.snapshot().subscriptions.is_empty());
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn a_subscriptions_close_is_a_removal_once_its_time_is_over() {
    let clock = VirtualClock::new();
    let runtime = narrow(100).clock(clock.clone()).build().unwrap();
    let subscriber =
        runtime.subscribe_async(Subscription::new("s"), |_| std::future::pending()).unwrap();
    let failing = runtime
        .subscribe(Subscription::new("f").retry(retry()), |_: &Record| {
            Err(HandlerError::retryable("no"))
        })
        .unwrap();
    (0..3).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    (3..6).for_each(|n| failing.submit(numbered("k", n)).unwrap());
    settle(&runtime);
    let removals = [subscriber.close(5 * SECOND), failing.close(5 * SECOND)];
    let waiters = removals.map(|removal| thread::spawn(|| removal.wait().unwrap()));
    until("both wait", || clock.next_deadline().is_some());
    clock.advance(5 * SECOND);
    let back = waiters.map(|waiter| {
        let mut back = numbers(&waiter.join().unwrap());
        back.sort_unstable();
        back
    });
    assert_eq!(back, [[0, 1, 2], [3, 4, 5]], "the pending one was cancelled, the others released");
    runtime.stop_now();
}

#[test]
fn a_removal_whose_runtime_closes_meanwhile_does_not_hang() {
    for _ in 0..50 {
        let runtime = narrow(100).workers(2).build().unwrap();
        let log = Log::new();
        let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
        (0..50).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
        let removal = thread::spawn(move || subscriber.close(HANG).wait().unwrap());
        let report = runtime.close(Duration::ZERO).unwrap();
        let back = removal.join().unwrap();
        let mut all = log.numbers();
        all.extend(numbers(&back));
        all.extend(numbers(report.records.iter().map(|(_, record)| record)));
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}

#[test]
fn submits_that_meet_a_removal_are_handled_or_come_back() {
    for _ in 0..30 {
        let runtime = narrow(16).workers(2).wait(HANG).build().unwrap();
        let log = Log::new();
        let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
        let refused = Mutex::new(Vec::new());
        let mut back = Vec::new();
        thread::scope(|scope| {
            for producer in 0..2u64 {
                let (subscriber, refused, log) = (&subscriber, &refused, &log);
                scope.spawn(move || {
                    for n in 0..500 {
                        let n = producer * 500 + n;
                        if let Err(error) = subscriber.submit(numbered("k", n)) {
                            assert_eq!(error.refusal(), Refusal::Stopped);
                            refused.lock().push(number(&error.into_record()));
                        }
                        let _ = log;
                    }
                });
            }
            until("some are handled", || log.len() > 100);
            back = subscriber.remove().wait().unwrap();
        });
        let report = runtime.close(HANG).unwrap();
        let mut all = log.numbers();
        all.extend(refused.into_inner());
        all.extend(numbers(&back));
        // What was pushed while it was removed comes back at the end.
        all.extend(numbers(report.records.iter().map(|(_, record)| record)));
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    }
}

#[test]
fn a_thousand_subscriptions_come_and_go_in_constant_memory() {
    let runtime = narrow(10).build().unwrap();
    for n in 0..1_000 {
        let log = Log::new();
        let name = format!("topic-{n}");
        let subscriber = runtime.subscribe(Subscription::new(name), log.handler()).unwrap();
        subscriber.submit(numbered("k", n)).unwrap();
        // Handled or given back, and gone in any case.
        let back = subscriber.remove().wait().unwrap();
        assert_eq!(log.len() + back.len(), 1);
    }
    settle(&runtime); // what a lane holds is told at the end of a visit
    let snapshot = runtime.snapshot();
    assert_eq!((snapshot.subscriptions.len(), snapshot.in_flight, snapshot.busy.len()), (0, 0, 0));
    assert_eq!(snapshot.lanes.len(), 1);
    assert_eq!(snapshot.lanes[0].handled, 1_000);
    assert!(runtime.close(HANG).unwrap().drained, "all was fetched");
}

#[test]
fn many_subscriptions_share_the_lanes() {
    let runtime = Runtime::builder().lanes(8).workers(1).on_notice(|_| ()).build().unwrap();
    let log = Log::new();
    let subscribers: Vec<_> = (0..300)
        .map(|n| runtime.subscribe(Subscription::new(format!("t{n}")), log.handler()).unwrap())
        .collect();
    for (n, subscriber) in (0..).zip(&subscribers) {
        subscriber.submit(numbered("k", n)).unwrap();
    }
    assert_eq!(runtime.snapshot().lanes.len(), 8);
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!(log.len(), 300);
}

/// A handler that is not taken is dropped where its drop may use the runtime.
#[test]
fn a_refused_handler_whose_drop_asks_the_runtime_does_not_hang_it() {
    struct Asks(Runtime);
    impl Drop for Asks {
        fn drop(&mut self) {
            drop(self.0.snapshot());
        }
    }
    let runtime = Runtime::builder().workers(1).build().unwrap();
    let first = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
    let asks = Asks(runtime.clone());
    let again = runtime.subscribe(Subscription::new("s"), move |_: &Record| {
        let _ = &asks;
        Ok(())
    });
    assert!(again.is_err());
    drop(first.remove());
    let asks = Asks(runtime.clone());
    let swapped = first.swap(Handler::sync(move |_: &Record| {
        let _ = &asks;
        Ok(())
    }));
    assert!(swapped.wait().is_err());
    runtime.stop_now();
}
