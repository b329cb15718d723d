//! The records of a key are handled one at a time and in the order of their submits, whatever the handler's
//! kind, its failures, swaps and the workers that come and go.
//!
//! All keys of a test share one lane, and one of them is busy all the while: `ci/convict.sh` checks that each
//! test fails when the whole lane waits for it.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dispatch.rs"]
mod dispatch;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use dispatch::{
    Hold, Holds, Log, Random, Shape, all_done, each_shape, ended, name_of, submit, until,
};
use keylane::testing::{Ended, Oracle, VirtualClock, settle};
use keylane::{
    Handler, HandlerError, Outcome, Record, RecordRef, Retry, Runtime, Subscriber, Subscription,
};
use parking_lot::Mutex;

/// The key that is busy while the others are judged.
const STONE: &str = "stone";

/// Wakes futures from another thread, in any order.
#[derive(Clone, Default)]
struct Elsewhere(Arc<Mutex<Vec<Waker>>>);

impl Elsewhere {
    /// Pending until a foreign thread has woken it `times` times.
    async fn pass(&self, times: u64) {
        let mut left = times;
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            self.0.lock().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn wake(&self, random: &mut Random) {
        let mut wakers = std::mem::take(&mut *self.0.lock());
        while !wakers.is_empty() {
            wakers.swap_remove(random.below(wakers.len() as u64) as usize).wake();
        }
    }
}

/// What the handlers of a stress test have in common.
#[derive(Clone)]
struct Judge {
    oracle: Oracle,
    random: Random,
    hold: Hold,
    elsewhere: Elsewhere,
}

/// What an attempt does: a function of the seed, the record and the attempt's number.
struct Plan {
    seq: u64,
    fails: bool,
    panics: bool,
    spins: bool,
    wakes: u64,
}

impl Judge {
    fn plan(&self, record: &Record) -> Plan {
        let seq = name_of(record).parse().unwrap();
        let mut random = self.random.fork(seq * 64 + u64::from(record.attempt()));
        Plan {
            seq,
            fails: random.one_in(5),
            panics: random.one_in(40),
            spins: random.one_in(300),
            wakes: if random.one_in(3) { 1 + random.below(3) } else { 0 },
        }
    }

    fn handle_sync(&self, record: &Record) -> Result<(), HandlerError> {
        let plan = self.plan(record);
        let attempt = self.oracle.start(record.key().unwrap(), plan.seq);
        if plan.spins {
            // Longer than a handler may: the worker's other lanes are taken over.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(2) {
                std::thread::yield_now();
            }
        }
        finish(attempt, &plan)
    }

    /// The handler of a kind: sync, blocking or async. The async one also keeps the stone.
    fn handler(&self, kind: u64) -> Handler {
        let judge = self.clone();
        match kind % 3 {
            0 => Handler::sync(move |record| judge.handle_sync(record)),
            1 => Handler::blocking(move |record| judge.handle_sync(&record)),
            _ => Handler::future(move |record: RecordRef| {
                let judge = judge.clone();
                async move {
                    if name_of(&record) == STONE {
                        judge.hold.pass(STONE).await;
                        return Ok(());
                    }
                    let plan = judge.plan(&record);
                    let attempt = judge.oracle.start(record.key().unwrap(), plan.seq);
                    judge.elsewhere.pass(plan.wakes).await;
                    finish(attempt, &plan)
                }
            }),
        }
    }
}

fn finish(attempt: keylane::testing::Attempt, plan: &Plan) -> Result<(), HandlerError> {
    if plan.panics {
        panic!("planned"); // the attempt's drop says that it failed
    }
    if plan.fails {
        attempt.end(Ended::Failed);
        return Err(HandlerError::retryable("planned"));
    }
    attempt.end(Ended::Done);
    Ok(())
}

const ASYNC: u64 = 2;

