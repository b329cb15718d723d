//! Two ways of doing the same, in turns, as a ratio: what a machine that does other things too can still say.
//!
//! `ratios [ROUNDS]`: each pair runs ROUNDS times (201 unless said otherwise), one after the other and each time the
//! other first, a millisecond or so each. Printed are the median of the rounds' ratios, the range that the middle half
//! of them lies in, and `quiet`: the first's fast runs (the tenth percentile of its times) over the second's, which
//! other programs disturb least. Below 1 the first is faster.

use std::collections::VecDeque;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keylane::internals::{Queue, Single};
use keylane_bench_support::bed::{Bed, Way, nothing};
use keylane_bench_support::lanes::{Message, Own, Scanned, check, message, run};
use keylane_bench_support::load::{Handled, Load};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const SLOTS: usize = 1_000;
const RING_OPERATIONS: u64 = 32_000;
const RECORDS: u64 = 5_000;

fn main() -> ExitCode {
    let Ok(rounds) = std::env::args().nth(1).map_or(Ok(201), |text| text.parse()) else {
        eprintln!("usage: ratios [ROUNDS]");
        return ExitCode::from(2);
    };
    println!("{rounds} rounds each");
    println!("{:<58} {:>6} {:>15} {:>6}", "first / second", "median", "middle half", "quiet");
    queues(rounds);
    laned(rounds);
    dispatch(rounds);
    ExitCode::SUCCESS
}

fn queues(rounds: usize) {
    let (mut own, mut other) = (Single::new(SLOTS), ArrayQueue::new(SLOTS));
    compare(
        "ring / ArrayQueue: push and pop, one",
        rounds,
        || one_by_one(&mut own),
        || one_by_one(&mut other),
    );
    compare(
        "ring / ArrayQueue: push 32, pop 32",
        rounds,
        || in_bursts(&mut own),
        || in_bursts(&mut other),
    );
    compare(
        "ring, one claim for 32 / ArrayQueue: push 32, pop 32",
        rounds,
        || in_claims(&mut own),
        || in_bursts(&mut other),
    );
    compare("ring / ArrayQueue: empty pop", rounds, || empty(&mut own), || empty(&mut other));
}

/// What the bell is for: a consumer that knows where to look, against one that looks everywhere.
fn laned(rounds: usize) {
    for (lanes, burst, every) in [(64, 1, 1), (64, 1, 64), (256, 1, 1), (256, 1, 32), (256, 64, 64)]
    {
        let (mut own, mut other) = (Own::new(lanes), Scanned::new(lanes));
        check(&mut own, lanes);
        check(&mut other, lanes);
        let count = 6_400;
        compare(
            &format!("lanes / scanned ArrayQueues: {lanes}, burst {burst}, {every} in"),
            rounds,
            || timed(|| run(&mut own, lanes, burst, every, count)),
            || timed(|| run(&mut other, lanes, burst, every, count)),
        );
    }
}

fn dispatch(rounds: usize) {
    use Way::{Batches, Bus, OneByOne, Ready, Tracked};
    let pairs = [
        ("batches of 500 / one by one, 1 worker", (Batches, 1, 1), (OneByOne, 1, 1)),
        ("batches of 500 / one by one, 2 workers", (Batches, 2, 1), (OneByOne, 2, 1)),
        ("bursts of 64 / of 1 to a lane, 1 worker", (OneByOne, 1, 64), (OneByOne, 1, 1)),
        ("batches, bursts of 64 / of 1 to a lane, 1 worker", (Batches, 1, 64), (Batches, 1, 1)),
        ("2 workers / 1, one by one", (OneByOne, 2, 1), (OneByOne, 1, 1)),
        ("2 workers / 1, batches", (Batches, 2, 1), (Batches, 1, 1)),
        ("async ready at once / sync, 1 worker", (Ready, 1, 1), (OneByOne, 1, 1)),
        ("tracked / untracked, 1 worker", (Tracked, 1, 1), (OneByOne, 1, 1)),
        ("memory bus / submit, 1 worker", (Bus, 1, 1), (OneByOne, 1, 1)),
    ];
    for (name, first, second) in pairs {
        let mut first = Bed::new(first.0, first.1, first.2);
        let mut second = Bed::new(second.0, second.1, second.2);
        compare(name, rounds, || first.time(RECORDS), || second.time(RECORDS));
        first.close();
        second.close();
    }
    let mut bed = Bed::new(OneByOne, 1, 1);
    let (mut load, handled) = (Load::new(1), Handled::default());
    compare(
        "one by one, 1 worker / made, read, dropped: no runtime",
        rounds,
        || bed.time(RECORDS),
        || nothing(&mut load, &handled, RECORDS),
    );
    bed.close();
}

/// Runs both in turns and prints the ratio of their times.
fn compare(
    name: &str,
    rounds: usize,
    mut first: impl FnMut() -> Duration,
    mut second: impl FnMut() -> Duration,
) {
    // Not counted: what is touched for the first time.
    let _ = (first(), second());
    let times: Vec<[f64; 2]> = (0..rounds)
        .map(|round| {
            let (a, b) = if round % 2 == 0 {
                let a = first();
                (a, second())
            } else {
                let b = second();
                (first(), b)
            };
            [a.as_secs_f64(), b.as_secs_f64()]
        })
        .collect();
    let at = |part: f64, of: &dyn Fn(&[f64; 2]) -> f64| {
        let mut values: Vec<f64> = times.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get((values.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
    };
    let ratio = |[a, b]: &[f64; 2]| a / b;
    let quiet = at(0.1, &|times| times[0]) / at(0.1, &|times| times[1]);
    let (low, median, high) = (at(0.25, &ratio), at(0.5, &ratio), at(0.75, &ratio));
    println!("{name:<58} {median:>6.2} {low:>6.2} – {high:<6.2} {quiet:>6.2}");
}

fn timed<R>(run: impl FnOnce() -> R) -> Duration {
    let begin = Instant::now();
    black_box(run());
    begin.elapsed()
}

fn one_by_one(queue: &mut impl Queue<Message>) -> Duration {
    let begin = Instant::now();
    for number in 0..RING_OPERATIONS {
        let _ = queue.push(black_box(message(number)));
        black_box(queue.pop());
    }
    begin.elapsed()
}

fn in_bursts(queue: &mut impl Queue<Message>) -> Duration {
    let begin = Instant::now();
    for _ in 0..RING_OPERATIONS / 32 {
        for number in 0..32 {
            let _ = queue.push(black_box(message(number)));
        }
        while let Some(message) = queue.pop() {
            black_box(message);
        }
    }
    begin.elapsed()
}

fn in_claims(queue: &mut Single<Message>) -> Duration {
    let mut batch = VecDeque::with_capacity(32);
    let begin = Instant::now();
    for _ in 0..RING_OPERATIONS / 32 {
        batch.extend((0..32).map(|number| black_box(message(number))));
        let _ = queue.ring().push_batch(&mut batch);
        while let Some(message) = queue.pop() {
            black_box(message);
        }
    }
    begin.elapsed()
}

fn empty(queue: &mut impl Queue<Message>) -> Duration {
    let begin = Instant::now();
    for _ in 0..RING_OPERATIONS {
        black_box(queue.pop());
    }
    begin.elapsed()
}
