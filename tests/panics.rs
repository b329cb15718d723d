//! A panic in a caller's code is the outcome of the record it happened for, wherever that code runs: in a call,
//! a poll, a drop, a text, a predicate, a sink, a waker. No thread ends by it.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dispatch.rs"]
mod dispatch;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use dispatch::{Holds, Log, Shape, all_done, ended, name_of, quiet_panics, submit, until};
use keylane::internals::SourceOptions;
use keylane::testing::{VirtualClock, settle};
use keylane::{
    DeadLetter, Failure, Handled, Handler, HandlerError, Letter, Notice, Outcome, Position, Record,
    RecordRef, Retry, Runtime, Sending, Subscriber, Subscription,
};
use parking_lot::Mutex;

/// One worker and nobody to take over from it, one thread for blocking handlers: if either ended, nothing
/// would go on.
const ALONE: Shape = Shape { workers: 1, lanes: 4 };

fn alone() -> Runtime {
    quiet_panics();
    let config = ALONE.config().spares(0).blocking_threads(1);
    Runtime::builder().config(config).build().unwrap()
}

fn skipping() -> Subscription {
    Subscription::new("o").skip()
}

/// Every lane and every kind of handler still works.
#[track_caller]
fn assert_alive(runtime: &Runtime) {
    let kinds = [
        Handler::sync(|_| Ok(())),
        Handler::future(|_| async { Ok(()) }),
        Handler::blocking(|_| Ok(())),
    ];
    for (number, handler) in kinds.into_iter().enumerate() {
        let policy = Subscription::new(format!("alive {number}"));
        let alive = runtime.subscribe_handler(policy, handler).unwrap();
        let receipts: Vec<_> = (0..20).map(|i| submit(&alive, &format!("k{i}"), "v")).collect();
        all_done(&receipts);
        alive.remove().wait().unwrap();
    }
}

/// How a record ends that is followed by another one of its key, which must be handled.
#[track_caller]
fn outcome_of(orders: &Subscriber, record: Record) -> Outcome {
    let receipt = orders.submit_tracked(record).unwrap();
    let next = submit(orders, "k", "next");
    let outcome = ended(&receipt);
    all_done([&next]);
    outcome
}

fn skipped(error: &str) -> Outcome {
    Outcome::Skipped(Failure { error: error.into(), attempts: 1 })
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("planned drop");
    }
}

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"bomb"
    }
}

/// An error that panics when it is shown, and when it is dropped.
#[derive(Debug)]
struct BadError;

impl fmt::Display for BadError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("planned display")
    }
}

impl std::error::Error for BadError {}

impl Drop for BadError {
    fn drop(&mut self) {
        panic!("planned drop of an error");
    }
}

fn is_x(record: &Record) -> bool {
    name_of(record) == "x"
}

#[test]
fn in_a_call_or_a_poll() {
    let cases: [(&str, Handler); 5] = [
        (
            "sync",
            Handler::sync(|record| {
                if is_x(record) { panic!("planned {}", record.attempt()) } else { Ok(()) }
            }),
        ),
        (
            "blocking",
            Handler::blocking(|record| {
                if is_x(&record) { panic!("planned {}", record.attempt()) } else { Ok(()) }
            }),
        ),
        (
            "call",
            Handler::future(|record| {
                if is_x(&record) {
                    panic!("planned {}", record.attempt())
                }
                async { Ok(()) }
            }),
        ),
        (
            "first poll",
            Handler::future(|record| async move {
                if is_x(&record) { panic!("planned {}", record.attempt()) } else { Ok(()) }
            }),
        ),
        (
            "later poll",
            Handler::future(|record: RecordRef| {
                let mut polls = 0;
                poll_fn(move |cx| {
                    polls += 1;
                    if polls < 3 {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    assert!(!is_x(&record), "planned {}", record.attempt());
                    Poll::Ready(Ok(()))
                })
            }),
        ),
    ];
    for (case, handler) in cases {
        println!("{case}");
        let runtime = alone();
        let policy = skipping().retry(Retry::fixed(Duration::ZERO).attempts(2));
        let orders = runtime.subscribe_handler(policy, handler).unwrap();
        let outcome = outcome_of(&orders, Record::new("k", "x"));
        let failure = Failure { error: "panicked: planned 2".into(), attempts: 2 };
        assert_eq!(outcome, Outcome::Skipped(failure));
        assert_eq!(runtime.snapshot().outcomes.panics, 2);
        assert_alive(&runtime);
    }
}

#[test]
fn in_a_futures_drop() {
    let (runtime, clock) = (alone(), VirtualClock::new());
    let at_end = Handler::future(|record: RecordRef| {
        let bomb = is_x(&record).then(|| Bomb);
        poll_fn(move |_| {
            let _ = &bomb;
            Poll::Ready(Ok(()))
        })
    });
    let orders = runtime.subscribe_handler(skipping(), at_end).unwrap();
    assert_eq!(outcome_of(&orders, Record::new("k", "x")), skipped("panicked: planned drop"));
    assert_alive(&runtime);

    // Dropped by its deadline; then by the close.
    let never = || {
        Handler::future(|record: RecordRef| {
            let bomb = is_x(&record).then(|| Bomb);
            poll_fn(move |_| if bomb.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) })
        })
    };
    let config = ALONE.config().spares(0);
    let timed = Runtime::builder().config(config).clock(clock.clone()).build().unwrap();
    let policy = skipping().deadline(Duration::from_secs(1));
    let orders = timed.subscribe_handler(policy, never()).unwrap();
    let x = submit(&orders, "k", "x");
    let next = submit(&orders, "k", "next");
    settle(&timed);
    clock.advance(Duration::from_secs(1));
    assert_eq!(ended(&x), skipped("the attempt did not end within 1s"));
    all_done([&next]);
    assert_alive(&timed);

    let orders = runtime.subscribe_handler(Subscription::new("p"), never()).unwrap();
    let x = submit(&orders, "k", "x");
    until("it is pending", || runtime.snapshot().busy.len() == 1);
    let report = runtime.close(Duration::ZERO).unwrap();
    assert_eq!((ended(&x), report.records.len()), (Outcome::Abandoned, 1));
}

