//! Where a fault happens: a server of the test's own, a proxy before it, a stream, a publisher that goes around the proxy,
//! and the history of it all.
#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context, consumer, stream};
use async_nats::{ConnectOptions, HeaderMap};
use futures_util::TryStreamExt;
use keylane::internals::Stored;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::broker::Server;
use super::history::{History, Judgement, RECOVERY};
use super::proxy::Proxy;
use super::subject::{Handler, Place, Running, Subject, Work, executor};

/// A wait that comes to this has hung.
pub const HANG: Duration = Duration::from_secs(60);

pub const TOPIC: &str = "jobs";
pub const STREAM: &str = "STREAM_jobs";
pub const DURABLE: &str = "faults-jobs";

/// As many keys as records are spread over.
pub const KEYS: u64 = 8;

pub struct Stage {
    pub server: Server,
    pub proxy: Proxy,
    pub history: History,
    pub place: Place,
    admin: Admin,
    /// The last number of every key.
    published: Mutex<u64>,
}

impl Stage {
    /// On as many nodes as the environment or the arguments say; clients are in front of the first. `None` if there is no server to be had.
    pub fn new(arguments: &[&str]) -> Option<Self> {
        let server = Server::start(arguments)?;
        let proxy = Proxy::to(server.address(1));
        let admin = Admin::new(server.url());
        let place = Place {
            url: proxy.url(),
            topic: TOPIC.to_owned(),
            stream: STREAM.to_owned(),
            durable: DURABLE.to_owned(),
            ack_wait: Duration::from_secs(2),
            window: 1_000,
            interval: Duration::from_millis(100),
        };
        let stage =
            Self { server, proxy, history: History::new(), place, admin, published: Mutex::new(0) };
        stage.create_stream();
        Some(stage)
    }

