//! The key of a record: which aggregate it belongs to, and where that is written.

use super::error::EnvelopeError;
use std::error::Error;
use std::fmt;

/// The longest aggregate id, in bytes.
const MAX_LENGTH: usize = 256;

/// The headers that may hold an aggregate id, the one that counts most first. Case matters.
const HEADERS: [&str; 4] = ["X-Aggregate-ID", "x-aggregate-id", "Aggregate-ID", "aggregate-id"];

pub(super) fn from_headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Option<&'a str> {
    let mut found = [None; HEADERS.len()];
    for (name, value) in headers {
        if let Some(rank) = HEADERS.iter().position(|header| *header == name) {
            found[rank] = Some(value);
        }
    }
    found.into_iter().flatten().find_map(from_bytes)
}

pub(super) fn from_bytes(bytes: &[u8]) -> Option<&str> {
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
