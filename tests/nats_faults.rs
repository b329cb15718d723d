//! Faults of the network, of the server, and by other people, while a consumer of ours runs: nothing is lost, every key
//! keeps its order, nothing is handled twice beyond what the server has forgotten, and it goes on by itself. In every mode.
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

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::DeliverPolicy;
use frame::{Frame, Way};
use keylane::nats::AckMode;
use proxy::{Act, Injected};
use stage::{HANG, KEYS, STREAM, Stage, key, quick};
use subject::{Ours, Reference, Running, Subject};

/// Each of these faults is a test in each mode; on the reference, which says that the test asks for no more than a simple
/// consumer can do, only in full runs.
macro_rules! faults {
    ($($fault:ident)* ; acknowledged: $($acknowledged:ident)* ; ours: $($own:ident)*) => {
        mod each {
            $(#[test] fn $fault() { super::$fault(&super::Ours(super::AckMode::Each)); })*
            $(#[test] fn $acknowledged() { super::$acknowledged(&super::Ours(super::AckMode::Each)); })*
            $(#[test] fn $own() { super::$own(&super::Ours(super::AckMode::Each)); })*
        }
        mod floor {
            $(#[test] fn $fault() { super::$fault(&super::Ours(super::AckMode::Floor)); })*
            $(#[test] fn $acknowledged() { super::$acknowledged(&super::Ours(super::AckMode::Floor)); })*
            $(#[test] fn $own() { super::$own(&super::Ours(super::AckMode::Floor)); })*
        }
        mod checkpoint {
            $(#[test] fn $fault() { super::$fault(&super::Ours(super::AckMode::Checkpoint)); })*
        }
        mod reference {
            $(#[test] #[ignore = "long: the faults on a consumer that is none of ours"]
            fn $fault() { super::$fault(&super::Reference); })*
            $(#[test] #[ignore = "long: the faults on a consumer that is none of ours"]
            fn $acknowledged() { super::$acknowledged(&super::Reference); })*
        }
    };
}

faults! {
    cut
    cut_inside_a_message
    black_hole_to_us
    black_hole_to_the_server
    black_hole_both_ways
    delay
    acks_dropped
    pulls_dropped
    statuses_dropped
    deliveries_swallowed
    server_killed
    server_killed_while_acks_are_under_way
    server_stopped
    consumer_deleted
    stream_purged
    ;
    acknowledged:
    consumer_recreated
    consumer_reset
    ;
    ours:
    ack_wait_expires
}

/// A consumer that has handled its first records.
fn begun(subject: &dyn Subject) -> Option<(Stage, Box<dyn Running>)> {
    let stage = Stage::new(&[])?;
    let running = stage.start(subject, quick());
    stage.publish(5);
    stage.drain();
    Some((stage, running))
}

/// Waits until a rule has applied as often as it can.
fn wait_for(injected: &Injected, count: usize) {
    let deadline = Instant::now() + HANG;
    while injected.count() < count {
        assert!(Instant::now() < deadline, "{} of {count} faults happened", injected.count());
        thread::sleep(Duration::from_millis(1));
    }
}

fn cut(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    for _ in 0..5 {
        stage.publish(10);
        assert!(stage.proxy.cut() > 0);
        stage.recover("a cut");
    }
    stage.finish(running, 0);
}

fn cut_inside_a_message(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    for bytes in [3, 30, 90, usize::MAX] {
        let cut = stage.proxy.inject(1, Act::CutInside(bytes), Frame::is_delivery);
        stage.publish(5);
        wait_for(&cut, 1);
        stage.recover("a cut inside a message");
    }
    stage.finish(running, 0);
}

fn black_hole(subject: &dyn Subject, ways: &[Way]) {
    let Some((stage, running)) = begun(subject) else { return };
    for way in ways {
        stage.proxy.black_hole(*way);
    }
    let kept = [Way::ToServer, Way::ToClient].map(|way| stage.proxy.kept_waiting(way));
    let before = stage.history.judge().handled;
    stage.publish(5);
    // Longer than it takes to notice.
    thread::sleep(Duration::from_secs(6));
    for way in ways {
        let now = stage.proxy.kept_waiting(*way);
        assert!(now > kept[*way as usize], "nothing went {way:?} that the hole could take");
    }
    if ways.contains(&Way::ToClient) {
        assert_eq!(stage.history.judge().handled, before, "the hole leaks");
    }
    // Nobody can have told the server of what was published behind the hole.
    if ways.contains(&Way::ToServer) {
        assert!(stage.floor() <= before, "the hole leaks: {} are done", stage.floor());
    }
    stage.proxy.heal();
    stage.recover("a black hole");
    stage.finish(running, 0);
}

fn black_hole_to_us(subject: &dyn Subject) {
    black_hole(subject, &[Way::ToClient]);
}

fn black_hole_to_the_server(subject: &dyn Subject) {
    black_hole(subject, &[Way::ToServer]);
}

fn black_hole_both_ways(subject: &dyn Subject) {
    black_hole(subject, &[Way::ToClient, Way::ToServer]);
}

fn delay(subject: &dyn Subject) {
    const LATE: Duration = Duration::from_millis(200);
    let Some((stage, running)) = begun(subject) else { return };
    stage.proxy.delay(Way::ToClient, LATE);
    stage.proxy.delay(Way::ToServer, LATE);
    let sent = Instant::now();
    stage.publish(2);
    stage.drain();
    assert!(sent.elapsed() >= LATE, "nothing was late");
    for way in [Way::ToClient, Way::ToServer] {
        assert!(stage.proxy.kept_waiting(way) > 0, "nothing was late {way:?}");
    }
    stage.proxy.heal();
    stage.recover("a delay");
    stage.finish(running, 0);
}

fn acks_dropped(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    let dropped = stage.proxy.inject(3, Act::Drop, Frame::says_done);
    stage.publish(1);
    stage.drain();
    stage.publish(1);
    stage.drain();
    stage.publish(1);
    wait_for(&dropped, 3);
    stage.recover("lost acknowledgements");
    stage.drain();
    // Once the server has waited for them it delivers again, and is told that it is done.
    stage.wait_consumer("all is acknowledged", |info| info.num_ack_pending == 0);
    stage.finish(running, 0);
}

fn pulls_dropped(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    let dropped = stage.proxy.inject(2, Act::Drop, Frame::is_pull);
    wait_for(&dropped, 2);
    stage.recover("lost pulls");
    stage.finish(running, 0);
}

fn statuses_dropped(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    let dropped = stage.proxy.inject(3, Act::Drop, Frame::is_status);
    wait_for(&dropped, 3);
    stage.recover("lost status lines");
    stage.finish(running, 0);
}

/// What a client does that drops what it has no room for.
fn deliveries_swallowed(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    let swallowed = stage.proxy.inject(3, Act::Drop, Frame::is_delivery);
    stage.publish(5);
    wait_for(&swallowed, 3);
    stage.recover("swallowed deliveries");
    stage.finish(running, 0);
}

/// Kills the server; says how many records are handled of which the restarted one does not know it.
fn kill(stage: &Stage) -> usize {
    // Nobody reaches the new server before it was asked.
    stage.proxy.refuse(true);
    let before = stage.server.pid(1);
    stage.server.kill(1);
    stage.server.restart(1);
    assert_ne!(stage.server.pid(1), before);
    let forgotten = stage.forgotten();
    stage.proxy.refuse(false);
    forgotten
}

fn server_killed(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    let mut forgotten = 0;
    for _ in 0..3 {
        stage.publish(5);
        forgotten += kill(&stage);
        stage.recover("a kill of the server");
    }
    stage.finish(running, forgotten);
}

/// It is killed right after it was told that many records are done, and forgets it.
fn server_killed_while_acks_are_under_way(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    if stage.server.nodes() > 1 {
        return running.close(); // the others remember
    }
    let mut forgotten = 0;
    let deadline = Instant::now() + HANG;
    while forgotten == 0 {
        assert!(Instant::now() < deadline, "the server forgets nothing");
        stage.publish(20);
        stage.drain();
        forgotten += kill(&stage);
        stage.recover("a kill of the server");
    }
    stage.finish(running, forgotten);
}

fn server_stopped(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    stage.publish(20);
    stage.server.pause(1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.server.pid(1))).unwrap();
    assert!(status.contains("State:\tT"));
    thread::sleep(Duration::from_secs(6));
    stage.server.resume(1);
    stage.recover("a stopped server");
    stage.finish(running, 0);
}

/// A handler takes longer than the server waits, and is not heard of meanwhile.
fn ack_wait_expires(subject: &dyn Subject) {
    let Some(stage) = Stage::new(&[]) else { return };
    let unheard = stage.proxy.inject(usize::MAX, Act::Drop, Frame::is_progress);
    let slow = stage.place.ack_wait * 2;
    let work = Arc::new(move |name: &str, seq| {
        if name == key(0) && seq == 3 {
            thread::sleep(slow);
        }
        true
    });
    let running = stage.start(subject, work);
    stage.publish(5);
    stage.wait_consumer("it is delivered again", |info| {
        info.num_redelivered > 0
            || info.delivered.consumer_sequence > info.delivered.stream_sequence
    });
    stage.drain();
    unheard.end();
    stage.recover("a slow handler");
    stage.drain();
    stage.wait_consumer("all is acknowledged", |info| info.num_ack_pending == 0);
    stage.finish(running, 0);
}

fn consumer_deleted(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    let before = stage.consumer();
    stage.publish(10);
    stage.delete_consumer();
    stage.recover("a deleted consumer");
    stage.wait_consumer("it is another", |info| info.created > before.created);
    stage.finish(running, 0);
}

/// Somebody makes it anew, from the stream's first record.
fn consumer_recreated(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    let before = stage.consumer();
    stage.publish(10);
    // Ours would be faster.
    stage.proxy.black_hole(Way::ToServer);
    stage.recreate_consumer();
    let after = stage.consumer();
    assert!(after.created > before.created, "it is the same");
    assert_eq!(after.config.deliver_policy, DeliverPolicy::All);
    stage.proxy.heal();
    stage.recover("a consumer that was made anew");
    stage.finish(running, 0);
}

fn consumer_reset(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    if stage.server.version() < (2, 14, 0) {
        return running.close(); // it knows no reset
    }
    let before = stage.consumer();
    stage.publish(10);
    let answer = stage.request(&format!("CONSUMER.RESET.{STREAM}.{}", before.name), "{}");
    assert!(answer.get("error").is_none(), "{answer}");
    stage.recover("a reset consumer");
    stage.finish(running, 0);
}

fn stream_purged(subject: &dyn Subject) {
    let Some((stage, running)) = begun(subject) else { return };
    stage.proxy.black_hole(Way::ToClient);
    let range = stage.publish(10);
    for seq in range.clone() {
        (0..KEYS).for_each(|n| stage.history.removed(&key(n), seq));
    }
    // What is stored is delivered a little later; what is gone before that is lost.
    let all = range.end() * KEYS;
    stage.wait_consumer("all is delivered that may be", |info| {
        let full =
            info.num_ack_pending > 0 && info.num_ack_pending as i64 == info.config.max_ack_pending;
        full || info.delivered.stream_sequence == all
    });
    let answer = stage.request(&format!("STREAM.PURGE.{STREAM}"), "");
    assert_eq!(answer["purged"].as_u64(), Some(all), "{answer}");
    stage.proxy.heal();
    stage.recover("a purged stream");
    stage.finish(running, 0);
}
