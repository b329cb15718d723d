//! The bus over NATS: JetStream with order per key, publishing, and core NATS.

mod io;
mod link;
mod options;
mod publisher;
mod shared;
mod topic;
mod topology;

use std::fmt;
use std::ops::Deref;

use self::link::Links;
use self::options::NatsOptions;
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

/// Builds a bus over NATS.
#[must_use = "a builder does nothing until `connect`"]
pub struct NatsBuilder {
    runtime: Runtime,
    options: NatsOptions,
}

impl NatsBus {
    /// A builder for a bus over these servers: URLs, comma separated.
    pub fn builder(runtime: &Runtime, servers: &str) -> NatsBuilder {
        let servers = servers.split(',').map(str::to_owned).collect();
        NatsBuilder { runtime: runtime.clone(), options: NatsOptions { servers } }
    }

    /// The bus alone.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }
}

impl NatsBuilder {
    /// Connects.
    ///
    /// # Errors
    /// See [`BusError`].
    pub async fn connect(self) -> Result<NatsBus, BusError> {
        let links = Links::open(&self.runtime.core().spawner, &self.options).await?;
        let shared = Arc::new(Shared { runtime: self.runtime, options: self.options, links });
        Ok(NatsBus { bus: Bus::new(Nats(shared.clone())), shared })
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

impl fmt::Debug for NatsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}
