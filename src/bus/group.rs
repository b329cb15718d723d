//! Who reads a topic for whom: of one bus, one subscription for each group and topic.

use crate::bus::error::{BusError, InvalidGroup};
use crate::bus::health::BusHealth;
use crate::bus::topics::Topics;
use crate::handler::Handler;
use crate::runtime::Runtime;
use crate::subscriber::Subscriber;
use crate::subscription::{DeadLetter, Subscription};
use crate::sync::{Arc, Mutex};
use crate::table::SubscriptionState;

/// The groups of a bus.
#[derive(Debug)]
pub(crate) struct Groups {
    members: Mutex<Vec<Member>>,
    health: BusHealth,
}

/// What reads a topic for a group, until it is removed.
#[derive(Debug)]
struct Member {
    group: String,
    topic: String,
    state: Arc<SubscriptionState>,
}

impl Groups {
    /// The groups of the bus whose health that is.
    pub(crate) fn new(health: &BusHealth) -> Self {
        Self { members: Mutex::default(), health: health.clone() }
    }

    /// Subscribes in the runtime what reads `topics` for its group. Refused, nothing is left of it.
    pub(crate) fn subscribe(
        &self,
        runtime: &Runtime,
        topics: &Topics,
        subscription: Subscription,
        handler: Handler,
        dead_letter: Option<Arc<dyn DeadLetter>>,
    ) -> Result<Subscriber, BusError> {
        // The runtime's own checks come first: a name that it refuses is no group either.
        let group = subscription.group_name().to_owned();
        let of_its_own = subscription.group.is_some() || (1..=255).contains(&group.len());
        if of_its_own {
            InvalidGroup::check(&group).map_err(BusError::InvalidGroup)?;
        }
        if let Some(bytes) = subscription.source_bytes {
            let mut config = runtime.config().clone();
            config.source_bytes = bytes;
            config.validate().map_err(BusError::Config)?;
        }
        let subscriber = runtime.subscribe_with(subscription, handler, dead_letter)?;
        match self.join(&group, topics, &subscriber.entry.state) {
            Ok(()) => {
                let (name, health) = (subscriber.entry.name.clone(), self.health.clone());
                let told = move |error: Option<&str>| health.letters(&name, error);
                subscriber.entry.state.letters().watch(Box::new(told));
                Ok(subscriber)
            }
            Err(error) => {
                drop(subscriber.remove());
                Err(error)
            }
        }
    }

    fn join(
        &self,
        group: &str,
        topics: &Topics,
        state: &Arc<SubscriptionState>,
    ) -> Result<(), BusError> {
        let mut members = self.members.lock();
        members.retain(|member| !member.state.is_removed());
        for topic in topics.names() {
            if members.iter().any(|member| (&*member.group, &*member.topic) == (group, topic)) {
                let (group, topic) = (group.to_owned(), topic.to_owned());
                return Err(BusError::AlreadyInGroup { group, topic });
            }
        }
        members.extend(topics.names().map(|topic| {
            let (group, topic) = (group.to_owned(), topic.to_owned());
            Member { group, topic, state: state.clone() }
        }));
        Ok(())
    }
}
