//! What a runtime says of itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "testing")]

#[path = "support/lifecycle.rs"]
mod support;

use std::time::{Duration, Instant};

use keylane::testing::{VirtualClock, settle};
use keylane::{
    Bound, Config, HandlerError, Letter, Phase, Record, Retry, Runtime, Subscription, Why,
};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_quiet_runtime() {
    let runtime = narrow(10).build().unwrap();
    let log = Log::new();
    let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
    (0..3).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    settle(&runtime);
    let snapshot = runtime.snapshot();
    assert_eq!(
        (snapshot.phase, snapshot.in_flight, snapshot.outcomes.done),
        (Phase::Running, 0, 3)
    );
    assert_eq!((snapshot.workers.len(), snapshot.spares), (1, 0));
    let worker = &snapshot.workers[0];
    assert!(worker.asleep && worker.running.is_none());
    assert_eq!((worker.attempts, worker.waiting), (3, 0));
    assert!(worker.visits > 0 && worker.parks > 0);
    assert!(snapshot.busy.is_empty() && snapshot.bounds.is_empty());
    assert_eq!(snapshot.lanes[0].handled, 3);
    assert_eq!(snapshot.subscriptions[0].name, "s");
    assert_eq!(snapshot, runtime.snapshot());
}

#[test]
fn keys_that_wait_say_why() {
    let clock = VirtualClock::new();
    let runtime = narrow(100).clock(clock.clone()).build().unwrap();
    let door = Door::new();
    let fails = |_: &Record| Err(HandlerError::retryable("no\nluck"));
    let retries = runtime
        .subscribe(Subscription::new("retries").retry(Retry::fixed(8 * SECOND).forever()), fails)
        .unwrap();
    let parks = runtime
        .subscribe(Subscription::new("parks").dead_letter_to(|_: &Letter| Ok(())).park_key(), fails)
        .unwrap();
    let letters = runtime
        .subscribe(
            Subscription::new("letters")
                .dead_letter_to(|_: &Letter| Err(HandlerError::retryable("shut"))),
            fails,
        )
        .unwrap();
    let pends =
        runtime.subscribe_async(Subscription::new("pends"), |_| std::future::pending()).unwrap();
    let hang = door.clone();
    let blocks = runtime
        .subscribe_blocking(Subscription::new("blocks"), move |_| {
            hang.pass();
            Ok(())
        })
        .unwrap();
    for subscriber in [&retries, &parks, &letters, &pends, &blocks] {
        (0..3).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    }
    door.wait_for(1);
    settle(&runtime);
    let snapshot = runtime.snapshot();
    let of = |name: &str| snapshot.busy.iter().find(|key| key.subscription == name).unwrap();
    let Why::Retry { after, error } = &of("retries").why else { panic!("{:?}", of("retries")) };
    assert!((4 * SECOND..=8 * SECOND).contains(after));
    assert_eq!(&**error, "no\\nluck");
    assert_eq!(of("letters").why, Why::DeadLetter { sends: 1 });
    assert_eq!((&of("pends").why, &of("blocks").why), (&Why::Future, &Why::Blocking));
    for name in ["retries", "letters", "pends", "blocks"] {
        let key = of(name);
        assert_eq!((key.waiting, key.attempt, key.key.as_deref()), (2, 1, Some(&b"k"[..])));
    }
    assert_eq!((snapshot.in_flight, snapshot.blocking), (12, (1, 0)));
    let parked = snapshot.subscriptions.iter().find(|s| s.name == "parks").unwrap();
    assert_eq!((parked.parked_keys, parked.parked[0].followed), (1, 2));
    assert_eq!(parks.parked(), parked.parked);
    assert_eq!((snapshot.outcomes.dead_lettered, snapshot.outcomes.parked), (1, 2));
    let running =
        |name: &str| snapshot.subscriptions.iter().find(|s| s.name == name).unwrap().running;
    assert_eq!((running("pends"), running("blocks"), running("retries")), (1, 1, 0));
    clock.advance(SECOND);
    settle(&runtime);
    (0..9).for_each(|n| pends.submit(numbered("late", n)).unwrap());
    settle(&runtime);
    let oldest = runtime.snapshot().oldest.unwrap();
    assert_eq!((oldest.key.as_deref(), oldest.held_for), (Some(&b"k"[..]), SECOND));
    door.open();
    runtime.stop_now();
}

