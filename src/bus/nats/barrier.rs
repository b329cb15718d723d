//! The recovery barrier: where deliveries may have been lost, nothing more is delivered until everything above the floor has
//! been sent again, in order. What of that is running, waiting or finished is absorbed by the ledger.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use async_nats::jetstream::stream::{self, RetentionPolicy};

use super::choice::AckMode;
use super::consumer::Consumer;
use super::durable::{Reset, stream_info};
use super::floors::Floors;
use super::place::floor;
use super::pull::Deliveries;
use super::recovery::Why;
use super::sequence::Sequence;
use crate::bus::{BrokerError, BrokerErrorKind, BusEvent, ReasonKind};
use crate::position::Stored;

/// How long a stream may be missing before that stops its source.
const MISSING: Duration = Duration::from_secs(2);

impl<D: Deliveries> Consumer<D> {
    /// What says that something may have been lost, but for the deliveries themselves.
    pub(super) fn look_for_loss(&mut self) {
        if self.recovery.has_reconnected(self.deliveries.connects()) {
            self.recovery.begin(Why::Reconnected, self.now);
        } else if self.is_reading() && self.kept.is_empty() && self.deliveries.is_silent(self.now) {
            self.recovery.begin(Why::Silence, self.now);
        }
    }

    /// What was dropped last, or went to somebody else, has nothing behind it that would show the gap.
    pub(super) fn look_behind(&mut self) {
        if self.recovery.has_dropped(self.shared.links.consume.signals.drops()) {
            self.recovery.begin(Why::Dropped, self.now);
        } else if self.watch.is_behind(self.sequence.next()) {
            self.recovery.begin(Why::Foreign, self.now);
        }
    }

