//! What a bus does in silence: when it says that records are in progress, and what it counts of barriers, reconnects and
//! what comes twice.
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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use frame::Frame;
use keylane::nats::{AckMode, NatsBus};
use keylane::{Record, Runtime, SourceSnapshot, Subscription};
use parking_lot::Mutex;
use proxy::Act;
use stage::{DURABLE, HANG, KEYS, Stage, TOPIC, key};
use subject::{Ours, SEED, executor};

/// What of these frames passes, and when.
type Passed = Arc<Mutex<Vec<(Instant, String)>>>;

fn note(
    stage: &Stage,
    is_it: impl Fn(&Frame) -> bool + Send + 'static,
    of: impl Fn(&Frame) -> &str + Send + 'static,
) -> Passed {
    let passed = Passed::default();
    let noted = passed.clone();
    stage.proxy.inject(usize::MAX, Act::Pass, move |frame| {
        let own = is_it(frame);
        if own {
            noted.lock().push((Instant::now(), of(frame).to_owned()));
        }
        own
    });
    passed
}

fn wait(what: &str, until: impl Fn() -> bool) {
    let deadline = Instant::now() + HANG;
    while !until() {
        assert!(Instant::now() < deadline, "{what}: not within {HANG:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A gate that handlers of the first key wait at.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn pass(&self, name: &[u8]) {
        if name == key(0).as_bytes() {
            wait("the gate opens", || self.0.load(SeqCst));
        }
    }

    fn open(&self) {
        self.0.store(true, SeqCst);
    }
}

/// Nothing is said before a third of the time that the server waits; then of every message that is held, in each round; and
/// so nothing is delivered again, however long a handler takes.
#[test]
fn what_is_held_for_long_is_said_to_be_in_progress() {
    for mode in [AckMode::Each, AckMode::Floor] {
        let Some(mut stage) = Stage::new(&[]) else { return };
        stage.place.ack_wait = Duration::from_secs(3);
        let third = stage.place.ack_wait / 3;
        let delivered = note(&stage, Frame::is_delivery, Frame::reply);
        let progress = note(&stage, Frame::is_progress, Frame::subject);
        let gate = Gate::default();
        let held_by = gate.clone();
        let work = Arc::new(move |name: &str, _| {
            held_by.pass(name.as_bytes());
            true
        });
        let running = stage.start(&Ours(mode), work);
        // So long that the loop sleeps its longest, and wakes for what comes.
        thread::sleep(Duration::from_millis(1_500));
        stage.publish(3);
        // The other keys are done, three of the first are held.
        stage.wait_handled(3 * (KEYS as usize - 1));
        let first = delivered.lock()[0].0;
        thread::sleep(
            (first + stage.place.ack_wait * 3 / 2).saturating_duration_since(Instant::now()),
        );
        gate.open();
        stage.drain();

        let held: BTreeSet<String> = {
            let delivered = delivered.lock();
            assert_eq!(delivered.len(), 3 * KEYS as usize, "{mode:?}: something came again");
            // What is published first of each round is the first key's.
            let of_first = delivered.iter().step_by(KEYS as usize);
            match mode {
                // Behind the oldest that is not done everything waits for its acknowledgement.
                AckMode::Floor => delivered.iter().map(|(_, reply)| reply.clone()).collect(),
                _ => of_first.map(|(_, reply)| reply.clone()).collect(),
            }
        };
        let progress = progress.lock().clone();
        let early = progress[0].0.saturating_duration_since(first);
        assert!(early >= third, "{mode:?}: said after {early:?}");
        assert!(early < 2 * third, "{mode:?}: said after {early:?} only");
        let mut said = BTreeMap::<String, usize>::new();
        progress.iter().for_each(|(_, reply)| *said.entry(reply.clone()).or_default() += 1);
        assert_eq!(said.keys().cloned().collect::<BTreeSet<_>>(), held, "{mode:?}");
        let (least, most) = (said.values().min().unwrap(), said.values().max().unwrap());
        // After 3, 6 and 9 s of its 9: the last may come too late, or find the gate open.
        assert!(*least >= 3 && most - least <= 1, "{mode:?}: {said:?}");
        stage.finish(running, 0);
    }
}

fn source(runtime: &Runtime) -> SourceSnapshot {
    let mut sources = runtime.snapshot().sources;
    assert_eq!(sources.len(), 1);
    sources.remove(0)
}

/// A cut is one reconnect and one barrier; what is held comes again after it, and is absorbed, each once.
#[test]
fn a_cut_its_barrier_and_what_comes_twice_are_counted() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(stage) = Stage::new(&[]) else { return };
        let delivered = note(&stage, Frame::is_delivery, Frame::reply);
        let runtime = Runtime::builder().workers(2).seed(SEED).build().unwrap();
        let builder = NatsBus::builder(&runtime, &stage.place.url).ack_mode(mode);
        let bus = executor().block_on(builder.connect()).unwrap();
        let (gate, handled) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
        let (held_by, noted) = (gate.clone(), handled.clone());
        let handler = move |record: &Record| {
            held_by.pass(record.key().unwrap());
            noted.lock().push(record.payload().to_vec());
            Ok(())
        };
        let group = DURABLE.trim_end_matches(TOPIC).trim_end_matches('-');
        bus.subscribe(TOPIC, Subscription::new(group), handler).wait().unwrap();
        let begun = source(&runtime);
        assert_eq!((begun.barriers, begun.reconnects, begun.absorbed), (1, 0, 0), "{mode:?}");

        // The first is held, and with it the floor: all of them are above it.
        stage.publish(2);
        let all = 2 * KEYS as usize;
        wait("the others are handled", || handled.lock().len() == all - 2);
        wait("they have come", || delivered.lock().len() == all);
        assert!(stage.proxy.cut() > 0);
        wait("the barrier is over", || source(&runtime).barriers == 2);
        // Where nothing is acknowledged nothing comes again: the next consumer begins behind the newest.
        let again =
            if mode == AckMode::Checkpoint { 0 } else { delivered_again(&stage, &delivered, all) };
        wait("what comes again is absorbed", || source(&runtime).absorbed == again);
        let seen = source(&runtime);
        assert_eq!((seen.barriers, seen.reconnects, seen.absorbed), (2, 1, again), "{mode:?}");
        gate.open();
        wait("all are handled", || handled.lock().len() == all);
        let report = bus.close(Duration::from_secs(10)).wait().unwrap();
        assert!(report.drained, "{mode:?}");
        runtime.close(Duration::from_secs(10)).unwrap();
        let different: BTreeSet<_> = handled.lock().iter().cloned().collect();
        assert_eq!((different.len(), handled.lock().len()), (all, all), "{mode:?}: run twice");
    }
}

