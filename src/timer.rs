//! What is to happen at a certain time: lanes to be looked at, tasks to be woken. One thread waits for all of it.

use std::task::Waker;

use crate::clock::Time;
use crate::parker::Unparker;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

const NEVER: u64 = u64::MAX;

/// The next due time of every lane, and tasks with a deadline.
///
/// A lane has one time, the earliest of its keys': setting a later one changes nothing, so what it holds
/// is bounded and a lane may be looked at once for nothing.
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
    due: Vec<(u64, Time, Waker)>,
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

    /// The lane is to be looked at, at `due` at the latest.
    pub fn set_lane(&self, lane: u32, due: Time) {
        self.lanes[lane as usize].fetch_min(due.as_nanos(), Ordering::AcqRel);
        self.earlier(due);
    }

    /// The task is to be woken at `due`.
    pub fn set_task(&self, due: Time, waker: &Waker) -> Alarm {
        let mut tasks = self.tasks.lock();
        let id = tasks.next;
        tasks.next += 1;
        tasks.due.push((id, due, waker.clone()));
        drop(tasks);
        self.earlier(due);
        Alarm(id)
    }

    /// The task is not to be woken any more.
    pub fn cancel(&self, alarm: &Alarm) {
        self.tasks.lock().due.retain(|task| task.0 != alarm.0);
    }

    fn earlier(&self, due: Time) {
        // After the time itself is in its place: `fire` lowers `next` first and then looks.
        if self.next.fetch_min(due.as_nanos(), Ordering::AcqRel) > due.as_nanos() {
            self.watcher.unpark();
        }
    }

    /// When `fire` is to be called next.
    pub fn next(&self) -> Option<Time> {
        let next = self.next.load(Ordering::Acquire);
        (next != NEVER).then(|| Time::from_nanos(next))
    }

    /// Calls `lane` for every lane that is due at `now`, and wakes the tasks that are. For one thread.
    pub fn fire(&self, now: Time, mut lane: impl FnMut(u32)) {
        if self.next().is_none_or(|next| next > now) {
            return;
        }
        // What is set from here on lowers it again.
        self.next.swap(NEVER, Ordering::AcqRel);
        let mut next = NEVER;
        for (id, due) in (0..).zip(&self.lanes) {
            let time = due.load(Ordering::Acquire);
            if time > now.as_nanos() {
                next = next.min(time);
            } else {
                // Whoever sets it in between is seen by the visit that `lane` brings about.
                due.swap(NEVER, Ordering::AcqRel);
                lane(id);
            }
        }
        let mut woken = Vec::new();
        self.tasks.lock().due.retain(|(_, due, waker)| {
            if *due > now {
                next = next.min(due.as_nanos());
                return true;
            }
            woken.push(waker.clone());
            false
        });
        self.next.fetch_min(next, Ordering::AcqRel);
        woken.into_iter().for_each(Waker::wake);
    }
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
    fn a_lane_fires_once_at_its_earliest_time() {
        let timers = Timers::new(4, Parker::new().unparker());
        timers.set_lane(2, Time::from_nanos(50));
        timers.set_lane(2, Time::from_nanos(20));
        timers.set_lane(2, Time::from_nanos(90));
        timers.set_lane(0, Time::from_nanos(30));
        assert_eq!(timers.next(), Some(Time::from_nanos(20)));
        assert_eq!(fired(&timers, 19), []);
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
        assert_eq!(fired(&timers, 10), []);
        bed.park(None);
        assert_eq!(timers.next(), None);
    }
}
