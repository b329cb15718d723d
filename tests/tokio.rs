//! The feature `tokio`: handlers inside a tokio runtime, and what is said of blocking calls there.
#![cfg(all(feature = "tokio", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use keylane::testing::VirtualClock;
use keylane::{Handler, Notice, Record, Runtime, Subscription};
use tokio::runtime::Builder;

#[test]
fn handlers_may_use_the_tokio_runtime_they_are_given() {
    let tokio = Builder::new_current_thread().build().unwrap();
    let runtime = Runtime::builder().workers(2).tokio(tokio.handle().clone()).build().unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = handled.clone();
    let subscriber = runtime
        .subscribe_async(Subscription::new("s"), move |record| {
            let counted = counted.clone();
            async move {
                // Both need the runtime to be entered where they are called.
                let length = tokio::spawn(async move { record.payload().len() }).await?;
                counted.fetch_add(length, Ordering::Relaxed);
                Ok(())
            }
        })
        .unwrap();
    let receipts: Vec<_> = (0..100)
        .map(|i: u32| subscriber.submit_tracked(Record::new(i.to_le_bytes(), "ab")).unwrap())
        .collect();
    // The tokio runtime's only thread drives its tasks while it awaits the receipts.
    tokio.block_on(async {
        for receipt in receipts {
            assert!(receipt.await.is_done());
        }
    });
    assert_eq!(handled.load(Ordering::Relaxed), 200);
    tokio.block_on(runtime.close_async(Duration::from_secs(5)));
}

#[test]
fn a_blocking_submit_in_async_code_is_reported_once() {
    let clock = VirtualClock::new();
    let notices = Arc::new(Mutex::new(Vec::new()));
    let noted = notices.clone();
    let runtime = Runtime::builder()
        .workers(1)
        .lanes(1)
        .slots(1)
        .wait(Duration::ZERO)
        .clock(clock.clone())
        .on_notice(move |notice| noted.lock().unwrap().push(notice.clone()))
        .build()
        .unwrap();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = gate.clone();
    let subscriber = runtime
        .subscribe_handler(
            Subscription::new("s"),
            Handler::sync(move |_: &Record| {
                // Holds the lane up until the test lets it go.
                let open = held.0.lock().unwrap();
                drop(held.1.wait_while(open, |open| !*open).unwrap());
                Ok(())
            }),
        )
        .unwrap();
    let tokio = Builder::new_current_thread().build().unwrap();
    tokio.block_on(async {
        let mut full = 0;
        while full < 2 {
            full += usize::from(subscriber.submit(Record::new("k", "")).is_err());
        }
    });
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    let said =
        notices.lock().unwrap().iter().filter(|notice| **notice == Notice::BlockingInAsync).count();
    assert_eq!(said, 1);
    runtime.close(Duration::from_secs(5)).unwrap();
}
