//! Faults that others make: a second consumer under our name, a topic that takes nothing, a cluster that changes its mind.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/frame.rs"]
mod frame;
#[path = "support/history.rs"]
mod history;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/stage.rs"]
mod stage;
#[path = "support/subject.rs"]
mod subject;
#[path = "support/wire.rs"]
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use frame::Frame;
use keylane::nats::{AckMode, NatsBus};
use keylane::{
    BrokerErrorKind, BusError, Health, PublishErrorKind, Record, Retry, Runtime, Subscription,
};
use parking_lot::Mutex;
use proxy::Act;
use stage::{HANG, KEYS, STREAM, Stage, TOPIC, key, quick};
use subject::{Handler, Ours, Running, executor};
use wire::Wire;

/// What a server without room says to a publish.
const FULL: &str = r#"{"type":"io.nats.jetstream.api.v1.pub_ack_response","error":{"code":503,"err_code":10023,"description":"insufficient resources"},"stream":"STREAM_jobs","seq":0}"#;

/// A leader that still leads after so long was chosen again.
const CHOSEN: Duration = Duration::from_secs(5);

macro_rules! faults {
    ($($fault:ident)* ; long: $($long:ident)*) => {
        faults!(mode each Each $($fault)* ; $($long)*);
        faults!(mode floor Floor $($fault)* ; $($long)*);
        faults!(mode checkpoint Checkpoint $($fault)* ; $($long)*);
    };
    (mode $name:ident $mode:ident $($fault:ident)* ; $($long:ident)*) => {
        mod $name {
            $(#[test] fn $fault() { super::$fault(super::AckMode::$mode); })*
            $(#[test] #[ignore = "long: a cluster of three"] fn $long() { super::$long(super::AckMode::$mode); })*
        }
    };
}

faults! {
    second_consumer_by_mistake
    dead_letters_find_no_room
    store_truncated
    ;
    long:
    leader_stepped_down
    leader_killed
}

/// Two that share one consumer: nothing is lost, and at the latest the third time that something is missing one stops and
/// says why. Order is not to be had.
fn second_consumer_by_mistake(mode: AckMode) {
    let Some(stage) = Stage::new(&[]) else { return };
    let ours = Ours(mode);
    let both = [stage.start(&ours, quick()), stage.start(&ours, quick())];
    let deadline = Instant::now() + HANG;
    let why = loop {
        stage.publish(2);
        if let Some(why) = both.iter().find_map(|one| one.stopped()) {
            break why;
        }
        assert!(Instant::now() < deadline, "nobody notices");
    };
    let said = if mode == AckMode::Checkpoint { "another process" } else { "somebody else" };
    assert!(why.contains(said), "{why}");
    both.into_iter().for_each(Running::close);
    let last = stage.start(&ours, quick());
    stage.drain();
    last.close();
    let verdict = stage.history.judge();
    assert!(verdict.is_complete() && verdict.phantoms.is_empty(), "{verdict}");
}

/// A record that fails waits with its key until there is room for its letter; the others go on.
fn dead_letters_find_no_room(mode: AckMode) {
    let Some(stage) = Stage::new(&[]) else { return };
    let full = stage.proxy.inject(usize::MAX, Act::Answer(FULL.into()), |frame| {
        frame.is_publish() && frame.subject() == "dead"
    });
    let handler = Handler {
        history: stage.history.clone(),
        work: Arc::new(|name, seq| name != key(0) || seq != 3),
    };
    let runtime = Runtime::builder().workers(2).build().unwrap();
    let builder = NatsBus::builder(&runtime, &stage.place.url).ack_mode(mode);
    let bus = executor().block_on(builder.connect()).unwrap();
    bus.ensure("dead").wait().unwrap();
    let policy = Subscription::new("faults")
        .retry(Retry::fixed(Duration::from_millis(1)).attempts(2))
        .dead_letter("dead");
    let handle = move |record: &Record| {
        if handler.handle(record.payload()) { Ok(()) } else { Err("failed".into()) }
    };
    let subscription = bus.subscribe(TOPIC, policy, handle).wait().unwrap();
    stage.publish(6);
    let waiting = (KEYS as usize - 1) * 6 + 2;
    stage.wait_handled(waiting);
    let deadline = Instant::now() + HANG;
    while full.count() < 3 {
        assert!(Instant::now() < deadline, "the letter was tried {} times", full.count());
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(stage.history.judge().handled, waiting, "the key went on without its letter");
    // The third record of the first key, behind two of each.
    let third = 2 * KEYS as usize + 1;
    assert!(stage.floor() < third, "what waits is taken for done");

    full.end();
    stage.history.removed(&key(0), 3);
    stage.recover("no room for a letter");
    let letters = stage.request("STREAM.INFO.STREAM_dead", "")["state"]["messages"].as_u64();
    assert_eq!((letters, subscription.stopped_by()), (Some(1), None));
    bus.close(Duration::from_secs(10)).wait().unwrap();
    runtime.close(Duration::from_secs(10)).unwrap();
    stage.history.judge().assert_sound(0);
}

/// The server's disk has lost the newest records, all of them handled: what takes their places is not what was there.
/// That is a lost position, of which the service is told; nothing is handled again or passed by.
fn store_truncated(mode: AckMode) {
    let Some(stage) = Stage::new(&[]) else { return };
    let running = stage.start(&Ours(mode), quick());
    if stage.server.nodes() > 1 {
        return running.close(); // the others have it
    }
    stage.publish(5);
    stage.drain();
    let all = 5 * KEYS as usize;
    let deadline = Instant::now() + HANG;
    while stage.floor() < all {
        assert!(Instant::now() < deadline, "{} of {all} are done", stage.floor());
        thread::sleep(Duration::from_millis(5));
    }
    stage.proxy.refuse(true);
    stage.server.kill(1);
    let store = stage.server.dir().join("n1/store/jetstream/$G/streams").join(STREAM).join("msgs");
    let _ = std::fs::remove_file(store.join("index.db")); // older ones have none
    let block = std::fs::File::options().write(true).open(store.join("1.blk")).unwrap();
    // Into the last but one or so.
    block.set_len(block.metadata().unwrap().len() - 250).unwrap();
    stage.server.restart(1);
    let last = stage.request(&format!("STREAM.INFO.{STREAM}"), "")["state"]["last_seq"].as_u64();
    assert!(last.is_some_and(|last| 0 < last && last < all as u64), "{last:?} is the last");
    stage.proxy.refuse(false);
    let deadline = Instant::now() + history::RECOVERY;
    let why = loop {
        if let Some(why) = running.stopped() {
            break why;
        }
        assert!(Instant::now() < deadline, "nobody notices");
        thread::sleep(Duration::from_millis(5));
    };
    eprintln!("{mode:?}, {last:?} is the last: {why}");
    running.close();
    stage.history.judge().assert_sound(0);
}

fn cluster(mode: AckMode) -> Option<(Stage, Box<dyn Running>)> {
    let mut stage = Stage::new(&["--nodes", "3"])?;
    stage.place.ack_wait = Duration::from_secs(30);
    let running = stage.start(&Ours(mode), quick());
    stage.publish(5);
    stage.drain();
    Some((stage, running))
}

fn leader_stepped_down(mode: AckMode) {
    let Some((stage, running)) = cluster(mode) else { return };
    for _ in 0..3 {
        stage.publish(5);
        let consumer = stage.consumer();
        // One of one replica has no other leader.
        if consumer.config.num_replicas != 1 {
            let what = format!("CONSUMER.LEADER.STEPDOWN.{STREAM}.{}", consumer.name);
            step_down(&stage, &what, &format!("CONSUMER.INFO.{STREAM}.{}", consumer.name));
            stage.recover("a consumer's leader that stepped down");
            stage.publish(5);
        }
        let what = format!("STREAM.LEADER.STEPDOWN.{STREAM}");
        step_down(&stage, &what, &format!("STREAM.INFO.{STREAM}"));
        stage.recover("a stream's leader that stepped down");
    }
    stage.finish(running, KEYS as usize);
}

/// Has its leader step down, and waits until another leads. The one that stepped down may be chosen once more.
fn step_down(stage: &Stage, what: &str, info: &str) {
    let leader = || stage.request(info, "")["cluster"]["leader"].as_str().map(str::to_owned);
    let deadline = Instant::now() + HANG;
    let before = loop {
        if let Some(leader) = leader() {
            break leader;
        }
        assert!(Instant::now() < deadline, "{info}: nobody leads");
    };
    let answer = stage.request(what, "");
    assert_eq!(answer["success"].as_bool(), Some(true), "{answer}");
    let mut asked = Instant::now();
    let after = loop {
        match leader() {
            Some(leader) if leader != before => break leader,
            same => {
                assert!(Instant::now() < deadline, "{info}: {before} led, and then {same:?}");
                if same.is_some() && asked.elapsed() > CHOSEN {
                    stage.request(what, "");
                    asked = Instant::now();
                }
            }
        }
    };
    eprintln!("{what}: {before}, then {after}");
}

fn leader_killed(mode: AckMode) {
    let Some((stage, running)) = cluster(mode) else { return };
    for _ in 0..2 {
        stage.publish(5);
        let leader = stage.consumer().cluster.and_then(|cluster| cluster.leader);
        let leader: usize = leader.unwrap().trim_start_matches('n').parse().unwrap();
        let before = stage.server.pid(leader);
        stage.server.kill(leader);
        stage.server.restart(leader);
        assert_ne!(stage.server.pid(leader), before);
        stage.recover("a killed leader");
    }
    stage.finish(running, KEYS as usize);
}

/// A cluster that chooses a leader answers no question, and not later either: what is asked then is asked again, and a
/// subscription begins all the same.
#[test]
fn questions_are_not_answered() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(stage) = Stage::new(&[]) else { return };
        let unheard = stage
            .proxy
            .inject(2, Act::Drop, |frame| frame.is_publish() && frame.subject().contains(".INFO."));
        let running = stage.start(&Ours(mode), quick());
        assert_eq!(unheard.count(), 2);
        stage.publish(5);
        stage.drain();
        stage.finish(running, 0);
    }
}

/// A cluster with a node that is away has no place for a stream of three replicas: it is asked for one again.
#[test]
fn streams_find_no_place() {
    const NO_PLACE: &str = r#"{"error":{"code":400,"err_code":10005,"description":"no suitable peers for placement"}}"#;
    let Some(stage) = Stage::new(&[]) else { return };
    let refused = stage.proxy.inject(2, Act::Answer(NO_PLACE.into()), |frame| {
        frame.is_publish() && frame.subject().contains(".STREAM.CREATE.KV_")
    });
    let running = stage.start(&Ours(AckMode::Checkpoint), quick());
    assert_eq!(refused.count(), 2);
    stage.publish(5);
    stage.drain();
    stage.finish(running, 0);
}

/// Who answers for a stream that has just been seen may not know of it yet: that is given a moment, and not more.
#[test]
fn a_stream_is_not_known_for_a_moment() {
    const UNKNOWN: &str =
        r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(stage) = Stage::new(&[]) else { return };
        let runtime = Runtime::builder().workers(1).build().unwrap();
        let builder = NatsBus::builder(&runtime, &stage.place.url).ack_mode(mode);
        let bus = executor().block_on(builder.connect()).unwrap();
        // Seen once, and then for so many times no more.
        let unknown = |times| {
            let asked = AtomicUsize::new(0);
            stage.proxy.inject(times, Act::Answer(UNKNOWN.into()), move |frame| {
                let asks =
                    frame.is_publish() && frame.subject().ends_with(&format!(".INFO.{STREAM}"));
                asks && asked.fetch_add(1, Ordering::Relaxed) > 0
            })
        };
        let subscribe = || bus.subscribe(TOPIC, Subscription::new("faults"), |_| Ok(())).wait();

        let always = unknown(usize::MAX);
        let Err(BusError::Broker(error)) = subscribe() else { panic!("{mode:?}: it is missing") };
        assert_eq!(error.kind(), BrokerErrorKind::MissingTopic, "{mode:?}: {error}");
        assert!(error.to_string().contains(STREAM), "{mode:?}: {error}");
        assert!(always.count() > 2, "{mode:?}: asked {} times", always.count());
        always.end();

        let thrice = unknown(3);
        subscribe().unwrap_or_else(|error| panic!("{mode:?}: {error}"));
        assert_eq!(thrice.count(), 3, "{mode:?}");
        assert_eq!(bus.health(), Health::Healthy, "{mode:?}");
        bus.close(Duration::from_secs(10)).wait().unwrap();
        runtime.close(Duration::from_secs(10)).unwrap();
    }
}

