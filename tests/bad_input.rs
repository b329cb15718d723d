//! Whatever a caller passes or a handler does: a typed outcome, never a hang, a panic of ours or a lost
//! record.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "testing")]

#[path = "support/lifecycle.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use keylane::testing::{VirtualClock, settle};
use keylane::{
    Config, Handled, Handler, HandlerError, Keyless, Letter, MAX_KEY, Notice, Outcome, Record,
    RecordRef, Refusal, Retry, Runtime, SubmitError, Subscriber, Subscription,
};
use parking_lot::Mutex;
use support::*;

fn subscribed(handler: Handler) -> (Runtime, Subscriber) {
    let runtime = narrow(100).build().unwrap();
    let subscriber = runtime.subscribe_handler(Subscription::new("s").skip(), handler).unwrap();
    (runtime, subscriber)
}

/// Every way to submit refuses the record and gives it back.
fn refused(subscriber: &Subscriber, record: &Record, why: Refusal) {
    let given = |back: Record| assert_eq!(back.payload(), record.payload());
    for error in [
        subscriber.submit(record.copy()).unwrap_err(),
        subscriber.try_submit(record.copy()).unwrap_err(),
        subscriber.submit_tracked(record.copy()).unwrap_err(),
        block_on(subscriber.submit_async(record.copy())).unwrap_err(),
    ] {
        assert_eq!((error.refusal(), error.is_retryable()), (why, false));
        assert!(!error.to_string().is_empty());
        given(error.into_record());
    }
    let mut batch = vec![record.copy()];
    let error = subscriber.submit_batch(&mut batch).unwrap_err();
    assert_eq!((error.taken, error.first), (0, why));
    given(batch.remove(0));
}

#[test]
fn keys_that_are_empty_or_too_long() {
    let (runtime, subscriber) = subscribed(Handler::sync(|_| Ok(())));
    refused(&subscriber, &Record::new("", "payload"), Refusal::InvalidKey);
    refused(&subscriber, &Record::new(vec![0; MAX_KEY + 1], "payload"), Refusal::InvalidKey);
    refused(&subscriber, &Record::new(vec![0; 1 << 20], "payload"), Refusal::InvalidKey);
    for key in [vec![0], vec![0xff; MAX_KEY], b"\xff\xfe\0\r\n".to_vec()] {
        let receipt = subscriber.submit_tracked(Record::new(key, "")).unwrap();
        assert!(receipt.wait().unwrap().is_done());
    }
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn records_without_a_key_where_one_is_needed() {
    let runtime = narrow(100).build().unwrap();
    let policy = Subscription::new("s").keyless(Keyless::Reject);
    let subscriber = runtime.subscribe(policy, |_: &Record| Ok(())).unwrap();
    refused(&subscriber, &Record::keyless("payload"), Refusal::NoKey);
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn submit_after_close_and_after_removal() {
    let (runtime, subscriber) = subscribed(Handler::sync(|_| Ok(())));
    let (_other, removed) = subscribed(Handler::sync(|_| Ok(())));
    removed.remove().wait().unwrap();
    refused(&removed, &Record::new("k", "payload"), Refusal::Stopped);
    runtime.close(HANG).unwrap();
    refused(&subscriber, &Record::new("k", "payload"), Refusal::Closed);
    // What else may be called on what has closed.
    subscriber.swap(Handler::sync(|_| Ok(()))).wait().unwrap();
    subscriber.resume(b"k");
    subscriber.skip(b"k");
    assert!(!subscriber.park(b"k"));
    assert!(subscriber.close(HANG).wait().unwrap().is_empty());
    assert!(subscriber.remove().wait().unwrap().is_empty());
    assert!(runtime.close(HANG).unwrap().drained);
    runtime.stop_now();
    runtime.snapshot();
}

#[test]
fn commands_for_keys_that_there_are_not() {
    let (runtime, subscriber) = subscribed(Handler::sync(|_| Ok(())));
    for key in [&b""[..], b"unknown", &[0; 10_000]] {
        subscriber.resume(key);
        subscriber.skip(key);
        assert!(!subscriber.park(key), "there is no dead letter");
    }
    settle(&runtime);
    assert!(subscriber.parked().is_empty());
    assert!(runtime.close(HANG).unwrap().drained);
}

/// Panics when it is dropped, unless a panic is under way.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in drop");
        }
    }
}

