//! What a consumer is to do: its topic, its durable, its bounds.

use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::stream::RetentionPolicy;

use super::choice::AckMode;
use super::durable::Durable;
use super::topic::Topic;
use crate::bus::keyed::KeyIn;
use crate::position::Stored;
use crate::subscription::{OnLost, Start};

#[derive(Clone)]
pub(super) struct Plan {
    /// The subscription's name.
    pub(super) subscription: String,
    pub(super) topic: Topic,
    /// Which of the subscription's topics that is.
    pub(super) place: u32,
    pub(super) partition: Option<u32>,
    pub(super) durable: Durable,
    pub(super) retention: RetentionPolicy,
    pub(super) acks: AckMode,
    pub(super) ack_wait: Duration,
    /// Deliveries that may be unfinished.
    pub(super) window: usize,
    pub(super) start: Start,
    pub(super) on_lost: OnLost,
    /// Where else a record's key may be written.
    pub(super) key_in: KeyIn,
    /// What the durable consumer is called, or would be: positions are kept under it.
    pub(super) kept_as: String,
    /// When the stream was made, as far as it was looked at.
    pub(super) made: Option<DateTime>,
    /// Whether it was made anew since.
    pub(super) made_anew: bool,
    /// Where the source goes on.
    pub(super) resume: Option<Stored>,
}

impl Plan {
    /// What its source is called.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.topic.name, self.partition.unwrap_or(0))
    }

    /// What the bus' health calls it.
    pub(super) fn label(&self) -> String {
        format!("{} of {}", self.name(), self.subscription)
    }

    /// What its position is called where the bus keeps it.
    pub(super) fn key(&self) -> String {
        format!("at.{}", self.kept_as)
    }

    /// A new name for a consumer that is made anew.
    pub(super) fn rename(&mut self) {
        self.durable.rename(&format!("{}-{}", self.kept_as, uuid::Uuid::now_v7().simple()));
    }
}
