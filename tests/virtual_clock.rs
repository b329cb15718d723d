//! The virtual clock: what it wakes, in which order, and that no wake-up is lost to a race.
#![cfg(feature = "testing")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use keylane::testing::VirtualClock;
use keylane::{Clock, Time};
use parking_lot::Mutex;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

/// Writes its name into a shared log when it is woken, with what the clock showed.
struct Logger {
    name: usize,
    clock: VirtualClock,
    log: Arc<Mutex<Vec<(usize, Time)>>>,
}

impl Wake for Logger {
    fn wake(self: Arc<Self>) {
        // Reads the clock: deadlocks if wakers were called under its lock.
        self.log.lock().push((self.name, self.clock.now()));
    }
}

struct Loggers {
    clock: VirtualClock,
    wakers: Vec<Waker>,
    log: Arc<Mutex<Vec<(usize, Time)>>>,
}

impl Loggers {
    fn new(count: usize) -> Self {
        let (clock, log) = (VirtualClock::new(), Arc::new(Mutex::new(Vec::new())));
        let wakers = (0..count)
            .map(|name| {
                Waker::from(Arc::new(Logger { name, clock: clock.clone(), log: log.clone() }))
            })
            .collect();
        Self { clock, wakers, log }
    }

    fn woken(&self) -> Vec<usize> {
        std::mem::take(&mut *self.log.lock()).into_iter().map(|(name, _)| name).collect()
    }
}

#[test]
fn advance_wakes_what_is_due_in_deadline_order_and_nothing_else() {
    let l = Loggers::new(4);
    for (waker, deadline) in l.wakers.iter().zip([30, 10, 40, 20]) {
        assert_eq!(l.clock.arm(at(deadline), waker), None);
    }
    assert_eq!((l.clock.pending(), l.clock.next_deadline()), (4, Some(at(10))));

    l.clock.advance(Duration::from_nanos(9));
    assert!(l.woken().is_empty());
    l.clock.advance(Duration::from_nanos(21));
    assert_eq!(*l.log.lock(), [(1, at(30)), (3, at(30)), (0, at(30))]);
    assert_eq!((l.clock.pending(), l.clock.next_deadline()), (1, Some(at(40))));
    l.woken();
    l.clock.advance(SECOND);
    assert_eq!(l.woken(), [2]);
    l.clock.advance(SECOND);
    assert!(l.woken().is_empty(), "a due waker is woken once");
}

#[test]
fn equal_deadlines_are_woken_in_the_order_of_arming() {
    let l = Loggers::new(3);
    for name in [2, 0, 1] {
        l.clock.arm(at(5), &l.wakers[name]);
    }
    l.clock.advance_to(at(5));
    assert_eq!(l.woken(), [2, 0, 1]);
}

#[test]
fn the_same_waker_has_one_deadline_the_last() {
    let l = Loggers::new(2);
    for deadline in (1..=1_000).rev() {
        l.clock.arm(at(deadline), &l.wakers[0]);
        l.clock.arm(at(deadline + 500), &l.wakers[1].clone());
    }
    assert_eq!(l.clock.pending(), 2, "bounded by the number of distinct wakers");
    l.clock.arm(at(700), &l.wakers[0]);
    l.clock.advance_to(at(699));
    assert_eq!(l.woken(), [1]);
    l.clock.advance_to(at(700));
    assert_eq!(l.woken(), [0]);

    // A deadline that has passed replaces an armed one, too.
    l.clock.arm(at(900), &l.wakers[0]);
    assert_eq!(l.clock.arm(at(700), &l.wakers[0]), Some(Duration::ZERO));
    assert_eq!(l.clock.pending(), 0);
}

#[test]
fn advance_to_next_steps_from_deadline_to_deadline() {
    let l = Loggers::new(3);
    for (waker, deadline) in l.wakers.iter().zip([20, 10, 10]) {
        l.clock.arm(at(deadline), waker);
    }
    assert!(l.clock.advance_to_next());
    assert_eq!((l.clock.now(), l.woken()), (at(10), vec![1, 2]));
    assert!(l.clock.advance_to_next());
    assert_eq!((l.clock.now(), l.woken()), (at(20), vec![0]));
    assert!(!l.clock.advance_to_next());
    assert_eq!(l.clock.now(), at(20));
}

