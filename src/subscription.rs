//! A subscription: its name and what happens when a record fails.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use crate::error::HandlerError;
use crate::record::{KeyText, RecordRef};
use crate::retry::Retry;
use crate::sync::Arc;

/// A subscription's name and policy.
///
/// Without a policy a record that fails is not tried again and stops the subscription (or the source that
/// the record came from): nothing is lost and nothing is passed over unless you say so.
///
/// ```
/// use std::time::Duration;
/// use keylane::{Retry, Subscription};
///
/// let policy = Subscription::new("billing")
///     .retry(Retry::exponential(Duration::from_millis(50), Duration::from_secs(5)).attempts(8))
///     .dead_letter_to(|letter: &keylane::Letter| {
///         eprintln!("{}: {}", letter.subscription, letter.error);
///         Ok(())
///     })
///     .park_key();
/// assert_eq!(policy.name(), "billing");
/// ```
#[derive(Clone)]
pub struct Subscription {
    pub(crate) name: String,
    pub(crate) retry: Retry,
    pub(crate) after: After,
    pub(crate) dead_letter: DeadLetterTo,
    pub(crate) deadline: Option<Duration>,
    pub(crate) keyless: Keyless,
    pub(crate) group: Option<String>,
    pub(crate) start: Start,
    pub(crate) on_lost: OnLost,
    pub(crate) source_bytes: Option<usize>,
    #[cfg(feature = "tracing")]
    pub(crate) span_at_info: bool,
}

/// What happens to a record after its last attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum After {
    #[default]
    Stop,
    DeadLetter,
    Park,
    Skip,
}

#[derive(Clone, Default)]
pub(crate) enum DeadLetterTo {
    #[default]
    Nowhere,
    /// A topic of the bus that the subscription is made on.
    Topic(String),
    Sink(Arc<dyn DeadLetter>),
}

/// What becomes of records without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Keyless {
    /// Spread over the lanes; their order is not kept.
    #[default]
    Spread,
    /// One after the other, as if they had one key.
    Serial,
    /// Refused at submit.
    Reject,
}

/// Where a group starts in a topic that it has no stored position in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Start {
    /// At the oldest record that the topic still has.
    #[default]
    Earliest,
    /// At the next one published.
    Latest,
    /// At the first record that was published then or later; at the next one published, if there is none.
    At(SystemTime),
    /// At this position of each of the topic's partitions: an offset, or a sequence number. One that is not there is
    /// a lost position, see [`OnLost`].
    Position(u64),
}

/// What a group does whose position is there no more: after retention, a purge, a truncation, or when the topic was
/// made anew. A source that runs notices it when it reads on, and within seconds while it reads nothing.
///
/// Lost is what nobody meant to go: records that were not delivered yet, from the oldest on. A single record that
/// somebody has deleted is not, nor one whose place a newer record of its key or subject has taken (compaction, a
/// limit for each subject, a roll-up). On NATS, what has gone from a stream's beginning is called lost only for a consumer
/// that takes all of the stream's subjects, of a stream that keeps what is acknowledged: of any other nobody can tell
/// whose records they were. That a stream was made anew, or ends before the place, is a loss of any. A durable that was
/// deleted by hand begins anew, where [`start`](Subscription::start) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum OnLost {
    /// The source stops, and says so: what is lost may matter.
    #[default]
    Stop,
    /// It goes on at the oldest record that the topic still has.
    Earliest,
    /// It goes on at the next one published.
    Latest,
}

