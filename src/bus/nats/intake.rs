//! What a consumer takes in: asks the server for deliveries, follows their numbers, makes records of them, and offers
//! these to the source.

use std::task::{Context, Poll};

use async_nats::{Message, Subject};

use super::arrival::{Arrival, Delivery, Numbers};
use super::checkpoint::Checkpoint;
use super::choice::AckMode;
use super::consumer::{Consumer, Kept};
use super::headers;
use super::pull::Deliveries;
use super::recovery::Why;
use super::sequence::Step;
use crate::bus::keyed::keyed;
use crate::delivery::DeliverError;
use crate::record::Position;
use crate::undelivered::Undelivered;

/// Records asked for at once.
const BATCH: usize = 2_000;
/// Deliveries taken before what is finished is looked at again.
const TURN: usize = 256;
impl<D: Deliveries> Consumer<D> {
    /// Asks for more, if there is room for more.
    pub(super) async fn pull(&mut self) {
        if !self.is_reading() && self.deliveries.expected(self.now) > 0 {
            // What is not read any more is whoever's that reads.
            let _ = self.deliveries.begin_anew().await;
        }
        if !self.reads() || self.source.is_paused() {
            return;
        }
        let expected = self.deliveries.expected(self.now);
        let room = self.plan.window.saturating_sub(self.held.open() + expected);
        let bytes = self.source.room();
        // Before one that cuts the connection they come one by one, so that nothing is lost with it.
        let batch = if self.poisons.ahead().is_some() { 1 } else { BATCH };
        let count = room.min(batch.saturating_sub(expected));
        let worth = count > 0 && (expected == 0 || count >= BATCH.min(self.plan.window) / 2);
        if worth && bytes > 0 {
            let least = self.shared.links.consume.client.max_payload();
            self.deliveries.pull(count, bytes.max(least), self.now).await;
        }
    }

    /// Delivers what is kept, as far as there is room.
    pub(super) fn deliver(&mut self) {
        while !self.watch.waits()
            && let Some(kept) = self.kept.pop_front()
        {
            if let Err(kept) = self.offer(kept) {
                self.kept.push_front(kept);
                break;
            }
        }
        self.source.ring();
    }

    /// Offers a delivery to the source, which is rung before the turn ends. It comes back if there is no room.
    fn offer(&mut self, kept: Kept) -> Result<(), Kept> {
        let Kept { numbers, reply, record } = kept;
        match self.source.put(record) {
            Ok(()) => {
                self.held.add(numbers.stream, reply, self.now);
                self.marks.newest = numbers.consumer;
                if numbers.delivered > 1 {
                    self.subscriber.entry.state.counters.redelivered.add_shared(1);
                }
            }
            Err(
                Undelivered::Full(record)
                | Undelivered::Bytes(record)
                | Undelivered::Stopped(record),
            )
            | Err(Undelivered::Ledger(DeliverError::WindowFull, record)) => {
                return Err(Kept { numbers, reply, record });
            }
            Err(Undelivered::Ledger(DeliverError::InFlight, record)) => {
                record.recycle_quietly();
                self.held.renew(numbers.stream, reply, self.now);
            }
            Err(Undelivered::Ledger(
                DeliverError::AlreadyFinished | DeliverError::Passed,
                record,
            )) => {
                record.recycle_quietly();
                // A floor is acknowledged by what moved it, or once nothing is left.
                if self.plan.acks == AckMode::Each {
                    self.to_ack.push(reply);
                } else if !self.held.renew(numbers.stream, reply.clone(), self.now) {
                    self.held.come_again(reply);
                }
            }
            Err(Undelivered::Ledger(DeliverError::OutOfOrder { .. }, record)) => {
                record.recycle_quietly();
                self.recovery.begin(Why::Foreign, self.now);
            }
            Err(Undelivered::Ledger(error, record)) => {
                record.recycle_quietly();
                self.stop_by(&error.to_string());
            }
            Err(Undelivered::Key(refusal, record)) => {
                let error =
                    format!("record {} of {}: {refusal}", numbers.stream, self.plan.topic.name);
                record.recycle_quietly();
                self.stop_by(&error);
            }
        }
        Ok(())
    }

