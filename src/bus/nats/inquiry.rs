//! What the publisher asks the server about a record whose outcome its answers do not tell.

use async_nats::jetstream;
use async_nats::jetstream::response::Response;
use serde_json::{Value, json};

use super::handover::{Handover, News};
use super::headers;
use super::link::Links;
use super::window::Ticket;
use crate::sync::Arc;

/// Asks on the control connection, and tells the publisher's thread, on which it is called.
pub(super) struct Inquiry {
    control: jetstream::Context,
}

impl Inquiry {
    pub(super) fn new(links: &Links) -> Self {
        Self { control: links.control.jetstream.clone() }
    }

    /// Whether a stream takes a subject.
    pub(super) fn exists(&self, hand: &Arc<Handover>, ticket: Ticket, subject: String) {
        let (control, hand) = (self.control.clone(), hand.clone());
        drop(tokio::spawn(async move {
            let question = json!({ "subject": subject });
            let answer: Result<Response<Value>, _> =
                control.request("STREAM.NAMES", &question).await;
            let exists = match answer {
                Ok(Response::Ok(names)) => {
                    names.get("total").and_then(Value::as_u64).map(|total| total > 0)
                }
                // Not allowed to ask, not there, or not now: nobody knows.
                Ok(Response::Err { .. }) | Err(_) => None,
            };
            hand.tell(News::Asked(ticket, exists));
        }));
    }

    /// The last record of a subject: whether it is the one with this id.
    pub(super) fn last(
        &self,
        hand: &Arc<Handover>,
        ticket: Ticket,
        stream: String,
        subject: String,
        id: String,
    ) {
        let (control, hand) = (self.control.clone(), hand.clone());
        drop(tokio::spawn(async move {
            let last = match control.get_stream_no_info(stream).await {
                Ok(stream) => stream.get_last_raw_message_by_subject(&subject).await.ok(),
                Err(_) => None,
            };
            let last = last.map(|last| {
                let own = last.headers.get(headers::MESSAGE_ID);
                (last.sequence, own.is_some_and(|own| own.as_str() == id))
            });
            hand.tell(News::ReadBack(ticket, last));
        }));
    }
}
