//! What a bus refuses: its errors name the fix, give the record back, and print no secret.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keylane::memory::MemoryBus;
use keylane::{
    Bus, BusError, ConfigError, Envelope, HandlerError, InvalidTopic, MAX_KEY, PublishErrorKind,
    Record, Runtime, SubscribeError, Subscription,
};

fn runtime() -> Runtime {
    Runtime::builder().workers(1).lanes(2).build().unwrap()
}

fn ignore(_: &Record) -> Result<(), HandlerError> {
    Ok(())
}

#[test]
fn the_memory_bus_is_connected_to_by_its_url() {
    let runtime = runtime();
    for url in ["memory:", "memory://"] {
        let bus = Bus::connect(&runtime, url).wait().unwrap();
        bus.publish("t", Record::new("k", "")).wait().unwrap();
        assert!(bus.close(Duration::ZERO).wait().unwrap().drained);
    }
    runtime.stop_now();
}

#[test]
fn an_unknown_kind_of_bus_is_an_error_that_prints_no_secret() {
    let runtime = runtime();
    for url in [
        "amqp://user:hunter2@host:1/vhost?password=hunter2",
        "Memory:",
        "hunter2",
        "",
        ":hunter2",
        "//user:hunter2@host",
    ] {
        let error = Bus::connect(&runtime, url).wait().unwrap_err();
        assert!(matches!(error, BusError::UnknownUrl(_)), "{url}: {error:?}");
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("hunter2"), "{url}: {text}");
        }
        assert!(error.to_string().contains("`memory:`"), "{error}");
    }
    // However long it is, it is cut; control characters are escaped.
    let error = Bus::connect(&runtime, &format!("{}:x", "s\n".repeat(1_000))).wait().unwrap_err();
    assert!(error.to_string().len() < 200 && !error.to_string().contains('\n'), "{error}");
    runtime.stop_now();
}

#[test]
fn a_url_of_the_memory_bus_says_what_is_wrong_with_it() {
    let runtime = runtime();
    let said = |url: &str| {
        let error = Bus::connect(&runtime, url).wait().unwrap_err();
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("hunter2"), "{url}: {text}");
        }
        (error.to_string(), error)
    };
    for url in ["memory:hunter2", "memory://hunter2@host?partitions=2", "memory:///", "memory:#x"] {
        let (text, error) = said(url);
        assert!(matches!(error, BusError::InvalidUrl { part: "address", .. }), "{url}: {error:?}");
        assert!(text.contains("`memory:?partitions=4`"), "{text}");
    }
    for url in ["memory:?hunter2", "memory:?capacity=1&capacity=2", "memory:?partitions=2&hunter2"]
    {
        let (text, error) = said(url);
        assert!(matches!(error, BusError::InvalidUrl { part: "query", .. }), "{url}: {error:?}");
        assert!(text.starts_with("the query of a `memory:` URL is wrong"), "{text}");
    }
    let unknown = |url| match said(url) {
        (text, BusError::Config(ConfigError::Unknown { .. })) => text,
        (_, error) => panic!("{url}: {error:?}"),
    };
    assert!(unknown("memory:?partition=2").contains("`partitions`"));
    assert!(unknown("memory:?password=hunter2").contains("password"));
    assert!(unknown("memory:?=2").contains("option"));
    for url in [
        "memory:?partitions=two",
        "memory:?partitions=",
        "memory:?capacity=+1",
        "memory:?capacity=1#",
    ] {
        let (text, error) = said(url);
        assert!(matches!(error, BusError::Config(ConfigError::Invalid { .. })), "{url}: {error:?}");
        assert!(text.contains("number"), "{text}");
    }
    for url in ["memory:?partitions=0", "memory:?capacity=99999999"] {
        let (_, error) = said(url);
        assert!(
            matches!(error, BusError::Config(ConfigError::OutOfRange { .. })),
            "{url}: {error:?}"
        );
    }
    runtime.stop_now();
}