#[test]
fn the_clock_never_goes_back_and_saturates() {
    let clock = VirtualClock::new();
    clock.advance_to(at(100));
    clock.advance_to(at(50));
    assert_eq!(clock.now(), at(100));
    clock.advance(Duration::MAX);
    clock.advance(Duration::MAX);
    assert_eq!(clock.now(), at(u64::MAX));
    assert_eq!(clock.arm(at(u64::MAX), Waker::noop()), Some(Duration::ZERO));
    clock.system_time(); // 585 years on: no panic
}

#[test]
fn the_wall_follows_the_clock_and_its_jumps_move_nothing_else() {
    let l = Loggers::new(1);
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    assert_eq!(l.clock.system_time(), epoch);
    l.clock.advance(SECOND);
    assert_eq!(l.clock.system_time(), epoch + SECOND);

    l.clock.arm(at(0).after(2 * SECOND), &l.wakers[0]);
    l.clock.jump_system_time_ahead(3600 * SECOND);
    assert_eq!(l.clock.system_time(), epoch + 3601 * SECOND);
    l.clock.jump_system_time_back(7200 * SECOND);
    assert_eq!(l.clock.system_time(), epoch + SECOND - 3600 * SECOND);
    assert_eq!((l.clock.now(), l.woken()), (at(0).after(SECOND), vec![]));
    assert_eq!(l.clock.pending(), 1);

    l.clock.set_system_time(SystemTime::UNIX_EPOCH);
    assert_eq!(l.clock.system_time(), SystemTime::UNIX_EPOCH);
    l.clock.advance(SECOND);
    assert_eq!(l.clock.system_time(), SystemTime::UNIX_EPOCH + SECOND);

    // Past what can be held: ignored, not a panic.
    l.clock.jump_system_time_ahead(Duration::MAX);
    l.clock.jump_system_time_back(Duration::MAX);
    assert_eq!(l.clock.system_time(), SystemTime::UNIX_EPOCH + SECOND);
}

/// Arms the clock again as it is woken, as a timer does.
struct Ticker {
    clock: VirtualClock,
    period: Duration,
    ticks: AtomicUsize,
}

impl Wake for Ticker {
    fn wake(self: Arc<Self>) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        let deadline = self.clock.now().after(self.period);
        assert_eq!(self.clock.arm(deadline, &Waker::from(self.clone())), None);
    }
}

#[test]
fn a_waker_may_use_the_clock_it_is_woken_by() {
    let clock = VirtualClock::new();
    let ticker =
        Arc::new(Ticker { clock: clock.clone(), period: SECOND, ticks: AtomicUsize::new(0) });
    clock.arm(clock.now().after(SECOND), &Waker::from(ticker.clone()));
    for _ in 0..3600 {
        assert!(clock.advance_to_next());
    }
    assert_eq!(clock.now(), at(0).after(3600 * SECOND));
    assert_eq!(ticker.ticks.load(Ordering::Relaxed), 3600);
    assert_eq!(clock.pending(), 1);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Sleeps as the runtime's threads do: with no limit of its own once the clock took the waker.
fn sleep_until(clock: &VirtualClock, deadline: Time) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match clock.arm(deadline, &waker) {
            Some(Duration::ZERO) => return,
            Some(limit) => panic!("a virtual clock gave a real limit: {limit:?}"),
            None => thread::park(),
        }
    }
}

