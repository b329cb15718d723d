//! What watches over workers, under the model checker: the monitor's sleep, and the timers.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_worker
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use keylane::Time;
use keylane::internals::{Bell, Family, Monitor, Parker, Timers, WaitList};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use model::{Reached, check};

/// A worker gets up while the monitor lies down for good: the monitor sees it up, or is called.
// convict: monitor_watch
#[test]
fn monitor_watch_calls_a_monitor_that_did_not_see_it() {
    static SEEN: Reached = Reached::new("the monitor saw the worker up");
    static CALLED: Reached = Reached::new("the monitor slept until it was called");
    check(|| {
        let (bed, own) = (Parker::new(), Parker::new());
        let monitor = Arc::new(Monitor::new(own.unparker()));
        let bell = Arc::new(Bell::new(Family::new(), 0, 1, 1, bed.unparker()));
        assert!(bell.lie_down());
        let (up, there) = (bell.clone(), monitor.clone());
        let worker = thread::spawn(move || {
            up.rise();
            there.watch();
        });
        monitor.lie_down();
        if bell.is_parked() {
            // Not called it would not look before it is too late.
            own.park(None);
            CALLED.here();
        } else {
            SEEN.here();
        }
        monitor.rise();
        assert!(!bell.is_parked());
        worker.join().unwrap();
    });
    SEEN.assert();
    CALLED.assert();
}

/// A thread waits for something that is announced by calls that may be missed: the monitor, called, calls it
/// again, whatever the monitor slept for.
// convict: monitor_wake
#[test]
fn monitor_wake_brings_calls_to_who_waits() {
    static MISSED: Reached =
        Reached::new("the announcement found nobody and the monitor made up for it");
    static SLEPT: Reached = Reached::new("the monitor slept");
    check(|| {
        let own = Parker::new();
        let monitor = Arc::new(Monitor::new(own.unparker()));
        let watchers = Arc::new(WaitList::new());
        let done = Arc::new(AtomicBool::new(false));
        let (list, set) = (watchers.clone(), done.clone());
        let worker = thread::spawn(move || {
            set.store(true, Ordering::Release);
            MISSED.here_if(list.is_empty());
            list.notify();
        });
        let (list, calls, there) = (watchers.clone(), monitor.clone(), done.clone());
        let waits = thread::spawn(move || {
            let bed = Parker::new();
            let mut place = None;
            loop {
                place = Some(list.join(place, bed.waker()));
                calls.wake();
                if there.load(Ordering::Acquire) {
                    break;
                }
                bed.park(None);
            }
            place.into_iter().for_each(|place| list.leave(place));
        });
        // The monitor: it did not lie down for good, but sleeps on a clock that stands still. Called, it calls
        // now and then; here once, when what is waited for has been announced.
        if watchers.is_empty() {
            SLEPT.here();
            own.park(None);
        }
        worker.join().unwrap();
        watchers.wake_all(|| ());
        waits.join().unwrap();
    });
    MISSED.assert();
    SLEPT.assert();
}

/// A lane as far as timers go: its holder's own note of the time that it is to be looked at, and what waits.
struct Lane {
    /// Of its holder: when the timers are to fire. 0 for none.
    next_due: u64,
    /// Times that have not come to pass yet.
    waits: Vec<u64>,
}

impl Lane {
    /// A visit at `now`, as a worker makes it: what is due is served, and the timers are told of the rest.
    fn visit(&mut self, timers: &Timers, now: u64) {
        if self.next_due == 0 || self.next_due > now {
            return;
        }
        self.next_due = 0;
        self.waits.retain(|&due| due > now);
        for due in self.waits.clone() {
            self.due(timers, due);
        }
    }

    fn due(&mut self, timers: &Timers, due: u64) {
        if self.next_due == 0 || due < self.next_due {
            self.next_due = due;
            timers.set_lane(0, Time::from_nanos(due));
        }
    }
}

