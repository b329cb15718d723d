//! Buses: topics that are published to and subscribed to, with one contract for all of them.
//!
//! - **At least once.** What was published with a confirmed result is handled by every subscription to its topic
//!   that exists, in spite of crashes; it may be handled again after one.
//! - **Order** is kept per (subscription, key), for what was published one after the other.
//! - **Backpressure**: a full topic holds its publishers for a bounded time and then gives the record back.

pub mod memory;
mod publishing;

use std::fmt;
use std::future::Future;
use std::time::Duration;

pub use publishing::{PublishError, PublishErrorKind, PublishFuture, Publishing};

use crate::envelope::Envelope;
use crate::error::{ConfigError, HandlerError};
use crate::handler::{Handled, Handler};
use crate::outcome::Failure;
use crate::record::{Record, RecordRef};
use crate::reply::{Reply, block_on};
use crate::runtime::SubscribeError;
use crate::source::SourceError;
use crate::subscriber::Subscriber;
use crate::subscription::Subscription;
use crate::sync::Arc;
use crate::{BuildError, Runtime};

/// A bus: a handle, whose clones are the same one.
///
/// [`memory::MemoryBus`] is the embedded one. Everything that waits can be awaited, or waited for on a plain
/// thread with `.wait()`.
///
/// ```
/// use std::time::Duration;
/// use keylane::{Bus, Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let bus = Bus::connect(&runtime, "memory:").wait()?;
/// let seen = bus.subscribe("orders", Subscription::new("billing"), |record: &Record| {
///     assert_eq!(record.payload(), b"paid");
///     Ok(())
/// });
/// let billing = seen.wait()?;
/// bus.publish("orders", Record::new("order-42", "paid")).wait()?;
/// let report = bus.close(Duration::from_secs(5)).wait()?;
/// assert!(report.drained && billing.stopped_by().is_none());
/// # runtime.close(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Bus(Arc<dyn Transport>);

/// What a bus is made of: implemented by each broker's side.
pub trait Transport: Send + Sync + 'static {
    /// The runtime that handles what is subscribed to.
    fn runtime(&self) -> &Runtime;

    /// Publishes a record. Whether it was taken is known when the result is.
    fn publish(&self, topic: &str, record: Record) -> Publishing;

    /// Subscribes. `envelope`: the records hold envelopes, whose key counts where the record has none.
    fn subscribe(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing;

    /// Takes no more publishes, reads no more, and lets what was read be handled for at most `timeout`.
    fn close(&self, timeout: Duration) -> BusClosing;
}

impl Bus {
    /// Connects to what `url` names: `memory:` is the embedded bus.
    ///
    /// # Errors
    /// The result's: [`BusError::UnknownUrl`] for any other kind of URL, [`BusError::Thread`] if the system gives no
    /// thread.
    ///
    /// ```
    /// use keylane::{Bus, BusError, Runtime};
    ///
    /// let runtime = Runtime::builder().workers(1).build()?;
    /// let refused = Bus::connect(&runtime, "carrier-pigeon://coop").wait().unwrap_err();
    /// assert!(matches!(refused, BusError::UnknownUrl(scheme) if scheme == "carrier-pigeon"));
    /// # runtime.stop_now();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(runtime: &Runtime, url: &str) -> Connecting {
        Connecting(Some(connect(runtime, url)))
    }

    /// A bus over a transport.
    pub fn new(transport: impl Transport) -> Self {
        Self(Arc::new(transport))
    }

    /// The runtime that handles what is subscribed to.
    pub fn runtime(&self) -> &Runtime {
        self.0.runtime()
    }

    /// Publishes a record. The result is confirmed: a success means that the record will be handled by every
    /// subscription of the topic.
    ///
    /// # Errors
    /// The result gives the record back; see [`PublishError`].
    pub fn publish(&self, topic: &str, record: Record) -> Publishing {
        self.0.publish(topic, record)
    }

    /// Publishes an envelope under its aggregate id.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); an envelope that cannot be encoded is not published.
    pub fn publish_envelope(&self, topic: &str, envelope: &Envelope<'_>) -> Publishing {
        match envelope.to_vec() {
            Ok(encoded) => self.0.publish(
                topic,
                Record::from_bytes(Some(envelope.key().as_bytes()), encoded.into()),
            ),
            Err(error) => {
                let record = Record::keyless("");
                let kind = PublishErrorKind::Envelope(error);
                Publishing::ready(Err(PublishError::new(kind, record)))
            }
        }
    }

    /// Subscribes a sync handler to a topic; see [`Runtime::subscribe`].
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: impl Fn(&Record) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        self.subscribe_handler(topic, subscription, Handler::sync(handler))
    }

    /// Subscribes an async handler to a topic; see [`Runtime::subscribe_async`].
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_async<F, Fut>(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: F,
    ) -> Subscribing
    where
        F: Fn(RecordRef) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Handled> + Send + 'static,
    {
        self.subscribe_handler(topic, subscription, Handler::future(handler))
    }

    /// Subscribes a blocking handler to a topic; see [`Runtime::subscribe_blocking`].
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_blocking(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: impl Fn(RecordRef) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        self.subscribe_handler(topic, subscription, Handler::blocking(handler))
    }

    /// Subscribes a handler of any kind to a topic.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_handler(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
    ) -> Subscribing {
        self.0.subscribe(topic, subscription, handler, false)
    }

    /// Subscribes a sync handler of envelopes to a topic. What is no envelope, or one of another key than its
    /// record's, fails for good without an attempt.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_envelope(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: impl Fn(&Envelope<'_>) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        let handler = Handler::sync(move |record| with_envelope(record, &handler));
        self.0.subscribe(topic, subscription, handler, true)
    }

    /// Subscribes an async handler of envelopes to a topic.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_envelope_async<F, Fut>(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: F,
    ) -> Subscribing
    where
        F: Fn(Envelope<'static>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Handled> + Send + 'static,
    {
        let handler = Handler::future(move |record: RecordRef| {
            let started = with_envelope(&record, &|envelope: &Envelope<'_>| {
                Ok(handler(envelope.clone().into_owned()))
            });
            async move { started?.await }
        });
        self.0.subscribe(topic, subscription, handler, true)
    }

    /// Subscribes a blocking handler of envelopes to a topic.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_envelope_blocking(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: impl Fn(&Envelope<'_>) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        let handler = Handler::blocking(move |record: RecordRef| with_envelope(&record, &handler));
        self.0.subscribe(topic, subscription, handler, true)
    }

    /// Closes the bus: takes no more publishes, reads no more, lets what was read be handled for at most
    /// `timeout`, and removes its subscriptions. Begun when this returns; idempotent.
    pub fn close(&self, timeout: Duration) -> BusClosing {
        self.0.close(timeout)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bus")
    }
}

