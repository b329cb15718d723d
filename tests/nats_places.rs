//! Where a consumer begins, and where it goes on: on every line of servers, after a crash at the worst moment, behind
//! another system's consumer, and after the place was lost.
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
use keylane::nats::{AckMode, NatsBuilder, Retention, TopicOptions};
use keylane::{
    BrokerErrorKind, BusError, BusEvent, Health, OnLost, ReasonKind, Start, Subscription,
};
use service::{Notes, Service};
use wire::{HANG, Wire};

const SOON: Duration = Duration::from_secs(30);
const KEYS: u64 = 4;
const TOPIC: &str = "jobs";
const STREAM: &str = "STREAM_jobs";
const DURABLE: &str = "service-jobs";

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
        self.try_start(|builder| builder, |policy| policy).unwrap()
    }

    fn try_start(
        &self,
        set: impl FnOnce(NatsBuilder) -> NatsBuilder,
        policy: impl FnOnce(Subscription) -> Subscription,
    ) -> Result<Service, BusError> {
        let set = |builder: NatsBuilder| set(builder.ack_mode(self.mode).retention(self.retention));
        Service::start(self.server.url(), TOPIC, &self.notes, set, policy)
    }

    fn publish(&mut self, range: std::ops::Range<u64>) {
        for number in range {
            (0..KEYS).for_each(|key| _ = self.wire.record(TOPIC, &format!("k{key}"), number));
        }
    }

    fn handled(&self) -> usize {
        self.notes.handled().len()
    }

    fn stream(&mut self, what: &str) {
        let answer = self.wire.request(&format!("STREAM.{what}.{STREAM}"), "");
        assert_eq!(answer["success"].as_bool(), Some(true), "{answer}");
    }
}

/// Cut, crashed and restarted, with a key that is stuck below what the others do.
fn cut_and_restarted(mode: AckMode, retention: Retention, version: &str) {
    let Some(mut scene) = Scene::new(mode, retention, &["--version", version]) else { return };
    let service = scene.start();
    scene.publish(1..20);
    scene.notes.wait(19 * KEYS as usize, SOON);
    scene.notes.stick("k0");
    scene.publish(20..40);
    scene.notes.wait(19 * KEYS as usize + 20 * (KEYS as usize - 1), SOON);
    scene.server.kill(1);
    scene.server.restart(1);
    scene.wire = Wire::new(scene.server.url());
    scene.publish(40..60);
    scene.notes.wait(19 * KEYS as usize + 40 * (KEYS as usize - 1), SOON);
    service.crash();
    let service = scene.start();
    scene.publish(60..70);
    scene.notes.wait(19 * KEYS as usize + 50 * (KEYS as usize - 1), SOON);
    scene.notes.free();
    scene.notes.wait(69 * KEYS as usize, SOON);
    assert_eq!(service.stopped(), None);
    service.close();
    scene.notes.assert_order();
    // Closed in order: nothing comes again but what was not finished.
    let before = scene.handled();
    let closed = match mode {
        AckMode::Checkpoint => serde_json::Value::Null,
        _ => scene.wire.request(&format!("CONSUMER.INFO.{STREAM}.{DURABLE}"), ""),
    };
    let service = scene.start();
    scene.publish(70..71);
    scene.notes.wait(70 * KEYS as usize, SOON);
    service.close();
    let again = scene.notes.handled().split_off(before);
    assert_eq!(again.len(), KEYS as usize, "{again:?} after {closed}");
}

/// We are gone between the deletion of the consumer and its making, as an old server needs it: the floor was written
/// before, and the next life goes on there.
fn gone_between_deletion_and_making(mode: AckMode, retention: Retention, version: &str) {
    let Some(mut scene) = Scene::new(mode, retention, &["--version", version]) else { return };
    let service = scene.start();
    scene.publish(1..10);
    scene.notes.wait(9 * KEYS as usize, SOON);
    service.close();
    scene.publish(10..12);
    let floor = 9 * KEYS + 1;
    scene.wire.publish(&format!("$KV.keylane.{DURABLE}"), b"", &floor.to_string());
    let deleted = scene.wire.request(&format!("CONSUMER.DELETE.{STREAM}.{DURABLE}"), "");
    assert_eq!(deleted["success"].as_bool(), Some(true), "{deleted}");
    let service = scene.start();
    scene.notes.wait(11 * KEYS as usize, SOON);
    service.close();
    assert_eq!(scene.notes.assert_order(), 0, "it began behind what was handled");
}