#[test]
fn parked_threads_are_woken_by_the_advance_that_reaches_them() {
    let clock = VirtualClock::new();
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for hour in 1..=4 {
            let (clock, order) = (clock.clone(), &order);
            scope.spawn(move || {
                sleep_until(&clock, at(0).after(hour * 3600 * SECOND));
                order.lock().push(hour);
            });
        }
        while clock.pending() < 4 {
            thread::yield_now();
        }
        for hour in 1..=4 {
            assert!(clock.advance_to_next());
            while order.lock().len() < hour {
                thread::yield_now();
            }
        }
    });
    assert_eq!(*order.lock(), [1, 2, 3, 4]);
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release); // read by the sleeper's acquire swap
    }
}

/// On the spot in most cases, and yet fair where there is one core.
fn spin_until(mut condition: impl FnMut() -> bool) {
    for spins in 0.. {
        match condition() {
            true => return,
            false if spins < 500 => std::hint::spin_loop(),
            false => thread::yield_now(),
        }
    }
}

/// Nothing orders the arming of a round against its advance, and nobody advances again before the
/// sleeper has arrived: a lost wake-up hangs here. The sleeper spins, so that the two stay close.
#[test]
fn an_advance_that_races_with_arming_loses_no_wake_up() {
    const ROUNDS: u64 = 100_000;
    let clock = VirtualClock::new();
    let arrived = AtomicU64::new(0);
    let mut woken = 0;
    thread::scope(|scope| {
        let (clock, arrived) = (&clock, &arrived);
        scope.spawn(|| {
            let flag = Arc::new(Flag(AtomicBool::new(false)));
            let waker = Waker::from(flag.clone());
            for round in 1..=ROUNDS {
                // Later from round to round, so that the advance meets every step of arming.
                (0..round % 32).for_each(|_| std::hint::spin_loop());
                if clock.arm(at(round), &waker).is_none() {
                    woken += 1;
                    spin_until(|| flag.0.swap(false, Ordering::Acquire));
                }
                arrived.store(round, Ordering::Release); // read by the advancer's acquire load
            }
        });
        for round in 1..=ROUNDS {
            clock.advance(Duration::from_nanos(1));
            spin_until(|| arrived.load(Ordering::Acquire) == round);
        }
    });
    assert_eq!((clock.now(), clock.pending()), (at(ROUNDS), 0));
    println!("armed before the advance in {woken} of {ROUNDS} rounds");
}

#[derive(Clone, Debug)]
enum Op {
    Arm { name: usize, deadline: u64 },
    Advance(u64),
    Next,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..5usize, 0..120u64).prop_map(|(name, deadline)| Op::Arm { name, deadline }),
        2 => (0..20u64).prop_map(Op::Advance),
        1 => Just(Op::Next),
    ]
}

proptest! {
    /// Against a plain list of (deadline, age, name).
    #[test]
    fn behaves_as_a_plain_list(ops in proptest::collection::vec(op(), 0..80)) {
        let l = Loggers::new(5);
        let (mut model, mut now): (Vec<(u64, usize, usize)>, u64) = (Vec::new(), 0);
        for (age, op) in ops.into_iter().enumerate() {
            let mut expected = Vec::new();
            match op {
                Op::Arm { name, deadline } => {
                    let passed = l.clock.arm(at(deadline), &l.wakers[name]);
                    model.retain(|entry| entry.2 != name);
                    prop_assert_eq!(passed, (deadline <= now).then_some(Duration::ZERO));
                    if deadline > now {
                        model.push((deadline, age, name));
                    }
                }
                Op::Advance(by) => {
                    now += by;
                    l.clock.advance(Duration::from_nanos(by));
                }
                Op::Next => {
                    let next = model.iter().map(|entry| entry.0).min();
                    prop_assert_eq!(l.clock.advance_to_next(), next.is_some());
                    now = next.unwrap_or(now);
                }
            }
            model.sort();
            while model.first().is_some_and(|entry| entry.0 <= now) {
                expected.push(model.remove(0).2);
            }
            prop_assert_eq!(l.woken(), expected);
            prop_assert_eq!(l.clock.now(), at(now));
            prop_assert_eq!(l.clock.pending(), model.len());
            prop_assert_eq!(l.clock.next_deadline(), model.first().map(|entry| at(entry.0)));
        }
    }
}
