//! Async handlers of 10 ms over 1,000 keys on one durable, beside what a naive list schedule of the same keys and the
//! run's own handler times would need, with records arriving when a raw loop that asks for the whole stream took them in
//! the same round. The bus' own arrivals are later than those: its window fills. So the ideal is rather too good.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keylane::nats::NatsBus;
use keylane::{Handler, Keyless, Runtime, Subscription};

use crate::Failed;
use crate::load::{Load, Tally};
use crate::machine::Care;
use crate::raw::{self, Acks};
use crate::record::Recorder;
use crate::rounds::{Effort, line, order};
use crate::server::on_tokio;

/// One handling: the key, and when it began and ended.
type Span = (u32, Duration, Duration);

pub fn run(url: &str, load: &Load, effort: Effort, recorder: &mut Recorder) -> Result<(), Failed> {
    for round in 0..effort.rounds {
        let mut care = Care::new(effort.careful);
        let (mut arrivals, mut spans) = (Vec::new(), Vec::new());
        for arm in order(2, round) {
            match arm {
                0 => arrivals = care.slice(|| arrive(url, load))?,
                _ => spans = care.slice(|| handle(url, load))?,
            }
        }
        let rate = |time: Duration| load.messages as f64 / time.as_secs_f64();
        let rates = [
            ("raw each, whole", rate(arrivals.last().copied().unwrap_or_default())),
            ("ideal", rate(ideal(load, &spans, &arrivals))),
            ("keylane Each", rate(makespan(&spans))),
        ];
        let goals = [("keylane Each", "ideal", 0.9)];
        recorder.put(&line("handlers of 10 ms, 1,000 keys", round, &rates, &goals, &care));
    }
    Ok(())
}

/// When each record comes to a raw loop that asks for the whole stream and acknowledges each, after the first.
fn arrive(url: &str, load: &Load) -> Result<Vec<Duration>, Failed> {
    let tally = Tally::new(load, load.messages);
    let arrivals = Mutex::new(Vec::with_capacity(load.messages as usize));
    let handle = |message: &async_nats::Message| {
        if message.status.is_none() {
            let now = Instant::now();
            tally.note(&message.payload);
            arrivals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(now);
        }
        tally.is_over()
    };
    let name = format!("b{}", crate::unique());
    on_tokio(raw::pull(url, &load.whole(), &name, Acks::Each, &handle))??;
    if tally.faults() != (0, 0) {
        return Err(format!("the raw loop's faults: {:?}", tally.faults()).into());
    }
    let arrivals = arrivals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(first) = arrivals.first().copied() else { return Err("nothing came".into()) };
    Ok(arrivals.into_iter().map(|arrival| arrival - first).collect())
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

/// Each record as soon as it is there and the one before it of its key is done, for as long as its handler took: never
/// faster than the raw loop, and as fast as that if handlers took no time.
fn ideal(load: &Load, spans: &[Span], arrivals: &[Duration]) -> Duration {
    let mut times: Vec<std::collections::VecDeque<Duration>> =
        vec![Default::default(); load.keys as usize];
    for (key, begun, ended) in spans {
        times[*key as usize].push_back(ended.saturating_sub(*begun));
    }
    let mut free = vec![Duration::ZERO; load.keys as usize];
    for (at, arrived) in (0..load.messages).zip(arrivals) {
        let key = load.key_of(at) as usize;
        free[key] = free[key].max(*arrived) + times[key].pop_front().unwrap_or_default();
    }
    free.into_iter().max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Form;

    #[test]
    fn a_key_is_handled_one_after_the_other_and_others_beside_it() {
        let load = Load {
            stream: "S",
            filter: "s.*.*",
            topic: "s",
            form: Form::Keyed,
            keys: 2,
            messages: 3,
            size: 16,
            whole: false,
        };
        let ms = Duration::from_millis;
        let keys: Vec<_> = (0..3).map(|at| load.key_of(at)).collect();
        let spans: Vec<Span> = keys.iter().map(|key| (*key, ms(0), ms(10))).collect();
        let most = (0..2).map(|key| keys.iter().filter(|k| **k == key).count()).max();
        let longest = ms(10) * u32::try_from(most.unwrap_or(0)).unwrap_or(0);
        assert_eq!(ideal(&load, &spans, &[ms(0); 3]), longest, "all are there");
        assert_eq!(ideal(&load, &spans, &[ms(0), ms(50), ms(100)]), ms(110), "waits for the last");
        assert_eq!(ideal(&load, &[], &[ms(0), ms(1), ms(2)]), ms(2), "the raw loop's own");
    }
}
