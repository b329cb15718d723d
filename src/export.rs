//! What a runtime counts, for the recorder of the `metrics` crate.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit, with_recorder};

use crate::bound::Bound;
use crate::core::Core;
use crate::latency::Latency;
use crate::parker::{Parker, Unparker};
use crate::runtime::Runtime;
use crate::snapshot::Snapshot;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::unwind::guard;

/// Publishes what a runtime counts to the recorder of the `metrics` crate: to the one that is in force on the thread
/// that calls [`publish`](Self::publish), else to the program's, else to nobody.
///
/// The runtime counts for itself and does nothing for the recorder while it handles records: an exporter takes a
/// [`Snapshot`] now and then and tells the recorder what is new in it. One exporter a runtime and recorder, or
/// everything is told twice. Labels are few: the subscription, a reason, a bound; never a key.
///
/// | name | kind | unit | labels | what |
/// |---|---|---|---|---|
/// | `keylane_handled_total` | counter | count | subscription | records handled |
/// | `keylane_failed_attempts_total` | counter | count | subscription | attempts that failed |
/// | `keylane_retries_total` | counter | count | subscription | attempts that failed and were put off |
/// | `keylane_panics_total` | counter | count | subscription | attempts that panicked |
/// | `keylane_timeouts_total` | counter | count | subscription | attempts that passed their deadline |
/// | `keylane_overruns_total` | counter | count | subscription | sync attempts that ran longer than `overrun` |
/// | `keylane_dead_lettered_total` | counter | count | subscription | records in the dead letters |
/// | `keylane_followed_total` | counter | count | subscription | records in the dead letters behind a parked key |
/// | `keylane_skipped_total` | counter | count | subscription | records that were passed over |
/// | `keylane_stopped_total` | counter | count | subscription | records that stopped their subscription or source |
/// | `keylane_abandoned_total` | counter | count | subscription | records given back unfinished |
/// | `keylane_redelivered_total` | counter | count | subscription | records that a bus has delivered again |
/// | `keylane_refused_total` | counter | count | subscription, reason | records not taken: `full`, `closed`, `stopped`, `invalid_key`, `no_key` |
/// | `keylane_publishes_total` | counter | count | result | publishes: `confirmed`, `full`, `unknown`, `failed` |
/// | `keylane_stale_total` | counter | count | | deliveries that ended after their source had been given up |
/// | `keylane_attempts_total` | counter | count | | attempts started by workers |
/// | `keylane_visits_total` | counter | count | | visits of workers to lanes |
/// | `keylane_steals_total` | counter | count | | lanes taken over from other workers |
/// | `keylane_sleeps_total` | counter | count | | times that a worker went to sleep |
/// | `keylane_latency_seconds` | histogram | seconds | subscription | from the submit of a record to the end of the attempt that handled it, for one record in 128 |
/// | `keylane_in_flight` | gauge | count | | records in lanes and gates |
/// | `keylane_queued` | gauge | count | | records in lanes |
/// | `keylane_lane_depth_max` | gauge | count | | records in the fullest lane |
/// | `keylane_held` | gauge | count | | records in flight or waiting for their key |
/// | `keylane_busy_keys` | gauge | count | | keys that others wait for, or may |
/// | `keylane_parked_keys` | gauge | count | subscription | keys that are parked |
/// | `keylane_running` | gauge | count | subscription | pending futures and blocking calls |
/// | `keylane_source_lag` | gauge | count | subscription, source | offsets that the frontier of a source is behind the end of its partition, as its broker has said last |
/// | `keylane_source_window` | gauge | count | subscription, source | deliveries of a source above its frontier |
/// | `keylane_source_bytes` | gauge | bytes | subscription, source | bytes of the records of a source that are under way |
/// | `keylane_source_oldest_seconds` | gauge | seconds | subscription, source | how long the oldest unfinished record of a source is under way; 0 if none is |
/// | `keylane_source_commit_age_seconds` | gauge | seconds | subscription, source | how long ago a source was committed; since its assignment began, if it was not |
/// | `keylane_letter_outage` | gauge | count | subscription | 1 while dead letters of a subscription are not taken, else 0 |
/// | `keylane_source_absorbed_total` | counter | count | subscription, source | deliveries that were no news and were not run |
/// | `keylane_source_stale_total` | counter | count | subscription, source | deliveries of a source that ended after their assignment had |
/// | `keylane_source_barriers_total` | counter | count | subscription, source | times that a source read nothing new until it knew what it might have lost, or was handed over |
/// | `keylane_source_reconnects_total` | counter | count | subscription, source | times that the broker of a source was reached again |
/// | `keylane_oldest_waiting_seconds` | gauge | seconds | | how long the key has been busy that has held up others longest; 0 if none has |
/// | `keylane_workers` | gauge | count | state | workers: `running` a handler, `asleep`, `awake` |
/// | `keylane_worker_lanes_max` | gauge | count | | lanes that wait for the worker with the most of them |
/// | `keylane_spares` | gauge | count | | spare workers that were started |
/// | `keylane_blocking_threads` | gauge | count | | threads that run blocking handlers |
/// | `keylane_blocking_waiting` | gauge | count | | blocking calls that wait for a thread |
/// | `keylane_bound_used` | gauge | count | bound | 1 while a bound is used up, else 0 |
///
/// ```
/// use keylane::{Exporter, Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let orders = runtime.subscribe(Subscription::new("orders"), |_: &Record| Ok(()))?;
/// orders.submit_tracked(Record::new("order-42", "paid"))?.wait()?;
/// let mut exporter = Exporter::new(&runtime).label("service", "billing");
/// exporter.publish(); // now, to the recorder in force here
/// let exporting = exporter.every(std::time::Duration::from_secs(10))?; // and then by itself
/// drop(exporting); // until here, or until the runtime ends
/// # runtime.close(std::time::Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Exporter {
    core: Arc<Core>,
    labels: Vec<Label>,
    /// What was told of each counter.
    told: HashMap<Key, u64>,
    /// Samples that were told, by subscription.
    sampled: HashMap<String, Latency>,
    /// Which subscription of a name was told of.
    generations: HashMap<String, u32>,
}

