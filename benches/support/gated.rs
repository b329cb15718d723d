//! One worker under a load that is the same in every run: the worker is held in a handler while records are put in,
//! then let go, and the producer sleeps until all are handled and the runtime's threads sleep again, which a thread of
//! its own watches for. Time stands still, so nothing else happens. What is left for instruction counts to vary with is
//! the system.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use keylane::testing::{VirtualClock, settle};
use keylane::{Config, Handler, Record, Runtime, Subscriber, Subscription};

use crate::load::read;

/// A place where two threads meet: a number that only grows, and sleeping until it is large enough.
#[derive(Default)]
struct Mark {
    reached: Mutex<u64>,
    moved: Condvar,
}

impl Mark {
    fn set(&self, to: u64) {
        *self.reached.lock().expect("nobody panics") = to;
        self.moved.notify_all();
    }

    fn wait(&self, until: u64) {
        let reached = self.reached.lock().expect("nobody panics");
        drop(self.moved.wait_while(reached, |reached| *reached < until).expect("nobody panics"));
    }
}

/// How far a load has come.
#[derive(Default)]
pub struct Marks {
    /// Rounds in which the worker has come to the gate, in which it was let go, and that are over.
    held: Mark,
    let_go: Mark,
    over: Mark,
    /// Rounds after which every thread of the runtime has gone to sleep.
    settled: Mark,
    /// Records of this round that are not handled yet; the worker's alone while a round lasts.
    left: AtomicU64,
}

impl Marks {
    /// With `count` records to be handled.
    pub fn holding(count: u64) -> Self {
        Self { left: AtomicU64::new(count), ..Self::default() }
    }

    /// One record is handled.
    #[inline]
    fn one(&self) {
        // One worker: a plain subtraction. The marks' locks carry it to and fro.
        let left = self.left.load(Ordering::Relaxed) - 1;
        self.left.store(left, Ordering::Relaxed);
        if left == 0 {
            self.last();
        }
    }

    #[cold]
    fn last(&self) {
        let round = *self.held.reached.lock().expect("nobody panics");
        self.over.set(round);
    }
}

/// What the handlers do with a record. A function of its own: what it costs alone is what it costs in a handler.
#[inline(never)]
pub fn handle(record: &Record, marks: &Marks) {
    read(record);
    marks.one();
}

/// The handler that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Calls [`handle`] and returns.
    Sync,
    /// The same, as a future that is ready at once.
    Ready,
}

/// A runtime of one worker, held and let go.
pub struct Gated {
    runtime: Runtime,
    gate: Subscriber,
    orders: Subscriber,
    /// For ever: handlers then need no count of who has it.
    marks: &'static Marks,
    kind: Kind,
    round: u64,
}

impl Gated {
    /// With `lanes` lanes.
    pub fn new(lanes: usize, kind: Kind) -> Self {
        let config = Config::default().lanes(lanes).spares(0).spin(Duration::ZERO).seed(7);
        let config = config.workers(1);
        let runtime = Runtime::builder().config(config).clock(VirtualClock::new()).build();
        let runtime = runtime.expect("a runtime");
        let marks: &Marks = Box::leak(Box::default());
        let gate = runtime.subscribe(Subscription::new("gate"), |record: &Record| {
            let round = crate::load::words(record).next().unwrap_or(0);
            marks.held.set(round);
            marks.let_go.wait(round);
            Ok(())
        });
        let orders = runtime.subscribe_handler(Subscription::new("orders"), handler(kind, marks));
        let (gate, orders) = (gate.expect("subscribed"), orders.expect("subscribed"));
        // Or a round would find the worker asleep or not, as chance has it, and wake it or not. Not the producer's
        // part: how long it takes to see them asleep is chance, too.
        let seen = runtime.clone();
        std::thread::spawn(move || {
            for round in 1.. {
                marks.over.wait(round);
                settle(&seen);
                marks.settled.set(round);
            }
        });
        Self { runtime, gate, orders, marks, kind, round: 0 }
    }

    /// Holds the worker while `put` puts `count` records in, then has them handled. All of the last round's are
    /// finished when `put` is called.
    pub fn round(&mut self, count: u64, put: impl FnOnce(&Subscriber)) {
        self.round += 1;
        let marks = self.marks;
        marks.left.store(count, Ordering::Relaxed);
        self.gate.submit(Record::new("gate", self.round.to_le_bytes())).expect("taken");
        marks.held.wait(self.round);
        put(&self.orders);
        marks.let_go.set(self.round);
        marks.settled.wait(self.round);
    }

    /// The runtime, for who listens to it.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A handler that does the same as the one there is, to be swapped in.
    pub fn handler(&self) -> Handler {
        handler(self.kind, self.marks)
    }
}

fn handler(kind: Kind, marks: &'static Marks) -> Handler {
    match kind {
        Kind::Sync => Handler::sync(move |record| {
            handle(record, marks);
            Ok(())
        }),
        Kind::Ready => Handler::future(move |record| async move {
            handle(&record, marks);
            Ok(())
        }),
    }
}
