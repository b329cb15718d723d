//! From the moment a record was meant to be published to its handler, in an open loop: whoever falls behind is not waited
//! for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use keylane::Handler;
use keylane::nats::AckMode;
use serde_json::json;

use crate::Failed;
use crate::load::{Form, Load};
use crate::ours::Bus;
use crate::raw::{self, Acks};
use crate::record::Recorder;
use crate::rounds::Effort;
use crate::server::{context, on_tokio};
use crate::stats::{Ratio, Samples, quantile};

pub fn load() -> Load {
    Load {
        stream: "LAT",
        filter: "lat.>",
        topic: "lat",
        form: Form::Keyed,
        keys: 1_000,
        messages: 0,
        size: 128,
        whole: false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Raw,
    Keylane,
}

/// What a consumer adds to.
struct Taken {
    origin: Instant,
    nanos: Samples,
    count: AtomicU64,
    over: AtomicBool,
}

impl Taken {
    fn note(&self, payload: &[u8]) {
        let now = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let stamp = payload.get(8..16).and_then(|bytes| bytes.try_into().ok());
        let meant = stamp.map_or(0, u64::from_le_bytes);
        if meant > 0 {
            self.nanos.add(now.saturating_sub(meant));
        }
        self.count.fetch_add(1, Relaxed);
    }
}

/// A consumer on a thread of its own, while `publish` runs. What came, in nanoseconds each.
fn beside<T>(
    url: &str,
    side: Side,
    publish: impl FnOnce(&Taken) -> Result<T, Failed>,
) -> Result<(T, Vec<u64>), Failed> {
    let load = load();
    on_tokio(async {
        context(url).await?.get_stream(load.stream).await?.purge().await?;
        Ok::<_, Failed>(())
    })??;
    let taken = Arc::new(Taken {
        origin: Instant::now(),
        nanos: Samples::default(),
        count: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let name = format!("b{}", crate::unique());
    let published = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| match side {
            Side::Raw => on_tokio(raw::pull(url, &load, &name, Acks::Each, &|message| {
                if message.status.is_none() {
                    taken.note(&message.payload);
                }
                taken.over.load(Relaxed)
            }))?,
            Side::Keylane => {
                let bus = Bus::open(url, &load, |builder| builder.ack_mode(AckMode::Each))?;
                let noted = taken.clone();
                let handler = Handler::sync(move |record: &keylane::Record| {
                    noted.note(record.payload());
                    Ok(())
                });
                bus.subscribe(&load, &name, handler)?;
                while !taken.over.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                bus.close()
            }
        });
        let published = begin(url, &taken).and_then(|()| publish(&taken));
        taken.over.store(true, Relaxed);
        // One more, by which a loop that waits sees that it is over.
        let last = one(url);
        let ended = consumer.join().unwrap_or_else(|_| Err("the consumer panicked".into()));
        ended.and(last).and(published)
    })?;
    Ok((published, taken.nanos.take()))
}

fn one(url: &str) -> Result<(), Failed> {
    on_tokio(async {
        let load = load();
        let js = context(url).await?; // to the end: without it nobody reads the answer
        js.publish(load.subject(0), load.payload(0, 0).into()).await?.await?;
        Ok(())
    })?
}

