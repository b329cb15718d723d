//! Time, as the runtime sees it: a monotonic [`Time`] and timed waits, both owned by a [`Clock`] so
//! that a test can inject its own.

use std::fmt;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

/// A monotonic instant: nanoseconds since the clock's origin.
///
/// ```
/// use std::time::Duration;
/// use keylane::Time;
///
/// let later = Time::ZERO.after(Duration::from_millis(2));
/// assert_eq!(later.as_nanos(), 2_000_000);
/// assert_eq!(later.since(Time::ZERO), Duration::from_millis(2));
/// assert_eq!(Time::ZERO.since(later), Duration::ZERO); // never negative
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// The instant `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `duration` later; the last representable one if that is past it.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        let nanos = duration.as_nanos();
        if nanos > u64::MAX as u128 {
            Self(u64::MAX)
        } else {
            Self(self.0.saturating_add(nanos as u64))
        }
    }

    /// How long after `earlier` this is; zero if it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Monotonic time, wall-clock time and timed waits.
///
/// The runtime reads no other clock, so a virtual one decides every timeout, backoff and deadline.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The current instant. Never decreases.
    fn now(&self) -> Time;

    /// The wall clock, for time stamps only: nothing is decided by it.
    fn system_time(&self) -> SystemTime;

    /// Arranges that a thread about to sleep until `deadline` is woken then.
    ///
    /// `Some(d)`: the caller sleeps for at most `d` itself (zero: the deadline has passed).
    /// `None`: the caller sleeps without a limit and the clock wakes `waker` once `deadline` has come; a
    /// later call with the same waker replaces the earlier one.
    fn arm(&self, deadline: Time, waker: &Waker) -> Option<Duration>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time::ZERO.after(self.origin.elapsed())
    }

    fn system_time(&self) -> SystemTime {
        SystemTime::now()
    }

    fn arm(&self, deadline: Time, _waker: &Waker) -> Option<Duration> {
        Some(deadline.since(self.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Time::from_nanos(u64::MAX - 1).after(Duration::MAX), Time::from_nanos(u64::MAX));
        assert_eq!(Time::ZERO.since(Time::from_nanos(5)), Duration::ZERO);
    }

    #[test]
    fn system_clock_moves_on() {
        let clock = SystemClock::new();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert_eq!(clock.arm(first, Waker::noop()), Some(Duration::ZERO));
    }
}
