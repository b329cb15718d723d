//! The key of a record: which aggregate it belongs to, and where that is written.

use super::Envelope;
use super::error::EnvelopeError;
use std::error::Error;
use std::fmt;

/// The longest aggregate id, in bytes.
const MAX_LENGTH: usize = 256;

/// The headers that may hold an aggregate id, the one that counts most first. Case matters.
const HEADERS: [&str; 4] = ["X-Aggregate-ID", "x-aggregate-id", "Aggregate-ID", "aggregate-id"];

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
        .and_then(|envelope| check_id(&envelope.aggregate_id).ok())
        .or_else(|| from_headers(headers))
        .or_else(|| from_bytes(record_key?))
        .or_else(|| subject?.rsplit('.').find_map(|token| check_id(token).ok()))
        .ok_or(KeyNotFound)
}

fn from_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Option<&'a str> {
    let mut found = [None; HEADERS.len()];
    for (name, value) in headers {
        if let Some(rank) = HEADERS.iter().position(|header| *header == name) {
            found[rank] = Some(value);
        }
    }
    found.into_iter().flatten().find_map(from_bytes)
}

fn from_bytes(bytes: &[u8]) -> Option<&str> {
    check_id(std::str::from_utf8(bytes).ok()?).ok()
}

/// The id, trimmed, if it is valid.
pub(super) fn check_id(id: &str) -> Result<&str, EnvelopeError> {
    let id = id.trim();
    if id.is_empty() {
        return Err(EnvelopeError::AggregateIdRequired);
    }
    if id.len() > MAX_LENGTH {
        return Err(EnvelopeError::AggregateIdTooLong);
    }
    match id.chars().find(|c| !(c.is_ascii_alphanumeric() || ":_-./".contains(*c))) {
        Some(c) => Err(EnvelopeError::AggregateIdCharacter(c)),
        None => Ok(id),
    }
}

/// No source of a record holds a valid aggregate id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyNotFound;

impl fmt::Display for KeyNotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("aggregate_id not found in any source")
    }
}

impl Error for KeyNotFound {}