/// Submits, swaps and wakes from threads of their own; every record fails or is put off now and then.
fn stress(shape: Shape, kinds: &[u64]) {
    dispatch::quiet_panics();
    let random = Random::seeded();
    let (holds, oracle, elsewhere) = (Holds::new(&[STONE]), Oracle::new(), Elsewhere::default());
    let judge = Judge {
        oracle: oracle.clone(),
        random: random.clone(),
        hold: holds.handle(),
        elsewhere: elsewhere.clone(),
    };
    let runtime = shape.runtime();
    let retry = Retry::exponential(Duration::from_micros(20), Duration::from_micros(200)).forever();
    let orders = runtime
        .subscribe_handler(Subscription::new("o").retry(retry), judge.handler(ASYNC))
        .unwrap();
    let keys = shape.keys_of(0, 9);
    let stone = submit(&orders, &keys[0], STONE);
    // Its attempt has begun with the handler that keeps it.
    settle(&runtime);

    let mut all: Vec<String> = keys[1..].to_vec();
    // Where there are other lanes, they are busy too: workers steal and take over.
    all.extend((1..shape.lanes as u32).flat_map(|lane| shape.keys_in(0, lane, 2)));
    let over = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let until = SetOnDrop(&over);
        let wakes = scope.spawn(|| {
            let mut random = random.fork(1);
            while !over.load(Ordering::Relaxed) {
                elsewhere.wake(&mut random);
                std::thread::yield_now();
            }
        });
        let swaps = scope.spawn(|| {
            let mut random = random.fork(2);
            while !over.load(Ordering::Relaxed) {
                let kind = kinds[random.below(kinds.len() as u64) as usize];
                drop(orders.swap(judge.handler(kind)));
                (0..random.below(2_000)).for_each(|_| std::hint::spin_loop());
                std::thread::yield_now();
            }
        });
        let producers: Vec<_> = all
            .chunks(all.len().div_ceil(2))
            .zip(3..)
            .map(|(own, number)| {
                let (mut random, orders, oracle, next) =
                    (random.fork(number), &orders, &oracle, &next);
                scope.spawn(move || {
                    let receipts = (0..400).map(|_| {
                        let key = &own[random.below(own.len() as u64) as usize];
                        let seq = next.fetch_add(1, Ordering::Relaxed);
                        oracle.published(key, seq);
                        submit(orders, key, &seq.to_string())
                    });
                    receipts.collect::<Vec<_>>()
                })
            })
            .collect();
        let receipts: Vec<_> =
            producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
        all_done(&receipts);
        drop(until);
        // Joined one by one: the end of a scope orders nothing for the thread sanitizer.
        wakes.join().unwrap();
        swaps.join().unwrap();
    });
    assert_eq!(stone.outcome(), None, "the stone was there all the while");
    holds.open(STONE);
    all_done([&stone]);
    let verdict = oracle.verdict();
    verdict.assert_clean();
    assert_eq!((verdict.handled, verdict.duplicates), (800, 0));
    assert!(verdict.retries > 0);
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// convict: whole_lane_waits
#[test]
fn a_key_keeps_its_order_with_a_sync_handler() {
    each_shape(|shape| stress(shape, &[0]));
}

// convict: whole_lane_waits
#[test]
fn a_key_keeps_its_order_with_a_blocking_handler() {
    each_shape(|shape| stress(shape, &[1]));
}

// convict: whole_lane_waits
#[test]
fn a_key_keeps_its_order_with_an_async_handler() {
    each_shape(|shape| stress(shape, &[ASYNC]));
}

// convict: whole_lane_waits
#[test]
fn a_key_keeps_its_order_while_handlers_of_all_kinds_are_swapped() {
    each_shape(|shape| stress(shape, &[0, 1, ASYNC]));
}

/// An async handler that logs the name of what it starts, and is pending while that is held.
fn logging(holds: &Holds, log: &Log) -> Handler {
    let (hold, log) = (holds.handle(), log.clone());
    Handler::future(move |record: RecordRef| {
        let (hold, name) = (hold.clone(), name_of(&record));
        log.add(&name);
        async move {
            hold.pass(&name).await;
            Ok(())
        }
    })
}

fn visits(runtime: &Runtime) -> u64 {
    runtime.snapshot().workers.iter().map(|worker| worker.visits).sum()
}

// convict: whole_lane_waits
#[test]
fn the_next_records_of_a_key_start_in_the_visit_in_which_their_predecessor_ends() {
    each_shape(|shape| {
        let clock = VirtualClock::new(); // stands still: nothing here waits for time
        let runtime = Runtime::builder().config(shape.config()).clock(clock).build().unwrap();
        let (holds, log) = (Holds::new(&["a0"]), Log::default());
        let orders =
            runtime.subscribe_handler(Subscription::new("o"), logging(&holds, &log)).unwrap();
        let keys = shape.keys_of(0, 2);
        let a: Vec<_> = (0..21).map(|i| submit(&orders, &keys[0], &format!("a{i}"))).collect();
        all_done([&submit(&orders, &keys[1], "b")]);
        settle(&runtime);
        let before = visits(&runtime);
        settle(&runtime);
        holds.open("a0");
        all_done(&a);
        settle(&runtime);
        // One for the twenty. The snapshot asked the lane what is busy, which is a visit that it may have
        // counted or not.
        let took = visits(&runtime) - before;
        assert!((1..=2).contains(&took), "{took} visits");
        assert_eq!(log.of("a"), (0..21).map(|i| format!("a{i}")).collect::<Vec<_>>());
    });
}

