//! Records that the client library cannot read: each is found, fails for good as a record does, and is passed by; nothing
//! else is lost, every key keeps its order, and the others go on soon.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/service.rs"]
mod service;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use broker::Server;
use keylane::Subscription;
use keylane::nats::{AckMode, Retention};
use service::{Notes, Service};
use wire::Wire;

/// Others go on within this; on an old server's interest stream, too, where a recovery waits for 6 s until the server has
/// delivered again by itself: there is one.
const SOON: Duration = Duration::from_secs(15);
const KEYS: u64 = 8;
const TOPIC: &str = "jobs";
const STREAM: &str = "STREAM_jobs";
const NOT_UTF8: &[u8] = b"NATS/1.0\r\nX-Aggregate-ID: k0\r\nBad: a\xffb\r\n\r\n";

fn publish(wire: &mut Wire, range: std::ops::Range<u64>) {
    for number in range {
        (0..KEYS).for_each(|key| _ = wire.record(TOPIC, &format!("k{key}"), number));
    }
}

struct Scene {
    server: Server,
    wire: Wire,
    notes: Notes,
    mode: AckMode,
    retention: Retention,
}

impl Scene {
    fn new(mode: AckMode, retention: Retention, arguments: &[&str]) -> Option<Self> {
        let server = Server::start(arguments)?;
        let wire = Wire::new(server.url());
        Some(Self { server, wire, notes: Notes::default(), mode, retention })
    }

    fn start(&self) -> Service {
        self.start_with(|policy| policy)
    }

    fn start_with(&self, policy: impl FnOnce(Subscription) -> Subscription) -> Service {
        let set = |builder: keylane::nats::NatsBuilder| {
            builder.ack_mode(self.mode).retention(self.retention)
        };
        Service::start(self.server.url(), TOPIC, &self.notes, set, policy).unwrap()
    }
}

/// While it runs, with a full window behind it.
fn found_while_running(mode: AckMode, retention: Retention, arguments: &[&str]) {
    let Some(mut scene) = Scene::new(mode, retention, arguments) else { return };
    let service = scene.start();
    publish(&mut scene.wire, 1..3);
    scene.notes.wait(2 * KEYS as usize, SOON);
    scene.wire.publish(TOPIC, NOT_UTF8, "k0 3");
    publish(&mut scene.wire, 4..100);
    scene.notes.wait(98 * KEYS as usize, SOON);
    scene.notes.wait_letters(1, SOON);
    let letters = scene.notes.letters();
    assert_eq!((letters.len(), &*letters[0].0), (1, "k0 3"));
    assert!(letters[0].1.contains("not UTF-8"), "{}", letters[0].1);
    publish(&mut scene.wire, 100..110);
    scene.notes.wait(108 * KEYS as usize, SOON);
    assert_eq!(service.stopped(), None);
    service.close();
    assert_eq!(scene.notes.assert_order(), 0, "nothing is handled twice");
    // It is done with: the next life does not see it again.
    let service = scene.start();
    publish(&mut scene.wire, 110..112);
    scene.notes.wait(110 * KEYS as usize, SOON);
    service.close();
    assert_eq!(scene.notes.letters().len(), 1);
}

