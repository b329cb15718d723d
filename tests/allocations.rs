//! What the steady path allocates: nothing, from taking a record's block to its return.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/counting.rs"]
mod counting;
#[path = "support/dispatch.rs"]
mod dispatch;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use counting::{Counting, allocations, join, new_group};
use dispatch::{Holds, Shape, name_of};
use keylane::{Envelope, Handler, Record, RecordRef, Runtime, Subscriber, Subscription};
use parking_lot::{Condvar, Mutex};

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test at a time: they share the count.
static ALONE: Mutex<()> = Mutex::new(());

/// Records under way at once, at most.
const WINDOW: u64 = 100;
/// Windows that are counted.
const WINDOWS: u64 = 100;

const SHAPES: [Shape; 2] = [Shape { workers: 1, lanes: 8 }, Shape { workers: 2, lanes: 8 }];

/// What sends a window of records.
type Send = dyn Fn(&Subscriber, &mut Vec<Record>);

fn one_by_one(orders: &Subscriber, _: &mut Vec<Record>) {
    for i in 0..WINDOW {
        orders.submit(record(i)).unwrap();
    }
}

fn in_batches(orders: &Subscriber, batch: &mut Vec<Record>) {
    batch.extend((0..WINDOW).map(record));
    orders.submit_batch(batch).unwrap();
}

fn record(i: u64) -> Record {
    Record::new((i % 64).to_le_bytes(), "a payload of some length")
}

/// Allocations of all threads concerned while `WINDOWS` windows of records go through, after a warm-up.
fn steady(shape: Shape, send: &Send, make: impl Fn(Arc<AtomicU64>) -> Handler) -> u64 {
    let config = shape.config().overrun(Duration::from_secs(60)); // a notice of an overrun allocates
    let group = new_group();
    let builder = Runtime::builder().config(config).on_thread_start(move |_| join(group));
    let runtime = builder.build().unwrap();
    let handled = Arc::new(AtomicU64::new(0));
    let orders = runtime.subscribe_handler(Subscription::new("o"), make(handled.clone())).unwrap();

    // Far more blocks than are ever under way later.
    fill_the_pool(&runtime);
    let mut batch = Vec::with_capacity(WINDOW as usize);
    let mut windows = |count: u64| {
        let until = handled.load(Ordering::Acquire) + count * WINDOW;
        for _ in 0..count {
            let window = handled.load(Ordering::Acquire) + WINDOW;
            send(&orders, &mut batch);
            while handled.load(Ordering::Acquire) < window {
                std::thread::yield_now();
            }
        }
        assert_eq!(handled.load(Ordering::Acquire), until);
    };
    windows(300);
    keylane::testing::settle(&runtime); // every thread has slept once, for what a first sleep allocates
    sleep_once();
    join(group);
    windows(100);
    let before = allocations();
    windows(WINDOWS);
    allocations() - before
}

fn fill_the_pool(runtime: &Runtime) {
    let holds = Holds::new(&["gate"]);
    let hold = holds.handle();
    let filler = runtime
        .subscribe(Subscription::new("filler"), move |record: &Record| {
            hold.block(&name_of(record));
            Ok(())
        })
        .unwrap();
    let receipts: Vec<_> = (0..2_000u64)
        .map(|i| filler.submit_tracked(Record::new(i.to_le_bytes(), "gate")).unwrap())
        .collect();
    holds.open("gate");
    dispatch::all_done(&receipts);
}

fn sleep_once() {
    let (lock, condvar) = (Mutex::new(()), Condvar::new());
    condvar.wait_for(&mut lock.lock(), Duration::from_micros(1));
}

#[test]
fn a_sync_record_allocates_nothing() {
    let _alone = ALONE.lock();
    for shape in SHAPES {
        for (how, send) in [("one by one", &one_by_one as &Send), ("in batches", &in_batches)] {
            let allocated = steady(shape, send, |handled| {
                Handler::sync(move |_| {
                    handled.fetch_add(1, Ordering::Release);
                    Ok(())
                })
            });
            assert_eq!(allocated, 0, "{shape:?}, {how}, {} records", WINDOW * WINDOWS);
        }
    }
}

#[test]
fn an_async_record_that_is_ready_at_its_first_poll_allocates_nothing() {
    let _alone = ALONE.lock();
    for shape in SHAPES {
        let allocated = steady(shape, &one_by_one, |handled| {
            // Boxes for futures are kept, as many as were polled for the first time at once: the first
            // records meet there, so that it is one a worker before anything is counted.
            let (calls, meeting) = (AtomicU64::new(0), Arc::new(Barrier::new(shape.workers)));
            Handler::future(move |record: RecordRef| {
                let first = calls.fetch_add(1, Ordering::Relaxed) < shape.workers as u64;
                let meeting = first.then(|| meeting.clone());
                let handled = handled.clone();
                async move {
                    meeting.inspect(|meeting| {
                        meeting.wait();
                    });
                    assert!(record.key().is_some());
                    handled.fetch_add(1, Ordering::Release);
                    Ok(())
                }
            })
        });
        assert_eq!(allocated, 0, "{shape:?}, {} records", WINDOW * WINDOWS);
    }
}

/// The count sees what handlers allocate: it would see what the runtime does.
#[test]
fn what_a_handler_allocates_is_seen() {
    let _alone = ALONE.lock();
    let allocated = steady(SHAPES[0], &one_by_one, |handled| {
        Handler::sync(move |record| {
            std::hint::black_box(Box::new(record.payload().len()));
            handled.fetch_add(1, Ordering::Release);
            Ok(())
        })
    });
    assert_eq!(allocated, WINDOW * WINDOWS);
}

#[test]
fn decoding_an_envelope_without_escapes_allocates_nothing() {
    let _alone = ALONE.lock();
    join(new_group());
    let plain = br#"{"event_id":"e-1","aggregate_id":"order-42","event_type":"OrderPlaced","event_version":1,"timestamp":"2025-10-13T10:00:00Z","trace_id":"t","correlation_id":"c","tenant_id":7,"payload":{"amount":9,"lines":[1,2,3]}}"#;
    let before = allocations();
    for _ in 0..1_000 {
        let envelope = Envelope::decode(plain).unwrap();
        assert!(matches!(envelope.payload, Cow::Borrowed(_)));
    }
    assert_eq!(allocations() - before, 0);

    let escaped = br#"{"event_id":"e-1","aggregate_id":"order-42","event_type":"Order\tPlaced","event_version":1,"timestamp":"2025-10-13T10:00:00Z","payload":{}}"#;
    let before = allocations();
    assert_eq!(Envelope::decode(escaped).unwrap().event_type, "Order\tPlaced");
    assert_eq!(allocations() - before, 1, "the text that is not as it stands in the bytes");
}
