//! The memory bus beyond the contract that all buses share: restarts, progress, faults.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use keylane::memory::MemoryBus;
use keylane::testing::{VirtualClock, settle};
use keylane::{
    BusError, Clock, HandlerError, Letter, Notice, PublishErrorKind, Record, RecordRef, Retry,
    Runtime, SubscribeError, Subscription, Time,
};

type Seen = Arc<Mutex<Vec<(Vec<u8>, u64)>>>;

fn runtime(clock: &VirtualClock) -> Runtime {
    Runtime::builder().workers(2).lanes(1).clock(clock.clone()).build().unwrap()
}

fn note(seen: &Seen, record: &Record) {
    let position = record.position().unwrap();
    seen.lock().unwrap().push((record.payload().to_vec(), position.offset));
}

#[test]
fn what_is_not_committed_is_delivered_again_after_a_crash() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::new(&runtime).unwrap();
    let seen = Seen::default();
    let noted = seen.clone();
    let policy = Subscription::new("s").retry(Retry::fixed(Duration::from_secs(1)).forever());
    bus.subscribe("t", policy, move |record: &Record| {
        note(&noted, record);
        // The second of three fails, so the frontier stays at it.
        if record.payload() == b"b" && record.epoch() == noted.lock().unwrap().len() as u64 {
            return Ok(());
        }
        if record.payload() == b"b" { Err(HandlerError::retryable("later")) } else { Ok(()) }
    })
    .wait()
    .unwrap();
    for (key, payload) in [("1", "a"), ("2", "b"), ("3", "c")] {
        bus.publish("t", Record::new(key, payload)).wait().unwrap();
    }
    settle(&runtime);
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    let progress = &bus.progress("s")[0];
    assert_eq!((progress.frontier, progress.end, progress.unfinished), (1, 3, 1));
    let first = progress.epoch;
    bus.crash_consumer("s").unwrap();
    settle(&runtime);
    assert!(bus.progress("s")[0].epoch > first);
    let payloads: Vec<_> = seen.lock().unwrap().iter().map(|seen| seen.0.clone()).collect();
    assert_eq!(payloads, [b"a", b"b", b"c", b"b", b"c"].map(|p| p.to_vec()));
    bus.restart_consumer("s").unwrap();
    settle(&runtime);
    runtime.stop_now();
}

fn number(n: u64) -> Record {
    Record::new("key", n.to_string())
}

fn texts(seen: &Seen) -> Vec<String> {
    seen.lock().unwrap().iter().map(|s| String::from_utf8(s.0.clone()).unwrap()).collect()
}

fn noting(seen: &Seen) -> impl Fn(&Record) -> Result<(), HandlerError> + Send + Sync + 'static {
    let seen = seen.clone();
    move |record: &Record| {
        note(&seen, record);
        Ok(())
    }
}

/// A virtual clock, a runtime on it and a bus of one partition.
fn world() -> (VirtualClock, Runtime, MemoryBus) {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::new(&runtime).unwrap();
    (clock, runtime, bus)
}

#[test]
fn a_frontier_is_committed_five_milliseconds_after_the_last() {
    let (clock, runtime, bus) = world();
    let seen = Seen::default();
    bus.subscribe("t", Subscription::new("s"), noting(&seen)).wait().unwrap();
    clock.advance(Duration::from_secs(1));
    settle(&runtime);
    let frontier = || bus.progress("s")[0].frontier;
    // The first comes long after the last commit, the second right after it.
    bus.publish("t", number(0)).wait().unwrap();
    settle(&runtime);
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    assert_eq!((texts(&seen).len(), frontier()), (1, 1));
    bus.publish("t", number(1)).wait().unwrap();
    settle(&runtime);
    clock.advance(Duration::from_micros(4_999));
    settle(&runtime);
    assert_eq!((texts(&seen).len(), frontier(), bus.stored("t")), (2, 1, 1));
    clock.advance(Duration::from_micros(1));
    settle(&runtime);
    assert_eq!((frontier(), bus.stored("t")), (2, 0));
    runtime.stop_now();
}

