//! Dead letters to a topic of the same bus: the record as it was, and in headers where it stood and how it failed.

use super::publishing::{PublishErrorKind, Publishing};
use crate::error::HandlerError;
use crate::record::{Position, Record};
use crate::subscription::{Letter, Sending};

/// The record that is published for a letter, which came from the topic `from`.
pub(crate) fn record(letter: &Letter, from: &str) -> Record {
    let record = letter
        .record
        .copy()
        .with_header("X-Original-Topic", from)
        .with_header("X-Subscription", letter.subscription.as_bytes())
        .with_header("X-Error-Message", letter.error.as_bytes())
        .with_header("X-Attempts", letter.attempts.to_string());
    let Some(Position { partition, offset }) = letter.record.position() else { return record };
    record
        .with_header("X-Original-Partition", partition.to_string())
        .with_header("X-Original-Offset", offset.to_string())
}

/// What the letter's sender is told of its publish.
pub(crate) fn sending(publishing: Publishing) -> Sending {
    Box::pin(async move {
        let Err(error) = publishing.await else { return Ok(()) };
        // A closed bus takes it after the restart: the record stays unfinished.
        if error.is_retryable() || *error.kind() == PublishErrorKind::Closed {
            return Err(HandlerError::retryable(error.to_string()));
        }
        Err(HandlerError::fatal(error.to_string()))
    })
}
