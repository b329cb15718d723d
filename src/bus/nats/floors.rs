//! What a bus keeps in a key-value bucket beside its consumers: how far a durable was before it was deleted, and the
//! checkpoints of consumers that are not acknowledged.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{ErrorCode, kv, stream};
use bytes::Bytes;
use serde_json::Value;

use super::events::Signals;
use super::link::{Link, insist};
use super::poison::Raw;
use crate::bus::{BrokerError, BrokerErrorKind};
use crate::sync::Arc;

/// The bucket's name.
const BUCKET: &str = "keylane";

/// Between two looks for a bucket that was just made, or two writes to one that nobody leads: twice as long each time,
/// 3 s together.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_LAST: Duration = Duration::from_millis(1_600);

/// The bucket.
#[derive(Clone, Debug)]
pub(super) struct Floors {
    store: kv::Store,
    signals: Arc<Signals>,
}

impl Floors {
    /// Opens the bucket, or makes it.
    pub(super) async fn open(control: &Link, replicas: usize) -> Result<Self, BrokerError> {
        let signals = control.signals.clone();
        let store = control.signals.permitted(is_buckets, Self::find(control, replicas)).await??;
        Ok(Self { store, signals })
    }

    async fn find(control: &Link, replicas: usize) -> Result<kv::Store, BrokerError> {
        let look = || insist(|| control.jetstream.get_key_value(BUCKET));
        if let Ok(store) = look().await {
            return Ok(store);
        }
        // Not by the client's own call, which first reads what old servers do not say.
        let name = format!("KV_{BUCKET}");
        let config = stream::Config {
            name: name.clone(),
            description: Some("positions of consumers".to_owned()),
            subjects: vec![format!("$KV.{BUCKET}.>")],
            max_messages_per_subject: 1,
            discard: stream::DiscardPolicy::New,
            num_replicas: replicas,
            allow_rollup: true,
            deny_delete: true,
            ..stream::Config::default()
        };
        // Somebody else may have been first: what counts is that it is there.
        let made = control.create::<Value>(&name, &config).await;
        let mut refused = made.err().filter(|refused| !refused.is(ErrorCode::STREAM_NAME_EXIST));
        let mut pause = AGAIN_FIRST;
        loop {
            let unseen = match (look().await, refused.take()) {
                (Ok(store), _) => return Ok(store),
                (Err(_), Some(refused)) => {
                    let error = BrokerError::from(refused);
                    let text = format!("the bucket {BUCKET} cannot be made: {error}");
                    return Err(BrokerError::new(error.kind(), text));
                }
                (Err(error), None) => error,
            };
            // Of two that make it in a cluster at once, one is told so before it is there, and another that it is there with
            // other replicas.
            if pause > AGAIN_LAST {
                return Err(failed("the bucket cannot be opened", unseen));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// The value, without making a bucket.
    pub(super) async fn peek(control: &Link, key: &str) -> Result<Option<Bytes>, BrokerError> {
        let (stream, subject) = (format!("KV_{BUCKET}"), format!("$KV.{BUCKET}.{key}"));
        let found = match control.ask(&format!("STREAM.INFO.{stream}"), &()).await {
            Ok(info) if is_filled(&info) => Raw::last(control, &stream, &subject).await,
            Ok(_) => return Ok(None),
            Err(refused) => Err(refused.into()),
        };
        match found {
            Err(error) if error.kind() == BrokerErrorKind::MissingTopic => Ok(None),
            found => found,
        }
    }

    /// The value and its revision. One that was removed is empty.
    pub(super) async fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, BrokerError> {
        let unread = |error: &dyn std::fmt::Display| failed("a position cannot be read", error);
        let info = self.permitted(key, insist(|| self.store.stream.get_info())).await?;
        if !is_filled(&info.map_err(|error| unread(&error))?) {
            return Ok(None);
        }
        let entry = self.permitted(key, insist(|| self.store.entry(key))).await?;
        let entry = entry.map_err(|error| unread(&error))?;
        Ok(entry.map(|entry| (entry.value.to_vec(), entry.revision)))
    }

    pub(super) async fn put(&self, key: &str, value: String) -> Result<u64, BrokerError> {
        let put = self.store.put(key, value.into());
        self.permitted(key, put).await?.map_err(|error| failed("a position cannot be kept", error))
    }

    /// Replaces the value if it is still of this revision: the new revision, or `None` if it is not.
    pub(super) async fn replace(
        &self,
        key: &str,
        value: String,
        revision: u64,
    ) -> Result<Option<u64>, BrokerError> {
        let value = Bytes::from(value);
        let mut pause = AGAIN_FIRST;
        loop {
            let update = self.store.update(key, value.clone(), revision);
            match self.permitted(key, update).await? {
                Ok(revision) => return Ok(Some(revision)),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                    return Ok(None);
                }
                Err(error) if pause <= AGAIN_LAST && is_unled(&error) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(failed("a position cannot be kept", error)),
            }
        }
    }

    pub(super) async fn remove(&self, key: &str) -> Result<(), BrokerError> {
        let deletion = self.permitted(key, self.store.delete(key)).await?;
        deletion.map_err(|error| failed("a position cannot be removed", error))
    }

    /// Awaits what reads or writes `key`, or the right that it lacks.
    async fn permitted<T>(
        &self,
        key: &str,
        operation: impl Future<Output = T>,
    ) -> Result<T, BrokerError> {
        // With a domain there is its prefix before.
        let own = format!("$KV.{BUCKET}.{key}");
        let is_its = |denied: &str| denied.ends_with(&own) || is_buckets(denied);
        self.signals.permitted(is_its, operation).await
    }
}

/// Whether there is anything to read. A server of the line 2.9 ends if it is asked for a message of a stream that is being
/// made just then; of its state it may be asked.
fn is_filled(info: &stream::Info) -> bool {
    info.state.messages > 0
}

/// Whether nobody was there to store it, as for a moment in a cluster that has just made the bucket or chooses who leads it.
fn is_unled(error: &kv::UpdateError) -> bool {
    let published = error.source().and_then(|source| source.downcast_ref::<PublishError>());
    published.is_some_and(|error| error.kind() == PublishErrorKind::StreamNotFound)
}

/// Whether the subject of a request names the bucket's stream.
fn is_buckets(denied: &str) -> bool {
    denied.split('.').any(|token| token.strip_prefix("KV_") == Some(BUCKET))
}

fn failed(what: &str, error: impl std::fmt::Display) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Failed, format!("{what} in the bucket {BUCKET}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_stores_is_told_from_what_is_refused() {
        let update = |kind| kv::UpdateError::from(PublishError::new(kind));
        assert!(is_unled(&update(PublishErrorKind::StreamNotFound)));
        for refused in [
            PublishErrorKind::WrongLastSequence,
            PublishErrorKind::TimedOut,
            PublishErrorKind::BrokenPipe,
            PublishErrorKind::Other,
        ] {
            assert!(!is_unled(&update(refused)), "{refused:?}");
        }
    }
}
