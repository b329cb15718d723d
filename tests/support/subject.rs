//! Consumers of a stream that faults are tried on: two that are simple enough to know what they do, and ours.
#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Request};
use futures_util::StreamExt;
use keylane::nats::{AckMode, NatsBus};
use keylane::{Health, ReasonKind, Record, Runtime, Subscription};

use super::history::History;

/// The first key, which some tests hold, is alone in its lane with this.
#[allow(dead_code, reason = "each test file uses its part")]
pub const SEED: u64 = 1;

/// What a consumer is told.
#[derive(Clone, Debug)]
pub struct Place {
    pub url: String,
    pub topic: String,
    pub stream: String,
    pub durable: String,
    pub ack_wait: Duration,
    /// The most deliveries that are not acknowledged.
    pub window: usize,
    /// How often a position is written.
    pub interval: Duration,
}

/// What a handler does between its start and its end; false fails it.
pub type Work = Arc<dyn Fn(&str, u64) -> bool + Send + Sync>;

/// Records what it is given, and does the work.
#[derive(Clone)]
pub struct Handler {
    pub history: History,
    pub work: Work,
}

impl Handler {
    /// A payload is a key and a number.
    pub fn handle(&self, payload: &[u8]) -> bool {
        let text = String::from_utf8_lossy(payload);
        let (key, seq) = text.split_once(' ').expect("the test wrote it");
        let seq = seq.parse().expect("the test wrote it");
        let run = self.history.started(key, seq, 1);
        let done = (self.work)(key, seq);
        self.history.ended(run, done);
        done
    }
}

/// A kind of consumer.
pub trait Subject: Sync {
    fn start(&self, place: &Place, handler: Handler) -> Box<dyn Running>;
}

/// A consumer that runs. Dropped, it is abandoned as if it had crashed, as far as a thread can be.
pub trait Running: Send {
    /// Ends it in order.
    fn close(self: Box<Self>);

    /// Why it stopped, if it did of itself.
    fn stopped(&self) -> Option<String> {
        None
    }
}

/// One message at a time, its acknowledgement confirmed before the next is asked for.
pub struct Reference;

/// What one writes first: a task for every message, acknowledged at its end.
pub struct Naive;

/// The bus, in one of its modes.
pub struct Ours(pub AckMode);

struct Task {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Task {
    fn run<F: Future<Output = ()>>(
        body: impl FnOnce(Arc<AtomicBool>) -> F + Send + 'static,
    ) -> Box<dyn Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = thread::spawn(move || executor().block_on(body(stopping)));
        Box::new(Self { stop, thread: Some(thread) })
    }
}

