//! How a NATS bus is set up.

use std::time::Duration;

use super::ack_mode::AckMode;

/// What a bus over NATS is told. Made by [`NatsBuilder`](super::NatsBuilder).
#[derive(Clone, Debug)]
pub(super) struct NatsOptions {
    /// The servers' URLs, without any secret.
    pub(super) servers: Vec<String>,
    pub(super) ack_mode: AckMode,
    /// How long the server waits for an acknowledgement before it delivers again by itself.
    pub(super) ack_wait: Duration,
    /// Deliveries that may be unacknowledged.
    pub(super) window: usize,
}
