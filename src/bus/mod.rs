//! Buses: topics that are published to and subscribed to, with one contract for all of them.
//!
//! - **At least once.** What was published with a confirmed result is handled by every subscription to its topic
//!   that exists, in spite of crashes; it may be handled again after one.
//! - **Order** is kept per (subscription, key), for what was published one after the other.
//! - **Backpressure**: a full topic holds its publishers for a bounded time and then gives the record back.

mod error;
mod event;
mod group;
mod health;
pub(crate) mod keyed;
pub(crate) mod letter;
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
pub(crate) mod pending;
mod publishing;
mod topics;

use std::fmt;
use std::future::Future;
use std::time::Duration;

pub use error::{BrokerError, BrokerErrorKind, BusError, InvalidGroup, InvalidTopic, KeyMismatch};
pub use event::BusEvent;
pub(crate) use group::Groups;
pub(crate) use health::BusHealth;
pub use health::{Events, Health, NextEvent, Reason, ReasonKind};
pub use pending::{BusClosing, Connecting, Subscribing};
pub use publishing::{PublishError, PublishErrorKind, PublishFuture, Publishing};
pub use topics::{InvalidTopics, Topics};

use crate::envelope::Envelope;
use crate::error::HandlerError;
use crate::handler::{Handled, Handler};
use crate::outcome::Failure;
use crate::record::{Record, RecordRef};
use crate::runtime::Runtime;
use crate::subscriber::Subscriber;
use crate::subscription::Subscription;
use crate::sync::Arc;

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

    /// Publishes a record whose payload is an envelope with this event id, by which a broker that can tells a record
    /// from one that it has already.
    fn publish_event(&self, topic: &str, record: Record, event_id: &str) -> Publishing {
        let _ = event_id;
        self.publish(topic, record)
    }

    /// Subscribes to all of these topics, or to none of them: each is read by itself, and all feed the one subscription.
    /// `envelope`: the records hold envelopes, whose key counts where the record has none.
    fn subscribe(
        &self,
        topics: Topics,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing;

    /// Takes no more publishes, reads no more, and lets what was read be handled for at most `timeout`.
    fn close(&self, timeout: Duration) -> BusClosing;

    /// How it is. Asks nobody.
    fn health(&self) -> Health {
        Health::Healthy
    }

    /// What happens to it, from the oldest event that it has kept.
    fn events(&self) -> Events {
        Events::none(self.runtime().clock())
    }
}

