//! Subscribing: from a topic and a policy to a consumer that runs.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, IntoConsumerConfig};
use async_nats::jetstream::stream::RetentionPolicy;

use super::checkpoint::{Checkpoint, Found};
use super::choice::{AckMode, Strategy};
use super::consumer::Consumer;
use super::desk::{Command, Desk};
use super::durable::{self, Durable};
use super::floors::Floors;
use super::letter::ToTopic;
use super::place::floor;
use super::plan::Plan;
use super::pull::Puller;
use super::shared::{Closing, Member, Shared};
use super::topic::Topic;
use super::topology;
use crate::bus::keyed::KeyIn;
use crate::bus::{
    BrokerError, BrokerErrorKind, BusClosing, BusError, BusEvent, BusReport, BusSubscription,
    Subscribing,
};
use crate::clock::Time;
use crate::handler::Handler;
use crate::position::Stored;
use crate::reply::reply;
use crate::subscription::{DeadLetter, DeadLetterTo, Start, Subscription};
use crate::sync::Arc;

/// The usual time after which a delivery is taken for lost.
const ACK_WAIT: Duration = Duration::from_secs(120);
/// And where a recovery has to wait for as long.
const ACK_WAIT_SHORT: Duration = Duration::from_secs(5);

/// Requests that the beginning of a consumer may take.
const REQUESTS: u32 = 8;

