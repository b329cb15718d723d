//! The judge of the fault tests has teeth: a consumer as one writes it first is convicted after each fault, and
//! one that takes a message at a time is acquitted.
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
use std::time::{Duration, Instant};

use frame::{Frame, Way};
use history::{History, Judgement};
use proxy::{Act, Injected};
use stage::{KEYS, STREAM, Stage, key, quick};
use subject::{Naive, Reference, Subject, Work};

/// Holds the first record of a key until a later one begins, which a consumer that keeps order never lets happen: then
/// for a moment only.
fn held(history: &History, moment: Duration) -> Work {
    let history = history.clone();
    Arc::new(move |key, seq| {
        if seq == 1 {
            history.wait_started(key, 2, moment);
        }
        true
    })
}

/// A fault while the first records of all keys are in their handlers.
fn with_first_records_held(subject: &dyn Subject, fault: impl FnOnce(&Stage)) -> Option<Judgement> {
    let stage = Stage::new(&[])?;
    let work = held(&stage.history, Duration::from_millis(300));
    let running = stage.start(subject, work);
    stage.publish(2);
    assert!(stage.history.wait_started(&key(0), 1, stage::HANG));
    fault(&stage);
    stage.publish(2);
    stage.drain();
    running.close();
    Some(stage.history.judge())
}

fn killed(stage: &Stage) {
    let before = stage.server.pid(1);
    stage.server.kill(1);
    stage.server.restart(1);
    assert_ne!(stage.server.pid(1), before);
}

fn cut(stage: &Stage) {
    assert!(stage.proxy.cut() > 0);
}

/// The second records of some keys are swallowed on their way, and come again after the third, or first.
const SWALLOWED: usize = 3;

fn with_deliveries_swallowed(subject: &dyn Subject) -> Option<Judgement> {
    let stage = Stage::new(&[])?;
    let running = stage.start(subject, quick());
    stage.publish(1);
    stage.drain();
    let swallowed = stage.proxy.inject(SWALLOWED, Act::Drop, Frame::is_delivery);
    stage.publish(3);
    stage.drain();
    assert_eq!(swallowed.count(), SWALLOWED);
    running.close();
    Some(stage.history.judge())
}

#[test]
fn a_naive_consumer_is_convicted_after_a_kill_of_the_server() {
    let Some(verdict) = with_first_records_held(&Naive, killed) else { return };
    assert!(!verdict.disorder.is_empty() && !verdict.overlaps.is_empty(), "{verdict}");
}

#[test]
fn a_naive_consumer_is_convicted_after_a_cut() {
    let Some(verdict) = with_first_records_held(&Naive, cut) else { return };
    assert!(!verdict.disorder.is_empty() && !verdict.overlaps.is_empty(), "{verdict}");
}

#[test]
fn a_naive_consumer_is_convicted_after_swallowed_deliveries() {
    let Some(verdict) = with_deliveries_swallowed(&Naive) else { return };
    assert!(verdict.disorder.len() >= SWALLOWED, "{verdict}");
}

/// One record of each key at a time, so that nothing but the fault can do harm: no handler of a naive consumer ever runs
/// beside another of its key, and what is handled twice is handled twice because of it.
fn one_at_a_time(subject: &dyn Subject, fault: impl FnOnce(&Stage)) -> Option<Judgement> {
    let stage = Stage::new(&[])?;
    let running = stage.start(subject, quick());
    stage.publish(1);
    stage.drain();
    fault(&stage);
    // Whatever comes again has come.
    stage.wait_consumer("nothing is on its way", |info| {
        info.num_ack_pending == 0 && info.num_pending == 0
    });
    stage.publish(1);
    stage.drain();
    running.close();
    Some(stage.history.judge())
}

/// How long a handler of [`with_a_slow_handler`] waits for the same record to come again.
const COMES_AGAIN: Duration = Duration::from_secs(8);

