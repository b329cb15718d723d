//! Subscribing: from topics and a policy to consumers that run.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, FromConsumer, IntoConsumerConfig, pull};
use async_nats::jetstream::stream::RetentionPolicy;

use super::checkpoint::{Checkpoint, Found};
use super::choice::{AckMode, Strategy};
use super::consumer::Consumer;
use super::core_counts::CoreCounters;
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
    InvalidTopics, Subscribing, Topics,
};
use crate::clock::Time;
use crate::handler::Handler;
use crate::position::Stored;
use crate::reply::reply;
use crate::subscriber::Subscriber;
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
        topics: Topics,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing {
        if self.is_closed() {
            return Subscribing::ready(&self.runtime, Err(BusError::Closed));
        }
        let (answer, reply) = reply();
        let runtime = self.runtime.clone();
        let shared = self.clone();
        self.links.control.io.spawn(async move {
            answer.give(shared.begin(topics, subscription, handler, envelope).await);
        });
        Subscribing::later(&runtime, reply)
    }

    async fn begin(
        self: &Arc<Self>,
        topics: Topics,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Result<BusSubscription, BusError> {
        let found = self.find_all(&topics)?;
        let dead_letter: Option<Arc<dyn DeadLetter>> = match &subscription.dead_letter {
            DeadLetterTo::Nowhere => None,
            DeadLetterTo::Sink(sink) => Some(sink.clone()),
            DeadLetterTo::Topic(to) => {
                let (shared, from) = (Arc::downgrade(self), topics.clone());
                Some(Arc::new(ToTopic { shared, from, to: to.clone() }))
            }
        };
        // First of all: what it would be refused for must not disturb who reads for the group.
        let runtime = &self.runtime;
        let subscriber =
            self.groups.subscribe(runtime, &topics, subscription, handler, dead_letter)?;
        match self.begin_all(found, &subscriber, envelope).await {
            Ok(()) => Ok(BusSubscription { subscriber, topics }),
            Err(error) => {
                // The loops that have begun end with it.
                drop(subscriber.remove());
                self.members().iter().for_each(|desk| desk.nudge());
                Err(error)
            }
        }
    }

    /// The topics of these names, if they can be those of one subscription.
    fn find_all(&self, topics: &Topics) -> Result<Vec<Arc<Topic>>, BusError> {
        topics.check().map_err(BusError::InvalidTopics)?;
        let found = topics.names().map(|name| self.options.topics.find(name));
        let found: Vec<_> = found.collect::<Result<_, _>>().map_err(BusError::InvalidTopic)?;
        for (place, one) in found.iter().enumerate() {
            if let Some(other) = found[place + 1..].iter().find(|other| one.overlaps(other)) {
                let names = (one.name.to_string(), other.name.to_string());
                return Err(BusError::InvalidTopics(InvalidTopics::Overlap(names.0, names.1)));
            }
        }
        Ok(found)
    }

    /// Begins to read all topics, once all of them were looked at; the error says which one it is about.
    async fn begin_all(
        self: &Arc<Self>,
        topics: Vec<Arc<Topic>>,
        subscriber: &Subscriber,
        envelope: bool,
    ) -> Result<(), BusError> {
        let several = topics.len() > 1;
        let about = |topic: &str, error| if several { named(topic, error) } else { error };
        let key_in = if envelope { KeyIn::Envelope } else { KeyIn::Headers };
        let (mut looked, mut cores) = (Vec::new(), Vec::new());
        for (place, topic) in (0..).zip(topics) {
            let planned = self.plan_topic(&topic, place, &subscriber.entry.policy, key_in).await;
            looked.extend(planned.map_err(|error| about(&topic.name, error))?);
            if topic.options.at_most_once {
                cores.push((place, topic, Arc::<CoreCounters>::default()));
            }
        }
        // Whoever reads there is fenced by this: only once nothing is refused any more.
        let mut plans = Vec::new();
        for plan in looked {
            let name = plan.topic.name.clone();
            plans.push(self.claimed(plan).await.map_err(|error| about(&name, error))?);
        }
        if !cores.is_empty() {
            let counters = cores.iter().map(|(_, _, counters)| counters.clone()).collect();
            self.count_core(subscriber.name().to_owned(), counters);
        }
        for (place, topic, counters) in cores {
            let name = topic.name.clone();
            let begun = self.begin_core(topic, place, subscriber, key_in, counters).await;
            begun.map_err(|error| about(&name, error))?;
        }
        self.begin_streams(plans, subscriber).await.map_err(|(topic, error)| about(&topic, error))
    }

    /// Looks at a topic, and plans its consumers. A topic of core NATS has none.
    async fn plan_topic(
        &self,
        topic: &Topic,
        place: u32,
        policy: &Subscription,
        key_in: KeyIn,
    ) -> Result<Vec<Plan>, BusError> {
        let stream = match topic.options.at_most_once {
            true => None,
            false => Some(topology::ensure(&self.links.control, &self.options, topic).await?),
        };
        if let DeadLetterTo::Topic(to) = &policy.dead_letter {
            self.letters_fit(to, stream.as_ref().map(|stream| &stream.config)).await?;
        }
        let Some(stream) = stream else { return Ok(Vec::new()) };
        let mut plans = Vec::new();
        for partition in topic.partitions() {
            let plan = self.plan(topic, partition, policy, key_in, &stream.config)?;
            plans.push(self.look(Plan { place, ..plan }).await?);
        }
        Ok(plans)
    }

    /// Begins the consumers as planned, and waits until all have begun. An error comes with its topic's name.
    async fn begin_streams(
        self: &Arc<Self>,
        plans: Vec<(Plan, Option<Checkpoint>)>,
        subscriber: &Subscriber,
    ) -> Result<(), (Arc<str>, BusError)> {
        let mut beginnings = Vec::new();
        // Each asks the server a few times, and on some old ones waits until it delivers again by itself.
        let waits = plans.iter().map(|(plan, _)| plan.ack_wait).max().unwrap_or_default();
        let patience = waits + REQUESTS * self.options.request_timeout;
        for (plan, checkpoint) in plans {
            let desk = Arc::<Desk>::default();
            let pulls = plan.durable.pulls(&self.links.consume);
            let client = self.links.consume.client.clone();
            let puller = Puller::new(client, pulls, self.options.ping_interval);
            let (begun, beginning) = reply();
            let topic = plan.topic.name.clone();
            let (subscriber, own) = (subscriber.clone(), desk.clone());
            let name = subscriber.name().to_owned();
            let consumer = Consumer::new(self, plan, subscriber, own, puller, checkpoint, begun)
                .map_err(|error| (topic.clone(), error))?;
            beginnings.push((topic, beginning));
            self.join(Member { name, desk });
            self.links.consume.io.spawn(consumer.run());
        }
        for (topic, beginning) in beginnings {
            let begun = tokio::time::timeout(patience, beginning).await;
            let begun = begun.unwrap_or_else(|_| Some(Err(silent())));
            if let Err(error) = begun.unwrap_or_else(|| Err(gone())) {
                return Err((topic, error.into()));
            }
        }
        Ok(())
    }

    /// The position of a plan, if that is where it says how far it is.
    async fn claimed(&self, mut plan: Plan) -> Result<(Plan, Option<Checkpoint>), BusError> {
        if plan.acks != AckMode::Checkpoint {
            return Ok((plan, None));
        }
        let (checkpoint, resume) = self.claim(&plan).await?;
        plan.resume = resume;
        Ok((plan, Some(checkpoint)))
    }

    /// Looks whether a consumer can begin as planned, before anything is begun.
    async fn look(&self, mut plan: Plan) -> Result<Plan, BusError> {
        let after = plan.topic.options.start_after.is_some();
        if plan.acks == AckMode::Checkpoint {
            if after && !Checkpoint::is_kept(&self.floors(&plan).await?, &plan.key()).await? {
                self.start_after(&mut plan).await?;
            }
            return Ok(plan);
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
                self.change_filter(&mut plan, wished, info.config).await;
            }
        } else if after && self.floors(&plan).await?.get(plan.durable.name()).await?.is_none() {
            self.start_after(&mut plan).await?;
        }
        Ok(plan)
    }

    async fn floors(&self, plan: &Plan) -> Result<Floors, BrokerError> {
        Floors::open(&self.links.control, plan.durable.config.num_replicas.max(1)).await
    }

    /// Has the server give a consumer that is there what one is given that is made now. One that cannot be changed will
    /// do as it is.
    async fn change_filter(&self, plan: &mut Plan, wished: String, there: consumer::Config) {
        let from = there.deliver_policy;
        // As it is but for the filter: an administrator may have changed it.
        let Ok(config) = pull::Config::try_from_consumer_config(there) else { return };
        let config = pull::Config { filter_subject: wished, ..config };
        let changed = Durable { stream: plan.durable.stream.clone(), config };
        match changed.create(&self.links.control, from).await {
            Ok(info) => plan.ask_for(info.config.filter_subject),
            Err(error) => log::info!("{}: {error}", plan.label()),
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
        let floors = self.floors(plan).await?;
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
        key_in: KeyIn,
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
            place: 0,
            partition,
            durable: Durable { stream: stream.name.clone(), config },
            only: None,
            retention: stream.retention,
            acks,
            ack_wait,
            window,
            start: subscription.start,
            key_in,
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

/// The error with the topic that it is about, where that is one of several.
fn named(topic: &str, error: BusError) -> BusError {
    match error {
        BusError::Broker(error) => {
            BrokerError::new(error.kind(), format!("topic {topic:?}: {error}")).into()
        }
        other => other,
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