/// A thread that publishes now and then. Dropped, it is told to end.
#[must_use = "it ends when it is dropped"]
pub struct Exporting {
    stopped: Arc<AtomicBool>,
    thread: Unparker,
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    what: &'static str,
}

macro_rules! metrics {
    ($($const:ident $kind:ident $unit:ident $name:literal $what:literal;)+) => {
        $(const $const: Metric =
            Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, what: $what };)+
        const ALL: &[&Metric] = &[$(&$const),+];
    };
}

metrics! {
    HANDLED Counter Count "keylane_handled_total" "records handled";
    FAILED Counter Count "keylane_failed_attempts_total" "attempts that failed";
    RETRIES Counter Count "keylane_retries_total" "attempts that failed and were put off";
    PANICS Counter Count "keylane_panics_total" "attempts that panicked";
    TIMEOUTS Counter Count "keylane_timeouts_total" "attempts that passed their deadline";
    OVERRUNS Counter Count "keylane_overruns_total" "sync attempts that ran longer than `overrun`";
    DEAD_LETTERED Counter Count "keylane_dead_lettered_total" "records in the dead letters";
    FOLLOWED Counter Count "keylane_followed_total" "records in the dead letters behind a parked key";
    SKIPPED Counter Count "keylane_skipped_total" "records that were passed over";
    STOPPED Counter Count "keylane_stopped_total" "records that stopped their subscription or source";
    ABANDONED Counter Count "keylane_abandoned_total" "records given back unfinished";
    REDELIVERED Counter Count "keylane_redelivered_total" "records that a bus has delivered again";
    REFUSED Counter Count "keylane_refused_total" "records not taken";
    PUBLISHES Counter Count "keylane_publishes_total" "publishes";
    STALE Counter Count "keylane_stale_total" "deliveries that ended after their source had been given up";
    ATTEMPTS Counter Count "keylane_attempts_total" "attempts started by workers";
    VISITS Counter Count "keylane_visits_total" "visits of workers to lanes";
    STEALS Counter Count "keylane_steals_total" "lanes taken over from other workers";
    SLEEPS Counter Count "keylane_sleeps_total" "times that a worker went to sleep";
    LATENCY Histogram Seconds "keylane_latency_seconds" "from the submit of a record to the end of the attempt that handled it";
    IN_FLIGHT Gauge Count "keylane_in_flight" "records in lanes and gates";
    QUEUED Gauge Count "keylane_queued" "records in lanes";
    DEPTH_MAX Gauge Count "keylane_lane_depth_max" "records in the fullest lane";
    HELD Gauge Count "keylane_held" "records in flight or waiting for their key";
    BUSY_KEYS Gauge Count "keylane_busy_keys" "keys that others wait for, or may";
    PARKED_KEYS Gauge Count "keylane_parked_keys" "keys that are parked";
    RUNNING Gauge Count "keylane_running" "pending futures and blocking calls";
    SOURCE_LAG Gauge Count "keylane_source_lag" "offsets that the frontier of a source is behind the end of its partition, as its broker has said last";
    SOURCE_WINDOW Gauge Count "keylane_source_window" "deliveries of a source above its frontier";
    SOURCE_BYTES Gauge Bytes "keylane_source_bytes" "bytes of the records of a source that are under way";
    SOURCE_OLDEST Gauge Seconds "keylane_source_oldest_seconds" "how long the oldest unfinished record of a source is under way; 0 if none is";
    SOURCE_COMMIT Gauge Seconds "keylane_source_commit_age_seconds" "how long ago a source was committed; since its assignment began, if it was not";
    LETTER_OUTAGE Gauge Count "keylane_letter_outage" "1 while dead letters of a subscription are not taken, else 0";
    ABSORBED Counter Count "keylane_source_absorbed_total" "deliveries that were no news and were not run";
    SOURCE_STALE Counter Count "keylane_source_stale_total" "deliveries of a source that ended after their assignment had";
    BARRIERS Counter Count "keylane_source_barriers_total" "times that a source read nothing new until it knew what it might have lost, or was handed over";
    RECONNECTS Counter Count "keylane_source_reconnects_total" "times that the broker of a source was reached again";
    OLDEST Gauge Seconds "keylane_oldest_waiting_seconds" "how long the key has been busy that has held up others longest";
    WORKERS Gauge Count "keylane_workers" "workers by state";
    WORKER_LANES Gauge Count "keylane_worker_lanes_max" "lanes that wait for the worker with the most of them";
    SPARES Gauge Count "keylane_spares" "spare workers that were started";
    THREADS Gauge Count "keylane_blocking_threads" "threads that run blocking handlers";
    WAITING Gauge Count "keylane_blocking_waiting" "blocking calls that wait for a thread";
    BOUND_USED Gauge Count "keylane_bound_used" "1 while a bound is used up";
}