/// A fault while the first record of one key is in its handler, and that for longer than the server waits.
fn with_a_slow_handler(subject: &dyn Subject, fault: impl FnOnce(&Stage)) -> Option<Judgement> {
    let stage = Stage::new(&[])?;
    let history = stage.history.clone();
    let running = stage.start(
        subject,
        Arc::new(move |name, seq| {
            if (name, seq) == (&*key(0), 1) {
                let again = |so_far: &Judgement| !so_far.overlaps.is_empty();
                history.wait(COMES_AGAIN, again);
            }
            true
        }),
    );
    let begun = Instant::now();
    stage.publish(1);
    assert!(stage.history.wait_started(&key(0), 1, stage::HANG));
    fault(&stage);
    stage.drain();
    // Whoever asks for the next record only now is not given the same again.
    assert!(begun.elapsed() > stage.place.ack_wait, "the server had not to wait");
    running.close();
    Some(stage.history.judge())
}

/// The server's patience ends.
fn ack_wait_expired(stage: &Stage) {
    let before = stage.consumer();
    assert!(before.num_ack_pending > 0 && before.config.ack_wait < COMES_AGAIN, "{before:?}");
}

/// The server is stopped for longer than it waits.
fn server_stopped(stage: &Stage) {
    stage.server.pause(1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.server.pid(1))).unwrap();
    assert!(status.contains("State:\tT"));
    std::thread::sleep(stage.place.ack_wait * 2);
    stage.server.resume(1);
}

/// Somebody makes it anew from the stream's first record.
fn consumer_recreated(stage: &Stage) {
    let before = stage.consumer();
    // Whose it is would be faster.
    stage.proxy.black_hole(Way::ToServer);
    stage.recreate_consumer();
    assert!(stage.consumer().created > before.created);
    stage.proxy.heal();
}

fn consumer_deleted(stage: &Stage) {
    let before = stage.consumer();
    stage.delete_consumer();
    stage.wait_consumer("it is another", |info| info.created > before.created);
}

/// Acknowledgements are lost on their way, and the server delivers again.
fn acks_dropped(stage: &Stage) {
    let dropped = stage.proxy.inject(SWALLOWED, Act::Drop, Frame::is_ack);
    stage.publish(1);
    stage.drain();
    stage.wait_consumer("they are lost", |_| dropped.count() == SWALLOWED);
}

fn consumer_reset(stage: &Stage) {
    let name = stage.consumer().name;
    if stage.server.version() < (2, 14, 0) {
        return consumer_recreated(stage); // it knows no reset
    }
    // Records that it is told of as handled, and one that it was not told of: a reset goes back to that.
    let dropped = stage.proxy.inject(1, Act::Drop, Frame::is_ack);
    stage.publish(1);
    stage.drain();
    stage.wait_consumer("it is lost", |_| dropped.count() == 1);
    let answer = stage.request(&format!("CONSUMER.RESET.{STREAM}.{name}"), "{}");
    assert!(answer.get("error").is_none(), "{answer}");
}

/// Acknowledgements wait in a hole for longer than the server waits for them.
fn black_hole_to_the_server(stage: &Stage) {
    black_hole(stage, Way::ToServer);
}

fn black_hole_to_us(stage: &Stage) {
    black_hole(stage, Way::ToClient);
}

fn black_hole(stage: &Stage, way: Way) {
    stage.proxy.black_hole(way);
    stage.publish(1);
    let wait = stage.place.ack_wait;
    // Some servers look only once in their patience whether it is over; of what is not asked for nothing comes again. In a
    // hole that lasts much longer the connection ends.
    let begun = Instant::now();
    let again = || {
        let info = stage.consumer();
        let delivered = info.delivered;
        info.num_redelivered > 0 || delivered.consumer_sequence > delivered.stream_sequence
    };
    while begun.elapsed() < wait * 3 / 2 || begun.elapsed() < wait * 4 && !again() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(stage.proxy.kept_waiting(way) > 0);
    // As when it lasts longer than a connection: what waits in the hole is lost with that.
    if way == Way::ToServer {
        assert!(stage.proxy.cut() > 0);
    }
    stage.proxy.heal();
    stage.drain();
    // What came again lies behind what came first.
    let _ = stage.history.wait(wait, |so_far| so_far.starts > so_far.published);
}

