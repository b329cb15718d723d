//! What a bus publishes: single records, and many of them with a result for each.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::handover::{Order, Pending, count};
use super::publisher::Wish;
use super::shared::Shared;
use super::topic::Topic;
use crate::bus::{PublishError, PublishErrorKind, PublishFuture, Publishing};
use crate::record::{Position, Record};
use crate::reply::block_on;
use crate::sync::Arc;

impl Shared {
    /// Publishes a record; a `letter` also while the bus closes, since what was read waits for it.
    pub(super) fn publish(
        self: &Arc<Self>,
        topic: &str,
        record: Record,
        letter: bool,
    ) -> Publishing {
        self.publish_as(topic, record, Wish { letter, ..Wish::default() })
    }

    /// Publishes a record as it is wished.
    pub(super) fn publish_as(
        self: &Arc<Self>,
        topic: &str,
        record: Record,
        wish: Wish<'_>,
    ) -> Publishing {
        let order = match self.find(topic) {
            Ok(topic) => self.publisher.order(&topic, record, wish).map(|order| (topic, order)),
            Err(kind) => Err(PublishError::new(kind, record)),
        };
        let (topic, order) = match order {
            Ok(order) => order,
            Err(error) => return Publishing::ready(Err(self.refused(error))),
        };
        let pending = self.publisher.pending(&order);
        if let Err((kind, _)) = self.send(&topic, [order]) {
            count(&self.runtime.core().publishes, Err(&kind));
            pending.parcel.end(Err(kind));
        }
        Publishing::later(pending, self.runtime.clock().clone())
    }

    pub(super) fn find(&self, topic: &str) -> Result<Arc<Topic>, PublishErrorKind> {
        self.options.topics.find(topic).map_err(PublishErrorKind::InvalidTopic)
    }

    fn refused(&self, error: PublishError) -> PublishError {
        count(&self.runtime.core().publishes, Err(error.kind()));
        error
    }

    /// Publishes many records.
    pub(super) fn publish_batch(
        self: &Arc<Self>,
        topic: &str,
        records: Vec<Record>,
    ) -> BatchPublishing {
        let found = self.find(topic);
        let mut batch = BatchPublishing {
            shared: self.clone(),
            topic: found.as_ref().ok().cloned(),
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            results: Vec::with_capacity(records.len()),
        };
        for record in records {
            let order = match &found {
                Ok(topic) => self.publisher.order(topic, record, Wish::default()),
                Err(kind) => Err(PublishError::new(kind.clone(), record)),
            };
            match order {
                Ok(order) => {
                    batch.waiting.push_back((batch.results.len(), order));
                    batch.results.push(None);
                }
                Err(error) => batch.results.push(Some(Err(self.refused(error)))),
            }
        }
        batch.go_on();
        batch
    }
}

/// Many publishes under way: a future of their results, in their order, and something a plain thread can wait for.
///
/// As many of them as the window takes are under way whether this is polled or not; the rest follows while it is.
///
/// # Cancel safety
/// Safe to poll by reference in a `select!`. Dropped, what waits for room is dropped, and of the rest nobody hears.
#[must_use = "what was published is known when this is"]
pub struct BatchPublishing {
    shared: Arc<Shared>,
    topic: Option<Arc<Topic>>,
    /// Their places, and what is not handed over yet.
    waiting: VecDeque<(usize, Order)>,
    under_way: VecDeque<(usize, Pending)>,
    results: Vec<Option<Result<Position, PublishError>>>,
}

impl BatchPublishing {
    /// Waits on a plain thread. Inside a handler it never waits: what is not through is given back as `Full`.
    pub fn wait(mut self) -> Vec<Result<Position, PublishError>> {
        let clock = self.shared.runtime.clock().clone();
        if let Some(results) = block_on(&mut self, &*clock, None) {
            return results;
        }
        for (place, mut pending) in std::mem::take(&mut self.under_way) {
            let given_up = pending.give_up(PublishErrorKind::Full).map(Err);
            self.results[place] = given_up.or_else(|| block_on(&mut pending, &*clock, None));
        }
        for (place, order) in std::mem::take(&mut self.waiting) {
            let mut pending = self.shared.publisher.pending(&order);
            self.results[place] = pending.give_up(PublishErrorKind::Full).map(Err);
        }
        self.take_results()
    }

    fn take_results(&mut self) -> Vec<Result<Position, PublishError>> {
        let gone = || PublishError::new(PublishErrorKind::Closed, Record::keyless(""));
        let results = std::mem::take(&mut self.results);
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(gone()))).collect()
    }

    /// Hands over what there is room for.
    fn go_on(&mut self) {
        let window = self.shared.publisher.window();
        // In pieces: a lock and a call to the thread each.
        if self.waiting.is_empty() || self.under_way.len() > window / 2 {
            return;
        }
        let count = self.waiting.len().min(window - self.under_way.len());
        let mut orders = Vec::with_capacity(count);
        for (place, order) in self.waiting.drain(..count) {
            self.under_way.push_back((place, self.shared.publisher.pending(&order)));
            orders.push(order);
        }
        let Some(topic) = &self.topic else { return };
        if let Err((kind, refused)) = self.shared.send(topic, orders) {
            for order in refused {
                count_and_end(&self.shared, &order, &kind);
            }
        }
    }
}

fn count_and_end(shared: &Shared, order: &Order, kind: &PublishErrorKind) {
    count(&shared.runtime.core().publishes, Err(kind));
    order.parcel.end(Err(kind.clone()));
}

impl Future for BatchPublishing {
    type Output = Vec<Result<Position, PublishError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            this.go_on();
            let Some((place, pending)) = this.under_way.front_mut() else { break };
            match Pin::new(pending).poll(cx) {
                Poll::Ready(result) => this.results[*place] = Some(result),
                Poll::Pending => return Poll::Pending,
            }
            this.under_way.pop_front();
        }
        Poll::Ready(this.take_results())
    }
}

impl fmt::Debug for BatchPublishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchPublishing")
            .field("records", &self.results.len())
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}
