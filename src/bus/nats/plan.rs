//! What a consumer is to do: its topic, its durable, its bounds.

use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::stream::{self, RetentionPolicy};

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
    /// The filter of its records, if its consumer may be given others as well: whatever it asks for, since the server may
    /// have heard of a change that we think it has not, and another process may make one.
    pub(super) only: Option<String>,
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

    /// Has its consumer ask for all that the stream has, where that is one topic's one partition, but for what somebody
    /// has put beside it: to look for a pattern among many subjects takes the server several times longer than to give
    /// all of them. What is not the partition's is then left out here, and said to be done with; so nobody else's
    /// records may go with that. In `Floor` it counts as unfinished, for the server, until what is before it is finished.
    pub(super) fn widen(&mut self, stream: &stream::Config) {
        if self.may_leave_out() {
            self.only = self.topic.filters(self.partition).into_iter().next();
        }
        if let [subject] = &stream.subjects[..]
            && self.is_whole(subject)
        {
            self.ask_for(subject.clone());
        }
    }

    /// Whether a consumer with this filter will do, be it another than would be made: the topic may have had one partition
    /// when it was made.
    pub(super) fn may_ask_for(&self, filter: &str) -> bool {
        let own = self.topic.filters(self.partition);
        own == [filter] || self.may_leave_out() && self.topic.filters(None) == [filter]
    }

    fn is_whole(&self, filter: &str) -> bool {
        let single = self.partition == Some(0) && self.topic.options.partitions == 1;
        single && self.may_leave_out() && self.topic.filters(None) == [filter]
    }

    /// Whether saying that another's record is done with takes it from nobody.
    fn may_leave_out(&self) -> bool {
        self.retention == RetentionPolicy::Limits
            && self.partition.is_some()
            && !self.topic.is_pattern()
    }

    /// Has its consumer ask for this.
    pub(super) fn ask_for(&mut self, filter: String) {
        self.durable.config.filter_subject = filter;
    }

    /// Whether a subject that its consumer is given is one of its own.
    pub(super) fn takes(&self, subject: &str) -> bool {
        let Some(only) = &self.only else { return true };
        match only.strip_suffix('*') {
            // Of as many parts as the filter: the server sends no other.
            Some(before) => subject.starts_with(before),
            None => subject == only,
        }
    }

    /// A new name for a consumer that is made anew.
    pub(super) fn rename(&mut self) {
        self.durable.rename(&format!("{}-{}", self.kept_as, uuid::Uuid::now_v7().simple()));
    }
}
