//! Subscribing: from a topic and a policy to a consumer that runs.

use std::time::Duration;

use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::stream::RetentionPolicy;

use super::ack_mode::AckMode;
use super::consumer::{Command, Consumer, Desk};
use super::durable::{self, Durable};
use super::plan::Plan;
use super::pull::Puller;
use super::shared::{Member, Shared};
use super::topic::Topic;
use super::topology;
use crate::bus::{BrokerError, BrokerErrorKind, BusError, BusReport, BusSubscription, Subscribing};
use crate::handler::Handler;
use crate::reply::reply;
use crate::subscription::{DeadLetter, DeadLetterTo, Subscription};
use crate::sync::Arc;

impl Shared {
    pub(super) fn subscribe(
        self: &Arc<Self>,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing {
        let (answer, reply) = reply();
        let runtime = self.runtime.clone();
        let (shared, topic) = (self.clone(), topic.to_owned());
        self.links.control.io.spawn(async move {
            answer.give(shared.begin(&topic, subscription, handler, envelope).await);
        });
        Subscribing::later(&runtime, reply)
    }

    async fn begin(
        self: &Arc<Self>,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Result<BusSubscription, BusError> {
        let topic = Topic::new(topic).map_err(BusError::InvalidTopic)?;
        let dead_letter: Option<Arc<dyn DeadLetter>> = match &subscription.dead_letter {
            DeadLetterTo::Nowhere => None,
            DeadLetterTo::Sink(sink) => Some(sink.clone()),
            DeadLetterTo::Topic(_) => None,
        };
        let stream = topology::ensure(&self.links.control, &self.options, &topic).await?;
        let plan = self.plan(&topic, &subscription, envelope, &stream.config)?;
        if let Some(info) = plan.durable.info(&self.links.control).await? {
            if let Some(wrong) = durable::mismatch(&plan.durable.config, &info.config) {
                return Err(BrokerError::new(
                    BrokerErrorKind::Mismatch,
                    format!(
                        "the consumer {} of stream {} is not as this bus needs it: {wrong}; delete it or take another group",
                        plan.durable.name(),
                        plan.durable.stream
                    ),
                )
                .into());
            }
        }
        let name = subscription.name().to_owned();
        let subscriber = self.runtime.subscribe_with(subscription, handler, dead_letter)?;
        let desk = Arc::<Desk>::default();
        let pulls = plan.durable.pulls(&self.links.consume);
        let puller = Puller::new(self.links.consume.client.clone(), pulls);
        let consumer = Consumer::new(self, plan, subscriber.clone(), desk.clone(), puller)?;
        self.join(Member { name, desk });
        self.links.consume.io.spawn(consumer.run());
        Ok(BusSubscription { subscriber, topic: topic.name })
    }

    fn plan(
        &self,
        topic: &Topic,
        subscription: &Subscription,
        envelope: bool,
        stream: &async_nats::jetstream::stream::Config,
    ) -> Result<Plan, BusError> {
        let acks = self.options.ack_mode;
        if acks != AckMode::Each && stream.retention == RetentionPolicy::WorkQueue {
            return Err(BrokerError::new(
                BrokerErrorKind::Unsupported,
                format!("stream {} is a work queue: acknowledge each record there", stream.name),
            )
            .into());
        }
        let policy = if acks == AckMode::Floor { AckPolicy::All } else { AckPolicy::Explicit };
        let config = durable::config(
            topic.durable(subscription.name(), None),
            topic.filters(None),
            policy,
            self.options.ack_wait,
            self.options.window,
            stream.num_replicas,
        );
        Ok(Plan {
            topic: topic.clone(),
            partition: None,
            durable: Durable { stream: stream.name.clone(), config },
            retention: stream.retention,
            acks,
            ack_wait: self.options.ack_wait,
            window: self.options.window,
            bytes: self.options.source_bytes,
            start: subscription.start,
            envelope,
            resume: None,
        })
    }

    /// Ends all consumers: reads no more, and lets what was read be handled for at most `timeout`.
    pub(super) async fn close_consumers(&self, timeout: Duration) -> BusReport {
        let deadline = self.runtime.clock().now().after(timeout);
        let replies: Vec<_> = self
            .members()
            .into_iter()
            .filter_map(|desk| {
                let (answer, reply) = reply();
                desk.tell(Command::Close(deadline, answer)).ok().map(|()| reply)
            })
            .collect();
        let mut report = BusReport { drained: true, unfinished: 0 };
        for reply in replies {
            // A loop that ends otherwise answers nobody.
            let one = reply.await.unwrap_or_default();
            report.drained &= one.drained;
            report.unfinished += one.unfinished;
        }
        report
    }
}
