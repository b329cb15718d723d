//! The end of a runtime: nothing lost, nothing hanging, from any thread, at any time.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "testing", feature = "internals"))]

#[path = "support/dispatch.rs"]
mod dispatch;
#[path = "support/lifecycle.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use keylane::testing::{VirtualClock, settle};
use keylane::{
    Clock, Config, Handler, HandlerError, Letter, Notice, Phase, Record, Refusal, Report, Retry,
    Runtime, SubscribeError, Subscriber, Subscription, SwapError, Time, WaitError,
};
use parking_lot::Mutex;
use support::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn back(report: &Report) -> Vec<u64> {
    let mut back = numbers(report.records.iter().map(|(_, record)| record));
    back.sort_unstable();
    back
}

#[test]
fn close_handles_what_is_queued_and_refuses_what_comes() {
    let runtime = narrow(100).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    (0..50).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    door.wait_for(1);
    let closing = runtime.close_async(HANG);
    assert_eq!(runtime.snapshot().phase, Phase::Closing);
    let refused = subscriber.submit(numbered("k", 50)).unwrap_err();
    assert_eq!((refused.refusal(), number(&refused.into_record())), (Refusal::Closed, 50));
    assert_eq!(
        runtime.subscribe(Subscription::new("t"), |_: &Record| Ok(())).unwrap_err(),
        SubscribeError::Closed
    );
    door.open();
    let report = block_on(closing);
    assert!(report.drained && report.records.is_empty() && report.running.is_empty());
    assert_eq!((report.unreachable, report.abandoned), (0, 0));
    assert_eq!(log.numbers(), (0..50).collect::<Vec<_>>());
    assert_eq!(runtime.snapshot().phase, Phase::Stopped);
}

#[test]
fn close_is_the_same_from_many_threads_at_once() {
    for _ in 0..20 {
        let runtime = narrow(100).workers(2).build().unwrap();
        let log = Log::new();
        let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
        (0..50).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
        thread::scope(|scope| {
            for n in 0..6 {
                let (runtime, subscriber) = (&runtime, &subscriber);
                scope.spawn(move || {
                    let report = match n % 3 {
                        0 => runtime.close(HANG).unwrap(),
                        1 => block_on(runtime.close_async(HANG)),
                        _ => {
                            let closing = runtime.close_async(HANG);
                            let refused = subscriber.try_submit(numbered("k", 99)).unwrap_err();
                            assert_eq!(refused.refusal(), Refusal::Closed);
                            closing.wait().unwrap()
                        }
                    };
                    assert!(report.drained, "{report:?}");
                });
            }
        });
        assert_eq!(log.len(), 50);
    }
}

#[test]
fn concurrent_submitters_lose_nothing() {
    for round in 0..20 {
        let runtime = narrow(8).workers(2).wait(HANG).build().unwrap();
        let log = Log::new();
        let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
        let refused = Mutex::new(Vec::new());
        let report = Mutex::new(None);
        thread::scope(|scope| {
            for producer in 0..3u64 {
                let (subscriber, refused) = (&subscriber, &refused);
                scope.spawn(move || {
                    for n in 0..300 {
                        let record = numbered("k", producer * 300 + n);
                        let error = match n % 3 {
                            0 => subscriber.submit(record).err(),
                            1 => block_on(subscriber.submit_async(record)).err(),
                            _ => {
                                let mut batch = vec![record];
                                let result = subscriber.submit_batch(&mut batch);
                                assert_eq!(result.is_err(), !batch.is_empty());
                                refused.lock().extend(numbers(&batch));
                                None
                            }
                        };
                        if let Some(error) = error {
                            assert_eq!(error.refusal(), Refusal::Closed);
                            refused.lock().push(number(&error.into_record()));
                        }
                    }
                });
            }
            until("some are handled", || log.len() > 100);
            let timeout = if round % 2 == 0 { HANG } else { Duration::ZERO };
            *report.lock() = Some(runtime.close(timeout).unwrap());
        });
        let report = report.into_inner().unwrap();
        let mut all = log.numbers();
        all.extend(refused.into_inner());
        all.extend(back(&report));
        all.sort_unstable();
        assert_eq!(all, (0..900).collect::<Vec<_>>(), "{report:?}");
        assert_eq!(report.drained, report.records.is_empty());
    }
}

