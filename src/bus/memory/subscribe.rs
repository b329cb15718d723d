//! Subscribing to a topic of a memory bus.

use super::feed::{Command, Feed, Standing};
use super::room::ToTopic;
use super::shared::{Member, Shared};
use crate::bus::keyed::KeyIn;
use crate::bus::{BusError, BusSubscription, InvalidTopic};
use crate::handler::Handler;
use crate::subscription::{DeadLetter, DeadLetterTo, Subscription};
use crate::sync::Arc;

impl Shared {
    pub(super) fn subscribe(
        self: &Arc<Self>,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Result<BusSubscription, BusError> {
        InvalidTopic::check(topic).map_err(BusError::InvalidTopic)?;
        if self.is_closed() {
            return Err(BusError::Closed);
        }
        let dead_letter: Option<Arc<dyn DeadLetter>> = match &subscription.dead_letter {
            DeadLetterTo::Nowhere => None,
            DeadLetterTo::Sink(sink) => Some(sink.clone()),
            DeadLetterTo::Topic(to) => {
                InvalidTopic::check(to).map_err(BusError::InvalidTopic)?;
                self.topic(to).keep();
                let from = topic.into();
                Some(Arc::new(ToTopic { shared: Arc::downgrade(self), from, to: to.clone() }))
            }
        };
        let (name, start) = (subscription.name.clone(), subscription.start);
        let of: Arc<str> = subscription.group_name().into();
        let key_in = if envelope { KeyIn::Envelope } else { KeyIn::Headers };
        let subscriber =
            self.groups.subscribe(&self.runtime, topic, subscription, handler, dead_letter)?;
        let topic = self.topic(topic);
        let group = subscriber.entry.generation;
        let (mut feeds, mut standings) = (Vec::new(), Vec::new());
        for (number, partition) in (0..).zip(topic.partitions.iter()) {
            partition.join(group, &of, start);
            let standing = Arc::<Standing>::default();
            let known = standing.clone();
            feeds.push(Feed::new(&topic, number, &subscriber, key_in, &self.health, known));
            standings.push(standing);
        }
        self.subscriptions.lock().push(Member { name, topic: topic.clone(), group, standings });
        let added = self.ask(|answer| Command::Add { feeds, answer }).and_then(|added| added);
        if let Err(error) = added {
            self.subscriptions.lock().retain(|member| member.group != group);
            topic.partitions.iter().for_each(|partition| partition.leave(group));
            drop(subscriber.remove());
            return Err(error);
        }
        Ok(BusSubscription { subscriber, topic: topic.name.clone() })
    }
}
