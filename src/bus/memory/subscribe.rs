//! Subscribing to topics of a memory bus.

use super::feed::{Command, Feed, Standing};
use super::room::ToTopic;
use super::shared::{Member, Shared};
use crate::bus::keyed::KeyIn;
use crate::bus::{BusError, BusSubscription, InvalidTopic, Topics};
use crate::handler::Handler;
use crate::subscription::{DeadLetter, DeadLetterTo, Subscription};
use crate::sync::Arc;

impl Shared {
    pub(super) fn subscribe(
        self: &Arc<Self>,
        topics: &Topics,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Result<BusSubscription, BusError> {
        topics.check().map_err(BusError::InvalidTopics)?;
        for topic in topics.names() {
            InvalidTopic::check(topic).map_err(BusError::InvalidTopic)?;
        }
        if self.is_closed() {
            return Err(BusError::Closed);
        }
        let dead_letter: Option<Arc<dyn DeadLetter>> = match &subscription.dead_letter {
            DeadLetterTo::Nowhere => None,
            DeadLetterTo::Sink(sink) => Some(sink.clone()),
            DeadLetterTo::Topic(to) => {
                InvalidTopic::check(to).map_err(BusError::InvalidTopic)?;
                self.topic(to).keep();
                let from = topics.clone();
                Some(Arc::new(ToTopic { shared: Arc::downgrade(self), from, to: to.clone() }))
            }
        };
        let (name, start) = (subscription.name.clone(), subscription.start);
        let of: Arc<str> = subscription.group_name().into();
        let key_in = if envelope { KeyIn::Envelope } else { KeyIn::Headers };
        let subscriber =
            self.groups.subscribe(&self.runtime, topics, subscription, handler, dead_letter)?;
        let group = subscriber.entry.generation;
        let mut feeds = Vec::new();
        for (place, topic) in (0..).zip(topics.names()) {
            let topic = self.topic(topic);
            let mut standings = Vec::new();
            for (number, partition) in (0..).zip(topic.partitions.iter()) {
                partition.join(group, &of, start);
                let standing = Arc::<Standing>::default();
                let known = standing.clone();
                let feed =
                    Feed::new(&topic, place, number, &subscriber, key_in, &self.health, known);
                feeds.push(feed);
                standings.push(standing);
            }
            let name = name.clone();
            self.subscriptions.lock().push(Member { name, topic, group, standings });
        }
        let added = self.ask(|answer| Command::Add { feeds, answer }).and_then(|added| added);
        if let Err(error) = added {
            self.subscriptions.lock().retain(|member| member.group != group);
            for topic in topics.names().map(|topic| self.topic(topic)) {
                topic.partitions.iter().for_each(|partition| partition.leave(group));
            }
            drop(subscriber.remove());
            return Err(error);
        }
        Ok(BusSubscription { subscriber, topics: topics.clone() })
    }
}
