//! Publishing with confirmed results: what callers do, on their threads.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

use super::events::Denial;
use super::handover::{Handover, Id, News, Order, Parcel, Pending};
use super::headers;
use super::link::Links;
use super::options::NatsOptions;
use super::sender::Sender;
use super::topic::{MAX_SUBJECT, Topic};
use super::topic_options::Form;
use crate::bus::{InvalidTopic, PublishError, PublishErrorKind};
use crate::core::Core;
use crate::metrics::Counter;
use crate::record::{MAX_KEY, Record};
use crate::runtime::Runtime;
use crate::sync::Arc;

/// The publishing side of a bus: its thread is the publishing link's.
pub(super) struct Publisher {
    hand: Arc<Handover>,
    core: Arc<Core>,
    hash: RandomState,
    /// Stands in for the hash of a key that is not there.
    spread: Counter,
    wait: Duration,
}

/// What is asked of a publish beside the record itself.
#[derive(Clone, Copy, Default)]
pub(super) struct Wish<'a> {
    /// The id of the event in the payload, which is an envelope.
    pub(super) event: Option<&'a str>,
    /// The id to publish it under, whatever stands in its headers.
    pub(super) id: Option<&'a str>,
    /// The sequence of the subject's last record, if it must be that.
    pub(super) expected: Option<u64>,
    /// A dead letter: it is taken also while the bus closes, since what was read waits for it.
    pub(super) letter: bool,
}

impl Publisher {
    pub(super) fn start(runtime: &Runtime, links: &Links, options: &NatsOptions) -> Self {
        let core = runtime.core().clone();
        let hand = Arc::new(Handover::new(options.publish_window, options.publish_most()));
        let sender = Sender::new(hand.clone(), core.clone(), links, options.publish_room());
        links.publish.io.spawn(sender.run());
        links.publish.io.spawn(tell_denials(links.publish.signals.denials(), hand.clone()));
        let wait = core.config.wait;
        Self { hand, core, hash: RandomState::new(), spread: Counter::default(), wait }
    }

    /// What a record becomes on its way, or why it cannot be published.
    pub(super) fn order(
        &self,
        topic: &Arc<Topic>,
        record: Record,
        wish: Wish<'_>,
    ) -> Result<Order, PublishError> {
        if let Err(kind) = self.check(topic, &record, wish) {
            return Err(PublishError::new(kind, record));
        }
        let key = record.key();
        // Counts on, and only the lower bits count.
        let spread = if key.is_none() { self.spread.next_shared() as u32 } else { 0 };
        let id = match wish.id.or(wish.event) {
            Some(id) if !id.is_empty() => Id::Given(id.into()),
            _ if !wish.letter && record.header(headers::MESSAGE_ID).is_some() => Id::InRecord,
            // Of a letter, and with an expectation, it must be told whether what is there already is this one.
            _ if wish.letter || wish.expected.is_some() || topic.options.assign_ids => {
                Id::Given(uuid::Uuid::now_v7().to_string().into())
            }
            _ => Id::None,
        };
        Ok(Order {
            topic: topic.clone(),
            partition: topic.partition(key, spread),
            id,
            envelope: wish.event.is_some(),
            letter: wish.letter,
            expected: wish.expected,
            key: key.map(|key| self.hash.hash_one((&topic.stream, key))),
            bytes: record.bytes(),
            deadline: self.core.clock.now().after(self.wait),
            parcel: Parcel::new(record),
            doubt: false,
            missed: None,
            asked: false,
        })
    }

    fn check(
        &self,
        topic: &Topic,
        record: &Record,
        wish: Wish<'_>,
    ) -> Result<(), PublishErrorKind> {
        if topic.is_pattern() {
            let rule = "a topic with wildcards can be subscribed to, not published to";
            return Err(PublishErrorKind::InvalidTopic(InvalidTopic::breaking(rule, &topic.name)));
        }
        if record.key().is_some_and(|key| !(1..=MAX_KEY).contains(&key.len())) {
            return Err(PublishErrorKind::InvalidKey);
        }
        let keyed = topic.options.form == Form::Keyed;
        let escaped = |key: &[u8]| key.len().saturating_mul(3);
        let at_most = topic.name.len() + 6 + record.key().map_or(0, escaped);
        // What is surely short enough is not written out to be measured.
        if keyed && at_most > MAX_SUBJECT {
            let bytes = topic.subject(record.key()).len();
            if bytes > MAX_SUBJECT {
                return Err(PublishErrorKind::SubjectTooLong { bytes, most: MAX_SUBJECT });
            }
        }
        if wish.expected.is_some()
            && (!keyed || record.key().is_none() || topic.options.at_most_once)
        {
            let text = "an expected sequence needs a record with a key on a topic with keyed \
                        subjects: `TopicOptions::keyed`";
            return Err(PublishErrorKind::Unsupported(text.into()));
        }
        Ok(())
    }

    /// Hands over as many of these orders as there is room for, in order, and returns the rest. Each waits for its turn
    /// from now on.
    pub(super) fn hand_over_some(
        &self,
        orders: impl IntoIterator<Item = Order>,
    ) -> Result<(), (PublishErrorKind, Vec<Order>)> {
        let deadline = self.core.clock.now().after(self.wait);
        self.hand.push(orders.into_iter().map(|order| Order { deadline, ..order }))
    }

    /// What becomes of an order.
    pub(super) fn pending(&self, order: &Order) -> Pending {
        Pending { parcel: order.parcel.clone(), core: self.core.clone() }
    }

    /// How many records may be under way.
    pub(super) fn window(&self) -> usize {
        self.hand.window()
    }

    /// Takes no more but dead letters, which what was read waits for.
    pub(super) fn refuse_all_but_letters(&self) {
        self.hand.refuse_all_but_letters();
    }

    /// Takes no more, waits for what is under way for at most `timeout`, and gives the rest back: how many.
    pub(super) fn close(&self, timeout: Duration) -> impl Future<Output = usize> + Send + 'static {
        self.hand.refuse();
        let (answer, closed) = oneshot::channel();
        self.hand.tell(News::Close(self.core.clock.now().after(timeout), answer));
        // Not answered if its thread has ended: then nothing is left.
        async move { closed.await.unwrap_or(0) }
    }
}

/// Tells the publisher's thread what the server forbids; it says so to the connection, and not in an answer.
async fn tell_denials(mut denials: Receiver<Denial>, hand: Arc<Handover>) {
    loop {
        match denials.recv().await {
            Ok(denial) if denial.publish => hand.tell(News::Denied(denial.subject)),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.hand.refuse();
    }
}
