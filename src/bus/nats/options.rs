//! How a NATS bus is set up.

use super::ack_mode::AckMode;

/// What a bus over NATS is told. Made by [`NatsBuilder`](super::NatsBuilder).
#[derive(Clone, Debug)]
pub(super) struct NatsOptions {
    /// The servers' URLs, without any secret.
    pub(super) servers: Vec<String>,
    pub(super) ack_mode: AckMode,
}
