//! How a consumer's progress is kept on the server.

/// How a consumer's progress is kept on the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum AckMode {
    /// Each record is acknowledged once it is finished. For every kind of stream.
    #[default]
    Each,
    /// One acknowledgement covers everything below the frontier. Not for work queues.
    Floor,
    /// Nothing is acknowledged: the bus keeps the frontier, and what is finished above it, in a key-value bucket. Not for
    /// work queues.
    Checkpoint,
}
