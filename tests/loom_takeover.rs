//! Takeover under the model checker: a worker hangs in a handler, the monitor notices it, and its lanes go to one
//! that sleeps or to a spare. Workers and monitor are the runtime's own.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_takeover
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use std::sync::{Arc, Mutex};

use keylane::internals::{Parker, Stage};
use keylane::{Config, Handler, Record};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use model::{Reached, Ticks, check_within};

/// What handlers did, and whom they tell.
#[derive(Clone)]
struct Scene(Arc<Told>);

struct Told {
    /// std's lock, which the checker does not see: what is read of it is what `count` covers.
    log: Mutex<Vec<u8>>,
    count: AtomicUsize,
    bed: Parker,
}

impl Scene {
    fn new() -> Self {
        let (log, count) = (Mutex::default(), AtomicUsize::new(0));
        Self(Arc::new(Told { log, count, bed: Parker::new() }))
    }

    fn add(&self, record: &Record) -> u8 {
        let key = record.key().unwrap()[0];
        self.0.log.lock().unwrap().push(key);
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.0.bed.unparker().unpark();
        key
    }

    fn has(&self, key: u8) -> bool {
        let count = self.0.count.load(Ordering::Acquire);
        self.0.log.lock().unwrap()[..count].contains(&key)
    }

    /// For the thread that is told.
    fn wait_for(&self, key: u8) {
        while !self.has(key) {
            self.0.bed.park(None);
        }
    }

    fn all(&self) -> Vec<u8> {
        self.0.log.lock().unwrap().clone()
    }
}

/// Three lanes of one slot, those of even numbers at home with worker 0 of 2, all of them with that of 1.
fn stage(
    workers: u32,
    spares: usize,
    clock: &Arc<Ticks>,
    handle: impl Fn(&Record) + Send + Sync + 'static,
) -> Stage {
    let config = Config::default().lanes(3).slots(1).spares(spares).parked_keys(0).lane_waiting(1);
    let handler = Handler::sync(move |record| {
        handle(record);
        Ok(())
    });
    Stage::new(config, workers, clock.clone(), handler)
}

/// The stage that a handler looks at: it is made before there is one.
type Set = Arc<Mutex<Option<Stage>>>;

fn of(set: &Set) -> Stage {
    set.lock().unwrap().clone().unwrap()
}

/// A worker hangs while its other lane has work, and the other worker goes to sleep. The handler that hangs plays the
/// monitor, which looks until a look found that worker asleep, and does not return before the other lane's record
/// is handled: one look at a sleeper has to do.
// convict: monitor_stuck
// convict: monitor_wake_sleeper
// convict: worker_steal
// convict: bell_steal
#[test]
fn monitor_stuck_monitor_wake_sleeper_worker_steal_bell_steal_the_sleeper_takes_over() {
    static STUCK: Reached = Reached::new("the worker was held for stuck");
    static AT_ONCE: Reached = Reached::new("the other worker slept at the first look");
    static LATER: Reached = Reached::new("it was up at a look that found the overrun");
    check_within(2, || {
        let (scene, clock) = (Scene::new(), Arc::new(Ticks::new()));
        let set = Set::default();
        let (handled, time, own) = (scene.clone(), clock.clone(), set.clone());
        let stage = stage(2, 0, &clock, move |record| {
            if handled.add(record) != b'h' {
                return;
            }
            let stage = of(&own);
            assert!(stage.push(2, "x"));
            AT_ONCE.here_if(stage.is_asleep(1));
            stage.look();
            time.pass(Config::default().overrun);
            loop {
                let asleep = stage.is_asleep(1);
                stage.look();
                STUCK.here_if(stage.is_stuck(0));
                if asleep || handled.has(b'x') {
                    break;
                }
                LATER.here();
                thread::yield_now();
            }
            handled.wait_for(b'x');
            loom::skip_branch();
            stage.exit();
        });
        *set.lock().unwrap() = Some(stage.clone());
        assert!(stage.push(0, "h"));
        let other = stage.clone();
        let other = thread::spawn(move || other.work(1));
        stage.work(0);
        other.join().unwrap();
        *set.lock().unwrap() = None;
        assert_eq!(scene.all(), *b"hx");
        assert!((0..3).all(|lane| stage.is_at_rest(lane)) && stage.steals(1) == 1);
    });
    STUCK.assert();
    AT_ONCE.assert();
    LATER.assert();
}

