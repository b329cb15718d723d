//! Receipts: exactly one outcome, however a record ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "testing")]

#[path = "support/lifecycle.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use keylane::testing::{VirtualClock, settle};
use keylane::{
    Handled, Handler, HandlerError, Letter, Outcome, Receipt, Record, Retry, Runtime, Subscriber,
    Subscription, WaitError,
};
use parking_lot::Mutex;
use support::*;

const SECOND: Duration = Duration::from_secs(1);

fn runtime() -> Runtime {
    narrow(100).build().unwrap()
}

/// The outcome of one record under a policy and a handler.
fn outcome(policy: Subscription, handler: Handler) -> Outcome {
    let runtime = runtime();
    let subscriber = runtime.subscribe_handler(policy, handler).unwrap();
    let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    let outcome = receipt.wait().unwrap();
    assert_eq!(receipt.outcome(), Some(outcome.clone()), "it stays");
    assert_eq!(receipt.wait_timeout(Duration::ZERO), Ok(outcome.clone()));
    runtime.close(HANG).unwrap();
    assert_eq!(receipt.outcome(), Some(outcome.clone()), "also after the end");
    assert_eq!(block_on(receipt), outcome);
    outcome
}

/// One handler of each kind that says the same.
fn each_kind(said: impl Fn() -> Handled + Send + Sync + Clone + 'static) -> [Handler; 4] {
    let (a, b, c, d) = (said.clone(), said.clone(), said.clone(), said);
    [
        Handler::sync(move |_| a()),
        Handler::future(move |_| std::future::ready(b())),
        Handler::future(move |_| {
            let said = c.clone();
            async move {
                // Pending once, woken at once.
                let mut first = true;
                std::future::poll_fn(|cx| {
                    if std::mem::take(&mut first) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                })
                .await;
                said()
            }
        }),
        Handler::blocking(move |_| d()),
    ]
}

#[test]
fn a_handled_record_is_done() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let said = move || {
        count.fetch_add(1, SeqCst);
        Ok(())
    };
    for (kind, handler) in (1..).zip(each_kind(said)) {
        assert_eq!(outcome(Subscription::new("s"), handler), Outcome::Done);
        assert_eq!(calls.load(SeqCst), kind, "its handler was called, once");
    }
}

