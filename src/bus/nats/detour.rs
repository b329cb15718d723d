//! The way past records that the client library cannot read; see [`poison`](super::poison) for why it is safe.

use std::time::Duration;

use async_nats::Subject;

use super::arrival::Numbers;
use super::choice::AckMode;
use super::consumer::{Consumer, Kept};
use super::poison::Raw;
use super::pull::Deliveries;
use crate::bus::keyed::keyed;
use crate::bus::{BrokerError, BrokerErrorKind};
use crate::record::Position;

/// How long is searched at once.
const SEARCH: Duration = Duration::from_secs(1);

impl<D: Deliveries> Consumer<D> {
    /// After a cut while a record that cannot be read was the next but for those that were asked for one by one: if nothing
    /// else was lost, takes that record and says which number the next delivery has. `None`: the barrier is needed.
    pub(super) async fn go_on_behind(&mut self) -> Result<Option<u64>, BrokerError> {
        let Some(place) = self.poisons.ahead() else { return Ok(None) };
        if self.plan.acks == AckMode::Checkpoint {
            return Ok(None);
        }
        // What came and was not taken is lost with this, and then the server has delivered more than we know.
        self.deliveries.begin_anew().await?;
        let control = &self.shared.links.control;
        let Some(info) = self.plan.durable.info(control).await? else { return Ok(None) };
        let next = self.sequence.next();
        if info.delivered.consumer_sequence.checked_add(1) == Some(next) {
            return Ok(Some(next));
        }
        if (info.delivered.consumer_sequence, info.delivered.stream_sequence) != (next, place) {
            return Ok(None);
        }
        let Some(raw) = self.raw(place).await?.filter(|raw| raw.place == place) else {
            return Ok(None);
        };
        let numbers = Numbers {
            stream: place,
            consumer: next,
            delivered: 1,
            timestamp: raw.timestamp,
            pending: info.num_pending,
        };
        let kept = self.unreadable(&raw, numbers);
        self.poisons.took(place, &kept.reply);
        if self.plan.takes(&raw.subject) {
            self.kept.push_back(kept);
        } else {
            self.pass_by(kept.reply);
        }
        Ok(Some(next + 1))
    }

    /// Looks at so many records, from `from` on if nothing was delivered yet, for one that cannot be read.
    pub(super) async fn search(&mut self, from: u64, count: usize) -> Result<(), BrokerError> {
        let newest = self.source.ledger().newest();
        let at = newest.map_or(from, |newest| newest.saturating_add(1));
        self.search_at(at, count).await.map(drop)
    }

    /// Looks at so many records from `at` on. Where one stands that cannot be read and was not known.
    pub(super) async fn search_at(
        &mut self,
        mut at: u64,
        count: usize,
    ) -> Result<Option<u64>, BrokerError> {
        let clock = self.shared.runtime.clock().clone();
        let until = clock.now().after(SEARCH);
        for _ in 0..count {
            let raw = match self.raw(at).await {
                // Whoever may not look is cut off again and again, and told why.
                Err(error) if error.kind() == BrokerErrorKind::NotPermitted => {
                    log::warn!("{}: {error}", self.plan.label());
                    return Ok(None);
                }
                other => other?,
            };
            let Some(raw) = raw else { return Ok(None) };
            if let Some(complaint) = raw.complaint()
                && self.poisons.add(raw.place)
            {
                log::warn!("record {} of {}: {complaint}", raw.place, self.plan.label());
                return Ok(Some(raw.place));
            }
            at = raw.place.saturating_add(1);
            if clock.now() >= until {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Takes records that cannot be read and are the next from `at` on, for a consumer that is made anew behind them.
    /// Where it begins.
    pub(super) async fn step_over(&mut self, mut at: u64) -> Result<u64, BrokerError> {
        self.poisons.begin(at.saturating_sub(1));
        while let Some(place) = self.poisons.ahead() {
            let Some(raw) = self.raw(at).await?.filter(|raw| raw.place == place) else { break };
            let Some(kept) = self.unreadable_at(place).await? else { break };
            self.poisons.took(place, &kept.reply);
            // The consumer is made anew behind it: nobody else's has to be said to be done with.
            if self.plan.takes(&raw.subject) {
                self.kept.push_back(kept);
            }
            at = place.saturating_add(1);
        }
        Ok(at)
    }

    /// The first record of ours from `at` on.
    async fn raw(&self, at: u64) -> Result<Option<Raw>, BrokerError> {
        let config = &self.plan.durable.config;
        let mut filters: Vec<&str> = config.filter_subjects.iter().map(String::as_str).collect();
        if !config.filter_subject.is_empty() {
            filters.push(&config.filter_subject);
        }
        Raw::next(&self.shared.links.control, &self.plan.durable.stream, &filters, at).await
    }

    /// The record that cannot be read and stands at `place`, if it is still there.
    pub(super) async fn unreadable_at(&mut self, place: u64) -> Result<Option<Kept>, BrokerError> {
        let raw = self.raw(place).await?.filter(|raw| raw.place == place);
        Ok(raw.map(|raw| {
            let (stream, timestamp) = (place, raw.timestamp);
            let numbers = Numbers { stream, consumer: 1, delivered: 1, timestamp, pending: 0 };
            self.unreadable(&raw, numbers)
        }))
    }

    /// The record as if it had been delivered with these numbers.
    fn unreadable(&self, raw: &Raw, numbers: Numbers) -> Kept {
        let partition = self.plan.partition.unwrap_or(0);
        let record = raw
            .record(&self.plan.topic)
            .with_position(Position { partition, offset: numbers.stream })
            .with_timestamp(numbers.timestamp)
            .with_epoch(self.epoch())
            .with_topic_index(self.plan.place);
        let why = raw.complaint().unwrap_or("it cut the connection");
        let record =
            keyed(record, self.plan.key_in).with_refusal(format!("{why}: it cannot be read"));
        let reply = self.reply(&numbers);
        Kept { numbers, reply, record }
    }

    /// Where a delivery with these numbers is acknowledged: as others of the consumer are, if there were any.
    pub(super) fn reply(&self, numbers: &Numbers) -> Subject {
        let durable = &self.plan.durable;
        let plain = || format!("$JS.ACK.{}.{}.1.1.1.1.1", durable.stream, durable.name());
        let like = self.poisons.reply().map_or_else(plain, Subject::to_string);
        numbers.reply_like(&like).unwrap_or_else(|| like.into())
    }
}
