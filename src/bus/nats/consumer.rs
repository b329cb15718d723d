//! The loop of one durable consumer: takes deliveries in their order, hands them to the runtime, acknowledges what is
//! finished, and recovers where something may have been lost.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_nats::Subject;

use super::arrival::Numbers;
use super::checkpoint::Checkpoint;
use super::choice::AckMode;
use super::desk::{Command, Desk};
use super::events::Denials;
use super::held::Held;
use super::mark::Marks;
use super::plan::Plan;
use super::poison::Poisons;
use super::pull::Deliveries;
use super::recovery::{Recovery, Why};
use super::sequence::Sequence;
use super::shared::Shared;
use super::watch::Watch;
use crate::bus::{BrokerError, BrokerErrorKind, BusError, BusEvent, BusReport, ReasonKind};
use crate::clock::Time;
use crate::outcome::Failure;
use crate::position::Stored;
use crate::record::Record;
use crate::reply::Answer;
use crate::source::{Source, SourceOptions};
use crate::subscriber::Subscriber;
use crate::sync::Arc;

/// How often finished records are looked for while some are unfinished.
const TICK: Duration = Duration::from_millis(5);
/// How often others are told how far it is while there is much to do.
const SHOW: Duration = Duration::from_millis(50);
/// How often the loop looks around with nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// One durable consumer, or one that is checkpointed, and the source that it feeds.
pub(super) struct Consumer<D> {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Plan,
    pub(super) subscriber: Subscriber,
    pub(super) desk: Arc<Desk>,
    pub(super) deliveries: D,
    pub(super) source: Source,
    pub(super) held: Held,
    pub(super) sequence: Sequence,
    pub(super) recovery: Recovery,
    pub(super) poisons: Poisons,
    pub(super) watch: Watch,
    pub(super) marks: Marks,
    /// Where progress is kept that is not acknowledged.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Taken from the server and not yet by the source, in order.
    pub(super) kept: VecDeque<Kept>,
    /// What is acknowledged at the end of this turn.
    pub(super) to_ack: Vec<Subject>,
    pub(super) now: Time,
    /// After the newest record of the stream, as far as deliveries tell.
    pub(super) end: u64,
    /// What the consumer had not been sent, as of the last delivery.
    pub(super) pending: u64,
    closing: Option<(Time, Vec<Answer<BusReport>>)>,
    /// Who waits for its beginning.
    pub(super) begun: Option<Answer<Result<(), BrokerError>>>,
    /// When what is held was last said to be in progress.
    in_progress: Time,
    /// When others were last told how far it is.
    shown: Time,
    /// What the server forbids on the connection that consumes.
    pub(super) denials: Denials,
}

/// A delivery on its way to the source.
pub(super) struct Kept {
    pub(super) numbers: Numbers,
    pub(super) reply: Subject,
    pub(super) record: Record,
}

impl<D: Deliveries> Consumer<D> {
    pub(super) fn new(
        shared: &Arc<Shared>,
        plan: Plan,
        subscriber: Subscriber,
        desk: Arc<Desk>,
        deliveries: D,
        checkpoint: Option<Checkpoint>,
        begun: Answer<Result<(), BrokerError>>,
    ) -> Result<Self, BusError> {
        let source = subscriber.source(options(&plan, &desk))?;
        let denials = shared.links.consume.signals.denials();
        let now = shared.runtime.clock().now();
        Ok(Self {
            shared: shared.clone(),
            plan,
            subscriber,
            desk,
            deliveries,
            source,
            held: Held::default(),
            sequence: Sequence::from(1),
            recovery: Recovery::new(now),
            poisons: Poisons::default(),
            watch: Watch::default(),
            marks: Marks::default(),
            checkpoint,
            kept: VecDeque::new(),
            to_ack: Vec::new(),
            now,
            end: 0,
            pending: 0,
            closing: None,
            begun: Some(begun),
            in_progress: Time::ZERO,
            shown: Time::ZERO,
            denials,
        })
    }