#[test]
fn progress_tells_each_partition_and_what_stopped_it() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::builder(&runtime).partitions(3).build().unwrap();
    assert!(bus.progress("s").is_empty() && bus.stored("t") == 0);
    let seen = Seen::default();
    let failing = {
        let seen = seen.clone();
        move |record: &Record| {
            note(&seen, record);
            if record.payload() == b"bad" { Err(HandlerError::fatal("b\0ad")) } else { Ok(()) }
        }
    };
    bus.subscribe("t", Subscription::new("s"), failing).wait().unwrap();
    let mut ends = [0; 3];
    let mut bad = None;
    for key in 0..30 {
        let payload = if key == 17 { "bad" } else { "good" };
        let position = bus.publish("t", Record::new(key.to_string(), payload)).wait().unwrap();
        settle(&runtime);
        assert_eq!(position.offset, ends[position.partition as usize]);
        ends[position.partition as usize] += 1;
        bad = if key == 17 { Some(position) } else { bad };
    }
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    let bad = bad.unwrap();
    for own in bus.progress("s") {
        let end = ends[own.partition as usize];
        assert!(end > 0 && own.end == end, "{own:?}");
        if own.partition == bad.partition {
            let failure = own.stopped_by.unwrap();
            assert_eq!((&*failure.error, failure.attempts), ("b\\u{0}ad", 1));
            assert_eq!((own.frontier, own.unfinished), (bad.offset, 1));
        } else {
            assert_eq!((own.frontier, own.unfinished, own.stopped_by), (end, 0, None));
        }
    }
    // Restarted, a stopped partition goes on: at the record that stopped it.
    let before = seen.lock().unwrap().len();
    bus.crash_consumer("s").unwrap();
    settle(&runtime);
    let again: Vec<_> = seen.lock().unwrap()[before..].to_vec();
    assert_eq!(again, [(b"bad".to_vec(), bad.offset)]);
    runtime.stop_now();
}

#[test]
fn a_restart_of_nobody_is_an_error() {
    let (_clock, runtime, bus) = world();
    for restarted in [bus.crash_consumer("s"), bus.restart_consumer("s")] {
        assert!(matches!(restarted, Err(BusError::NotSubscribed(name)) if name == "s"));
    }
    bus.subscribe("t", Subscription::new("s"), |_: &Record| Ok(())).wait().unwrap();
    bus.close(Duration::ZERO).wait().unwrap();
    for restarted in [bus.crash_consumer("s"), bus.restart_consumer("s")] {
        assert!(matches!(restarted, Err(BusError::Closed)));
    }
    runtime.stop_now();
}

#[test]
fn injected_faults_end_and_touch_one_topic() {
    let (_clock, runtime, bus) = world();
    let seen = Seen::default();
    bus.subscribe("t", Subscription::new("s"), noting(&seen)).wait().unwrap();
    let kind = |n| bus.publish("t", number(n)).wait().map_err(|error| error.kind().clone());
    bus.faults().fail_publishes("t", 2);
    bus.faults().lose_results("t", 1, true);
    bus.faults().lose_results("t", 1, false);
    bus.publish("other", number(0)).wait().unwrap();
    assert!(matches!(kind(1), Err(PublishErrorKind::Failed(_))));
    assert!(matches!(kind(2), Err(PublishErrorKind::Failed(_))));
    assert!(matches!(kind(3), Err(PublishErrorKind::Unknown(_)))); // stored
    assert!(matches!(kind(4), Err(PublishErrorKind::Unknown(_)))); // lost
    assert!(kind(5).is_ok());
    settle(&runtime);
    assert_eq!(texts(&seen), ["3", "5"]);
    assert_eq!(bus.counts().published, 3);
    assert_eq!(bus.counts().failed, 4);
    runtime.stop_now();
}

