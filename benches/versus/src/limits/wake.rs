//! Waking a parked worker beside a bare unpark, in turns, on the same core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keylane::testing::settle;
use keylane::{Pinning, Record, Runtime, Subscriber, Subscription};
use serde_json::json;

use super::{figure, said};
use crate::load::now;
use crate::machine::{pinned, rounds, two_cores};
use crate::options::Options;
use crate::record::Recorder;
use crate::stats::median;

/// Wakes of each in a round.
const WAKES: usize = 20;
/// Until a thread that goes to sleep is asleep.
const SETTLED: u64 = 100_000;

pub fn full(options: &Options, recorder: &mut Recorder) {
    let Some([here, there]) = two_cores() else {
        return recorder
            .put(&json!({ "table": "wake", "not_run": "one core" }), "\nwake: not run, one core");
    };
    let count = options.rounds.unwrap_or(31).max(31);
    let (turns, discarded) = pinned(here, || {
        let (ours, bare) = (Ours::new(there.id), Bare::new(there));
        let turns = rounds(count, |turn| {
            // Not every round the same one first.
            if turn % 2 == 0 {
                let ours = ours.wakes();
                [ours, bare.wakes()]
            } else {
                let bare = bare.wakes();
                [ours.wakes(), bare]
            }
        });
        ours.runtime.close(Duration::from_secs(5)).expect("closed");
        bare.end();
        turns
    });
    let of = |place: usize| turns.iter().map(|turn| turn[place]).collect::<Vec<f64>>();
    let ratios: Vec<f64> = turns.iter().map(|[ours, bare]| ours / bare).collect();
    let line = json!({
        "table": "wake", "ours_ns": figure(&of(0)), "bare_ns": figure(&of(1)), "ratio": figure(&ratios),
        "rounds": turns.len(), "discarded": discarded,
    });
    let words = format!(
        "\nwake of a parked worker: submit → handler {} ns, unpark → running {} ns, ratio {}",
        said(&of(0)),
        said(&of(1)),
        said(&ratios)
    );
    recorder.put(&line, &words);
}

/// The median of a round's wakes. `wake` returns when it began, `woken` when the other side ran.
fn wakes(asleep: impl Fn(), wake: impl Fn() -> u64, woken: &AtomicU64) -> f64 {
    let times = (0..WAKES).map(|_| {
        asleep();
        let until = now() + SETTLED;
        while now() < until {
            std::hint::spin_loop();
        }
        woken.store(0, Ordering::Release);
        let begin = wake();
        loop {
            let end = woken.load(Ordering::Acquire);
            if end != 0 {
                return (end - begin) as f64;
            }
            std::hint::spin_loop();
        }
    });
    median(&times.collect::<Vec<_>>())
}

struct Ours {
    runtime: Runtime,
    orders: Subscriber,
    woken: Arc<AtomicU64>,
}

impl Ours {
    fn new(core: usize) -> Self {
        let runtime = Runtime::builder().workers(1).pinning(Pinning::Cores(vec![core])).build();
        let runtime = runtime.expect("a runtime");
        let woken = Arc::new(AtomicU64::new(0));
        let stamp = woken.clone();
        let orders = runtime.subscribe(Subscription::new("orders"), move |_: &Record| {
            stamp.store(now(), Ordering::Release);
            Ok(())
        });
        Self { runtime, orders: orders.expect("subscribed"), woken }
    }

    fn wakes(&self) -> f64 {
        let wake = || {
            let record = Record::new("order-42", [7; 64]);
            let begin = now();
            self.orders.submit(record).expect("taken");
            begin
        };
        wakes(|| settle(&self.runtime), wake, &self.woken)
    }
}

struct Bare {
    thread: std::thread::JoinHandle<()>,
    parked: Arc<AtomicBool>,
    woken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Bare {
    fn new(core: core_affinity::CoreId) -> Self {
        let (parked, woken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (parks, stamp, over) = (parked.clone(), woken.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            core_affinity::set_for_current(core);
            while !over.load(Ordering::Relaxed) {
                parks.store(true, Ordering::Release);
                std::thread::park();
                parks.store(false, Ordering::Release);
                stamp.store(now(), Ordering::Release);
            }
        });
        Self { thread, parked, woken, stop }
    }

    fn wakes(&self) -> f64 {
        let asleep = || {
            while !self.parked.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
        };
        let wake = || {
            let begin = now();
            self.thread.thread().unpark();
            begin
        };
        wakes(asleep, wake, &self.woken)
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().expect("it does not panic");
    }
}