#[test]
fn hung_handlers_are_left_behind_and_named() {
    // One worker, no spare: nobody is left to drain the lanes.
    let runtime = narrow(100).lanes(4).build().unwrap();
    let (door, blocks, cancelled) = (Door::new(), Door::new(), Arc::new(AtomicBool::new(false)));
    let hang = blocks.clone();
    let blocking = runtime
        .subscribe_blocking(Subscription::new("blocking"), move |_| {
            hang.pass();
            Ok(())
        })
        .unwrap();
    struct Sets(Arc<AtomicBool>);
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let sets = cancelled.clone();
    let pending = runtime
        .subscribe_async(Subscription::new("async"), move |_| {
            let sets = Sets(sets.clone());
            async move {
                std::future::pending::<()>().await;
                drop(sets);
                Ok(())
            }
        })
        .unwrap();
    let hang = door.clone();
    let sync = runtime
        .subscribe(Subscription::new("sync"), move |_: &Record| {
            hang.pass();
            Ok(())
        })
        .unwrap();
    blocking.submit(numbered("b", 0)).unwrap();
    pending.submit(numbered("a", 1)).unwrap();
    blocks.wait_for(1);
    settle(&runtime);
    sync.submit(numbered("s", 2)).unwrap();
    door.wait_for(1);
    (3..9).for_each(|n| sync.submit(numbered(&format!("other-{n}"), n)).unwrap());
    let begun = Instant::now();
    let report = runtime.close(10 * MS).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!report.drained);
    let mut named: Vec<_> =
        report.running.iter().map(|left| (left.subscription.as_str(), left.blocking)).collect();
    named.sort_unstable();
    assert_eq!(named, [("blocking", true), ("sync", false)]);
    assert!(report.running.iter().any(|left| left.key.as_deref() == Some(b"s")));
    assert_eq!(
        report.running.iter().find(|l| l.blocking).unwrap().to_string(),
        "a blocking handler of \"blocking\" with key b"
    );
    // What the hung handler's own lane held may be out of reach, and only that.
    let mut all = back(&report);
    assert!(cancelled.load(SeqCst) || all.len() < 8, "{report:?}");
    // The blocking handler hangs on: in the same lane it would else be done, or given back, whichever comes first.
    door.open();
    until("the rest is back", || {
        all.extend(back(&runtime.close(HANG).unwrap()));
        all.len() == 8
    });
    all.sort_unstable();
    assert_eq!(all, [0, 1, 3, 4, 5, 6, 7, 8], "all but the one in the sync handler");
    assert!(cancelled.load(SeqCst));
    blocks.open();
}

#[test]
fn close_never_hangs_with_all_workers_and_spares_hung() {
    let config = Config::default().spares(2);
    let runtime =
        Runtime::builder().config(config).lanes(16).workers(1).on_notice(|_| ()).build().unwrap();
    let door = Door::new();
    let hang = door.clone();
    let subscriber = runtime
        .subscribe(Subscription::new("s"), move |_: &Record| {
            hang.pass();
            Ok(())
        })
        .unwrap();
    (0..200).for_each(|n| subscriber.submit(numbered(&format!("k{n}"), n)).unwrap());
    door.wait_for(3);
    let report = runtime.close(10 * MS).unwrap();
    assert_eq!(report.running.len(), 3);
    assert_eq!(report.records.len() + report.unreachable + 3, 200);
    assert!(report.records.len() > 100, "the closer went to lanes that nobody was in");
    door.open();
}