/// A source that has stopped gives up the pull that is under way: what it would bring is whoever's that reads.
#[test]
fn who_has_stopped_asks_for_nothing_more() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(stage) = Stage::new(&[]) else { return };
        let running = stage.start(&Ours(mode), Arc::new(|_, seq| seq < 3));
        stage.publish(2);
        stage.drain();
        let given_up = stage.proxy.inject(usize::MAX, Act::Pass, |frame| frame.verb() == "UNSUB");
        stage.publish(1);
        let deadline = Instant::now() + HANG;
        while running.stopped().is_none() || given_up.count() == 0 {
            assert!(Instant::now() < deadline, "{mode:?}: {:?}", running.stopped());
            thread::sleep(Duration::from_millis(5));
        }
        running.close();
    }
}

/// The position is written again until there is room for it; records go on meanwhile, and it is where it was to be. The
/// other modes write nothing that could be refused: an acknowledgement takes no room, and has no answer.
#[test]
fn positions_find_no_room() {
    let Some(stage) = Stage::new(&[]) else { return };
    let running = stage.start(&Ours(AckMode::Checkpoint), quick());
    stage.publish(5);
    stage.drain();
    let done = |count: usize| {
        let deadline = Instant::now() + HANG;
        while stage.floor() < count {
            assert!(Instant::now() < deadline, "{} of {count} are done", stage.floor());
            thread::sleep(Duration::from_millis(5));
        }
    };
    done(5 * KEYS as usize);
    let full = stage.proxy.inject(usize::MAX, Act::Answer(FULL.into()), |frame| {
        frame.is_publish() && frame.subject().starts_with("$KV.keylane.at.")
    });
    stage.publish(5);
    stage.drain();
    let deadline = Instant::now() + HANG;
    while full.count() < 5 {
        assert!(Instant::now() < deadline, "the position was written {} times", full.count());
        stage.publish(1);
    }
    assert_eq!(stage.floor(), 5 * KEYS as usize, "it was stored without room");
    full.end();
    stage.recover("no room for a position");
    done(stage.history.judge().published);
    stage.finish(running, 0);
}