#[test]
fn a_failed_record_says_by_what_policy() {
    let fails = || each_kind(|| Err(HandlerError::retryable("no")));
    let twice = Retry::fixed(Duration::ZERO).attempts(2);
    for handler in fails() {
        let outcome = outcome(Subscription::new("s"), handler);
        let Outcome::Stopped(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!((&*failure.error, failure.attempts), ("no", 1));
    }
    for handler in fails() {
        let outcome = outcome(Subscription::new("s").retry(twice.clone()).skip(), handler);
        let Outcome::Skipped(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!((&*failure.error, failure.attempts), ("no", 2));
    }
    for handler in fails() {
        let letters = Arc::new(AtomicUsize::new(0));
        let sent = letters.clone();
        let policy =
            Subscription::new("s").retry(twice.clone()).dead_letter_to(move |_: &Letter| {
                sent.fetch_add(1, SeqCst);
                Ok(())
            });
        let outcome = outcome(policy, handler);
        let Outcome::DeadLettered(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!((&*failure.error, failure.attempts, letters.load(SeqCst)), ("no", 2, 1));
    }
}

#[test]
fn a_panic_is_a_failure() {
    for handler in each_kind(|| panic!("oh no")) {
        let outcome = outcome(Subscription::new("s").skip(), handler);
        assert_eq!(&*outcome.failure().unwrap().error, "panicked: oh no");
    }
}

#[test]
fn a_parked_keys_followers_are_parked() {
    let runtime = runtime();
    let policy = Subscription::new("s").dead_letter_to(|_: &Letter| Ok(())).park_key();
    let subscriber =
        runtime.subscribe(policy, |_: &Record| Err(HandlerError::retryable("no"))).unwrap();
    let receipts = [0, 1, 2].map(|n| subscriber.submit_tracked(numbered("k", n)).unwrap());
    assert!(matches!(receipts[0].wait(), Ok(Outcome::DeadLettered(_))));
    assert_eq!(receipts[1].wait(), Ok(Outcome::Parked));
    assert_eq!(receipts[2].wait(), Ok(Outcome::Parked));
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn a_stop_gives_what_is_queued_back_as_stopped() {
    let runtime = runtime();
    let door = Door::new();
    let at_door = door.clone();
    let subscriber = runtime
        .subscribe(Subscription::new("s"), move |_: &Record| {
            at_door.pass();
            Err(HandlerError::fatal("no"))
        })
        .unwrap();
    let receipts = [0, 1, 2].map(|n| subscriber.submit_tracked(numbered("k", n)).unwrap());
    door.wait_for(1);
    door.open();
    for receipt in receipts {
        assert!(matches!(receipt.wait(), Ok(Outcome::Stopped(failure)) if &*failure.error == "no"));
    }
    let report = runtime.close(HANG).unwrap();
    assert_eq!(numbers(report.records.iter().map(|(_, record)| record)), [0, 1, 2]);
}

#[test]
fn a_removal_abandons_what_is_queued_and_lets_what_runs_end() {
    let runtime = runtime();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    let receipts = [0, 1, 2].map(|n| subscriber.submit_tracked(numbered("k", n)).unwrap());
    door.wait_for(1);
    let removal = subscriber.remove();
    door.open();
    assert_eq!(numbers(&removal.wait().unwrap()), [1, 2]);
    assert_eq!(
        receipts.each_ref().map(Receipt::wait),
        [Ok(Outcome::Done), Ok(Outcome::Abandoned), Ok(Outcome::Abandoned)]
    );
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn close_abandons_what_a_hung_handler_holds_up_and_refuses_its_late_outcome() {
    let runtime = runtime();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    let receipts = [0, 1, 2].map(|n| subscriber.submit_tracked(numbered("k", n)).unwrap());
    door.wait_for(1);
    let report = runtime.close(Duration::from_millis(10)).unwrap();
    assert_eq!((report.drained, report.running.len(), report.unreachable), (false, 1, 2));
    assert!(report.records.is_empty());
    for receipt in &receipts {
        assert_eq!(receipt.wait(), Ok(Outcome::Abandoned));
    }
    door.open();
    until("the handler has returned", || log.len() == 1);
    // What was out of reach comes back to the next who asks; nothing of it is handled.
    let mut late = Vec::new();
    until("what was behind it is back", || {
        late.extend(runtime.close(Duration::ZERO).unwrap().records);
        late.len() == 2
    });
    assert_eq!(numbers(late.iter().map(|(_, record)| record)), [1, 2]);
    assert_eq!(late[0].0, "s");
    for receipt in &receipts {
        assert_eq!(receipt.outcome(), Some(Outcome::Abandoned), "one outcome");
    }
    assert_eq!(log.numbers(), [0]);
}

#[test]
fn close_abandons_pending_and_blocking_attempts() {
    let runtime = runtime();
    let door = Door::new();
    let (at_door, cancelled) = (door.clone(), Arc::new(AtomicBool::new(false)));
    let hangs = runtime
        .subscribe_blocking(Subscription::new("blocking"), move |_| {
            at_door.pass();
            Ok(())
        })
        .unwrap();
    struct Cancelled(Arc<AtomicBool>);
    impl Drop for Cancelled {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let seen = cancelled.clone();
    let pends = runtime
        .subscribe_async(Subscription::new("async"), move |_| {
            let guard = Cancelled(seen.clone());
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok(())
            }
        })
        .unwrap();
    let receipts = [
        hangs.submit_tracked(numbered("a", 0)).unwrap(),
        hangs.submit_tracked(numbered("a", 1)).unwrap(),
        pends.submit_tracked(numbered("b", 2)).unwrap(),
        pends.submit_tracked(numbered("b", 3)).unwrap(),
    ];
    door.wait_for(1);
    let report = runtime.close(Duration::from_millis(10)).unwrap();
    assert!(cancelled.load(SeqCst), "the future was dropped");
    for receipt in &receipts {
        assert_eq!(receipt.wait(), Ok(Outcome::Abandoned));
    }
    let mut back = numbers(report.records.iter().map(|(_, record)| record));
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2, 3], "also those under way: they may not have been handled");
    assert_eq!(report.running.len(), 1);
    assert_eq!(report.running[0].subscription, "blocking");
    assert!(report.running[0].blocking && report.running[0].key.as_deref() == Some(b"a"));
    door.open();
}

#[test]
fn a_wait_ends_by_the_clock_and_the_receipt_is_still_good() {
    let clock = VirtualClock::new();
    let runtime = narrow(100).clock(clock.clone()).build().unwrap();
    let flag = Flag::new();
    let handler = flag.clone();
    let subscriber = runtime
        .subscribe_async(Subscription::new("s"), move |_| {
            let raised = handler.wait();
            async {
                raised.await;
                Ok(())
            }
        })
        .unwrap();
    let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    settle(&runtime);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| receipt.wait_timeout(5 * SECOND));
        until("it waits", || clock.next_deadline() == Some(keylane::Time::ZERO.after(5 * SECOND)));
        clock.advance(5 * SECOND);
        assert_eq!(waiter.join().unwrap(), Err(WaitError::TimedOut));
        let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| receipt.wait())).collect();
        flag.raise();
        waiters.into_iter().for_each(|w| assert_eq!(w.join().unwrap(), Ok(Outcome::Done)));
    });
    assert_eq!(block_on(receipt), Outcome::Done);
    drop(clock);
}

