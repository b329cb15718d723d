//! Several topics of one subscription on a real server: a durable each, all of them or none, of every kind.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/wire.rs"]
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::Server;
use keylane::nats::{AckMode, NatsBuilder, NatsBus, Strategy, TopicOptions};
use keylane::{
    BrokerErrorKind, BusError, BusSubscription, InvalidTopics, OnLost, Record, Runtime,
    Subscription, Topics,
};
use parking_lot::Mutex;
use wire::{HANG, Wire};

const MODES: [AckMode; 3] = [AckMode::Each, AckMode::Floor, AckMode::Checkpoint];

/// A bus, and what its handlers have seen: which topic, and the payload.
struct Scene {
    runtime: Runtime,
    bus: NatsBus,
    seen: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Scene {
    fn new(server: &Server, set: impl FnOnce(NatsBuilder) -> NatsBuilder) -> Self {
        let runtime = Runtime::builder().workers(2).build().unwrap();
        let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let builder = set(NatsBus::builder(&runtime, server.url()));
        let bus = executor.block_on(builder.connect()).unwrap();
        Self { runtime, bus, seen: Arc::default() }
    }

    fn subscribe(
        &self,
        topics: impl Into<Topics>,
        policy: Subscription,
    ) -> Result<BusSubscription, BusError> {
        let seen = self.seen.clone();
        let handler = move |record: &Record| {
            let text = String::from_utf8_lossy(record.payload()).into_owned();
            seen.lock().push((record.topic_index(), text));
            Ok(())
        };
        self.bus.subscribe(topics, policy, handler).wait()
    }

    fn publish(&self, topic: &str, text: &str) {
        self.bus.publish(topic, Record::new("key", text)).wait().unwrap();
    }

    fn sorted(&self) -> Vec<(usize, String)> {
        let mut seen = self.seen.lock().clone();
        seen.sort();
        seen
    }

    fn wait(&self, wanted: &[(usize, &str)]) {
        let wanted: Vec<_> = wanted.iter().map(|(at, text)| (*at, (*text).to_owned())).collect();
        let deadline = Instant::now() + HANG;
        while self.sorted() != wanted {
            assert!(Instant::now() < deadline, "{:?} instead of {wanted:?}", self.sorted());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.bus.close(Duration::from_secs(5)).wait();
        self.runtime.stop_now();
    }
}

/// A stream that is made by hand, of these subjects.
fn make(wire: &mut Wire, stream: &str, subjects: &str) {
    let config = format!(r#"{{"name":"{stream}","subjects":[{subjects}]}}"#);
    let made = wire.request(&format!("STREAM.CREATE.{stream}"), &config);
    assert!(made.get("error").is_none(), "{made}");
}

/// Topics of one stream and of others, plain, with partitions and with wildcards: each has durables of its own, and a later
/// subscription of the group adds its own to them.
#[test]
fn topics_of_one_stream_and_of_others_have_a_durable_each() {
    let Some(server) = Server::start(&[]) else { return };
    let mut wire = Wire::new(server.url());
    let scene = Scene::new(&server, |builder| {
        builder
            .topic("eu.orders", TopicOptions::plain().stream("EU"))
            .topic("eu.payments", TopicOptions::partitioned(2).stream("EU"))
            .topic("us.*", TopicOptions::plain().stream("US"))
    });
    make(&mut wire, "EU", r#""eu.orders","eu.payments.*""#);
    make(&mut wire, "US", r#""us.*""#);
    let topics = ["eu.orders", "eu.payments", "us.*", "other"];
    let policy = || Subscription::new("s").group("billing");
    let subscription = scene.subscribe(topics, policy()).unwrap();
    assert!(subscription.topics().eq(topics));
    for topic in ["eu.orders", "eu.payments", "us.x", "us.y", "other"] {
        scene.publish(topic, topic);
    }
    let all = [(0, "eu.orders"), (1, "eu.payments"), (2, "us.x"), (2, "us.y"), (3, "other")];
    scene.wait(&all);
    let names = |wire: &mut Wire, stream: &str| {
        let mut answer = wire.request(&format!("CONSUMER.NAMES.{stream}"), "");
        let names = answer["consumers"].take();
        let mut names: Vec<String> = serde_json::from_value(names).unwrap();
        names.sort();
        names
    };
    let eu = ["billing-eu_orders", "billing-eu_payments-0", "billing-eu_payments-1"];
    assert_eq!(names(&mut wire, "EU"), eu);
    assert_eq!(names(&mut wire, "STREAM_other"), ["billing-other"]);
    // Later: the group reads one topic more, and those that it has are refused.
    let later = Subscription::new("later").group("billing");
    match scene.subscribe(["more", "other"], later.clone()) {
        Err(BusError::AlreadyInGroup { topic, .. }) => assert_eq!(topic, "other"),
        other => panic!("{other:?}"),
    }
    scene.subscribe("more", later).unwrap();
    scene.publish("more", "more");
    scene.publish("other", "once more");
    let more = [(0, "eu.orders"), (0, "more"), (1, "eu.payments"), (2, "us.x"), (2, "us.y")];
    scene.wait(&[&more[..], &[(3, "once more"), (3, "other")]].concat());
    assert_eq!(names(&mut wire, "STREAM_more"), ["billing-more"]);
}

#[test]
fn topics_that_share_records_are_refused() {
    let Some(server) = Server::start(&[]) else { return };
    let scene = Scene::new(&server, |builder| builder);
    for topics in [["orders.*", "orders.eu"], ["a.>", "a.b.c"], ["*.eu", "orders.*"]] {
        match scene.subscribe(topics, Subscription::new("s")) {
            Err(BusError::InvalidTopics(InvalidTopics::Overlap(one, other))) => {
                assert_eq!([&*one, &*other], topics);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// One topic of several is not there: the error says which, nothing is read of the others, and their names are free.
#[test]
fn a_missing_topic_has_none_of_them_subscribed() {
    let Some(server) = Server::start(&[]) else { return };
    let mut wire = Wire::new(server.url());
    make(&mut wire, "STREAM_here", r#""here""#);
    for mode in MODES {
        let set = |builder: NatsBuilder| builder.topology(Strategy::ValidateOnly).ack_mode(mode);
        let scene = Scene::new(&server, set);
        let policy = || Subscription::new("s").group(format!("{mode:?}"));
        for topics in [["here", "missing"], ["missing", "here"]] {
            match scene.subscribe(topics, policy()) {
                Err(BusError::Broker(error)) => {
                    assert_eq!(error.kind(), BrokerErrorKind::MissingTopic, "{error}");
                    assert!(error.to_string().starts_with("topic \"missing\""), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
        scene.publish("here", "x");
        assert_eq!(scene.sorted(), []);
        // Not even a durable is left, which would keep records from going.
        let names = wire.request("CONSUMER.NAMES.STREAM_here", "");
        assert!(!names.to_string().contains(&format!("{mode:?}-here")), "{names}");
        scene.subscribe("here", policy()).unwrap();
        let deadline = Instant::now() + HANG;
        while scene.seen.lock().is_empty() {
            assert!(Instant::now() < deadline, "the name is free, and all is there");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Whoever reads a topic for the group goes on where another process is refused for a topic beside it: its position is
/// claimed only once all of them fit.
#[test]
fn a_refused_subscribe_fences_nobody() {
    let Some(server) = Server::start(&[]) else { return };
    let mut wire = Wire::new(server.url());
    make(&mut wire, "STREAM_here", r#""here""#);
    make(&mut wire, "STREAM_there", r#""there""#);
    let set = |builder: NatsBuilder| {
        let behind = TopicOptions::plain().start_after("nobody");
        builder
            .topology(Strategy::ValidateOnly)
            .ack_mode(AckMode::Checkpoint)
            .topic("there", behind)
    };
    let (reads, refused) = (Scene::new(&server, set), Scene::new(&server, set));
    let subscription = reads.subscribe("here", Subscription::new("s")).unwrap();
    for (number, other) in ["missing", "there"].into_iter().enumerate() {
        let error = refused.subscribe(["here", other], Subscription::new("s")).unwrap_err();
        assert!(error.to_string().starts_with(&format!("topic \"{other}\"")), "{error}");
        // A checkpoint follows: a claim by another would be met there.
        reads.publish("here", other);
        let deadline = Instant::now() + HANG;
        while reads.bus.progress("s")[0].0 < number as u64 + 2 {
            assert_eq!(subscription.stopped_by(), None);
            assert!(Instant::now() < deadline, "{:?}", reads.bus.health());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert_eq!(reads.seen.lock().len(), 2);
}

/// One of them fails only when it begins, while the others begin: they end, and whoever comes next loses nothing.
#[test]
fn a_topic_that_cannot_begin_ends_the_others() {
    for mode in MODES {
        let Some(server) = Server::start(&[]) else { return };
        let mut wire = Wire::new(server.url());
        let policy = || Subscription::new("s");
        let set = |builder: NatsBuilder| builder.ack_mode(mode);
        let scene = Scene::new(&server, set);
        scene.subscribe(["first", "second"], policy()).unwrap();
        scene.publish("first", "1");
        scene.publish("second", "1");
        scene.wait(&[(0, "1"), (1, "1")]);
        drop(scene);
        // Retention takes what the second topic's durable has not delivered.
        let scene = Scene::new(&server, set);
        for number in 2..6 {
            scene.publish("second", &number.to_string());
        }
        let mut info = wire.request("STREAM.INFO.STREAM_second", "");
        info["config"]["max_msgs"] = 1.into();
        let config = info["config"].to_string();
        let updated = wire.request("STREAM.UPDATE.STREAM_second", &config);
        assert!(updated.get("error").is_none(), "{updated}");
        match scene.subscribe(["first", "second"], policy()) {
            Err(BusError::Broker(error)) => {
                assert_eq!(error.kind(), BrokerErrorKind::LostPosition, "{error}");
                assert!(error.to_string().starts_with("topic \"second\""), "{error}");
            }
            other => panic!("{mode:?}: {other:?}"),
        }
        let snapshot = scene.runtime.snapshot();
        assert!(snapshot.subscriptions.is_empty(), "{mode:?}: {:?}", snapshot.subscriptions);
        scene.publish("first", "2");
        let policy = policy().on_lost_position(OnLost::Earliest);
        scene.subscribe(["first", "second"], policy).unwrap();
        scene.wait(&[(0, "2"), (1, "5")]);
    }
}

/// Topics of core NATS beside one of a stream, their counts together.
#[test]
fn topics_of_core_nats_and_of_streams_feed_one_subscription() {
    let Some(server) = Server::start(&[]) else { return };
    let scene = Scene::new(&server, |builder| {
        let at_most_once = TopicOptions::plain().at_most_once();
        builder.topic("ticks", at_most_once.clone()).topic("tocks", at_most_once)
    });
    let subscription = scene.subscribe(["ticks", "kept", "tocks"], Subscription::new("s")).unwrap();
    for topic in ["ticks", "kept", "tocks"] {
        scene.publish(topic, topic);
    }
    scene.wait(&[(0, "ticks"), (1, "kept"), (2, "tocks")]);
    // A record is counted once the runtime has it, which a handler may be quicker than.
    let counts = || scene.bus.core_counts("s").unwrap();
    let deadline = Instant::now() + HANG;
    while counts().taken < 2 {
        assert!(Instant::now() < deadline, "{:?}", counts());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!((counts().received, counts().taken), (2, 2));
    subscription.subscriber().remove().wait().unwrap();
}