/// Hands a record's envelope to `handle`: the one that was decoded for its key, or decoded now.
fn with_envelope<R>(
    record: &Record,
    handle: &impl Fn(&Envelope<'_>) -> Result<R, HandlerError>,
) -> Result<R, HandlerError> {
    if let Some(envelope) = record.decoded() {
        return handle(envelope);
    }
    let envelope = Envelope::decode(record.payload()).map_err(HandlerError::fatal)?;
    match record.key() {
        Some(key) if key != envelope.key().as_bytes() => Err(HandlerError::fatal(KeyMismatch)),
        _ => handle(&envelope),
    }
}

/// An envelope's aggregate id is not the key that its record was published under, so its order is not its
/// aggregate's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyMismatch;

impl fmt::Display for KeyMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the envelope's aggregate_id differs from its record's key")
    }
}

impl std::error::Error for KeyMismatch {}

/// Why something was not done on a bus.
#[derive(Debug)]
#[non_exhaustive]
pub enum BusError {
    /// No bus is known by this kind of URL, or its feature is not built in.
    UnknownUrl(String),
    /// A topic's name is not allowed.
    InvalidTopic(InvalidTopic),
    /// The bus has no subscription of this name.
    NotSubscribed(String),
    /// The subscription was refused.
    Subscribe(SubscribeError),
    /// An option was refused.
    Config(ConfigError),
    /// A thread could not be started.
    Thread(std::io::Error),
    /// The bus is closed.
    Closed,
    /// The caller is inside a handler, where a wait could wait for itself.
    WouldDeadlock,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownUrl(scheme) => {
                write!(
                    f,
                    "no bus is called {scheme:?} in this build; `memory:` is the embedded one"
                )
            }
            Self::InvalidTopic(error) => error.fmt(f),
            Self::NotSubscribed(name) => write!(f, "the bus has no subscription {name:?}"),
            Self::Subscribe(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "a thread could not be started: {error}"),
            Self::Closed => f.write_str("the bus is closed"),
            Self::WouldDeadlock => f.write_str("waiting inside a handler could wait for itself"),
        }
    }
}

impl std::error::Error for BusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InvalidTopic(error) => Some(error),
            Self::Subscribe(error) => Some(error),
            Self::Config(error) => Some(error),
            Self::Thread(error) => Some(error),
            _ => None,
        }
    }
}

impl From<SubscribeError> for BusError {
    fn from(error: SubscribeError) -> Self {
        Self::Subscribe(error)
    }
}

impl From<BuildError> for BusError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Config(error) => Self::Config(error),
            BuildError::Thread(error) => Self::Thread(error),
        }
    }
}

impl From<SourceError> for BusError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Config(error) => Self::Config(error),
            SourceError::Removed => Self::Closed,
        }
    }
}

/// A topic's name that is not allowed: it has 1 to 255 printable ASCII characters without a space.
///
/// ```
/// use keylane::InvalidTopic;
///
/// assert!(InvalidTopic::check("orders.eu").is_ok());
/// assert_eq!(InvalidTopic::check("two words").unwrap_err().given, "two words");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTopic {
    /// What was given, escaped and cut to 64 characters.
    pub given: String,
}