#[test]
fn a_receipt_is_a_future_that_is_woken_once_it_is_ready() {
    let runtime = runtime();
    let (door, log) = (Door::new(), Log::new());
    let subscriber = runtime.subscribe(Subscription::new("s"), log.behind(&door)).unwrap();
    let mut receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
    let (calls, waker) = Calls::new();
    assert!(poll_once(&mut receipt, &waker).is_pending());
    assert!(poll_once(&mut receipt, &waker).is_pending());
    assert_eq!(calls.count(), 0);
    door.open();
    until("it is woken", || calls.count() > 0);
    assert_eq!(poll_once(&mut receipt, &waker), Poll::Ready(Outcome::Done));
    assert_eq!(poll_once(&mut receipt, Waker::noop()), Poll::Ready(Outcome::Done));
}

#[test]
fn a_receipt_that_nobody_keeps_changes_nothing() {
    let runtime = runtime();
    let log = Log::new();
    let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
    for n in 0..50 {
        drop(subscriber.submit_tracked(numbered("k", n)).unwrap());
    }
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!(log.len(), 50);
}

#[test]
fn a_refused_record_leaves_no_receipt() {
    let runtime = runtime();
    let subscriber = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
    assert!(subscriber.submit_tracked(Record::new("", "")).is_err());
    runtime.close(HANG).unwrap();
    assert!(subscriber.submit_tracked(numbered("k", 0)).is_err());
}

#[test]
fn no_wait_inside_a_handler_of_any_kind() {
    for kind in 0..3 {
        let runtime = narrow(100).build().unwrap();
        let own: Arc<Mutex<Option<Subscriber>>> = Arc::default();
        let said = Arc::new(Mutex::new(Vec::new()));
        let waits = {
            let (own, said) = (own.clone(), said.clone());
            move || {
                let Some(subscriber) = own.lock().take() else { return };
                // Of its own key: it could never come.
                let receipt = subscriber.submit_tracked(numbered("k", 1)).unwrap();
                let mut said = said.lock();
                said.push(receipt.wait().unwrap_err());
                said.push(receipt.wait_timeout(LONG).unwrap_err());
            }
        };
        let handler = match kind {
            0 => Handler::sync(move |_| {
                waits();
                Ok(())
            }),
            1 => {
                let waits = Arc::new(waits);
                Handler::future(move |_| {
                    let waits = waits.clone();
                    async move {
                        waits();
                        Ok(())
                    }
                })
            }
            _ => Handler::blocking(move |_| {
                waits();
                Ok(())
            }),
        };
        let subscriber = runtime.subscribe_handler(Subscription::new("s"), handler).unwrap();
        *own.lock() = Some(subscriber.clone());
        let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
        assert_eq!(receipt.wait(), Ok(Outcome::Done));
        assert_eq!(*said.lock(), [WaitError::WouldDeadlock, WaitError::WouldDeadlock]);
        assert!(runtime.close(HANG).unwrap().drained);
    }
}

#[test]
fn a_thousand_receipts_one_outcome_each() {
    let runtime = Runtime::builder().lanes(8).workers(2).on_notice(|_| ()).build().unwrap();
    let subscriber = runtime
        .subscribe(Subscription::new("s").skip(), |record: &Record| match number(record) % 3 {
            0 => Ok(()),
            1 => Err(HandlerError::retryable("no")),
            _ => panic!("no"),
        })
        .unwrap();
    let receipts: Vec<_> = (0..1_000)
        .map(|n| (n, subscriber.submit_tracked(numbered(&format!("{}", n % 50), n)).unwrap()))
        .collect();
    for (n, receipt) in receipts {
        assert_eq!(receipt.wait().unwrap().is_done(), n % 3 == 0);
    }
    let snapshot = runtime.snapshot();
    assert_eq!((snapshot.outcomes.done, snapshot.outcomes.skipped), (334, 666));
    assert!(runtime.close(HANG).unwrap().drained);
}