/// Waits until the consumer takes what is published.
fn begin(url: &str, taken: &Taken) -> Result<(), Failed> {
    one(url)?;
    let begun = Instant::now();
    while taken.count.load(Relaxed) == 0 {
        if begun.elapsed() > Duration::from_secs(20) {
            return Err("the consumer takes nothing".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How many a second the machine stores and handles at once: confirmed publishing beside the consumer.
fn capacity(url: &str, side: Side, length: Duration) -> Result<f64, Failed> {
    let flood = |taken: &Taken| {
        on_tokio(async {
            let load = load();
            let js = jetstream::new(async_nats::connect(url).await?);
            let (begun, before) = (Instant::now(), taken.count.load(Relaxed));
            let (mut waiting, mut at) = (FuturesUnordered::new(), 0);
            while begun.elapsed() < length {
                while waiting.len() < 1_000 {
                    let key = load.key_of(at);
                    at += 1;
                    let sent = js.publish(load.subject(key), load.payload(key, 0).into()).await?;
                    waiting.push(sent.into_future());
                }
                if let Some(stored) = waiting.next().await {
                    stored?;
                }
            }
            Ok((taken.count.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64())
        })?
    };
    // The payloads' stamps are bytes of filling here: nothing is looked at but the number.
    Ok(beside(url, side, flood)?.0)
}

/// Publishes at this rate over a plain socket, each at its time or as soon after it as the thread runs.
fn open_loop(url: &str, rate: f64, length: Duration, taken: &Taken) -> Result<u64, Failed> {
    let load = load();
    let mut out = TcpStream::connect(crate::socket::address(url))?;
    out.set_nodelay(true)?;
    out.write_all(b"CONNECT {\"verbose\":false}\r\n")?;
    // What the server says is read by somebody, or it would be blocked.
    let mut from = out.try_clone()?;
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while from.read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let begun = taken.origin.elapsed();
    let total = (rate * length.as_secs_f64()) as u64;
    let (mut at, mut buffer) = (0_u64, Vec::with_capacity(64 << 10));
    let due = |at: u64| begun + Duration::from_secs_f64(at as f64 / rate);
    while at < total {
        let now = taken.origin.elapsed();
        while at < total && due(at) <= now {
            let key = load.key_of(at);
            let mut payload = load.payload(key, 0);
            let meant = u64::try_from(due(at).as_nanos()).unwrap_or(u64::MAX);
            payload[8..16].copy_from_slice(&meant.to_le_bytes());
            write!(buffer, "PUB {} {}\r\n", load.subject(key), payload.len())?;
            buffer.extend_from_slice(&payload);
            buffer.extend_from_slice(b"\r\n");
            at += 1;
        }
        out.write_all(&buffer)?;
        buffer.clear();
        if let Some(wait) = due(at).checked_sub(taken.origin.elapsed()) {
            std::thread::sleep(wait);
        }
    }
    let patience = Instant::now() + Duration::from_secs(20);
    while taken.count.load(Relaxed) < total + 1 {
        if Instant::now() > patience {
            return Err(format!("{} of {total} came", taken.count.load(Relaxed)).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    out.shutdown(std::net::Shutdown::Both)?;
    let _ = reader.join();
    Ok(total)
}

fn slice(url: &str, side: Side, rate: f64, length: Duration) -> Result<[f64; 3], Failed> {
    let publish = |taken: &Taken| open_loop(url, rate, length, taken);
    let (_, nanos) = beside(url, side, publish)?;
    // The first tenth of a second is not counted: threads wake, caches fill.
    let skipped = nanos.len().min((rate / 10.0) as usize);
    let micros: Vec<f64> = nanos[skipped..].iter().map(|&nanos| nanos as f64 / 1e3).collect();
    Ok([0.5, 0.99, 0.999].map(|part| quantile(&micros, part)))
}

/// What waking a parked thread costs, in µs.
fn unpark() -> f64 {
    let (called, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let origin = Instant::now();
    let (seen, end) = (called.clone(), done.clone());
    let samples = Arc::new(Samples::default());
    let noted = samples.clone();
    let sleeper = std::thread::spawn(move || {
        while !end.load(Relaxed) {
            std::thread::park();
            let now = u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            noted.add(now.saturating_sub(seen.load(Relaxed)));
        }
    });
    for _ in 0..300 {
        std::thread::sleep(Duration::from_millis(1));
        called.store(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(0), Relaxed);
        sleeper.thread().unpark();
    }
    std::thread::sleep(Duration::from_millis(1));
    done.store(true, Relaxed);
    sleeper.thread().unpark();
    let _ = sleeper.join();
    let micros: Vec<f64> = samples.take().iter().map(|&nanos| nanos as f64 / 1e3).collect();
    quantile(&micros, 0.5)
}

pub fn run(url: &str, effort: Effort, recorder: &mut Recorder) -> Result<(), Failed> {
    let rates = [Side::Raw, Side::Keylane].map(|side| capacity(url, side, effort.slice));
    let [raw, ours] = rates;
    let (raw, ours) = (raw?, ours?);
    let unpark = unpark();
    recorder.put(&json!({
        "table": "capacity", "raw_per_s": raw.round(), "keylane_per_s": ours.round(), "unpark_us": unpark,
    }));
    for share in [0.1, 0.5, 0.8] {
        let rate = raw.min(ours) * share;
        let mut taken: [Vec<[f64; 3]>; 2] = Default::default();
        for round in 0..effort.rounds {
            let mut sides = [Side::Raw, Side::Keylane];
            if round % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                let place = usize::from(side == Side::Keylane);
                taken[place].push(slice(url, side, rate, effort.slice)?);
            }
        }
        for (name, slices) in ["raw each", "keylane Each"].into_iter().zip(&taken) {
            let of = |at: usize| quantile(&slices.iter().map(|s| s[at]).collect::<Vec<_>>(), 0.5);
            recorder.put(&json!({
                "table": "latency", "share": share, "arm": name, "rounds": slices.len(),
                "p50_us": of(0), "p99_us": of(1), "p999_us": of(2),
            }));
        }
        let added = taken[1].iter().zip(&taken[0]).map(|(ours, raw)| ours[0] - raw[0]);
        let added = Ratio::of(&added.collect::<Vec<_>>());
        let most = if share < 0.2 { unpark.max(5.0) } else { 5.0 };
        let verdict = match (added.high <= most, added.low > most) {
            (true, _) => "met",
            (_, true) => "missed",
            _ => "not resolved",
        };
        recorder.put(&json!({
            "table": "added", "share": share, "rounds": effort.rounds, "goal_us": most,
            "median_us": added.median, "low_us": added.low, "high_us": added.high, "verdict": verdict,
        }));
    }
    Ok(())
}
