//! What an envelope, and bytes that should hold one, are refused with. No error carries payload.

use std::error::Error;
use std::fmt;

/// Why an envelope is not valid, or cannot be encoded.
///
/// The first seven are the wire format's own checks, in the order in which they are made, with the texts
/// that every implementation of the format uses; the others are ours, and only encoding makes them.
///
/// ```
/// use keylane::{Envelope, EnvelopeError};
///
/// let error = Envelope::new("order 42", "OrderPlaced", 1, "{}").validate().unwrap_err();
/// assert_eq!(error, EnvelopeError::AggregateIdCharacter(' '));
/// assert_eq!(
///     error.to_string(),
///     "invalid aggregate_id: aggregate_id contains invalid character:  "
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The event id is empty or white space.
    EventIdRequired,
    /// The aggregate id is empty or white space.
    AggregateIdRequired,
    /// The event type is empty or white space.
    EventTypeRequired,
    /// The event version is zero or negative.
    EventVersionNotPositive,
    /// The payload is empty, or `null`.
    PayloadRequired,
    /// The trimmed aggregate id has more than 256 bytes.
    AggregateIdTooLong,
    /// The trimmed aggregate id holds a character other than `A-Z a-z 0-9 : _ - . /`.
    AggregateIdCharacter(char),
    /// An id begins or ends with white space: two spellings of one key would be two keys.
    Untrimmed {
        /// The field's name.
        field: &'static str,
    },
    /// The payload is not exactly one JSON value in UTF-8.
    PayloadNotJson {
        /// The byte of the payload at which reading failed.
        at: usize,
        /// What would have been right there.
        expected: &'static str,
    },
    /// The payload nests deeper than decoders accept unless told otherwise.
    PayloadTooDeep {
        /// The most levels that are encoded.
        limit: usize,
    },
    /// The time stamp's year, in its own offset, is not in 0..=9999.
    TimestampYear,
    /// The time stamp's offset is 24 hours or more.
    TimestampOffset,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventIdRequired => f.write_str("event_id is required"),
            Self::AggregateIdRequired => f.write_str("aggregate_id is required"),
            Self::EventTypeRequired => f.write_str("event_type is required"),
            Self::EventVersionNotPositive => f.write_str("event_version must be positive"),
            Self::PayloadRequired => f.write_str("payload is required"),
            Self::AggregateIdTooLong => {
                f.write_str("invalid aggregate_id: aggregate_id too long (max 256 characters)")
            }
            Self::AggregateIdCharacter(found) => {
                write!(f, "invalid aggregate_id: aggregate_id contains invalid character: {found}")
            }
            Self::Untrimmed { field } => {
                write!(f, "{field} begins or ends with white space; trim it before encoding")
            }
            Self::PayloadNotJson { at, expected } => write!(
                f,
                "payload must be exactly one JSON value: expected {expected} at its byte {at}"
            ),
            Self::PayloadTooDeep { limit } => {
                write!(f, "payload nests deeper than {limit} levels; flatten it")
            }
            Self::TimestampYear => f.write_str("timestamp: year outside of range [0,9999]"),
            Self::TimestampOffset => {
                f.write_str("timestamp: timezone hour outside of range [0,23]")
            }
        }
    }
}

impl Error for EnvelopeError {}

/// Why bytes are not an envelope.
///
/// ```
/// use keylane::{DecodeError, Envelope};
///
/// let error = Envelope::decode(b"{\"event_id\": 7}").unwrap_err();
/// assert!(matches!(error, DecodeError::Malformed { at: 13, .. }));
/// assert_eq!(
///     Envelope::decode(b"{}").unwrap_err().to_string(),
///     "invalid envelope: event_id is required"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes cannot be read as an envelope's JSON.
    Malformed {
        /// The byte at which reading failed.
        at: usize,
        /// What would have been right there.
        expected: &'static str,
    },
    /// Bytes outside the payload are not UTF-8.
    NotUtf8 {
        /// The first byte of the string or value that is not UTF-8.
        at: usize,
    },
    /// A value nests deeper than the decoder's limit.
    TooDeep {
        /// The limit, in levels of arrays and objects below the envelope itself.
        limit: usize,
    },
    /// The JSON is well formed, but the envelope in it is not valid.
    Invalid(EnvelopeError),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MALFORMED: &str = "failed to unmarshal envelope";
        match self {
            Self::Malformed { at, expected } => {
                write!(f, "{MALFORMED}: expected {expected} at byte {at}")
            }
            Self::NotUtf8 { at } => write!(f, "{MALFORMED}: expected UTF-8 at byte {at}"),
            Self::TooDeep { limit } => write!(
                f,
                "{MALFORMED}: nested deeper than {limit} levels; raise the decoder's nesting limit if that is meant"
            ),
            Self::Invalid(error) => write!(f, "invalid envelope: {error}"),
        }
    }
}

// No `source`: the text of `Invalid` holds the inner error's, as every implementation of the format has it.
impl Error for DecodeError {}

impl From<EnvelopeError> for DecodeError {
    fn from(error: EnvelopeError) -> Self {
        Self::Invalid(error)
    }
}
