//! How topics lie on the server: their streams, and what the subjects of their records look like.

use crate::error::ConfigError;

/// The most partitions of a topic.
const MAX_PARTITIONS: u32 = 4_096;

/// What a stream or consumer may be called.
const NAME: &str =
    "1 to 255 printable ASCII characters without a space, `.`, `*`, `>`, `/` or `\\`";

/// How a topic lies on the server.
///
/// The *form* says what the subject of a record looks like:
///
/// | form | subject | the key stands in | partitions | expected sequences |
/// |---|---|---|---|---|
/// | [`plain`](Self::plain), the default | `orders` | the envelope, or a header | no | no |
/// | [`partitioned`](Self::partitioned) | `orders.7` | the envelope, or a header | yes | no |
/// | [`keyed`](Self::keyed) | `orders.7.order-42` | the subject | yes | yes |
///
/// The partition is the key's FNV-1a hash of 32 bits modulo the number of partitions, the same that a server's
/// `{{partition(n,…)}}` computes. In a keyed subject every byte of the key that is no letter, digit, `_` or `-` is
/// written `=XX`, in hexadecimal; a record without a key has the token `=`.
///
/// ```
/// use keylane::nats::TopicOptions;
///
/// let orders = TopicOptions::keyed(16).stream("ORDERS");
/// assert_eq!(orders.partitions(), 16);
/// assert!(orders.validate().is_ok() && TopicOptions::keyed(0).validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOptions {
    pub(super) form: Form,
    pub(super) partitions: u32,
    pub(super) stream: Option<String>,
    pub(super) at_most_once: bool,
    pub(super) assign_ids: bool,
    pub(super) when_full: WhenFull,
    pub(super) start_after: Option<String>,
}

/// What becomes of a record of a topic of core NATS for which the runtime has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It waits for room for at most the runtime's wait timeout, those behind it too, and is dropped and counted then.
    #[default]
    Wait,
    /// It is dropped at once, and counted.
    Drop,
}

/// What the subjects of a topic look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Partitioned,
    Keyed,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self::plain()
    }
}

impl TopicOptions {
    fn of(form: Form, partitions: u32) -> Self {
        Self {
            form,
            partitions,
            stream: None,
            at_most_once: false,
            assign_ids: false,
            when_full: WhenFull::Wait,
            start_after: None,
        }
    }

    /// Every record under the topic's own name.
    #[must_use]
    pub fn plain() -> Self {
        Self::of(Form::Plain, 1)
    }

    /// Records under `topic.P`, `P` below `partitions`, of which there are 1 to 4,096. Choose once: with another
    /// number keys move.
    #[must_use]
    pub fn partitioned(partitions: u32) -> Self {
        Self::of(Form::Partitioned, partitions)
    }

    /// Records under `topic.P.KEY`; see [`partitioned`](Self::partitioned). A key makes at most
    /// a subject of 3,500 bytes.
    #[must_use]
    pub fn keyed(partitions: u32) -> Self {
        Self::of(Form::Keyed, partitions)
    }

    /// The stream that holds the topic; by default `STREAM_` and the topic's name with `_` for every dot.
    #[must_use]
    pub fn stream(mut self, name: impl Into<String>) -> Self {
        self.stream = Some(name.into());
        self
    }

    /// Makes it a topic of core NATS: no stream holds it, nothing is confirmed, and what nobody is there to take is
    /// lost.
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// What becomes of a record of a topic of core NATS for which the runtime has no room.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Gives every record without an id one of its own (a `Nats-Msg-Id` header), so that a publish whose
    /// outcome is unknown is tried again and cannot be stored twice. Envelopes have their event's id anyway.
    #[must_use]
    pub fn assign_ids(mut self) -> Self {
        self.assign_ids = true;
        self
    }

    /// A group without a stored position begins behind what this consumer of the topic's stream has acknowledged without a
    /// gap, instead of at the subscription's `start`. For taking over from another system, whose consumer has stopped:
    /// what that has acknowledged above a gap is handled again. It is read once, when the group's own consumer is made.
    #[must_use]
    pub fn start_after(mut self, consumer: impl Into<String>) -> Self {
        self.start_after = Some(consumer.into());
        self
    }

    /// How many partitions the topic has.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Checks the options.
    ///
    /// # Errors
    /// A [`ConfigError`] for a number of partitions that is not 1 to 4,096, or a name of a stream
    /// or consumer that no server takes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            let given = self.partitions.to_string();
            return Err(ConfigError::out_of_range("topic.partitions", &given, "1 to 4096"));
        }
        let names_a_stream = |name: &String| {
            let allowed = |b: u8| b.is_ascii_graphic() && !b".*>/\\".contains(&b);
            (1..=255).contains(&name.len()) && name.bytes().all(allowed)
        };
        match &self.start_after {
            Some(name) if !names_a_stream(name) => {
                return Err(ConfigError::invalid("topic.start_after", name, NAME));
            }
            _ => {}
        }
        match &self.stream {
            Some(name) if !names_a_stream(name) => {
                Err(ConfigError::invalid("topic.stream", name, NAME))
            }
            _ => Ok(()),
        }
    }
}