#[test]
fn the_counters_move_with_each_publish_and_each_delivery() {
    let (clock, runtime, bus) = world();
    let letters = Seen::default();
    let noted = letters.clone();
    let policy = Subscription::new("s")
        .retry(Retry::fixed(Duration::from_secs(1)).attempts(2))
        .dead_letter_to(move |letter: &Letter| {
            note(&noted, &letter.record);
            Ok(())
        });
    let handler = |record: &Record| match record.payload() {
        b"bad" => Err(HandlerError::retryable("no")),
        b"panics" => std::panic::panic_any("a panic that the test wants"),
        _ => Ok(()),
    };
    bus.subscribe("t", policy, handler).wait().unwrap();
    // Published, failed; done, dead-lettered, retries, panics.
    let counters = || {
        settle(&runtime);
        let (bus, outcomes) = (bus.counts(), runtime.snapshot().outcomes);
        let outcomes = (outcomes.done, outcomes.dead_lettered, outcomes.retries, outcomes.panics);
        ((bus.published, bus.failed), outcomes)
    };
    let publish = |payload: &str| bus.publish("t", Record::new("key", payload)).wait();
    assert_eq!(counters(), ((0, 0), (0, 0, 0, 0)));
    publish("good").unwrap();
    assert_eq!(counters(), ((1, 0), (1, 0, 0, 0)));
    publish("good").unwrap();
    assert_eq!(counters(), ((2, 0), (2, 0, 0, 0)));
    bus.faults().fail_publishes("t", 1);
    let _ = publish("good").unwrap_err();
    assert_eq!(counters(), ((2, 1), (2, 0, 0, 0)));
    let _ = bus.publish("no topic", number(0)).wait().unwrap_err();
    assert_eq!(counters(), ((2, 2), (2, 0, 0, 0)));
    publish("bad").unwrap();
    assert_eq!(counters(), ((3, 2), (2, 0, 1, 0)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(counters(), ((3, 2), (2, 1, 1, 0)));
    publish("panics").unwrap();
    assert_eq!(counters(), ((4, 2), (2, 1, 2, 1)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(counters(), ((4, 2), (2, 2, 2, 2)));
    publish("good").unwrap();
    assert_eq!(counters(), ((5, 2), (3, 2, 2, 2)));
    assert_eq!(texts(&letters), ["bad", "panics"]);
    runtime.stop_now();
}

#[test]
fn a_held_topic_is_delivered_when_it_is_released() {
    let (_clock, runtime, bus) = world();
    let (held, free) = (Seen::default(), Seen::default());
    bus.subscribe("held", Subscription::new("held"), noting(&held)).wait().unwrap();
    bus.subscribe("free", Subscription::new("free"), noting(&free)).wait().unwrap();
    bus.faults().hold("held");
    for n in 0..3 {
        bus.publish("held", number(n)).wait().unwrap();
        bus.publish("free", number(n)).wait().unwrap();
    }
    settle(&runtime);
    assert_eq!((texts(&held).len(), texts(&free).len()), (0, 3));
    // Nothing else wakes it.
    bus.faults().release("held");
    settle(&runtime);
    assert_eq!(texts(&held), ["0", "1", "2"]);
    runtime.stop_now();
}

#[test]
fn the_callback_hears_of_every_publish_once_and_may_panic() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let bus = MemoryBus::builder(&runtime)
        .capacity(1)
        .on_publish(move |topic, result| {
            let result = result.map(|position| position.offset).map_err(ToString::to_string);
            hear.lock().unwrap().push((topic.to_owned(), result));
            panic!("a panic that the test wants");
        })
        .build()
        .unwrap();
    let waits = Retry::fixed(Duration::from_secs(3_600)).forever();
    let never = |_: &Record| Err(HandlerError::retryable("not yet"));
    bus.subscribe("t", Subscription::new("s").retry(waits), never).wait().unwrap();
    assert_eq!(bus.publish("t", number(0)).wait().unwrap().offset, 0);
    let _ = bus.publish("t", number(1)).wait_timeout(Duration::ZERO).unwrap_err();
    let _ = bus.publish("a b", number(1)).wait().unwrap_err();
    bus.faults().lose_results("u", 1, true);
    let _ = bus.publish("u", number(1)).wait().unwrap_err();
    let heard = heard.lock().unwrap().clone();
    let wanted: [(&str, Result<u64, &str>); 4] = [
        ("t", Ok(0)),
        ("t", Err("not published within the time given")),
        ("a b", Err("\"a b\" is no topic: 1 to 255 printable ASCII characters without a space")),
        ("u", Err("the record may or may not be stored: an injected fault")),
    ];
    for ((topic, result), wanted) in heard.iter().zip(&wanted) {
        assert_eq!((&**topic, result.as_ref().map_err(|e| &**e).copied()), (wanted.0, wanted.1));
    }
    assert_eq!(heard.len(), wanted.len());
    runtime.stop_now();
}

#[test]
fn without_a_subscription_the_newest_stay_and_with_one_all() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::builder(&runtime).capacity(3).build().unwrap();
    for n in 0..5 {
        assert_eq!(bus.publish("t", number(n)).wait().unwrap().offset, n);
    }
    assert_eq!(bus.stored("t"), 3);
    let (quick, slow) = (Seen::default(), Seen::default());
    bus.subscribe("t", Subscription::new("quick"), noting(&quick)).wait().unwrap();
    bus.faults().hold("t");
    let subscription = bus.subscribe("t", Subscription::new("slow"), noting(&slow)).wait().unwrap();
    settle(&runtime);
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    bus.faults().release("t");
    settle(&runtime);
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    assert_eq!(texts(&quick), ["2", "3", "4"]);
    assert_eq!(texts(&slow), ["2", "3", "4"]);
    assert_eq!(bus.stored("t"), 0);
    bus.unsubscribe(&subscription).unwrap();
    runtime.stop_now();
}

#[test]
fn whoever_leaves_holds_no_records_and_no_publisher() {
    for through_runtime in [false, true] {
        let clock = VirtualClock::new();
        let runtime = runtime(&clock);
        let bus = MemoryBus::builder(&runtime).capacity(2).build().unwrap();
        let waits = Retry::fixed(Duration::from_secs(3_600)).forever();
        let never = |_: &Record| Err(HandlerError::retryable("not yet"));
        let policy = Subscription::new("s").retry(waits);
        let subscription = bus.subscribe("t", policy, never).wait().unwrap();
        let seen = Seen::default();
        bus.subscribe("t", Subscription::new("stays"), noting(&seen)).wait().unwrap();
        for n in 0..2 {
            bus.publish("t", number(n)).wait().unwrap();
        }
        settle(&runtime);
        clock.advance(Duration::from_millis(5));
        settle(&runtime);
        assert_eq!(bus.stored("t"), 2);
        if through_runtime {
            let returned = subscription.subscriber().remove().wait().unwrap();
            assert!(returned.is_empty(), "its records are the bus'");
        } else {
            bus.unsubscribe(&subscription).unwrap();
        }
        bus.publish("t", number(2)).wait().unwrap();
        settle(&runtime);
        clock.advance(Duration::from_millis(5));
        settle(&runtime);
        assert_eq!(texts(&seen), ["0", "1", "2"]);
        assert_eq!(bus.stored("t"), 0);
        assert!(bus.progress("s").is_empty());
        runtime.stop_now();
    }
}

#[test]
fn dead_letters_are_never_dropped() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::builder(&runtime).capacity(2).build().unwrap();
    let policy = Subscription::new("s").dead_letter("dead");
    let failing = |_: &Record| Err(HandlerError::fatal("no"));
    bus.subscribe("t", policy, failing).wait().unwrap();
    for n in 0..4 {
        // Two are dead; two more wait for room among the dead, and keep the topic full.
        bus.publish("t", number(n)).wait().unwrap();
        settle(&runtime);
        clock.advance(Duration::from_millis(5));
        settle(&runtime);
    }
    for _ in 0..40 {
        clock.advance(Duration::from_millis(500));
        settle(&runtime);
    }
    assert_eq!((bus.stored("t"), bus.stored("dead")), (2, 2));
    assert_eq!(bus.progress("s")[0].frontier, 2);
    // Whoever reads them makes room, and all come, in order.
    let seen = Seen::default();
    bus.subscribe("dead", Subscription::new("reader"), noting(&seen)).wait().unwrap();
    for _ in 0..80 {
        settle(&runtime);
        clock.advance(Duration::from_millis(500));
    }
    settle(&runtime);
    assert_eq!(texts(&seen), ["0", "1", "2", "3"]);
    assert_eq!((bus.stored("t"), bus.stored("dead")), (0, 0));
    runtime.stop_now();
}

#[test]
fn buses_of_one_runtime_share_workers_and_no_topics() {
    let (clock, runtime, first) = world();
    let second = MemoryBus::new(&runtime).unwrap();
    let seen = Seen::default();
    let (from, to) = (first.clone(), second.bus());
    from.subscribe_async("t", Subscription::new("first"), move |record: RecordRef| {
        let publishing = to.publish("t", record.copy());
        async move { Ok(publishing.await.map(|_| ())?) }
    })
    .wait()
    .unwrap();
    second.subscribe("t", Subscription::new("second"), noting(&seen)).wait().unwrap();
    for n in 0..100 {
        first.publish("t", number(n)).wait().unwrap();
    }
    // All of it, on both, is done when the runtime has settled.
    settle(&runtime);
    assert_eq!(texts(&seen), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    assert_eq!((first.stored("t"), second.stored("t")), (0, 0));
    assert!(first.progress("second").is_empty());
    first.close(Duration::ZERO).wait().unwrap();
    second.publish("t", number(100)).wait().unwrap();
    settle(&runtime);
    assert_eq!(texts(&seen).len(), 101);
    runtime.stop_now();
}

/// Waits until `met`, which threads of a bus that goes bring about in no time of the clock's.
fn until(what: &str, met: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !met() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_bus_that_is_dropped_ends_and_its_names_are_free() {
    let (_clock, runtime, bus) = world();
    let seen = Seen::default();
    let subscription = bus.subscribe("t", Subscription::new("s"), noting(&seen)).wait().unwrap();
    let clone = bus.bus();
    drop(bus);
    clone.publish("t", number(0)).wait().unwrap();
    settle(&runtime);
    assert_eq!(texts(&seen), ["0"]);
    drop(clone);
    until("the bus ends", || runtime.snapshot().subscriptions.is_empty());
    assert!(subscription.subscriber().submit(number(1)).is_err());
    let next = MemoryBus::new(&runtime).unwrap();
    next.subscribe("t", Subscription::new("s"), noting(&seen)).wait().unwrap();
    runtime.stop_now();
}

#[test]
fn a_publisher_that_waits_hears_that_the_bus_was_dropped() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::builder(&runtime).capacity(1).build().unwrap();
    let waits = Retry::fixed(Duration::from_secs(3_600)).forever();
    let never = |_: &Record| Err(HandlerError::retryable("not yet"));
    bus.subscribe("t", Subscription::new("s").retry(waits), never).wait().unwrap();
    bus.publish("t", number(0)).wait().unwrap();
    let waiting = bus.publish("t", number(1));
    // On a clock that stands still, only the end of the bus can end the wait.
    let publisher = std::thread::spawn(move || waiting.wait());
    drop(bus);
    let error = publisher.join().unwrap().unwrap_err();
    assert_eq!(*error.kind(), PublishErrorKind::Closed);
    assert_eq!(error.into_record().payload(), b"1");
    runtime.stop_now();
}

#[test]
fn a_bus_may_be_dropped_or_closed_inside_its_handler() {
    for close in [false, true] {
        let (_clock, runtime, bus) = world();
        let own = Arc::new(Mutex::new(None));
        let handler = {
            let own = own.clone();
            move |_: &Record| {
                let bus: Option<MemoryBus> = own.lock().unwrap().take();
                let bus = bus.expect("it is called once");
                if close {
                    drop(bus.close(Duration::ZERO));
                }
                drop(bus);
                Ok(())
            }
        };
        bus.subscribe("t", Subscription::new("s"), handler).wait().unwrap();
        let publishing = {
            let mut own = own.lock().unwrap();
            let publishing = bus.publish("t", number(0));
            *own = Some(bus);
            publishing
        };
        publishing.wait().unwrap();
        until("the bus ends", || runtime.snapshot().subscriptions.is_empty());
        assert!(own.lock().unwrap().is_none());
        runtime.stop_now();
    }
}

#[test]
fn a_bus_and_its_runtime_may_end_in_either_order() {
    for bus_first in [true, false] {
        let (_clock, runtime, bus) = world();
        let seen = Seen::default();
        bus.subscribe("t", Subscription::new("s"), noting(&seen)).wait().unwrap();
        bus.publish("t", number(0)).wait().unwrap();
        settle(&runtime);
        if bus_first {
            assert!(bus.close(Duration::from_secs(5)).wait().unwrap().drained);
            assert!(runtime.close(Duration::from_secs(5)).unwrap().drained);
        } else {
            assert!(runtime.close(Duration::from_secs(5)).unwrap().drained);
            // It is stored, and nobody handles it any more.
            bus.publish("t", number(1)).wait().unwrap();
            let refused = bus.subscribe("t", Subscription::new("u"), noting(&seen)).wait();
            assert!(matches!(refused, Err(BusError::Subscribe(SubscribeError::Closed))));
            let report = bus.close(Duration::from_secs(5)).wait().unwrap();
            assert_eq!(report.unfinished, 0);
        }
        assert_eq!(texts(&seen), ["0"]);
    }
}

#[test]
fn a_bus_whose_runtime_has_ended_does_not_wait_for_it() {
    let (_clock, runtime, bus) = world();
    let waits = Retry::fixed(Duration::from_secs(3_600)).forever();
    let never = |_: &Record| Err(HandlerError::retryable("not yet"));
    bus.subscribe("t", Subscription::new("s").retry(waits), never).wait().unwrap();
    bus.publish("t", number(0)).wait().unwrap();
    settle(&runtime);
    // Begun before the runtime's end or after it; on a clock that stands still, a wait for the deadline
    // would never end.
    let before = bus.close(Duration::from_secs(5));
    assert_eq!(runtime.close(Duration::from_secs(5)).unwrap().abandoned, 1);
    for closing in [before, bus.close(Duration::from_secs(5))] {
        let report = closing.wait().unwrap();
        assert_eq!((report.drained, report.unfinished), (false, 1));
    }
}

/// A payload whose drop is a caller's code: it asks the bus, and panics.
struct Odd(Option<MemoryBus>);

impl AsRef<[u8]> for Odd {
    fn as_ref(&self) -> &[u8] {
        b"odd"
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        if let Some(bus) = self.0.take() {
            assert!(bus.stored("t") <= 2);
            panic!("a panic that the test wants");
        }
    }
}

#[test]
fn payloads_whose_drop_asks_the_bus_and_panics_harm_nobody() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::builder(&runtime).capacity(1).build().unwrap();
    let odd = |bus: Option<&MemoryBus>| {
        Record::from_bytes(Some(b"key"), Bytes::from_owner(Odd(bus.cloned())))
    };
    // The oldest goes for the newest.
    bus.publish("t", odd(Some(&bus))).wait().unwrap();
    bus.publish("t", odd(Some(&bus))).wait().unwrap();
    // And when all have finished it.
    let seen = Seen::default();
    bus.subscribe("t", Subscription::new("s"), noting(&seen)).wait().unwrap();
    settle(&runtime);
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    bus.publish("t", odd(None)).wait().unwrap();
    settle(&runtime);
    assert_eq!(texts(&seen), ["odd", "odd"]);
    runtime.stop_now();
}

/// A partition that the loop itself stops is told of on the loop's thread, where the bus cannot be waited for.
#[test]
fn a_notice_that_asks_its_own_bus_does_not_hang_it() {
    let clock = VirtualClock::new();
    let asked = Arc::new(Mutex::new(None::<MemoryBus>));
    let said = Arc::new(Mutex::new(Vec::new()));
    let (bus_of, noted) = (asked.clone(), said.clone());
    let runtime = Runtime::builder()
        .workers(1)
        .clock(clock.clone())
        .on_notice(move |_| {
            let bus = bus_of.lock().unwrap().take();
            if let Some(bus) = bus {
                noted.lock().unwrap().push(format!("{:?}", bus.crash_consumer("s")));
            }
        })
        .build()
        .unwrap();
    let bus = MemoryBus::new(&runtime).unwrap();
    *asked.lock().unwrap() = Some(bus.clone());
    let policy = Subscription::new("s").keyless(keylane::Keyless::Reject);
    bus.subscribe("t", policy, |_: &Record| Ok(())).wait().unwrap();
    bus.publish("t", Record::keyless("refused")).wait().unwrap();
    settle(&runtime);
    assert_eq!(*said.lock().unwrap(), ["Err(WouldDeadlock)"]);
    assert!(bus.progress("s")[0].stopped_by.is_some());
    assert_eq!(bus.close(Duration::ZERO).wait().unwrap().unfinished, 0);
    runtime.stop_now();
}

/// A window that is full holds back no commit of what is finished.
#[test]
fn a_frontier_is_committed_though_the_window_is_full() {
    let clock = VirtualClock::new();
    let runtime = Runtime::builder()
        .workers(1)
        .config(keylane::Config::default().source_window(2).workers(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    let bus = MemoryBus::new(&runtime).unwrap();
    let policy = Subscription::new("s").retry(Retry::fixed(Duration::from_secs(60)).forever());
    bus.subscribe("t", policy, |record: &Record| {
        if record.payload() == b"stuck" { Err("later".into()) } else { Ok(()) }
    })
    .wait()
    .unwrap();
    clock.advance(Duration::from_millis(50));
    settle(&runtime);
    for (key, payload) in [("a", "1"), ("b", "stuck"), ("c", "3"), ("d", "4")] {
        bus.publish("t", Record::new(key, payload)).wait().unwrap();
    }
    settle(&runtime);
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    assert_eq!(bus.progress("s")[0].frontier, 1);
    runtime.stop_now();
}

/// A clock that panics for the bus's own thread once it is told to.
#[derive(Clone, Debug)]
struct Treacherous {
    clock: VirtualClock,
    panics: Arc<AtomicBool>,
}

impl Clock for Treacherous {
    fn now(&self) -> Time {
        let loops = std::thread::current().name().is_some_and(|name| name.ends_with("-mem"));
        assert!(!(loops && self.panics.load(Ordering::Acquire)), "planned: the clock panics");
        self.clock.now()
    }

    fn system_time(&self) -> SystemTime {
        self.clock.system_time()
    }

    fn arm(&self, deadline: Time, waker: &Waker) -> Option<Duration> {
        self.clock.arm(deadline, waker)
    }
}

/// Runs `wait` on a thread of its own: one that hangs fails the test instead of holding it up.
fn in_time<R: Send + 'static>(what: &str, wait: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(wait()));
    receiver.recv_timeout(Duration::from_secs(60)).expect(what)
}

/// Whatever the bus's own thread dies of, nobody waits for it for ever.
#[test]
fn a_loop_that_panics_leaves_nobody_waiting() {
    let panics = Arc::new(AtomicBool::new(false));
    let clock = Treacherous { clock: VirtualClock::new(), panics: panics.clone() };
    let (said, notices) = mpsc::channel();
    let builder = Runtime::builder().workers(1).lanes(1).clock(clock);
    let runtime = builder.on_notice(move |notice| drop(said.send(notice.clone()))).build().unwrap();
    let bus = MemoryBus::builder(&runtime).capacity(1).build().unwrap();
    let hangs = |_: RecordRef| std::future::pending();
    bus.subscribe_async("t", Subscription::new("s"), hangs).wait().unwrap();
    bus.publish("t", number(0)).wait().unwrap();
    settle(&runtime);
    let full = bus.publish("t", number(1));
    let closing = bus.close(Duration::from_secs(3_600));
    settle(&runtime);
    panics.store(true, Ordering::Release);

    bus.faults().release("t"); // wakes it
    let report = in_time("the close ends", || closing.wait()).unwrap();
    assert_eq!((report.drained, report.unfinished), (false, 1));
    let refused = in_time("the publish ends", || full.wait()).unwrap_err();
    assert_eq!(*refused.kind(), PublishErrorKind::Closed);
    let notice = notices.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(matches!(&notice, Notice::BusFailed { bus: "memory", .. }), "{notice:?}");
    assert!(notice.to_string().contains("planned: the clock panics"), "{notice}");

    let again = bus.close(Duration::ZERO);
    assert!(!in_time("a later close ends", || again.wait()).unwrap().drained);
    let late = bus.subscribe("t", Subscription::new("late"), |_: &Record| Ok(())).wait();
    assert!(matches!(late, Err(BusError::Closed)));
    settle(&runtime); // it is no thread to wait for
    assert!(runtime.snapshot().sources.is_empty());
    let report = in_time("the runtime closes", move || runtime.close(Duration::ZERO)).unwrap();
    assert!(report.records.is_empty(), "it was the bus's");
}

/// As above, with nobody closing: what is under way and what comes later is told.
#[test]
fn a_loop_that_panics_answers_commands() {
    let panics = Arc::new(AtomicBool::new(false));
    let clock = Treacherous { clock: VirtualClock::new(), panics: panics.clone() };
    let builder = Runtime::builder().workers(1).lanes(1).clock(clock);
    let runtime = builder.on_notice(|_| ()).build().unwrap();
    let bus = MemoryBus::new(&runtime).unwrap();
    bus.subscribe("t", Subscription::new("s"), |_: &Record| Ok(())).wait().unwrap();
    settle(&runtime);
    panics.store(true, Ordering::Release);
    let own = bus.clone();
    let restarted = in_time("the command is answered", move || own.restart_consumer("s"));
    // It was obeyed before the clock was read.
    assert!(restarted.is_ok(), "{restarted:?}");
    let own = bus.clone();
    in_time("the loop has ended", move || {
        while own.restart_consumer("s").is_ok() {
            std::thread::yield_now();
        }
    });
    assert!(matches!(bus.restart_consumer("s"), Err(BusError::Closed)));
    let refused = bus.publish("t", number(0)).wait().unwrap_err();
    assert_eq!(*refused.kind(), PublishErrorKind::Closed);
    assert!(!bus.close(Duration::ZERO).wait().unwrap().drained);
}
