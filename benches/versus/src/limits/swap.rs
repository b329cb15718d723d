//! A handler swapped every 1,000 records beside one that stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keylane::{Handler, Runtime, Subscriber, Subscription};
use serde_json::json;

use super::{figure, said};
use crate::load::{Draw, Handle, Item};
use crate::machine::rounds;
use crate::options::Options;
use crate::record::Recorder;
use crate::round::{Job, Load};
use crate::sink::Sink;

const EVERY: usize = 1_000;

pub fn full(options: &Options, recorder: &mut Recorder) {
    let load = Load::new(Job::new(Draw::Uniform, 100_000));
    let (turns, discarded) = rounds(options.rounds.unwrap_or(15), |turn| {
        if turn % 2 == 0 {
            let swapped = round(&load, true);
            swapped / round(&load, false)
        } else {
            let still = round(&load, false);
            round(&load, true) / still
        }
    });
    let line = json!({
        "table": "swap", "every": EVERY, "time_ratio": figure(&turns), "rounds": turns.len(),
        "discarded": discarded,
    });
    recorder.put(&line, &format!("\na swap every {EVERY} records / none: time × {}", said(&turns)));
}

/// Seconds of a round.
fn round(load: &Load, swaps: bool) -> f64 {
    let sink = Arc::new(Sink::new(Handle::Nothing));
    let runtime = Runtime::builder().workers(1).build().expect("a runtime");
    let orders = runtime.subscribe_handler(Subscription::new("orders"), handler(&sink));
    let orders = orders.expect("subscribed");
    let (before, timed) = load.streams[0].split_at(load.warm);
    send(&orders, &sink, before, 0, false);
    let begin = Instant::now();
    send(&orders, &sink, timed, before.len(), swaps);
    let seconds = begin.elapsed().as_secs_f64();
    assert_eq!(sink.verdict(&load.streams).violations(), 0, "a swap lost or disordered records");
    runtime.close(Duration::from_secs(5)).expect("closed");
    seconds
}

fn handler(sink: &Arc<Sink>) -> Handler {
    let sink = sink.clone();
    Handler::sync(move |record| {
        sink.handle(record.payload());
        Ok(())
    })
}

fn send(orders: &Subscriber, sink: &Arc<Sink>, items: &[Item], before: usize, swaps: bool) {
    for (number, items) in items.chunks(EVERY).enumerate() {
        sink.reach((before + number * EVERY).saturating_sub(4 * EVERY) as u64);
        if swaps {
            // In force for what comes next; nobody waits for the old one to end.
            drop(orders.swap(handler(sink)));
        }
        for item in items {
            let record = keylane::Record::new(item.key(), item.payload(0));
            orders.submit(record).expect("taken");
        }
    }
    sink.wait((before + items.len()) as u64);
}
