//! The envelope: the JSON form of an event that services in Go and in Rust share.
//!
//! One envelope is one JSON object with these fields, written in this order:
//!
//! | field | JSON | written |
//! |---|---|---|
//! | `event_id` | string | always |
//! | `aggregate_id` | string: 1 to 256 bytes from `A-Z a-z 0-9 : _ - . /` | always |
//! | `event_type` | string | always |
//! | `event_version` | integer of 64 bits, above 0 | always |
//! | `timestamp` | string: RFC 3339, up to nine digits of fraction | always |
//! | `trace_id`, `correlation_id` | string | unless empty |
//! | `tenant_id` | integer of 64 bits | unless 0 |
//! | `payload` | any JSON value but `null`, byte for byte | always |
//!
//! [`Envelope::encode`] writes the bytes that the Go system writes, and [`Envelope::decode`] reads what it
//! reads: names in any case, unknown and repeated fields (the last wins), `null` for any field, its lenient
//! times. A record is decoded once, and what is decoded borrows from the record's bytes. The payload is
//! never parsed, only delimited.
//!
//! # Where this differs from the Go system, on purpose
//!
//! | | the Go system (json-iterator 1.1.12) | here |
//! |---|---|---|
//! | encode: a payload that is not JSON | writes `null`, reports success: nobody can read that event | refused |
//! | encode: bytes after the payload's first JSON value | written, which breaks the document | refused |
//! | encode: payload `null` | written, though every reader refuses it | refused |
//! | encode: a payload that only lenient readers take (control characters in strings, `-01`, invalid UTF-8) | written | refused |
//! | encode: white space around `event_id` or `aggregate_id` | written | refused: one key must have one spelling |
//! | encode: a payload nested deeper than 2,000 levels | up to 9,999 levels written | refused |
//! | encode: an integer of more than about 308 digits in the payload | writes `null` | written; both sides read it |
//! | encode: a number that its decoder refuses, such as `0.1e50` | written | refused |
//! | encode: strings that are not UTF-8 | replaces the bytes by U+FFFD | cannot exist: strings are `str` |
//! | a new envelope's time | in the machine's local offset | in UTC |
//! | decode: bytes outside the payload that are not UTF-8 | kept | [`DecodeError::NotUtf8`] |
//! | decode: nesting | 9,999 levels below the envelope, by recursion | an option, 2,000 levels, without recursion |
//! | decode: integers beyond 64 bits | some wrap to another number | refused |
//! | decode: a NUL byte after the document | ends it, whatever follows | refused, as any other byte |
//! | decode: numbers in a form JSON lacks, with an exponent that overflows a double (`-01e999`) | accepted | refused |
//! | decode: fields of other names | a name whose hash equals a field's is taken for it | only the names count |
//! | the key of an envelope | `aggregate_id` as it stands, so `" a"` and `"a"` are two keys | trimmed |
//! | the old base64 payload | refused | an option: [`Decoder::base64_payload`] |

mod base64;
mod decode;
mod encode;
mod error;
mod key;
mod number;
mod scan;
mod text;
mod time;

pub use decode::Decoder;
pub use error::{DecodeError, EnvelopeError};
pub use key::KeyNotFound;
pub use time::Timestamp;

use std::borrow::Cow;
use std::fmt;

/// How many levels a payload may nest: the decoder's default, and the encoder's limit, so that what one
/// service writes another reads.
const DEFAULT_NESTING: usize = 2_000;

