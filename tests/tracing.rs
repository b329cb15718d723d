//! The spans of attempts.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "tracing", feature = "testing"))]

#[path = "support/lifecycle.rs"]
mod support;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keylane::testing::{VirtualClock, settle};
use keylane::{HandlerError, Record, Retry, Runtime, Subscription};
use parking_lot::Mutex;
use support::*;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Level, Metadata, Subscriber};

const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// A subscriber that remembers spans, and what was said in each.
#[derive(Clone)]
struct Seen(Arc<Mutex<Spans>>, LevelFilter);

#[derive(Default)]
struct Spans {
    made: Vec<HashMap<&'static str, String>>,
    /// Text, the span it was said in, and the thread.
    said: Vec<(String, Option<u64>, String)>,
    closed: Vec<u64>,
    entered: usize,
}

struct Fields<'a>(&'a mut HashMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Subscriber for Seen {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= &self.1
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.1)
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = HashMap::new();
        fields.insert("name", span.metadata().name().to_owned());
        fields.insert("target", span.metadata().target().to_owned());
        fields.insert("level", span.metadata().level().to_string());
        span.record(&mut Fields(&mut fields));
        let mut spans = self.0.lock();
        spans.made.push(fields);
        Id::from_u64(spans.made.len() as u64)
    }
    fn record(&self, _: &Id, _: &Values<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = HashMap::new();
        event.record(&mut Fields(&mut fields));
        let within = ENTERED.with_borrow(|entered| entered.last().copied());
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        if let Some(text) = fields.remove("message") {
            self.0.lock().said.push((text, within, thread));
        }
    }
    fn enter(&self, id: &Id) {
        self.0.lock().entered += 1;
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }
    fn exit(&self, id: &Id) {
        let left = ENTERED.with_borrow_mut(Vec::pop);
        assert_eq!(left, Some(id.into_u64()));
    }
    fn try_close(&self, id: Id) -> bool {
        self.0.lock().closed.push(id.into_u64());
        true
    }
}

/// A runtime whose threads have this subscriber, and no other.
fn seen_by(most: LevelFilter) -> (Runtime, Seen, VirtualClock) {
    let (seen, clock) = (Seen(Arc::default(), most), VirtualClock::new());
    let dispatch = tracing::Dispatch::new(seen.clone());
    let runtime = narrow(10)
        .clock(clock.clone())
        .on_thread_start(move |_| {
            // For as long as the thread lives.
            std::mem::forget(tracing::dispatcher::set_default(&dispatch));
        })
        .build()
        .unwrap();
    (runtime, seen, clock)
}

fn of<'a>(spans: &'a Spans, text: &str) -> (&'a HashMap<&'static str, String>, u64, &'a str) {
    let (_, within, thread) = spans.said.iter().find(|said| said.0 == text).expect(text);
    let id = within.expect("said in a span");
    (&spans.made[id as usize - 1], id, thread)
}

