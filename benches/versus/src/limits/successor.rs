//! How long after the end of a key's record its next one starts, where that waits already.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use keylane::{Handler, Record, Runtime, Subscription};
use serde_json::json;

use super::{figure, said};
use crate::histogram::Histogram;
use crate::load::now;
use crate::machine::rounds;
use crate::options::Options;
use crate::record::Recorder;

/// Records of the one key; so many wait at a time.
const COUNT: u64 = 4_000;
const WAITING: u64 = 50;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Sync,
    Ready,
    Pending,
    Blocking,
}

/// Where the end of one and the start of the next meet.
#[derive(Default)]
struct Meeting {
    /// When the last one ended (or, of a pending future, was woken); 0 before the first.
    ended: AtomicU64,
    handled: AtomicU64,
    between: Histogram,
    waker: Mutex<Option<Waker>>,
}

impl Meeting {
    fn start(&self) {
        let ended = self.ended.load(Ordering::Acquire);
        if ended != 0 {
            self.between.add(now().saturating_sub(ended));
        }
    }

    fn end(&self) {
        self.handled.fetch_add(1, Ordering::AcqRel);
        self.ended.store(now(), Ordering::Release);
    }
}

pub fn full(options: &Options, recorder: &mut Recorder) {
    recorder.title("\nfrom the end of a key's record to the start of its next (ns)");
    let kinds = [
        (Kind::Sync, "sync"),
        (Kind::Ready, "async, ready at once"),
        (Kind::Pending, "async, pending: from its wake"),
        (Kind::Blocking, "blocking"),
    ];
    for (kind, name) in kinds {
        let (turns, discarded) = rounds(options.rounds.unwrap_or(9), |_| round(kind));
        let of = |place: usize| turns.iter().map(|turn| turn[place]).collect::<Vec<f64>>();
        let line = json!({
            "table": "successor", "handler": name, "p50_ns": figure(&of(0)), "p99_ns": figure(&of(1)),
            "rounds": turns.len(), "discarded": discarded,
        });
        recorder.put(&line, &format!("  {name:<30} p50 {}  p99 {}", said(&of(0)), said(&of(1))));
    }
}

fn round(kind: Kind) -> [f64; 2] {
    let meeting = Arc::new(Meeting::default());
    let runtime = Runtime::builder().workers(1).build().expect("a runtime");
    let seen = meeting.clone();
    let handler = match kind {
        Kind::Sync => Handler::sync(move |_| {
            seen.start();
            seen.end();
            Ok(())
        }),
        Kind::Blocking => Handler::blocking(move |_| {
            seen.start();
            seen.end();
            Ok(())
        }),
        Kind::Ready => Handler::future(move |_| {
            seen.start();
            seen.end();
            std::future::ready(Ok(()))
        }),
        Kind::Pending => Handler::future(move |_| {
            seen.start();
            let (seen, mut polled) = (seen.clone(), false);
            std::future::poll_fn(move |context| {
                if std::mem::replace(&mut polled, true) {
                    seen.handled.fetch_add(1, Ordering::AcqRel);
                    return Poll::Ready(Ok(()));
                }
                *seen.waker.lock().expect("nobody panics") = Some(context.waker().clone());
                Poll::Pending
            })
        }),
    };
    let orders = runtime.subscribe_handler(Subscription::new("orders"), handler);
    let orders = orders.expect("subscribed");
    for sent in (WAITING..=COUNT).step_by(WAITING as usize) {
        // Between batches there is a gap that is not a successor's.
        meeting.ended.store(0, Ordering::Release);
        let mut batch: Vec<Record> =
            (0..WAITING).map(|_| Record::new("order-42", [7; 64])).collect();
        orders.submit_batch(&mut batch).expect("taken");
        while meeting.handled.load(Ordering::Acquire) < sent {
            if kind == Kind::Pending {
                wake(&meeting);
            }
            std::hint::spin_loop();
        }
    }
    runtime.close(Duration::from_secs(5)).expect("closed");
    [meeting.between.quantile(0.5) as f64, meeting.between.quantile(0.99) as f64]
}

/// Wakes the future that pends, a moment after it began to: the worker is awake still.
fn wake(meeting: &Meeting) {
    let waker = meeting.waker.lock().expect("nobody panics").take();
    let Some(waker) = waker else { return };
    let until = now() + 2_000;
    while now() < until {
        std::hint::spin_loop();
    }
    meeting.ended.store(now(), Ordering::Release);
    waker.wake();
}