impl Bus {
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
            Ok(encoded) => {
                let key = Some(envelope.key().as_bytes());
                let record = Record::from_bytes(key, encoded.into());
                self.0.publish_event(topic, record, &envelope.event_id)
            }
            Err(error) => {
                let record = Record::keyless("");
                let kind = PublishErrorKind::Envelope(error);
                Publishing::ready(Err(PublishError::new(kind, record)))
            }
        }
    }

    /// Subscribes a sync handler to a topic, or to several at once; see [`Runtime::subscribe`].
    ///
    /// Of several topics the records of one key are handled one at a time, each topic's in their order; which topic's is
    /// next is not said. [`Record::topic_index`] tells which topic a record came from. It is all of them or none: where
    /// one cannot be subscribed to, the error says which, and nothing more is read of the others; what was handled of
    /// them by then stays handled.
    ///
    /// ```
    /// use keylane::{Bus, Record, Runtime, Subscription};
    /// use std::time::Duration;
    ///
    /// let runtime = Runtime::builder().workers(1).build()?;
    /// let bus = Bus::connect(&runtime, "memory:").wait()?;
    /// let topics = ["orders", "payments"];
    /// let billing = bus.subscribe(topics, Subscription::new("billing"), |record: &Record| {
    ///     let topic = ["orders", "payments"][record.topic_index()];
    ///     assert_eq!(record.payload(), topic.as_bytes());
    ///     Ok(())
    /// });
    /// assert_eq!(billing.wait()?.topics().collect::<Vec<_>>(), topics);
    /// bus.publish("orders", Record::new("order-42", "orders")).wait()?;
    /// bus.publish("payments", Record::new("order-42", "payments")).wait()?;
    /// assert!(bus.close(Duration::from_secs(5)).wait()?.drained);
    /// # runtime.close(Duration::from_secs(5))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe(
        &self,
        topics: impl Into<Topics>,
        subscription: Subscription,
        handler: impl Fn(&Record) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        self.subscribe_handler(topics, subscription, Handler::sync(handler))
    }

    /// Subscribes an async handler to a topic, or several; see [`Runtime::subscribe_async`].
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_async<F, Fut>(
        &self,
        topics: impl Into<Topics>,
        subscription: Subscription,
        handler: F,
    ) -> Subscribing
    where
        F: Fn(RecordRef) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Handled> + Send + 'static,
    {
        self.subscribe_handler(topics, subscription, Handler::future(handler))
    }

    /// Subscribes a blocking handler to a topic, or several; see [`Runtime::subscribe_blocking`].
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_blocking(
        &self,
        topics: impl Into<Topics>,
        subscription: Subscription,
        handler: impl Fn(RecordRef) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        self.subscribe_handler(topics, subscription, Handler::blocking(handler))
    }

    /// Subscribes a handler of any kind to a topic, or several.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_handler(
        &self,
        topics: impl Into<Topics>,
        subscription: Subscription,
        handler: Handler,
    ) -> Subscribing {
        self.0.subscribe(topics.into(), subscription, handler, false)
    }

    /// Subscribes a sync handler of envelopes to a topic, or several. What is no envelope, or one of another key than its
    /// record's, fails for good without an attempt.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_envelope(
        &self,
        topics: impl Into<Topics>,
        subscription: Subscription,
        handler: impl Fn(&Envelope<'_>) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        let handler = Handler::sync(move |record| with_envelope(record, &handler));
        self.0.subscribe(topics.into(), subscription, handler, true)
    }

    /// Subscribes an async handler of envelopes to a topic, or several.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_envelope_async<F, Fut>(
        &self,
        topics: impl Into<Topics>,
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
        self.0.subscribe(topics.into(), subscription, handler, true)
    }

    /// Subscribes a blocking handler of envelopes to a topic, or several.
    ///
    /// # Errors
    /// The result's; see [`BusError`].
    pub fn subscribe_envelope_blocking(
        &self,
        topics: impl Into<Topics>,
        subscription: Subscription,
        handler: impl Fn(&Envelope<'_>) -> Handled + Send + Sync + 'static,
    ) -> Subscribing {
        let handler = Handler::blocking(move |record: RecordRef| with_envelope(&record, &handler));
        self.0.subscribe(topics.into(), subscription, handler, true)
    }

    /// How the bus is, and why it is not healthy if it is not: as its threads know, without asking the broker.
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// What happens to the bus, from the oldest of the last 256 events on. Each stream is its own.
    pub fn events(&self) -> Events {
        self.0.events()
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
        // An empty key is none.
        Some(key) if !key.is_empty() && key != envelope.key().as_bytes() => {
            Err(HandlerError::fatal(KeyMismatch))
        }
        _ => handle(&envelope),
    }
}

/// A live subscription on a bus. Dropping it leaves it running.
#[derive(Clone, Debug)]
pub struct BusSubscription {
    pub(crate) subscriber: Subscriber,
    pub(crate) topics: Topics,
}

impl BusSubscription {
    /// Its topics, in the order in which they were given.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &str> {
        self.topics.names()
    }

    /// The subscription in the runtime: its name, its parked keys, swapping its handler.
    pub fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// Replaces the handler; see [`Subscriber::swap`].
    pub fn swap(&self, handler: Handler) -> crate::close::Swap {
        self.subscriber.swap(handler)
    }

    /// Its group: what its positions in its topics belong to.
    pub fn group(&self) -> &str {
        self.subscriber.entry.policy.group_name()
    }

    /// Reads nothing more of its topics until it is [resumed](Self::resume). What was read is handled; of a broker
    /// that does not wait for ever, others of the group may get what is not read.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Reads again.
    pub fn resume(&self) {
        self.set_paused(false);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.subscriber.entry.state.is_paused()
    }

    fn set_paused(&self, paused: bool) {
        self.subscriber.entry.state.set_paused(paused);
        self.subscriber.core.wake_loops();
    }

    /// The failure that stopped it, or one of its sources (a partition of a topic), for as long as that is stopped and the
    /// bus open. Other partitions may go on: the runtime's [`snapshot`](Runtime::snapshot) tells them apart.
    pub fn stopped_by(&self) -> Option<Failure> {
        let subscriber = &self.subscriber;
        subscriber.stopped_by().or_else(|| subscriber.source_stopped_by())
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