const METADATA: Metadata<'static> = Metadata::new("keylane", Level::INFO, Some("keylane"));

impl Exporter {
    /// Of this runtime. It does not keep the runtime from ending.
    pub fn new(runtime: &Runtime) -> Self {
        let core = runtime.core().clone();
        let (told, sampled, generations) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { core, labels: Vec::new(), told, sampled, generations }
    }

    /// Adds a label to every metric: where a program has several runtimes, for one.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(Label::new(name.into(), value.into()));
        self
    }

    /// Tells the recorder what there is to tell now. As [`Runtime::snapshot`], this may take a moment.
    pub fn publish(&mut self) {
        self.forget();
        let snapshot = Snapshot::of(&self.core);
        with_recorder(|recorder| {
            describe(recorder);
            let mut to = Telling { recorder, exporter: self };
            to.subscriptions(&snapshot);
            to.counters(&snapshot);
            to.gauges(&snapshot);
        });
    }

    /// Forgets what was told of subscriptions that are gone: another of the same name begins anew.
    fn forget(&mut self) {
        let table = self.core.registry.load();
        let entries = table.subscriptions.iter().flatten();
        let live: HashMap<_, _> =
            entries.map(|entry| (entry.name.to_string(), entry.generation)).collect();
        let stays =
            |name: &str| self.generations.get(name).is_some_and(|g| live.get(name) == Some(g));
        self.sampled.retain(|name, _| stays(name));
        self.told.retain(|key, _| {
            let name = key.labels().find(|label| label.key() == "subscription");
            name.is_none_or(|name| stays(name.value()))
        });
        self.generations = live;
    }

    /// Publishes at once and then every `interval` of the runtime's clock, on a thread of its own, until the runtime has
    /// ended or what this returns is dropped. The recorder is then the program's. One that panics ends it.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn every(mut self, interval: Duration) -> std::io::Result<Exporting> {
        let parker = Parker::new();
        let (thread, stopped) = (parker.unparker(), Arc::new(AtomicBool::new(false)));
        let exporting = Exporting { stopped: stopped.clone(), thread: thread.clone() };
        let core = self.core.clone();
        // Woken when the runtime ends.
        core.loops.lock().push(thread.clone());
        let run = {
            let core = core.clone();
            let thread = thread.clone();
            move || {
                let mut next = core.clock.now();
                // Acquire pairs with the release in `Exporting`'s drop.
                while !stopped.load(Ordering::Acquire) && !core.exits() {
                    let now = core.clock.now();
                    if now >= next {
                        next = now.after(interval);
                        if guard(|| self.publish()).is_err() {
                            break;
                        }
                    }
                    parker.park_until(&*core.clock, Some(next));
                }
                core.loops.lock().retain(|other| !other.is_same(&thread));
            }
        };
        let started = core.spawner.spawn("met", run);
        if started.is_err() {
            core.loops.lock().retain(|other| !other.is_same(&thread));
        }
        started.map(|()| exporting)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl fmt::Debug for Exporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporting").finish_non_exhaustive()
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Says what each metric is.
fn describe(recorder: &dyn Recorder) {
    for metric in ALL {
        let name = KeyName::from_const_str(metric.name);
        let (unit, what) = (Some(metric.unit), SharedString::const_str(metric.what));
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, unit, what),
            Kind::Gauge => recorder.describe_gauge(name, unit, what),
            Kind::Histogram => recorder.describe_histogram(name, unit, what),
        }
    }
}

