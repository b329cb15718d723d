//! Runtimes under load: one producer, at most 2,048 records in flight, records made in the timed loop.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keylane::memory::MemoryBus;
use keylane::{Handler, Record, Runtime, Subscriber, Subscription};

use crate::load::{Check, Handled, Load, read};

/// Records in flight at most.
pub const WINDOW: u64 = 2_048;
/// Records of a batch.
pub const BATCH: u64 = 500;
/// Submits between two looks at how many are in flight.
const STRETCH: u64 = 64;

/// How records get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `submit`, each.
    OneByOne,
    /// `submit_batch` of 500.
    Batches,
    /// `submit_tracked`, each; receipts are waited for a window later.
    Tracked,
    /// `submit`, each, to an async handler that is ready at once.
    Ready,
    /// Published to the memory bus, each; confirmations are waited for a window later.
    Bus,
}

/// A default runtime (256 lanes) with a no-op handler, and the load for it.
pub struct Bed {
    runtime: Runtime,
    subscriber: Subscriber,
    bus: Option<MemoryBus>,
    way: Way,
    load: Load,
    handled: Arc<Handled>,
    sent: u64,
    batch: Vec<Record>,
}

impl Bed {
    /// With `workers` workers, and `burst` records to one lane in a row. First checks that this way of getting
    /// in loses nothing and keeps each key's order.
    ///
    /// # Panics
    /// If it does not.
    pub fn new(way: Way, workers: usize, burst: u64) -> Self {
        let check = Arc::new(Check::default());
        let seen = check.clone();
        let mut checked = Self::with(way, workers, burst, move |record| seen.see(record));
        let count = 20_000;
        checked.run(count);
        checked.close();
        check.assert(count);
        Self::with(way, workers, burst, read)
    }

    fn with(
        way: Way,
        workers: usize,
        burst: u64,
        handle: impl Fn(&Record) + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::builder().workers(workers).build().expect("a runtime");
        let handled = Arc::new(Handled::default());
        let count = handled.clone();
        let handler = match way {
            Way::Ready => {
                let handle = Arc::new(handle);
                Handler::future(move |record| {
                    let (handle, count) = (handle.clone(), count.clone());
                    async move {
                        handle(&record);
                        count.add();
                        Ok(())
                    }
                })
            }
            _ => Handler::sync(move |record| {
                handle(record);
                count.add();
                Ok(())
            }),
        };
        let policy = Subscription::new("orders");
        let (bus, subscriber) = match way {
            Way::Bus => {
                let bus = MemoryBus::new(&runtime).expect("a bus");
                let live = bus.subscribe_handler("orders", policy, handler).wait();
                let subscriber = live.expect("subscribed").subscriber().clone();
                (Some(bus), subscriber)
            }
            _ => (None, runtime.subscribe_handler(policy, handler).expect("subscribed")),
        };
        let load = Load::new(burst);
        let batch = Vec::with_capacity(BATCH as usize);
        Self { runtime, subscriber, bus, way, load, handled, sent: 0, batch }
    }

    /// Sends `count` records and waits until all are handled.
    pub fn run(&mut self, count: u64) {
        let end = self.sent + count;
        match self.way {
            Way::OneByOne | Way::Ready => self.stretches(end, |bed| {
                let record = bed.load.record();
                bed.subscriber.submit(record).expect("taken");
            }),
            Way::Batches => {
                while self.sent < end {
                    let many = BATCH.min(end - self.sent);
                    self.handled.wait((self.sent + many).saturating_sub(WINDOW));
                    let load = &mut self.load;
                    self.batch.extend((0..many).map(|_| load.record()));
                    self.subscriber.submit_batch(&mut self.batch).expect("taken");
                    self.sent += many;
                }
            }
            Way::Tracked => {
                let mut receipts = VecDeque::with_capacity(WINDOW as usize);
                self.stretches(end, |bed| {
                    if receipts.len() as u64 == WINDOW {
                        wait_for(receipts.pop_front());
                    }
                    let record = bed.load.record();
                    receipts.push_back(bed.subscriber.submit_tracked(record).expect("taken"));
                });
                receipts.into_iter().for_each(|receipt| wait_for(Some(receipt)));
            }
            Way::Bus => {
                let mut results = VecDeque::with_capacity(WINDOW as usize);
                self.stretches(end, |bed| {
                    if results.len() as u64 == WINDOW {
                        confirm(results.pop_front());
                    }
                    let record = bed.load.record();
                    results.extend(bed.bus.as_ref().map(|bus| bus.publish("orders", record)));
                });
                results.into_iter().for_each(|result| confirm(Some(result)));
            }
        }
        self.handled.wait(end);
    }

    fn stretches(&mut self, end: u64, mut send: impl FnMut(&mut Self)) {
        while self.sent < end {
            let many = STRETCH.min(end - self.sent);
            self.handled.wait((self.sent + many).saturating_sub(WINDOW));
            (0..many).for_each(|_| send(self));
            self.sent += many;
        }
    }

    /// How long `count` records take, from making the first to handling the last.
    pub fn time(&mut self, count: u64) -> Duration {
        let begin = Instant::now();
        self.run(count);
        begin.elapsed()
    }

    /// Closes it.
    ///
    /// # Panics
    /// If something was left.
    pub fn close(self) {
        if let Some(bus) = self.bus {
            let report = bus.close(Duration::from_secs(10)).wait().expect("closed");
            assert!(report.drained, "the bus left {} records", report.unfinished);
        }
        let report = self.runtime.close(Duration::from_secs(10)).expect("closed");
        assert!(report.drained);
    }
}

fn wait_for(receipt: Option<keylane::Receipt>) {
    if let Some(receipt) = receipt {
        assert!(receipt.wait().expect("an outcome").is_done());
    }
}

fn confirm(result: Option<keylane::Publishing>) {
    if let Some(result) = result {
        result.wait().expect("published");
    }
}

/// What the same records cost without a runtime: made, read, dropped.
pub fn nothing(load: &mut Load, handled: &Handled, count: u64) -> Duration {
    let begin = Instant::now();
    for _ in 0..count {
        let record = load.record();
        read(&record);
        handled.add();
    }
    begin.elapsed()
}
