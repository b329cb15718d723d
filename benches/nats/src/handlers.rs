//! Async handlers of 10 ms over 1,000 keys on one durable, beside what a naive list schedule of the same keys and the
//! same handler times would need, with records arriving as fast as a raw loop takes them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keylane::nats::NatsBus;
use keylane::{Handler, Keyless, Runtime, Subscription};
use serde_json::json;

use crate::Failed;
use crate::load::{Load, Tally};
use crate::record::Recorder;
use crate::rounds::Effort;
use crate::stats::Ratio;

/// One handling: the key, and when it began and ended.
type Span = (u32, Duration, Duration);

pub fn run(url: &str, load: &Load, effort: Effort, recorder: &mut Recorder) -> Result<(), Failed> {
    let mut reached = Vec::new();
    for _ in 0..effort.rounds {
        let mut raw = crate::consume::named(url, load, "raw each").ok_or("no raw arm")?;
        let rate = (raw.run)(&format!("b{}", crate::unique()), effort.slice)?;
        let spans = handle(url, load)?;
        let actual = makespan(&spans);
        reached.push(ideal(load, &spans, rate).as_secs_f64() / actual.as_secs_f64());
    }
    let reached = Ratio::of(&reached);
    recorder.put(&json!({
        "table": "ratio", "group": "handlers of 10 ms, 1,000 keys", "ours": "keylane Each",
        "rival": "ideal", "goal": 0.9, "rounds": effort.rounds, "median": reached.median,
        "low": reached.low, "high": reached.high, "verdict": reached.verdict(0.9),
    }));
    Ok(())
}

/// Handles all of the stream.
fn handle(url: &str, load: &Load) -> Result<Vec<Span>, Failed> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let runtime = Runtime::builder().workers(1).tokio(tokio.handle().clone()).build()?;
    let builder = NatsBus::builder(&runtime, url).topic(load.topic, load.options());
    let bus = builder.connect().wait()?;
    let tally = Arc::new(Tally::new(load, load.messages));
    let spans = Arc::new(Mutex::new(Vec::<Span>::with_capacity(load.messages as usize)));
    let origin = Instant::now();
    let (noted, counted) = (spans.clone(), tally.clone());
    let handler = Handler::future(move |record| {
        let (noted, counted) = (noted.clone(), counted.clone());
        async move {
            let begun = origin.elapsed();
            tokio::time::sleep(Duration::from_millis(10)).await;
            let key = record.payload().first_chunk::<4>().map_or(0, |key| u32::from_le_bytes(*key));
            noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((
                key,
                begun,
                origin.elapsed(),
            ));
            counted.note(record.payload());
            Ok(())
        }
    });
    let subscription = Subscription::new(format!("b{}", crate::unique())).keyless(Keyless::Reject);
    bus.subscribe_handler(load.topic, subscription, handler).wait()?;
    tokio.block_on(async {
        while !tally.is_over() && origin.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    bus.close(Duration::from_secs(5)).wait()?;
    runtime.close(Duration::from_secs(5))?;
    if tally.count() < load.messages || tally.faults() != (0, 0) {
        return Err(format!("{} handled, faults {:?}", tally.count(), tally.faults()).into());
    }
    Ok(std::mem::take(&mut *spans.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
}

fn makespan(spans: &[Span]) -> Duration {
    let begun = spans.iter().map(|span| span.1).min().unwrap_or_default();
    spans.iter().map(|span| span.2).max().unwrap_or_default().saturating_sub(begun)
}

/// Each record as soon as it is there and the one before it of its key is done, for as long as its handler took.
fn ideal(load: &Load, spans: &[Span], rate: f64) -> Duration {
    let mut times: Vec<std::collections::VecDeque<Duration>> =
        vec![Default::default(); load.keys as usize];
    for (key, begun, ended) in spans {
        times[*key as usize].push_back(ended.saturating_sub(*begun));
    }
    let mut free = vec![Duration::ZERO; load.keys as usize];
    for at in 0..load.messages {
        let key = load.key_of(at) as usize;
        let arrived = Duration::from_secs_f64(at as f64 / rate);
        free[key] = free[key].max(arrived) + times[key].pop_front().unwrap_or_default();
    }
    free.into_iter().max().unwrap_or_default()
}