#[test]
fn in_a_payloads_drop() {
    let kinds = [
        Handler::sync(|_| Ok(())),
        Handler::future(|record: RecordRef| {
            let mut waited = false;
            poll_fn(move |cx| {
                let _ = &record;
                if std::mem::replace(&mut waited, true) {
                    return Poll::Ready(Ok(()));
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        }),
        Handler::blocking(|_| Ok(())),
    ];
    for handler in kinds {
        println!("{handler:?}");
        let runtime = alone();
        let orders = runtime.subscribe_handler(skipping(), handler).unwrap();
        let record = Record::from_bytes(Some(b"k"), Bytes::from_owner(Bomb));
        assert_eq!(
            outcome_of(&orders, record),
            Outcome::Done,
            "it was handled before it was dropped"
        );
        until("the drop's panic is counted", || runtime.snapshot().outcomes.panics == 1);
        assert_alive(&runtime);
    }
}

/// What a source delivered and may not be handled any more is dropped by the worker.
#[test]
fn in_the_drop_of_a_payload_that_is_not_handled() {
    let (runtime, holds, log) = (alone(), Holds::new(&["gate"]), Log::default());
    let (hold, logged) = (holds.handle(), log.clone());
    let orders = runtime
        .subscribe(skipping(), move |record: &Record| {
            logged.add(name_of(record));
            hold.block(&name_of(record));
            Ok(())
        })
        .unwrap();
    let options = SourceOptions {
        name: "orders/0".into(),
        window: None,
        resume: None,
        waker: Waker::noop().clone(),
    };
    let mut source = orders.source(options).unwrap();
    let gate = submit(&orders, "k", "gate");
    until("the lane is kept", || log.has("gate"));
    let record = Record::from_bytes(Some(b"k"), Bytes::from_owner(Bomb));
    source.deliver(record.with_position(Position { partition: 0, offset: 0 })).unwrap();
    source.stop();
    holds.open("gate");
    all_done([&gate]);
    until("it is given up", || runtime.snapshot().outcomes.abandoned == 1);
    assert_alive(&runtime);
    assert_eq!(log.all(), ["gate"]);
}

#[test]
fn in_what_an_error_says_and_in_its_drop() {
    fn fails(record: &Record) -> Handled {
        if is_x(record) { Err(HandlerError::retryable(BadError)) } else { Ok(()) }
    }
    let kinds = [
        Handler::sync(fails),
        Handler::future(|record: RecordRef| async move { fails(&record) }),
        Handler::blocking(|record| fails(&record)),
    ];
    for handler in kinds {
        println!("{handler:?}");
        let runtime = alone();
        let orders = runtime.subscribe_handler(skipping(), handler).unwrap();
        let outcome = outcome_of(&orders, Record::new("k", "x"));
        assert_eq!(outcome, skipped("panicked: planned display"));
        assert_alive(&runtime);
    }
}

/// The subscription is gone when the attempt fails: nobody asks what the error says, and it is dropped.
#[test]
fn in_the_drop_of_an_error_that_nobody_asks_for() {
    let holds = Holds::new(&["future", "blocking"]);
    let (hold, other) = (holds.handle(), holds.handle());
    let kinds = [
        (
            "future",
            Handler::future(move |_| {
                let hold = hold.clone();
                async move {
                    hold.pass("future").await;
                    Err(HandlerError::retryable(BadError))
                }
            }),
        ),
        (
            "blocking",
            Handler::blocking(move |_| {
                other.block("blocking");
                Err(HandlerError::retryable(BadError))
            }),
        ),
    ];
    for (name, handler) in kinds {
        let runtime = alone();
        let orders = runtime.subscribe_handler(skipping(), handler).unwrap();
        let x = submit(&orders, "k", "x");
        until("it runs", || runtime.snapshot().busy.len() == 1);
        let removal = orders.remove();
        // A visit that began before would still go by the policy.
        settle(&runtime);
        holds.open(name);
        assert_eq!(ended(&x), Outcome::Abandoned);
        assert_eq!(removal.wait().unwrap().len(), 1);
        assert_alive(&runtime);
    }
}

#[test]
fn in_the_drop_of_a_handler() {
    let bombs = || {
        let (first, second, third) = (Bomb, Bomb, Bomb);
        [
            Handler::sync(move |_| {
                let _ = &first;
                Ok(())
            }),
            Handler::future(move |_| {
                let _ = &second;
                async { Ok(()) }
            }),
            Handler::blocking(move |_| {
                let _ = &third;
                Ok(())
            }),
        ]
    };
    let runtime = alone();
    for handler in bombs() {
        println!("{handler:?}");
        let orders = runtime.subscribe_handler(skipping(), handler).unwrap();
        all_done([&submit(&orders, "k", "v")]);
        orders.swap(Handler::sync(|_| Ok(()))).wait().unwrap();
        all_done([&submit(&orders, "k", "v")]);
        orders.remove().wait().unwrap();
        assert_alive(&runtime);
    }
    for handler in bombs() {
        let orders = runtime.subscribe_handler(skipping(), handler).unwrap();
        all_done([&submit(&orders, "k", "v")]);
        drop(orders.remove()); // and dropped with it
        assert_alive(&runtime);
    }
}

/// The last to hold a blocking handler is its thread, if it was swapped meanwhile.
#[test]
fn in_the_drop_of_a_blocking_handler_on_its_own_thread() {
    let (runtime, holds) = (alone(), Holds::new(&["x"]));
    let (hold, bomb) = (holds.handle(), Bomb);
    let orders = runtime
        .subscribe_blocking(skipping(), move |record: RecordRef| {
            let _ = &bomb;
            hold.block(&name_of(&record));
            Ok(())
        })
        .unwrap();
    let x = submit(&orders, "k", "x");
    until("it runs", || runtime.snapshot().blocking == (1, 0));
    let swap = orders.swap(Handler::blocking(|_| Ok(())));
    holds.open("x");
    all_done([&x]);
    swap.wait().unwrap();
    assert_eq!(outcome_of(&orders, Record::new("k", "x")), Outcome::Done);
    assert_alive(&runtime);
}

/// A sink that panics where it is told to, the first time it is used.
struct BadSink {
    place: &'static str,
    sends: Arc<AtomicUsize>,
}

impl DeadLetter for BadSink {
    fn send(&self, _: Letter) -> Sending {
        let place = if self.sends.fetch_add(1, Ordering::Relaxed) == 0 { self.place } else { "" };
        assert!(place != "send", "planned");
        let bomb = (place == "drop").then(|| Bomb);
        Box::pin(async move {
            assert!(place != "poll", "planned");
            let _bomb = bomb;
            Ok(())
        })
    }
}

/// The letter may not have arrived: it is sent again.
#[test]
fn in_a_sink() {
    for place in ["send", "poll", "drop"] {
        println!("{place}");
        let runtime = alone();
        let sends = Arc::new(AtomicUsize::new(0));
        let sink = BadSink { place, sends: sends.clone() };
        let policy = Subscription::new("o").dead_letter_to(sink);
        let orders = runtime
            .subscribe(
                policy,
                |record: &Record| {
                    if is_x(record) { Err("no".into()) } else { Ok(()) }
                },
            )
            .unwrap();
        let outcome = outcome_of(&orders, Record::new("k", "x"));
        let failure = Failure { error: "no".into(), attempts: 1 };
        assert_eq!(outcome, Outcome::DeadLettered(failure));
        assert_eq!(sends.load(Ordering::Relaxed), 2);
        assert_alive(&runtime);
    }
}

struct BadWaker;

impl Wake for BadWaker {
    fn wake(self: Arc<Self>) {
        panic!("planned wake");
    }
}

/// Whoever waits for a receipt brings a waker of its own.
#[test]
fn in_a_waker() {
    let (runtime, holds) = (alone(), Holds::new(&["x"]));
    let hold = holds.handle();
    let orders = runtime
        .subscribe_async(skipping(), move |record: RecordRef| {
            let hold = hold.clone();
            async move {
                hold.pass(&name_of(&record)).await;
                Ok(())
            }
        })
        .unwrap();
    let mut x = pin!(orders.submit_tracked(Record::new("k", "x")).unwrap());
    let waker = Waker::from(Arc::new(BadWaker));
    assert!(x.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let next = submit(&orders, "k", "next");
    holds.open("x");
    all_done([&next]);
    assert_eq!(x.outcome(), Some(Outcome::Done));
    assert_alive(&runtime);
}

#[test]
fn in_a_notice_or_a_threads_hook() {
    quiet_panics();
    let config = ALONE.config().spares(0).blocking_threads(1);
    let runtime = Runtime::builder()
        .config(config)
        .on_notice(|_| panic!("planned notice"))
        .on_thread_start(|_| panic!("planned start"))
        .on_thread_stop(|_| panic!("planned stop"))
        .build()
        .unwrap();
    let orders =
        runtime.subscribe(Subscription::new("o"), |_: &Record| Err("stops".into())).unwrap();
    assert!(matches!(ended(&submit(&orders, "k", "x")), Outcome::Stopped(_)));
    assert_alive(&runtime);
    assert!(runtime.close(Duration::from_secs(60)).is_ok());
}

/// The monitor looks at the table, and may be the last to hold an old one: a subscription's sink goes with it.
#[test]
fn in_the_drop_of_a_sink_on_the_monitors_thread() {
    quiet_panics();
    let (holds, log) = (Arc::new(Holds::new(&["slow"])), Log::default());
    let mine = Arc::new(Mutex::new(None::<(Subscriber, Subscriber)>));
    let (own, opens, logged) = (mine.clone(), holds.clone(), log.clone());
    let runtime = Runtime::builder()
        .config(ALONE.config().spares(0))
        .on_notice(move |notice| {
            // On the monitor's thread, with its table in hand.
            let Notice::Overrun { .. } = notice else { return };
            let Some((orders, other)) = own.lock().take() else { return };
            until("nobody else has a handle", || logged.has("let go"));
            drop(orders.remove());
            drop(orders);
            let next = submit(&other, "k", "next");
            opens.open("slow");
            all_done([&next]); // so the worker has the new table
        })
        .build()
        .unwrap();
    let (hold, bomb, dropped) = (holds.handle(), Bomb, OnMonitor(log.clone()));
    let policy = Subscription::new("o").dead_letter_to(move |_: &Letter| {
        let _own = (&bomb, &dropped);
        Ok(())
    });
    let orders = runtime
        .subscribe(policy, move |record: &Record| {
            hold.block(&name_of(record));
            Ok(())
        })
        .unwrap();
    let other = runtime.subscribe(Subscription::new("other"), |_: &Record| Ok(())).unwrap();
    *mine.lock() = Some((orders.clone(), other));
    let slow = submit(&orders, "k", "slow");
    drop(orders);
    log.add("let go");
    all_done([&slow]);
    until("the sink goes with the monitor's table", || log.has("dropped by the monitor"));
    // Only the monitor fires timers.
    let policy = Subscription::new("retries").retry(Retry::fixed(Duration::from_millis(20)));
    let retries = runtime
        .subscribe(policy, |record: &Record| {
            if record.attempt() == 1 { Err(HandlerError::retryable("once")) } else { Ok(()) }
        })
        .unwrap();
    all_done([&submit(&retries, "k", "v")]);
    assert_alive(&runtime);
}

/// Logs that the monitor dropped it.
struct OnMonitor(Log);

impl Drop for OnMonitor {
    fn drop(&mut self) {
        if std::thread::current().name().is_some_and(|name| name.ends_with("-mon")) {
            self.0.add("dropped by the monitor");
        }
    }
}
