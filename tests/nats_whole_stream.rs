//! A consumer that asks for all its stream has, where that is one topic's one partition: what is beside that partition
//! never reaches a handler, holds nothing up, and a consumer goes from one filter to the other where it stands.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/wire.rs"]
mod wire;

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use broker::Server;
use keylane::nats::{AckMode, NatsBus, TopicOptions};
use keylane::{Record, Runtime, Subscription};
use serde_json::{Value, json};
use wire::{HANG, Wire};

/// A header's value that is no text.
const NOT_UTF8: &[u8] = b"NATS/1.0\r\nBad: a\xffb\r\n\r\n";

struct Scene {
    server: Server,
    wire: Wire,
    topic: String,
    mode: AckMode,
    /// Records of the topic that were published.
    published: u64,
}

/// A subscription that runs, and what it has handled.
struct Running {
    runtime: Runtime,
    bus: NatsBus,
    handled: Receiver<String>,
}

impl Scene {
    fn new(mode: AckMode, topic: &str) -> Option<Self> {
        let server = Server::start(&[])?;
        let topic = format!("{topic}{mode:?}").to_lowercase();
        let wire = Wire::new(server.url());
        Some(Self { server, wire, topic, mode, published: 0 })
    }

    fn start(&self) -> Running {
        self.start_with(1)
    }

    fn start_with(&self, partitions: u32) -> Running {
        let runtime = Runtime::builder().workers(1).lanes(2).build().unwrap();
        let builder = NatsBus::builder(&runtime, self.server.url()).ack_mode(self.mode);
        let options = TopicOptions::keyed(partitions).stream(self.topic.as_str());
        let bus = builder.topic(&self.topic, options).connect().wait().unwrap();
        let (told, handled) = channel();
        let handler = move |record: &Record| {
            let _ = told.send(String::from_utf8_lossy(record.payload()).into_owned());
            Ok(())
        };
        bus.subscribe(&self.topic, Subscription::new("g"), handler).wait().unwrap();
        Running { runtime, bus, handled }
    }

    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            self.published += 1;
            let subject = format!("{}.0.k", self.topic);
            self.wire.publish(&subject, &[], &self.published.to_string());
        }
    }

    fn publish_beside(&mut self) {
        for beside in ["7.k", "00.k", "0x.k"] {
            self.wire.publish(&format!("{}.{beside}", self.topic), &[], "beside");
        }
    }

    /// The subjects of the stream, as somebody else sets them.
    fn subjects(&mut self, what: &str, beside: bool) {
        let mut subjects = vec![format!("{}.*.*", self.topic)];
        subjects.extend(beside.then(|| format!("{}other.>", self.topic)));
        let config = json!({ "name": self.topic, "subjects": subjects });
        let answer =
            self.wire.request(&format!("STREAM.{what}.{}", self.topic), &config.to_string());
        assert!(answer["error"].is_null(), "{answer}");
    }

    /// What the consumer is, once all that the stream has is done with.
    fn done(&mut self) -> Value {
        let name = format!("g-{}-0", self.topic);
        self.wire.wait_consumer(&self.topic, &name, "all is done with", |info| {
            info["num_ack_pending"] == 0 && info["num_pending"] == 0
        })
    }

    #[track_caller]
    fn assert_filter(&mut self, filter: &str) {
        if self.mode != AckMode::Checkpoint {
            let info = self.done();
            assert_eq!(info["config"]["filter_subject"], format!("{}.{filter}", self.topic));
        }
    }
}

impl Running {
    /// The next that are handled are these, each once.
    #[track_caller]
    fn expect(&self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            assert_eq!(self.handled.recv_timeout(HANG).unwrap(), number.to_string());
        }
    }

    #[track_caller]
    fn close(self) {
        assert!(self.bus.close(Duration::from_secs(20)).wait().unwrap().drained);
        self.runtime.close(Duration::from_secs(5)).unwrap();
        assert_eq!(self.handled.try_iter().collect::<Vec<_>>(), [""; 0]);
    }
}

fn beside(mode: AckMode) {
    let Some(mut scene) = Scene::new(mode, "beside") else { return };
    let running = scene.start();
    for _ in 0..20 {
        scene.publish(2);
        scene.publish_beside();
    }
    running.expect(1..=40);
    // The last of the stream is not the topic's, and is done with all the same.
    scene.assert_filter("*.*");
    running.close();
    let running = scene.start();
    scene.publish(1);
    running.expect(41..=41);
    scene.publish_beside();
    scene.assert_filter("*.*");
    running.close();
}