impl Running for Task {
    fn close(mut self: Box<Self>) {
        self.stop.store(true, SeqCst);
        let thread = self.thread.take().expect("it is closed once");
        thread.join().expect("a consumer does not panic");
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

/// Drives async code on the calling thread.
pub fn executor() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io().enable_time().build().expect("sockets and clocks are to be had")
}

async fn connect(url: &str) -> Client {
    ConnectOptions::new()
        .retry_on_initial_connect()
        .ping_interval(Duration::from_secs(5))
        .connection_timeout(Duration::from_secs(2))
        .reconnect_delay_callback(|tries| Duration::from_millis(if tries < 2 { 10 } else { 200 }))
        .connect(url.split(',').collect::<Vec<_>>())
        .await
        .expect("the first connection is retried")
}

/// The durable, made again where a deleted one stopped.
async fn durable(
    context: &Context,
    place: &Place,
    pending: i64,
    floor: u64,
) -> Option<PullConsumer> {
    let deliver_policy = match floor {
        0 => DeliverPolicy::All,
        floor => DeliverPolicy::ByStartSequence { start_sequence: floor + 1 },
    };
    let config = pull::Config {
        durable_name: Some(place.durable.clone()),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: place.ack_wait,
        max_ack_pending: pending,
        ..Default::default()
    };
    let stream = context.get_stream(&place.stream).await.ok()?;
    stream.get_or_create_consumer(&place.durable, config).await.ok()
}

/// A handler may take its time: not on the thread that answers the server.
async fn handle(handler: &Handler, payload: bytes::Bytes) -> bool {
    let handler = handler.clone();
    tokio::task::spawn_blocking(move || handler.handle(&payload))
        .await
        .expect("handlers do not panic")
}

impl Subject for Reference {
    fn start(&self, place: &Place, handler: Handler) -> Box<dyn Running> {
        let place = place.clone();
        Task::run(move |stop| async move {
            let client = connect(&place.url).await;
            let context = jetstream::new(client.clone());
            let mut floor = 0;
            while !stop.load(SeqCst) {
                if durable(&context, &place, 1, floor).await.is_some() {
                    one_by_one(&client, &place, &handler, &stop, &mut floor).await;
                } else {
                    tokio::time::sleep(Duration::from_millis(50)).await; // no server: not too often
                }
            }
        })
    }
}

/// Until the durable does not answer.
async fn one_by_one(
    client: &Client,
    place: &Place,
    handler: &Handler,
    stop: &AtomicBool,
    floor: &mut u64,
) {
    static PULL: AtomicU64 = AtomicU64::new(0);
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", place.stream, place.durable);
    while !stop.load(SeqCst) {
        let inbox = format!("{}.{}", client.new_inbox(), PULL.fetch_add(1, SeqCst));
        let Ok(mut messages) = client.subscribe(inbox.clone()).await else { return };
        let pull = r#"{"batch":1,"expires":500000000}"#;
        if client.publish_with_reply(subject.clone(), inbox, pull.into()).await.is_err() {
            return;
        }
        let next = tokio::time::timeout(Duration::from_millis(1_000), messages.next()).await;
        let Ok(Some(message)) = next else { return };
        match message.status.map(|status| status.as_u16()) {
            None => {}
            Some(404 | 408) => continue,
            Some(_) => return,
        }
        let Some(reply) = message.reply else { continue };
        let sequence = reply.split('.').nth(5).and_then(|token| token.parse().ok()).unwrap_or(0);
        if sequence > *floor {
            while !handle(handler, message.payload.clone()).await {}
            *floor = sequence;
        }
        for _ in 0..3 {
            let ack =
                Request::new().payload("+ACK".into()).timeout(Some(Duration::from_millis(500)));
            if client.send_request(reply.clone(), ack).await.is_ok() {
                break;
            }
        }
    }
}

impl Subject for Naive {
    fn start(&self, place: &Place, handler: Handler) -> Box<dyn Running> {
        let place = place.clone();
        Task::run(move |stop| async move {
            let context = jetstream::new(connect(&place.url).await);
            while !stop.load(SeqCst) {
                let Some(consumer) = durable(&context, &place, place.window as i64, 0).await else {
                    continue;
                };
                // As `messages()` alone, with less patience.
                let pulls = consumer.stream().expires(Duration::from_secs(2));
                let pulls = pulls.heartbeat(Duration::from_millis(500));
                let Ok(mut messages) = pulls.messages().await else { continue };
                while !stop.load(SeqCst) {
                    let next =
                        tokio::time::timeout(Duration::from_millis(100), messages.next()).await;
                    match next {
                        Err(_) | Ok(Some(Err(_))) => {}
                        Ok(None) => break,
                        Ok(Some(Ok(message))) => {
                            let handler = handler.clone();
                            tokio::spawn(async move {
                                if handle(&handler, message.payload.clone()).await {
                                    let _ = message.ack().await;
                                }
                            });
                        }
                    }
                }
            }
        })
    }
}

struct OnBus {
    bus: NatsBus,
    subscription: keylane::BusSubscription,
    runtime: Runtime,
}

impl Drop for OnBus {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("stopped by {:?}, {:?}", self.subscription.stopped_by(), self.bus.health());
        }
    }
}

impl Subject for Ours {
    fn start(&self, place: &Place, handler: Handler) -> Box<dyn Running> {
        // Handlers that block hold up their lane.
        let runtime = Runtime::builder().workers(2).seed(SEED).build().expect("a runtime");
        let builder = NatsBus::builder(&runtime, &place.url)
            .ack_mode(self.0)
            .ack_wait(place.ack_wait)
            .window(place.window)
            .checkpoint_interval(place.interval);
        let bus = executor().block_on(builder.connect()).expect("a bus");
        let group = place.durable.trim_end_matches(&place.topic).trim_end_matches('-');
        let handle = move |record: &Record| {
            let key = record.payload().split(|byte| *byte == b' ').next();
            assert_eq!(record.key(), key, "a record comes under its key");
            if handler.handle(record.payload()) { Ok(()) } else { Err("failed".into()) }
        };
        let subscription = bus
            .subscribe(&place.topic, Subscription::new(group), handle)
            .wait()
            .expect("a subscription");
        Box::new(OnBus { bus, subscription, runtime })
    }
}

impl Running for OnBus {
    fn close(self: Box<Self>) {
        self.bus.close(Duration::from_secs(10)).wait().expect("the bus closes");
        self.runtime.close(Duration::from_secs(10)).expect("the runtime closes");
    }

    fn stopped(&self) -> Option<String> {
        let (Health::Degraded(reasons) | Health::Down(reasons)) = self.bus.health() else {
            return None;
        };
        let stopped = reasons.iter().find(|reason| reason.kind == ReasonKind::SourceStopped);
        stopped.map(|reason| reason.text.to_string())
    }
}
