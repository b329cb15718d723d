//! What a bus publishes: single records, batches, and batches that are stored as a whole or not at all.

use super::handover::count;
use super::publisher::Wish;
use super::shared::Shared;
use crate::bus::{PublishError, PublishErrorKind, Publishing};
use crate::record::Record;

impl Shared {
    /// Publishes a record; a `letter` also while the bus closes, since what was read waits for it.
    pub(super) fn publish(&self, topic: &str, record: Record, letter: bool) -> Publishing {
        self.publish_as(topic, record, Wish { letter, ..Wish::default() })
    }

    /// Publishes a record as it is wished.
    pub(super) fn publish_as(&self, topic: &str, record: Record, wish: Wish<'_>) -> Publishing {
        let topic = match self.options.topics.find(topic) {
            Ok(topic) => topic,
            Err(error) => {
                let kind = PublishErrorKind::InvalidTopic(error);
                count(&self.runtime.core().publishes, Err(&kind));
                return Publishing::ready(Err(PublishError::new(kind, record)));
            }
        };
        match self.publisher.order(&topic, record, wish) {
            Ok(order) => self.publisher.hand_over(order, wish.letter),
            Err(error) => Publishing::ready(Err(error)),
        }
    }
}