impl Shared {
    pub(super) fn subscribe(
        self: &Arc<Self>,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing {
        if self.is_closed() {
            return Subscribing::ready(&self.runtime, Err(BusError::Closed));
        }
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
        let topic = self.options.topics.find(topic).map_err(BusError::InvalidTopic)?;
        let dead_letter: Option<Arc<dyn DeadLetter>> = match &subscription.dead_letter {
            DeadLetterTo::Nowhere => None,
            DeadLetterTo::Sink(sink) => Some(sink.clone()),
            DeadLetterTo::Topic(to) => Some(Arc::new(ToTopic {
                shared: Arc::downgrade(self),
                from: topic.name.clone(),
                to: to.clone(),
            })),
        };
        let letters_to = match &subscription.dead_letter {
            DeadLetterTo::Topic(to) => Some(to.clone()),
            DeadLetterTo::Nowhere | DeadLetterTo::Sink(_) => None,
        };
        if topic.options.at_most_once {
            if let Some(to) = &letters_to {
                self.letters_fit(to, None).await?;
            }
            return self.begin_core(topic, subscription, handler, envelope, dead_letter).await;
        }
        let stream = topology::ensure(&self.links.control, &self.options, &topic).await?;
        if let Some(to) = &letters_to {
            self.letters_fit(to, Some(&stream.config)).await?;
        }
        let mut plans = Vec::new();
        for partition in topic.partitions() {
            let plan = self.plan(&topic, partition, &subscription, envelope, &stream.config)?;
            plans.push(self.look(plan).await?);
        }
        let name = subscription.name().to_owned();
        let subscriber = self.groups.subscribe(
            &self.runtime,
            &topic.name,
            subscription,
            handler,
            dead_letter,
        )?;
        let mut beginnings = Vec::new();
        // Each asks the server a few times, and on some old ones waits until it delivers again by itself.
        let waits = plans.iter().map(|(plan, _)| plan.ack_wait).max().unwrap_or_default();
        let patience = waits + REQUESTS * self.options.request_timeout;
        for (plan, checkpoint) in plans {
            let desk = Arc::<Desk>::default();
            let pulls = plan.durable.pulls(&self.links.consume);
            let puller = Puller::new(self.links.consume.client.clone(), pulls);
            let (begun, beginning) = reply();
            beginnings.push(beginning);
            let consumer = Consumer::new(
                self,
                plan,
                subscriber.clone(),
                desk.clone(),
                puller,
                checkpoint,
                begun,
            )?;
            self.join(Member { name: name.clone(), desk });
            self.links.consume.io.spawn(consumer.run());
        }
        for beginning in beginnings {
            let begun = tokio::time::timeout(patience, beginning).await;
            let begun = begun.unwrap_or_else(|_| Some(Err(silent())));
            if let Err(error) = begun.unwrap_or_else(|| Err(gone())) {
                // The others' loops end with it.
                drop(subscriber.remove());
                self.members().iter().for_each(|desk| desk.nudge());
                return Err(error.into());
            }
        }
        Ok(BusSubscription { subscriber, topic: topic.name.clone() })
    }

    /// Looks whether a consumer can begin as planned, before anything is begun.
    async fn look(&self, mut plan: Plan) -> Result<(Plan, Option<Checkpoint>), BusError> {
        if plan.acks == AckMode::Checkpoint {
            let (checkpoint, resume) = self.claim(&plan).await?;
            plan.resume = resume;
            if plan.resume.is_none() {
                self.start_after(&mut plan).await?;
            }
            return Ok((plan, Some(checkpoint)));
        }
        let info = plan.durable.info(&self.links.control).await?;
        if let Some(info) = info {
            if self.options.ack_wait.is_none() {
                // It may have been made by a server of another version.
                (plan.ack_wait, plan.durable.config.ack_wait) =
                    (info.config.ack_wait, info.config.ack_wait);
            }
            let wished = plan.durable.config.filter_subject.clone();
            let there = &info.config.filter_subject;
            let other = *there != wished && plan.may_ask_for(there);
            if other {
                plan.ask_for(there.clone());
            }
            let wanted = plan.durable.config.clone().into_consumer_config();
            topology::check_consumer(&wanted, &info.config)?;
            if other && self.options.topology == Strategy::CreateOrUpdate {
                self.change_filter(&mut plan, wished, info.config.deliver_policy).await;
            }
        } else if plan.topic.options.start_after.is_some() {
            let floors = Floors::open(&self.links.control, plan.durable.config.num_replicas);
            if floors.await?.get(plan.durable.name()).await?.is_none() {
                self.start_after(&mut plan).await?;
            }
        }
        Ok((plan, None))
    }

    /// Has the server give a consumer that is there what one is given that is made now. One that cannot be changed will
    /// do as it is.
    async fn change_filter(&self, plan: &mut Plan, wished: String, policy: DeliverPolicy) {
        let before = plan.durable.config.filter_subject.clone();
        plan.ask_for(wished);
        match plan.durable.create(&self.links.control, policy).await {
            Ok(info) => plan.ask_for(info.config.filter_subject),
            Err(error) => {
                log::info!("{}: {error}", plan.label());
                plan.ask_for(before);
            }
        }
    }

    /// Has a consumer without a stored position begin behind another, if that is asked for.
    async fn start_after(&self, plan: &mut Plan) -> Result<(), BusError> {
        let Some(name) = &plan.topic.options.start_after else { return Ok(()) };
        let stream = &plan.durable.stream;
        let mut other = plan.durable.clone();
        other.config.durable_name = Some(name.clone());
        let Some(info) = other.info(&self.links.control).await? else {
            let text = format!(
                "stream {stream} has no consumer {name}: name the one that `start_after` is to begin behind, or leave \
                 that out"
            );
            return Err(BrokerError::new(BrokerErrorKind::Mismatch, text).into());
        };
        plan.start = Start::Position(floor(&info).saturating_add(1));
        Ok(())
    }

    /// Claims the position of a consumer that is not acknowledged, and says where it stands.
    pub(super) async fn claim(
        &self,
        plan: &Plan,
    ) -> Result<(Checkpoint, Option<Stored>), BusError> {
        let control = &self.links.control;
        let replicas = plan.durable.config.num_replicas.max(1);
        let floors = Floors::open(control, replicas).await?;
        let (checkpoint, found) =
            Checkpoint::claim(floors, plan.key(), self.options.checkpoint_interval).await?;
        let resume = match found {
            Found::Nothing => None,
            Found::Stored(stored) => Some(stored),
            // Nothing is passed over: whatever the stream has is handled again.
            Found::Unreadable(why) => {
                let error = format!("{why}; everything is handled again");
                self.health.say(BusEvent::PositionLost { source: plan.label(), error });
                Some(Stored::new(0))
            }
        };
        Ok((checkpoint, resume))
    }

    fn plan(
        &self,
        topic: &Topic,
        partition: Option<u32>,
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
        if acks == AckMode::Checkpoint && stream.retention != RetentionPolicy::Limits {
            let text = format!(
                "stream {} keeps a record until its consumers acknowledge it, and checkpoints do not: set `ack_mode` to \
                 `each` or `floor`, or its retention to `limits`",
                stream.name
            );
            return Err(BrokerError::new(BrokerErrorKind::Unsupported, text).into());
        }
        let kept_as = topic.durable(subscription.group_name(), partition);
        let (name, filters) = (kept_as.clone(), topic.filters(partition));
        let slow =
            stream.retention == RetentionPolicy::Interest && !self.links.consume.version().resets();
        let usual = if slow { ACK_WAIT_SHORT } else { ACK_WAIT };
        let (ack_wait, window) = (self.options.ack_wait.unwrap_or(usual), self.options.window);
        let durable = |policy| {
            durable::config(name, filters.clone(), policy, ack_wait, window, stream.num_replicas)
        };
        let config = match acks {
            AckMode::Each => durable(AckPolicy::Explicit),
            AckMode::Floor => durable(AckPolicy::All),
            AckMode::Checkpoint => durable::ordered(filters),
        };
        let mut plan = Plan {
            subscription: subscription.name().to_owned(),
            topic: topic.clone(),
            partition,
            durable: Durable { stream: stream.name.clone(), config },
            only: None,
            retention: stream.retention,
            acks,
            ack_wait,
            window,
            start: subscription.start,
            key_in: if envelope { KeyIn::Envelope } else { KeyIn::Headers },
            on_lost: subscription.on_lost,
            kept_as,
            made: None,
            made_anew: false,
            resume: None,
        };
        plan.widen(stream);
        Ok(plan)
    }

    /// Ends the bus: reads no more, and lets what was read be handled for at most `timeout`. Everybody who asks hears the
    /// same.
    pub(super) fn close(self: &Arc<Self>, timeout: Duration) -> BusClosing {
        let deadline = self.runtime.clock().now().after(timeout);
        let (answer, reply) = reply();
        let first = match &mut *self.closing.lock() {
            Closing::Closed(report) => return BusClosing::ready(&self.runtime, Ok(*report)),
            Closing::Open(waiting) => {
                waiting.push(answer);
                waiting.len() == 1
            }
        };
        let shared = self.clone();
        if first {
            self.publisher.refuse_all_but_letters();
        }
        self.links.control.io.spawn(async move {
            let mut report = shared.close_consumers(deadline).await;
            if first {
                let left = deadline.since(shared.runtime.clock().now());
                report.drained &= shared.publisher.close(left).await == 0;
                shared.closed(report);
            }
        });
        BusClosing::later(&self.runtime, reply)
    }

    fn closed(&self, report: BusReport) {
        let before = std::mem::replace(&mut *self.closing.lock(), Closing::Closed(report));
        self.health.end("the bus is closed");
        if let Closing::Open(waiting) = before {
            waiting.into_iter().for_each(|answer| answer.give(Ok(report)));
        }
    }

    /// Ends all consumers.
    async fn close_consumers(&self, deadline: Time) -> BusReport {
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

fn silent() -> BrokerError {
    let text =
        "the consuming connection is not there, and was not for as long as a subscribe waits";
    BrokerError::new(BrokerErrorKind::Unreachable, text)
}

fn gone() -> BrokerError {
    BrokerError::new(BrokerErrorKind::Failed, "the bus was closed meanwhile")
}
