//! One record on its way: its headers, and the connection that takes it or does not.

use async_nats::client::PublishErrorKind as Kind;
use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use futures_util::FutureExt;

use super::handover::{Id, Order};
use super::headers;
use super::topic_options::Form;
use crate::bus::PublishErrorKind;
use crate::record::{Position, Record};

/// What became of an attempt to send.
pub(super) enum Sent {
    Yes,
    /// The connection takes no more for now.
    NotNow,
    /// There is nothing more to wait for.
    Over(Result<Position, PublishErrorKind>),
    /// Its publisher has taken it back.
    TakenBack,
}

/// The headers of a record on its way.
pub(super) fn wire(order: &Order, record: &Record) -> Result<HeaderMap, Box<str>> {
    let with_key = order.topic.options.form != Form::Keyed && !order.envelope;
    let mut wire = headers::to_wire(record, with_key, order.letter)?;
    if let Id::Given(id) = &order.id {
        wire.insert(headers::MESSAGE_ID, headers::id(id));
    }
    if let Some(expected) = order.expected {
        wire.insert(headers::EXPECTED, expected.to_string());
    }
    Ok(wire)
}

/// Gives a message to the connection, if that takes it at once.
pub(super) fn given(
    client: &Client,
    subject: String,
    reply: Option<Subject>,
    wire: HeaderMap,
    payload: Bytes,
) -> Sent {
    let subject = Subject::from(subject);
    let sent = match (reply, wire.is_empty()) {
        (Some(reply), true) => client.publish_with_reply(subject, reply, payload).now_or_never(),
        (Some(reply), false) => {
            client.publish_with_reply_and_headers(subject, reply, wire, payload).now_or_never()
        }
        (None, true) => client.publish(subject, payload).now_or_never(),
        (None, false) => client.publish_with_headers(subject, wire, payload).now_or_never(),
    };
    match sent {
        // Dropped before it is ready, nothing was sent.
        None => Sent::NotNow,
        Some(Ok(())) => Sent::Yes,
        Some(Err(error)) if error.kind() == Kind::MaxPayloadExceeded => {
            Sent::Over(Err(PublishErrorKind::TooLarge { most: Some(client.max_payload()) }))
        }
        Some(Err(error)) => Sent::Over(Err(PublishErrorKind::Failed(error.to_string().into()))),
    }
}
