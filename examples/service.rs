//! A small complete service, to be copied: it books payments, which come as envelopes through a NATS server, into a
//! journal. One account's payments are booked in their order, different accounts' at the same time.
//!
//! ```text
//! cargo run --release --example service --features nats,serde,metrics -- examples/service.toml
//! ```
//!
//! The environment overrides the file: `KEYLANE_WORKERS`, `KEYLANE_NATS_SERVERS`, `KEYLANE_NATS_PASSWORD` and so on.
//! `GET /metrics` and `GET /health` are answered on `listen`. SIGTERM and SIGINT end it: what was read is handled,
//! acknowledged, and it exits with 0. It exits with 1 when something was left unfinished, which is delivered again to
//! whoever comes next, or when a failure stopped a source; and with 2 when it could not begin.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use keylane::nats::{NatsBus, NatsSettings};
use keylane::{
    Bus, BusEvent, Config, Envelope, Exporter, Handled, HandlerError, Health, Retry, Runtime,
    Subscription,
};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder};
use metrics::{SharedString, Unit};
use serde::Deserialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a configuration file may hold. A name that is not known is refused, and so is a value out of range.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    topic: String,
    dead_letters: String,
    journal: PathBuf,
    /// What an account may pay at once.
    limit: u64,
    listen: String,
    /// How long what was read may take to be handled at the end.
    drain_seconds: u64,
    runtime: Config,
    nats: NatsSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            topic: "payments".to_owned(),
            dead_letters: "payments.dead".to_owned(),
            journal: "payments.journal".into(),
            limit: 10_000,
            listen: "127.0.0.1:9464".to_owned(),
            drain_seconds: 10,
            runtime: Config::default(),
            nats: NatsSettings::default(),
        }
    }
}

/// The payload of an envelope of the type `PaymentMade`.
#[derive(Deserialize)]
struct PaymentMade {
    amount: u64,
}

/// Why the service ends.
enum End {
    Signal(i32),
    SourceStopped(String),
}

fn main() -> ExitCode {
    let begun = settings().and_then(Service::start);
    let ended = match begun {
        Ok((service, ends)) => ends.recv().map_err(Into::into).and_then(|end| service.end(end)),
        Err(error) => {
            eprintln!("service: {error}");
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The file that the command line names, if it does, and over it the environment.
fn settings() -> Result<Settings, Box<dyn Error>> {
    let mut settings = match std::env::args_os().nth(1) {
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            toml::from_str(&text)?
        }
        None => Settings::default(),
    };
    settings.runtime = settings.runtime.with_vars(std::env::vars_os())?;
    Ok(settings)
}

/// What runs, and is closed at the end.
struct Service {
    runtime: Runtime,
    bus: Bus,
    drain: Duration,
}

impl Service {
    /// Begins. What it returns beside itself says when to end.
    fn start(settings: Settings) -> Result<(Self, std::sync::mpsc::Receiver<End>), Box<dyn Error>> {
        let (end, ends) = channel();
        // First of all, so that no signal is missed.
        watch_signals(end.clone())?;
        let meter = Meter::default();
        metrics::set_global_recorder(meter.clone())?;

        let runtime = Runtime::builder().config(settings.runtime).build()?;
        // Dropped, it would end; it is to tell for as long as the process lives.
        std::mem::forget(Exporter::new(&runtime).every(Duration::from_secs(1))?);
        let nats = NatsBus::builder(&runtime, "nats://localhost:4222")
            .settings(&settings.nats)?
            .with_vars(std::env::vars_os())?
            .connect()
            .wait()?;
        let bus = nats.bus();
        watch_bus(&bus, end)?;

        let journal = Journal::open(&settings.journal)?;
        let limit = settings.limit;
        let payments = Subscription::new("bookkeeping")
            .retry(
                Retry::exponential(Duration::from_millis(20), Duration::from_secs(1)).attempts(3),
            )
            .dead_letter(&*settings.dead_letters)
            // What follows a payment that could not be booked is not booked before somebody has looked.
            .park_key();
        // Files block.
        bus.subscribe_envelope_blocking(&settings.topic, payments, move |event| {
            book(&journal, limit, event)
        })
        .wait()?;

        let listener = TcpListener::bind(&settings.listen)
            .map_err(|error| format!("{} cannot be listened on: {error}", settings.listen))?;
        println!("ready on http://{}", listener.local_addr()?);
        let looked_at = bus.clone();
        thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || answer_all(&listener, &meter, &looked_at))?;
        Ok((Self { runtime, bus, drain: Duration::from_secs(settings.drain_seconds) }, ends))
    }

    /// Reads no more, has what was read handled and acknowledged, and says what was not.
    fn end(self, end: End) -> Result<(), Box<dyn Error>> {
        match &end {
            End::Signal(signal) => eprintln!("service: ending on signal {signal}"),
            End::SourceStopped(why) => eprintln!("service: ending, since a source stopped: {why}"),
        }
        let report = self.bus.close(self.drain).wait()?;
        let closed = self.runtime.close(Duration::from_secs(1))?;
        if !report.drained || !closed.drained {
            let left = format!("{} records are left to whoever comes next", report.unfinished);
            return Err(left.into());
        }
        match end {
            End::Signal(_) => Ok(()),
            End::SourceStopped(why) => Err(why.into()),
        }
    }
}

/// Handles one event. Delivery is at least once: whoever reads the journal knows a payment again by its event's id.
fn book(journal: &Journal, limit: u64, event: &Envelope<'_>) -> Handled {
    if event.event_type != "PaymentMade" {
        return Ok(());
    }
    // What cannot be read now cannot be read at the next attempt either.
    let payment: PaymentMade =
        serde_json::from_slice(&event.payload).map_err(HandlerError::fatal)?;
    if payment.amount > limit {
        // The limit may be another one soon: tried again, then a dead letter.
        return Err(format!("{} is above the limit of {limit}", payment.amount).into());
    }
    Ok(journal.write(&format!("{} {} {}\n", event.event_id, event.key(), payment.amount))?)
}

/// A file that lines are added to, each as a whole.
struct Journal(Mutex<File>);

impl Journal {
    fn open(path: &PathBuf) -> Result<Self, Box<dyn Error>> {
        let file = File::options().append(true).create(true).open(path);
        let file = file.map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
        Ok(Self(Mutex::new(file)))
    }

    fn write(&self, line: &str) -> io::Result<()> {
        lock(&self.0).write_all(line.as_bytes())
    }
}

fn watch_signals(end: Sender<End>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // It may be ending already.
            let _ = end.send(End::Signal(signal));
        }
    })?;
    Ok(())
}

