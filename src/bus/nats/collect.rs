//! The barrier of a consumer that can neither be set back nor be made anew: of an interest stream, whose records go with the
//! consumer, on a server that knows no reset.
//!
//! What is unacknowledged comes again after the server's own time, in any order. All of it is taken, put in order, and
//! delivered before anything new. What the client library cannot read is kept from coming, and taken from the stream.

use std::future::poll_fn;
use std::time::Duration;

use async_nats::jetstream::consumer::Info;

use super::arrival::{Arrival, Numbers};
use super::choice::AckMode;
use super::consumer::{Consumer, Kept};
use super::place::floor;
use super::pull::Deliveries;
use crate::bus::{BrokerError, BrokerErrorKind};
use crate::delivery::Status;

/// How much later than it says a server may deliver again.
const LATE: Duration = Duration::from_secs(1);
/// How often it is looked whether the connection is still the same.
const LOOK: Duration = Duration::from_millis(100);
/// How often the connection may be cut meanwhile.
const CUTS: usize = 8;
/// How many records are read in search of the next one that cuts it, and how many of these are looked for at once.
const SEARCH: usize = 2_000;
const FOUND: usize = 16;

impl<D: Deliveries> Consumer<D> {
    /// Has everything unacknowledged come again. The number of the delivery that is the next then.
    pub(super) async fn collect(&mut self, info: &Info) -> Result<u64, BrokerError> {
        if info.num_ack_pending == 0 {
            return Ok(info.delivered.consumer_sequence + 1);
        }
        for _ in 0..CUTS {
            // A search is short beside the wait that is lost if something that cuts the connection comes with the rest.
            self.search_all(floor(info) + 1, info.delivered.stream_sequence).await?;
            if let Some(next) = self.collect_uncut().await? {
                return Ok(next);
            }
            self.connected().await?;
            self.deliveries.begin_anew().await?;
        }
        Err(failed("the connection is cut again and again"))
    }

    /// Looks for all that cannot be read of what was delivered, from `from` on if none of it has come: each that was not
    /// found before the wait costs another.
    async fn search_all(&mut self, from: u64, delivered: u64) -> Result<(), BrokerError> {
        let newest = self.source.ledger().newest();
        let mut at = newest.map_or(from, |newest| newest.saturating_add(1));
        for _ in 0..FOUND {
            match self.search_at(at, SEARCH).await? {
                Some(found) if found < delivered => at = found.saturating_add(1),
                _ => break,
            }
        }
        Ok(())
    }

    /// As [`collect`](Self::collect); `None` if the connection was cut meanwhile.
    async fn collect_uncut(&mut self) -> Result<Option<u64>, BrokerError> {
        let connects = self.deliveries.connects();
        let unreadable = self.let_expire().await?;
        let control = &self.shared.links.control;
        let info = self.plan.durable.info(control).await?;
        let info = info.ok_or_else(|| failed("the consumer is gone"))?;
        let wanted = info.num_ack_pending.saturating_sub(unreadable.len());
        let clock = self.shared.runtime.clock().clone();
        let mut until = clock.now().after(self.plan.ack_wait);
        let mut next = info.delivered.consumer_sequence + 1;
        let mut all: Vec<Kept> = Vec::with_capacity(wanted.min(self.plan.window));
        while all.len() < wanted {
            let now = clock.now();
            // Again once a pull has come to its end, which may be sooner than what is awaited.
            if self.deliveries.expected(now) == 0 {
                self.deliveries.pull(wanted - all.len(), 0, now).await;
            }
            let come = poll_fn(|cx| self.deliveries.poll_next(cx));
            let mut come = tokio::time::timeout(LOOK, come).await;
            let arrival = come.as_mut().ok().map(|message| self.deliveries.read(message, now));
            let connected = self.deliveries.connects() == connects;
            let goes_on = connected && now < until;
            match (arrival, &come) {
                (Some(Arrival::Delivery(delivery)), Ok(message)) => {
                    next = delivery.numbers.consumer + 1;
                    until = now.after(self.plan.ack_wait);
                    all.push(self.read(delivery, message));
                }
                (Some(Arrival::Heartbeat | Arrival::Foreign), _) => {}
                (None, _) if goes_on => {}
                // It may have been refused at once; or the node of a cluster that we have just come to does not know yet
                // who leads.
                (Some(Arrival::Ended { .. } | Arrival::NoResponders), _) if goes_on => {
                    tokio::time::sleep(LOOK).await;
                }
                _ if !connected => return Ok(None),
                _ => {
                    return Err(failed("the server did not deliver again what it has to"));
                }
            }
        }
        for place in unreadable {
            all.extend(self.unreadable_at(place).await?);
        }
        all.sort_by_key(|kept| kept.numbers.stream);
        // What is acknowledged as a prefix is counted by these numbers, too: they ascend as the places do.
        let first = next.saturating_sub(all.len() as u64);
        for (kept, consumer) in all.into_iter().zip(first..) {
            let numbers = Numbers { consumer, ..kept.numbers };
            let reply = numbers.reply_like(&kept.reply).unwrap_or(kept.reply);
            self.poisons.took(numbers.stream, &reply);
            self.kept.push_back(Kept { numbers, reply, record: kept.record });
        }
        Ok(Some(next))
    }

    /// Waits until the server takes for lost what is unacknowledged, but for what cannot be read: where that stands.
    async fn let_expire(&mut self) -> Result<Vec<u64>, BrokerError> {
        let control = &self.shared.links.control;
        let info = self.plan.durable.info(control).await?;
        let delivered = info.map_or(0, |info| info.delivered.stream_sequence);
        let known: Vec<_> = self.poisons.known().filter(|place| *place <= delivered).collect();
        let mut pending = Vec::new();
        for place in known {
            let numbers =
                Numbers { stream: place, consumer: 1, delivered: 1, timestamp: 1, pending: 0 };
            let reply = self.reply(&numbers);
            let done = self.source.ledger().status(place) == Status::Finished;
            if done && self.plan.acks == AckMode::Each {
                // Its acknowledgement may be lost.
                self.deliveries.say(reply, b"+ACK").await;
            } else {
                pending.push((place, reply));
            }
        }
        let mut left = self.plan.ack_wait + LATE;
        while !left.is_zero() {
            for (_, reply) in &pending {
                self.deliveries.say(reply.clone(), b"+WPI").await;
            }
            let pause = left.min(self.plan.ack_wait / 3);
            tokio::time::sleep(pause).await;
            left -= pause;
        }
        for (_, reply) in &pending {
            self.deliveries.say(reply.clone(), b"+WPI").await;
        }
        Ok(pending.into_iter().map(|(place, _)| place).collect())
    }

    /// Waits for a connection.
    async fn connected(&self) -> Result<(), BrokerError> {
        let clock = self.shared.runtime.clock().clone();
        let until = clock.now().after(self.plan.ack_wait);
        while !self.deliveries.is_connected() {
            if clock.now() >= until {
                return Err(BrokerError::new(BrokerErrorKind::Unreachable, "no connection"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

fn failed(text: &str) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Failed, text)
}
