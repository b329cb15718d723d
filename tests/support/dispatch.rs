//! What tests of dispatch share: runtimes of each shape, keys of one lane, waits that end, handlers' delays
//! that the test decides about.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use keylane::internals::Router;
use keylane::{
    Config, LaneHash, Outcome, Pinning, Receipt, Record, RecordRef, Runtime, Subscriber,
    Subscription,
};
use parking_lot::{Condvar, Mutex};

/// How long a test waits, in real time, for what must happen.
pub const LIMIT: Duration = if cfg!(keylane_weak = "whole_lane_waits") {
    Duration::from_secs(2)
} else {
    Duration::from_secs(60)
};

const SEED: u64 = 20_260_101;

/// Workers and lanes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub workers: usize,
    pub lanes: usize,
}

/// One and two workers, one lane and several.
pub const SHAPES: [Shape; 4] = [
    Shape { workers: 1, lanes: 1 },
    Shape { workers: 2, lanes: 1 },
    Shape { workers: 1, lanes: 8 },
    Shape { workers: 2, lanes: 8 },
];

impl Shape {
    pub fn config(self) -> Config {
        Config::default()
            .workers(self.workers)
            .lanes(self.lanes)
            .slots(4_096)
            .seed(SEED)
            .pinning(Pinning::Off)
    }

    pub fn runtime(self) -> Runtime {
        Runtime::builder().config(self.config()).build().unwrap()
    }

    /// Keys that a runtime's `nth` subscription (from 0) has in one lane, the same for all of them.
    pub fn keys_of(self, nth: u32, count: usize) -> Vec<String> {
        self.keys_in(nth, 0, count)
    }

    /// Keys that a runtime's `nth` subscription has in `lane`.
    pub fn keys_in(self, nth: u32, lane: u32, count: usize) -> Vec<String> {
        let router = Router::new(LaneHash::Rapid, Some(SEED), self.lanes as u32);
        let keys = (0..).map(|i| format!("key-{i}"));
        keys.filter(|key| router.route(nth, key.as_bytes()).lane == lane).take(count).collect()
    }

    /// Lays a stone into the lane of [`Shape::keys_of`], as the runtime's `nth` subscription.
    pub fn stone(self, runtime: &Runtime, nth: u32) -> Stone {
        let (holds, log) = (Holds::new(&["stone"]), Log::default());
        let (hold, logged) = (holds.handle(), log.clone());
        let stones = runtime
            .subscribe_async(Subscription::new("stone"), move |_: RecordRef| {
                let (hold, log) = (hold.clone(), logged.clone());
                async move {
                    log.add("lies");
                    hold.pass("stone").await;
                    Ok(())
                }
            })
            .unwrap();
        let receipt = submit(&stones, &self.keys_of(nth, 1)[0], "stone");
        until("the stone lies", || log.has("lies"));
        Stone { receipt, holds }
    }
}

/// A record whose key is busy until it is lifted: what its lane handles meanwhile has passed it.
#[must_use = "it is lifted where it is dropped"]
pub struct Stone {
    receipt: Receipt,
    holds: Holds,
}

impl Stone {
    /// Lets the stone's record end, which must not have ended before.
    #[track_caller]
    pub fn lift(self) {
        assert_eq!(self.receipt.outcome(), None, "it lay there all the while");
        self.holds.open("stone");
        all_done([&self.receipt]);
    }
}

/// Runs a test in each shape.
pub fn each_shape(test: impl Fn(Shape)) {
    for shape in SHAPES {
        println!("{shape:?}");
        test(shape);
    }
}

/// Waits until `done` holds. Panics if that takes too long.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "never came: {what}");
        std::thread::yield_now();
    }
}

/// How the record ended, whatever clock the runtime has.
#[track_caller]
pub fn ended(receipt: &Receipt) -> Outcome {
    let mut outcome = None;
    until("an outcome", || {
        outcome = receipt.outcome();
        outcome.is_some()
    });
    outcome.unwrap()
}

#[track_caller]
pub fn all_done<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) {
    for receipt in receipts {
        assert_eq!(ended(receipt), Outcome::Done);
    }
}

/// Submits a record whose payload is its name.
#[track_caller]
pub fn submit(subscriber: &Subscriber, key: &str, name: &str) -> Receipt {
    subscriber.submit_tracked(Record::new(key, name)).unwrap()
}

/// A record's payload as text.
pub fn name_of(record: &Record) -> String {
    String::from_utf8_lossy(record.payload()).into_owned()
}

/// What handlers did, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, entry: impl Into<String>) {
        self.0.lock().push(entry.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn has(&self, entry: &str) -> bool {
        self.0.lock().iter().any(|known| known == entry)
    }

    /// Those that begin like this, in order.
    pub fn of(&self, prefix: &str) -> Vec<String> {
        self.all().into_iter().filter(|entry| entry.starts_with(prefix)).collect()
    }
}

/// Delays that the test ends, by name. All end when the test does, so that no thread is left behind.
#[derive(Default)]
pub struct Holds(Arc<Held>);

#[derive(Default)]
struct Held {
    state: Mutex<HoldState>,
    changed: Condvar,
}

#[derive(Default)]
struct HoldState {
    open: HashMap<String, bool>,
    all: bool,
    wakers: Vec<Waker>,
}

impl HoldState {
    fn is_open(&self, name: &str) -> bool {
        self.all || self.open.get(name).copied().unwrap_or(true)
    }
}

/// A handler's side of [`Holds`].
#[derive(Clone)]
pub struct Hold(Arc<Held>);

impl Holds {
    /// These names are held up; all others are not.
    pub fn new(names: &[&str]) -> Self {
        let holds = Self::default();
        holds.0.state.lock().open = names.iter().map(|name| ((*name).to_owned(), false)).collect();
        holds
    }

    pub fn handle(&self) -> Hold {
        Hold(self.0.clone())
    }

    /// Lets one go.
    pub fn open(&self, name: &str) {
        self.handle().open(name);
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        self.0.state.lock().all = true;
        self.handle().notify();
    }
}

impl Hold {
    pub fn open(&self, name: &str) {
        self.0.state.lock().open.insert(name.to_owned(), true);
        self.notify();
    }

    fn notify(&self) {
        self.0.changed.notify_all();
        let wakers = std::mem::take(&mut self.0.state.lock().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Blocks the thread while the name is held up.
    pub fn block(&self, name: &str) {
        let mut state = self.0.state.lock();
        while !state.is_open(name) {
            self.0.changed.wait(&mut state);
        }
    }

    /// Is pending while the name is held up.
    pub async fn pass(&self, name: &str) {
        poll_fn(|cx| {
            let mut state = self.0.state.lock();
            if state.is_open(name) {
                return Poll::Ready(());
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Pseudo-random numbers (splitmix64) from a seed that is printed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `KL_SEED`, or the time.
    pub fn seeded() -> Self {
        let given = std::env::var("KL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(1, |since| since.as_nanos() as u64)
        });
        println!("KL_SEED={seed}");
        Self(seed)
    }

    /// One that depends on this and on `of` only.
    pub fn fork(&self, of: u64) -> Self {
        Self(Self(self.0 ^ of.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Says nothing of panics that a test has planned: their message begins with "planned".
pub fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or_default();
            if !text.starts_with("planned") {
                before(info);
            }
        }));
    });
}
