//! The bus' connections: one for consuming and acknowledging, one for publishing, one for control, each on a thread of
//! its own, so that none waits behind another.

use async_nats::jetstream;

use super::io::Io;
use super::options::NatsOptions;
use crate::bus::{BrokerError, BrokerErrorKind, BusError};
use crate::spawner::Spawner;

/// A connection and the thread that drives it.
pub(super) struct Link {
    pub(super) io: Io,
    pub(super) client: async_nats::Client,
    /// With the bus' domain or API prefix.
    pub(super) jetstream: jetstream::Context,
    /// What subjects of JetStream's API begin with: `$JS.API`, with the bus' domain or prefix.
    pub(super) api: String,
}

/// All connections of a bus.
pub(super) struct Links {
    pub(super) consume: Link,
    pub(super) publish: Link,
    pub(super) control: Link,
}

impl Links {
    /// Connects. Not to be called on one of the threads that it starts.
    pub(super) async fn open(spawner: &Spawner, options: &NatsOptions) -> Result<Self, BusError> {
        Ok(Self {
            consume: Link::open(spawner, options, "nats-con").await?,
            publish: Link::open(spawner, options, "nats-pub").await?,
            control: Link::open(spawner, options, "nats-ctl").await?,
        })
    }
}

impl Link {
    pub(super) async fn open(
        spawner: &Spawner,
        options: &NatsOptions,
        role: &str,
    ) -> Result<Self, BusError> {
        let io = Io::start(spawner, role).map_err(BusError::Thread)?;
        let (answer, reply) = tokio::sync::oneshot::channel();
        let servers = options.servers.clone();
        io.spawn(async move {
            let connected = async_nats::ConnectOptions::new().connect(servers).await;
            let _ = answer.send(connected);
        });
        let unreachable = |text: String| BrokerError::new(BrokerErrorKind::Unreachable, text);
        let client = match reply.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(unreachable(error.to_string()).into()),
            Err(_) => return Err(BusError::Closed),
        };
        let jetstream = jetstream::new(client.clone());
        Ok(Self { io, client, jetstream, api: "$JS.API".to_owned() })
    }
}
