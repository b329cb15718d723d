//! Submitting one record: now, waiting for room, as a future; into a lane that is full.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "testing", feature = "internals"))]

#[path = "support/dispatch.rs"]
mod dispatch;
#[path = "support/lifecycle.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use dispatch::{Shape, Stone, each_shape};
use keylane::testing::{Ended, Oracle, VirtualClock, settle};
use keylane::{
    Handler, HandlerError, Record, Refusal, Runtime, SubmitError, Subscriber, Subscription,
};
use parking_lot::Mutex;
use support::*;

const MS: Duration = Duration::from_millis(1);

/// A runtime whose one lane has four slots, all taken, behind record 0 that waits at the door.
struct Full {
    runtime: Runtime,
    subscriber: Subscriber,
    door: Door,
    log: Log,
}

fn full(builder: keylane::Builder) -> Full {
    let (door, log) = (Door::new(), Log::new());
    let runtime = builder.build().unwrap();
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    subscriber.submit(numbered("k", 0)).unwrap();
    door.wait_for(1);
    (1..=4).for_each(|n| subscriber.try_submit(numbered("k", n)).unwrap());
    Full { runtime, subscriber, door, log }
}

impl Full {
    /// Opens the door, closes, and says what was handled.
    fn end(self) -> Vec<u64> {
        self.door.open();
        assert!(self.runtime.close(HANG).unwrap().drained);
        self.log.numbers()
    }
}

/// Waits until a submitter sleeps until `wait` after the clock's origin.
fn until_parked(clock: &VirtualClock, wait: Duration) {
    until("the submitter sleeps", || {
        clock.next_deadline() == Some(keylane::Time::ZERO.after(wait))
    });
}

/// A full runtime under a virtual clock on which nothing but a submitter's timeout is due soon.
fn virtually_full(wait: Duration) -> (Full, VirtualClock) {
    let clock = VirtualClock::new();
    (full(narrow(4).wait(wait).clock(clock.clone())), clock)
}

#[test]
fn try_submit_gives_the_very_record_back() {
    let full = full(narrow(4));
    let record = Record::new("k", "payload").with_header("name", "value");
    let address = record.payload().as_ptr();
    let refused = full.subscriber.try_submit(record).unwrap_err();
    assert_eq!(refused.refusal(), Refusal::Full);
    assert!(refused.is_retryable());
    assert_eq!(refused.to_string(), "the record's lane is full");
    let back = refused.into_record();
    assert_eq!(back.payload().as_ptr(), address, "not a copy");
    assert_eq!(back.header("name"), Some(&b"value"[..]));
    assert_eq!(back.key(), Some(&b"k"[..]));
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
}

