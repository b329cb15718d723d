//! The recovery barrier: where deliveries may have been lost, nothing more is delivered until everything above the floor has
//! been sent again, in order. What of that is running, waiting or finished is absorbed by the ledger.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use async_nats::jetstream::stream::{self, RetentionPolicy};

use super::arrival::Arrival;
use super::choice::AckMode;
use super::consumer::Consumer;
use super::durable::{Reset, stream_info};
use super::floors::Floors;
use super::plan::Plan;
use super::pull::Deliveries;
use super::sequence::Sequence;
use crate::bus::{BrokerError, BrokerErrorKind, BusEvent, BusHealth, ReasonKind};
use crate::clock::Time;
use crate::position::Stored;
use crate::subscription::Start;

/// Between two tries of a recovery, at first and at most.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_MOST: Duration = Duration::from_secs(1);
/// So many barriers for deliveries that went to somebody else, within so long, say that there is somebody else.
const FOREIGN: usize = 3;
const FOREIGN_WITHIN: Duration = Duration::from_secs(60);

/// Why there is a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The consumer begins: what its predecessor held comes first.
    Begun,
    /// The connection is another.
    Reconnected,
    /// The server said nothing for too long.
    Silence,
    /// Deliveries are missing that the connection cannot have lost: somebody else has them.
    Foreign,
    /// Somebody has reset the consumer, or its server has forgotten.
    Restarted,
    /// Somebody has deleted it.
    Gone,
    /// Nobody answers for it.
    NoResponders,
}

impl Why {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Begun => "the consumer begins",
            Self::Reconnected => "the connection was cut",
            Self::Silence => "the server was silent",
            Self::Foreign => "deliveries are missing",
            Self::Restarted => "the consumer's numbers began anew",
            Self::Gone => "the consumer was deleted",
            Self::NoResponders => "nobody leads the consumer",
        }
    }
}

/// Whether a recovery is under way, and what has led to the last ones.
#[derive(Debug)]
pub(super) struct Recovery {
    under_way: Option<Why>,
    /// Whether its beginning was said.
    said: bool,
    /// When it is tried next, and how long after that again.
    due: Time,
    pause: Duration,
    /// The connection that deliveries are followed on.
    connects: Option<u64>,
    /// A connection whose server has not answered a reset though it was there.
    resetless: Option<u64>,
    /// The last barriers for deliveries that went to somebody else.
    foreign: VecDeque<Time>,
}

impl Recovery {
    /// Nothing is delivered before the first one.
    pub(super) fn new() -> Self {
        Self {
            under_way: Some(Why::Begun),
            said: false,
            due: Time::ZERO,
            pause: AGAIN_FIRST,
            connects: None,
            resetless: None,
            foreign: VecDeque::new(),
        }
    }

    pub(super) fn begin(&mut self, why: Why, now: Time) {
        if self.under_way.is_some() {
            return;
        }
        (self.under_way, self.due, self.pause) = (Some(why), now, AGAIN_FIRST);
        if why == Why::Foreign {
            self.foreign.push_back(now);
            while self.foreign.front().is_some_and(|then| now.since(*then) > FOREIGN_WITHIN) {
                self.foreign.pop_front();
            }
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.foreign.len() >= FOREIGN
    }

    /// Whether the connection is another than the one that deliveries were followed on.
    pub(super) fn has_reconnected(&self, connects: u64) -> bool {
        self.connects.is_some_and(|before| before != connects)
    }

    pub(super) fn due_in(&self, now: Time) -> Option<Duration> {
        self.under_way.map(|_| self.due.since(now))
    }

    /// Says that it has begun, once.
    fn say_begun(&mut self, health: &BusHealth, plan: &Plan) -> &'static str {
        let why = self.under_way.map_or("", Why::text);
        if !self.said {
            self.said = true;
            let source = plan.label();
            health.raise(ReasonKind::Barrier, &source, why);
            health.say(BusEvent::BarrierBegun { source, why: why.to_owned() });
        }
        why
    }

    fn knows_no_reset(&self, connects: u64) -> bool {
        self.resetless == Some(connects)
    }

    fn no_reset(&mut self, connects: u64) {
        self.resetless = Some(connects);
    }

    fn put_off(&mut self, now: Time) {
        self.due = now.after(self.pause);
        self.pause = (self.pause * 2).min(AGAIN_MOST);
    }

    fn done(&mut self, connects: u64) {
        (self.under_way, self.said) = (None, false);
        self.connects = Some(connects);
    }
}

