//! What a consumer is to do: its topic, its durable, its bounds.

use std::time::Duration;

use async_nats::jetstream::stream::RetentionPolicy;

use super::ack_mode::AckMode;
use super::durable::Durable;
use super::topic::Topic;
use crate::envelope::{Envelope, extract_key};
use crate::position::Stored;
use crate::record::Record;
use crate::subscription::Start;

#[derive(Clone)]
pub(super) struct Plan {
    pub(super) topic: Topic,
    pub(super) partition: Option<u32>,
    pub(super) durable: Durable,
    pub(super) retention: RetentionPolicy,
    pub(super) acks: AckMode,
    pub(super) ack_wait: Duration,
    /// Deliveries that may be unfinished.
    pub(super) window: usize,
    /// Their bytes.
    pub(super) bytes: usize,
    pub(super) start: Start,
    /// Whether records hold envelopes.
    pub(super) envelope: bool,
    /// Where the source goes on.
    pub(super) resume: Option<Stored>,
}

impl Plan {
    /// What its source is called.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.topic.name, self.partition.unwrap_or(0))
    }
}

/// A record with the key that its envelope or its headers give it, if it has none of its own.
pub(super) fn keyed(record: Record, envelope: bool) -> Record {
    if record.key().is_some() {
        return record;
    }
    let decoded = envelope
        .then(|| Envelope::decode(record.payload()).ok().map(Envelope::into_owned))
        .flatten();
    let headers = record
        .headers()
        .filter_map(|header| Some((std::str::from_utf8(header.name).ok()?, header.value?)));
    match extract_key(decoded.as_ref(), headers, None, None) {
        Ok(key) => {
            let key = key.to_owned();
            record.with_key(key.as_bytes(), decoded)
        }
        Err(_) => record,
    }
}
