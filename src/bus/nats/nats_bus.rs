//! The bus itself, as its users hold it.

use std::fmt;
use std::ops::Deref;

use super::batch::AtomicPublishing;
use super::core_counts::CoreCounts;
#[cfg(feature = "testing")]
use super::desk::Command;
use super::publish::BatchPublishing;
use super::publisher::Wish;
use super::shared::Shared;
use super::topology;
use crate::bus::pending::pending;
use crate::bus::{
    Bus, BusClosing, BusError, Events, Health, Publishing, Subscribing, Topics, Transport,
};
use crate::handler::Handler;
use crate::record::Record;
#[cfg(feature = "testing")]
use crate::reply::block_on;
use crate::reply::reply;
use crate::runtime::Runtime;
use crate::subscription::Subscription;
use crate::sync::Arc;
use std::time::Duration;

pending! {
    /// A topic's stream being made sure of: a future, and something a plain thread can wait for.
    ///
    /// # Cancel safety
    /// Dropped, it goes on.
    Ensuring, ()
}

/// A bus over NATS. A [`Bus`] with a few calls more. Clones are the same bus.
#[derive(Clone)]
pub struct NatsBus {
    pub(super) bus: Bus,
    pub(super) nats: Arc<Nats>,
}

impl NatsBus {
    /// Makes sure of a topic's stream now, as the builder's [`topology`](super::NatsBuilder::topology) says, so that a service
    /// fails when it starts and not at its first record. Publishing and subscribing do the same for theirs.
    ///
    /// # Errors
    /// The result's: [`BusError::Broker`] with the kind
    /// [`MissingTopic`](crate::BrokerErrorKind::MissingTopic), [`Mismatch`](crate::BrokerErrorKind::Mismatch) (what is
    /// not as it must be, and what to do) or [`NotPermitted`](crate::BrokerErrorKind::NotPermitted), within
    /// [`request_timeout`](super::NatsBuilder::request_timeout) a request.
    ///
    /// ```no_run
    /// use keylane::{Runtime, nats::NatsBus};
    ///
    /// let runtime = Runtime::builder().build()?;
    /// let bus = NatsBus::builder(&runtime, "nats://localhost").connect().wait()?;
    /// bus.ensure("orders").wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ensure(&self, topic: &str) -> Ensuring {
        let topic = match self.nats.0.options.topics.find(topic) {
            Ok(topic) => topic,
            Err(error) => {
                return Ensuring::ready(&self.nats.0.runtime, Err(BusError::InvalidTopic(error)));
            }
        };
        let (answer, reply) = reply();
        let shared = self.nats.0.clone();
        self.nats.0.links.control.io.spawn(async move {
            let ensured = topology::ensure(&shared.links.control, &shared.options, &topic).await;
            answer.give(ensured.map(drop).map_err(BusError::Broker));
        });
        Ensuring::later(&self.nats.0.runtime, reply)
    }

    /// How often connections of this bus were made anew.
    pub fn reconnects(&self) -> u64 {
        self.nats.0.links.reconnects()
    }

    /// The bus alone.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }

    /// What a subscription to topics of core NATS has counted; `None` if there is none of this name.
    pub fn core_counts(&self, subscription: &str) -> Option<CoreCounts> {
        self.nats.0.core_counts(subscription)
    }

    /// Publishes many records: the result is one for each, in their order. Records of one key are stored in their
    /// order; each is confirmed by itself, so that some may fail.
    pub fn publish_batch(&self, topic: &str, records: Vec<Record>) -> BatchPublishing {
        self.nats.0.publish_batch(topic, records)
    }

    /// Publishes 1 to 1,000 records as a whole: all of them are stored, one behind the other, or none. `expected`: the
    /// sequence that the last record of the first one's key must have; see
    /// [`publish_expecting`](Self::publish_expecting). It is ordered after what was confirmed before it began.
    ///
    /// # Errors
    /// The result's: [`Unsupported`](crate::PublishErrorKind::Unsupported) below version 2.12, or on a stream that does
    /// not allow it; and whatever `publish_expecting` says.
    pub fn publish_atomic(
        &self,
        topic: &str,
        records: Vec<Record>,
        expected: Option<u64>,
    ) -> AtomicPublishing {
        self.nats.0.publish_atomic(topic, records, expected)
    }

    /// Publishes a record if the last one of its key has this sequence of the stream, and 0 if there must be none:
    /// optimistic concurrency for an aggregate. The topic's subjects must be [keyed](super::TopicOptions::keyed).
    ///
    /// # Errors
    /// The result's: [`WrongLastSequence`](crate::PublishErrorKind::WrongLastSequence) if another record came first, and
    /// whatever [`publish`](Bus::publish) says.
    pub fn publish_expecting(&self, topic: &str, record: Record, last_sequence: u64) -> Publishing {
        let wish = Wish { expected: Some(last_sequence), ..Wish::default() };
        self.nats.0.publish_as(topic, record, wish)
    }
}

#[cfg(feature = "internals")]
#[doc(hidden)]
impl NatsBus {
    /// The control connection's client, for our own tests.
    pub fn control(&self) -> &async_nats::Client {
        &self.nats.0.links.control.client
    }
}

#[cfg(feature = "testing")]
impl NatsBus {
    /// Restarts the consumers of a subscription, as after the death of its process, or with what is finished acknowledged
    /// first. For tests.
    ///
    /// # Errors
    /// [`BusError::NotSubscribed`] if there is none.
    pub fn restart_consumer(&self, name: &str, finished: bool) -> Result<(), BusError> {
        let unknown = || BusError::NotSubscribed(name.to_owned());
        let own = self.nats.0.members_of(name);
        if own.is_empty() {
            return Err(unknown());
        }
        let clock = self.nats.0.runtime.clock();
        own.into_iter().try_for_each(|desk| {
            let (answer, mut reply) = reply();
            desk.tell(Command::Restart(finished, answer)).map_err(|_| unknown())?;
            block_on(&mut reply, &**clock, None).flatten().unwrap_or(Err(BusError::Closed))
        })
    }

    /// Of each consumer of a subscription, in the order of its topics and partitions: below which offset everything is
    /// acknowledged, and the offset after the newest record, as far as it knows. For tests.
    pub fn progress(&self, name: &str) -> Vec<(u64, u64)> {
        let seen = self.nats.0.members_of(name).into_iter().map(|desk| desk.seen());
        seen.map(|seen| (seen.committed, seen.end)).collect()
    }
}

pub(super) struct Nats(pub(super) Arc<Shared>);

impl Drop for Nats {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Transport for Nats {
    fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    fn publish(&self, topic: &str, record: Record) -> Publishing {
        self.0.publish(topic, record, false)
    }

    fn publish_event(&self, topic: &str, record: Record, event_id: &str) -> Publishing {
        self.0.publish_as(topic, record, Wish { event: Some(event_id), ..Wish::default() })
    }

    fn subscribe(
        &self,
        topics: Topics,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing {
        self.0.subscribe(topics, subscription, handler, envelope)
    }

    fn close(&self, timeout: Duration) -> BusClosing {
        self.0.close(timeout)
    }

    fn health(&self) -> Health {
        self.0.links.look();
        self.0.health.health()
    }

    fn events(&self) -> Events {
        self.0.health.events()
    }
}

impl Deref for NatsBus {
    type Target = Bus;

    fn deref(&self) -> &Bus {
        &self.bus
    }
}

impl fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NatsBus")
    }
}