// convict: whole_lane_waits
#[test]
fn retries_are_given_up_at_once_and_no_successor_runs() {
    dispatch::each_shape(|shape| {
        let clock = VirtualClock::new();
        let runtime = Runtime::builder().config(shape.config()).clock(clock).build().unwrap();
        let log = Log::new();
        let seen = log.clone();
        let policy = Subscription::new("s").retry(Retry::fixed(60 * SECOND).forever());
        let subscriber = runtime
            .subscribe(policy, move |record: &Record| {
                seen.push(number(record));
                if number(record) == 1 { Ok(()) } else { Err(HandlerError::retryable("no")) }
            })
            .unwrap();
        let keys = shape.keys_of(0, 2);
        let (bad, good) = (&keys[0], &keys[1]);
        subscriber.submit(numbered(bad, 0)).unwrap();
        subscriber.submit(numbered(good, 1)).unwrap();
        (2..5).for_each(|n| subscriber.submit(numbered(bad, n)).unwrap());
        settle(&runtime);
        assert_eq!(
            log.numbers(),
            [0, 1],
            "what waits to be tried again holds up its own key alone"
        );
        // The clock stands still: nothing but the close itself ends the wait.
        let report = runtime.close(LONG).unwrap();
        assert_eq!(log.numbers(), [0, 1]);
        assert_eq!(numbers(report.records.iter().map(|(_, r)| r)), [0, 2, 3, 4], "in order");
        assert!(!report.drained);
        assert_eq!(report.abandoned, 4);
    });
}

#[test]
fn what_fails_while_closing_is_not_tried_again() {
    let runtime = narrow(100).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let (hang, seen) = (door.clone(), log.clone());
    let policy = Subscription::new("s").retry(Retry::fixed(Duration::ZERO).forever());
    let subscriber = runtime
        .subscribe(policy, move |record: &Record| {
            seen.push(number(record));
            hang.pass();
            Err(HandlerError::retryable("no"))
        })
        .unwrap();
    (0..3).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    door.wait_for(1);
    let closing = runtime.close_async(HANG);
    door.open();
    let report = closing.wait().unwrap();
    assert_eq!((log.numbers(), back(&report)), (vec![0], vec![0, 1, 2]));
}

#[test]
fn a_dead_letter_that_is_not_taken_is_given_up() {
    let clock = VirtualClock::new();
    let runtime = narrow(100).clock(clock).build().unwrap();
    let policy = Subscription::new("s")
        .dead_letter_to(|_: &Letter| Err(HandlerError::retryable("the letter box is shut")));
    let subscriber =
        runtime.subscribe(policy, |_: &Record| Err(HandlerError::retryable("no"))).unwrap();
    let receipts = [0, 1].map(|n| subscriber.submit_tracked(numbered("k", n)).unwrap());
    settle(&runtime);
    let report = runtime.close(LONG).unwrap();
    assert_eq!(back(&report), [0, 1]);
    for receipt in receipts {
        assert_eq!(receipt.wait(), Ok(keylane::Outcome::Abandoned));
    }
}

#[test]
fn close_inside_a_handler_begins_and_returns() {
    for kind in 0..3 {
        let runtime = narrow(100).build().unwrap();
        let said = Arc::new(Mutex::new(None));
        let (own, cell) = (Mutex::new(Some(runtime.clone())), said.clone());
        let close = Arc::new(move || {
            if let Some(runtime) = own.lock().take() {
                *cell.lock() = Some(runtime.close(HANG).unwrap_err());
            }
        });
        let handler = match kind {
            0 => Handler::sync(move |_| {
                close();
                Ok(())
            }),
            1 => Handler::future(move |_| {
                let close = close.clone();
                async move {
                    close();
                    Ok(())
                }
            }),
            _ => Handler::blocking(move |_| {
                close();
                Ok(())
            }),
        };
        let subscriber = runtime.subscribe_handler(Subscription::new("s"), handler).unwrap();
        let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
        assert!(receipt.wait().unwrap().is_done());
        assert_eq!(*said.lock(), Some(WaitError::WouldDeadlock));
        assert!(runtime.close(HANG).unwrap().drained);
        assert_eq!(subscriber.submit(numbered("k", 1)).unwrap_err().refusal(), Refusal::Closed);
    }
}