impl Subscription {
    /// A subscription that stops at the first failure.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            retry: Retry::none(),
            after: After::default(),
            dead_letter: DeadLetterTo::default(),
            deadline: None,
            keyless: Keyless::default(),
            group: None,
            start: Start::default(),
            on_lost: OnLost::default(),
            source_bytes: None,
            #[cfg(feature = "tracing")]
            span_at_info: false,
        }
    }

    /// Its name, unique in a runtime.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tries a failed record again, in place: its key waits, others go on.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// After the last attempt, publishes the record to this topic of the same bus and goes on once that is confirmed.
    /// For a bus: in process there are no topics, and subscribing is refused.
    #[must_use]
    pub fn dead_letter(mut self, topic: impl Into<String>) -> Self {
        self.dead_letter = DeadLetterTo::Topic(topic.into());
        self.after_dead_letter()
    }

    /// After the last attempt, gives the record to `sink` and goes on once that has confirmed it.
    #[must_use]
    pub fn dead_letter_to(mut self, sink: impl DeadLetter) -> Self {
        self.dead_letter = DeadLetterTo::Sink(Arc::new(sink));
        self.after_dead_letter()
    }

    fn after_dead_letter(mut self) -> Self {
        if self.after != After::Park {
            self.after = After::DeadLetter;
        }
        self
    }

    /// After the last attempt, dead-letters the record and every later one of its key, in order, until
    /// the key is resumed. Records without a key are dead-lettered alone. Needs a dead letter.
    #[must_use]
    pub fn park_key(mut self) -> Self {
        self.after = After::Park;
        self
    }

    /// After the last attempt, goes on without the record.
    #[must_use]
    pub fn skip(mut self) -> Self {
        self.after = After::Skip;
        self
    }

    /// After the last attempt, stops the source that the record came from (in process: the
    /// subscription). The default. Records that a stopped subscription held come back from its
    /// [`remove`](crate::Subscriber::remove), their receipts saying [`Stopped`](crate::Outcome::Stopped).
    #[must_use]
    pub fn stop(mut self) -> Self {
        self.after = After::Stop;
        self
    }

    /// How long one attempt may take, from the handler's start. An async attempt is then dropped and counts as
    /// failed; a sync or blocking one is reported, and its key stays busy until it returns.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// What becomes of records without a key.
    #[must_use]
    pub fn keyless(mut self, keyless: Keyless) -> Self {
        self.keyless = keyless;
        self
    }

    /// The group whose position in the topic is its own: on Kafka the `group.id`, on NATS the name of a durable
    /// consumer. The subscription's name unless said otherwise. For a bus: 1 to 255 printable ASCII characters without
    /// a space, and of a bus at most one subscription for each group and topic.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Where its group starts that has no stored position in the topic. For a bus.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// What becomes of it when its group's position is there no more. For a bus.
    #[must_use]
    pub fn on_lost_position(mut self, on_lost: OnLost) -> Self {
        self.on_lost = on_lost;
        self
    }

    /// Bytes of each source's records that may be under way before it is read no further, whatever their number:
    /// the runtime's [`source_bytes`](crate::Config::source_bytes) unless said otherwise. For a bus. One record is
    /// taken in any case.
    #[must_use]
    pub fn source_bytes(mut self, bytes: usize) -> Self {
        self.source_bytes = Some(bytes);
        self
    }

    /// The group: its own, or its name.
    pub(crate) fn group_name(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.name)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("name", &self.name)
            .field("retry", &self.retry)
            .field("after", &self.after)
            .field("deadline", &self.deadline)
            .field("keyless", &self.keyless)
            .finish_non_exhaustive()
    }
}

/// A record that failed for good, on its way to the dead letters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Letter {
    /// The record: key, headers and payload as they came, and its position.
    pub record: RecordRef,
    /// The subscription whose handler failed.
    pub subscription: Arc<str>,
    /// What the last attempt said, escaped and cut to 1 KiB; that the key is parked, if it was not tried.
    pub error: Box<str>,
    /// How many attempts there were; 0 if its key was parked.
    pub attempts: u32,
}

/// The future of a dead letter: it ends when the letter is safe.
pub type Sending = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;

/// Where records go that failed for good.
///
/// The original is finished only after `send` has confirmed. A retryable error is tried again for
/// ever, with backoff, and the frontier holds; a fatal one stops the source.
///
/// A closure `Fn(&Letter) -> Result<(), HandlerError>` is one. It runs on a worker: what blocks belongs into a future.
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
/// use keylane::{Letter, Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let (dead, letters) = mpsc::sync_channel(16);
/// let policy = Subscription::new("orders").dead_letter_to(move |letter: &Letter| {
///     dead.try_send((letter.record.payload().to_vec(), letter.error.clone()))?; // sent again if full
///     Ok(())
/// });
/// let orders = runtime.subscribe(policy, |_: &Record| Err("unreadable".into()))?;
/// orders.submit(Record::new("order-42", "?"))?;
/// let (payload, error) = letters.recv_timeout(Duration::from_secs(5))?;
/// assert_eq!((&payload[..], &error[..]), (&b"?"[..], "unreadable"));
/// # runtime.close(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait DeadLetter: Send + Sync + 'static {
    /// Sends the letter; the future ends when it is safe. It is polled by workers, and dropped if the runtime stops
    /// before: whether it was sent then is not known, and its record stays unfinished.
    ///
    /// # Errors
    /// The future's: a retryable one has the letter sent again, a fatal one stops the source.
    fn send(&self, letter: Letter) -> Sending;
}

impl<F> DeadLetter for F
where
    F: Fn(&Letter) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    fn send(&self, letter: Letter) -> Sending {
        let sent = self(&letter);
        Box::pin(std::future::ready(sent))
    }
}

/// An error's text as it is kept: control characters escaped, cut to 1 KiB.
pub(crate) fn error_text(error: &dyn fmt::Display) -> Box<str> {
    const MOST: usize = 1_024;
    let mut text = String::new();
    for c in error.to_string().chars() {
        let escaped = c.is_control().then(|| c.escape_default());
        let len = escaped.as_ref().map_or(c.len_utf8(), ExactSizeIterator::len);
        if text.len() + len > MOST {
            break;
        }
        match escaped {
            Some(escaped) => text.extend(escaped),
            None => text.push(c),
        }
    }
    text.into_boxed_str()
}

/// A parked key of a subscription, and why it is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ParkedKey {
    /// The key.
    pub key: Vec<u8>,
    /// What its record's last attempt said.
    pub error: Box<str>,
    /// How many records followed it to the dead letters.
    pub followed: u64,
}

impl fmt::Display for ParkedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", KeyText(&self.key), self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_texts_are_escaped_and_cut() {
        assert_eq!(&*error_text(&"a\r\nb"), "a\\r\\nb");
        assert_eq!(error_text(&"é".repeat(1_000)).len(), 1_024);
    }
}
