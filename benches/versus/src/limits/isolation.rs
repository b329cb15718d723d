//! One key that hangs or is tried again and again: what the other keys' p99 makes of it.

use std::sync::Arc;
use std::time::Duration;

use keylane::{Handler, HandlerError, Record, Retry, Runtime, Subscription};
use serde_json::json;

use super::{figure, said};
use crate::histogram::Histogram;
use crate::load::{Item, now};
use crate::machine::rounds;
use crate::options::Options;
use crate::record::Recorder;

/// Records a second, and of a round; one in a hundred has the bad key.
const RATE: f64 = 20_000.0;
const COUNT: usize = 5_000;
const KEYS: usize = 1_000;

#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    /// An async handler whose future is never ready.
    Hangs,
    /// A blocking handler that does not return for the round.
    Blocks,
    /// A sync handler that fails each time, tried again after a millisecond.
    Retries,
}

pub fn full(options: &Options, recorder: &mut Recorder) {
    recorder.title("\none bad key: other keys' latency with it / without it, 20,000/s, 1 worker");
    let kinds = [
        (Trouble::Hangs, "async handler never ready"),
        (Trouble::Blocks, "blocking handler does not return"),
        (Trouble::Retries, "sync handler retried every ms"),
    ];
    for (trouble, name) in kinds {
        let (turns, discarded) = rounds(options.rounds.unwrap_or(9), |turn| {
            if turn % 2 == 0 {
                let with = round(trouble, true);
                [with, round(trouble, false)]
            } else {
                let without = round(trouble, false);
                [round(trouble, true), without]
            }
        });
        let of = |side: usize, place: usize| {
            turns.iter().map(|turn| turn[side][place]).collect::<Vec<f64>>()
        };
        let ratios = |place: usize| {
            turns.iter().map(|turn| turn[0][place] / turn[1][place]).collect::<Vec<f64>>()
        };
        let line = json!({
            "table": "isolation", "trouble": name, "p50_ratio": figure(&ratios(0)),
            "p99_ratio": figure(&ratios(1)), "p99_ns": figure(&of(0, 1)), "p99_without_ns": figure(&of(1, 1)),
            "rounds": turns.len(), "discarded": discarded,
        });
        let words = format!(
            "  {name:<34} p50 {}  p99 {}  ({} ns with it)",
            said(&ratios(0)),
            said(&ratios(1)),
            said(&of(0, 1))
        );
        recorder.put(&line, &words);
    }
}

/// p50 and p99 of the good keys.
fn round(trouble: Trouble, bad: bool) -> [f64; 2] {
    let latency = Arc::new(Histogram::default());
    let runtime = Runtime::builder().workers(1).build().expect("a runtime");
    let seen = latency.clone();
    // Key 0 is the bad one; its records carry no time.
    let see = move |record: &Record| {
        let stamp =
            record.payload().first_chunk::<8>().map_or(0, |stamp| u64::from_le_bytes(*stamp));
        if stamp != 0 {
            seen.add(now().saturating_sub(stamp));
        }
        stamp == 0
    };
    let over = Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let ends = over.clone();
    let handler = match trouble {
        Trouble::Hangs => Handler::future(move |record| {
            let hangs = see(&record) && bad;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }),
        Trouble::Blocks => Handler::blocking(move |record| {
            if see(&record) && bad {
                let ended = ends.0.lock().expect("nobody panics");
                drop(ends.1.wait_while(ended, |ended| !*ended).expect("nobody panics"));
            }
            Ok(())
        }),
        Trouble::Retries => Handler::sync(move |record| {
            if see(record) && bad { Err(HandlerError::retryable("not yet")) } else { Ok(()) }
        }),
    };
    let policy =
        Subscription::new("orders").retry(Retry::fixed(Duration::from_millis(1)).forever());
    let orders = runtime.subscribe_handler(policy.skip(), handler).expect("subscribed");
    let begin = now() + 200_000;
    for sent in 0..COUNT {
        let due = begin + (sent as f64 * 1e9 / RATE) as u64;
        while now() < due {
            std::hint::spin_loop();
        }
        let number = if sent % 100 == 0 { 0 } else { 1 + sent * 37 % (KEYS - 1) };
        let mut payload = [7; 64];
        let stamp = if number == 0 { 0 } else { due };
        payload[..8].copy_from_slice(&stamp.to_le_bytes());
        orders.submit(Record::new(Item::new(number, 1).key(), payload)).expect("taken");
    }
    let good = COUNT - COUNT / 100;
    let until = now() + 2_000_000_000;
    while (latency.count() as usize) < good && now() < until {
        std::thread::yield_now();
    }
    assert_eq!(latency.count() as usize, good, "good keys were held up");
    *over.0.lock().expect("nobody panics") = true;
    over.1.notify_all();
    runtime.close(Duration::from_millis(100)).expect("closed");
    [latency.quantile(0.5) as f64, latency.quantile(0.99) as f64]
}