/// A key with a long queue ends its turn after a quantum: keys in the gate and in the ring have theirs.
// convict: whole_lane_waits
#[test]
fn a_long_queue_of_one_key_leaves_turns_to_the_others() {
    const QUANTUM: usize = 4;
    each_shape(|shape| {
        for long_first in [true, false] {
            let runtime =
                Runtime::builder().config(shape.config().quantum(QUANTUM)).build().unwrap();
            let (holds, log) = (Holds::new(&["a0", "b0", "c"]), Log::default());
            let (hold, logged) = (holds.handle(), log.clone());
            let orders = runtime
                .subscribe_async(Subscription::new("o"), move |record: RecordRef| {
                    let (hold, name) = (hold.clone(), name_of(&record));
                    logged.add(&name);
                    if name == "c" {
                        // Keeps the lane until all is in place, and then lets both keys go at once.
                        hold.block("c");
                        hold.open("a0");
                        hold.open("b0");
                    }
                    async move {
                        hold.pass(&name).await;
                        Ok(())
                    }
                })
                .unwrap();
            let keys = shape.keys_of(0, 4);
            let several = |key: usize, prefix: &str, count: usize| -> Vec<_> {
                (0..count).map(|i| submit(&orders, &keys[key], &format!("{prefix}{i}"))).collect()
            };
            // Whoever is first has the lower slot.
            let mut receipts = if long_first { several(0, "a", 101) } else { several(1, "b", 4) };
            until("the first is in the gate", || log.len() == 1);
            receipts.extend(if long_first { several(1, "b", 4) } else { several(0, "a", 101) });
            until("both are in the gate", || runtime.snapshot().lanes[0].held == 105);
            receipts.push(submit(&orders, &keys[2], "c"));
            until("the lane is kept", || log.has("c"));
            receipts.extend(several(3, "d", 6));
            holds.open("c");
            all_done(&receipts);

            let all = log.all();
            let last = all.iter().rposition(|name| !name.starts_with('a')).unwrap();
            let before = all[..last].iter().filter(|name| name.starts_with('a')).count();
            assert!(
                before <= 8 * QUANTUM,
                "{before} records of the long queue came first: {all:?}"
            );
            assert_eq!(log.of("a"), (0..101).map(|i| format!("a{i}")).collect::<Vec<_>>());
        }
    });
}

/// What a record of a key leaves behind when its handler is exchanged: the next one gets the new handler, after
/// it.
// convict: whole_lane_waits
#[test]
fn a_new_handler_starts_after_the_old_ones_last_record_of_a_key() {
    each_shape(|shape| {
        let runtime = shape.runtime();
        let (holds, log) = (Holds::new(&["a0"]), Log::default());
        let orders: Subscriber =
            runtime.subscribe_handler(Subscription::new("o"), logging(&holds, &log)).unwrap();
        let keys = shape.keys_of(0, 2);
        let a = [submit(&orders, &keys[0], "a0"), submit(&orders, &keys[0], "a1")];
        until("it is pending", || log.has("a0"));
        let logged = log.clone();
        let swap = orders.swap(Handler::blocking(move |record| {
            logged.add(format!("new {}", name_of(&record)));
            Ok(())
        }));
        // A visit that began before the swap may still use the old handler.
        until("the visit is over", || {
            runtime.snapshot().workers.iter().all(|worker| worker.asleep)
        });
        all_done([&submit(&orders, &keys[1], "b")]);
        assert_eq!(log.all(), ["a0", "new b"]);
        assert!(swap.wait_timeout(Duration::ZERO).is_err());
        holds.open("a0");
        all_done(&a);
        swap.wait().unwrap();
        assert_eq!(log.all(), ["a0", "new b", "new a1"]);
        assert_eq!(ended(&a[0]), Outcome::Done);
    });
}
