//! Why something was not done on a bus.

use crate::bus::topics::InvalidTopics;
use crate::error::ConfigError;
use crate::runtime::BuildError;
use crate::runtime::SubscribeError;
use crate::source::SourceError;
use std::fmt;

/// An envelope's aggregate id is not the key that its record was published under, so its order is not its
/// aggregate's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyMismatch;

impl fmt::Display for KeyMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the envelope's aggregate_id differs from its record's key")
    }
}

impl std::error::Error for KeyMismatch {}

/// Why something was not done on a bus.
#[derive(Debug)]
#[non_exhaustive]
pub enum BusError {
    /// No bus is known by this kind of URL, or its feature is not built in.
    UnknownUrl(String),
    /// A URL has a part that this kind of URL does not have. What stands there is not repeated: it may hold a
    /// secret.
    InvalidUrl {
        /// The kind of URL.
        scheme: &'static str,
        /// The part that is wrong.
        part: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// A topic's name is not allowed.
    InvalidTopic(InvalidTopic),
    /// These topics cannot be those of one subscription.
    InvalidTopics(InvalidTopics),
    /// A group's name is not allowed.
    InvalidGroup(InvalidGroup),
    /// The bus has a subscription that reads this topic for this group.
    AlreadyInGroup {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
    },
    /// The bus has no subscription of this name.
    NotSubscribed(String),
    /// The subscription was refused.
    Subscribe(SubscribeError),
    /// An option was refused.
    Config(ConfigError),
    /// A thread could not be started.
    Thread(std::io::Error),
    /// The broker refused, or is not there.
    Broker(BrokerError),
    /// The bus is closed.
    Closed,
    /// The caller is inside a handler, where a wait could wait for itself.
    WouldDeadlock,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(not(feature = "nats"))]
            Self::UnknownUrl(scheme) if matches!(scheme.as_str(), "nats" | "tls") => f.write_str(
                "this build has no bus over NATS: build keylane with its feature `nats`; \
                     `memory:` is the embedded one",
            ),
            Self::UnknownUrl(scheme) => {
                write!(
                    f,
                    "no bus is called {scheme:?} in this build; `memory:` is the embedded one"
                )
            }
            Self::InvalidUrl { scheme, part, allowed } => {
                write!(f, "the {part} of a `{scheme}:` URL is wrong: {allowed}")
            }
            Self::InvalidTopic(error) => error.fmt(f),
            Self::InvalidTopics(error) => error.fmt(f),
            Self::InvalidGroup(error) => error.fmt(f),
            Self::AlreadyInGroup { group, topic } => write!(
                f,
                "group {group:?} reads {topic:?} on this bus already: give the subscription a group of its own to have \
                 every record once more"
            ),
            Self::NotSubscribed(name) => write!(f, "the bus has no subscription {name:?}"),
            Self::Subscribe(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "a thread could not be started: {error}"),
            Self::Broker(error) => error.fmt(f),
            Self::Closed => f.write_str("the bus is closed"),
            Self::WouldDeadlock => f.write_str("waiting inside a handler could wait for itself"),
        }
    }
}

impl std::error::Error for BusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InvalidTopic(error) => Some(error),
            Self::InvalidTopics(error) => Some(error),
            Self::InvalidGroup(error) => Some(error),
            Self::Subscribe(error) => Some(error),
            Self::Config(error) => Some(error),
            Self::Thread(error) => Some(error),
            Self::Broker(error) => Some(error),
            _ => None,
        }
    }
}

/// What a broker refused, or why it could not be asked: in words, with the way out where there is one, and never with
/// a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerError {
    kind: BrokerErrorKind,
    text: Box<str>,
}

/// What kind of trouble there is with a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// Nobody answers.
    Unreachable,
    /// It does not know who we are (name, password, key, certificate), or we do not know who it is (certificate).
    Unauthenticated,
    /// It knows who we are, and forbids this.
    NotPermitted,
    /// A topic (a stream) is not there.
    MissingTopic,
    /// A topic or consumer is not configured as it must be.
    Mismatch,
    /// This broker's version, or this kind of topic, cannot do it.
    Unsupported,
    /// The place to go on at is there no more.
    LostPosition,
    /// Somebody else takes deliveries of our consumer, or deletes it, again and again.
    SharedConsumer,
    /// Ownership of a source was lost to somebody else.
    Fenced,
    /// Anything else that it said.
    Failed,
}

impl BrokerError {
    #[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "brokers say it"))]
    pub(crate) fn new(kind: BrokerErrorKind, text: impl Into<Box<str>>) -> Self {
        Self { kind, text: text.into() }
    }

    /// The kind.
    pub fn kind(&self) -> BrokerErrorKind {
        self.kind
    }

    /// Whether it may pass without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, BrokerErrorKind::Unreachable | BrokerErrorKind::Failed)
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for BrokerError {}

impl From<BrokerError> for BusError {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

impl From<SubscribeError> for BusError {
    fn from(error: SubscribeError) -> Self {
        Self::Subscribe(error)
    }
}

impl From<BuildError> for BusError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Config(error) => Self::Config(error),
            BuildError::Thread(error) => Self::Thread(error),
        }
    }
}

impl From<SourceError> for BusError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Config(error) => Self::Config(error),
            SourceError::Removed => Self::Closed,
        }
    }
}

/// A topic's name that is not allowed: it has 1 to 255 printable ASCII characters without a space; a broker may ask for
/// more.
///
/// ```
/// use keylane::InvalidTopic;
///
/// assert!(InvalidTopic::check("orders.eu").is_ok());
/// assert_eq!(InvalidTopic::check("two words").unwrap_err().given, "two words");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTopic {
    /// What was given, escaped and cut to 64 characters.
    pub given: String,
    /// What it breaks.
    rule: &'static str,
}

impl InvalidTopic {
    /// Checks a topic's name.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn check(topic: &str) -> Result<(), Self> {
        if is_name(topic) { Ok(()) } else { Err(Self::breaking(NAME, topic)) }
    }

    /// A name that breaks this rule.
    #[cold]
    pub(crate) fn breaking(rule: &'static str, topic: &str) -> Self {
        Self { given: shown(topic), rule }
    }
}

/// What every bus asks of a name.
const NAME: &str = "1 to 255 printable ASCII characters without a space";

fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A name that is not allowed, as it may be shown.
fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_default).collect()
}

impl fmt::Display for InvalidTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is no topic: {}", self.given, self.rule)
    }
}

impl std::error::Error for InvalidTopic {}

/// A group's name that is not allowed: it has 1 to 255 printable ASCII characters without a space. Brokers may allow
/// less.
///
/// ```
/// use keylane::InvalidGroup;
///
/// assert!(InvalidGroup::check("billing").is_ok());
/// assert_eq!(InvalidGroup::check("two words").unwrap_err().given, "two words");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidGroup {
    /// What was given, escaped and cut to 64 characters.
    pub given: String,
}

impl InvalidGroup {
    /// Checks a group's name.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn check(group: &str) -> Result<(), Self> {
        if is_name(group) { Ok(()) } else { Err(Self { given: shown(group) }) }
    }
}

impl fmt::Display for InvalidGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is no group: 1 to 255 printable ASCII characters without a space; a subscription whose name is none \
             needs a `group`",
            self.given
        )
    }
}

impl std::error::Error for InvalidGroup {}
