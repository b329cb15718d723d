//! The bus over NATS: JetStream with order per key, publishing, and core NATS.

mod auth;
mod builder;
mod choice;
mod events;
mod io;
mod link;
mod options;
mod publisher;
mod refusal;
mod secret;
mod shared;
mod tls;
mod topic;
mod topology;
mod url;
mod version;

pub use builder::{NatsBuilder, NatsConnecting};
pub use choice::{AckMode, Discard, Retention, Storage, Strategy};
pub use topic::TopicOptions;

use std::fmt;
use std::ops::Deref;

use self::shared::Shared;
use crate::bus::{Bus, BusClosing, BusError, BusReport, Publishing, Subscribing, Transport};
use crate::handler::Handler;
use crate::record::Record;
use crate::runtime::Runtime;
use crate::subscription::Subscription;
use crate::sync::Arc;
use std::time::Duration;

/// A bus over NATS. A [`Bus`] with a few calls more. Clones are the same bus.
#[derive(Clone)]
pub struct NatsBus {
    bus: Bus,
    shared: Arc<Shared>,
}

impl NatsBus {
    /// A builder for a bus over these servers: `nats://[user:password@|token@]host[:port]`, or `tls://` for servers
    /// that are to be reached over TLS only; more of them behind commas. Options may stand in the query:
    /// `nats://a,b?ack_mode=floor&window=1000`. What means something else in a URL is written `%XX`.
    pub fn builder(runtime: &Runtime, servers: &str) -> NatsBuilder {
        NatsBuilder::new(runtime, servers)
    }

    /// The bus alone.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }
}

struct Nats(Arc<Shared>);

impl Transport for Nats {
    fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    fn publish(&self, topic: &str, record: Record) -> Publishing {
        self.0.publish(topic, record, false)
    }

    fn subscribe(
        &self,
        _topic: &str,
        _subscription: Subscription,
        _handler: Handler,
        _envelope: bool,
    ) -> Subscribing {
        Subscribing::ready(&self.0.runtime, Err(BusError::Closed))
    }

    fn close(&self, _timeout: Duration) -> BusClosing {
        BusClosing::ready(&self.0.runtime, Ok(BusReport::default()))
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