    /// Goes on with a recovery that is under way.
    pub(super) async fn recover(&mut self) {
        let due = self.recovery.due_in(self.now).is_some_and(|left| left.is_zero());
        if !due || self.source.is_stopped() || !self.deliveries.is_connected() {
            return;
        }
        let connects = self.deliveries.connects();
        if self.recovery.is_shared(connects, self.shared.links.consume.signals.drops()) {
            let error = BrokerError::new(
                BrokerErrorKind::SharedConsumer,
                format!(
                    "somebody else takes deliveries of the consumer {} of stream {}, or deletes it: order cannot be kept; give each service a group of its own",
                    self.plan.durable.name(),
                    self.plan.durable.stream
                ),
            );
            return self.failed(&error);
        }
        if self.recovery.has_reconnected(connects) {
            self.source.counts().reconnects.add(1);
        }
        let why = self.recovery.say_begun(&self.shared.health, &self.plan);
        let restored = self.restore().await;
        // It may have taken long: what is asked for now would else be overdue at once, and the server silent.
        self.now = self.shared.runtime.clock().now();
        match restored {
            Ok(next) => {
                self.sequence = Sequence::from(next);
                // What comes again is new to the replies, and old to the ledger.
                self.recovery.done(connects, self.shared.links.consume.signals.drops());
                self.plan.made_anew = false;
                self.begin_marks();
                self.source.counts().barriers.add(1);
                let source = self.plan.label();
                self.shared.health.clear(ReasonKind::Barrier, &source);
                self.shared.health.say(BusEvent::BarrierEnded { source, why: why.to_owned() });
                // Last: whoever subscribes finds a healthy bus.
                if let Some(begun) = self.begun.take() {
                    begun.give(Ok(()));
                }
            }
            Err(error) if self.may_pass(&error) => {
                let label = self.plan.label();
                log::warn!("{label}: {error}");
                let text = format!("{why}; not over yet: {error}");
                self.shared.health.raise(ReasonKind::Barrier, &label, text);
                self.recovery.put_off(self.now);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Whether an error is worth another try. A stream may be made anew, and was seen just before a subscription begins, by a
    /// server that knew of it before the others: a missing one is given a moment. Whoever subscribes hears of any other.
    fn may_pass(&self, error: &BrokerError) -> bool {
        if error.kind() == BrokerErrorKind::MissingTopic {
            return self.recovery.lasts(self.now) < MISSING;
        }
        self.begun.is_none() && error.is_retryable()
    }

    /// Has everything above the floor come again, in order. The number of the first delivery that does.
    async fn restore(&mut self) -> Result<u64, BrokerError> {
        let newest = self.source.ledger().newest();
        let look = self.poisons.notice(self.deliveries.connects(), newest);
        if look.is_some()
            && let Some(next) = self.go_on_behind().await?
        {
            return Ok(next);
        }
        // What was taken and not delivered comes again.
        if let Some(kept) = self.kept.front() {
            self.watch.back_to(kept.numbers.stream);
        }
        self.kept.drain(..).for_each(|kept| kept.record.recycle_quietly());
        self.deliveries.begin_anew().await?;
        self.held.begin_barrier();
        // The consumer first: its floor may move while the stream is looked at, and is never ahead of that.
        let info = match self.plan.acks {
            AckMode::Checkpoint => None,
            _ => self.plan.durable.info(&self.shared.links.control).await?,
        };
        let stream = stream_info(&self.shared.links.control, &self.plan.durable.stream).await?;
        self.end = self.end.max(stream.state.last_sequence + 1);
        self.plan.look_at(&stream);
        if self.plan.acks == AckMode::Checkpoint {
            return self.order_anew(&stream, look.unwrap_or(0)).await;
        }
        let lost = self.lost_meanwhile(&stream, info.as_ref()).await;
        // Of a consumer that is not there a server says nothing at all to a reset.
        let Some(info) = info else { return self.replace_missing(&stream, lost).await };
        self.marks.stands(&info);
        let floor = floor(&info);
        let next = self.next().max((floor > 0).then_some(floor + 1));
        // A purge moves the floor as well.
        let next = self.watch.lost().or(lost).or(next);
        if let Some(from) = self.begin_elsewhere(next, &stream)? {
            return self.make(from).await;
        }
        self.search(floor + 1, look.unwrap_or(0)).await?;
        self.poisons.begin(floor);
        let connects = self.deliveries.connects();
        // One that is too old does not answer: that would be waited for.
        let resets = self.shared.links.consume.version().resets();
        if resets && !self.recovery.knows_no_reset(connects) {
            match self.plan.durable.reset(&self.shared.links.consume).await? {
                Reset::Done => {
                    // Acknowledgements of before may have come meanwhile: from here on it is counted anew.
                    let info = self.plan.durable.info(&self.shared.links.control).await?;
                    info.iter().for_each(|info| self.marks.stands(info));
                    return Ok(1);
                }
                Reset::Missing => return self.replace_missing(&stream, lost).await,
                Reset::Unknown => {}
            }
            if self.plan.durable.info(&self.shared.links.control).await?.is_some() {
                self.recovery.no_reset(connects);
            }
        }
        self.replace(&info).await
    }

    /// After what was delivered last in this assignment, be it left out.
    fn next(&mut self) -> Option<u64> {
        let newest = self.source.ledger().newest().map(|newest| newest + 1);
        newest.max(self.watch.sent())
    }

    /// Where it goes on instead, if the place that it was to go on at is there no more.
    fn begin_elsewhere(
        &mut self,
        next: Option<u64>,
        stream: &stream::Info,
    ) -> Result<Option<DeliverPolicy>, BrokerError> {
        let whole = self.plan.has_whole(&stream.config) && !self.watch.is_mixed();
        let Some(lost) = next.and_then(|next| self.plan.lost(next, stream, whole)) else {
            self.watch.begin(whole, next);
            return Ok(None);
        };
        let source = self.plan.label();
        let Some(start) = self.plan.after_loss(stream) else {
            return Err(BrokerError::new(BrokerErrorKind::LostPosition, lost));
        };
        log::warn!("{source}: {lost}");
        self.shared.health.say(BusEvent::PositionLost { source, error: lost });
        // Numbers begin anew: another assignment.
        self.plan.resume = None;
        // Should the consumer not be made at once, another try begins there, too.
        self.plan.start = start;
        self.plan.made_anew = false;
        self.watch.begin(whole, None);
        self.open()
            .map_err(|error| BrokerError::new(BrokerErrorKind::Failed, error.to_string()))?;
        Ok(Some(self.plan.start(stream)))
    }

    /// Makes the consumer anew, in the place of the one that is there.
    async fn make(&mut self, from: DeliverPolicy) -> Result<u64, BrokerError> {
        let control = &self.shared.links.control;
        self.plan.durable.delete(control).await?;
        let info = self.plan.durable.create(control, from).await?;
        self.marks.stands(&info);
        Ok(1)
    }

    /// Of a consumer that is not acknowledged nothing comes again: another begins after what was delivered last.
    async fn order_anew(&mut self, stream: &stream::Info, look: usize) -> Result<u64, BrokerError> {
        let resumed = self.plan.resume.as_ref().map(Stored::frontier);
        let next = self.watch.lost().or(self.next()).or(resumed).or(self.plan.place());
        let from = match (self.begin_elsewhere(next, stream)?, next) {
            (Some(from), _) => from,
            (None, Some(next)) => {
                self.search(next, look).await?;
                let next = self.step_over(next).await?;
                self.plan.from(next)
            }
            (None, None) => self.plan.start(stream),
        };
        let control = &self.shared.links.control;
        // The old one would be gone after a while; while it is there it only costs the server something.
        let _ = self.plan.durable.delete(control).await;
        self.plan.rename();
        let info = self.plan.durable.create(control, from).await?;
        self.plan.began(&info);
        self.deliveries.aim(self.plan.durable.pulls(&self.shared.links.consume));
        Ok(1)
    }

    /// Without a reset: the consumer is made anew where it was.
    async fn replace(&mut self, info: &Info) -> Result<u64, BrokerError> {
        if self.plan.retention == RetentionPolicy::Interest {
            return self.collect(info).await;
        }
        let frontier = self.source.ledger().frontier();
        let floor = frontier.unwrap_or(floor(info) + 1);
        // Should this process die in between, its successor finds no consumer, and goes on there.
        let floors = self.floors().await?;
        floors.put(self.plan.durable.name(), floor.to_string()).await?;
        let next = self.make(self.plan.from(floor)).await?;
        floors.remove(self.plan.durable.name()).await?;
        Ok(next)
    }

    /// There is none: it is made where its predecessor was, or where the subscription starts. `lost`: the place of an earlier
    /// life, if that is there no more.
    async fn replace_missing(
        &mut self,
        stream: &stream::Info,
        lost: Option<u64>,
    ) -> Result<u64, BrokerError> {
        let floors = self.floors().await?;
        let name = self.plan.durable.name().to_owned();
        let kept = floors.get(&name).await?;
        let kept = kept.and_then(|(text, _)| std::str::from_utf8(&text).ok()?.parse().ok());
        let place = self.source.ledger().frontier().or(lost).or(kept).or(self.plan.place());
        let from = match (self.begin_elsewhere(place, stream)?, place) {
            (Some(from), _) => from,
            (None, Some(place)) => self.plan.from(place),
            (None, None) => self.plan.start(stream),
        };
        let info = self.plan.durable.create(&self.shared.links.control, from).await?;
        self.plan.began(&info);
        self.marks.stands(&info);
        if kept.is_some() {
            floors.remove(&name).await?;
        }
        Ok(1)
    }

    async fn floors(&self) -> Result<Floors, BrokerError> {
        let replicas = self.plan.durable.config.num_replicas;
        Floors::open(&self.shared.links.control, replicas).await
    }
}
