//! What the recorder of the `metrics` crate is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "metrics", feature = "testing"))]

#[path = "support/lifecycle.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keylane::memory::MemoryBus;
use keylane::testing::{VirtualClock, settle};
use keylane::{Config, Exporter, HandlerError, Letter, Record, Retry, Runtime, Subscription};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use parking_lot::Mutex;
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// A name and its labels.
type Labelled = (String, Vec<(String, String)>);

/// A recorder that remembers what it was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    described: BTreeMap<String, (&'static str, Option<Unit>)>,
    /// Name and labels, and the value: of a histogram how many samples.
    values: BTreeMap<Labelled, f64>,
    kinds: BTreeMap<String, &'static str>,
    samples: Vec<f64>,
}

struct Series(Told, Labelled);

impl Series {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.0.0.lock().values.entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Series {
    fn increment(&self, value: u64) {
        self.change(|kept| *kept += value as f64);
    }
    fn absolute(&self, _: u64) {
        unreachable!("an exporter tells differences");
    }
}

impl GaugeFn for Series {
    fn increment(&self, _: f64) {
        unreachable!("an exporter sets gauges");
    }
    fn decrement(&self, _: f64) {
        unreachable!("an exporter sets gauges");
    }
    fn set(&self, value: f64) {
        self.change(|kept| *kept = value);
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        self.change(|kept| *kept += 1.0);
        self.0.0.lock().samples.push(value);
    }
}

impl Told {
    fn series(&self, kind: &'static str, key: &Key) -> Arc<Series> {
        let name = key.name().to_owned();
        let labels = key.labels().map(|l| (l.key().to_owned(), l.value().to_owned())).collect();
        let mut memory = self.0.lock();
        memory.kinds.insert(name.clone(), kind);
        memory.values.entry((name.clone(), labels)).or_default();
        let labels = key.labels().map(|l| (l.key().to_owned(), l.value().to_owned())).collect();
        Arc::new(Series(self.clone(), (name, labels)))
    }

    /// The value of the one series of this name whose labels have these values.
    #[track_caller]
    fn value(&self, name: &str, labels: &[&str]) -> f64 {
        let memory = self.0.lock();
        let found: Vec<_> = memory
            .values
            .iter()
            .filter(|((own, pairs), _)| {
                own == name && labels.iter().all(|label| pairs.iter().any(|pair| pair.1 == *label))
            })
            .collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        *found[0].1
    }
}

impl Recorder for Told {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.0.lock().described.insert(name.as_str().to_owned(), ("counter", unit));
    }
    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.0.lock().described.insert(name.as_str().to_owned(), ("gauge", unit));
    }
    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.0.lock().described.insert(name.as_str().to_owned(), ("histogram", unit));
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series("counter", key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series("gauge", key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.series("histogram", key))
    }
}

fn publish(exporter: &mut Exporter, told: &Told) {
    metrics::with_local_recorder(told, || exporter.publish());
}

fn fails(_: &Record) -> Result<(), HandlerError> {
    Err("no luck".into())
}

#[test]
fn the_table_says_what_is_registered() {
    // A source, so that what is said of sources is said.
    let runtime = narrow(100).build().unwrap();
    let bus = MemoryBus::new(&runtime).unwrap();
    let _s = bus.subscribe("orders", Subscription::new("s"), |_: &Record| Ok(())).wait().unwrap();
    bus.publish("orders", Record::new("k", "v")).wait().unwrap();
    settle(&runtime);
    let told = Told::default();
    publish(&mut Exporter::new(&runtime), &told);
    let memory = told.0.lock();
    let mut registered: BTreeMap<String, (String, String, BTreeSet<String>)> = BTreeMap::new();
    for (name, labels) in memory.values.keys() {
        let (kind, unit) = memory.described[name];
        assert_eq!(kind, memory.kinds[name], "{name}");
        let unit = unit.unwrap().as_str().to_owned();
        let entry = registered
            .entry(name.clone())
            .or_insert_with(|| (kind.to_owned(), unit, BTreeSet::new()));
        entry.2.extend(labels.iter().map(|label| label.0.clone()));
    }
    assert_eq!(memory.described.len(), registered.len(), "what is described is registered");
    for file in ["src/export.rs", "README.md"] {
        let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR")));
        assert_eq!(table(&text.unwrap()), registered, "{file}");
    }
    runtime.stop_now();
}