    /// Takes up to a turn's deliveries, of which the workers are told together. True if there was one.
    pub(super) fn poll_taken(&mut self, cx: &mut Context<'_>) -> bool {
        let taken = self.take_turn(cx);
        self.source.ring();
        taken
    }

    fn take_turn(&mut self, cx: &mut Context<'_>) -> bool {
        for taken in 0..TURN {
            if !self.reads() {
                return taken > 0;
            }
            let Poll::Ready(mut message) = self.deliveries.poll_next(cx) else { return taken > 0 };
            let arrival = self.deliveries.read(&mut message, self.now);
            self.take(arrival, &message);
        }
        true
    }

    #[inline]
    fn take(&mut self, arrival: Arrival, message: &Message) {
        match arrival {
            Arrival::Delivery(delivery) => match self.sequence.follow(&delivery.numbers) {
                Step::Next => {
                    // Of what waits already nothing may be kept: it was left out.
                    let waits = self.watch.follow(&delivery.numbers, self.now) | self.watch.waits();
                    if !self.plan.takes(&message.subject) {
                        return self.leave_out(delivery);
                    }
                    let kept = self.read(delivery, message);
                    let offered = if waits { Err(kept) } else { self.offer(kept) };
                    if let Err(kept) = offered {
                        self.kept.push_back(kept);
                    }
                }
                Step::Gap { .. } => self.recovery.begin(Why::Foreign, self.now),
                Step::Restarted => self.recovery.begin(Why::Restarted, self.now),
            },
            Arrival::Gone => self.recovery.begin(Why::Deleted, self.now),
            Arrival::NoResponders => self.recovery.begin(Why::NoResponders, self.now),
            // A pull that was served whole tells nothing of rest.
            Arrival::Ended { left: 0 } => {}
            // Nobody else knows the name of one that is not acknowledged.
            Arrival::Heartbeat | Arrival::Ended { .. } if self.plan.acks != AckMode::Checkpoint => {
                self.watch.rests(self.sequence.next(), self.now);
            }
            Arrival::Heartbeat | Arrival::Ended { .. } | Arrival::Foreign => {}
        }
    }

    /// Passes by what the consumer is given and is not its own.
    #[cold]
    fn leave_out(&mut self, delivery: Delivery) {
        let Delivery { numbers, reply } = delivery;
        self.follow(&numbers, &reply);
        self.pass_by(reply);
    }

    /// Says that what is not its own is done with.
    pub(super) fn pass_by(&mut self, reply: Subject) {
        self.watch.mix();
        match self.plan.acks {
            AckMode::Each => self.to_ack.push(reply),
            // By the next that is acknowledged, or once nothing is left.
            AckMode::Floor => self.held.come_again(reply),
            AckMode::Checkpoint => {}
        }
    }

    /// Notes how far the server is with this delivery.
    fn follow(&mut self, numbers: &Numbers, reply: &Subject) {
        self.end = self.end.max(numbers.stream + 1 + numbers.pending);
        self.pending = numbers.pending;
        self.poisons.took(numbers.stream, reply);
    }

    /// What fences a handler's effects: the number of the claim, or of the assignment in this process.
    pub(super) fn epoch(&self) -> u64 {
        let epoch = u64::from(self.source.epoch());
        self.checkpoint.as_ref().map_or(epoch, Checkpoint::token)
    }

    /// Makes a record of a delivery.
    pub(super) fn read(&mut self, delivery: Delivery, message: &Message) -> Kept {
        let Delivery { numbers, reply } = delivery;
        let (wire, payload) = (message.headers.as_ref(), &message.payload);
        let record = headers::record(&self.plan.topic, &message.subject, wire, payload);
        let partition = self.plan.partition.unwrap_or(0);
        let position = Position { partition, offset: numbers.stream };
        let record = record
            .delivered(position, numbers.timestamp, self.epoch())
            .with_topic_index(self.plan.place);
        let record = keyed(record, self.plan.key_in);
        self.follow(&numbers, &reply);
        Kept { numbers, reply, record }
    }
}
