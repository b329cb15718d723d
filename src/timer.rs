//! What is to happen at a certain time: lanes to be looked at, tasks to be woken. One thread waits for all of it.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::clock::Time;
use crate::parker::Unparker;
use crate::sabotage::sabotage;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, unless, weak};
use crate::unwind::guard;

const NEVER: u64 = u64::MAX;

/// The next due time of every lane, and tasks with a deadline.
///
/// A lane has one time, so what it holds is bounded: its holder says when the earliest of its keys is due, and
/// says so again at the visit that the lane's firing brings about.
#[derive(Debug)]
pub struct Timers {
    /// Not later than any time in `lanes` or `tasks`.
    next: AtomicU64,
    lanes: Box<[AtomicU64]>,
    tasks: Mutex<Tasks>,
    watcher: Unparker,
}

#[derive(Debug, Default)]
struct Tasks {
    next: u64,
    due: BTreeMap<u64, (Time, Waker)>,
}

/// A task's place among the timers.
#[derive(Debug, PartialEq, Eq)]
pub struct Alarm(u64);

impl Timers {
    /// For `lanes` lanes; `watcher` wakes the thread that calls `fire`.
    pub fn new(lanes: u32, watcher: Unparker) -> Self {
        Self {
            next: AtomicU64::new(NEVER),
            lanes: (0..lanes).map(|_| AtomicU64::new(NEVER)).collect(),
            tasks: Mutex::new(Tasks::default()),
            watcher,
        }
    }

    /// The lane is to be looked at, at `due` at the latest, and not at the time set before. For its holder.
    pub fn set_lane(&self, lane: u32, due: Time) {
        if sabotage!(TimerLost) {
            return;
        }
        // Not the lesser of the two: an earlier time that has come and was served, but did not fire yet,
        // would take the new one with it when it does. A read-modify-write, as in `take_due`: of the two the
        // second sees the first. Ordered by `next`, below.
        let place = &self.lanes[lane as usize];
        if weak!("timer_least") {
            place.fetch_min(due.as_nanos(), Ordering::Relaxed);
        } else {
            place.swap(due.as_nanos(), Ordering::Relaxed);
        }
        self.earlier(due);
    }

    /// The task is to be woken at `due`.
    pub fn set_task(&self, due: Time, waker: &Waker) -> Alarm {
        let waker = waker.clone();
        let mut tasks = self.tasks.lock();
        let id = tasks.next;
        tasks.next += 1;
        tasks.due.insert(id, (due, waker));
        drop(tasks);
        self.earlier(due);
        Alarm(id)
    }

    /// The task is not to be woken any more.
    pub fn cancel(&self, alarm: &Alarm) {
        // Dropped after the lock is let go: it is a caller's code.
        let cancelled = self.tasks.lock().due.remove(&alarm.0);
        drop(cancelled);
    }

    fn earlier(&self, due: Time) {
        // After the time itself is in its place. Release pairs with the acquire in `fire`, which lowers
        // `next` first and then looks: it finds the time, or `next` is as it is left here.
        let ordering = unless(weak!("timer_earlier"), Ordering::Release);
        if self.next.fetch_min(due.as_nanos(), ordering) > due.as_nanos() {
            self.watcher.unpark();
        }
    }

    /// When `fire` is to be called next.
    pub fn next(&self) -> Option<Time> {
        let next = self.next.load(Ordering::Relaxed);
        (next != NEVER).then(|| Time::from_nanos(next))
    }

    /// Calls `lane` for every lane that is due at `now`, and wakes the tasks that are. For one thread.
    pub fn fire(&self, now: Time, mut lane: impl FnMut(u32)) {
        if self.next().is_none_or(|next| next > now) {
            return;
        }
        // What is set from here on lowers it again. Acquire pairs with the release in `earlier`.
        if !weak!("timer_late") {
            self.next.swap(NEVER, Ordering::Acquire);
        }
        let mut next = NEVER;
        for (id, due) in (0..).zip(&self.lanes) {
            match take_due(due, now) {
                None => lane(id),
                Some(later) => next = next.min(later),
            }
        }
        if weak!("timer_late") {
            self.next.swap(NEVER, Ordering::Acquire);
        }
        let mut woken = Vec::new();
        let mut tasks = self.tasks.lock();
        let due = tasks.due.iter().filter(|(_, task)| task.0 <= now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            woken.extend(tasks.due.remove(&id));
        }
        next = tasks.due.values().fold(next, |next, task| next.min(task.0.as_nanos()));
        drop(tasks);
        self.next.fetch_min(next, Ordering::Relaxed);
        // With the lock let go: a waker is a caller's code, and its panic ends here.
        for (_, waker) in woken {
            let _ = guard(|| waker.wake());
        }
    }
}

/// Takes a lane's time out if it has come; else says what it is.
fn take_due(due: &AtomicU64, now: Time) -> Option<u64> {
    let mut time = due.load(Ordering::Relaxed);
    while time <= now.as_nanos() {
        // Only this very time: the holder may just have set a later one.
        if weak!("timer_take") {
            due.swap(NEVER, Ordering::Relaxed);
            return None;
        }
        match due.compare_exchange_weak(time, NEVER, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return None,
            Err(now) => time = now,
        }
    }
    Some(time)
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;
    use crate::parker::Parker;

    fn fired(timers: &Timers, now: u64) -> Vec<u32> {
        let mut lanes = Vec::new();
        timers.fire(Time::from_nanos(now), |lane| lanes.push(lane));
        lanes
    }

    #[test]
    fn a_lane_fires_once_at_the_time_set_last() {
        let timers = Timers::new(4, Parker::new().unparker());
        timers.set_lane(2, Time::from_nanos(50));
        timers.set_lane(2, Time::from_nanos(10));
        timers.set_lane(2, Time::from_nanos(20));
        timers.set_lane(0, Time::from_nanos(30));
        assert_eq!(timers.next(), Some(Time::from_nanos(10)));
        assert_eq!(fired(&timers, 19), [0_u32; 0]);
        assert_eq!(timers.next(), Some(Time::from_nanos(20)));
        assert_eq!(fired(&timers, 20), [2]);
        assert_eq!(timers.next(), Some(Time::from_nanos(30)));
        assert_eq!(fired(&timers, 100), [0]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn tasks_are_woken_at_their_time_unless_cancelled() {
        let parker = Parker::new();
        let timers = Timers::new(1, parker.unparker());
        let bed = Parker::new();
        let first = timers.set_task(Time::from_nanos(10), bed.waker());
        let second = timers.set_task(Time::from_nanos(10), bed.waker());
        assert!(first != second);
        timers.cancel(&first);
        assert_eq!(fired(&timers, 10), [0_u32; 0]);
        bed.park(None);
        assert_eq!(timers.next(), None);
    }
}