/// The rows that begin with a metric's name: its kind, unit and labels.
fn table(text: &str) -> BTreeMap<String, (String, String, BTreeSet<String>)> {
    let rows = text.lines().filter_map(|line| {
        let line = line.trim_start_matches("/// ");
        let cells: Vec<_> = line.strip_prefix("| `keylane_")?.split('|').map(str::trim).collect();
        let [name, kind, unit, labels, what, ..] = cells[..] else { panic!("{line}") };
        assert!(!what.is_empty(), "{line}");
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
        let name = format!("keylane_{}", name.trim_end_matches('`'));
        Some((name, (kind.to_owned(), unit.to_owned(), labels.collect())))
    });
    rows.collect()
}

#[test]
fn what_happens_is_told_once_by_subscription() {
    let clock = VirtualClock::new();
    let runtime = narrow(1_000).clock(clock.clone()).on_notice(|_| ()).build().unwrap();
    let good = runtime.subscribe(Subscription::new("good"), |_: &Record| Ok(())).unwrap();
    let parks = Subscription::new("parks").retry(Retry::fixed(SECOND).attempts(2));
    let parks = parks.dead_letter_to(|_: &Letter| Ok(())).park_key();
    let parks = runtime.subscribe(parks, fails).unwrap();
    let hangs = Subscription::new("hangs").deadline(SECOND).skip();
    let hangs = runtime.subscribe_async(hangs, |_| std::future::pending()).unwrap();
    let panics = Subscription::new("panics").skip();
    let panics = runtime.subscribe(panics, |_: &Record| panic!("oh")).unwrap();
    let told = Told::default();
    let mut exporter = Exporter::new(&runtime).label("service", "billing");
    publish(&mut exporter, &told);
    assert_eq!(told.value("keylane_handled_total", &["good", "billing"]), 0.0);

    (0..640).for_each(|n| good.submit(numbered("k", n)).unwrap());
    (0..3).for_each(|n| parks.submit(numbered("k", n)).unwrap());
    hangs.submit(numbered("k", 0)).unwrap();
    panics.submit(numbered("k", 0)).unwrap();
    assert!(good.submit(Record::new("", "no key is empty")).is_err());
    settle(&runtime);
    publish(&mut exporter, &told);
    assert_eq!(told.value("keylane_busy_keys", &[]), 2.0, "one retries, one hangs");
    assert_eq!(told.value("keylane_running", &["hangs"]), 1.0);
    clock.advance(SECOND);
    settle(&runtime);
    publish(&mut exporter, &told);
    publish(&mut exporter, &told);
    let count = |name: &str, label| told.value(&format!("keylane_{name}"), &[label]);
    assert_eq!(count("handled_total", "good"), 640.0);
    assert_eq!(count("handled_total", "parks"), 0.0);
    assert_eq!(
        (count("failed_attempts_total", "parks"), count("retries_total", "parks")),
        (2.0, 1.0)
    );
    assert_eq!(
        (count("dead_lettered_total", "parks"), count("followed_total", "parks")),
        (1.0, 2.0)
    );
    assert_eq!((count("parked_keys", "parks"), count("parked_keys", "good")), (1.0, 0.0));
    assert_eq!((count("timeouts_total", "hangs"), count("skipped_total", "hangs")), (1.0, 1.0));
    assert_eq!((count("panics_total", "panics"), count("panics_total", "good")), (1.0, 0.0));
    assert_eq!(told.value("keylane_refused_total", &["good", "invalid_key"]), 1.0);
    assert_eq!(told.value("keylane_attempts_total", &[]), 640.0 + 2.0 + 1.0 + 1.0);
    // This thread's every 128th, whichever they were; only what is handled is timed.
    let sampled = count("latency_seconds", "good");
    assert!((4.0..=5.0).contains(&sampled), "{sampled}");
    assert_eq!(told.0.lock().samples.len(), sampled as usize);
    assert_eq!(runtime.snapshot().outcomes.done, 640);
    runtime.stop_now();
}

