//! A clock that stands still until a test moves it.

use std::task::Waker;
use std::time::{Duration, SystemTime};

use crate::clock::{Clock, Time};
use crate::sync::{Arc, Mutex};

/// 2026-01-01 00:00:00 UTC, what a new clock's wall shows.
const WALL_EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// A [`Clock`] that stands still until it is advanced. Clones are the same clock.
///
/// Whatever waits on it (a timeout, a backoff, a deadline) sleeps without a limit and is woken by the
/// [`advance`](Self::advance) that reaches its deadline: a test of a 30 s timeout takes no time.
///
/// ```
/// use std::task::Waker;
/// use std::time::Duration;
/// use keylane::Clock;
/// use keylane::testing::VirtualClock;
///
/// let clock = VirtualClock::new();
/// let deadline = clock.now().after(Duration::from_secs(30));
/// assert_eq!(clock.arm(deadline, Waker::noop()), None); // sleeps until it is woken
/// assert_eq!(clock.next_deadline(), Some(deadline));
///
/// clock.advance(Duration::from_secs(30)); // wakes it
/// assert_eq!(clock.pending(), 0);
/// assert_eq!(clock.arm(deadline, Waker::noop()), Some(Duration::ZERO)); // has passed
/// ```
#[derive(Clone, Debug)]
pub struct VirtualClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    now: Time,
    /// What the wall clock showed at [`Time::ZERO`].
    wall_origin: SystemTime,
    /// One entry a distinct waker, in the order of arming.
    armed: Vec<Armed>,
}

#[derive(Debug)]
struct Armed {
    deadline: Time,
    waker: Waker,
}

impl VirtualClock {
    /// A clock at [`Time::ZERO`] whose wall shows 2026-01-01 00:00:00 UTC.
    pub fn new() -> Self {
        let wall_origin = SystemTime::UNIX_EPOCH + WALL_EPOCH;
        let state = State { now: Time::ZERO, wall_origin, armed: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Moves the clock on by `by` and wakes whoever waits for an instant that has now come, in the
    /// order of their deadlines (equal ones in the order of arming).
    ///
    /// The clock shows the end of the step before the first of them is woken.
    pub fn advance(&self, by: Duration) {
        self.wake_due(|state| state.now.after(by));
    }

    /// Moves the clock on to `to`, as [`advance`](Self::advance) does; nothing happens to a clock that
    /// is there or past it.
    pub fn advance_to(&self, to: Time) {
        self.wake_due(|_| to);
    }

    /// Moves the clock on to the earliest deadline that somebody waits for; `false` if nobody waits.
    ///
    /// ```
    /// use std::task::Waker;
    /// use keylane::{Clock, Time};
    /// use keylane::testing::VirtualClock;
    ///
    /// let clock = VirtualClock::new();
    /// clock.arm(Time::from_nanos(700), Waker::noop());
    /// assert!(clock.advance_to_next());
    /// assert_eq!(clock.now(), Time::from_nanos(700));
    /// assert!(!clock.advance_to_next());
    /// ```
    pub fn advance_to_next(&self) -> bool {
        self.wake_due(|state| state.next_deadline().unwrap_or(state.now)) > 0
    }

    /// The earliest instant that somebody waits for.
    pub fn next_deadline(&self) -> Option<Time> {
        self.state.lock().next_deadline()
    }

    /// How many distinct wakers are armed. One that was woken by something else counts until its
    /// deadline, or until it is armed again.
    pub fn pending(&self) -> usize {
        self.state.lock().armed.len()
    }

    /// Sets the wall clock, and it alone: [`now`](Clock::now) and every deadline stay.
    ///
    /// A time too far out for [`SystemTime`] to count from is ignored.
    pub fn set_system_time(&self, to: SystemTime) {
        let mut state = self.state.lock();
        state.wall_origin = to.checked_sub(state.elapsed()).unwrap_or(state.wall_origin);
    }

    /// A fault: the wall clock, and it alone, jumps ahead by `by`.
    ///
    /// A jump past what [`SystemTime`] can hold is ignored.
    ///
    /// ```
    /// use std::time::Duration;
    /// use keylane::{Clock, Time};
    /// use keylane::testing::VirtualClock;
    ///
    /// let (clock, hour) = (VirtualClock::new(), Duration::from_secs(3600));
    /// let before = clock.system_time();
    /// clock.jump_system_time_ahead(hour);
    /// assert_eq!(clock.system_time(), before + hour);
    /// clock.jump_system_time_back(2 * hour);
    /// assert_eq!(clock.system_time(), before - hour);
    /// assert_eq!(clock.now(), Time::ZERO);
    /// ```
    pub fn jump_system_time_ahead(&self, by: Duration) {
        let mut state = self.state.lock();
        state.wall_origin = state.wall_origin.checked_add(by).unwrap_or(state.wall_origin);
    }

    /// A fault: the wall clock, and it alone, jumps back by `by`.
    ///
    /// A jump past what [`SystemTime`] can hold is ignored.
    pub fn jump_system_time_back(&self, by: Duration) {
        let mut state = self.state.lock();
        state.wall_origin = state.wall_origin.checked_sub(by).unwrap_or(state.wall_origin);
    }

    /// Moves on to where `to` says, never back, and returns how many were woken.
    fn wake_due(&self, to: impl FnOnce(&State) -> Time) -> usize {
        let mut due: Vec<Armed> = {
            let mut state = self.state.lock();
            let now = to(&state).max(state.now);
            state.now = now;
            state.armed.extract_if(.., |armed| armed.deadline <= now).collect()
        };
        // Woken with the lock released: a waker may run code that reads or arms this clock.
        due.sort_by_key(|armed| armed.deadline);
        let woken = due.len();
        due.into_iter().for_each(|armed| armed.waker.wake());
        woken
    }
}

impl State {
    fn elapsed(&self) -> Duration {
        self.now.since(Time::ZERO)
    }

    fn next_deadline(&self) -> Option<Time> {
        self.armed.iter().map(|armed| armed.deadline).min()
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Time {
        self.state.lock().now
    }

    fn system_time(&self) -> SystemTime {
        let state = self.state.lock();
        state.wall_origin.checked_add(state.elapsed()).unwrap_or(state.wall_origin)
    }

    fn arm(&self, deadline: Time, waker: &Waker) -> Option<Duration> {
        // Cloned before the lock is taken, and the one it replaces dropped after it is released: both
        // may run code that uses this clock.
        let armed = Armed { deadline, waker: waker.clone() };
        let (passed, _replaced) = {
            let mut state = self.state.lock();
            let same = state.armed.iter().position(|armed| armed.waker.will_wake(waker));
            let replaced = same.map(|index| state.armed.remove(index));
            // Under the lock that `wake_due` moves `now` under: either this sees the new instant, or
            // the advance sees this entry.
            let passed = deadline <= state.now;
            if !passed {
                state.armed.push(armed);
            }
            (passed, replaced)
        };
        passed.then_some(Duration::ZERO)
    }
}
