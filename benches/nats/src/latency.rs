//! From the moment a record was meant to be published to its handler, in an open loop: whoever falls behind is not waited
//! for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::{Subject, jetstream};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use keylane::Handler;
use keylane::nats::AckMode;
use serde_json::{Value, json};

use crate::load::{Form, Load};
use crate::machine::Care;
use crate::ours::Bus;
use crate::raw::{self, Acks};
use crate::record::Recorder;
use crate::rounds::{Effort, order};
use crate::server::{context, on_tokio};
use crate::stats::{Samples, quantile};
use crate::{Failed, handed};

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

const SIDES: [(&str, Side); 2] = [("raw each", Side::Raw), ("keylane Each", Side::Keylane)];

/// What a consumer adds to.
struct Taken {
    origin: Instant,
    /// The same moment by the clock that the server stamps by: nanoseconds since the Unix epoch.
    wall: i64,
    each: Samples<Took>,
    count: AtomicU64,
    over: AtomicBool,
}

/// How long one record took, in nanoseconds.
#[derive(Clone, Copy)]
struct Took {
    /// From when it was meant to be published to when the server had stored it.
    to_store: i64,
    /// From then to its handler.
    from_store: i64,
    /// From the consume loop's hand-over to its handler, where there is one.
    runtime: Option<i64>,
}

