//! A subscription: its name and what happens when a record fails.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::error::HandlerError;
use crate::record::{KeyText, RecordRef};
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
    pub(crate) start: Start,
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

/// Where a subscription of a bus starts that has no stored position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Start {
    /// At the oldest record that the topic still has.
    #[default]
    Earliest,
    /// At the next one published.
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
            start: Start::default(),
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

    /// Where it starts if it has no stored position. For a bus.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
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

/// When a failed record is tried again.
///
/// It is tried in place: its key waits, others go on. Pauses are spread at random over their upper half.
///
/// ```
/// use std::time::Duration;
/// use keylane::Retry;
///
/// // After 25 to 50 ms, 50 to 100 ms, and so on up to 2.5 to 5 s; 8 attempts in all.
/// let backoff = Retry::exponential(Duration::from_millis(50), Duration::from_secs(5)).attempts(8);
/// // Only what is worth it.
/// let patient = Retry::fixed(Duration::from_secs(1))
///     .forever()
///     .only_if(|error| error.to_string().contains("timed out"));
/// assert!(format!("{backoff:?}").contains("attempts: 8"));
/// assert!(format!("{patient:?}").contains("first: 1s"));
/// ```
#[derive(Clone)]
pub struct Retry {
    attempts: u32,
    first: Duration,
    most: Duration,
    retryable: Option<Retryable>,
}

/// Whether an error may be tried again.
type Retryable = Arc<dyn Fn(&HandlerError) -> bool + Send + Sync>;

impl Retry {
    /// No second attempt.
    pub fn none() -> Self {
        Self { attempts: 1, first: Duration::ZERO, most: Duration::ZERO, retryable: None }
    }

    /// Waits `first` after the first attempt and twice as long after each further one, up to `most`.
    /// 5 attempts unless said otherwise.
    pub fn exponential(first: Duration, most: Duration) -> Self {
        Self { attempts: 5, first, most: most.max(first), retryable: None }
    }

    /// Waits `pause` after each attempt. 5 attempts unless said otherwise.
    pub fn fixed(pause: Duration) -> Self {
        Self::exponential(pause, pause)
    }

    /// The most attempts in all, from 1. 0 counts as 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Tries for ever.
    #[must_use]
    pub fn forever(self) -> Self {
        self.attempts(u32::MAX)
    }

    /// Tries again only what `retryable` says; beside this, [`HandlerError::fatal`] never is.
    #[must_use]
    pub fn only_if(
        mut self,
        retryable: impl Fn(&HandlerError) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.retryable = Some(Arc::new(retryable));
        self
    }

    /// The pause before the next attempt, or `None` if `attempt` was the last. `random` spreads the
    /// pause over its upper half. Calls the caller's predicate.
    pub(crate) fn pause(
        &self,
        attempt: u32,
        error: Option<&HandlerError>,
        random: u64,
    ) -> Option<Duration> {
        let may = error.is_none_or(|error| {
            error.is_retryable() && self.retryable.as_ref().is_none_or(|only| only(error))
        });
        if attempt >= self.attempts || !may {
            return None;
        }
        Some(jittered(self.first, self.most, attempt, random))
    }
}

/// `first` doubled for each attempt after the first, at most `most`, spread over its upper half.
pub(crate) fn jittered(first: Duration, most: Duration, attempt: u32, random: u64) -> Duration {
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(31));
    let pause = u64::try_from(doubled.min(most).as_nanos()).unwrap_or(u64::MAX);
    let half = pause / 2;
    // The product's high word is a number below `pause - half + 1`, evenly spread.
    let above = ((u128::from(random) * (u128::from(pause - half) + 1)) >> 64) as u64;
    Duration::from_nanos(half + above)
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("attempts", &self.attempts)
            .field("first", &self.first)
            .field("most", &self.most)
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
    fn backoff_doubles_up_to_its_bound_and_is_spread_over_its_upper_half() {
        let retry = Retry::exponential(Duration::from_millis(10), Duration::from_millis(35));
        let least = |attempt| retry.clone().forever().pause(attempt, None, 0).unwrap();
        let most = |attempt| retry.clone().forever().pause(attempt, None, u64::MAX).unwrap();
        assert_eq!(
            [1, 2, 3, 60].map(least).map(|d| d.as_micros()),
            [5_000, 10_000, 17_500, 17_500]
        );
        assert_eq!(
            [1, 2, 3, 60].map(most).map(|d| d.as_micros()),
            [10_000, 20_000, 35_000, 35_000]
        );
        assert!(retry.pause(4, None, 0).is_some() && retry.pause(5, None, 0).is_none());
    }

    #[test]
    fn what_is_retryable_is_up_to_the_error_and_the_policy() {
        let retry = Retry::fixed(Duration::ZERO).only_if(|error| error.to_string() != "no");
        let pause = |error: HandlerError| retry.pause(1, Some(&error), 0);
        assert!(pause("yes".into()).is_some());
        assert!(pause("no".into()).is_none());
        assert!(pause(HandlerError::fatal("yes")).is_none());
        assert_eq!(Retry::none().pause(1, None, 0), None);
    }

    #[test]
    fn error_texts_are_escaped_and_cut() {
        assert_eq!(&*error_text(&"a\r\nb"), "a\\r\\nb");
        assert_eq!(error_text(&"é".repeat(1_000)).len(), 1_024);
    }
}