/// With one worker a spare starts, once, and takes the lanes of the one that hangs: those that it has in turn,
/// and those that become ready later.
// convict: monitor_free
#[test]
fn monitor_free_a_spare_takes_over() {
    static STARTED: Reached = Reached::new("a spare was started");
    static AGAIN: Reached = Reached::new("the spare slept until it was woken for the next lane");
    check_within(2, || {
        let (scene, clock) = (Scene::new(), Arc::new(Ticks::new()));
        let set = Set::default();
        let (handled, time, own) = (scene.clone(), clock.clone(), set.clone());
        let stage = stage(1, 1, &clock, move |record| {
            if handled.add(record) != b'h' {
                return;
            }
            let stage = of(&own);
            stage.look();
            time.pass(Config::default().overrun);
            stage.look();
            STARTED.here_if(stage.is_started(1));
            handled.wait_for(b'x');
            assert!(stage.push(2, "y"));
            while !handled.has(b'y') {
                let asleep = stage.is_asleep(1);
                AGAIN.here_if(asleep);
                stage.look();
                if asleep {
                    handled.wait_for(b'y');
                }
                thread::yield_now();
            }
            loom::skip_branch();
            stage.exit();
        });
        *set.lock().unwrap() = Some(stage.clone());
        assert!(stage.push(0, "h") && stage.push(1, "x"));
        stage.work(0);
        *set.lock().unwrap() = None;
        assert_eq!(scene.all(), *b"hxy");
        assert_eq!(stage.steals(1), 2);
    });
    STARTED.assert();
    AGAIN.assert();
}

/// The worker comes back while the monitor gives its other lane away and the other worker, woken, takes it: one of
/// them has it, and its record is handled once.
// convict: token_split
#[test]
fn token_split_the_worker_comes_back_while_its_lane_is_taken() {
    static STOLEN: Reached = Reached::new("the other worker took the lane");
    static KEPT: Reached = Reached::new("the worker came back in time for it");
    static STUCK: Reached = Reached::new("the worker was held for stuck");
    static BACK: Reached = Reached::new("the worker was back before the second look");
    check_within(1, || {
        loom::stop_exploring();
        let (scene, clock) = (Scene::new(), Arc::new(Ticks::new()));
        let set = Set::default();
        let (handled, time, own) = (scene.clone(), clock.clone(), set.clone());
        let stage = stage(2, 0, &clock, move |record| {
            if handled.add(record) != b'h' {
                return;
            }
            let (stage, scene) = (of(&own), handled.clone());
            stage.look();
            time.pass(Config::default().overrun);
            while !stage.is_asleep(1) {
                thread::yield_now();
            }
            loom::explore();
            // The monitor's second look comes while this returns.
            thread::spawn(move || {
                stage.look();
                if stage.is_stuck(0) {
                    STUCK.here()
                } else {
                    BACK.here()
                }
                scene.wait_for(b'x');
                loom::skip_branch();
                stage.exit();
            });
        });
        *set.lock().unwrap() = Some(stage.clone());
        assert!(stage.push(0, "h") && stage.push(2, "x"));
        let other = stage.clone();
        let other = thread::spawn(move || other.work(1));
        stage.work(0);
        other.join().unwrap();
        *set.lock().unwrap() = None;
        assert_eq!(scene.all(), *b"hx");
        assert!((0..3).all(|lane| stage.is_at_rest(lane)));
        if stage.steals(1) > 0 { STOLEN.here() } else { KEPT.here() }
    });
    STOLEN.assert();
    KEPT.assert();
    STUCK.assert();
    BACK.assert();
}

/// A lane that was taken out of a worker's turns while it hung comes to it again with the next record.
// convict: worker_queued
#[test]
fn worker_queued_a_lane_that_was_taken_comes_back() {
    static STOLEN: Reached = Reached::new("the other worker took the lane");
    check_within(2, || {
        loom::stop_exploring();
        let (scene, clock) = (Scene::new(), Arc::new(Ticks::new()));
        let set = Set::default();
        let (handled, time, own) = (scene.clone(), clock.clone(), set.clone());
        let stage = stage(2, 0, &clock, move |record| {
            if handled.add(record) != b'h' {
                return;
            }
            let stage = of(&own);
            while !stage.is_asleep(1) {
                thread::yield_now();
            }
            stage.look();
            time.pass(Config::default().overrun);
            stage.look();
            handled.wait_for(b'x');
        });
        *set.lock().unwrap() = Some(stage.clone());
        assert!(stage.push(0, "h") && stage.push(2, "x"));
        let workers = [0, 1].map(|id| {
            let stage = stage.clone();
            thread::spawn(move || stage.work(id))
        });
        // Worker 0 has come past the lane's turn, and found it gone.
        while !(scene.has(b'x') && stage.is_asleep(0)) {
            thread::yield_now();
        }
        loom::explore();
        STOLEN.here_if(stage.steals(1) == 1);
        assert!(stage.push(2, "y"));
        scene.wait_for(b'y');
        loom::skip_branch();
        stage.exit();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        *set.lock().unwrap() = None;
        assert_eq!(scene.all(), *b"hxy");
    });
    STOLEN.assert();
}
