//! What a runtime says of itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "testing")]

#[path = "support/lifecycle.rs"]
mod support;

use std::time::{Duration, Instant};

use keylane::testing::{VirtualClock, settle};
use keylane::{
    Bound, Config, HandlerError, Letter, MemoryBus, Notice, Phase, Pinning, Record, RecordRef,
    Retry, Runtime, Subscription, Why,
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
    let held: Vec<_> =
        snapshot.bounds.iter().map(|used| (used.bound, used.key.as_deref())).collect();
    let first = (Bound::BlockingThreads, Some(&b"first"[..]));
    assert_eq!(held, [(Bound::KeyWaiting, Some(&b"second"[..])), first], "{snapshot:?}");
    let why = |key: &[u8]| {
        &snapshot.busy.iter().find(|busy| busy.key.as_deref() == Some(key)).unwrap().why
    };
    assert_eq!((why(b"first"), why(b"second")), (&Why::Blocking, &Why::WaitsForThread));
    assert!(snapshot.bounds.iter().all(|used| used.held_for.is_some() && used.lane == Some(0)));
    let oldest = &snapshot.busy[0];
    assert_eq!(
        (oldest.key.as_deref(), oldest.bound),
        (Some(&b"second"[..]), Some(Bound::KeyWaiting))
    );
    assert_eq!(snapshot.lanes[0].depth, 2, "the lane stopped");
    door.open();
    assert!(runtime.close(HANG).unwrap().drained);
}

/// Each source by its name: how far it is, and what holds it.
#[test]
fn sources_say_how_far_they_are() {
    let clock = VirtualClock::new();
    let config = Config::default().lanes(1).slots(100).workers(1).source_window(3);
    let runtime =
        Runtime::builder().config(config).clock(clock.clone()).on_notice(|_| ()).build().unwrap();
    let bus = MemoryBus::new(&runtime).unwrap();
    let door = Door::new();
    let hang = door.clone();
    bus.subscribe_blocking("orders", Subscription::new("billing"), move |record: RecordRef| {
        if record.key() == Some(b"slow") {
            hang.pass();
        }
        if record.payload() == b"bad" { Err("broken".into()) } else { Ok(()) }
    })
    .wait()
    .unwrap();
    bus.publish("orders", Record::new("quick", "0")).wait().unwrap();
    // What is finished is committed, on this clock, only when time goes on.
    let until = |what: &str, done: &dyn Fn(&keylane::Snapshot) -> bool| {
        let begun = Instant::now();
        loop {
            clock.advance(Duration::from_millis(5));
            settle(&runtime);
            let snapshot = runtime.snapshot();
            if done(&snapshot) {
                return snapshot;
            }
            assert!(begun.elapsed() < HANG, "{what}: {snapshot:?}");
        }
    };
    let snapshot = until("it is finished", &|snapshot| snapshot.sources[0].finished == 1);
    let [source] = &snapshot.sources[..] else { panic!("{snapshot:?}") };
    assert_eq!((&*source.name, &*source.subscription), ("orders/0", "billing"));
    assert_eq!((source.delivered, source.frontier, source.lag, source.window), (1, Some(1), 0, 0));
    assert_eq!((source.window_limit, source.oldest, source.stopped), (3, None, false));
    let epoch = source.epoch;

    for (key, payload) in [("slow", "1"), ("slow", "2"), ("quick", "3"), ("slow", "bad")] {
        bus.publish("orders", Record::new(key, payload)).wait().unwrap();
    }
    door.wait_for(1);
    let snapshot = until("its window is full", &|snapshot| {
        let held = !snapshot.bounds.is_empty() && snapshot.bounds[0].key.is_some();
        held && snapshot.outcomes.done == 2 // both that are quick
    });
    let source = &snapshot.sources[0];
    assert_eq!((source.delivered, source.frontier, source.lag), (4, Some(1), 4));
    assert_eq!((source.window, source.oldest), (3, Some(1)));
    let [used] = &snapshot.bounds[..] else { panic!("{:?}", snapshot.bounds) };
    assert_eq!((used.bound, used.source.as_deref()), (Bound::SourceWindow, Some("orders/0")));
    assert_eq!((used.offset, used.key.as_deref()), (Some(1), Some(&b"slow"[..])));
    assert!(used.held_for.is_some());
    let busy = &snapshot.busy[0];
    assert_eq!((busy.bound, busy.source.as_deref()), (Some(Bound::SourceWindow), Some("orders/0")));
    assert_eq!(busy.position.map(|position| position.offset), Some(1));
    let text = used.to_string();
    let begins =
        "`source_window` is used up: held by key slow of \"billing\" from orders/0 at offset 1";
    assert!(text.starts_with(begins), "{text}");

    door.open();
    let snapshot = until("it stops behind all others", &|snapshot| {
        snapshot.sources[0].stopped && snapshot.sources[0].frontier == Some(4)
    });
    let source = &snapshot.sources[0];
    assert_eq!(source.stopped_by.as_ref().map(|failure| &*failure.error), Some("broken"));
    assert_eq!((source.oldest, source.epoch), (Some(4), epoch));
    assert!(snapshot.bounds.is_empty());

    clock.advance(Duration::from_millis(5));
    settle(&runtime); // the frontier is committed
    bus.crash_consumer("billing").unwrap();
    let snapshot = until("it has stopped anew", &|snapshot| {
        snapshot.sources.first().is_some_and(|source| source.stopped)
    });
    assert_ne!(snapshot.sources[0].epoch, epoch);
    assert_eq!((snapshot.sources.len(), snapshot.sources[0].delivered), (1, 1));
    assert!(bus.close(Duration::ZERO).wait().is_ok());
    assert!(runtime.snapshot().sources.is_empty());
}

/// That workers are not bound to cores is said once when it is declined, and by every snapshot.
#[test]
fn declined_pinning_is_told() {
    let said = std::sync::Arc::new(parking_lot::Mutex::new(None));
    let heard = said.clone();
    let runtime = Runtime::builder()
        .workers(3)
        .pinning(Pinning::Cores(vec![0]))
        .on_notice(move |notice| {
            if let Notice::NotPinned { reason } = notice {
                *heard.lock() = Some(reason.clone());
            }
        })
        .build()
        .unwrap();
    let told = runtime.snapshot().not_pinned;
    assert!(told.is_some() && told == *said.lock(), "{told:?}");
    assert_eq!(narrow(10).pinning(Pinning::Off).build().unwrap().snapshot().not_pinned, None);
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
    assert_eq!(runtime.snapshot().phase, Phase::Stopped);
    assert_eq!(runtime.snapshot().outcomes.done, 3);
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
    assert_eq!(
        (&json["sources"], &json["bounds"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    runtime.stop_now();
    let report = runtime.close(HANG).unwrap();
    assert_eq!(report.records.len(), 1);
}