impl Taken {
    fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            origin: Instant::now(),
            wall: nanos(wall),
            each: Samples::default(),
            count: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// A record that the server stored at this time is handled now; it may have been handed over to the runtime.
    fn note(&self, payload: &[u8], stored: i64, handed: Option<Instant>) {
        let now = nanos(self.origin.elapsed());
        let meant = payload.get(8..16).and_then(|bytes| bytes.try_into().ok());
        let meant = meant.map_or(0, i64::from_le_bytes);
        if meant > 0 {
            let stored = stored - self.wall;
            let runtime =
                handed.map(|handed| now - nanos(handed.saturating_duration_since(self.origin)));
            self.each.add(Took { to_store: stored - meant, from_store: now - stored, runtime });
        }
        self.count.fetch_add(1, Relaxed);
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// When the server stored a delivery, by the subject that it is acknowledged by.
fn stored(reply: Option<&Subject>) -> i64 {
    let time = || {
        let reply = reply?.strip_prefix("$JS.ACK.")?;
        let before = if reply.split('.').count() == 7 { 5 } else { 7 };
        reply.split('.').nth(before)?.parse().ok()
    };
    time().unwrap_or(0)
}

/// What a consumer took while something was published.
struct Beside<T> {
    published: T,
    each: Vec<Took>,
}

/// A consumer on a thread of its own, while `publish` runs.
fn beside<T>(
    url: &str,
    side: Side,
    publish: impl FnOnce(&Taken) -> Result<T, Failed>,
) -> Result<Beside<T>, Failed> {
    let load = load();
    on_tokio(async {
        context(url).await?.get_stream(load.stream).await?.purge().await?;
        Ok::<_, Failed>(())
    })??;
    let taken = Arc::new(Taken::new());
    let name = format!("b{}", crate::unique());
    let published = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| match side {
            Side::Raw => {
                let handle = |message: &async_nats::Message| {
                    if message.status.is_none() {
                        taken.note(&message.payload, stored(message.reply.as_ref()), None);
                    }
                    taken.over.load(Relaxed)
                };
                on_tokio(raw::pull(url, &load, &name, Acks::Each, &handle))?
            }
            Side::Keylane => {
                let bus = Bus::open(url, &load, |builder| builder.ack_mode(AckMode::Each))?;
                let noted = taken.clone();
                let handler = Handler::sync(move |record: &keylane::Record| {
                    let handed = handed::take(record.payload());
                    noted.note(record.payload(), record.timestamp().unwrap_or(0), handed);
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
    Ok(Beside { published, each: taken.each.take() })
}

/// A payload of which nothing is noted but that it came.
fn unstamped(load: &Load, key: u32) -> Vec<u8> {
    let mut payload = load.payload(key, 0);
    payload[8..24].fill(0);
    payload
}

fn one(url: &str) -> Result<(), Failed> {
    on_tokio(async {
        let load = load();
        let js = context(url).await?; // to the end: without it nobody reads the answer
        js.publish(load.subject(0), unstamped(&load, 0).into()).await?.await?;
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
                    let sent = js.publish(load.subject(key), unstamped(&load, key).into()).await?;
                    waiting.push(sent.into_future());
                }
                if let Some(stored) = waiting.next().await {
                    stored?;
                }
            }
            Ok((taken.count.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64())
        })?
    };
    Ok(beside(url, side, flood)?.published)
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
            payload[16..24].copy_from_slice(&(at + 1).to_le_bytes());
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

/// One side's slice, in µs.
fn slice(url: &str, side: Side, rate: f64, length: Duration) -> Result<Value, Failed> {
    let publish = |taken: &Taken| open_loop(url, rate, length, taken);
    let each = beside(url, side, publish)?.each;
    // The first tenth of a second is not counted: threads wake, caches fill.
    let each = &each[each.len().min((rate / 10.0) as usize)..];
    let micros = |of: fn(&Took) -> i64| -> Vec<f64> {
        each.iter().map(|took| of(took) as f64 / 1e3).collect()
    };
    let all = micros(|took| took.to_store + took.from_store);
    let mut line = json!({
        "p50_us": quantile(&all, 0.5), "p99_us": quantile(&all, 0.99), "p999_us": quantile(&all, 0.999),
        "to_store_us": quantile(&micros(|took| took.to_store), 0.5),
        "from_store_us": quantile(&micros(|took| took.from_store), 0.5),
    });
    let runtime: Vec<f64> =
        each.iter().filter_map(|took| Some(took.runtime? as f64 / 1e3)).collect();
    if !runtime.is_empty() {
        line["runtime_us"] = json!(quantile(&runtime, 0.5));
        line["runtime_p99_us"] = json!(quantile(&runtime, 0.99));
    }
    Ok(line)
}

/// What waking a parked thread costs, in µs.
fn unpark() -> f64 {
    let (called, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let origin = Instant::now();
    let (seen, end) = (called.clone(), done.clone());
    let samples = Arc::new(Samples::<u64>::default());
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

/// The parts of the capacity that are tried.
pub const SHARES: [f64; 3] = [0.1, 0.5, 0.8];

/// The capacity is that of the slower side, so that neither is asked for more than it can do.
pub fn run(url: &str, effort: Effort, recorder: &mut Recorder) -> Result<(), Failed> {
    handed::begin();
    let mut most: [Vec<f64>; 2] = Default::default();
    for round in 0..effort.rounds.min(3) {
        for side in order(2, round) {
            most[side].push(capacity(url, SIDES[side].1, effort.slice)?);
        }
    }
    let [raw, ours] = most.map(|rates| quantile(&rates, 0.5));
    let unpark = unpark();
    recorder.put(&json!({
        "table": "capacity", "raw_per_s": raw.round(), "keylane_per_s": ours.round(), "unpark_us": unpark,
    }));
    for share in SHARES {
        let rate = raw.min(ours) * share;
        // A worker that sleeps has to be woken: that costs what it costs.
        let most = if share < 0.2 { unpark.max(5.0) } else { 5.0 };
        for round in 0..effort.rounds {
            let mut care = Care::new(effort.careful);
            let mut line = json!({
                "table": "latency round", "share": share, "round": round, "per_s": rate.round(), "goal_us": most,
            });
            for side in order(2, round) {
                let (name, side) = SIDES[side];
                line[name] = care.slice(|| slice(url, side, rate, effort.slice))?;
            }
            (line["discarded"], line["stolen"]) = (json!(care.discarded), json!(care.stolen));
            recorder.put(&line);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_says_when_it_stored_a_delivery() {
        let at = |reply: &'static str| stored(Some(&Subject::from_static(reply)));
        assert_eq!(at("$JS.ACK.S.c.1.7.8.1700000000000000123.9"), 1_700_000_000_000_000_123);
        assert_eq!(at("$JS.ACK.d.a.S.c.1.7.8.1700000000000000123.9"), 1_700_000_000_000_000_123);
        assert_eq!((at("elsewhere"), stored(None)), (0, 0));
    }
}
