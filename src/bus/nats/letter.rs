//! Dead letters to a topic of the same bus: the record as it was, and in headers where it stood and how it failed.

use super::publisher::Wish;
use super::shared::Shared;
use crate::bus::{BrokerError, BrokerErrorKind, PublishErrorKind};
use crate::error::HandlerError;
use crate::record::Position;
use crate::subscription::{DeadLetter, Letter, Sending};
use crate::sync::{Arc, Weak};

/// What a letter's own headers take at most, in bytes: an error of 1 KiB escaped, names of topic and subscription.
const OWN_HEADERS: usize = 5 << 10;

/// Dead letters to a topic: the record's key, payload and headers, and beside them
///
/// | header | what it holds |
/// |---|---|
/// | `X-Original-Topic`, `X-Original-Partition`, `X-Original-Offset` | where the record stands |
/// | `X-Subscription` | the subscription whose handler failed |
/// | `X-Error-Message` | what the last attempt said, escaped and cut to 1 KiB |
/// | `X-Attempts` | how many attempts there were; 0 behind a parked key |
///
/// What would command the server anew, `Nats-…`, comes as `kl-original-Nats-…`.
pub(super) struct ToTopic {
    pub(super) shared: Weak<Shared>,
    pub(super) from: Arc<str>,
    pub(super) to: String,
}

impl DeadLetter for ToTopic {
    fn send(&self, letter: Letter) -> Sending {
        let Some(shared) = self.shared.upgrade() else {
            return Box::pin(std::future::ready(Err("the bus is gone".into())));
        };
        let mut record = letter
            .record
            .copy()
            .with_header("X-Original-Topic", self.from.as_bytes())
            .with_header("X-Subscription", letter.subscription.as_bytes())
            .with_header("X-Error-Message", letter.error.as_bytes())
            .with_header("X-Attempts", letter.attempts.to_string());
        let mut id = None;
        if let Some(Position { partition, offset }) = letter.record.position() {
            record = record
                .with_header("X-Original-Partition", partition.to_string())
                .with_header("X-Original-Offset", offset.to_string());
            // With the time: a stream that is made anew counts from 1 again.
            let stored = letter.record.timestamp().unwrap_or(0);
            let (subscription, from) = (&letter.subscription, &self.from);
            id = Some(format!("kl-letter:{subscription}:{from}:{offset}:{stored}"));
        }
        let wish = Wish { letter: true, id: id.as_deref(), ..Wish::default() };
        let publishing = shared.publish_as(&self.to, record, wish);
        Box::pin(async move {
            match publishing.await {
                Ok(_) => Ok(()),
                Err(error) if error.is_retryable() => {
                    Err(HandlerError::retryable(error.to_string()))
                }
                // A closed bus takes it after the restart: the record stays unfinished.
                Err(error) if *error.kind() == PublishErrorKind::Closed => {
                    Err(HandlerError::retryable(error.to_string()))
                }
                Err(error) => Err(HandlerError::fatal(error.to_string())),
            }
        })
    }
}

/// Checks that every record of a source fits into a dead letter: each `most` is the largest message that is taken
/// there, headers and all.
///
/// # Errors
/// If there may be a record that does not.
pub(super) fn check_letter_room(
    source_most: usize,
    target_most: usize,
    target: &str,
) -> Result<(), BrokerError> {
    if source_most.saturating_add(OWN_HEADERS) <= target_most {
        return Ok(());
    }
    let text = format!(
        "the source takes messages of {source_most} bytes, and the dead letters {target:?} take {target_most}: a letter \
         has {OWN_HEADERS} bytes of headers more. Raise the limit of the dead letters (max_msg_size, max_payload), or \
         lower that of the source"
    );
    Err(BrokerError::new(BrokerErrorKind::Mismatch, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_needs_more_room_than_its_record() {
        assert!(check_letter_room(1 << 20, (1 << 20) + OWN_HEADERS, "dead").is_ok());
        let error = check_letter_room(1 << 20, 1 << 20, "dead").unwrap_err();
        assert!(
            error.kind() == BrokerErrorKind::Mismatch && error.to_string().contains("\"dead\"")
        );
        assert!(check_letter_room(usize::MAX, usize::MAX, "dead").is_err());
    }
}