    /// Runs until the bus or the subscription ends.
    pub(super) async fn run(mut self) {
        let wakers = &self.shared.runtime.core().tasks;
        let waker = self.desk.waker();
        wakers.lock().push(waker.clone());
        loop {
            self.now = self.shared.runtime.clock().now();
            for command in self.desk.take() {
                self.obey(command).await;
            }
            self.settle().await;
            if self.is_over() {
                break;
            }
            self.look_for_loss();
            self.recover().await;
            self.deliver();
            self.pull().await;
            self.watch();
            self.mark();
            self.stay_in_progress().await;
            self.wait().await;
        }
        self.shared.runtime.core().tasks.lock().retain(|other| !other.will_wake(&waker));
        self.end().await;
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Close(deadline, answer) => match &mut self.closing {
                Some((earlier, answers)) => {
                    *earlier = deadline.min(*earlier);
                    answers.push(answer);
                }
                None => self.closing = Some((deadline, vec![answer])),
            },
            Command::Restart(finished, answer) => {
                let mut finished_so_far = None;
                if finished {
                    self.settle().await;
                    self.keep().await;
                    finished_so_far = self.source.ledger().stored();
                }
                // What was shown as acknowledged is: the next life asks for the floor on another connection, which could else
                // be answered before that is read.
                if self.plan.acks != AckMode::Checkpoint && self.deliveries.is_connected() {
                    self.plan.durable.sync(&self.shared.links.consume).await;
                }
                answer.give(self.begin_anew(finished_so_far).await);
            }
            Command::Looked(look) => self.looked(look),
        }
    }

    /// Begins a new assignment: what the old one finishes from here on counts no more. `finished`: what it has, of which the
    /// server may not know yet.
    async fn begin_anew(&mut self, finished: Option<Stored>) -> Result<(), BusError> {
        self.source.stop();
        if self.plan.acks != AckMode::Checkpoint {
            self.plan.resume = finished;
        }
        if self.checkpoint.is_some() {
            let (checkpoint, resume) = self.shared.claim(&self.plan).await?;
            (self.checkpoint, self.plan.resume) = (Some(checkpoint), resume);
        }
        self.open()?;
        self.watch.begin(false, None);
        self.recovery.begin(Why::Begun, self.now);
        Ok(())
    }

    /// Opens a new assignment in the place of the one that is there.
    pub(super) fn open(&mut self) -> Result<(), BusError> {
        self.source.stop();
        self.source = self.subscriber.source(options(&self.plan, &self.desk))?;
        self.kept.drain(..).for_each(|kept| kept.record.recycle_quietly());
        self.held = Held::default();
        self.to_ack.clear();
        self.desk.seen.lock().stopped_by = None;
        self.shared.health.forget(&self.plan.label());
        Ok(())
    }

    pub(super) fn reads(&self) -> bool {
        self.kept.is_empty() && self.is_reading()
    }

    pub(super) fn is_reading(&self) -> bool {
        self.closing.is_none() && !self.recovery.is_under_way() && !self.source.is_stopped()
    }

    /// Notes what is finished, and acknowledges it.
    async fn settle(&mut self) {
        let (to_ack, held, ledger) = (&mut self.to_ack, &mut self.held, self.source.ledger());
        match self.plan.acks {
            AckMode::Each => {
                ledger.advance(|position| to_ack.extend(held.take_finished(position)));
                held.forget_finished();
            }
            AckMode::Floor | AckMode::Checkpoint => {
                ledger.advance(|position| held.finish(position));
                let frontier = ledger.frontier().unwrap_or(0);
                let replies = held.pass(frontier);
                self.to_ack.extend(replies.filter(|_| self.plan.acks == AckMode::Floor));
            }
        }
        let may = !self.to_ack.is_empty() && !self.recovery.is_under_way();
        if may && self.deliveries.is_connected() {
            for reply in self.to_ack.drain(..) {
                // What is not sent is delivered again after the reconnect, and acknowledged then.
                if !self.deliveries.say(reply, b"+ACK").await {
                    break;
                }
            }
            self.source.committed(self.now);
        }
        self.to_ack.clear();
        self.check();
    }

    /// Stops the source for a reason of the bus' own.
    pub(super) fn stop_by(&mut self, why: &str) {
        let failure = Failure { error: why.into(), attempts: 0 };
        self.source.stop_by(self.plan.partition.unwrap_or(0), &failure);
    }

    /// Tells the server of what has been held for long that it is in progress: of all that is held, since what alone is
    /// delivered again comes out of order.
    async fn stay_in_progress(&mut self) {
        let third = self.plan.ack_wait / 3;
        if self.plan.acks == AckMode::Checkpoint
            || self.recovery.is_under_way()
            || self.now.since(self.in_progress) < third
        {
            return;
        }
        let old = self.held.oldest().is_some_and(|since| self.now.since(since) >= third);
        if !old {
            return;
        }
        self.in_progress = self.now;
        let replies: Vec<_> =
            self.held.replies(self.plan.acks == AckMode::Floor).cloned().collect();
        for reply in replies {
            if !self.deliveries.say(reply, b"+WPI").await {
                return;
            }
        }
        self.held.touch(self.now);
    }

    fn show(&mut self) {
        self.shown = self.now;
        self.look_for_denials();
        let held = self.source.ledger().unfinished() + self.kept.len();
        self.source.set_lag(self.pending.saturating_add(held as u64));
        self.source.turn(self.now);
        let stopped_by = self.source.stopped_by();
        let committed = match &self.checkpoint {
            Some(checkpoint) => checkpoint.written(),
            None => self.source.ledger().frontier().or(Some(self.marks.behind)),
        };
        let committed = committed.unwrap_or(0);
        let mut seen = self.desk.seen.lock();
        seen.committed = committed;
        seen.end = self.end;
        if self.source.is_stopped() && seen.stopped_by.is_none() {
            if let Some(failure) = &stopped_by {
                self.shared.health.source_stopped(&self.plan.label(), &failure.error);
            }
            seen.stopped_by = stopped_by;
        }
    }

    /// Takes what has come; with nothing there, sleeps until something comes, is finished, commanded or due.
    async fn wait(&mut self) {
        let busy = self.take_ready();
        // Only once all is read that did come: of what is missing before it the numbers tell.
        if !busy && self.reads() {
            self.look_behind();
        }
        // While it is busy, once in a while: nobody looks so often.
        if !busy || self.now.since(self.shown) >= SHOW {
            self.show();
        }
        if busy || !self.may_sleep() {
            // The connection is driven on this thread, too.
            tokio::task::yield_now().await;
            return;
        }
        let due = if self.held.open() > 0 || !self.kept.is_empty() { TICK } else { IDLE };
        // One that is due waits for the connection now, or for ever: that is looked at again after a while only.
        let again = self.recovery.due_in(self.now).filter(|_| !self.source.is_stopped());
        let due = again.map_or(due, |again| due.min(again.max(TICK)));
        let desk = self.desk.clone();
        let (mut called, mut slept) = (pin!(desk.nudged()), pin!(tokio::time::sleep(due)));
        poll_fn(|cx| {
            // What comes now is not as old as the sleep.
            self.now = self.shared.runtime.clock().now();
            let came = self.reads() && self.poll_taken(cx);
            if came || called.as_mut().poll(cx).is_ready() || slept.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        self.source.ledger().cancel_wait();
    }

    /// Whether nothing that is finished is waited for, or its finisher will call.
    fn may_sleep(&mut self) -> bool {
        let full = self.held.open() >= self.plan.window || self.source.is_full();
        if self.held.open() == 0 || !(full || self.closing.is_some() || !self.kept.is_empty()) {
            return true;
        }
        self.source.ledger().prepare_wait_any()
    }

    fn take_ready(&mut self) -> bool {
        let mut cx = std::task::Context::from_waker(Waker::noop());
        self.reads() && self.poll_taken(&mut cx)
    }

    fn is_over(&mut self) -> bool {
        let core = self.shared.runtime.core();
        if self.shared.is_abandoned() || self.subscriber.entry.state.is_removed() {
            return true;
        }
        let Some((deadline, _)) = &self.closing else { return core.exits() };
        let over = self.now >= *deadline || core.exits() || self.source.is_stopped();
        over || self.source.ledger().unfinished() == 0
    }

    async fn end(mut self) {
        // First: what is delivered from here on would be lost to whoever follows until it is delivered again.
        let _ = self.deliveries.begin_anew().await;
        self.settle().await;
        if self.plan.acks == AckMode::Checkpoint {
            self.keep().await;
        } else if self.deliveries.is_connected() {
            // Whatever was sent on this connection has been read once this is answered.
            self.plan.durable.sync(&self.shared.links.consume).await;
            self.end_marks().await;
        }
        self.show();
        let unfinished = self.source.ledger().unfinished();
        let late = self.desk.end();
        let (subscriber, closing) = (self.subscriber.clone(), self.closing.take());
        self.kept.drain(..).for_each(|kept| kept.record.recycle_quietly());
        self.shared.leave(&self.desk);
        self.shared.health.forget(&self.plan.label());
        self.shared.health.forget(&self.plan.subscription);
        drop(self);
        // The source's end released what was queued; the removal is the rest's end.
        drop(subscriber.remove());
        let report = BusReport { drained: unfinished == 0, unfinished };
        for answer in closing.into_iter().flat_map(|closing| closing.1) {
            answer.give(report);
        }
        for command in late {
            if let Command::Close(_, answer) = command {
                answer.give(report);
            }
        }
    }

    /// The broker says that it cannot go on.
    pub(super) fn failed(&mut self, error: &BrokerError) {
        let (source, text) = (self.plan.label(), error.to_string());
        let health = &self.shared.health;
        let event = match error.kind() {
            BrokerErrorKind::SharedConsumer => {
                health.raise(ReasonKind::SharedConsumer, &source, &*text);
                Some(BusEvent::SharedConsumer { source: source.clone() })
            }
            BrokerErrorKind::Fenced => {
                health.raise(ReasonKind::Fenced, &source, &*text);
                Some(BusEvent::Fenced { source: source.clone() })
            }
            BrokerErrorKind::LostPosition => {
                health.raise(ReasonKind::LostPosition, &source, &*text);
                Some(BusEvent::PositionLost { source: source.clone(), error: text.clone() })
            }
            _ => None,
        };
        if let Some(begun) = self.begun.take() {
            begun.give(Err(error.clone()));
        }
        health.clear(ReasonKind::Barrier, &source);
        event.into_iter().for_each(|event| health.say(event));
        self.stop_by(&text);
    }
}

fn options(plan: &Plan, desk: &Desk) -> SourceOptions {
    SourceOptions {
        name: plan.name().into(),
        window: None,
        resume: plan.resume.clone(),
        waker: desk.waker(),
    }
}
