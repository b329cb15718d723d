//! keylane as a user gets it: defaults, except for the number of workers, of lanes and of spare threads.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use keylane::{Config, Handled, Handler, Record, Runtime, Subscriber, Subscription};

use crate::arm::{About, Arm, Feed, Pool, Shape};
use crate::load::Item;
use crate::sink::Sink;

/// Records of a `submit_batch`: what one poll of a broker brings.
pub const RECORDS: usize = 500;

pub struct OneByOne;
pub struct Batches;

impl Arm for OneByOne {
    fn name(&self) -> &'static str {
        "keylane"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        about(shape, "submit")
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        Box::new(Ours::new(shape, sink, false))
    }
}

impl Arm for Batches {
    fn name(&self) -> &'static str {
        "keylane-batch"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        about(shape, "submit_batch of 500")
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        Box::new(Ours::new(shape, sink, true))
    }
}

fn about(shape: &Shape, way: &str) -> Result<About, String> {
    let Shape { lanes, workers, .. } = shape;
    if shape.own_best {
        let form = format!(
            "{lanes} lanes × 1,000, {way}, async handler that hands what blocks to 64 threads"
        );
        return Ok(About { threads: workers + BLOCKING, form });
    }
    Ok(About {
        threads: *workers,
        form: format!("{lanes} lanes × 1,000, {way}, sync handler, no spare threads"),
    })
}

/// Threads for what blocks, where the arm may choose.
const BLOCKING: usize = 64;

struct Ours {
    runtime: Runtime,
    subscriber: Subscriber,
    batches: bool,
    sleepers: Option<Arc<Sleepers>>,
}

impl Ours {
    fn new(shape: &Shape, sink: &Arc<Sink>, batches: bool) -> Self {
        let (runtime, sleepers) = (runtime(shape), shape.own_best.then(Sleepers::new));
        let sink = sink.clone();
        let handler = match sleepers.clone() {
            None => Handler::sync(move |record| {
                sink.handle(record.payload());
                Ok(())
            }),
            Some(sleepers) => Handler::future(move |record| {
                let blocks = sink.see(record.payload());
                let (sink, sleepers) = (sink.clone(), sleepers.clone());
                async move {
                    if blocks {
                        sleepers.sleep().await;
                    }
                    sink.count();
                    Handled::Ok(())
                }
            }),
        };
        let subscriber = runtime.subscribe_handler(Subscription::new("orders"), handler);
        Self { runtime, subscriber: subscriber.expect("subscribed"), batches, sleepers }
    }
}

/// A runtime for a round. It may start spare threads only where every arm may have as many as it likes.
fn runtime(shape: &Shape) -> Runtime {
    let config = Config::default().workers(shape.workers).lanes(shape.lanes);
    let config = if shape.own_best { config } else { config.spares(0) };
    Runtime::builder().config(config).build().expect("a runtime")
}

impl Pool for Ours {
    fn feed(&self, _: usize) -> Box<dyn Feed + '_> {
        if self.batches {
            Box::new(Batch { subscriber: &self.subscriber, records: Vec::with_capacity(RECORDS) })
        } else {
            Box::new(&self.subscriber)
        }
    }

    fn stop(self: Box<Self>) {
        let report = self.runtime.close(Duration::from_secs(10)).expect("closed");
        assert!(report.drained, "something was left");
        if let Some(sleepers) = self.sleepers {
            sleepers.end();
        }
    }
}

#[inline]
fn record(item: Item, stamp: u64) -> Record {
    Record::new(item.key(), item.payload(stamp))
}

/// Until it is taken: a lane that stays full for half a second gives the record back.
#[inline]
fn submit(subscriber: &Subscriber, mut record: Record) {
    while let Err(refused) = subscriber.submit(record) {
        assert!(refused.is_retryable(), "{refused}");
        record = refused.into_record();
    }
}

impl Feed for &Subscriber {
    #[inline]
    fn one(&mut self, item: Item, stamp: u64) {
        submit(self, record(item, stamp));
    }
}

struct Batch<'a> {
    subscriber: &'a Subscriber,
    records: Vec<Record>,
}

impl Feed for Batch<'_> {
    fn one(&mut self, item: Item, stamp: u64) {
        submit(self.subscriber, record(item, stamp));
    }

    fn all(&mut self, items: &[Item]) {
        for items in items.chunks(RECORDS) {
            self.records.extend(items.iter().map(|&item| record(item, 0)));
            // What a full lane gives back stays in front, in order.
            while !self.records.is_empty() {
                let _ = self.subscriber.submit_batch(&mut self.records);
            }
        }
    }
}

/// Threads that sleep for async handlers.
struct Sleepers {
    waiting: Mutex<(Vec<Arc<Nap>>, bool)>,
    work: Condvar,
}

#[derive(Default)]
struct Nap {
    state: Mutex<(bool, Option<std::task::Waker>)>,
}

impl Sleepers {
    fn new() -> Arc<Self> {
        let sleepers = Arc::new(Self { waiting: Mutex::default(), work: Condvar::new() });
        for _ in 0..BLOCKING {
            let sleepers = sleepers.clone();
            std::thread::spawn(move || sleepers.run());
        }
        sleepers
    }

    fn run(&self) {
        loop {
            let mut waiting = self.waiting.lock().expect("nobody panics");
            let nap = loop {
                match (waiting.0.pop(), waiting.1) {
                    (Some(nap), _) => break nap,
                    (None, true) => return,
                    _ => waiting = self.work.wait(waiting).expect("nobody panics"),
                }
            };
            drop(waiting);
            std::thread::sleep(Duration::from_millis(1));
            let mut state = nap.state.lock().expect("nobody panics");
            state.0 = true;
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        }
    }

    async fn sleep(&self) {
        let nap = Arc::new(Nap::default());
        self.waiting.lock().expect("nobody panics").0.push(nap.clone());
        self.work.notify_one();
        std::future::poll_fn(|context| {
            let mut state = nap.state.lock().expect("nobody panics");
            if state.0 {
                return std::task::Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }

    fn end(&self) {
        self.waiting.lock().expect("nobody panics").1 = true;
        self.work.notify_all();
    }
}
