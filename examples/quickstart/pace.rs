//! When an event is due to be published.

use std::thread;
use std::time::{Duration, Instant};

/// Nanoseconds since the run began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The speed of a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Each event as soon as the one before it is published.
    FlatOut,
    /// So many events a second, at fixed times, however long a publish takes (open loop): a
    /// hold-up counts in the latency of every event that it makes late.
    PerSecond(f64),
}

/// A pass's schedule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    stopwatch: Stopwatch,
    start: u64,
    /// Nanoseconds from one event to the next; 0: flat out.
    interval: f64,
}

/// The last stretch before an event is due is yielded away, not slept: a sleep ends that much late.
const SLEEP_OVERSHOOT: u64 = 150_000;

impl Schedule {
    pub(crate) fn new(stopwatch: Stopwatch, pace: Pace) -> Self {
        let interval = match pace {
            Pace::FlatOut => 0.0,
            Pace::PerSecond(rate) => 1e9 / rate,
        };
        Self { stopwatch, start: stopwatch.now(), interval }
    }

    /// When the pass began.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Waits until event number `index` of the pass is due; the time it is due comes back.
    pub(crate) fn wait(&self, index: usize) -> u64 {
        if self.interval == 0.0 {
            return self.stopwatch.now();
        }
        let due = self.due(index);
        loop {
            match due.saturating_sub(self.stopwatch.now()) {
                0 => return due,
                left if left > SLEEP_OVERSHOOT => {
                    thread::sleep(Duration::from_nanos(left - SLEEP_OVERSHOOT));
                }
                _ => thread::yield_now(),
            }
        }
    }

    fn due(&self, index: usize) -> u64 {
        self.start.saturating_add((index as f64 * self.interval) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_depend_on_nothing_but_the_rate() {
        let schedule = Schedule::new(Stopwatch::start(), Pace::PerSecond(1_000.0));
        let start = schedule.start();
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(1), start + 1_000_000);
        assert_eq!(schedule.due(3_000_000_000), start + 3_000_000_000_000_000);
    }

    #[test]
    fn nothing_is_published_before_it_is_due() {
        let stopwatch = Stopwatch::start();
        let schedule = Schedule::new(stopwatch, Pace::PerSecond(2_000.0));
        for index in 0..5 {
            let due = schedule.wait(index);
            assert_eq!(due, schedule.due(index));
            assert!(stopwatch.now() >= due);
        }
    }

    #[test]
    fn flat_out_is_due_now() {
        let stopwatch = Stopwatch::start();
        let schedule = Schedule::new(stopwatch, Pace::FlatOut);
        let before = stopwatch.now();
        let due = schedule.wait(1_000_000);
        assert!((before..=stopwatch.now()).contains(&due));
    }
}