/// An event with its key, its identity and its payload.
///
/// `Envelope<'static>` owns everything; a decoded one borrows from the bytes it came from until
/// [`into_owned`](Self::into_owned). `Debug` shows the payload's size, not the payload.
///
/// ```
/// use keylane::Envelope;
///
/// let bytes = Envelope::new("order-42", "OrderPlaced", 1, r#"{"amount":9}"#)
///     .with_tenant_id(7)
///     .to_vec()?;
/// let event = Envelope::decode(&bytes)?;
/// assert_eq!((event.key(), event.tenant_id), ("order-42", 7));
/// assert_eq!(&event.payload[..], br#"{"amount":9}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope<'a> {
    /// What tells this event from every other.
    pub event_id: Cow<'a, str>,
    /// Whose event it is, as written; see [`key`](Self::key).
    pub aggregate_id: Cow<'a, str>,
    /// What happened.
    pub event_type: Cow<'a, str>,
    /// The version of the aggregate or of the event's form, from 1.
    pub event_version: i64,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The trace it belongs to; empty if none.
    pub trace_id: Cow<'a, str>,
    /// The conversation it belongs to; empty if none.
    pub correlation_id: Cow<'a, str>,
    /// The tenant it belongs to; 0 if none.
    pub tenant_id: i64,
    /// One JSON value, byte for byte.
    pub payload: Cow<'a, [u8]>,
}

impl<'a> Envelope<'a> {
    /// An event that happens now, with an id of its own: a UUID of version 7, which sorts by time.
    ///
    /// Nothing is checked here; [`encode`](Self::encode) checks everything.
    pub fn new(
        aggregate_id: impl Into<Cow<'a, str>>,
        event_type: impl Into<Cow<'a, str>>,
        event_version: i64,
        payload: impl IntoPayload<'a>,
    ) -> Self {
        Self {
            event_id: uuid::Uuid::now_v7().to_string().into(),
            aggregate_id: aggregate_id.into(),
            event_type: event_type.into(),
            event_version,
            timestamp: Timestamp::now(),
            payload: payload.into_payload(),
            ..Self::empty()
        }
    }

    fn empty() -> Self {
        Self {
            event_id: Cow::Borrowed(""),
            aggregate_id: Cow::Borrowed(""),
            event_type: Cow::Borrowed(""),
            event_version: 0,
            timestamp: Timestamp::UNSET,
            trace_id: Cow::Borrowed(""),
            correlation_id: Cow::Borrowed(""),
            tenant_id: 0,
            payload: Cow::Borrowed(&[]),
        }
    }

    /// Replaces the event's id.
    #[must_use]
    pub fn with_event_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.event_id = id.into();
        self
    }

    /// Sets when it happened.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: impl Into<Timestamp>) -> Self {
        self.timestamp = timestamp.into();
        self
    }

    /// Sets the trace it belongs to.
    #[must_use]
    pub fn with_trace_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.trace_id = id.into();
        self
    }

    /// Sets the conversation it belongs to.
    #[must_use]
    pub fn with_correlation_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.correlation_id = id.into();
        self
    }

    /// Sets the tenant it belongs to.
    #[must_use]
    pub fn with_tenant_id(mut self, id: i64) -> Self {
        self.tenant_id = id;
        self
    }

    /// Reads the one envelope that `bytes` hold, with [`Decoder`]'s defaults.
    ///
    /// # Errors
    ///
    /// As [`Decoder::decode`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Decoder::new().decode(bytes)
    }

    /// What the event is ordered by: the aggregate id without white space around it.
    #[must_use]
    pub fn key(&self) -> &str {
        self.aggregate_id.trim()
    }

    /// The checks that the format makes on both sides: each required field is there, the version is above 0,
    /// and the aggregate id is valid.
    ///
    /// # Errors
    ///
    /// The first check that fails, in the order of [`EnvelopeError`]'s variants.
    pub fn validate(&self) -> Result<(), EnvelopeError> {
        self.validate_event_id()?;
        self.validate_the_rest()
    }

    fn validate_event_id(&self) -> Result<(), EnvelopeError> {
        if is_blank(&self.event_id) { Err(EnvelopeError::EventIdRequired) } else { Ok(()) }
    }

    fn validate_the_rest(&self) -> Result<(), EnvelopeError> {
        if is_blank(&self.aggregate_id) {
            return Err(EnvelopeError::AggregateIdRequired);
        }
        if is_blank(&self.event_type) {
            return Err(EnvelopeError::EventTypeRequired);
        }
        if self.event_version <= 0 {
            return Err(EnvelopeError::EventVersionNotPositive);
        }
        if self.payload.is_empty() {
            return Err(EnvelopeError::PayloadRequired);
        }
        key::check_id(&self.aggregate_id)?;
        Ok(())
    }

    /// The same envelope, borrowing from nothing.
    #[must_use]
    pub fn into_owned(self) -> Envelope<'static> {
        let own = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        Envelope {
            event_id: own(self.event_id),
            aggregate_id: own(self.aggregate_id),
            event_type: own(self.event_type),
            event_version: self.event_version,
            timestamp: self.timestamp,
            trace_id: own(self.trace_id),
            correlation_id: own(self.correlation_id),
            tenant_id: self.tenant_id,
            payload: Cow::Owned(self.payload.into_owned()),
        }
    }
}