impl InvalidTopic {
    /// Checks a topic's name.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn check(topic: &str) -> Result<(), Self> {
        if (1..=255).contains(&topic.len()) && topic.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(());
        }
        Err(Self { given: topic.chars().take(64).flat_map(char::escape_default).collect() })
    }
}

impl fmt::Display for InvalidTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is no topic: 1 to 255 printable ASCII characters without a space",
            self.given
        )
    }
}

impl std::error::Error for InvalidTopic {}

/// A live subscription on a bus. Dropping it leaves it running.
#[derive(Clone, Debug)]
pub struct BusSubscription {
    pub(crate) subscriber: Subscriber,
    pub(crate) topic: Arc<str>,
}

impl BusSubscription {
    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The subscription in the runtime: its name, its parked keys, swapping its handler.
    pub fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// Replaces the handler; see [`Subscriber::swap`].
    pub fn swap(&self, handler: Handler) -> crate::Swap {
        self.subscriber.swap(handler)
    }

    /// The failure that stopped it, if one did. A failure of one partition is seen in the bus' view of that
    /// partition.
    pub fn stopped_by(&self) -> Option<Failure> {
        self.subscriber.stopped_by()
    }
}

/// What a closed bus leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BusReport {
    /// Whether everything that was read was handled to its end.
    pub drained: bool,
    /// Deliveries that were read and not finished: they are delivered again to whoever comes next.
    pub unfinished: usize,
}

macro_rules! pending {
    ($(#[$about:meta])* $name:ident, $output:ty) => {
        $(#[$about])*
        #[derive(Debug)]
        #[must_use = "a future does nothing unless it is polled or waited for"]
        pub struct $name {
            state: State<$output>,
            runtime: Runtime,
        }

        impl $name {
            #[allow(dead_code, reason = "not every one of them is ever ready, or late")]
            pub(crate) fn ready(runtime: &Runtime, result: Result<$output, BusError>) -> Self {
                Self { state: State::Ready(Some(result)), runtime: runtime.clone() }
            }

            #[allow(dead_code, reason = "not every one of them is ever ready, or late")]
            pub(crate) fn later(
                runtime: &Runtime,
                reply: Reply<Result<$output, BusError>>,
            ) -> Self {
                Self { state: State::Later(reply), runtime: runtime.clone() }
            }

            /// Waits on a plain thread.
            ///
            /// # Errors
            /// See [`BusError`]; inside a handler [`BusError::WouldDeadlock`] unless it is ready.
            pub fn wait(mut self) -> Result<$output, BusError> {
                let clock = self.runtime.clock().clone();
                block_on(&mut self, &*clock, None).unwrap_or(Err(BusError::WouldDeadlock))
            }
        }

        impl Future for $name {
            type Output = Result<$output, BusError>;

            fn poll(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Self::Output> {
                match &mut self.state {
                    State::Ready(result) => match result.take() {
                        Some(result) => std::task::Poll::Ready(result),
                        None => std::task::Poll::Pending,
                    },
                    State::Later(reply) => std::pin::Pin::new(reply)
                        .poll(cx)
                        .map(|answer| answer.unwrap_or(Err(BusError::Closed))),
                }
            }
        }
    };
}

#[derive(Debug)]
enum State<T> {
    Ready(Option<Result<T, BusError>>),
    Later(Reply<Result<T, BusError>>),
}

pending! {
    /// A subscribe under way: a future, and something a plain thread can wait for.
    ///
    /// # Cancel safety
    /// Dropped, it leaves a subscription that was made running.
    Subscribing, BusSubscription
}

pending! {
    /// The end of a bus under way: a future, and something a plain thread can wait for.
    ///
    /// # Cancel safety
    /// Dropped, the close goes on.
    BusClosing, BusReport
}

/// A connect under way: a future, and something a plain thread can wait for.
///
/// # Cancel safety
/// Dropped, it closes what it has connected.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled or waited for"]
pub struct Connecting(Option<Result<Bus, BusError>>);

impl Connecting {
    /// Waits on a plain thread.
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn wait(self) -> Result<Bus, BusError> {
        self.0.unwrap_or(Err(BusError::Closed))
    }
}

impl Future for Connecting {
    type Output = Result<Bus, BusError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        match self.0.take() {
            Some(result) => std::task::Poll::Ready(result),
            None => std::task::Poll::Pending,
        }
    }
}

fn connect(runtime: &Runtime, url: &str) -> Result<Bus, BusError> {
    match url.split_once(':') {
        Some(("memory", "" | "//")) => Ok(memory::MemoryBus::new(runtime)?.bus()),
        // Only the scheme is named: the rest may hold a secret.
        Some((scheme, _)) => Err(BusError::UnknownUrl(scheme.chars().take(32).collect())),
        None => Err(BusError::UnknownUrl(String::new())),
    }
}
