//! A publish to a memory bus that may wait for room, and dead letters as such.

use super::faults::Fate;
use super::log::Topic;
use super::shared::Shared;
use crate::bus::InvalidTopic;
use crate::bus::PublishError;
use crate::bus::PublishErrorKind;
use crate::bus::PublishFuture;
use crate::bus::Publishing;
use crate::bus::Topics;
use crate::bus::letter;
use crate::clock::Time;
use crate::record::MAX_KEY;
use crate::record::Position;
use crate::record::Record;
use crate::subscription::DeadLetter;
use crate::subscription::Letter;
use crate::subscription::Sending;
use crate::sync::Arc;
use crate::sync::Weak;
use crate::timer::Alarm;
use crate::wait_list::Place;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

/// Whose record is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publisher {
    /// A caller's: its key is one of the runtime's.
    Own,
    /// A dead letter: with whatever key the record had, and also while the bus closes, since what was read waits for
    /// it.
    Letter,
    /// Somebody's who may do as he likes.
    Foreign,
}

impl Shared {
    /// Publishes a record.
    pub(super) fn publish(
        self: &Arc<Self>,
        topic: &str,
        record: Record,
        publisher: Publisher,
    ) -> Publishing {
        let refuse = |kind: PublishErrorKind, record| {
            self.count(topic, Err(&kind));
            Publishing::ready(Err(PublishError::new(kind, record)))
        };
        if let Err(error) = InvalidTopic::check(topic) {
            return refuse(PublishErrorKind::InvalidTopic(error), record);
        }
        if publisher == Publisher::Own
            && record.key().is_some_and(|key| !(1..=MAX_KEY).contains(&key.len()))
        {
            return refuse(PublishErrorKind::InvalidKey, record);
        }
        let fate = self.faults.fate(topic);
        match fate {
            Fate::Stored | Fate::UnknownStored => {}
            Fate::Failed => {
                return refuse(PublishErrorKind::Failed("an injected fault".into()), record);
            }
            Fate::UnknownLost => {
                return refuse(PublishErrorKind::Unknown("an injected fault".into()), record);
            }
        }
        let own = self.topic(topic);
        let record = match record.timestamp() {
            Some(_) => record,
            None => record.with_timestamp(self.timestamp()),
        };
        let mut room = Room {
            partition: own.partition_of(&record),
            topic: own,
            shared: self.clone(),
            kept: (fate == Fate::UnknownStored).then(|| record.copy()),
            letter: publisher == Publisher::Letter,
            record: Some(record),
            place: None,
            alarm: None,
            deadline: None,
        };
        match room.store() {
            Some(result) => Publishing::ready(result),
            None => Publishing::later(room, self.runtime.clock().clone()),
        }
    }
}

/// A publish, perhaps waiting for room in its partition.
pub(super) struct Room {
    pub(super) shared: Arc<Shared>,
    pub(super) topic: Arc<Topic>,
    pub(super) partition: u32,
    pub(super) record: Option<Record>,
    /// What is given back though it is stored: a fault.
    pub(super) kept: Option<Record>,
    /// Whether it is a dead letter of this bus.
    pub(super) letter: bool,
    pub(super) place: Option<Place>,
    pub(super) alarm: Option<Alarm>,
    pub(super) deadline: Option<Time>,
}

impl Room {
    /// Stores the record, if there is room.
    pub(super) fn store(&mut self) -> Option<Result<Position, PublishError>> {
        let refuses = if self.letter { self.shared.has_ended() } else { self.shared.is_closed() };
        if refuses {
            return self.give_up(PublishErrorKind::Closed).map(Err);
        }
        let record = self.record.take()?;
        let partition = &self.topic.partitions[self.partition as usize];
        match partition.append(self.partition, record) {
            Ok(position) => {
                self.forget();
                self.shared.waker.unpark();
                self.shared.published.add_shared(1);
                let Some(kept) = self.kept.take() else {
                    self.shared.count(&self.topic.name, Ok(position));
                    return Some(Ok(position));
                };
                let kind = PublishErrorKind::Unknown("an injected fault".into());
                self.shared.count(&self.topic.name, Err(&kind));
                Some(Err(PublishError::new(kind, kept)))
            }
            Err(record) => {
                self.record = Some(record);
                // A subscription that was removed meanwhile may be all that keeps it full.
                self.shared.waker.unpark();
                None
            }
        }
    }

    fn forget(&mut self) {
        let waiting = &self.topic.partitions[self.partition as usize].waiting;
        self.place.take().into_iter().for_each(|place| waiting.leave(place));
        let timers = &self.shared.runtime.core().timers;
        self.alarm.take().into_iter().for_each(|alarm| timers.cancel(&alarm));
    }
}

impl Future for Room {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let waiting = &this.topic.partitions[this.partition as usize].waiting;
        this.place = Some(waiting.join(this.place, cx.waker()));
        // After joining: whoever makes room from here on calls.
        if let Some(result) = this.store() {
            return Poll::Ready(result);
        }
        let core = this.shared.runtime.core();
        let now = core.clock.now();
        let wait = core.config.wait;
        let deadline = *this.deadline.get_or_insert_with(|| now.after(wait));
        if now >= deadline {
            return match this.give_up(PublishErrorKind::Full) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            };
        }
        let timers = &this.shared.runtime.core().timers;
        this.alarm.take().into_iter().for_each(|alarm| timers.cancel(&alarm));
        this.alarm = Some(timers.set_task(deadline, cx.waker()));
        Poll::Pending
    }
}

impl PublishFuture for Room {
    fn give_up(&mut self, kind: PublishErrorKind) -> Option<PublishError> {
        let record = self.record.take()?;
        self.forget();
        self.shared.count(&self.topic.name, Err(&kind));
        Some(PublishError::new(kind, record))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Dead letters to a topic of the same bus: the record as it was, and how it failed in headers.
pub(super) struct ToTopic {
    pub(super) shared: Weak<Shared>,
    pub(super) from: Topics,
    pub(super) to: String,
}

impl DeadLetter for ToTopic {
    fn send(&self, letter: Letter) -> Sending {
        let Some(shared) = self.shared.upgrade() else {
            return Box::pin(std::future::ready(Err("the bus is gone".into())));
        };
        let record = letter::record(&letter, self.from.name(letter.record.topic_index()));
        let publishing = shared.publish(&self.to, record, Publisher::Letter);
        letter::sending(publishing)
    }
}