/// A message beside the partition that the client library cannot read cuts the connection, and stops nobody.
fn unreadable_beside(mode: AckMode) {
    let Some(mut scene) = Scene::new(mode, "unreadable") else { return };
    let running = scene.start();
    scene.publish(3);
    running.expect(1..=3);
    scene.wire.publish(&format!("{}.7.k", scene.topic), NOT_UTF8, "beside");
    scene.publish(3);
    running.expect(4..=6);
    running.close();
}

/// A topic gets more partitions: the consumer of its only one is now that of the first, where it stands.
fn divided(mode: AckMode) {
    let Some(mut scene) = Scene::new(mode, "divided") else { return };
    let running = scene.start();
    scene.publish(10);
    running.expect(1..=10);
    scene.assert_filter("*.*");
    running.close();
    let running = scene.start_with(4);
    scene.publish(10);
    running.expect(11..=20);
    scene.assert_filter("0.*");
    running.close();
}

/// Somebody else has a running consumer given more than it asked for: what is not its own is left out all the same.
fn widened_by_another(mode: AckMode) {
    let Some(mut scene) = Scene::new(mode, "another") else { return };
    scene.subjects("CREATE", true);
    let running = scene.start();
    scene.publish(3);
    running.expect(1..=3);
    let mut config = scene.done()["config"].clone();
    config["filter_subject"] = json!(format!("{}.*.*", scene.topic));
    let change = json!({ "stream_name": scene.topic, "config": config }).to_string();
    let subject = format!("CONSUMER.DURABLE.CREATE.{}.g-{}-0", scene.topic, scene.topic);
    let answer = scene.wire.request(&subject, &change);
    assert!(answer["error"].is_null(), "{answer}");
    scene.publish_beside();
    scene.publish(3);
    running.expect(4..=6);
    scene.assert_filter("*.*");
    running.close();
}

fn widened(mode: AckMode) {
    let Some(mut scene) = Scene::new(mode, "widened") else { return };
    scene.subjects("CREATE", true);
    let running = scene.start();
    scene.publish(10);
    running.expect(1..=10);
    scene.assert_filter("0.*");
    running.close();
    // The stream is the topic's alone now: the consumer is given all of it, where it stands.
    scene.subjects("UPDATE", false);
    let running = scene.start();
    scene.publish(10);
    scene.publish_beside();
    running.expect(11..=20);
    scene.assert_filter("*.*");
    // And now while it runs it is not.
    scene.subjects("UPDATE", true);
    for _ in 0..10 {
        let other = format!("{}other.0.k", scene.topic);
        scene.wire.publish(&other, &[], "other");
        scene.publish(1);
        scene.publish_beside();
    }
    running.expect(21..=30);
    scene.assert_filter("*.*");
    running.close();
    let running = scene.start();
    scene.publish(10);
    running.expect(31..=40);
    scene.assert_filter("0.*");
    running.close();
}

#[test]
fn each_leaves_out_what_is_beside() {
    beside(AckMode::Each);
}

#[test]
fn floor_leaves_out_what_is_beside() {
    beside(AckMode::Floor);
}

#[test]
fn checkpoint_leaves_out_what_is_beside() {
    beside(AckMode::Checkpoint);
}

#[test]
fn each_goes_on_when_the_stream_changes() {
    widened(AckMode::Each);
}

#[test]
fn floor_goes_on_when_the_stream_changes() {
    widened(AckMode::Floor);
}

#[test]
fn checkpoint_goes_on_when_the_stream_changes() {
    widened(AckMode::Checkpoint);
}

#[test]
fn each_passes_by_what_cannot_be_read_beside() {
    unreadable_beside(AckMode::Each);
}

#[test]
fn floor_passes_by_what_cannot_be_read_beside() {
    unreadable_beside(AckMode::Floor);
}

#[test]
fn checkpoint_passes_by_what_cannot_be_read_beside() {
    unreadable_beside(AckMode::Checkpoint);
}

#[test]
fn each_goes_on_with_more_partitions() {
    divided(AckMode::Each);
}

#[test]
fn floor_goes_on_with_more_partitions() {
    divided(AckMode::Floor);
}

#[test]
fn checkpoint_goes_on_with_more_partitions() {
    divided(AckMode::Checkpoint);
}

#[test]
fn each_leaves_out_what_another_asked_for() {
    widened_by_another(AckMode::Each);
}

#[test]
fn floor_leaves_out_what_another_asked_for() {
    widened_by_another(AckMode::Floor);
}