fn is_blank(text: &str) -> bool {
    text.trim_start().is_empty()
}

impl fmt::Debug for Envelope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("event_id", &self.event_id)
            .field("aggregate_id", &self.aggregate_id)
            .field("event_type", &self.event_type)
            .field("event_version", &self.event_version)
            .field("timestamp", &self.timestamp)
            .field("trace_id", &self.trace_id)
            .field("correlation_id", &self.correlation_id)
            .field("tenant_id", &self.tenant_id)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .finish()
    }
}

/// Text or bytes that a payload can be made of: anything that lends bytes, and owned strings and vectors.
pub trait IntoPayload<'a> {
    /// The bytes, borrowed where they can be.
    fn into_payload(self) -> Cow<'a, [u8]>;
}

impl<'a, T: AsRef<[u8]> + ?Sized> IntoPayload<'a> for &'a T {
    fn into_payload(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self.as_ref())
    }
}

impl<'a> IntoPayload<'a> for String {
    fn into_payload(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.into_bytes())
    }
}

impl<'a> IntoPayload<'a> for Vec<u8> {
    fn into_payload(self) -> Cow<'a, [u8]> {
        Cow::Owned(self)
    }
}

impl<'a> IntoPayload<'a> for Cow<'a, [u8]> {
    fn into_payload(self) -> Cow<'a, [u8]> {
        self
    }
}

/// The key of a record: the aggregate id, trimmed, from the first of these places that holds a valid one.
///
/// 1. the `envelope`, if the record's bytes are one (decode them once, and hand the result in here);
/// 2. the headers `X-Aggregate-ID`, `x-aggregate-id`, `Aggregate-ID`, `aggregate-id`, in this order; the last
///    of several with one name counts;
/// 3. the broker's `record_key`;
/// 4. the tokens of the `subject` between its dots, from the right.
///
/// A valid id has 1 to 256 bytes from `A-Z a-z 0-9 : _ - . /` once it is trimmed. A place that holds anything else
/// is passed over.
///
/// # Errors
///
/// [`KeyNotFound`] if no place holds a valid id.
///
/// ```
/// use keylane::{Envelope, extract_key};
///
/// let bytes = br#"{"not": "an envelope"}"#;
/// let envelope = Envelope::decode(bytes).ok();
/// let headers = [("X-Aggregate-ID", &b"not valid"[..]), ("aggregate-id", b" order-42 ")];
/// let key = extract_key(envelope.as_ref(), headers, Some(b"order-7"), Some("orders.eu.9"));
/// assert_eq!(key, Ok("order-42"));
/// assert_eq!(extract_key(None, [], None, Some("orders.eu.9")), Ok("9"));
/// assert!(extract_key(None, [], None, None).is_err());
/// ```
pub fn extract_key<'a>(
    envelope: Option<&'a Envelope<'_>>,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    record_key: Option<&'a [u8]>,
    subject: Option<&'a str>,
) -> Result<&'a str, KeyNotFound> {
    envelope
        .and_then(|envelope| key::check_id(&envelope.aggregate_id).ok())
        .or_else(|| key::from_headers(headers))
        .or_else(|| key::from_bytes(record_key?))
        .or_else(|| subject?.rsplit('.').find_map(|token| key::check_id(token).ok()))
        .ok_or(KeyNotFound)
}