#[test]
fn submit_sleeps_until_there_is_room() {
    let (full, clock) = virtually_full(Duration::from_secs(5));
    let submitter = {
        let subscriber = full.subscriber.clone();
        thread::spawn(move || subscriber.submit(numbered("k", 5)))
    };
    until_parked(&clock, Duration::from_secs(5));
    full.door.open();
    submitter.join().unwrap().unwrap();
    assert_eq!(full.end(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn submit_gives_the_record_back_once_its_time_is_over() {
    let (full, clock) = virtually_full(Duration::from_secs(5));
    let submitter = {
        let subscriber = full.subscriber.clone();
        thread::spawn(move || subscriber.submit(numbered("k", 5)))
    };
    until_parked(&clock, Duration::from_secs(5));
    clock.advance(Duration::from_secs(5) - MS);
    assert!(!submitter.is_finished());
    until_parked(&clock, Duration::from_secs(5));
    clock.advance(MS);
    let refused = submitter.join().unwrap().unwrap_err();
    assert_eq!((refused.refusal(), number(&refused.into_record())), (Refusal::Full, 5));
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
}

#[test]
fn submit_waits_in_real_time_too() {
    let full = full(narrow(4).wait(30 * MS));
    let begun = Instant::now();
    let refused = full.subscriber.submit(numbered("k", 5)).unwrap_err();
    assert_eq!(refused.refusal(), Refusal::Full);
    assert!(begun.elapsed() >= 30 * MS, "{:?}", begun.elapsed());
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_wait_of_zero_does_not_sleep() {
    let (full, clock) = virtually_full(Duration::ZERO);
    assert_eq!(full.subscriber.submit(numbered("k", 5)).unwrap_err().refusal(), Refusal::Full);
    let (_, waker) = Calls::new();
    let mut submit = full.subscriber.submit_async(numbered("k", 6));
    let Poll::Ready(Err(SubmitError::Full(back))) = poll_once(&mut submit, &waker) else {
        panic!("at once")
    };
    assert_eq!(number(&back), 6);
    drop(clock);
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
}

#[test]
fn close_gives_a_sleeping_submitter_its_record_back() {
    let (full, clock) = virtually_full(Duration::from_secs(5));
    let submitter = {
        let subscriber = full.subscriber.clone();
        thread::spawn(move || subscriber.submit(numbered("k", 5)))
    };
    until_parked(&clock, Duration::from_secs(5));
    let closing = full.runtime.close_async(HANG);
    let refused = submitter.join().unwrap().unwrap_err();
    assert_eq!((refused.refusal(), number(&refused.into_record())), (Refusal::Closed, 5));
    full.door.open();
    assert!(closing.wait().unwrap().drained);
    assert_eq!(full.log.numbers(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_removal_gives_a_sleeping_submitter_its_record_back() {
    let (full, clock) = virtually_full(Duration::from_secs(5));
    let submitter = {
        let subscriber = full.subscriber.clone();
        thread::spawn(move || subscriber.submit(numbered("k", 5)))
    };
    until_parked(&clock, Duration::from_secs(5));
    let (calls, waker) = Calls::new();
    let mut submit = full.subscriber.submit_async(numbered("k", 6));
    assert!(poll_once(&mut submit, &waker).is_pending());
    let removal = full.subscriber.remove();
    full.door.open();
    let returned = removal.wait().unwrap();
    let refused = submitter.join().unwrap().unwrap_err();
    assert_eq!((refused.refusal(), number(&refused.into_record())), (Refusal::Stopped, 5));
    until("the task is woken", || calls.count() > 0);
    let Poll::Ready(Err(SubmitError::Stopped(back))) = poll_once(&mut submit, &waker) else {
        panic!("stopped")
    };
    assert_eq!(number(&back), 6);
    assert_eq!(numbers(&returned), [1, 2, 3, 4]);
    assert_eq!(full.log.numbers(), [0]);
    assert!(full.runtime.close(HANG).unwrap().drained);
}

/// A runtime whose lanes have two slots each, and a busy key in the one that the test's keys share.
fn two_slots(shape: Shape) -> (Runtime, Stone) {
    let config = shape.config().slots(2).wait(dispatch::LIMIT);
    let runtime = Runtime::builder().config(config).build().unwrap();
    let stone = shape.stone(&runtime, 0);
    (runtime, stone)
}

// convict: whole_lane_waits
#[test]
fn every_producer_keeps_its_order_through_a_lane_of_two_slots() {
    each_shape(|shape| {
        let oracle = Oracle::new();
        let (runtime, stone) = two_slots(shape);
        let judge = oracle.clone();
        let subscriber = runtime
            .subscribe(Subscription::new("s"), move |record: &Record| {
                judge.start(record.key().unwrap(), number(record)).end(Ended::Done);
                Ok(())
            })
            .unwrap();
        thread::scope(|scope| {
            for key in shape.keys_of(1, 4) {
                let (oracle, subscriber) = (&oracle, &subscriber);
                scope.spawn(move || {
                    for seq in 1..=1_000 {
                        oracle.published(&key, seq);
                        subscriber.submit(numbered(&key, seq)).unwrap();
                    }
                });
            }
        });
        stone.lift();
        assert!(runtime.close(HANG).unwrap().drained);
        let verdict = oracle.verdict();
        verdict.assert_clean();
        assert_eq!(verdict.handled, 4_000);
    });
}

// convict: whole_lane_waits
#[test]
fn producers_of_one_key_each_keep_their_order() {
    each_shape(|shape| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (runtime, stone) = two_slots(shape);
        let log = seen.clone();
        let subscriber = runtime
            .subscribe(Subscription::new("s"), move |record: &Record| {
                log.lock().push(number(record));
                Ok(())
            })
            .unwrap();
        let key = shape.keys_of(1, 1).remove(0);
        thread::scope(|scope| {
            for producer in 0..4u64 {
                let (subscriber, key) = (&subscriber, &key);
                scope.spawn(move || {
                    for seq in 0..500 {
                        let record = numbered(key, producer << 32 | seq);
                        match seq % 3 {
                            0 => subscriber.submit(record).unwrap(),
                            1 => block_on(subscriber.submit_async(record)).unwrap(),
                            _ => {
                                let mut batch = vec![record];
                                assert_eq!(subscriber.submit_batch(&mut batch), Ok(1));
                            }
                        }
                    }
                });
            }
        });
        stone.lift();
        assert!(runtime.close(HANG).unwrap().drained);
        let seen = seen.lock();
        for producer in 0..4 {
            let own = seen.iter().filter(|n| *n >> 32 == producer).map(|n| n & 0xffff_ffff);
            assert_eq!(own.collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
        }
    });
}

#[test]
fn submit_async_is_taken_once_there_is_room() {
    let (full, _clock) = virtually_full(Duration::from_secs(5));
    let (calls, waker) = Calls::new();
    let mut submit = full.subscriber.submit_async(numbered("k", 5));
    assert!(poll_once(&mut submit, &waker).is_pending());
    assert!(poll_once(&mut submit, &waker).is_pending(), "polled again for nothing");
    assert_eq!(calls.count(), 0);
    full.door.open();
    until("there is room", || calls.count() > 0);
    assert!(matches!(poll_once(&mut submit, &waker), Poll::Ready(Ok(()))));
    assert!(submit.take_record().is_none(), "it was taken");
    drop(submit);
    assert_eq!(full.end(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn submit_async_times_out_by_the_clock() {
    let (full, clock) = virtually_full(Duration::from_secs(5));
    let (calls, waker) = Calls::new();
    let mut submit = full.subscriber.submit_async(numbered("k", 5));
    assert!(poll_once(&mut submit, &waker).is_pending());
    clock.advance(Duration::from_secs(5) - MS);
    assert!(poll_once(&mut submit, &waker).is_pending());
    clock.advance(MS);
    until("the timer calls", || calls.count() > 0);
    let Poll::Ready(Err(SubmitError::Full(back))) = poll_once(&mut submit, &waker) else {
        panic!("its time is over")
    };
    assert_eq!(number(&back), 5);
    assert!(submit.take_record().is_none(), "given back once");
    assert!(poll_once(&mut submit, &waker).is_pending(), "polled after its end");
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
}

#[test]
fn the_time_of_a_submit_async_runs_from_its_first_poll() {
    let (full, clock) = virtually_full(Duration::from_secs(5));
    let mut submit = full.subscriber.submit_async(numbered("k", 5));
    clock.advance(Duration::from_secs(60));
    assert!(poll_once(&mut submit, Waker::noop()).is_pending());
    drop(submit);
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_pending_submit_async_gives_its_record_back_on_request() {
    let (full, _clock) = virtually_full(Duration::from_secs(5));
    let (calls, waker) = Calls::new();
    let mut submit = full.subscriber.submit_async(numbered("k", 5));
    assert!(poll_once(&mut submit, &waker).is_pending());
    assert_eq!(number(&submit.take_record().unwrap()), 5);
    assert!(submit.take_record().is_none());
    assert!(poll_once(&mut submit, &waker).is_pending());
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
    assert_eq!(calls.count(), 0, "nobody waits there any more");
}

#[test]
fn a_submit_async_that_is_dropped_was_not_taken() {
    let (full, _clock) = virtually_full(Duration::from_secs(5));
    let (calls, waker) = Calls::new();
    let mut pending = full.subscriber.submit_async(numbered("k", 5));
    assert!(poll_once(&mut pending, &waker).is_pending());
    drop(pending);
    drop(full.subscriber.submit_async(numbered("k", 6)));
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
    assert_eq!(calls.count(), 0);
}

#[test]
fn a_submit_async_may_be_polled_by_reference_among_others() {
    let (full, clock) = virtually_full(Duration::from_secs(5));
    let mut submit = full.subscriber.submit_async(numbered("k", 5));
    let mut other = full.subscriber.submit_async(numbered("k", 6));
    // As `select!` in a loop does: each branch by reference, again and again, with other wakers.
    for _ in 0..100 {
        let (_, waker) = Calls::new();
        assert!(poll_once(&mut submit, &waker).is_pending());
        assert!(poll_once(&mut other, &waker).is_pending());
    }
    full.door.open();
    block_on(&mut submit).unwrap();
    block_on(&mut other).unwrap();
    drop(clock);
    assert_eq!(full.end(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn close_ends_a_pending_submit_async() {
    let (full, _clock) = virtually_full(Duration::from_secs(5));
    let (calls, waker) = Calls::new();
    let mut submit = full.subscriber.submit_async(numbered("k", 5));
    assert!(poll_once(&mut submit, &waker).is_pending());
    let closing = full.runtime.close_async(HANG);
    assert!(calls.count() > 0, "woken by the time the close has begun");
    let Poll::Ready(Err(SubmitError::Closed(back))) = poll_once(&mut submit, &waker) else {
        panic!("closed")
    };
    assert_eq!(number(&back), 5);
    full.door.open();
    assert!(closing.wait().unwrap().drained);
}

#[test]
fn many_waiters_are_all_served() {
    let (full, _clock) = virtually_full(Duration::from_secs(5));
    let submitters: Vec<_> = (5..25)
        .map(|n| {
            let subscriber = full.subscriber.clone();
            thread::spawn(move || match n % 2 {
                0 => subscriber.submit(numbered("k", n)),
                _ => block_on(subscriber.submit_async(numbered("k", n))),
            })
        })
        .collect();
    full.door.open();
    submitters.into_iter().for_each(|submitter| submitter.join().unwrap().unwrap());
    let mut handled = full.end();
    handled.sort_unstable();
    assert_eq!(handled, (0..25).collect::<Vec<_>>());
}

/// A handler that submits to its own lane until it is full, with a wait that nobody would see the end of.
fn submits_to_itself(kind: fn(Box<dyn Fn() + Send + Sync>) -> Handler) -> (usize, usize) {
    let runtime = narrow(4).wait(HANG * 10).build().unwrap();
    let own: Arc<Mutex<Option<Subscriber>>> = Arc::default();
    let (taken, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (own, taken, refused) = (own.clone(), taken.clone(), refused.clone());
        kind(Box::new(move || {
            let Some(subscriber) = own.lock().take() else { return };
            // One more than the lane and all that waits behind this key could hold.
            for n in 0..2_000 {
                match subscriber.submit(numbered("k", n)) {
                    Ok(()) => taken.fetch_add(1, SeqCst),
                    Err(error) => {
                        assert_eq!(error.refusal(), Refusal::Full);
                        refused.fetch_add(1, SeqCst)
                    }
                };
                let mut batch = vec![numbered("k", n)];
                match subscriber.submit_batch(&mut batch) {
                    Ok(_) => taken.fetch_add(1, SeqCst),
                    Err(error) => {
                        assert_eq!((error.first, batch.len()), (Refusal::Full, 1));
                        refused.fetch_add(1, SeqCst)
                    }
                };
            }
        }))
    };
    let subscriber = runtime.subscribe_handler(Subscription::new("s"), handler).unwrap();
    *own.lock() = Some(subscriber.clone());
    subscriber.submit(numbered("k", 0)).unwrap();
    drop(subscriber);
    settle(&runtime);
    until("the handler has ended", || taken.load(SeqCst) + refused.load(SeqCst) == 4_000);
    let report = runtime.close(HANG).unwrap();
    assert!(report.drained, "{report:?}");
    (taken.load(SeqCst), refused.load(SeqCst))
}

#[test]
fn submit_inside_a_sync_handler_never_sleeps() {
    let (taken, refused) = submits_to_itself(|run| {
        Handler::sync(move |_| {
            run();
            Ok(())
        })
    });
    assert_eq!((taken, refused), (4, 3_996));
}

#[test]
fn submit_inside_an_async_handler_never_sleeps() {
    let (taken, refused) = submits_to_itself(|run| {
        let run: Arc<dyn Fn() + Send + Sync> = run.into();
        Handler::future(move |_| {
            let run = run.clone();
            async move {
                run();
                Ok(())
            }
        })
    });
    assert_eq!((taken, refused), (4, 3_996));
}

#[test]
fn submit_inside_a_blocking_handler_never_sleeps() {
    let (taken, refused) = submits_to_itself(|run| {
        Handler::blocking(move |_| {
            run();
            Ok(())
        })
    });
    // The lane goes on meanwhile, until as many wait behind the key as may.
    assert!((4..=1_004).contains(&taken) && refused > 0, "{taken} {refused}");
}

#[test]
fn a_failed_subscription_refuses_as_stopped() {
    let runtime = narrow(4).build().unwrap();
    let subscriber = runtime
        .subscribe(Subscription::new("s"), |_: &Record| Err(HandlerError::fatal("broken")))
        .unwrap();
    let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    assert_eq!(&*receipt.wait().unwrap().failure().unwrap().error, "broken");
    let refused = subscriber.submit(numbered("k", 1)).unwrap_err();
    assert_eq!((refused.refusal(), refused.is_retryable()), (Refusal::Stopped, false));
    let refused = block_on(subscriber.submit_async(numbered("k", 2))).unwrap_err();
    assert_eq!(refused.refusal(), Refusal::Stopped);
    assert_eq!(&*subscriber.stopped_by().unwrap().error, "broken");
    let report = runtime.close(HANG).unwrap();
    assert_eq!(numbers(report.records.iter().map(|(_, record)| record)), [0]);
    assert_eq!(report.records[0].0, "s");
}

#[test]
fn a_virtual_clock_is_not_needed_for_a_timely_wake_up() {
    // Room that comes while the submitter falls asleep must not be missed: a lane of one slot, often.
    let runtime = narrow(1).wait(HANG).build().unwrap();
    let log = Log::new();
    let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
    let begun = runtime.clock().now();
    (0..20_000).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    assert!(runtime.clock().now().since(begun) < HANG);
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!(log.numbers(), (0..20_000).collect::<Vec<_>>());
}

#[cfg(feature = "tokio")]
#[test]
fn a_submit_that_may_block_in_async_code_is_said_once() {
    let said = Arc::new(AtomicUsize::new(0));
    let count = said.clone();
    let full = full(narrow(4).wait(Duration::ZERO).on_notice(move |notice| {
        if *notice == keylane::Notice::BlockingInAsync {
            count.fetch_add(1, SeqCst);
        }
    }));
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio.block_on(async {
        for n in 5..8 {
            assert!(full.subscriber.submit(numbered("k", n)).is_err());
        }
    });
    assert_eq!(said.load(SeqCst), 1);
    assert_eq!(full.end(), [0, 1, 2, 3, 4]);
}