#[test]
fn a_close_of_zero_gives_back_what_is_queued() {
    let runtime = narrow(100).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    (0..10).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    door.wait_for(1);
    let closing = runtime.close_async(Duration::ZERO);
    assert_eq!(runtime.snapshot().phase, Phase::Stopped);
    // The handler ends in time: it frees its lane, and all of it comes back.
    door.open();
    let report = closing.wait().unwrap();
    assert_eq!((log.numbers(), back(&report)), (vec![0], (1..10).collect()));
    assert_eq!((report.unreachable, report.running.len()), (0, 0));
}

#[test]
fn a_close_of_zero_of_an_idle_runtime_has_drained() {
    let runtime = narrow(100).build().unwrap();
    assert!(runtime.close(Duration::ZERO).unwrap().drained);
    let runtime = narrow(100).build().unwrap();
    runtime.stop_now();
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn nothing_starts_after_stop_now() {
    for lanes in [1, 16] {
        let runtime = narrow(100).lanes(lanes).build().unwrap();
        let (door, log) = (Door::new(), Log::new());
        let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
        (0..60).for_each(|n| subscriber.submit(numbered(&format!("k{n}"), n)).unwrap());
        door.wait_for(1);
        runtime.stop_now();
        door.open();
        let report = runtime.close(HANG).unwrap();
        assert_eq!(log.len(), 1, "only the one that ran");
        assert_eq!(report.records.len(), 59);
    }
}

#[test]
fn a_second_close_brings_the_deadline_forward() {
    let clock = VirtualClock::new();
    let runtime = narrow(100).clock(clock.clone()).build().unwrap();
    let subscriber =
        runtime.subscribe_async(Subscription::new("s"), |_| std::future::pending()).unwrap();
    subscriber.submit(numbered("k", 0)).unwrap();
    settle(&runtime);
    let first = {
        let runtime = runtime.clone();
        thread::spawn(move || runtime.close(LONG).unwrap())
    };
    until("it closes", || runtime.snapshot().phase == Phase::Closing);
    // Later than the first: changes nothing.
    drop(runtime.close_async(2 * LONG));
    let second = runtime.close_async(5 * SECOND);
    clock.advance(5 * SECOND);
    let reports = [first.join().unwrap(), second.wait().unwrap()];
    assert_eq!(reports.iter().map(|report| report.records.len()).sum::<usize>(), 1);
    assert!(reports.iter().all(|report| !report.drained && report.abandoned == 1));
}

#[test]
fn the_last_handle_that_is_dropped_stops_it_and_says_so() {
    let said = Arc::new(AtomicUsize::new(0));
    let count = said.clone();
    let runtime = narrow(100)
        .on_notice(move |notice| {
            if *notice == Notice::Dropped {
                count.fetch_add(1, SeqCst);
            }
        })
        .build()
        .unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    let receipts = [0, 1, 2].map(|n| subscriber.submit_tracked(numbered("k", n)).unwrap());
    door.wait_for(1);
    let other = runtime.clone();
    drop(runtime);
    assert_eq!(said.load(SeqCst), 0, "there is another handle");
    drop(other);
    assert_eq!(said.load(SeqCst), 1);
    door.open();
    assert!(receipts[0].wait().is_ok());
    assert_eq!(receipts[1].wait(), Ok(keylane::Outcome::Abandoned));
    assert_eq!(receipts[2].wait(), Ok(keylane::Outcome::Abandoned));
    assert_eq!(subscriber.submit(numbered("k", 3)).unwrap_err().refusal(), Refusal::Closed);
    assert_eq!(log.numbers(), [0]);
}

#[test]
fn a_closed_runtime_lets_its_handlers_go() {
    let runtime = narrow(100).build().unwrap();
    let kept = Arc::new(());
    let first = {
        let kept = kept.clone();
        runtime
            .subscribe(Subscription::new("first"), move |_: &Record| {
                let _ = &kept;
                Ok(())
            })
            .unwrap()
    };
    // A handler that holds a handle to another subscription, as every pipeline does.
    let next: Subscriber = first.clone();
    let own = kept.clone();
    let second = runtime
        .subscribe(Subscription::new("second"), move |_: &Record| {
            let _ = (&next, &own);
            Ok(())
        })
        .unwrap();
    assert!(runtime.close(HANG).unwrap().drained);
    drop((runtime, first, second));
    until("handlers are let go", || Arc::strong_count(&kept) == 1);
}

#[test]
fn a_handler_that_closes_the_runtime_it_alone_keeps() {
    // The last handle of a runtime goes inside one of its own handlers.
    let runtime = narrow(100).build().unwrap();
    let cell = Arc::new(Mutex::new(None));
    let own = cell.clone();
    let done = Door::new();
    let passed = done.clone();
    passed.open();
    let subscriber = runtime
        .subscribe(Subscription::new("s"), move |_: &Record| {
            drop(own.lock().take());
            passed.pass();
            Ok(())
        })
        .unwrap();
    *cell.lock() = Some(runtime);
    subscriber.submit(numbered("k", 0)).unwrap();
    done.wait_for(1);
    assert_eq!(subscriber.submit(numbered("k", 1)).unwrap_err().refusal(), Refusal::Closed);
}

#[test]
fn a_handler_of_some_milliseconds_is_not_taken_for_a_hung_one() {
    // The closer's moment is real time: a machine that stalls for longer has a handler left behind, but not each time.
    let waited_for = (0..10).any(|_| {
        let runtime = narrow(100).build().unwrap();
        let log = Log::new();
        let (seen, entered) = (log.clone(), Door::new());
        entered.open();
        let enters = entered.clone();
        let subscriber = runtime
            .subscribe(Subscription::new("s"), move |record: &Record| {
                enters.pass();
                let begun = Instant::now();
                while begun.elapsed() < 20 * MS {
                    thread::yield_now();
                }
                seen.push(number(record));
                Ok(())
            })
            .unwrap();
        (0..10).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
        entered.wait_for(1);
        let report = runtime.close(Duration::ZERO).unwrap();
        if (report.running.len(), report.unreachable) != (0, 0) {
            return false;
        }
        let mut all = log.numbers();
        all.extend(back(&report));
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        true
    });
    assert!(waited_for);
}

#[test]
fn waiting_for_a_close_may_be_given_up() {
    let runtime = narrow(100).build().unwrap();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    subscriber.submit(numbered("k", 0)).unwrap();
    door.wait_for(1);
    let mut closing = runtime.close_async(HANG);
    let (calls, waker) = Calls::new();
    assert!(poll_once(&mut closing, &waker).is_pending());
    drop(closing);
    let mut closing = runtime.close_async(HANG);
    assert!(poll_once(&mut closing, &waker).is_pending());
    door.open();
    until("it has closed", || calls.count() > 0 && poll_once(&mut closing, &waker).is_ready());
}

/// Runs `wait` on a thread of its own: one that hangs fails the test instead of holding it up.
fn in_time<R: Send + 'static>(what: &str, wait: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || sender.send(wait()));
    receiver.recv_timeout(HANG).expect(what)
}