    fn create_stream(&self) {
        let replicas = if self.server.nodes() > 1 { 3 } else { 1 };
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![TOPIC.to_owned()],
            num_replicas: replicas,
            ..Default::default()
        };
        self.insist("a stream", |context| {
            let config = config.clone();
            async move { context.create_stream(config).await.map(drop) }
        });
    }

    pub fn start(&self, subject: &dyn Subject, work: Work) -> Box<dyn Running> {
        let handler = Handler { history: self.history.clone(), work };
        subject.start(&self.place, handler)
    }

    /// Publishes as many records more of each key, and waits for every confirmation. Each is tried until it is confirmed;
    /// the server drops what it has already.
    pub fn publish(&self, count: u64) -> RangeInclusive<u64> {
        let mut published = self.published.lock();
        let range = *published + 1..=*published + count;
        for seq in range.clone() {
            for key in (0..KEYS).map(key) {
                self.publish_one(&key, seq);
            }
        }
        *published += count;
        range
    }

    fn publish_one(&self, key: &str, seq: u64) {
        self.insist("a confirmation", |context| {
            let mut headers = HeaderMap::new();
            headers.insert("X-Aggregate-ID", key);
            headers.insert("Nats-Msg-Id", format!("{key}-{seq}").as_str());
            let payload = format!("{key} {seq}");
            async move { context.publish_with_headers(TOPIC, headers, payload.into()).await?.await }
        });
        self.history.published(key, seq);
    }

    /// Waits until this many records were handled, the first time each.
    pub fn wait_handled(&self, count: usize) {
        let came = self.history.wait(HANG, |so_far| so_far.handled >= count);
        assert!(came, "{count} were to be handled\n{}", self.history.judge());
    }

    /// The fault is over: in time everything is handled, and what is published now.
    pub fn recover(&self, fault: &str) {
        self.history.healed(fault);
        self.publish(3);
        let came = self.history.wait(RECOVERY, |so_far| so_far.recovered() && so_far.is_complete());
        assert!(came, "not everything was handled after {fault}\n{}", self.history.judge());
    }

    /// Waits until everything is handled, ends the consumer and judges.
    pub fn finish(&self, running: Box<dyn Running>, duplicates: usize) -> Judgement {
        self.drain();
        assert_eq!(running.stopped(), None);
        running.close();
        let verdict = self.history.judge();
        verdict.assert_sound(duplicates);
        verdict
    }

    pub fn drain(&self) {
        let all = self.history.wait(HANG, Judgement::is_complete);
        assert!(all, "not everything was handled\n{}", self.history.judge());
    }

    /// Does it against the server, around the proxy, until it succeeds.
    pub fn insist<T, E, F>(&self, what: &str, mut act: impl FnMut(Context) -> F) -> T
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let deadline = Instant::now() + HANG;
        loop {
            let tried = async {
                tokio::time::timeout(Duration::from_secs(5), act(self.admin.context.clone())).await
            };
            let error = match self.admin.handle.block_on(tried) {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            assert!(Instant::now() < deadline, "{what}: {error}");
        }
    }

    /// What the server says of the one consumer.
    pub fn consumer(&self) -> consumer::Info {
        self.consumers().into_iter().next().expect("there is a consumer")
    }

    /// How many records are handled of which the server, or what we keep there, does not know it.
    pub fn forgotten(&self) -> usize {
        let handled = self.history.judge().handled;
        handled.saturating_sub(self.known())
    }

    /// How many records are known to be done.
    pub fn known(&self) -> usize {
        let known = self.checkpoint().map(|kept| kept.map_or(0, |stored| known_to(&stored)));
        known.unwrap_or_else(|| self.floor())
    }

    /// The records up to this one are known to be done.
    pub fn floor(&self) -> usize {
        match self.checkpoint() {
            Some(kept) => kept.map_or(0, |stored| stored.frontier().saturating_sub(1) as usize),
            None => self.acknowledged(),
        }
    }

    /// Up to its floor: a reset has all above it delivered again, what is acknowledged as well.
    fn acknowledged(&self) -> usize {
        self.consumer().ack_floor.stream_sequence as usize
    }

    /// What the bus has written, if it keeps the position itself.
    fn checkpoint(&self) -> Option<Option<Stored>> {
        let kept = self.insist("what the bus keeps", |context| async move {
            let Ok(bucket) = context.get_key_value("keylane").await else { return Ok(None) };
            bucket.get(format!("at.{DURABLE}")).await.map_err(|e| e.to_string())
        })?;
        let text = String::from_utf8(kept.to_vec()).ok()?;
        let (_owner, position) = text.split_once(' ')?;
        Some(Stored::decode(position).ok())
    }

    pub fn consumers(&self) -> Vec<consumer::Info> {
        self.insist("the consumers", |context| async move {
            let stream = context.get_stream(STREAM).await.map_err(|e| e.to_string())?;
            stream
                .consumers()
                .try_collect()
                .await
                .map_err(|e: stream::ConsumersError| e.to_string())
        })
    }

    /// Waits until the server says so of the consumer.
    pub fn wait_consumer(
        &self,
        what: &str,
        holds: impl Fn(&consumer::Info) -> bool,
    ) -> consumer::Info {
        let deadline = Instant::now() + HANG;
        loop {
            let consumers = self.consumers();
            match consumers.into_iter().next() {
                Some(info) if holds(&info) => return info,
                other => assert!(Instant::now() < deadline, "{what}: {other:?}"),
            }
        }
    }

    pub fn delete_consumer(&self) {
        for info in self.consumers() {
            let name = info.name;
            self.insist("a deletion", |context| {
                let name = name.clone();
                async move {
                    let stream = context.get_stream(STREAM).await.map_err(|e| e.to_string())?;
                    match stream.delete_consumer(&name).await {
                        Ok(_) => Ok::<_, String>(()),
                        Err(error) if error.to_string().contains("not found") => Ok(()),
                        Err(error) => Err(error.to_string()),
                    }
                }
            });
        }
    }

    /// Deletes the consumer and makes another of its name that begins at the stream's first record.
    pub fn recreate_consumer(&self) {
        let config = self.consumer().config;
        self.delete_consumer();
        let mut config = serde_json::to_value(&config).expect("it came as JSON");
        config["deliver_policy"] = "all".into();
        if let Some(fields) = config.as_object_mut() {
            fields.remove("opt_start_seq");
        }
        let name = config["durable_name"].as_str().unwrap_or(DURABLE).to_owned();
        let request = serde_json::json!({ "stream_name": STREAM, "config": config });
        let answer =
            self.request(&format!("CONSUMER.DURABLE.CREATE.{STREAM}.{name}"), &request.to_string());
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// A request to the JetStream API; its answer.
    pub fn request(&self, subject: &str, payload: &str) -> serde_json::Value {
        self.insist(subject, |context| {
            let (subject, payload) = (subject.to_owned(), payload.to_owned());
            async move {
                let answer =
                    context.client().request(format!("$JS.API.{subject}"), payload.into()).await;
                let answer = answer.map_err(|e| e.to_string())?;
                serde_json::from_slice(&answer.payload).map_err(|e| e.to_string())
            }
        })
    }
}

/// How many records are done by what is stored.
fn known_to(stored: &Stored) -> usize {
    let finished: u64 = stored.finished().iter().map(|run| run.last - run.first + 1).sum();
    (stored.frontier().saturating_sub(1) + finished) as usize
}

pub fn key(n: u64) -> String {
    format!("order-{n}")
}

/// A handler that is done at once.
pub fn quick() -> Work {
    Arc::new(|_, _| true)
}

/// A connection around the proxy, and the thread that drives it.
struct Admin {
    handle: Handle,
    context: Context,
    _alive: oneshot::Sender<()>,
}

impl Admin {
    fn new(url: &str) -> Self {
        let runtime = executor();
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        thread::spawn(move || drop(runtime.block_on(ended)));
        let options = ConnectOptions::new()
            .ping_interval(Duration::from_secs(1))
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        let servers: Vec<&str> = url.split(',').collect();
        let client = handle.block_on(options.connect(servers)).expect("the server was ready");
        let _entered = handle.enter();
        let mut context = jetstream::new(client);
        context.set_timeout(Duration::from_secs(2));
        Self { handle: handle.clone(), context, _alive: alive }
    }
}