/// The lane is visited, for another reason, between the instant that a time comes and the firing: what waits for
/// a later time is not forgotten with the one that was served.
// convict: timer_take
// convict: timer_least
#[test]
fn timer_take_and_timer_least_forget_no_later_time() {
    static RACED: Reached = Reached::new("a visit served the time before it fired");
    static FIRED: Reached = Reached::new("the firing brought the visit about");
    check(|| {
        let bed = Parker::new();
        let timers = Arc::new(Timers::new(1, bed.unparker()));
        let lane = Arc::new(Mutex::new(Lane { next_due: 0, waits: vec![10, 20] }));
        lane.lock().unwrap().due(&timers, 10);
        let (other, same) = (timers.clone(), lane.clone());
        let visitor = thread::spawn(move || {
            let mut lane = same.lock().unwrap();
            RACED.here_if(lane.next_due == 10);
            lane.visit(&other, 10);
        });
        // The monitor, at 10.
        timers.fire(Time::from_nanos(10), |_| {
            let mut lane = lane.lock().unwrap();
            FIRED.here_if(lane.next_due == 10);
            lane.visit(&timers, 10);
        });
        visitor.join().unwrap();
        // And whenever it says that it is to be called again.
        while let Some(next) = timers.next() {
            timers.fire(next, |_| lane.lock().unwrap().visit(&timers, next.as_nanos()));
        }
        let lane = lane.lock().unwrap();
        assert_eq!((&lane.waits[..], lane.next_due), (&[][..], 0));
    });
    RACED.assert();
    FIRED.assert();
}

/// Times are set while others fire: each is found by the firing, or left for the next; and a monitor that sleeps
/// without a limit is called for the first.
// convict: timer_late
// convict: timer_earlier
#[test]
fn timer_late_and_timer_earlier_miss_no_time_that_is_set_meanwhile() {
    static NOW: Reached = Reached::new("what was set meanwhile fired at once");
    static LATER: Reached = Reached::new("what was set meanwhile fired later");
    check(|| {
        let bed = Parker::new();
        let timers = Arc::new(Timers::new(2, bed.unparker()));
        timers.set_lane(0, Time::from_nanos(10));
        let there = timers.clone();
        let setter = thread::spawn(move || {
            there.set_lane(1, Time::from_nanos(5));
        });
        let mut fired = Vec::new();
        timers.fire(Time::from_nanos(10), |lane| fired.push(lane));
        if fired.contains(&1) {
            NOW.here()
        } else {
            LATER.here()
        }
        while fired.len() < 2 {
            match timers.next() {
                None => bed.park(None),
                Some(next) => timers.fire(next, |lane| fired.push(lane)),
            }
        }
        setter.join().unwrap();
        fired.sort_unstable();
        assert_eq!(fired, [0, 1]);
        // A time may be announced after it has fired: then there is one look for nothing.
        timers.fire(Time::from_nanos(10), |lane| panic!("lane {lane} fired twice"));
        assert_eq!(timers.next(), None);
    });
    NOW.assert();
    LATER.assert();
}

/// A task's alarm is set and cancelled while others fire: it is woken, or was cancelled in time.
#[test]
fn an_alarm_fires_or_is_cancelled() {
    static WOKEN: Reached = Reached::new("the alarm fired");
    static CANCELLED: Reached = Reached::new("it was cancelled");
    check(|| {
        let bed = Parker::new();
        let timers = Arc::new(Timers::new(1, bed.unparker()));
        let woken = std::sync::Arc::new(Wakes(AtomicU64::new(0)));
        let waker = woken.clone().into();
        let alarm = timers.set_task(Time::from_nanos(10), &waker);
        let there = timers.clone();
        let cancels = thread::spawn(move || there.cancel(&alarm));
        timers.fire(Time::from_nanos(10), |_| ());
        cancels.join().unwrap();
        let count = woken.0.load(Ordering::Relaxed);
        if count == 1 {
            WOKEN.here()
        } else {
            CANCELLED.here()
        }
        assert!(count <= 1);
        timers.fire(Time::from_nanos(20), |_| ());
        assert_eq!((woken.0.load(Ordering::Relaxed), timers.next()), (count, None));
    });
    WOKEN.assert();
    CANCELLED.assert();
}

struct Wakes(AtomicU64);

impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
