//! The confirmed result of a publish.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::bus::InvalidTopic;
use crate::clock::Clock;
use crate::envelope::EnvelopeError;
use crate::record::{Position, Record};
use crate::reply::block_on;
use crate::sync::Arc;

/// A record that was not published, or of which it is not known; it comes back.
///
/// ```
/// use keylane::{Bus, PublishErrorKind, Record, Runtime};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let bus = Bus::connect(&runtime, "memory:").wait()?;
/// let refused = bus.publish("orders", Record::new("", "paid")).wait().unwrap_err();
/// assert_eq!(refused.kind(), &PublishErrorKind::InvalidKey);
/// assert!(!refused.is_retryable() && !refused.outcome_unknown());
/// assert_eq!(refused.into_record().payload(), b"paid");
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PublishError {
    kind: PublishErrorKind,
    record: Record,
}

/// Why a record was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishErrorKind {
    /// The topic is full, and was for as long as a publish waits.
    Full,
    /// The bus is closed.
    Closed,
    /// The topic's name is not allowed.
    InvalidTopic(InvalidTopic),
    /// The key is empty or longer than 4,096 bytes.
    InvalidKey,
    /// The envelope cannot be encoded. The record that comes back is empty.
    Envelope(EnvelopeError),
    /// The bus failed; a later try may succeed.
    Failed(Box<str>),
    /// Whether the record was stored is not known: published again, it may be there twice.
    Unknown(Box<str>),
    /// The wait was over before the result was there.
    TimedOut,
    /// Another publish of the same key came first: the last one is not the one that was expected.
    WrongLastSequence {
        /// The last sequence of the key, if the broker says.
        last: Option<u64>,
    },
    /// The record is larger than the broker or the topic takes.
    TooLarge {
        /// The most bytes that it may have, if that is known.
        most: Option<usize>,
    },
    /// The key makes a subject longer than a server reads.
    SubjectTooLong {
        /// The subject's bytes.
        bytes: usize,
        /// The most that it may have.
        most: usize,
    },
    /// The broker forbids this user to publish to the topic.
    NotPermitted(Box<str>),
    /// Nothing holds the topic: on NATS no stream takes its subject.
    MissingTopic(Box<str>),
    /// A header's name has characters that the broker does not take, or belongs to the bus.
    InvalidHeader(Box<str>),
    /// This broker, or a topic like this, cannot do it.
    Unsupported(Box<str>),
    /// The batch that it was part of was not stored.
    BatchRefused(Box<str>),
}

impl PublishError {
    #[cold]
    pub(crate) fn new(kind: PublishErrorKind, record: Record) -> Self {
        Self { kind, record }
    }

    /// Why.
    pub fn kind(&self) -> &PublishErrorKind {
        &self.kind
    }

    /// The record, back.
    pub fn into_record(self) -> Record {
        self.record
    }

    /// Whether the same record may be published later.
    pub fn is_retryable(&self) -> bool {
        use PublishErrorKind::{Failed, Full, TimedOut, Unknown};
        matches!(self.kind, Full | Failed(_) | Unknown(_) | TimedOut)
    }

    /// Whether the record may have been published all the same.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.kind, PublishErrorKind::Unknown(_))
    }
}

impl fmt::Display for PublishErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the topic is full"),
            Self::Closed => f.write_str("the bus is closed"),
            Self::InvalidTopic(error) => error.fmt(f),
            Self::InvalidKey => {
                f.write_str("a key has 1 to 4096 bytes; use `Record::keyless` for none")
            }
            Self::Envelope(error) => error.fmt(f),
            Self::Failed(error) => write!(f, "the bus failed: {error}"),
            Self::Unknown(error) => write!(f, "the record may or may not be stored: {error}"),
            Self::TimedOut => f.write_str("not published within the time given"),
            Self::WrongLastSequence { last } => {
                f.write_str("another record of the key came first")?;
                match last {
                    Some(last) => write!(f, ": its last sequence is {last}"),
                    None => Ok(()),
                }
            }
            Self::TooLarge { most } => {
                f.write_str("the record is larger than the broker takes")?;
                match most {
                    Some(most) => write!(f, ": at most {most} bytes with its headers"),
                    None => Ok(()),
                }
            }
            Self::SubjectTooLong { bytes, most } => write!(
                f,
                "the key makes a subject of {bytes} bytes, and at most {most} are read: use a shorter key or \
                 another subject form"
            ),
            Self::NotPermitted(what) => write!(f, "this user may not publish: {what}"),
            Self::MissingTopic(what) => write!(f, "nothing holds the topic: {what}"),
            Self::InvalidHeader(what) => write!(f, "a header cannot be sent: {what}"),
            Self::Unsupported(what) => write!(f, "not possible here: {what}"),
            Self::BatchRefused(why) => write!(f, "the batch was not stored: {why}"),
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl fmt::Debug for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Error for PublishError {}

/// A publish that is not through yet.
pub trait PublishFuture: Future<Output = Result<Position, PublishError>> + Send + Unpin {
    /// Ends it, if the record can be had back.
    fn give_up(&mut self, kind: PublishErrorKind) -> Option<PublishError>;
}

/// A publish under way: a future, and something a plain thread can wait for.
///
/// It is under way whether polled or not where the topic has room.
///
/// # Cancel safety
/// Safe to poll by reference in a `select!`. Dropped while it waits for room, it drops the record; dropped later, the
/// record is published and nobody hears of it.
#[must_use = "whether the record was published is known when this is"]
pub struct Publishing(State);

enum State {
    Ready(Option<Result<Position, PublishError>>),
    Later(Box<dyn PublishFuture>, Arc<dyn Clock>),
}

impl Publishing {
    pub(crate) fn ready(result: Result<Position, PublishError>) -> Self {
        Self(State::Ready(Some(result)))
    }

    pub(crate) fn later(future: impl PublishFuture + 'static, clock: Arc<dyn Clock>) -> Self {
        Self(State::Later(Box::new(future), clock))
    }

    /// Waits on a plain thread. Inside a handler it never waits: what is not through is given back as `Full`.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn wait(self) -> Result<Position, PublishError> {
        self.wait_until(None, PublishErrorKind::Full)
    }

    /// Waits on a plain thread for at most `timeout`.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Position, PublishError> {
        self.wait_until(Some(timeout), PublishErrorKind::TimedOut)
    }

    fn wait_until(
        self,
        timeout: Option<Duration>,
        late: PublishErrorKind,
    ) -> Result<Position, PublishError> {
        let gone = || PublishError::new(PublishErrorKind::Closed, Record::keyless(""));
        match self.0 {
            State::Ready(result) => result.unwrap_or_else(|| Err(gone())),
            State::Later(mut future, clock) => {
                let deadline = timeout.map(|timeout| clock.now().after(timeout));
                block_on(&mut future, &*clock, deadline)
                    .or_else(|| future.give_up(late).map(Err))
                    // It cannot be had back: the result may have come just now.
                    .or_else(|| block_on(&mut future, &*clock, deadline))
                    .unwrap_or_else(|| Err(gone()))
            }
        }
    }
}

impl Future for Publishing {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => match result.take() {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            },
            State::Later(future, _) => Pin::new(future).poll(cx),
        }
    }
}

impl fmt::Debug for Publishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Ready(result) => f.debug_tuple("Publishing").field(result).finish(),
            State::Later(..) => f.write_str("Publishing(..)"),
        }
    }
}