/// Whoever waits for a swap or a removal does not wait longer than the runtime lives, whatever hangs.
#[test]
fn nobody_waits_for_what_a_close_has_left_behind() {
    let config = Config::default().spares(0).blocking_threads(1);
    let builder = Runtime::builder().config(config).workers(1).lanes(1).slots(10);
    let runtime = builder.on_notice(|_| ()).build().unwrap();
    let (door, blocked) = (Door::new(), Door::new());
    let (hang, block) = (door.clone(), blocked.clone());
    let blocks = runtime
        .subscribe_blocking(Subscription::new("blocks"), move |_| {
            block.pass();
            Ok(())
        })
        .unwrap();
    blocks.submit(numbered("k", 0)).unwrap();
    blocked.wait_for(1);
    settle(&runtime); // what a lane holds is told at the end of a visit
    let hangs = runtime
        .subscribe(Subscription::new("hangs"), move |_: &Record| {
            hang.pass();
            Ok(())
        })
        .unwrap();
    let other = runtime.subscribe(Subscription::new("other"), |_: &Record| Ok(())).unwrap();
    let drains = runtime.subscribe(Subscription::new("drains"), |_: &Record| Ok(())).unwrap();
    hangs.submit(numbered("k", 1)).unwrap();
    door.wait_for(1);
    other.submit(numbered("k", 2)).unwrap();
    let swap = hangs.swap(Handler::sync(|_| Ok(())));
    let removal = other.remove();
    let drain = drains.close(LONG);
    let waits = thread::spawn(move || (swap.wait(), removal.wait(), drain.wait()));
    let ended = runtime.clone();
    let report = in_time("the close", move || ended.close(Duration::ZERO)).unwrap();
    assert_eq!(report.running.len(), 2, "{report:?}");

    let (swapped, removed, drained) = in_time("those who waited", || waits.join()).unwrap();
    assert_eq!(swapped, Err(SwapError::StillRunning { workers: 1, attempts: 0 }));
    assert!(removed.unwrap().is_empty() && drained.unwrap().is_empty());
    let late = (hangs.clone(), blocks.clone());
    let (swapped, awaited) = in_time("late swaps", move || {
        let swap = late.1.swap(Handler::sync(|_| Ok(())));
        (late.0.swap(Handler::sync(|_| Ok(()))).wait(), block_on(swap))
    });
    assert!(matches!(swapped, Err(SwapError::StillRunning { workers: 1, .. })), "{swapped:?}");
    assert!(matches!(awaited, Err(SwapError::StillRunning { .. })), "{awaited:?}");
    in_time("late removals", move || {
        assert!(hangs.remove().wait().unwrap().is_empty());
        assert!(block_on(blocks.close(LONG)).unwrap().is_empty());
    });

    // What was out of reach comes back once the handler returns: a record in the ring, and one in the gate.
    assert_eq!(report.unreachable, 2);
    door.open();
    let mut late = Vec::new();
    until("it comes back", || {
        late.extend(runtime.close(HANG).unwrap().records);
        late.len() >= 2
    });
    blocked.open(); // not before: a call that has ended counts
    let mut late: Vec<_> = late.iter().map(|(_, record)| number(record)).collect();
    late.sort_unstable();
    assert_eq!(late, [0, 2]);
}