#[test]
fn options_of_the_memory_bus_may_stand_in_its_url() {
    let runtime = runtime();
    for url in
        ["memory:?partitions=3&capacity=1", "memory://?capacity=1&&partitions=3&", "memory:?"]
    {
        let bus = Bus::connect(&runtime, url).wait().unwrap();
        let mut partitions: Vec<_> = (0..50)
            .map(|n| bus.publish("t", Record::new(format!("k{n}"), "")).wait().unwrap().partition)
            .collect();
        partitions.sort_unstable();
        partitions.dedup();
        assert_eq!(partitions.len(), if url.len() > 10 { 3 } else { 1 }, "{url}");
    }
    runtime.stop_now();
}

#[test]
fn names_of_topics_are_printable_and_bounded() {
    let longest = "t".repeat(255);
    for good in ["t", "orders.eu-1_x/y:z", "!", "~", &longest] {
        assert_eq!(InvalidTopic::check(good), Ok(()), "{good:?}");
    }
    let long = "t".repeat(256);
    for bad in ["", " ", "a b", "a\tb", "\n", "\0", "\u{7f}", "é", "日本", &long] {
        let error = InvalidTopic::check(bad).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("1 to 255 printable ASCII"), "{text}");
        assert!(!text.chars().any(char::is_control) && text.len() < 700, "{text}");
    }
}

#[test]
fn every_refused_publish_gives_the_record_back() {
    let runtime = runtime();
    let bus = MemoryBus::new(&runtime).unwrap();
    let long = "k".repeat(MAX_KEY + 1);
    let refused = [
        bus.publish("a b", Record::new("k", "payload")),
        bus.publish("t", Record::new("", "payload")),
        bus.publish("t", Record::new(&long, "payload")),
    ];
    for publishing in refused {
        let error = publishing.wait().unwrap_err();
        assert!(!error.is_retryable() && !error.outcome_unknown(), "{error}");
        assert_eq!(error.into_record().payload(), b"payload");
    }
    assert_eq!(bus.stored("t"), 0);
    bus.close(Duration::ZERO).wait().unwrap();
    let error = bus.publish("t", Record::new("k", "payload")).wait().unwrap_err();
    assert_eq!(error.to_string(), "the bus is closed");
    assert_eq!(error.into_record().payload(), b"payload");
    runtime.stop_now();
}

#[test]
fn errors_say_which_may_be_published_again() {
    let runtime = runtime();
    let bus = MemoryBus::builder(&runtime).capacity(1).build().unwrap();
    let failing = |_: &Record| Err(HandlerError::retryable("no"));
    bus.subscribe("t", Subscription::new("s"), failing).wait().unwrap();
    bus.publish("t", Record::new("k", "1")).wait().unwrap();

    let full = bus.publish("t", Record::new("k", "2")).wait_timeout(Duration::ZERO).unwrap_err();
    assert_eq!(*full.kind(), PublishErrorKind::TimedOut);
    bus.faults().fail_publishes("t", 1);
    let failed = bus.publish("t", Record::new("k", "2")).wait().unwrap_err();
    assert!(matches!(failed.kind(), PublishErrorKind::Failed(_)));
    bus.faults().lose_results("t", 1, false);
    let unknown = bus.publish("t", Record::new("k", "2")).wait().unwrap_err();
    assert!(matches!(unknown.kind(), PublishErrorKind::Unknown(_)));
    for error in [&full, &failed, &unknown] {
        assert!(error.is_retryable(), "{error}");
        assert_eq!(error.outcome_unknown(), matches!(error.kind(), PublishErrorKind::Unknown(_)));
        assert!(!format!("{error:?}").is_empty());
    }
    runtime.stop_now();
}

#[test]
fn an_envelope_that_cannot_be_encoded_is_not_published() {
    let runtime = runtime();
    let bus = MemoryBus::new(&runtime).unwrap();
    let error =
        bus.publish_envelope("t", &Envelope::new(" ", "Placed", 1, "{}")).wait().unwrap_err();
    let PublishErrorKind::Envelope(inner) = error.kind() else { panic!("{error:?}") };
    assert_eq!(error.to_string(), inner.to_string());
    assert!(error.into_record().payload().is_empty());
    assert_eq!(bus.stored("t"), 0);
    runtime.stop_now();
}

