//! One way from a submit to its handler, in units of what one cache line takes from core to core.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keylane::{Pinning, Record, Runtime, Subscriber, Subscription};
use serde_json::json;

use super::{figure, said};
use crate::load::{Item, KEYS};
use crate::machine::{pinned, rounds, two_cores};
use crate::options::Options;
use crate::record::Recorder;
use crate::stats::median;

const TRIPS: u64 = 5_000;

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// What producer and handler have in common: each a line.
#[derive(Default)]
struct Lines {
    ball: Line,
    ack: Line,
}

/// Hot: the same lane again and again. Cold: another lane each time. The floor: half of what a line takes there and
/// back between the same two threads, in the same round: the worker plays it inside a handler. A trip is timed from
/// the submit of a record that is made already to when the producer sees the handler's store; that store's way, a
/// floor, is taken off.
pub fn full(options: &Options, recorder: &mut Recorder) {
    let Some([here, there]) = two_cores() else {
        return recorder
            .put(&json!({ "table": "hop", "not_run": "one core" }), "\nhop: not run, one core");
    };
    let (turns, discarded) =
        pinned(here, || rounds(options.rounds.unwrap_or(31), |_| one_round(there.id)));
    recorder.title("\none way, p50, in ns and in line transfers");
    let of = |place: usize| turns.iter().map(|turn| turn[place]).collect::<Vec<f64>>();
    let over = |place: usize| turns.iter().map(|turn| turn[place] / turn[0]).collect::<Vec<f64>>();
    for (place, name) in ["floor", "hot", "cold"].into_iter().enumerate() {
        let line = json!({
            "table": "hop", "lane": name, "ns": figure(&of(place)), "floors": figure(&over(place)),
            "rounds": turns.len(), "discarded": discarded,
        });
        recorder.put(
            &line,
            &format!("  {name:<6} {} ns  {} floors", said(&of(place)), said(&over(place))),
        );
    }
}

fn one_round(core: usize) -> [f64; 3] {
    let lines = Arc::new(Lines::default());
    let runtime = Runtime::builder().workers(1).pinning(Pinning::Cores(vec![core])).build();
    let runtime = runtime.expect("a runtime");
    let seen = lines.clone();
    let orders = runtime.subscribe(Subscription::new("orders"), move |record: &Record| {
        match record.payload().first_chunk::<8>() {
            Some(number) => seen.ack.0.store(u64::from_le_bytes(*number), Ordering::Release),
            None => play(&seen.ball.0),
        }
        Ok(())
    });
    let orders = orders.expect("subscribed");
    trips(&orders, &lines.ack.0, 0, |_| 7);
    let floor = ping_pong(&orders, &lines.ball.0);
    let hot = trips(&orders, &lines.ack.0, TRIPS, |_| 7) - floor;
    let cold = trips(&orders, &lines.ack.0, 2 * TRIPS, |trip| trip as usize % KEYS) - floor;
    runtime.close(Duration::from_secs(5)).expect("closed");
    [floor, hot, cold]
}

/// The worker's half of the game: answers every odd number.
fn play(ball: &AtomicU64) {
    for trip in 0..TRIPS {
        while ball.load(Ordering::Acquire) != 2 * trip + 1 {
            spin_loop();
        }
        ball.store(2 * trip + 2, Ordering::Release);
    }
}

/// Half of a round trip's median, in nanoseconds.
fn ping_pong(orders: &Subscriber, ball: &AtomicU64) -> f64 {
    orders.submit(Record::new("game", "")).expect("taken");
    let mut times = Vec::new();
    let group = 50;
    let mut begin = Instant::now();
    for trip in 0..TRIPS {
        ball.store(2 * trip + 1, Ordering::Release);
        while ball.load(Ordering::Acquire) != 2 * trip + 2 {
            spin_loop();
        }
        if (trip + 1) % group == 0 {
            times.push(begin.elapsed().as_nanos() as f64 / group as f64 / 2.0);
            begin = Instant::now();
        }
    }
    median(&times)
}

/// A trip's median, less what looking at the clock takes.
fn trips(orders: &Subscriber, ack: &AtomicU64, before: u64, key: impl Fn(u64) -> usize) -> f64 {
    let mut times = Vec::with_capacity(TRIPS as usize);
    for trip in 0..TRIPS {
        let number = before + trip + 1;
        let mut payload = [7; 64];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let record = Record::new(Item::new(key(trip), 1).key(), payload);
        let begin = Instant::now();
        orders.submit(record).expect("taken");
        while ack.load(Ordering::Acquire) != number {
            spin_loop();
        }
        times.push(begin.elapsed().as_nanos() as f64);
    }
    median(&times) - clock()
}

/// What a pair of looks at the clock takes, about.
fn clock() -> f64 {
    let times = (0..1_000).map(|_| {
        let begin = Instant::now();
        begin.elapsed().as_nanos() as f64
    });
    median(&times.collect::<Vec<_>>())
}
