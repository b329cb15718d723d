//! How much may be published and not confirmed.

use super::options::NatsOptions;
use super::window::{MOST, Room};

impl NatsOptions {
    /// What may be on its way.
    pub(super) fn publish_room(&self) -> Room {
        Room {
            records: self.publish_window,
            bytes: self.publish_bytes,
            reply: self.publish_timeout,
            patience: self.publish_patience,
        }
    }

    /// Records, and bytes, that may be there in all.
    pub(super) fn publish_most(&self) -> (usize, usize) {
        let records = self.publish_window.saturating_add(self.publish_queue).min(MOST / 2);
        (records, self.publish_bytes.saturating_add(self.publish_queue_bytes))
    }
}