/// Logs what happens to the bus. A source that stopped ends the service: its supervisor starts another, and sees it.
fn watch_bus(bus: &Bus, end: Sender<End>) -> io::Result<()> {
    let mut events = bus.events();
    // The stream is a future: any executor will do.
    let tokio = tokio::runtime::Builder::new_current_thread().build()?;
    let watch = async move {
        while let Some(event) = events.recv().await {
            eprintln!("service: {event:?}");
            if let BusEvent::SourceStopped { source, error } = event {
                // It may be ending already.
                let _ = end.send(End::SourceStopped(format!("{source}: {error}")));
            }
        }
    };
    thread::Builder::new().name("events".to_owned()).spawn(move || tokio.block_on(watch))?;
    Ok(())
}

/// Answers requests one after the other, each within a second: this is for a supervisor and a scraper.
fn answer_all(listener: &TcpListener, meter: &Meter, bus: &Bus) {
    for stream in listener.incoming().flatten() {
        // Whoever asked is gone, or slow.
        let _ = answer(stream, meter, bus);
    }
}

fn answer(mut stream: TcpStream, meter: &Meter, bus: &Bus) -> io::Result<()> {
    let second = Some(Duration::from_secs(1));
    stream.set_read_timeout(second)?;
    stream.set_write_timeout(second)?;
    let mut request = String::new();
    BufReader::new((&stream).take(1_024)).read_line(&mut request)?;
    let (status, body) = match request.split(' ').nth(1) {
        Some("/metrics") => ("200 OK", meter.text()),
        Some("/health") => health(bus),
        _ => ("404 Not Found", "/metrics or /health\n".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n"
    )?;
    write!(stream, "Connection: close\r\n\r\n{body}")
}

fn health(bus: &Bus) -> (&'static str, String) {
    let (status, reasons) = match bus.health() {
        Health::Healthy => return ("200 OK", "healthy\n".to_owned()),
        // It may pass by itself: to be looked at, not to be restarted.
        Health::Degraded(reasons) => ("200 OK", reasons),
        Health::Down(reasons) => ("503 Service Unavailable", reasons),
        _ => ("503 Service Unavailable", Vec::new()),
    };
    let mut text = String::new();
    for reason in reasons {
        let _ = writeln!(text, "{:?} {}: {}", reason.kind, reason.about, reason.text);
    }
    (status, text)
}

/// A recorder of the `metrics` crate that keeps the last value of each metric. A service has one of the exporters that
/// are there for that crate in its place.
#[derive(Clone, Default)]
struct Meter(Arc<Mutex<Metrics>>);

#[derive(Default)]
struct Metrics {
    counters: BTreeMap<String, Arc<AtomicU64>>,
    gauges: BTreeMap<String, Arc<AtomicU64>>,
    sums: BTreeMap<String, Arc<Sum>>,
}

/// How many values there were, and their sum in billionths.
#[derive(Default)]
struct Sum(AtomicU64, AtomicU64);

impl HistogramFn for Sum {
    fn record(&self, value: f64) {
        self.0.fetch_add(1, Relaxed);
        self.1.fetch_add((value * 1e9) as u64, Relaxed);
    }
}

impl Meter {
    /// All metrics, as Prometheus reads them.
    fn text(&self) -> String {
        let metrics = lock(&self.0);
        let mut text = String::new();
        // Writing to a string cannot fail.
        for (name, value) in &metrics.counters {
            let _ = writeln!(text, "{name} {}", value.load(Relaxed));
        }
        for (name, value) in &metrics.gauges {
            let _ = writeln!(text, "{name} {}", f64::from_bits(value.load(Relaxed)));
        }
        for (name, sum) in &metrics.sums {
            let (name, labels) = name.split_at(name.find('{').unwrap_or(name.len()));
            let _ = writeln!(text, "{name}_count{labels} {}", sum.0.load(Relaxed));
            let _ = writeln!(text, "{name}_sum{labels} {}", sum.1.load(Relaxed) as f64 / 1e9);
        }
        text
    }
}

impl Recorder for Meter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        lock(&self.0).counters.entry(name(key)).or_default().clone().into()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        lock(&self.0).gauges.entry(name(key)).or_default().clone().into()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        lock(&self.0).sums.entry(name(key)).or_default().clone().into()
    }
}

/// `name{label="value"}`.
fn name(key: &Key) -> String {
    let labels: Vec<_> =
        key.labels().map(|label| format!("{}={:?}", label.key(), label.value())).collect();
    match labels.is_empty() {
        true => key.name().to_owned(),
        false => format!("{}{{{}}}", key.name(), labels.join(",")),
    }
}

/// Whoever panicked with it held left it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
