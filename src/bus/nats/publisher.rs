//! Publishing with confirmed results.

use super::shared::Shared;
use super::topic::Topic;
use crate::bus::{PublishError, PublishErrorKind, PublishFuture, Publishing};
use crate::record::{Position, Record};
use crate::reply::{Reply, reply};
use crate::sync::Arc;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

impl Shared {
    /// Publishes a record; a `letter` also while the bus closes, since what was read waits for it.
    pub(super) fn publish(
        self: &Arc<Self>,
        topic: &str,
        record: Record,
        _letter: bool,
    ) -> Publishing {
        let topic = match Topic::new(topic) {
            Ok(topic) => topic,
            Err(error) => {
                let kind = PublishErrorKind::InvalidTopic(error);
                return Publishing::ready(Err(PublishError::new(kind, record)));
            }
        };
        let (answer, reply) = reply();
        let shared = self.clone();
        self.links.publish.io.spawn(async move {
            let failed = |text: String| PublishErrorKind::Failed(text.into());
            let subject = topic.subject(record.key());
            let payload = bytes::Bytes::copy_from_slice(record.payload());
            let mut headers = async_nats::HeaderMap::new();
            if let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()) {
                headers.insert("X-Aggregate-ID", key);
            }
            let jetstream = &shared.links.publish.jetstream;
            let acked = match jetstream.publish_with_headers(subject, headers, payload).await {
                Ok(acked) => acked.await,
                Err(error) => Err(error),
            };
            answer.give(match acked {
                Ok(ack) => Ok(Position { partition: 0, offset: ack.sequence }),
                Err(error) => Err(PublishError::new(failed(error.to_string()), record)),
            });
        });
        Publishing::later(Pending(reply), self.runtime.clock().clone())
    }
}

struct Pending(Reply<Result<Position, PublishError>>);

impl Future for Pending {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| {
            answer.unwrap_or_else(|| {
                Err(PublishError::new(PublishErrorKind::Closed, Record::keyless("")))
            })
        })
    }
}

impl PublishFuture for Pending {
    fn give_up(&mut self, _kind: PublishErrorKind) -> Option<PublishError> {
        None
    }
}
