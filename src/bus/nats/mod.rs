//! The bus over NATS: JetStream with order per key, publishing, and core NATS.

mod ack_mode;
mod arrival;
mod barrier;
mod batch;
mod consumer;
mod core_sequence;
mod durable;
mod floors;
mod handover;
mod headers;
mod held;
mod inquiry;
mod io;
mod key_token;
mod letter;
mod link;
mod options;
mod plan;
mod publish;
mod publish_options;
mod publisher;
mod pull;
mod sender;
mod sequence;
mod shared;
mod subscribe;
mod topic;
mod topic_options;
mod topology;
mod verdict;
mod window;

pub use batch::{AtomicError, AtomicPublishing};
pub use publish::BatchPublishing;
pub use publish_options::PublishOptions;
pub use topic_options::TopicOptions;

use std::fmt;
use std::ops::Deref;

pub use ack_mode::AckMode;

use self::link::Links;
use self::options::NatsOptions;
use self::publisher::Wish;
use self::shared::Shared;
use self::topic::{TopicRefused, Topics};
use crate::bus::{Bus, BusClosing, BusError, Publishing, Subscribing, Transport};
use crate::handler::Handler;
use crate::record::Record;
use crate::reply::reply;
use crate::runtime::Runtime;
use crate::subscription::Subscription;
use crate::sync::Arc;
use std::time::Duration;

/// A bus over NATS. A [`Bus`] with a few calls more. Clones are the same bus.
#[derive(Clone)]
pub struct NatsBus {
    bus: Bus,
    nats: Arc<Nats>,
}

/// Builds a bus over NATS.
#[must_use = "a builder does nothing until `connect`"]
pub struct NatsBuilder {
    runtime: Runtime,
    options: NatsOptions,
    refused: Option<BusError>,
}

impl NatsBus {
    /// A builder for a bus over these servers: URLs, comma separated.
    pub fn builder(runtime: &Runtime, servers: &str) -> NatsBuilder {
        let servers = servers.split(',').map(str::to_owned).collect();
        let (topics, publishing) = (Topics::default(), PublishOptions::default());
        let ack_mode = AckMode::default();
        let options = NatsOptions { servers, ack_mode, topics, publishing };
        NatsBuilder { runtime: runtime.clone(), options, refused: None }
    }

    /// The bus alone.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }

    /// Publishes a record if the last one of its key has this sequence of the stream, and 0 if there must be none:
    /// optimistic concurrency for an aggregate. The topic's subjects must be [keyed](TopicOptions::keyed).
    ///
    /// # Errors
    /// The result's: [`WrongLastSequence`](crate::PublishErrorKind::WrongLastSequence) if another record came first, and
    /// whatever [`publish`](Bus::publish) says.
    pub fn publish_expecting(&self, topic: &str, record: Record, last_sequence: u64) -> Publishing {
        let wish = Wish { expected: Some(last_sequence), ..Wish::default() };
        self.nats.0.publish_as(topic, record, wish)
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
}

impl NatsBuilder {
    /// How a topic, or the topics of a pattern, lie on the server.
    pub fn topic(mut self, name: &str, options: TopicOptions) -> Self {
        if let Err(refused) = self.options.topics.tell(name, options) {
            self.refused.get_or_insert(match refused {
                TopicRefused::Name(error) => BusError::InvalidTopic(error),
                TopicRefused::Options(error) => BusError::Config(error),
            });
        }
        self
    }

    /// How much may be published and not confirmed.
    pub fn publishing(mut self, options: PublishOptions) -> Self {
        if let Err(error) = options.validate() {
            self.refused.get_or_insert(BusError::Config(error));
        }
        self.options.publishing = options;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// See [`BusError`].
    pub async fn connect(self) -> Result<NatsBus, BusError> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let links = Links::open(&self.runtime.core().spawner, &self.options).await?;
        let shared = Arc::new(Shared::new(self.runtime, self.options, links));
        let nats = Arc::new(Nats(shared));
        Ok(NatsBus { bus: Bus(nats.clone()), nats })
    }

    /// How progress is kept.
    pub fn ack_mode(mut self, mode: AckMode) -> Self {
        self.options.ack_mode = mode;
        self
    }
}

struct Nats(Arc<Shared>);

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
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing {
        self.0.subscribe(topic, subscription, handler, envelope)
    }

    fn close(&self, timeout: Duration) -> BusClosing {
        let (answer, reply) = reply();
        let shared = self.0.clone();
        self.0.links.control.io.spawn(async move {
            shared.publisher.refuse_all_but_letters();
            let mut report = shared.close_consumers(timeout).await;
            report.drained &= shared.publisher.close(timeout).await == 0;
            answer.give(Ok(report));
        });
        BusClosing::later(&self.0.runtime, reply)
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

impl fmt::Debug for NatsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}