#[test]
fn subscriptions_are_checked_and_leave_nothing_behind_when_refused() {
    let runtime = runtime();
    let bus = MemoryBus::new(&runtime).unwrap();
    let refuse = |policy: Subscription| bus.subscribe("t", policy, ignore).wait().unwrap_err();
    let long = "n".repeat(256);
    for policy in [Subscription::new(""), Subscription::new(long)] {
        assert!(matches!(refuse(policy), BusError::Subscribe(SubscribeError::InvalidName)));
    }
    let parks = Subscription::new("s").park_key();
    let error = refuse(parks);
    assert!(matches!(error, BusError::Subscribe(SubscribeError::NoDeadLetter)));
    assert!(error.to_string().contains("give it a sink"), "{error}");
    assert_eq!(error.source().unwrap().to_string(), error.to_string());
    let error = refuse(Subscription::new("s").dead_letter("no topic"));
    assert!(matches!(error, BusError::InvalidTopic(_)), "{error}");
    assert!(runtime.snapshot().subscriptions.is_empty());

    bus.subscribe("t", Subscription::new("s"), ignore).wait().unwrap();
    // One name a runtime, whatever the topic and the bus.
    let other = MemoryBus::new(&runtime).unwrap();
    for bus in [&bus, &other] {
        let again = bus.subscribe("other", Subscription::new("s"), ignore).wait().unwrap_err();
        let taken = SubscribeError::AlreadySubscribed("s".to_owned());
        assert!(matches!(&again, BusError::Subscribe(error) if *error == taken), "{again}");
    }
    assert_eq!(runtime.snapshot().subscriptions.len(), 1);
    runtime.stop_now();
}

#[test]
fn partitions_and_capacity_have_bounds() {
    let runtime = runtime();
    let build = |partitions, capacity| {
        MemoryBus::builder(&runtime).partitions(partitions).capacity(capacity).build()
    };
    for (partitions, capacity, option) in [
        (0, 1, "partitions"),
        (1_025, 1, "partitions"),
        (usize::MAX, 1, "partitions"),
        (1, 0, "capacity"),
        (1, (1 << 24) + 1, "capacity"),
        (1, usize::MAX, "capacity"),
    ] {
        let error = build(partitions, capacity).unwrap_err();
        let BusError::Config(ConfigError::OutOfRange { option: named, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*named, option);
    }
    // The largest cost nothing until they are used.
    let bus = build(1_024, 1 << 24).unwrap();
    let position = bus.publish("t", Record::new("k", "")).wait().unwrap();
    assert!(position.partition < 1_024);
    runtime.stop_now();
}

#[test]
fn waiting_inside_a_handler_is_refused_and_what_was_begun_goes_on() {
    let runtime = runtime();
    let bus = MemoryBus::new(&runtime).unwrap();
    let found = Arc::new(Mutex::new(None));
    let (inside, told) = (bus.clone(), found.clone());
    let done = runtime
        .subscribe(Subscription::new("direct"), move |_: &Record| {
            let subscribed = inside.subscribe("t", Subscription::new("s"), ignore).wait();
            let closed = inside.close(Duration::from_secs(5)).wait();
            *told.lock().unwrap() = Some((subscribed.map(|_| ()), closed));
            Ok(())
        })
        .unwrap();
    assert!(done.submit_tracked(Record::new("k", "")).unwrap().wait().unwrap().is_done());
    let (subscribed, closed) = found.lock().unwrap().take().unwrap();
    subscribed.unwrap();
    // It may have ended before anybody had to wait.
    assert!(matches!(closed, Ok(_) | Err(BusError::WouldDeadlock)), "{closed:?}");
    assert!(bus.close(Duration::from_secs(5)).wait().unwrap().drained);
    runtime.stop_now();
}

#[cfg(not(feature = "nats"))]
#[test]
fn a_bus_that_is_not_built_in_names_its_feature() {
    let runtime = runtime();
    for url in ["nats://user:hunter2@host", "tls://hunter2@host"] {
        let error = Bus::connect(&runtime, url).wait().unwrap_err().to_string();
        assert!(error.contains("its feature `nats`"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    runtime.stop_now();
}