#[test]
fn bounds_in_use_are_named() {
    let config = Config::default().spares(0).key_waiting(2).blocking_threads(1);
    let runtime = Runtime::builder()
        .config(config)
        .lanes(1)
        .slots(10)
        .workers(1)
        .on_notice(|_| ())
        .build()
        .unwrap();
    let door = Door::new();
    let hang = door.clone();
    let subscriber = runtime
        .subscribe_blocking(Subscription::new("s"), move |_| {
            hang.pass();
            Ok(())
        })
        .unwrap();
    subscriber.submit(numbered("first", 0)).unwrap();
    subscriber.submit(numbered("second", 1)).unwrap();
    (2..6).for_each(|n| subscriber.submit(numbered("second", n)).unwrap());
    door.wait_for(1);
    settle(&runtime);
    let snapshot = runtime.snapshot();
    assert!(snapshot.bounds.contains(&Bound::KeyWaiting), "{snapshot:?}");
    assert!(snapshot.bounds.contains(&Bound::BlockingThreads), "{snapshot:?}");
    let oldest = &snapshot.busy[0];
    assert_eq!(
        (oldest.key.as_deref(), oldest.bound),
        (Some(&b"second"[..]), Some(Bound::KeyWaiting))
    );
    assert_eq!(snapshot.lanes[0].depth, 2, "the lane stopped");
    door.open();
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn a_snapshot_does_not_wait_for_a_hung_lane() {
    let runtime = narrow(10).build().unwrap();
    let door = Door::new();
    let hang = door.clone();
    let subscriber = runtime
        .subscribe(Subscription::new("s"), move |_: &Record| {
            hang.pass();
            Ok(())
        })
        .unwrap();
    (0..3).for_each(|n| subscriber.submit(numbered("k", n)).unwrap());
    door.wait_for(1);
    let begun = Instant::now();
    let snapshot = runtime.snapshot();
    assert!(begun.elapsed() < 10 * SECOND);
    let running = snapshot.workers[0].running.as_ref().unwrap();
    assert_eq!((running.subscription.as_str(), running.key.as_deref()), ("s", Some(&b"k"[..])));
    assert_eq!((snapshot.lanes[0].depth, snapshot.in_flight), (2, 2));
    let closing = runtime.close_async(HANG);
    assert_eq!(runtime.snapshot().phase, Phase::Closing);
    door.open();
    assert!(closing.wait().unwrap().drained);
    let begun = Instant::now();
    assert_eq!(runtime.snapshot().phase, Phase::Stopped);
    assert_eq!(runtime.snapshot().outcomes.done, 3);
    assert!(begun.elapsed() < SECOND, "nobody is asked any more");
}

#[cfg(feature = "serde")]
#[test]
fn a_snapshot_is_serialised() {
    let runtime = narrow(10).build().unwrap();
    let subscriber =
        runtime.subscribe_async(Subscription::new("s"), |_| std::future::pending()).unwrap();
    subscriber.submit(numbered("k", 0)).unwrap();
    settle(&runtime);
    let json = serde_json::to_value(runtime.snapshot()).unwrap();
    assert_eq!(json["phase"], "Running");
    assert_eq!(json["busy"][0]["why"], "Future");
    assert_eq!(json["outcomes"]["done"], 0);
    assert_eq!(json["lanes"].as_array().unwrap().len(), 1);
    runtime.stop_now();
    let report = runtime.close(HANG).unwrap();
    assert_eq!(report.records.len(), 1);
}