/// One publish.
struct Telling<'a> {
    recorder: &'a dyn Recorder,
    exporter: &'a mut Exporter,
}

impl Telling<'_> {
    fn subscriptions(&mut self, snapshot: &Snapshot) {
        for subscription in &snapshot.subscriptions {
            let name = subscription.name.as_str();
            let own = [("subscription", name)];
            let counts = &subscription.counts;
            for (metric, count) in [
                (&HANDLED, counts.handled.unwrap_or(0)),
                (&FAILED, counts.failed),
                (&RETRIES, counts.retries),
                (&PANICS, counts.panics),
                (&TIMEOUTS, counts.timeouts),
                (&OVERRUNS, counts.overruns),
                (&DEAD_LETTERED, counts.dead_lettered),
                (&FOLLOWED, counts.parked),
                (&SKIPPED, counts.skipped),
                (&STOPPED, counts.stopped),
                (&ABANDONED, counts.abandoned),
                (&REDELIVERED, counts.redelivered),
            ] {
                self.count(metric, &own, count);
            }
            let refused = &counts.refused;
            for (reason, count) in [
                ("full", refused.full),
                ("closed", refused.closed),
                ("stopped", refused.stopped),
                ("invalid_key", refused.invalid_key),
                ("no_key", refused.no_key),
            ] {
                self.count(&REFUSED, &[own[0], ("reason", reason)], count);
            }
            self.set(&PARKED_KEYS, &own, subscription.parked_keys as f64);
            self.set(&RUNNING, &own, subscription.running as f64);
            let outage = subscription.letter_outage.is_some();
            self.set(&LETTER_OUTAGE, &own, f64::from(u8::from(outage)));
            self.samples(name, subscription.latency.as_ref());
        }
    }

    fn counters(&mut self, snapshot: &Snapshot) {
        let publishes = &snapshot.publishes;
        for (result, count) in [
            ("confirmed", publishes.confirmed),
            ("full", publishes.full),
            ("unknown", publishes.unknown),
            ("failed", publishes.failed),
        ] {
            self.count(&PUBLISHES, &[("result", result)], count);
        }
        self.count(&STALE, &[], snapshot.outcomes.stale);
        let workers = &snapshot.workers;
        self.count(&ATTEMPTS, &[], workers.iter().map(|worker| worker.attempts).sum());
        self.count(&VISITS, &[], workers.iter().map(|worker| worker.visits).sum());
        self.count(&STEALS, &[], workers.iter().map(|worker| worker.steals).sum());
        self.count(&SLEEPS, &[], workers.iter().map(|worker| worker.parks).sum());
    }

    fn gauges(&mut self, snapshot: &Snapshot) {
        let lanes = &snapshot.lanes;
        let sum = |of: fn(&crate::snapshot::LaneSnapshot) -> usize| {
            lanes.iter().map(of).sum::<usize>() as f64
        };
        self.set(&IN_FLIGHT, &[], snapshot.in_flight as f64);
        self.set(&QUEUED, &[], sum(|lane| lane.depth));
        self.set(&HELD, &[], sum(|lane| lane.held));
        self.set(&BUSY_KEYS, &[], sum(|lane| lane.keys));
        let deepest = lanes.iter().map(|lane| lane.depth).max().unwrap_or(0);
        self.set(&DEPTH_MAX, &[], deepest as f64);
        let oldest = snapshot.oldest.as_ref().map_or(Duration::ZERO, |key| key.held_for);
        self.set(&OLDEST, &[], oldest.as_secs_f64());
        for source in &snapshot.sources {
            let own = [("subscription", source.subscription.as_str()), ("source", &source.name)];
            self.set(&SOURCE_LAG, &own, source.lag as f64);
            self.set(&SOURCE_WINDOW, &own, source.window as f64);
            self.set(&SOURCE_BYTES, &own, source.bytes as f64);
            let oldest = source.oldest_age.unwrap_or_default();
            self.set(&SOURCE_OLDEST, &own, oldest.as_secs_f64());
            self.set(&SOURCE_COMMIT, &own, source.commit_age.as_secs_f64());
            for (metric, count) in [
                (&ABSORBED, source.absorbed),
                (&SOURCE_STALE, source.stale),
                (&BARRIERS, source.barriers),
                (&RECONNECTS, source.reconnects),
            ] {
                self.count(metric, &own, count);
            }
        }
        let workers = &snapshot.workers;
        let running = workers.iter().filter(|worker| worker.running.is_some()).count();
        let asleep = workers.iter().filter(|w| w.running.is_none() && w.asleep).count();
        let awake = workers.len() - running - asleep;
        for (state, count) in [("running", running), ("asleep", asleep), ("awake", awake)] {
            self.set(&WORKERS, &[("state", state)], count as f64);
        }
        let most = workers.iter().map(|worker| worker.waiting).max().unwrap_or(0);
        self.set(&WORKER_LANES, &[], f64::from(most));
        self.set(&SPARES, &[], snapshot.spares as f64);
        self.set(&THREADS, &[], snapshot.blocking.0 as f64);
        self.set(&WAITING, &[], snapshot.blocking.1 as f64);
        for (name, bound) in [
            ("key_waiting", Bound::KeyWaiting),
            ("lane_waiting", Bound::LaneWaiting),
            ("blocking_threads", Bound::BlockingThreads),
            ("source_window", Bound::SourceWindow),
            ("source_bytes", Bound::SourceBytes),
            ("parked_keys", Bound::ParkedKeys),
            ("spares", Bound::Spares),
        ] {
            let used = snapshot.bounds.iter().any(|used_up| used_up.bound == bound);
            self.set(&BOUND_USED, &[("bound", name)], f64::from(u8::from(used)));
        }
    }

    fn key(&self, metric: &Metric, labels: &[(&'static str, &str)]) -> Key {
        let own = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned()));
        let labels: Vec<_> = self.exporter.labels.iter().cloned().chain(own).collect();
        Key::from_parts(metric.name, labels)
    }

    /// Tells what was counted since the last time.
    fn count(&mut self, metric: &Metric, labels: &[(&'static str, &str)], count: u64) {
        let key = self.key(metric, labels);
        let counter = self.recorder.register_counter(&key, &METADATA);
        let told = self.exporter.told.insert(key, count).unwrap_or(0);
        counter.increment(count.saturating_sub(told));
    }

    fn set(&mut self, metric: &Metric, labels: &[(&'static str, &str)], value: f64) {
        let key = self.key(metric, labels);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    fn samples(&mut self, subscription: &str, latency: Option<&Latency>) {
        let key = self.key(&LATENCY, &[("subscription", subscription)]);
        let histogram = self.recorder.register_histogram(&key, &METADATA);
        let Some(latency) = latency else { return };
        let told = self.exporter.sampled.insert(subscription.to_owned(), latency.clone());
        let told = told.unwrap_or_default();
        for &(most, count) in &latency.buckets {
            let before = told.buckets.iter().find(|bucket| bucket.0 == most).map_or(0, |b| b.1);
            match usize::try_from(count.saturating_sub(before)) {
                Ok(0) | Err(_) => {}
                Ok(new) => histogram.record_many(most.as_secs_f64(), new),
            }
        }
    }
}