/// What is on its way for longer than a server may be silent, over a slow link, is waited for where pings are as slow.
#[test]
fn a_message_that_takes_long_is_no_silence_where_pings_leave_it_the_time() {
    let Some(stage) = Stage::new(&[]) else { return };
    let slow = stage.proxy.inject(1, Act::Slowly(Duration::from_secs(7)), Frame::is_delivery);
    let runtime = Runtime::builder().workers(2).build().unwrap();
    let builder =
        NatsBus::builder(&runtime, &stage.place.url).ping_interval(Duration::from_secs(3));
    let bus = executor().block_on(builder.connect()).unwrap();
    let handled = Arc::new(Mutex::new(0));
    let counted = handled.clone();
    let handler = move |_: &Record| {
        *counted.lock() += 1;
        Ok(())
    };
    bus.subscribe(TOPIC, Subscription::new("slow"), handler).wait().unwrap();
    stage.publish(1);
    wait("all are handled", || *handled.lock() == KEYS);
    assert_eq!(slow.count(), 1);
    let seen = source(&runtime);
    assert_eq!((seen.barriers, seen.reconnects, seen.absorbed), (1, 0, 0));
    assert!(bus.close(Duration::from_secs(10)).wait().unwrap().drained);
    runtime.close(Duration::from_secs(10)).unwrap();
}

/// How many come a second time: all that is above the floor, which the held first record keeps at nothing.
fn delivered_again(stage: &Stage, delivered: &Passed, all: usize) -> u64 {
    let info = stage.consumer();
    assert_eq!(info.ack_floor.stream_sequence, 0);
    wait("they come again", || delivered.lock().len() >= 2 * all);
    (delivered.lock().len() - all) as u64
}