/// A write of a position that nobody confirms is stored late, between the look at what is there and the write that follows:
/// that one is refused, and still nobody else has the position.
#[test]
fn a_position_is_stored_late() {
    let Some(stage) = Stage::new(&[]) else { return };
    let running = stage.start(&Ours(AckMode::Checkpoint), quick());
    stage.publish(5);
    stage.drain();
    let is_position = |frame: &Frame| {
        let own = frame.is_publish() && frame.subject().starts_with("$KV.keylane.at.");
        own.then(|| {
            (frame.subject().to_owned(), String::from_utf8_lossy(frame.payload()).into_owned())
        })
    };
    let late = Arc::new(Mutex::new(None));
    let (noted, wire) = (late.clone(), Mutex::new(Wire::new(stage.server.url())));
    let unknown = stage.proxy.inject(1, Act::Answer(FULL.into()), move |frame| {
        let position = is_position(frame);
        noted.lock().clone_from(&position);
        position.is_some()
    });
    let stored = stage.proxy.inject(1, Act::Pass, move |frame| {
        let Some(late) = is_position(frame).and_then(|_| late.lock().take()) else { return false };
        wire.lock().publish(&late.0, b"", &late.1);
        true
    });
    let deadline = Instant::now() + HANG;
    while unknown.count() + stored.count() < 2 {
        assert!(Instant::now() < deadline, "{:?}", running.stopped());
        stage.publish(1);
    }
    stage.publish(1);
    stage.drain();
    let all = stage.history.judge().published;
    while stage.floor() < all {
        assert!(Instant::now() < deadline, "{} of {all}: {:?}", stage.floor(), running.stopped());
        thread::sleep(Duration::from_millis(5));
    }
    stage.finish(running, 0);
}