fn delayed(stage: &Stage) {
    for way in [Way::ToClient, Way::ToServer] {
        stage.proxy.delay(way, Duration::from_millis(200));
    }
    stage.publish(1);
    stage.drain();
    for way in [Way::ToClient, Way::ToServer] {
        assert!(stage.proxy.kept_waiting(way) > 0);
    }
    stage.proxy.heal();
}

fn pulls_dropped(stage: &Stage) {
    let dropped = stage.proxy.inject(1, Act::Drop, Frame::is_pull);
    stage.publish(1);
    wait_for(stage, &dropped);
    stage.drain();
}

fn statuses_dropped(stage: &Stage) {
    let dropped = stage.proxy.inject(1, Act::Drop, Frame::is_status);
    stage.publish(1);
    wait_for(stage, &dropped);
    stage.drain();
}

fn wait_for(stage: &Stage, injected: &Injected) {
    stage.wait_consumer("it happens", |_| injected.count() > 0);
}

fn purged(stage: &Stage) {
    stage.proxy.black_hole(Way::ToClient);
    let range = stage.publish(1);
    for seq in range {
        (0..KEYS).for_each(|n| stage.history.removed(&key(n), seq));
    }
    let answer = stage.request(&format!("STREAM.PURGE.{STREAM}"), "");
    assert_eq!(answer["purged"].as_u64(), Some(2 * KEYS), "{answer}");
    stage.proxy.heal();
}

macro_rules! judged {
    ($($module:ident: $subject:ident $scene:ident $verdict:ident, $($fault:ident)*;)*) => {$(
        mod $module {
            $(
                #[test]
                fn $fault() {
                    let Some(verdict) = super::$scene(&super::$subject, super::$fault) else { return };
                    super::$verdict(&verdict);
                }
            )*
        }
    )*};
}

fn ran_twice_at_once(verdict: &Judgement) {
    assert!(!verdict.overlaps.is_empty() && !verdict.is_sound(0), "{verdict}");
}

/// After the first run of it, or beside that.
fn handled_again(verdict: &Judgement) {
    assert!(verdict.starts > verdict.published && !verdict.is_sound(0), "{verdict}");
}

fn sound(verdict: &Judgement) {
    verdict.assert_sound(0);
}

// A naive consumer is acquitted where nothing happens that could harm whoever is given one record of a key at a time; a
// judge who convicted it here would convict the innocent:
//
// * late frames are not lost ones;
// * a pull that is lost is made again, and had nothing delivered;
// * a status line that is lost says nothing that the next one does not say;
// * purged records are nobody's, whether they were on their way or not.
judged! {
    naive_runs_a_record_twice_at_once: Naive with_a_slow_handler ran_twice_at_once,
        ack_wait_expired server_stopped;
    naive_handles_again: Naive one_at_a_time handled_again,
        consumer_recreated consumer_deleted consumer_reset acks_dropped black_hole_to_the_server black_hole_to_us;
    naive_is_unharmed: Naive one_at_a_time sound,
        delayed pulls_dropped statuses_dropped purged;
    reference_with_a_slow_handler: Reference with_a_slow_handler sound,
        ack_wait_expired server_stopped;
    reference: Reference one_at_a_time sound,
        consumer_recreated consumer_deleted consumer_reset acks_dropped black_hole_to_the_server black_hole_to_us
        delayed pulls_dropped statuses_dropped purged;
}

#[test]
fn a_consumer_of_one_message_at_a_time_is_acquitted() {
    for fault in [killed, cut] {
        let Some(verdict) = with_first_records_held(&Reference, fault) else { return };
        verdict.assert_sound(0);
    }
    let Some(verdict) = with_deliveries_swallowed(&Reference) else { return };
    verdict.assert_sound(0);
}