#[test]
fn every_kind_of_attempt_runs_in_its_span() {
    let (runtime, seen, clock) = seen_by(LevelFilter::TRACE);
    let policy = |name| Subscription::new(name).retry(Retry::fixed(SECOND).attempts(3));
    let sync = runtime
        .subscribe(policy("sync"), |record: &Record| {
            tracing::info!("sync {}", record.attempt());
            if record.attempt() == 1 { Err(HandlerError::retryable("again")) } else { Ok(()) }
        })
        .unwrap();
    let (first, second) = (Flag::new(), Flag::new());
    let flags = (first.clone(), second.clone());
    struct Dropped;
    impl Drop for Dropped {
        fn drop(&mut self) {
            tracing::info!("async dropped");
        }
    }
    let future = runtime
        .subscribe_async(policy("async").span_at_info(), move |_| {
            tracing::info!("async called");
            let (first, second) = (flags.0.wait(), flags.1.wait());
            async move {
                let _dropped = Dropped;
                tracing::info!("async polled");
                first.await;
                tracing::info!("async polled again");
                second.await;
                tracing::info!("async polled a third time");
                Ok(())
            }
        })
        .unwrap();
    let blocking = runtime
        .subscribe_blocking(policy("blocking"), |_| {
            tracing::info!("blocking");
            Ok(())
        })
        .unwrap();
    sync.submit(Record::new(b"\x00key\xff", "v")).unwrap();
    future.submit(Record::new([b'k'; 100], "v")).unwrap();
    blocking.submit(Record::keyless("v")).unwrap();
    until("the blocking one has run", || runtime.snapshot().outcomes.done == 1);
    settle(&runtime);
    for _ in 0..2 {
        clock.advance(SECOND);
        settle(&runtime);
    }
    first.raise();
    settle(&runtime);
    second.raise();
    settle(&runtime);
    assert_eq!(runtime.snapshot().outcomes.done, 3);
    runtime.close(HANG).unwrap();

    let spans = seen.0.lock();
    let (one, first_id, worker) = of(&spans, "sync 1");
    assert_eq!((one["name"].as_str(), one["target"].as_str()), ("handle", "keylane"));
    assert_eq!((one["level"].as_str(), one["subscription"].as_str()), ("DEBUG", "sync"));
    assert_eq!((one["attempt"].as_str(), one["lane"].as_str()), ("1", "0"));
    assert_eq!(one["key"], r"\x00key\xff");
    let (two, second_id, _) = of(&spans, "sync 2");
    assert_eq!(two["attempt"], "2");
    assert_ne!(first_id, second_id, "an attempt is a span");

    let (polled, id, _) = of(&spans, "async polled");
    assert_eq!((polled["level"].as_str(), polled["attempt"].as_str()), ("INFO", "1"));
    assert_eq!(polled["key"], format!("{}… (100 bytes)", "k".repeat(64)));
    for text in ["async called", "async polled again", "async polled a third time", "async dropped"]
    {
        assert_eq!(of(&spans, text).1, id, "{text}");
    }

    let (blocked, _, thread) = of(&spans, "blocking");
    assert!(!blocked.contains_key("key"), "{blocked:?}");
    assert!(thread.contains("blk") && worker.contains("w0"), "{thread} {worker}");
    let mut closed = spans.closed.clone();
    closed.sort_unstable();
    assert_eq!(closed, [1, 2, 3, 4], "every span has ended, once");
    assert!(spans.said.iter().all(|said| said.1.is_some()));
}

#[test]
fn levels_decide_whose_attempts_are_spans() {
    for (most, made) in
        [(LevelFilter::OFF, vec![]), (LevelFilter::WARN, vec![]), (LevelFilter::INFO, vec!["info"])]
    {
        let (runtime, seen, _clock) = seen_by(most);
        let count = |_: &Record| Ok(());
        let debug = runtime.subscribe(Subscription::new("debug"), count).unwrap();
        let info = Subscription::new("info").span_at_info();
        let info = runtime.subscribe(info, count).unwrap();
        for subscriber in [&debug, &info] {
            subscriber.submit(numbered("k", 0)).unwrap();
        }
        settle(&runtime);
        assert_eq!(runtime.snapshot().outcomes.done, 2);
        let spans = seen.0.lock();
        let names: Vec<_> = spans.made.iter().map(|span| span["subscription"].as_str()).collect();
        assert_eq!(names, made, "{most}");
        assert_eq!(spans.entered, made.len());
        drop(spans);
        runtime.stop_now();
    }
}

#[test]
fn a_subscriber_that_panics_is_a_failed_attempt() {
    struct Panics;
    impl Subscriber for Panics {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= &Level::DEBUG
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            panic!("no span")
        }
        fn record(&self, _: &Id, _: &Values<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
    let dispatch = tracing::Dispatch::new(Panics);
    let runtime = narrow(10)
        .on_thread_start(move |_| {
            std::mem::forget(tracing::dispatcher::set_default(&dispatch));
        })
        .build()
        .unwrap();
    let sync = Subscription::new("sync").skip();
    let sync = runtime.subscribe(sync, |_: &Record| Ok(())).unwrap();
    let future = Subscription::new("async").skip();
    let future = runtime.subscribe_async(future, |_| async { Ok(()) }).unwrap();
    let blocking = Subscription::new("blocking").skip();
    let blocking = runtime.subscribe_blocking(blocking, |_| Ok(())).unwrap();
    for subscriber in [&sync, &future, &blocking] {
        let receipt = subscriber.submit_tracked(numbered("k", 0)).unwrap();
        assert!(!receipt.wait().unwrap().is_done());
    }
    assert_eq!(runtime.snapshot().outcomes.panics, 3);
    assert!(runtime.close(HANG).unwrap().drained);
}