/// Says something that panics.
#[derive(Debug)]
struct PanicsInDisplay;

impl std::fmt::Display for PanicsInDisplay {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("in display")
    }
}

impl std::error::Error for PanicsInDisplay {}

/// After whatever a first record did, the next one of its key is handled.
fn goes_on_after(handle: impl Fn() -> Handler) {
    let (runtime, subscriber) = subscribed(handle());
    let first = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    let second = subscriber.submit_tracked(numbered("k", 1)).unwrap();
    assert!(matches!(first.wait().unwrap(), Outcome::Skipped(_)));
    assert_eq!(second.wait(), Ok(Outcome::Done));
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn handlers_that_panic() {
    fn panics(record: &Record) -> Handled {
        if number(record) == 0 { panic!("first") } else { Ok(()) }
    }
    goes_on_after(|| Handler::sync(panics));
    goes_on_after(|| Handler::future(|record| async move { panics(&record) }));
    goes_on_after(|| Handler::blocking(|record| panics(&record)));
    goes_on_after(|| {
        Handler::sync(
            |record| {
                if number(record) == 0 { std::panic::panic_any(Bomb) } else { Ok(()) }
            },
        )
    });
}

#[test]
fn errors_that_panic_when_they_are_shown() {
    goes_on_after(|| {
        Handler::sync(|record| match number(record) {
            0 => Err(HandlerError::fatal(PanicsInDisplay)),
            _ => Ok(()),
        })
    });
}

#[test]
fn futures_that_panic_when_they_are_dropped() {
    goes_on_after(|| {
        Handler::future(|record| {
            let bomb = (number(&record) == 0).then(|| Bomb);
            std::future::poll_fn(move |_| {
                let _ = &bomb;
                std::task::Poll::Ready(Ok(()))
            })
        })
    });
}

#[test]
fn predicates_and_dead_letters_that_panic() {
    let runtime = narrow(100).build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let policy = Subscription::new("s")
        .retry(Retry::fixed(Duration::ZERO).only_if(|_| panic!("in the predicate")))
        .dead_letter_to(move |_: &Letter| {
            if count.fetch_add(1, SeqCst) == 0 {
                panic!("in the dead letter")
            }
            Ok(())
        });
    let subscriber =
        runtime.subscribe(policy, |_: &Record| Err(HandlerError::retryable("no"))).unwrap();
    let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    assert!(matches!(receipt.wait().unwrap(), Outcome::DeadLettered(_)), "sent again");
    assert_eq!(calls.load(SeqCst), 2);
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn closures_that_panic_when_they_are_dropped() {
    for kind in 0..3 {
        let runtime = narrow(100).build().unwrap();
        let subscribe = |name: &str| {
            let bomb = Bomb;
            let handler = match kind {
                0 => Handler::sync(move |_| {
                    let _ = &bomb;
                    Ok(())
                }),
                1 => Handler::future(move |_| {
                    let _ = &bomb;
                    std::future::ready(Ok(()))
                }),
                _ => Handler::blocking(move |_| {
                    let _ = &bomb;
                    Ok(())
                }),
            };
            runtime.subscribe_handler(Subscription::new(name), handler).unwrap()
        };
        let (swapped, removed) = (subscribe("swapped"), subscribe("removed"));
        swapped.submit(numbered("k", 0)).unwrap();
        removed.submit(numbered("k", 0)).unwrap();
        settle(&runtime);
        swapped.swap(Handler::sync(|_| Ok(()))).wait().unwrap();
        removed.remove().wait().unwrap();
        drop((
            removed,
            runtime.subscribe_handler(Subscription::new("s"), Handler::sync(|_| Ok(()))),
        ));
        // Workers are alive and well.
        let receipt = swapped.submit_tracked(numbered("k", 1)).unwrap();
        assert_eq!(receipt.wait(), Ok(Outcome::Done));
        drop(subscribe("last"));
        runtime.close(HANG).unwrap();
    }
}

#[test]
fn payloads_that_panic_when_they_are_dropped() {
    struct Payload(Bomb);
    impl AsRef<[u8]> for Payload {
        fn as_ref(&self) -> &[u8] {
            let _ = &self.0;
            b"payload"
        }
    }
    for handler in [
        Handler::sync(|_| Ok(())),
        Handler::future(|_| std::future::ready(Ok(()))),
        Handler::blocking(|_| Ok(())),
    ] {
        let (runtime, subscriber) = subscribed(handler);
        for _ in 0..3 {
            let payload = bytes::Bytes::from_owner(Payload(Bomb));
            subscriber.submit(Record::from_bytes(Some(b"k"), payload)).unwrap();
        }
        let receipt = subscriber.submit_tracked(Record::new("k", "")).unwrap();
        assert_eq!(receipt.wait(), Ok(Outcome::Done));
        runtime.close(HANG).unwrap();
    }
}

/// A handler that hangs, sync (0), async (1) or blocking: until the door opens, the async one for good.
fn hanging(kind: usize, door: &Door) -> Handler {
    let hang = door.clone();
    match kind {
        0 => Handler::sync(move |_| {
            hang.pass();
            Ok(())
        }),
        1 => Handler::future(|_| std::future::pending()),
        _ => Handler::blocking(move |_| {
            hang.pass();
            Ok(())
        }),
    }
}

#[test]
fn handlers_that_hang_are_left_behind() {
    for kind in 0..3 {
        let door = Door::new();
        let handler = hanging(kind, &door);
        let (runtime, subscriber) = subscribed(handler);
        let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
        if kind != 1 {
            door.wait_for(1);
        }
        let report = runtime.close(Duration::from_millis(5)).unwrap();
        assert_eq!(receipt.wait(), Ok(Outcome::Abandoned));
        assert_eq!((report.drained, report.running.len()), (false, usize::from(kind != 1)));
        door.open();
    }
}

#[test]
fn a_deadline_ends_an_async_handler_that_hangs_and_reports_the_others() {
    for kind in 0..3 {
        let clock = VirtualClock::new();
        let said = Arc::new(Mutex::new(Vec::new()));
        let cell = said.clone();
        let runtime = narrow(100)
            .clock(clock.clone())
            .on_notice(move |notice| cell.lock().push(notice.clone()))
            .build()
            .unwrap();
        let door = Door::new();
        let handler = hanging(kind, &door);
        let policy = Subscription::new("s").skip().deadline(Duration::from_secs(2));
        let subscriber = runtime.subscribe_handler(policy, handler).unwrap();
        let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
        if kind == 1 {
            settle(&runtime);
            clock.advance(Duration::from_secs(2));
            assert!(matches!(receipt.wait().unwrap(), Outcome::Skipped(_)));
            continue;
        }
        door.wait_for(1);
        until("it is reported", || {
            clock.advance(Duration::from_secs(1));
            said.lock().iter().any(|notice| matches!(notice, Notice::DeadlinePassed { .. }))
        });
        assert_eq!(receipt.outcome(), None, "its key is busy until it returns");
        door.open();
        assert_eq!(receipt.wait(), Ok(Outcome::Done));
    }
}

/// Its future holds its key up, what waits for the key fills the lane: the wait for room ends by its time.
#[test]
fn a_handler_that_awaits_room_in_its_own_full_lane() {
    const WAIT: Duration = Duration::from_secs(5);
    let clock = VirtualClock::new();
    let config = Config::default().spares(0).key_waiting(1).lanes(1).slots(2).workers(1).wait(WAIT);
    let runtime = Runtime::builder().config(config).clock(clock.clone()).build().unwrap();
    let own: Arc<Mutex<Option<Subscriber>>> = Arc::default();
    let said = Arc::new(Mutex::new(None));
    let (cell, tell, log) = (own.clone(), said.clone(), Log::new());
    let seen = log.clone();
    let subscriber = runtime
        .subscribe_async(Subscription::new("s"), move |record: RecordRef| {
            let (own, tell) = (cell.lock().take(), tell.clone());
            seen.push(number(&record));
            async move {
                let Some(subscriber) = own else { return Ok(()) };
                for n in 1.. {
                    if let Err(error) = subscriber.submit_async(numbered("k", n)).await {
                        *tell.lock() = Some((n, error));
                        break;
                    }
                }
                Ok(())
            }
        })
        .unwrap();
    *own.lock() = Some(subscriber.clone());
    let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    settle(&runtime);
    assert!(said.lock().is_none() && receipt.outcome().is_none(), "it awaits its time");
    clock.advance(WAIT);
    settle(&runtime);
    let (n, error) = said.lock().take().unwrap();
    let SubmitError::Full(back) = error else { panic!("{error:?}") };
    assert_eq!((n, number(&back)), (4, 4), "one waits for the key, two fill the ring");
    assert_eq!(receipt.wait(), Ok(Outcome::Done));
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!(log.numbers(), [0, 1, 2, 3]);
}

/// What it awaits comes after itself: its deadline ends it.
#[test]
fn a_handler_that_awaits_a_later_record_of_its_own_key() {
    let clock = VirtualClock::new();
    let runtime = narrow(100).clock(clock.clone()).build().unwrap();
    let own: Arc<Mutex<Option<Subscriber>>> = Arc::default();
    let cell = own.clone();
    let policy = Subscription::new("s").skip().deadline(Duration::from_secs(2));
    let subscriber = runtime
        .subscribe_async(policy, move |_: RecordRef| {
            let own = cell.lock().take();
            async move {
                let Some(subscriber) = own else { return Ok(()) };
                let later = subscriber.submit_tracked(numbered("k", 1))?;
                later.await;
                Ok(())
            }
        })
        .unwrap();
    *own.lock() = Some(subscriber.clone());
    let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    settle(&runtime);
    assert_eq!(receipt.outcome(), None);
    clock.advance(Duration::from_secs(2));
    let outcome = receipt.wait().unwrap();
    assert_eq!(&*outcome.failure().unwrap().error, "the attempt did not end within 2s");
    settle(&runtime);
    assert_eq!(runtime.snapshot().outcomes.done, 1, "the later one");
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn durations_without_end() {
    let runtime = narrow(1).wait(LONG).build().unwrap();
    let policy = Subscription::new("s")
        .retry(Retry::exponential(Duration::MAX, Duration::MAX).forever())
        .deadline(Duration::MAX);
    let subscriber = runtime
        .subscribe_async(policy, |record| {
            std::future::ready(match number(&record) {
                0 => Ok(()),
                _ => Err(HandlerError::retryable("no")),
            })
        })
        .unwrap();
    let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    assert_eq!(receipt.wait_timeout(Duration::MAX), Ok(Outcome::Done));
    subscriber.submit(numbered("k", 1)).unwrap();
    settle(&runtime);
    subscriber.swap(Handler::sync(|_| Ok(()))).wait_timeout(Duration::MAX).unwrap();
    drop(runtime.close_async(Duration::MAX));
    assert_eq!(runtime.close(Duration::MAX).unwrap().records.len(), 1);
}

#[test]
fn a_waker_outlives_its_runtime() {
    let waker = Arc::new(Mutex::new(None));
    let cell = waker.clone();
    let (runtime, subscriber) = subscribed(Handler::future(move |_| {
        let cell = cell.clone();
        std::future::poll_fn(move |cx| {
            *cell.lock() = Some(cx.waker().clone());
            std::task::Poll::Pending
        })
    }));
    subscriber.submit(numbered("k", 0)).unwrap();
    settle(&runtime);
    runtime.close(Duration::ZERO).unwrap();
    let waker = waker.lock().take().unwrap();
    waker.wake_by_ref();
    drop((runtime, subscriber));
    waker.wake();
}

#[test]
fn large_records() {
    let (runtime, subscriber) = subscribed(Handler::sync(|record| {
        assert_eq!(record.payload().len(), 8 << 20);
        assert_eq!(record.headers().count(), 1_000);
        Ok(())
    }));
    let mut record = Record::new("k", vec![7; 8 << 20]);
    for n in 0..1_000 {
        record = record.with_header(format!("header-{n}"), vec![0; 100]);
    }
    assert_eq!(subscriber.submit_tracked(record).unwrap().wait(), Ok(Outcome::Done));
    runtime.close(HANG).unwrap();
}