/// Who has come to lead the bucket may for a moment not know of the position: it is not taken for removed.
#[test]
fn a_position_is_not_seen_for_a_moment() {
    const UNSEEN: &str =
        r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
    let Some(stage) = Stage::new(&[]) else { return };
    let running = stage.start(&Ours(AckMode::Checkpoint), quick());
    stage.publish(5);
    stage.drain();
    let refused = stage.proxy.inject(1, Act::Answer(FULL.into()), |frame| {
        frame.is_publish() && frame.subject().starts_with("$KV.keylane.at.")
    });
    let unseen = stage.proxy.inject(1, Act::Answer(UNSEEN.into()), |frame| {
        frame.is_publish() && frame.subject().ends_with(".STREAM.MSG.GET.KV_keylane")
    });
    let deadline = Instant::now() + HANG;
    while refused.count() + unseen.count() < 2 {
        assert!(Instant::now() < deadline, "{:?}", running.stopped());
        stage.publish(1);
    }
    let all = stage.history.judge().published;
    while stage.floor() < all {
        assert!(Instant::now() < deadline, "{} of {all}: {:?}", stage.floor(), running.stopped());
        thread::sleep(Duration::from_millis(5));
    }
    stage.finish(running, 0);
}

/// It is tried again for as long as a publish may take, and then comes back; nothing is stored twice.
#[test]
fn publish_finds_no_room() {
    let Some(stage) = Stage::new(&[]) else { return };
    let to_topic = |frame: &Frame| frame.is_publish() && frame.subject() == TOPIC;
    let runtime = Runtime::builder().workers(1).build().unwrap();
    let bus = executor().block_on(NatsBus::builder(&runtime, &stage.place.url).connect()).unwrap();
    let publish = || bus.publish(TOPIC, Record::new("order-1", "order-1 1")).wait();

    let full = stage.proxy.inject(3, Act::Answer(FULL.into()), to_topic);
    publish().unwrap();
    assert_eq!(full.count(), 3);

    let full = stage.proxy.inject(usize::MAX, Act::Answer(FULL.into()), to_topic);
    let error = publish().expect_err("there is no room");
    assert!(matches!(error.kind(), PublishErrorKind::Failed(_)), "{error}");
    assert_eq!(error.into_record().payload(), b"order-1 1");
    full.end();
    publish().unwrap();
    let stored = stage.request(&format!("STREAM.INFO.{STREAM}"), "")["state"]["messages"].as_u64();
    assert_eq!(stored, Some(2));
    bus.close(Duration::from_secs(10)).wait().unwrap();
    runtime.close(Duration::from_secs(10)).unwrap();
}