/// Nothing was delivered yet when the connection was cut: it begins where it had begun.
fn latest_is_cut_before_its_first(mode: AckMode, version: &str) {
    let Some(mut scene) = Scene::new(mode, Retention::Limits, &["--version", version]) else {
        return;
    };
    scene.start().close();
    scene.wire.request(&format!("CONSUMER.DELETE.{STREAM}.{DURABLE}"), "");
    scene.publish(1..3);
    let late = |policy: Subscription| policy.group("late").start(Start::Latest);
    let service = scene.try_start(|builder| builder, late).unwrap();
    scene.notes = Notes::default();
    scene.server.kill(1);
    scene.server.restart(1);
    scene.wire = Wire::new(scene.server.url());
    service.crash();
    let service = scene.try_start(|builder| builder, late).unwrap();
    scene.publish(3..6);
    scene.notes.wait(3 * KEYS as usize, SOON);
    service.close();
    assert!(scene.notes.handled().iter().all(|(_, number)| *number >= 3));
}

macro_rules! lines {
    ($($name:ident $version:literal $(#[$ignored:meta])?)*) => {$(
        mod $name {
            use super::*;

            $(#[$ignored])? #[test] fn each_of_limits() { cut_and_restarted(AckMode::Each, Retention::Limits, $version); }
            $(#[$ignored])? #[test] fn each_of_a_work_queue() { cut_and_restarted(AckMode::Each, Retention::WorkQueue, $version); }
            $(#[$ignored])? #[test] fn each_of_interest() { cut_and_restarted(AckMode::Each, Retention::Interest, $version); }
            $(#[$ignored])? #[test] fn floor_of_limits() { cut_and_restarted(AckMode::Floor, Retention::Limits, $version); }
            $(#[$ignored])? #[test] fn floor_of_interest() { cut_and_restarted(AckMode::Floor, Retention::Interest, $version); }
            $(#[$ignored])? #[test] fn checkpoint() { cut_and_restarted(AckMode::Checkpoint, Retention::Limits, $version); }
            $(#[$ignored])? #[test] fn gone_between() { gone_between_deletion_and_making(AckMode::Each, Retention::Limits, $version); }
            $(#[$ignored])? #[test] fn gone_between_floor() { gone_between_deletion_and_making(AckMode::Floor, Retention::Limits, $version); }
            $(#[$ignored])? #[test] fn latest() { latest_is_cut_before_its_first(AckMode::Each, $version); }
            $(#[$ignored])? #[test] fn latest_checkpoint() { latest_is_cut_before_its_first(AckMode::Checkpoint, $version); }
        }
    )*};
}

lines! {
    oldest "debian"
    before_resets "2.12" #[ignore = "long: one more line of servers"]
    newest "2.15.1"
}

fn refused(
    scene: &Scene,
    policy: impl FnOnce(Subscription) -> Subscription,
) -> (BrokerErrorKind, String) {
    match scene.try_start(|builder| builder, policy) {
        Err(BusError::Broker(error)) => (error.kind(), error.to_string()),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[test]
fn modes_that_a_retention_does_not_have_are_refused() {
    for (mode, retention) in [
        (AckMode::Floor, Retention::WorkQueue),
        (AckMode::Checkpoint, Retention::WorkQueue),
        (AckMode::Checkpoint, Retention::Interest),
    ] {
        let Some(scene) = Scene::new(mode, retention, &[]) else { return };
        assert_eq!(refused(&scene, |policy| policy).0, BrokerErrorKind::Unsupported);
    }
}

/// Another system's consumer, named as that names them, and ours on one stream: each gets everything; and a group that is
/// to begin behind it begins exactly there.
#[test]
fn beside_and_behind_another_systems_consumer() {
    const OTHER: &str = "orders-service-unified_jobs";
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
        let service = scene.start();
        let config = format!(
            r#"{{"stream_name":"{STREAM}","config":{{"durable_name":"{OTHER}","deliver_policy":"all","ack_policy":"explicit","ack_wait":30000000000,"max_deliver":3,"filter_subject":"{TOPIC}"}}}}"#
        );
        let made =
            scene.wire.request(&format!("CONSUMER.DURABLE.CREATE.{STREAM}.{OTHER}"), &config);
        assert!(made.get("error").is_none(), "{made}");
        scene.publish(1..11);
        let all = 10 * KEYS as usize;
        let came = scene.wire.pull(STREAM, OTHER, all);
        assert_eq!(came.len(), all, "it gets everything");
        scene.notes.wait(all, SOON);
        service.close();
        assert_eq!(scene.notes.assert_order(), 0);

        // It has acknowledged 17 without a gap, and one above it.
        for (reply, _) in came.iter().take(17).chain(&came[18..19]) {
            scene.wire.say(reply, b"+ACK");
        }
        scene.wire.wait_consumer(STREAM, OTHER, "17 acknowledged", |info| {
            info["num_ack_pending"].as_u64() == Some(all as u64 - 18)
        });
        scene.notes = Notes::default();
        let behind =
            |builder: NatsBuilder| builder.topic(TOPIC, TopicOptions::plain().start_after(OTHER));
        let group = |policy: Subscription| policy.group("successor");
        let service = scene.try_start(behind, group).unwrap();
        scene.notes.wait(all - 17, SOON);
        service.close();
        let handled = scene.notes.handled();
        let first =
            came[17..].iter().map(|(_, payload)| String::from_utf8_lossy(payload).into_owned());
        let ours = handled.iter().map(|(key, number)| format!("{key} {number}"));
        let (mut first, mut ours): (Vec<_>, Vec<_>) = (first.collect(), ours.collect());
        first.sort();
        ours.sort();
        assert_eq!(ours, first, "exactly what is behind its floor");

        // A position of its own counts for more.
        let service = scene.try_start(behind, group).unwrap();
        scene.publish(11..12);
        scene.notes.wait(all - 17 + KEYS as usize, SOON);
        service.close();
        assert_eq!(scene.notes.assert_order(), 0);

        let nobody = |builder: NatsBuilder| {
            builder.topic(TOPIC, TopicOptions::plain().start_after("nobody"))
        };
        match scene.try_start(nobody, |policy| policy.group("third")) {
            Err(BusError::Broker(error)) => {
                assert_eq!(error.kind(), BrokerErrorKind::Mismatch);
                assert!(error.to_string().contains("nobody"), "{error}");
            }
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

/// Somebody pulls from our consumer: at the third time within a minute that deliveries are missing the source stops and says
/// so, and whoever follows loses nothing.
#[test]
fn a_second_puller_stops_the_source() {
    for mode in [AckMode::Each, AckMode::Floor] {
        let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
        let service = scene.start();
        let mut number = 1;
        let deadline = std::time::Instant::now() + HANG;
        while service.stopped().is_none() {
            assert!(std::time::Instant::now() < deadline, "{:?}", service.bus.health());
            // Ours waits with a long pull, and both are served in turn.
            let mut thief = Wire::new(scene.server.url());
            let stolen = std::thread::spawn(move || thief.pull(STREAM, DURABLE, 2).len());
            while !stolen.is_finished() {
                scene.publish(number..number + 1);
                number += 1;
            }
            stolen.join().unwrap();
        }
        let why = service.stopped().unwrap();
        assert!(why.contains("somebody else"), "{why}");
        let (Health::Degraded(reasons) | Health::Down(reasons)) = service.bus.health() else {
            panic!("it is said in the health");
        };
        assert!(reasons.iter().any(|reason| reason.kind == ReasonKind::SharedConsumer));
        service.crash();
        let service = scene.start();
        scene.notes.wait((number as usize - 1) * KEYS as usize, SOON);
        service.close();
    }
}

/// Somebody takes the last record there is and says nothing of it: no later one shows that it is missing. It is found
/// long before the server would send it again by itself.
#[test]
fn the_last_record_that_went_to_somebody_else_is_found() {
    const PATIENCE: Duration = Duration::from_secs(15);
    for mode in [AckMode::Each, AckMode::Floor] {
        let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
        let service = scene.start();
        scene.publish(1..2);
        scene.notes.wait(KEYS as usize, SOON);
        let mut thief = Wire::new(scene.server.url());
        let stolen = std::thread::spawn(move || thief.pull(STREAM, DURABLE, 1));
        scene.wire.wait_consumer(STREAM, DURABLE, "two wait", |info| {
            stolen.is_finished() || info["num_waiting"].as_u64() >= Some(2)
        });
        let mut all = KEYS as usize;
        while !stolen.is_finished() && all < 50 {
            // Whichever waits first is served.
            let place = scene.wire.record(TOPIC, "k0", all as u64);
            all += 1;
            scene.wire.wait_consumer(STREAM, DURABLE, "it was delivered", |info| {
                info["delivered"]["stream_seq"].as_u64() >= Some(place)
            });
        }
        let stolen = stolen.join().unwrap();
        assert_eq!(stolen.len(), 1, "{mode:?}");
        scene.notes.wait(all, PATIENCE);
        assert_eq!(service.stopped(), None);
        let info = scene.wire.request(&format!("CONSUMER.INFO.{STREAM}.{DURABLE}"), "");
        assert!(info["config"]["ack_wait"].as_u64() > Some(60_000_000_000), "{info}");
        service.close();
        scene.notes.assert_order();
    }
}

/// How a place is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Retention,
    Purge,
    MadeAnew,
    /// An older copy of the stream is put in its place, from before the first record.
    Truncation,
}

/// The stream as it lies on the disk of a server that does not run.
fn lying(scene: &Scene) -> std::path::PathBuf {
    scene.server.dir().join(format!("n1/store/jetstream/$G/streams/{STREAM}"))
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let _ = std::fs::remove_dir_all(to); // there may be none
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "{} is copied", from.display());
}

/// Loses records that were not handled: those from 3 on.
fn lose(scene: &mut Scene, loss: Loss) {
    match loss {
        Loss::Retention => {
            let mut info = scene.wire.request(&format!("STREAM.INFO.{STREAM}"), "");
            info["config"]["max_msgs"] = 2.into();
            let config = info["config"].to_string();
            let answer = scene.wire.request(&format!("STREAM.UPDATE.{STREAM}"), &config);
            assert!(answer.get("error").is_none(), "{answer}");
        }
        Loss::Purge => scene.stream("PURGE"),
        Loss::MadeAnew => {
            let info = scene.wire.request(&format!("STREAM.INFO.{STREAM}"), "");
            let config = info["config"].to_string();
            scene.stream("DELETE");
            let answer = scene.wire.request(&format!("STREAM.CREATE.{STREAM}"), &config);
            assert!(answer.get("error").is_none(), "{answer}");
        }
        Loss::Truncation => {
            let (older, stream) = (scene.server.dir().join("older"), lying(scene));
            scene.server.kill(1);
            copy(&older, &stream);
            scene.server.restart(1);
            scene.wire = Wire::new(scene.server.url());
        }
    }
}

fn lost_at_start(mode: AckMode, loss: Loss, on_lost: OnLost) {
    let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
    let what = format!("{mode:?} {loss:?} {on_lost:?}");
    if matches!(loss, Loss::Truncation) {
        scene.start().close();
        scene.server.kill(1);
        copy(&lying(&scene), &scene.server.dir().join("older"));
        scene.server.restart(1);
        scene.wire = Wire::new(scene.server.url());
    }
    let service = scene.start();
    scene.publish(1..3);
    scene.notes.wait(2 * KEYS as usize, SOON);
    service.close();
    scene.publish(3..5);
    lose(&mut scene, loss);
    scene.publish(5..6);
    let policy = |policy: Subscription| policy.on_lost_position(on_lost);
    if on_lost == OnLost::Stop {
        // Nor is it forgotten by having been said.
        for _ in 0..2 {
            let (kind, text) = refused(&scene, policy);
            assert_eq!(kind, BrokerErrorKind::LostPosition, "{what}: {text}");
            assert!(text.contains(STREAM), "{what}: {text}");
        }
        assert_eq!(scene.handled(), 2 * KEYS as usize, "{what}");
        return;
    }
    let service = scene.try_start(|builder| builder, policy).unwrap();
    let left = if on_lost == OnLost::Latest {
        0
    } else if matches!(loss, Loss::Retention) {
        2
    } else {
        KEYS as usize
    };
    scene.notes.wait(2 * KEYS as usize + left, SOON);
    scene.wire.record(TOPIC, "k3", 6);
    scene.notes.wait(2 * KEYS as usize + left + 1, SOON);
    service.close();
    scene.notes.assert_order();
    let handled = scene.notes.handled().split_off(2 * KEYS as usize);
    assert_eq!(handled.len(), left + 1, "{what}: {handled:?}");
    // Where it went on is its place now.
    let service = scene.start();
    scene.wire.record(TOPIC, "k3", 7);
    scene.notes.wait(2 * KEYS as usize + left + 2, SOON);
    service.close();
    assert_eq!(scene.handled(), 2 * KEYS as usize + left + 2, "{what}");
}

/// What was handled may go, whoever handled it.
#[test]
fn what_is_gone_of_what_was_handled_is_not_lost() {
    for (mode, retention) in [
        (AckMode::Each, Retention::Limits),
        (AckMode::Floor, Retention::Limits),
        (AckMode::Checkpoint, Retention::Limits),
        (AckMode::Each, Retention::WorkQueue),
        (AckMode::Each, Retention::Interest),
        (AckMode::Floor, Retention::Interest),
    ] {
        let Some(mut scene) = Scene::new(mode, retention, &[]) else { return };
        let what = format!("{mode:?} {retention:?}");
        let service = scene.start();
        scene.publish(1..3);
        scene.notes.wait(2 * KEYS as usize, SOON);
        service.close();
        scene.stream("PURGE");
        let service = scene.start();
        scene.publish(3..5);
        scene.notes.wait(4 * KEYS as usize, SOON);
        assert_eq!(service.stopped(), None, "{what}");
        service.close();
        if mode != AckMode::Checkpoint {
            // Somebody else takes what comes next from our durable.
            scene.publish(5..7);
            let count = 2 * KEYS as usize;
            let came = scene.wire.pull(STREAM, DURABLE, count);
            assert_eq!(came.len(), count, "{what}");
            came.iter().for_each(|(reply, _)| scene.wire.say(reply, b"+ACK"));
            scene.wire.wait_consumer(STREAM, DURABLE, "all is acknowledged", |info| {
                info["num_ack_pending"].as_u64() == Some(0)
            });
            scene.stream("PURGE");
        }
        let service = scene.start();
        scene.publish(7..9);
        scene.notes.wait(6 * KEYS as usize, SOON);
        assert_eq!(service.stopped(), None, "{what}");
        service.close();
        assert_eq!(scene.notes.assert_order(), 0, "{what}");
    }
}

/// A bus that may not keep its mark, or not read it, works without, and says so.
#[test]
fn without_the_right_to_a_mark_it_goes_on() {
    for (denied, writes) in [("$KV.>", false), ("$JS.API.STREAM.MSG.GET.KV_keylane", true)] {
        let users = format!(
            r#"authorization: {{ users: [ {{ user: root, password: pw }}, {{ user: bob, password: pw, permissions: {{ publish: {{ deny: ["{denied}"] }} }} }} ] }}"#
        );
        let Some(server) = Server::start(&["--prop", &users]) else { return };
        let as_user = |user: &str| server.url().replace("nats://", &format!("nats://{user}:pw@"));
        let notes = Notes::default();
        let set = |builder: NatsBuilder| builder.request_timeout(Duration::from_secs(2));
        // One that has no durable yet has to look in the bucket.
        let root = as_user("root");
        Service::start(&root, TOPIC, &notes, set, |policy| policy).unwrap().close();
        let url = as_user("bob");
        let began = std::time::Instant::now();
        let service = Service::start(&url, TOPIC, &notes, set, |policy| policy);
        assert!(began.elapsed() < Duration::from_secs(5), "{denied}: {:?}", began.elapsed());
        if server.version() < (2, 14, 0) && !writes {
            // There a durable is deleted and made anew, and not before its floor is kept.
            let Err(BusError::Broker(error)) = service else { panic!("its floor was not kept") };
            assert_eq!(error.kind(), BrokerErrorKind::NotPermitted, "{error}");
            assert!(error.to_string().contains("$KV.keylane."), "{error}");
            continue;
        }
        let service = service.unwrap();
        let mut events = service.bus.events();
        let noted = |event| matches!(event, BusEvent::Noted { text, .. } if text.contains("its place is lost"));
        let (deadline, mut number, mut said) = (std::time::Instant::now() + HANG, 0, 0);
        while number < 10 || (said == 0 && !writes) {
            assert!(std::time::Instant::now() < deadline, "{denied}: it is not said");
            number += 1;
            let record = keylane::Record::new("k0", format!("k0 {number}"));
            service.bus.publish(TOPIC, record).wait().unwrap();
            notes.wait(number as usize, SOON);
            said += std::iter::from_fn(|| events.try_next())
                .filter(|event| noted(event.clone()))
                .count();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(said <= 1, "{denied}: it is said once");
        assert_eq!(service.stopped(), None, "{denied}");
        let closing = std::time::Instant::now();
        service.close();
        assert!(closing.elapsed() < Duration::from_secs(5), "{denied}: {:?}", closing.elapsed());
        assert_eq!(notes.handled().len(), number as usize, "{denied}");
    }
}

/// A work queue and a stream of interest lose what is in them by acknowledgements: only the stream itself can be another.
#[test]
fn a_stream_made_anew_is_lost_in_every_retention() {
    for (mode, retention) in [
        (AckMode::Each, Retention::WorkQueue),
        (AckMode::Each, Retention::Interest),
        (AckMode::Floor, Retention::Interest),
    ] {
        let Some(mut scene) = Scene::new(mode, retention, &[]) else { return };
        let service = scene.start();
        scene.publish(1..3);
        scene.notes.wait(2 * KEYS as usize, SOON);
        service.close();
        lose(&mut scene, Loss::MadeAnew);
        let (kind, text) = refused(&scene, |policy| policy);
        assert_eq!(kind, BrokerErrorKind::LostPosition, "{mode:?} {retention:?}: {text}");
        let earliest = |policy: Subscription| policy.on_lost_position(OnLost::Earliest);
        let service = scene.try_start(|builder| builder, earliest).unwrap();
        scene.publish(3..5);
        scene.notes.wait(4 * KEYS as usize, SOON);
        service.close();
        let service = scene.start();
        scene.publish(5..6);
        scene.notes.wait(5 * KEYS as usize, SOON);
        service.close();
        assert_eq!(scene.notes.assert_order(), 0, "{mode:?} {retention:?}");
    }
}

fn lost_while_running(mode: AckMode, loss: Loss, on_lost: OnLost) {
    let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
    let what = format!("{mode:?} {loss:?} {on_lost:?}");
    let policy = |policy: Subscription| policy.on_lost_position(on_lost);
    let service = scene.try_start(|builder| builder, policy).unwrap();
    scene.publish(1..3);
    scene.notes.wait(2 * KEYS as usize, SOON);
    service.subscription.pause();
    scene.publish(3..5);
    lose(&mut scene, loss);
    service.subscription.resume();
    if on_lost == OnLost::Stop {
        scene.publish(5..6);
        let why = service.wait_stopped();
        assert!(why.contains("STREAM_jobs"), "{what}: {why}");
        return service.crash();
    }
    // What is published now comes in any case, once it has seen the loss.
    let deadline = std::time::Instant::now() + HANG;
    let before = scene.handled();
    let mut number = 5;
    while scene.handled() < before + KEYS as usize {
        assert!(std::time::Instant::now() < deadline, "{what}: {:?}", service.bus.health());
        scene.publish(number..number + 1);
        number += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(service.stopped(), None, "{what}");
    service.close();
    scene.notes.assert_order();
}

/// Waits until it is said that a place is lost.
fn wait_lost(service: &Service, what: &str) {
    let (mut events, deadline) = (service.bus.events(), std::time::Instant::now() + HANG);
    loop {
        let lost = |event| matches!(event, BusEvent::PositionLost { .. });
        if std::iter::from_fn(|| events.try_next()).any(lost) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: {:?}", service.bus.health());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whose own position is removed stops, and does not accuse another process of it.
#[test]
fn a_position_that_was_removed_stops_whose_it_is() {
    let purge = |wire: &mut Wire| {
        let answer = wire.request("STREAM.PURGE.KV_keylane", "");
        assert_eq!(answer["success"].as_bool(), Some(true), "{answer}");
    };
    let delete = |wire: &mut Wire| {
        wire.publish("$KV.keylane.at.service-jobs", b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n", "");
    };
    for remove in [purge as fn(&mut Wire), delete] {
        let Some(mut scene) = Scene::new(AckMode::Checkpoint, Retention::Limits, &[]) else {
            return;
        };
        let quick = |builder: NatsBuilder| builder.checkpoint_interval(Duration::from_millis(50));
        let service = scene.try_start(quick, |policy| policy).unwrap();
        scene.publish(1..3);
        scene.notes.wait(2 * KEYS as usize, SOON);
        remove(&mut scene.wire);
        scene.publish(3..4);
        let why = service.wait_stopped();
        assert!(why.contains("at.service-jobs was removed"), "{why}");
        let (Health::Degraded(reasons) | Health::Down(reasons)) = service.bus.health() else {
            panic!("it has stopped");
        };
        let said = |kind| reasons.iter().any(|reason| reason.kind == kind);
        assert!(said(ReasonKind::LostPosition) && !said(ReasonKind::Fenced), "{reasons:?}");
        service.crash();
        // The next life begins as one that never was here.
        let service = scene.start();
        scene.publish(4..5);
        scene.notes.wait(4 * KEYS as usize, SOON);
        service.close();
        assert!(scene.notes.assert_order() >= 2 * KEYS as usize, "all begins again");
    }
}

/// What was not delivered yet goes while nothing is read: that is noticed meanwhile.
fn lost_while_paused(mode: AckMode, loss: Loss, on_lost: OnLost) {
    let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
    let what = format!("{mode:?} {loss:?} {on_lost:?}");
    let policy = |policy: Subscription| policy.on_lost_position(on_lost);
    let service = scene.try_start(|builder| builder, policy).unwrap();
    scene.publish(1..3);
    let handled = 2 * KEYS as usize;
    scene.notes.wait(handled, SOON);
    service.subscription.pause();
    // A pull that is out brings what it was asked for.
    let idle = |info: &serde_json::Value| info["num_waiting"].as_u64() == Some(0);
    let durable = match mode {
        AckMode::Checkpoint => {
            let names = scene.wire.request(&format!("CONSUMER.NAMES.{STREAM}"), "");
            names["consumers"][0].as_str().unwrap().to_owned()
        }
        _ => DURABLE.to_owned(),
    };
    scene.wire.wait_consumer(STREAM, &durable, "nothing is asked for", idle);
    scene.publish(3..5);
    lose(&mut scene, loss);
    if on_lost == OnLost::Stop {
        let why = service.wait_stopped();
        assert!(why.contains("gone") && why.contains(STREAM), "{what}: {why}");
        assert_eq!(scene.handled(), handled, "{what}");
        return service.crash();
    }
    wait_lost(&service, &what);
    if on_lost == OnLost::Latest {
        // Whoever publishes now, does so behind the place that it has gone to.
        while matches!(service.bus.health(), Health::Degraded(_)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    service.subscription.resume();
    scene.publish(5..6);
    // Retention goes on: of what is published now it may leave the last two.
    let last = |key: &str| scene.notes.handled().contains(&(key.to_owned(), 5));
    let deadline = std::time::Instant::now() + HANG;
    while !(last("k2") && last("k3")) {
        assert!(std::time::Instant::now() < deadline, "{what}: {:?}", service.bus.health());
        std::thread::sleep(Duration::from_millis(2));
    }
    let between = scene.notes.handled().iter().filter(|(_, number)| *number == 4).count();
    let left = if matches!(loss, Loss::Retention) && on_lost == OnLost::Earliest { 2 } else { 0 };
    assert!(between <= left, "{what}: {:?}", scene.notes.handled());
    assert_eq!(service.stopped(), None, "{what}");
    service.close();
    scene.notes.assert_order();
}

/// Retention takes what a full window holds back: what is under way ends as it would have, and what comes behind what is
/// lost is handled only where that is wanted.
fn overtaken_by_retention(mode: AckMode, on_lost: OnLost, freed: bool) {
    const WINDOW: usize = 8;
    let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
    let what = format!("{mode:?} {on_lost:?} freed: {freed}");
    let policy = |policy: Subscription| policy.on_lost_position(on_lost);
    let service = scene.try_start(|builder| builder.window(WINDOW), policy).unwrap();
    scene.publish(1..3);
    let handled = 2 * KEYS as usize;
    scene.notes.wait(handled, SOON);
    (0..KEYS).for_each(|key| scene.notes.stick(&format!("k{key}")));
    scene.publish(3..20);
    let deadline = std::time::Instant::now() + HANG;
    while service.runtime.snapshot().in_flight < WINDOW {
        assert!(std::time::Instant::now() < deadline, "{what}: the window is not full");
        std::thread::sleep(Duration::from_millis(2));
    }
    lose(&mut scene, Loss::Retention);
    if freed {
        scene.notes.free();
    }
    match on_lost {
        OnLost::Stop => {
            let why = service.wait_stopped();
            assert!(why.contains("gone") && why.contains(STREAM), "{what}: {why}");
            assert!(scene.handled() <= handled + WINDOW, "{what}: {:?}", scene.notes.handled());
            service.crash();
        }
        OnLost::Earliest => {
            wait_lost(&service, &what);
            scene.notes.free();
            scene.notes.wait(handled + WINDOW + 2, SOON);
            assert_eq!(service.stopped(), None, "{what}");
            service.close();
            assert_eq!(scene.handled(), handled + WINDOW + 2, "{what}: nothing comes twice");
        }
        _ => {
            wait_lost(&service, &what);
            scene.notes.free();
            let (deadline, mut number) = (std::time::Instant::now() + HANG, 20);
            while !scene.notes.handled().iter().any(|(_, number)| *number >= 20) {
                assert!(std::time::Instant::now() < deadline, "{what}: it does not go on");
                scene.publish(number..number + 1);
                number += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(service.stopped(), None, "{what}");
            service.close();
        }
    }
    scene.notes.assert_order();
}

/// What somebody has deleted, and what a newer record has taken the place of, is not lost.
#[test]
fn holes_that_are_meant_are_not_lost() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
        let service = scene.start();
        scene.publish(1..3);
        scene.notes.wait(2 * KEYS as usize, SOON);
        for round in 3..6 {
            service.subscription.pause();
            // The first time for so long that nothing is asked for, and the server is asked.
            std::thread::sleep(Duration::from_secs(if round == 3 { 12 } else { 0 }));
            let mut record = |key: &str| scene.wire.record(TOPIC, key, round);
            let places = ["k0", "k1", "k2", "k3"].map(&mut record);
            for place in [places[0], places[2]] {
                let delete = format!(r#"{{"seq":{place}}}"#);
                scene.wire.request(&format!("STREAM.MSG.DELETE.{STREAM}"), &delete);
            }
            std::thread::sleep(Duration::from_secs(if round == 3 { 7 } else { 0 }));
            service.subscription.resume();
        }
        let handled = |key: &str, number| {
            let deadline = std::time::Instant::now() + HANG;
            while !scene.notes.handled().contains(&(key.to_owned(), number)) {
                assert!(std::time::Instant::now() < deadline, "{mode:?}: {key} {number}");
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        handled("k1", 3);
        handled("k3", 5);
        service.subscription.pause();
        let mut info = scene.wire.request(&format!("STREAM.INFO.{STREAM}"), "");
        info["config"]["max_msgs_per_subject"] = 2.into();
        service.close();
        // From here on a newer record takes an older one's place.
        let config = info["config"].to_string();
        let updated = scene.wire.request(&format!("STREAM.UPDATE.{STREAM}"), &config);
        assert!(updated.get("error").is_none(), "{updated}");
        (6..10).for_each(|number| _ = scene.wire.record(TOPIC, "k0", number));
        let service = scene.start();
        let mut events = service.bus.events();
        let deadline = std::time::Instant::now() + HANG;
        while !scene.notes.handled().contains(&("k0".to_owned(), 9)) {
            assert!(std::time::Instant::now() < deadline, "{mode:?}: {:?}", service.bus.health());
            std::thread::sleep(Duration::from_millis(2));
        }
        let lost = |event| matches!(event, BusEvent::PositionLost { .. });
        assert!(!std::iter::from_fn(|| events.try_next()).any(lost), "{mode:?}");
        assert_eq!(service.stopped(), None, "{mode:?}");
        service.close();
        scene.notes.assert_order();
    }
}

/// Subjects that are added to the stream while it is read are somebody else's, and so may be what is gone of it.
#[test]
fn what_is_gone_of_added_subjects_is_not_lost() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
        // Where a loss is told and nothing else comes of it.
        let policy = |policy: Subscription| policy.on_lost_position(OnLost::Earliest);
        let service = scene.try_start(|builder| builder, policy).unwrap();
        let mut events = service.bus.events();
        scene.publish(1..3);
        scene.notes.wait(2 * KEYS as usize, SOON);
        let mut info = scene.wire.request(&format!("STREAM.INFO.{STREAM}"), "");
        info["config"]["subjects"] = serde_json::json!([TOPIC, "beside"]);
        let config = info["config"].to_string();
        let updated = scene.wire.request(&format!("STREAM.UPDATE.{STREAM}"), &config);
        assert!(updated.get("error").is_none(), "{updated}");
        for number in 3..6 {
            scene.wire.record("beside", "k0", number);
            scene.stream("PURGE");
            scene.publish(number..number + 1);
            scene.notes.wait(number as usize * KEYS as usize, SOON);
        }
        let lost = |event| matches!(event, BusEvent::PositionLost { .. });
        assert!(!std::iter::from_fn(|| events.try_next()).any(lost), "{mode:?}");
        assert_eq!(service.stopped(), None, "{mode:?}");
        service.close();
        assert_eq!(scene.notes.assert_order(), 0, "{mode:?}");
    }
}

/// What is left out of a stream with others' records may go before the connection is cut: it was nobody's to handle.
#[test]
fn what_is_gone_of_others_records_is_not_lost() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(mut scene) = Scene::new(mode, Retention::Limits, &[]) else { return };
        let keyed = TopicOptions::keyed(1).stream(STREAM);
        let service = scene.try_start(|builder| builder.topic(TOPIC, keyed), |policy| policy);
        let service = service.unwrap();
        let beside = |scene: &mut Scene| _ = scene.wire.record("jobs.7.k", "k", 1);
        beside(&mut scene);
        scene.wire.record("jobs.0.k", "k0", 1);
        scene.notes.wait(1, SOON);
        (0..3).for_each(|_| beside(&mut scene));
        scene.stream("PURGE");
        scene.server.kill(1);
        scene.server.restart(1);
        scene.wire = Wire::new(scene.server.url());
        scene.wire.record("jobs.0.k", "k0", 2);
        scene.notes.wait(2, SOON);
        assert_eq!(service.stopped(), None, "{mode:?}");
        service.close();
        assert_eq!(scene.notes.assert_order(), 0, "{mode:?}");
    }
}

macro_rules! losses {
    ($($mode:ident $name:ident)*) => {$(
        mod $name {
            use super::*;

            fn all(loss: Loss, test: fn(AckMode, Loss, OnLost)) {
                for on_lost in [OnLost::Stop, OnLost::Earliest, OnLost::Latest] {
                    test(AckMode::$mode, loss, on_lost);
                }
            }

            #[test] fn retention_at_start() { all(Loss::Retention, lost_at_start); }
            #[test] fn purge_at_start() { all(Loss::Purge, lost_at_start); }
            #[test] fn made_anew_at_start() { all(Loss::MadeAnew, lost_at_start); }
            #[test] fn truncation_at_start() { all(Loss::Truncation, lost_at_start); }
            #[test] fn made_anew_while_running() { all(Loss::MadeAnew, lost_while_running); }
            #[test] fn purge_while_paused() { all(Loss::Purge, lost_while_paused); }
            #[test] fn retention_while_paused() { all(Loss::Retention, lost_while_paused); }
            #[test] fn overtaken_by_retention() {
                for on_lost in [OnLost::Stop, OnLost::Earliest, OnLost::Latest] {
                    for freed in [false, true] {
                        super::overtaken_by_retention(AckMode::$mode, on_lost, freed);
                    }
                }
            }
        }
    )*};
}

losses! {
    Each lost_each
    Floor lost_floor
    Checkpoint lost_checkpoint
}
