//! What the models of lanes, registries, receipts and workers share.
#![allow(dead_code)]

use std::sync::atomic::{AtomicU64, AtomicUsize as Count, Ordering::Relaxed};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use keylane::{Clock, Time};
use loom::sync::Mutex;

/// Runs `model` in every interleaving with at most two preemptions (or as many as `LOOM_MAX_PREEMPTIONS` says).
pub fn check(model: impl Fn() + Send + Sync + 'static) {
    check_within(2, model);
}

/// As `check`, with at most `preemptions`.
pub fn check_within(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 10_000;
    builder.check(model);
}

/// How often a model got where it is meant to get. std's counter: it outlives an execution.
pub struct Reached(&'static str, Count);

impl Reached {
    pub const fn new(what: &'static str) -> Self {
        Self(what, Count::new(0))
    }

    pub fn here(&self) {
        self.1.fetch_add(1, Relaxed);
    }

    pub fn here_if(&self, reached: bool) {
        if reached {
            self.here();
        }
    }

    pub fn assert(&self) {
        assert!(self.1.load(Relaxed) > 0, "no execution in which {}", self.0);
    }
}

/// A clock that stands at zero for ever: a wake-up that is lost is a deadlock.
#[derive(Debug)]
pub struct Still;

impl Clock for Still {
    fn now(&self) -> Time {
        Time::ZERO
    }

    fn system_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn arm(&self, _deadline: Time, _waker: &Waker) -> Option<Duration> {
        None
    }
}

/// A clock that is moved by hand and wakes nobody. Its time is std's atomic: that it moves orders nothing.
#[derive(Debug)]
pub struct Ticks(AtomicU64);

impl Ticks {
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Relaxed);
    }
}

impl Clock for Ticks {
    fn now(&self) -> Time {
        Time::from_nanos(self.0.load(Relaxed))
    }

    fn system_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn arm(&self, _deadline: Time, _waker: &Waker) -> Option<Duration> {
        None
    }
}

/// A clock that stands at zero until it is moved to its end; it then wakes who sleeps on it.
#[derive(Debug)]
pub struct Hourglass(Mutex<(bool, Vec<Waker>)>);

/// When an `Hourglass` has run out.
pub const END: Time = Time::from_nanos(1_000);

impl Hourglass {
    pub fn new() -> Self {
        Self(Mutex::new((false, Vec::new())))
    }

    pub fn run_out(&self) {
        let woken = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Clock for Hourglass {
    fn now(&self) -> Time {
        if self.0.lock().unwrap().0 { END } else { Time::ZERO }
    }

    fn system_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn arm(&self, deadline: Time, waker: &Waker) -> Option<Duration> {
        let mut state = self.0.lock().unwrap();
        if state.0 && deadline <= END {
            return Some(Duration::ZERO);
        }
        state.1.retain(|known| !known.will_wake(waker));
        state.1.push(waker.clone());
        None
    }
}