impl<D: Deliveries> Consumer<D> {
    /// Goes on with a recovery that is under way.
    pub(super) async fn recover(&mut self) {
        let due = self.recovery.due_in(self.now).is_some_and(|left| left.is_zero());
        if !due || self.source.is_stopped() || !self.deliveries.is_connected() {
            return;
        }
        if self.recovery.is_shared() {
            let error = BrokerError::new(
                BrokerErrorKind::SharedConsumer,
                format!(
                    "somebody else takes deliveries of the consumer {} of stream {}: order cannot be kept; give each service a group of its own",
                    self.plan.durable.name(),
                    self.plan.durable.stream
                ),
            );
            return self.failed(&error);
        }
        let connects = self.deliveries.connects();
        if self.recovery.has_reconnected(connects) {
            self.source.counts().reconnects.add(1);
        }
        let why = self.recovery.say_begun(&self.shared.health, &self.plan);
        match self.restore().await {
            Ok(next) => {
                self.sequence = Sequence::from(next);
                // What comes again is new to the replies, and old to the ledger.
                self.recovery.done(connects);
                if let Some(begun) = self.begun.take() {
                    begun.give(Ok(()));
                }
                self.source.counts().barriers.add(1);
                let source = self.plan.label();
                self.shared.health.clear(ReasonKind::Barrier, &source);
                self.shared.health.say(BusEvent::BarrierEnded { source, why: why.to_owned() });
            }
            // Whoever subscribes hears of any error.
            Err(error) if error.is_retryable() && self.begun.is_none() => {
                log::warn!("{}: {error}", self.plan.label());
                self.recovery.put_off(self.now);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Has everything above the floor come again, in order. The number of the first delivery that does.
    async fn restore(&mut self) -> Result<u64, BrokerError> {
        // What was taken and not delivered comes again.
        self.kept.drain(..).for_each(|kept| kept.record.recycle_quietly());
        self.deliveries.begin_anew().await?;
        self.held.begin_barrier();
        let stream = stream_info(&self.shared.links.control, &self.plan.durable.stream).await?;
        self.end = self.end.max(stream.state.last_sequence + 1);
        if self.plan.acks == AckMode::Checkpoint {
            return self.order_anew(&stream).await;
        }
        // Of a consumer that is not there a server says nothing at all to a reset.
        let Some(info) = self.plan.durable.info(&self.shared.links.control).await? else {
            return self.replace_missing(&stream).await;
        };
        let floor = info.ack_floor.stream_sequence;
        let next = self.next().max((floor > 0).then_some(floor + 1));
        if let Some(from) = self.begin_elsewhere(next, &stream)? {
            return self.make(from).await;
        }
        let connects = self.deliveries.connects();
        if !self.recovery.knows_no_reset(connects) {
            match self.plan.durable.reset(&self.shared.links.consume).await? {
                Reset::Done => return Ok(1),
                Reset::Missing => return self.replace_missing(&stream).await,
                Reset::Unknown => {}
            }
            if self.plan.durable.info(&self.shared.links.control).await?.is_some() {
                self.recovery.no_reset(connects);
            }
        }
        self.replace(&info).await
    }

    /// After what was delivered last in this assignment.
    fn next(&mut self) -> Option<u64> {
        self.source.ledger().newest().map(|newest| newest + 1)
    }

    /// Where it goes on instead, if the place that it was to go on at is there no more.
    fn begin_elsewhere(
        &mut self,
        next: Option<u64>,
        stream: &stream::Info,
    ) -> Result<Option<DeliverPolicy>, BrokerError> {
        let Some(lost) = next.and_then(|next| self.plan.lost(next, stream)) else {
            return Ok(None);
        };
        let source = self.plan.label();
        let Some(from) = self.plan.after_loss() else {
            return Err(BrokerError::new(BrokerErrorKind::LostPosition, lost));
        };
        log::warn!("{source}: {lost}");
        self.shared.health.say(BusEvent::PositionLost { source, error: lost });
        // Numbers begin anew: another assignment.
        self.plan.resume = None;
        self.open()
            .map_err(|error| BrokerError::new(BrokerErrorKind::Failed, error.to_string()))?;
        Ok(Some(from))
    }

    /// Makes the consumer anew, in the place of the one that is there.
    async fn make(&mut self, from: DeliverPolicy) -> Result<u64, BrokerError> {
        let control = &self.shared.links.control;
        self.plan.durable.delete(control).await?;
        self.plan.durable.create(control, from).await?;
        Ok(1)
    }

    /// Of a consumer that is not acknowledged nothing comes again: another begins after what was delivered last.
    async fn order_anew(&mut self, stream: &stream::Info) -> Result<u64, BrokerError> {
        let resumed = self.plan.resume.as_ref().map(Stored::frontier);
        let next = self.next().or(resumed);
        let from = match (self.begin_elsewhere(next, stream)?, next) {
            (Some(from), _) => from,
            (None, Some(next)) => self.plan.from(next),
            (None, None) => self.plan.start(),
        };
        let control = &self.shared.links.control;
        // The old one would be gone after a while; while it is there it only costs the server something.
        let _ = self.plan.durable.delete(control).await;
        self.plan.rename();
        self.plan.durable.create(control, from).await?;
        self.deliveries.aim(self.plan.durable.pulls(&self.shared.links.consume));
        Ok(1)
    }

    /// Without a reset: the consumer is made anew where it was.
    async fn replace(&mut self, info: &Info) -> Result<u64, BrokerError> {
        if self.plan.retention == RetentionPolicy::Interest {
            return self.collect().await;
        }
        let frontier = self.source.ledger().frontier();
        let floor = frontier.unwrap_or(info.ack_floor.stream_sequence + 1);
        // Should this process die in between, its successor finds no consumer, and goes on there.
        let floors = self.floors().await?;
        floors.put(self.plan.durable.name(), floor.to_string()).await?;
        let next = self.make(self.plan.from(floor)).await?;
        floors.remove(self.plan.durable.name()).await?;
        Ok(next)
    }

    /// There is none: it is made where its predecessor was, or where the subscription starts.
    async fn replace_missing(&mut self, stream: &stream::Info) -> Result<u64, BrokerError> {
        let floors = self.floors().await?;
        let name = self.plan.durable.name().to_owned();
        let kept = floors.get(&name).await?;
        let kept = kept.and_then(|(text, _)| std::str::from_utf8(&text).ok()?.parse().ok());
        let place = self.source.ledger().frontier().or(kept).or(match self.plan.start {
            Start::Position(position) => Some(position),
            _ => None,
        });
        let from = match (self.begin_elsewhere(place, stream)?, place) {
            (Some(from), _) => from,
            (None, Some(place)) => self.plan.from(place),
            (None, None) => self.plan.start(),
        };
        self.plan.durable.create(&self.shared.links.control, from).await?;
        if kept.is_some() {
            floors.remove(&name).await?;
        }
        Ok(1)
    }

    /// A consumer whose deletion would lose records: what is unacknowledged comes again after the server's own time, in any
    /// order. All of it is taken, put in order, and delivered before anything new.
    async fn collect(&mut self) -> Result<u64, BrokerError> {
        tokio::time::sleep(self.plan.ack_wait + AGAIN_MOST).await;
        let control = &self.shared.links.control;
        let gone = || BrokerError::new(BrokerErrorKind::Failed, "the consumer is gone");
        let info = self.plan.durable.info(control).await?.ok_or_else(gone)?;
        let wanted = info.num_ack_pending;
        let now = self.shared.runtime.clock().now();
        let mut all = Vec::with_capacity(wanted.min(self.plan.window));
        let mut next = info.delivered.consumer_sequence + 1;
        if wanted > 0 {
            self.deliveries.pull(wanted, 0, now).await;
        }
        while all.len() < wanted {
            let come = poll_fn(|cx| self.deliveries.poll_next(cx, now));
            match tokio::time::timeout(self.plan.ack_wait, come).await {
                Ok(Arrival::Delivery(delivery)) => {
                    next = delivery.numbers.consumer + 1;
                    all.push(*delivery);
                }
                Ok(Arrival::Heartbeat | Arrival::Foreign) => {}
                Ok(_) | Err(_) => {
                    let text = "the server did not deliver again what it has to";
                    return Err(BrokerError::new(BrokerErrorKind::Failed, text));
                }
            }
        }
        all.sort_by_key(|delivery| delivery.numbers.stream);
        for delivery in all {
            let kept = self.read(delivery);
            self.kept.push_back(kept);
        }
        Ok(next)
    }

    async fn floors(&self) -> Result<Floors, BrokerError> {
        let replicas = self.plan.durable.config.num_replicas;
        Floors::open(&self.shared.links.control, replicas).await
    }
}
