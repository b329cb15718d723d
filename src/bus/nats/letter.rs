//! Dead letters to a topic of the same bus: the record as it was, and in headers where it stood and how it failed.

use async_nats::jetstream::stream;

use super::publisher::Wish;
use super::shared::Shared;
use super::topology;
use crate::bus::letter;
use crate::bus::{BrokerError, BrokerErrorKind, BusError, InvalidTopic, Topics};
use crate::record::Position;
use crate::subscription::{DeadLetter, Letter, Sending};
use crate::sync::Weak;

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
    pub(super) from: Topics,
    pub(super) to: String,
}

impl DeadLetter for ToTopic {
    fn send(&self, letter: Letter) -> Sending {
        let Some(shared) = self.shared.upgrade() else {
            return Box::pin(std::future::ready(Err("the bus is gone".into())));
        };
        let from = self.from.name(letter.record.topic_index());
        let record = letter::record(&letter, from);
        let mut id = None;
        if let Some(Position { offset, .. }) = letter.record.position() {
            // With the time: a stream that is made anew counts from 1 again.
            let stored = letter.record.timestamp().unwrap_or(0);
            let subscription = &letter.subscription;
            id = Some(format!("kl-letter:{subscription}:{from}:{offset}:{stored}"));
        }
        let wish = Wish { letter: true, id: id.as_deref(), ..Wish::default() };
        let publishing = shared.publish_as(&self.to, record, wish);
        letter::sending(publishing)
    }
}

impl Shared {
    /// Makes sure of the stream of a subscription's dead letters, and that they fit into it.
    pub(super) async fn letters_fit(
        &self,
        to: &str,
        source: Option<&stream::Config>,
    ) -> Result<(), BusError> {
        let target = self.options.topics.find(to).map_err(BusError::InvalidTopic)?;
        if target.is_pattern() {
            let rule = "dead letters go to one topic, which has no wildcards";
            return Err(BusError::InvalidTopic(InvalidTopic::breaking(rule, to)));
        }
        let limit = |config: &stream::Config| {
            usize::try_from(config.max_message_size).ok().filter(|&most| most > 0)
        };
        let target_most = if target.options.at_most_once {
            None
        } else {
            let target = topology::ensure(&self.links.control, &self.options, &target).await?;
            limit(&target.config)
        };
        let most = self.links.control.client.max_payload();
        check_letter_room(source.and_then(limit), target_most, most, to)?;
        Ok(())
    }
}

/// Checks that every record of a source fits into a dead letter: `source` and `target` are the largest messages that
/// their streams take, headers and all, if they say; `most` is what the server takes, which is all that counts then.
///
/// A record that the server only just takes has no room for a letter's headers: its letter is refused for good, which
/// stops the source.
///
/// # Errors
/// If the stream of the letters takes less than that of the source may have.
fn check_letter_room(
    source: Option<usize>,
    target: Option<usize>,
    most: usize,
    to: &str,
) -> Result<(), BrokerError> {
    let source = source.unwrap_or(most).min(most);
    let Some(target) = target.filter(|&target| target < most) else { return Ok(()) };
    if source.saturating_add(OWN_HEADERS) <= target {
        return Ok(());
    }
    let text = format!(
        "the source takes messages of {source} bytes, and the stream of the dead letters {to:?} takes {target}: a letter \
         has {OWN_HEADERS} bytes of headers more. Raise max_msg_size of the dead letters, or lower that of the source"
    );
    Err(BrokerError::new(BrokerErrorKind::Mismatch, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_needs_more_room_than_its_record() {
        let check = |source, target| check_letter_room(source, target, 1 << 20, "dead");
        assert!(check(None, None).is_ok() && check(None, Some(2 << 20)).is_ok());
        assert!(check(Some(1_000), None).is_ok());
        assert!(check(Some(1_000), Some(1_000 + OWN_HEADERS)).is_ok());
        for (source, target) in
            [(None, 9_000), (Some(1_000), 999 + OWN_HEADERS), (Some(usize::MAX), 1)]
        {
            let error = check(source, Some(target)).unwrap_err();
            assert!(
                error.kind() == BrokerErrorKind::Mismatch && error.to_string().contains("\"dead\"")
            );
        }
    }
}