/// A clock that panics for the thread that closes.
#[derive(Debug)]
struct Treacherous(VirtualClock);

impl Clock for Treacherous {
    fn now(&self) -> Time {
        let closes = thread::current().name().is_some_and(|name| name.ends_with("-close"));
        assert!(!closes, "planned: the clock panics");
        self.0.now()
    }

    fn system_time(&self) -> std::time::SystemTime {
        self.0.system_time()
    }

    fn arm(&self, deadline: Time, waker: &std::task::Waker) -> Option<Duration> {
        self.0.arm(deadline, waker)
    }
}

/// Whatever the closing thread dies of, nobody waits for it for ever.
#[test]
fn a_close_that_panics_ends() {
    let runtime = narrow(10).clock(Treacherous(VirtualClock::new())).build().unwrap();
    let pends =
        runtime.subscribe_async(Subscription::new("pends"), |_| std::future::pending()).unwrap();
    let receipt = pends.submit_tracked(numbered("k", 0)).unwrap();
    let closed = runtime.clone();
    let report = in_time("the close", move || closed.close(LONG)).unwrap();
    assert!(!report.drained);
    assert_eq!(in_time("the receipt", move || receipt.wait()), Ok(keylane::Outcome::Abandoned));
    in_time("the removal", move || pends.remove().wait()).unwrap();
}