#[test]
fn gauges_and_bounds_follow_what_is_held() {
    let clock = VirtualClock::new();
    let config = Config::default().key_waiting(2);
    let runtime =
        Runtime::builder().config(config).lanes(1).slots(10).workers(1).clock(clock.clone());
    let runtime = runtime.build().unwrap();
    let flag = Flag::new();
    let raised = flag.clone();
    let s = runtime
        .subscribe_async(Subscription::new("s"), move |_| {
            let wait = raised.wait();
            async move {
                wait.await;
                Ok(())
            }
        })
        .unwrap();
    (0..5).for_each(|n| s.submit(numbered("k", n)).unwrap());
    settle(&runtime);
    clock.advance(3 * SECOND);
    let told = Told::default();
    let mut exporter = Exporter::new(&runtime);
    publish(&mut exporter, &told);
    let value = |name: &str| told.value(name, &[]);
    assert_eq!((value("keylane_in_flight"), value("keylane_held")), (5.0, 3.0));
    assert_eq!((value("keylane_queued"), value("keylane_lane_depth_max")), (2.0, 2.0));
    assert_eq!(value("keylane_oldest_waiting_seconds"), 3.0);
    assert_eq!(told.value("keylane_bound_used", &["key_waiting"]), 1.0);
    let workers =
        ["running", "asleep", "awake"].map(|state| told.value("keylane_workers", &[state]));
    assert_eq!(workers.iter().sum::<f64>(), 1.0);
    flag.raise();
    settle(&runtime);
    publish(&mut exporter, &told);
    assert_eq!((value("keylane_in_flight"), value("keylane_oldest_waiting_seconds")), (0.0, 0.0));
    assert_eq!(told.value("keylane_bound_used", &["key_waiting"]), 0.0);
    // Its successor begins anew, and is told in full.
    s.remove().wait().unwrap();
    let again = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
    (0..7).for_each(|n| again.submit(numbered("k", n)).unwrap());
    settle(&runtime);
    publish(&mut exporter, &told);
    assert_eq!(told.value("keylane_handled_total", &["s"]), 5.0 + 7.0);
    runtime.stop_now();
}

#[test]
fn what_a_bus_delivers_again_and_publishes_is_told() {
    let runtime = narrow(100).build().unwrap();
    let bus = MemoryBus::new(&runtime).unwrap();
    let flag = Flag::new();
    let raised = flag.clone();
    let waits = move |_| {
        let wait = raised.wait();
        async move {
            wait.await;
            Ok(())
        }
    };
    let _s = bus.subscribe_async("orders", Subscription::new("s"), waits).wait().unwrap();
    for n in 0..3 {
        bus.publish("orders", numbered("k", n)).wait().unwrap();
    }
    assert!(bus.publish("", numbered("k", 9)).wait().is_err());
    until("all are delivered", || runtime.snapshot().in_flight == 3);
    bus.crash_consumer("s").unwrap();
    let counts = || runtime.snapshot().subscriptions[0].counts;
    until("all are delivered again", || counts().redelivered == 3);
    flag.raise();
    until("all are finished", || bus.stored("orders") == 0);
    let told = Told::default();
    publish(&mut Exporter::new(&runtime), &told);
    assert_eq!(told.value("keylane_redelivered_total", &["s"]), 3.0);
    assert_eq!(told.value("keylane_publishes_total", &["confirmed"]), 3.0);
    assert_eq!(told.value("keylane_publishes_total", &["failed"]), 1.0);
    runtime.stop_now();
}

#[test]
fn an_exporter_on_its_own_thread_uses_the_program_s_recorder_and_ends_with_the_runtime() {
    let told = Told::default();
    // No other test in this file installs one.
    metrics::set_global_recorder(told.clone()).map_err(|_| ()).unwrap();
    let clock = VirtualClock::new();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let names = ended.clone();
    let runtime = narrow(10)
        .clock(clock.clone())
        .on_thread_stop(move |name| names.lock().push(name.to_owned()))
        .build()
        .unwrap();
    let s = runtime.subscribe(Subscription::new("threaded"), |_: &Record| Ok(())).unwrap();
    let exporter = Exporter::new(&runtime).label("runtime", "one");
    let exporting = exporter.every(10 * SECOND).unwrap();
    let handled = || {
        let memory = told.0.lock();
        let of = |((name, labels), value): (&Labelled, &f64)| {
            (name == "keylane_handled_total" && labels.iter().any(|l| l.1 == "threaded"))
                .then_some(*value)
        };
        memory.values.iter().find_map(of)
    };
    until("it is told at once", || handled() == Some(0.0));
    s.submit(numbered("k", 0)).unwrap();
    settle(&runtime);
    assert_eq!(handled(), Some(0.0), "the time has not come");
    until("it is told again", || {
        clock.advance(SECOND);
        handled() == Some(1.0)
    });
    let second = Exporter::new(&runtime).every(SECOND).unwrap();
    drop(exporting);
    let gone = |n| ended.lock().iter().filter(|name| name.contains("met")).count() == n;
    until("the first has ended", || gone(1));
    runtime.close(HANG).unwrap();
    until("the second has ended with the runtime", || gone(2));
    drop(second);
}
