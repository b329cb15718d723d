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
use std::time::Duration;

use frame::Frame;
use history::{History, Judgement};
use proxy::Act;
use stage::{Stage, key, quick};
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

#[test]
fn a_consumer_of_one_message_at_a_time_is_acquitted() {
    for fault in [killed, cut] {
        let Some(verdict) = with_first_records_held(&Reference, fault) else { return };
        verdict.assert_sound(0);
    }
    let Some(verdict) = with_deliveries_swallowed(&Reference) else { return };
    verdict.assert_sound(0);
}
