//! How a NATS bus is set up.

use super::ack_mode::AckMode;
use super::publish_options::PublishOptions;
use super::topic::Topics;

/// What a bus over NATS is told. Made by [`NatsBuilder`](super::NatsBuilder).
#[derive(Clone, Debug)]
pub(super) struct NatsOptions {
    /// The servers' URLs, without any secret.
    pub(super) servers: Vec<String>,
    pub(super) ack_mode: AckMode,
    /// How topics lie on the server.
    pub(super) topics: Topics,
    /// How much may be published and not confirmed.
    pub(super) publishing: PublishOptions,
}
