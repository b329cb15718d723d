//! A skewed job: 5,890 keys with 9 records each, 100 with 100 and 10 with 1,000, half a millisecond of waiting each,
//! 30 at once: the job that a user of Pulsar's key-shared subscription reported, there with half a second each. How much
//! longer than ideal it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keylane::{Config, Record, RecordRef, Runtime, Subscription};
use serde_json::json;

use super::{figure, said};
use crate::load::{Handle, Item, Message, Random, now};
use crate::machine::rounds;
use crate::options::Options;
use crate::record::Recorder;
use crate::sink::Sink;

const AT_ONCE: usize = 30;
const WORK: Duration = Duration::from_micros(500);

pub fn full(options: &Options, recorder: &mut Recorder) {
    recorder.title("\nskewed keys, 73,010 records of 0.5 ms, 30 at once: makespan / ideal");
    let stream = vec![stream()];
    let (turns, discarded) =
        rounds(options.rounds.unwrap_or(3).min(5), |_| [ours(&stream), modulo(&stream)]);
    let forms =
        ["blocking handler, 30 threads", "30 threads, a crossbeam-channel each, key modulo 30"];
    for (place, arm) in ["keylane", "threads-by-modulo"].into_iter().enumerate() {
        let ratios: Vec<f64> = turns.iter().map(|turn| turn[place].0).collect();
        let violations: u64 = turns.iter().map(|turn| turn[place].1).sum();
        let line = json!({
            "table": "skew", "arm": arm, "over_ideal": figure(&ratios), "violations": violations,
            "form": forms[place], "rounds": ratios.len(), "discarded": discarded,
        });
        recorder.put(&line, &format!("  {arm:<20} {}  {}", said(&ratios), forms[place]));
    }
}

/// The records of all keys, shuffled; each key's in order.
fn stream() -> Vec<Item> {
    let kinds = [(5_890, 9), (100, 100), (10, 1_000)];
    let mut numbers = Vec::new();
    let mut first = 0;
    for (keys, records) in kinds {
        numbers.extend((0..keys * records).map(|record| first + record % keys));
        first += keys;
    }
    Random::new(21_605).shuffle(&mut numbers);
    let mut places = vec![0; first];
    let place = |number: usize| {
        places[number] += 1;
        Item::new(number, places[number])
    };
    numbers.into_iter().map(place).collect()
}

/// What all handlers do: they wait, and add up how long that took.
fn work(sink: &Sink, busy: &AtomicU64, payload: &[u8]) {
    let begin = now();
    sink.see(payload);
    std::thread::sleep(WORK);
    busy.fetch_add(now() - begin, Ordering::Relaxed);
    sink.count();
}

/// Makespan over ideal, which is all work evenly spread; and what the judge says.
fn judged(begin: Instant, busy: &AtomicU64, sink: &Sink, stream: &[Vec<Item>]) -> (f64, u64) {
    sink.wait(stream[0].len() as u64);
    let ideal = busy.load(Ordering::Relaxed) as f64 / AT_ONCE as f64;
    (begin.elapsed().as_nanos() as f64 / ideal, sink.verdict(stream).violations())
}

fn ours(stream: &[Vec<Item>]) -> (f64, u64) {
    let (sink, busy) = (Arc::new(Sink::new(Handle::Nothing)), Arc::new(AtomicU64::new(0)));
    let runtime =
        Runtime::builder().config(Config::default().workers(1).blocking_threads(AT_ONCE)).build();
    let runtime = runtime.expect("a runtime");
    let (seen, spent) = (sink.clone(), busy.clone());
    let orders =
        runtime.subscribe_blocking(Subscription::new("orders"), move |record: RecordRef| {
            work(&seen, &spent, record.payload());
            Ok(())
        });
    let orders = orders.expect("subscribed");
    let begin = Instant::now();
    for item in &stream[0] {
        let mut record = Record::new(item.key(), item.payload(0));
        while let Err(refused) = orders.submit(record) {
            assert!(refused.is_retryable(), "{refused}");
            record = refused.into_record();
        }
    }
    let judged = judged(begin, &busy, &sink, stream);
    runtime.close(Duration::from_secs(5)).expect("closed");
    judged
}

fn modulo(stream: &[Vec<Item>]) -> (f64, u64) {
    let (sink, busy) = (Arc::new(Sink::new(Handle::Nothing)), Arc::new(AtomicU64::new(0)));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (sender, receiver) = crossbeam_channel::bounded::<Message>(1_000);
                let (sink, busy) = (&sink, &busy);
                scope.spawn(move || {
                    receiver.iter().for_each(|message| work(sink, busy, &message.payload));
                });
                sender
            })
            .collect();
        for &item in &stream[0] {
            let message = Message::new(item, 0);
            let lane = message.lane(AT_ONCE);
            senders[lane].send(message).expect("the thread lives");
        }
    });
    judged(begin, &busy, &sink, stream)
}
