//! The bus over NATS: JetStream with order per key, publishing, and core NATS.

mod ack_mode;
mod arrival;
mod barrier;
mod checkpoint;
mod consumer;
mod durable;
mod floors;
mod held;
mod io;
mod link;
mod options;
mod plan;
mod publisher;
mod pull;
mod sequence;
mod shared;
mod subscribe;
mod topic;
mod topology;

use std::fmt;
use std::ops::Deref;

pub use ack_mode::AckMode;

use self::consumer::Command;
use self::link::Links;
use self::options::NatsOptions;
use self::shared::Shared;
use crate::bus::{Bus, BusClosing, BusError, Publishing, Subscribing, Transport};
use crate::handler::Handler;
use crate::record::Record;
use crate::reply::{block_on, reply};
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
}

impl NatsBus {
    /// A builder for a bus over these servers: URLs, comma separated.
    pub fn builder(runtime: &Runtime, servers: &str) -> NatsBuilder {
        let servers = servers.split(',').map(str::to_owned).collect();
        NatsBuilder {
            runtime: runtime.clone(),
            options: NatsOptions {
                servers,
                ack_mode: AckMode::default(),
                ack_wait: Duration::from_secs(120),
                window: 10_000,
            },
        }
    }

    /// The bus alone.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }
}

#[cfg(feature = "testing")]
impl NatsBus {
    /// Restarts the consumer of a subscription, as after the death of its process, or with what is finished acknowledged
    /// first. For tests.
    ///
    /// # Errors
    /// [`BusError::NotSubscribed`] if there is none.
    pub fn restart_consumer(&self, name: &str, finished: bool) -> Result<(), BusError> {
        let unknown = || BusError::NotSubscribed(name.to_owned());
        let desk = self.nats.0.member(name).ok_or_else(unknown)?;
        let (answer, mut reply) = reply();
        desk.tell(Command::Restart(finished, answer)).map_err(|_| unknown())?;
        let clock = self.nats.0.runtime.clock();
        block_on(&mut reply, &**clock, None).flatten().unwrap_or(Err(BusError::Closed))
    }

    /// Below which offset everything of a subscription is acknowledged, and the offset after the newest record, as far as
    /// its consumer knows. For tests.
    pub fn progress(&self, name: &str) -> Option<(u64, u64)> {
        let seen = self.nats.0.member(name)?.seen();
        Some((seen.committed, seen.end))
    }
}

impl NatsBuilder {
    /// Connects.
    ///
    /// # Errors
    /// See [`BusError`].
    pub async fn connect(self) -> Result<NatsBus, BusError> {
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

    /// How long the server waits for an acknowledgement before it delivers again by itself.
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.options.ack_wait = wait;
        self
    }

    /// Deliveries that may be unacknowledged.
    pub fn window(mut self, deliveries: usize) -> Self {
        self.options.window = deliveries;
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
        self.0.close(timeout)
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