/// The first of all, others of its kind behind it, and a key below them that is stuck.
fn several_behind_a_stuck_key(mode: AckMode, retention: Retention, arguments: &[&str]) {
    let Some(mut scene) = Scene::new(mode, retention, arguments) else { return };
    // A stream and an interest in it, so that it keeps what is published.
    scene.start().close();
    scene.wire.publish(TOPIC, b"NATS/1.0\r\nX-Aggregate-ID: k1\r\nBad name: 1\r\n\r\n", "k1 0");
    scene.notes.stick("k0");
    publish(&mut scene.wire, 1..5);
    scene.wire.publish(TOPIC, NOT_UTF8, "k0 5");
    scene.wire.publish(TOPIC, b"NATS/1.0\r\nX-Aggregate-ID: k2\r\nno value\r\n\r\n", "k2 5");
    publish(&mut scene.wire, 6..50);
    let service = scene.start();
    scene.notes.wait((KEYS as usize - 1) * 48, SOON);
    scene.notes.wait_letters(2, SOON);
    // Whoever follows finds all of it again below what is stuck.
    service.crash();
    publish(&mut scene.wire, 50..52);
    let service = scene.start();
    scene.notes.wait((KEYS as usize - 1) * 50, SOON);
    scene.notes.free();
    scene.notes.wait(KEYS as usize * 50, SOON);
    scene.notes.wait_letters(3, SOON);
    publish(&mut scene.wire, 52..60);
    scene.notes.wait(KEYS as usize * 58, SOON);
    assert_eq!(service.stopped(), None);
    service.close();
    scene.notes.assert_order();
    let letters: std::collections::BTreeSet<_> =
        scene.notes.letters().into_iter().map(|letter| letter.0).collect();
    assert_eq!(letters.into_iter().collect::<Vec<_>>(), ["k0 5", "k1 0", "k2 5"]);
}

/// Its letter finds nobody: it is not acknowledged, the others go on; and after a crash it is there.
fn its_letter_is_not_taken(mode: AckMode, retention: Retention, arguments: &[&str]) {
    let Some(mut scene) = Scene::new(mode, retention, arguments) else { return };
    let service = scene.start();
    scene.notes.refuse_letters(true);
    scene.wire.publish(TOPIC, NOT_UTF8, "k0 1");
    publish(&mut scene.wire, 2..30);
    scene.notes.wait((KEYS as usize - 1) * 28, SOON);
    assert!(!scene.notes.handled().iter().any(|(key, _)| key == "k0"), "its key waits for it");
    service.crash();
    scene.notes.refuse_letters(false);
    let service = scene.start();
    scene.notes.wait_letters(1, SOON);
    scene.notes.wait(KEYS as usize * 28, SOON);
    service.close();
    scene.notes.assert_order();
}

macro_rules! poison {
    ($($name:ident $mode:ident $retention:ident $version:literal)*) => {$(
        mod $name {
            use super::*;

            #[test] fn found_while_running() {
                super::found_while_running(AckMode::$mode, Retention::$retention, &["--version", $version]);
            }
            #[test] fn several_behind_a_stuck_key() {
                super::several_behind_a_stuck_key(AckMode::$mode, Retention::$retention, &["--version", $version]);
            }
            #[test] fn its_letter_is_not_taken() {
                super::its_letter_is_not_taken(AckMode::$mode, Retention::$retention, &["--version", $version]);
            }
        }
    )*};
}

poison! {
    each Each Limits "2.15.1"
    floor Floor Limits "2.15.1"
    checkpoint Checkpoint Limits "2.15.1"
    each_of_a_work_queue Each WorkQueue "2.15.1"
    each_of_interest Each Interest "2.15.1"
    floor_of_interest Floor Interest "2.15.1"
    oldest_each Each Limits "debian"
    oldest_floor Floor Limits "debian"
    oldest_checkpoint Checkpoint Limits "debian"
    oldest_each_of_a_work_queue Each WorkQueue "debian"
    oldest_each_of_interest Each Interest "debian"
    oldest_floor_of_interest Floor Interest "debian"
}

/// Without a policy it stops the source, and says what it is.
#[test]
fn without_a_policy_it_stops_the_source() {
    let Some(mut scene) = Scene::new(AckMode::Each, Retention::Limits, &[]) else { return };
    let service = scene.start_with(|policy| policy.stop());
    let place = scene.wire.publish(TOPIC, NOT_UTF8, "k0 1");
    let why = service.wait_stopped();
    assert!(why.contains("UTF-8"), "{why}");
    let info = scene.wire.request(&format!("CONSUMER.INFO.{STREAM}.service-jobs"), "");
    assert!(info["ack_floor"]["stream_seq"].as_u64().unwrap() < place, "{info}");
    service.crash();
}
