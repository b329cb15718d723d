//! A topic's first publishes wait until it is sure that its stream is there.

use super::handover::{Order, count};
use super::shared::Shared;
use super::streams::State;
use super::topic::Topic;
use super::topology;
use crate::bus::{BrokerErrorKind, PublishErrorKind};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

impl Shared {
    /// Hands orders of a topic over, once its stream is there: as many as there is room for, in order. Returns the rest.
    pub(super) fn send(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        orders: impl IntoIterator<Item = Order>,
    ) -> Result<(), (PublishErrorKind, Vec<Order>)> {
        // Acquire pairs with the release below: what waited was handed over before.
        if topic.options.at_most_once || topic.ensured.load(Ordering::Acquire) {
            return self.publisher.hand_over_some(orders);
        }
        let mut orders: Vec<Order> = orders.into_iter().collect();
        let mut streams = self.streams.0.lock();
        match streams.get_mut(&topic.stream) {
            Some(State::There) => {
                topic.ensured.store(true, Ordering::Release);
                drop(streams);
                return self.publisher.hand_over_some(orders);
            }
            Some(State::Asked(waiting)) => {
                let room = self.options.publish_most().0.saturating_sub(waiting.len());
                let rest = orders.split_off(room.min(orders.len()));
                waiting.append(&mut orders);
                return if rest.is_empty() { Ok(()) } else { Err((PublishErrorKind::Full, rest)) };
            }
            None => drop(streams.insert(topic.stream.clone(), State::Asked(orders))),
        }
        let (shared, topic) = (self.clone(), topic.clone());
        self.links.control.io.spawn(async move {
            let ensured = shared.ensure(&topic).await;
            shared.ensured(&topic, ensured.err());
        });
        Ok(())
    }

    /// Makes sure of a topic's stream, unless it is known to be there.
    pub(super) async fn ensure(&self, topic: &Topic) -> Result<(), PublishErrorKind> {
        if topic.ensured.load(Ordering::Acquire) {
            return Ok(());
        }
        let ensured = topology::ensure(&self.links.control, &self.options, topic).await;
        ensured.map(drop).map_err(|error| kind(error.kind(), &error.to_string()))
    }

    fn ensured(&self, topic: &Topic, error: Option<PublishErrorKind>) {
        let mut streams = self.streams.0.lock();
        let Some(State::Asked(waiting)) = streams.remove(&topic.stream) else { return };
        let refused = match error {
            Some(kind) => Err((kind, waiting)),
            None => {
                // Under the lock: nobody comes before what has waited.
                let handed = self.publisher.hand_over_some(waiting);
                streams.insert(topic.stream.clone(), State::There);
                topic.ensured.store(true, Ordering::Release);
                handed
            }
        };
        drop(streams);
        if let Err((kind, orders)) = refused {
            for order in orders {
                count(&self.runtime.core().publishes, Err(&kind));
                order.parcel.end(Err(kind.clone()));
            }
        }
    }
}

fn kind(kind: BrokerErrorKind, text: &str) -> PublishErrorKind {
    match kind {
        BrokerErrorKind::MissingTopic => PublishErrorKind::MissingTopic(text.into()),
        BrokerErrorKind::NotPermitted => PublishErrorKind::NotPermitted(text.into()),
        BrokerErrorKind::Mismatch | BrokerErrorKind::Unsupported => {
            PublishErrorKind::Unsupported(text.into())
        }
        _ => PublishErrorKind::Failed(text.into()),
    }
}
