//! Consumers in processes of their own that are killed with a full window, or stopped while others take over.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/frame.rs"]
mod frame;
#[path = "support/history.rs"]
mod history;
#[path = "support/process.rs"]
mod process;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/stage.rs"]
mod stage;
#[path = "support/subject.rs"]
mod subject;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use keylane::nats::AckMode;
use parking_lot::Mutex;
use process::{Pace, Process};
use proxy::Act;
use stage::{DURABLE, HANG, KEYS, Stage, quick};
use subject::Ours;

/// Not a test: what the others start as a consumer.
#[test]
fn consumer_process() {
    process::play();
}

macro_rules! faults {
    ($($fault:ident)*) => {
        mod each { $(#[test] fn $fault() { super::$fault(super::AckMode::Each); })* }
        mod floor { $(#[test] fn $fault() { super::$fault(super::AckMode::Floor); })* }
        mod checkpoint { $(#[test] fn $fault() { super::$fault(super::AckMode::Checkpoint); })* }
    };
}

faults! {
    killed_with_a_full_window
    killed_again_and_again
    stopped_while_another_takes_over
    stopped_and_back_beside_another
    closed_and_started_again
}

const WINDOW: usize = 120;

/// Within this a process that goes on has lost its position: a checkpoint's interval, and time to reach the server again.
const FENCED: Duration = Duration::from_secs(3);

fn stage() -> Option<Stage> {
    let mut stage = Stage::new(&[])?;
    stage.place.window = WINDOW;
    Some(stage)
}

fn start(stage: &Stage, number: u32, mode: AckMode, pace: Pace) -> Process {
    Process::start("consumer_process", number, mode, pace, &stage.place, &stage.history)
}

fn killed_with_a_full_window(mode: AckMode) {
    let Some(stage) = stage() else { return };
    stage.publish(60);
    let held = Pace { held_from: 21, ..Pace::QUICK };
    let first = start(&stage, 1, mode, held);
    stage.wait_handled(20);
    match mode {
        AckMode::Checkpoint => stage.wait_consumer("more is delivered than done", |info| {
            info.delivered.stream_sequence > 200
        }),
        _ => stage.wait_consumer("the window is full", |info| info.num_ack_pending == WINDOW),
    };
    first.kill();
    let bound = stage.forgotten();
    let second = start(&stage, 2, mode, Pace::QUICK);
    stage.recover("a kill with a full window");
    assert!(second.close());
    stage.history.judge().assert_sound(bound);
}

/// A server without a reset, as old ones are: there a consumer that goes on is deleted and made anew.
const RESETLESS: &str = "debian";

#[test]
fn killed_between_deletion_and_making_each() {
    killed_between_deletion_and_making(AckMode::Each);
}

#[test]
fn killed_between_deletion_and_making_floor() {
    killed_between_deletion_and_making(AckMode::Floor);
}

/// SIGKILL of our process once it has deleted its consumer, and before the server has heard that it is to be made. What it
/// has written before is where the next one goes on.
fn killed_between_deletion_and_making(mode: AckMode) {
    let Some(mut stage) = Stage::new(&["--version", RESETLESS]) else { return };
    stage.place.window = WINDOW;
    stage.publish(20);
    let first = start(&stage, 1, mode, Pace::QUICK);
    let floor = 20 * KEYS;
    stage.wait_consumer("all is acknowledged", |info| info.ack_floor.stream_sequence == floor);
    first.kill();
    stage.publish(10);
    assert_eq!(kept_floor(&stage), None, "nothing was deleted yet");

    // The request is lost on its way, and our process waits for its answer.
    let making = stage.proxy.inject(usize::MAX, Act::Drop, |frame| {
        let subject = frame.subject();
        frame.is_publish() && subject.contains(".CONSUMER.") && subject.contains("CREATE.")
    });
    let second = start(&stage, 2, mode, Pace::QUICK);
    let deadline = Instant::now() + HANG;
    while making.count() == 0 {
        assert!(Instant::now() < deadline, "it does not make its consumer: {:?}", second.stopped());
        thread::sleep(Duration::from_millis(1));
    }
    assert!(stage.consumers().is_empty(), "it was deleted");
    second.kill();
    assert!(stage.consumers().is_empty(), "and is not there");
    let written = (floor + 1).to_string();
    assert_eq!(kept_floor(&stage), Some(written), "our process has written it");
    making.end();

    stage.publish(5);
    let third = start(&stage, 3, mode, Pace::QUICK);
    stage.recover("a kill between deletion and making");
    assert!(third.close());
    assert_eq!(kept_floor(&stage), None, "it is of no use any more");
    // Not one of those that were acknowledged came again, and no other was done.
    stage.history.judge().assert_sound(0);
}

/// The floor that the bus keeps while its consumer is not there.
fn kept_floor(stage: &Stage) -> Option<String> {
    let kept = stage.insist("what the bus keeps", |context| async move {
        let Ok(bucket) = context.get_key_value("keylane").await else { return Ok(None) };
        bucket.get(DURABLE).await.map_err(|error| error.to_string())
    })?;
    Some(String::from_utf8_lossy(&kept).into_owned())
}

/// What the first process had begun and nobody else knew to be done. Counted after the judgement: what it said before it was
/// stopped may have been read late, for both.
fn unknown(stage: &Stage, known: usize) -> usize {
    stage.history.starts_of(1, Duration::ZERO).len().saturating_sub(known)
}

/// Each dies while handlers run, at another moment. There is always more than it has to handle before, however late the one
/// before it died.
fn killed_again_and_again(mode: AckMode) {
    let Some(stage) = stage() else { return };
    stage.publish(40);
    let (mut handled, mut bound) = (0, 0);
    let pace = Pace { each: Duration::from_millis(2), ..Pace::QUICK };
    let mut left = 0;
    for number in 1..=5 {
        let published = KEYS as usize * *stage.publish(5).end() as usize;
        let process = start(&stage, number, mode, pace);
        handled += 20 + 3 * number as usize;
        stage.wait_handled(handled);
        process.kill();
        handled = stage.history.judge().handled;
        left += published - handled;
        bound += stage.forgotten();
    }
    assert!(left > 0, "nothing was left to lose");
    let last = start(&stage, 6, mode, Pace::QUICK);
    stage.recover("five kills");
    assert!(last.close());
    stage.history.judge().assert_sound(bound);
}

/// For twice as long as the server waits. The one that took over has all; what the other one does once it goes on is
/// no more than once again what it had, and it is ended, as whoever has started another in its place does.
fn stopped_while_another_takes_over(mode: AckMode) {
    let Some(stage) = stage() else { return };
    stage.publish(30);
    let slow = Pace { each: Duration::from_millis(25), ..Pace::QUICK };
    let first = start(&stage, 1, mode, slow);
    stage.wait_handled(20);
    first.pause();
    let had = stage.history.judge();
    assert!(had.handled < 30 * KEYS as usize, "nothing was left to take over");
    let known = stage.known();
    let second = start(&stage, 2, mode, Pace::QUICK);
    stage.recover("a stop");
    thread::sleep(stage.place.ack_wait * 2);
    let verdict = stage.history.judge();
    let bound = unknown(&stage, known);
    verdict.assert_sound(bound);
    assert!(second.close());

    first.resume();
    let third = start(&stage, 3, mode, Pace::QUICK);
    first.kill();
    stage.recover("a return");
    assert!(third.close());
    stage.history.judge().assert_sound(2 * bound + WINDOW);
}

/// For as long, and then both live: nothing is lost and no process runs two of a key at once, and one of them finds out.
/// Who keeps its own position has lost it to the other, and stops with the next write of it; until then it does again what
/// it had, in order. Who shares the server's consumer may take what the other lacks: order is lost until one stops, and
/// kept by the other from then on.
fn stopped_and_back_beside_another(mode: AckMode) {
    let Some(stage) = stage() else { return };
    stage.publish(30);
    let slow = Pace { each: Duration::from_millis(25), ..Pace::QUICK };
    let first = start(&stage, 1, mode, slow);
    stage.wait_handled(20);
    first.pause();
    assert!(stage.history.judge().handled < 30 * KEYS as usize, "nothing was left to take over");
    let known = stage.known();
    let second = start(&stage, 2, mode, Pace::QUICK);
    stage.recover("a stop");
    thread::sleep(stage.place.ack_wait * 2);
    let verdict = stage.history.judge();
    let bound = unknown(&stage, known);
    verdict.assert_sound(bound);

    let resumed = now();
    first.resume();
    let deadline = Instant::now() + HANG;
    while first.stopped().is_none() && second.stopped().is_none() {
        assert!(Instant::now() < deadline, "nobody notices\n{}", stage.history.judge());
        stage.publish(2);
    }
    let again = stage.history.starts_of(1, resumed);
    let lived = again.last().map_or(Duration::ZERO, |last| *last - resumed);
    eprintln!("{mode:?}: {} handled again within {lived:?}", again.len());
    eprintln!("first: {:?}, second: {:?}", first.stopped(), second.stopped());
    if mode == AckMode::Checkpoint {
        let why = first.stopped().expect("the one that was stopped has lost the position");
        assert!(why.contains("another process"), "{why}");
        assert!(lived < FENCED, "it went on for {lived:?}");
        stage.recover("two owners");
        assert_eq!(second.stopped(), None);
        assert!(first.close() && second.close());
        stage.history.judge().assert_sound(bound + again.len());
    } else {
        let why = first.stopped().or_else(|| second.stopped()).unwrap();
        assert!(why.contains("somebody else"), "{why}");
        first.kill();
        // The other may have found out, too, a moment later: then whoever is started next goes on.
        let (mut third, deadline) = (None, Instant::now() + HANG);
        stage.history.healed("two owners");
        stage.publish(3);
        while !stage.history.wait(Duration::from_millis(100), |so_far| so_far.is_complete()) {
            assert!(Instant::now() < deadline, "{}", stage.history.judge());
            if third.is_none() && second.stopped().is_some() {
                third = Some(start(&stage, 3, mode, Pace::QUICK));
                stage.history.healed("two owners");
                stage.publish(1);
            }
        }
        assert!(stage.history.judge().recovered(), "{}", stage.history.judge());
        let disorder = stage.history.judge().disorder.len();
        stage.publish(10);
        stage.drain();
        let last = third.unwrap_or(second);
        assert!(last.close());
        let verdict = stage.history.judge();
        assert_eq!(verdict.disorder.len(), disorder, "order is kept by one alone\n{verdict}");
        assert!(verdict.is_complete() && verdict.overlaps.is_empty(), "{verdict}");
        assert!(verdict.phantoms.is_empty() && verdict.recovered(), "{verdict}");
    }
}

/// Two that live, and neither is ever stopped from outside: who has lost the position learns it with its next write, which
/// is due an interval after its last one. Counted from the other's claim as it passes on the wire.
#[test]
fn a_losing_writer_stops_within_an_interval() {
    const INTERVAL: Duration = Duration::from_secs(2);
    /// There and back, the refused write and the look at who has written, on a busy machine.
    const ROUND: Duration = Duration::from_millis(800);
    let Some(mut stage) = stage() else { return };
    stage.place.interval = INTERVAL;
    // Each write's owner, and when it went by.
    let writes: Arc<Mutex<Vec<(String, Duration)>>> = Arc::default();
    let noted = writes.clone();
    let _writes = stage.proxy.inject(usize::MAX, Act::Pass, move |frame| {
        let position = frame.is_publish() && frame.subject().starts_with("$KV.keylane.at.");
        if position {
            let owner = String::from_utf8_lossy(frame.payload());
            let owner = owner.split(' ').next().unwrap_or_default().to_owned();
            noted.lock().push((owner, now()));
        }
        position
    });
    let first = stage.start(&Ours(AckMode::Checkpoint), quick());
    stage.publish(1);
    stage.drain();
    let deadline = Instant::now() + HANG;
    while writes.lock().len() < 3 {
        assert!(Instant::now() < deadline, "it writes {} times", writes.lock().len());
        stage.publish(1);
    }
    let (loser, _) = writes.lock()[0].clone();
    // In the midst of an interval.
    let second = start(&stage, 2, AckMode::Checkpoint, Pace::QUICK);
    while first.stopped().is_none() {
        assert!(Instant::now() < deadline, "it does not stop");
        stage.publish(1);
    }
    assert!(first.stopped().is_some_and(|why| why.contains("another process")));
    let writes_so_far = writes.lock().clone();
    let claim = writes_so_far.iter().position(|(owner, _)| *owner != loser);
    let claim = claim.expect("somebody else has claimed the position");
    let lost = writes_so_far[claim].1;
    // What is published now is none of its business.
    stage.publish(3);
    stage.drain();
    let lived: Vec<_> = stage.history.starts_of(history::SELF, lost);
    let lived_for = lived.last().map_or(Duration::ZERO, |last| *last - lost);
    eprintln!("the loser handled {} records within {lived_for:?}", lived.len());
    assert!(lived_for <= INTERVAL + ROUND, "it went on for {lived_for:?}");
    let refused = writes_so_far[claim..].iter().find(|(owner, _)| *owner == loser);
    let refused = refused.expect("it learns it by a write of its own").1 - lost;
    assert!(refused <= INTERVAL + ROUND, "its next write came after {refused:?}");
    assert_eq!(second.stopped(), None);
    first.close();
    stage.recover("two owners");
    assert!(second.close());
    // What the loser handled since the last position that it can have stored.
    let since = writes_so_far[claim.saturating_sub(2)].1;
    stage.history.judge().assert_sound(stage.history.starts_of(history::SELF, since).len());
}

fn now() -> Duration {
    history::Event::now(history::What::Healed { fault: String::new() }).at
}

/// In order, while it works or before it has begun to: nothing is handled twice.
fn closed_and_started_again(mode: AckMode) {
    let Some(stage) = stage() else { return };
    stage.publish(40);
    let slow = Pace { each: Duration::from_millis(2), ..Pace::QUICK };
    for (number, more) in [(1, 30), (2, 0), (3, 30)] {
        // The one before may have come to the end before it heard that it was to close.
        stage.publish(5);
        let process = start(&stage, number, mode, slow);
        let handled = stage.history.judge().handled;
        stage.wait_handled(handled + more);
        assert!(process.close());
    }
    let last = start(&stage, 4, mode, Pace::QUICK);
    stage.recover("three ends");
    assert!(last.close());
    stage.history.judge().assert_sound(0);
}
