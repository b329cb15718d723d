//! Subscriptions and sources that are made while lanes are visited: what is submitted to them is handled, though
//! the visit that finds it began before.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dispatch.rs"]
mod dispatch;

use std::sync::Arc;
use std::task::Waker;

use dispatch::{Log, Shape, all_done, each_shape, name_of, submit, until};
use keylane::internals::{Source, SourceOptions};
use keylane::testing::settle;
use keylane::{Handled, Position, Receipt, Record, Runtime, Subscriber, Subscription};
use parking_lot::Mutex;

fn logging(log: &Log) -> impl Fn(&Record) -> Handled + Send + Sync + 'static {
    let log = log.clone();
    move |record| {
        log.add(name_of(record));
        Ok(())
    }
}

/// Runs `make` inside a handler, so that a visit is under way in the lane.
fn in_a_visit<R: Send + 'static>(
    runtime: &Runtime,
    make: impl Fn(&Runtime) -> R + Send + Sync + 'static,
) -> R {
    let made = Arc::new(Mutex::new(None));
    let (place, own) = (made.clone(), runtime.clone());
    let maker = runtime
        .subscribe(Subscription::new("maker"), move |_: &Record| {
            *place.lock() = Some(make(&own));
            Ok(())
        })
        .unwrap();
    all_done([&submit(&maker, "k", "make")]);
    maker.remove().wait().unwrap();
    made.lock().take().unwrap()
}

#[test]
fn what_is_submitted_to_a_new_subscription_in_a_visit_is_handled() {
    for workers in [1, 2] {
        let (runtime, log) = (Shape { workers, lanes: 1 }.runtime(), Log::default());
        let logged = log.clone();
        let (_, receipts): (Subscriber, Vec<Receipt>) = in_a_visit(&runtime, move |runtime| {
            let new = runtime.subscribe(Subscription::new("new"), logging(&logged)).unwrap();
            let names = ["a1", "b1", "a2", "b2", "a3"];
            (new.clone(), names.iter().map(|name| submit(&new, &name[..1], name)).collect())
        });
        all_done(&receipts);
        assert_eq!(
            (log.of("a"), log.of("b").len()),
            (vec!["a1".into(), "a2".into(), "a3".into()], 2)
        );
        settle(&runtime);
        assert_eq!(runtime.snapshot().lanes[0].keys, 0);
    }
}

#[test]
fn what_a_new_source_delivers_in_a_visit_is_handled() {
    for workers in [1, 2] {
        let (runtime, log) = (Shape { workers, lanes: 1 }.runtime(), Log::default());
        let orders = runtime.subscribe(Subscription::new("orders"), logging(&log)).unwrap();
        let mut source: Source = in_a_visit(&runtime, move |_| {
            let options = SourceOptions {
                name: "orders/0".into(),
                window: None,
                resume: None,
                waker: Waker::noop().clone(),
            };
            let mut source = orders.source(options).unwrap();
            for offset in 0..3 {
                let record = Record::new("k", offset.to_string());
                source.deliver(record.with_position(Position { partition: 0, offset })).unwrap();
            }
            source
        });
        until("all are handled", || log.len() == 3);
        settle(&runtime);
        let mut finished = Vec::new();
        source.ledger().advance(|offset| finished.push(offset));
        assert_eq!(
            (finished, log.all()),
            (vec![0, 1, 2], vec!["0".into(), "1".into(), "2".into()])
        );
        assert_eq!(runtime.snapshot().outcomes.stale, 0);
    }
}

/// Subscriptions come and go while their lanes are busy.
#[test]
fn subscriptions_that_come_and_go_lose_nothing() {
    each_shape(|shape| {
        let runtime = shape.runtime();
        let noise = runtime.subscribe(Subscription::new("noise"), |_: &Record| Ok(())).unwrap();
        let keys: Vec<_> =
            (0..shape.lanes as u32).map(|i| shape.keys_in(0, i, 1).remove(0)).collect();
        for round in 0..200 {
            keys.iter().for_each(|key| noise.submit(Record::new(key, "v")).unwrap());
            let name = format!("s{round}");
            let new = runtime.subscribe(Subscription::new(name), |_: &Record| Ok(())).unwrap();
            let receipts: Vec<_> = (0..4).map(|i| submit(&new, &format!("k{i}"), "v")).collect();
            all_done(&receipts);
            drop(new.remove());
        }
    });
}
