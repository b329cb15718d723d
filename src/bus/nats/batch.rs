//! A batch that is stored as a whole or not at all. Servers from 2.12 on can, on streams that allow it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Request, StatusCode};
use bytes::Bytes;
use tokio::time::timeout;

use super::handover::{Order, count};
use super::outgoing::wire;
use super::publisher::Wish;
use super::shared::Shared;
use super::topic_options::Form;
use super::verdict::Verdict;
use crate::bus::PublishErrorKind;
use crate::record::{Position, Record};
use crate::reply::{Reply, block_on, reply};
use crate::runtime::Runtime;
use crate::sync::Arc;

/// The most records of a batch.
const MOST: usize = 1_000;

/// A batch that was not stored, or of which it is not known; its records come back, in order.
pub struct AtomicError {
    kind: PublishErrorKind,
    records: Vec<Record>,
}

impl AtomicError {
    /// Why.
    pub fn kind(&self) -> &PublishErrorKind {
        &self.kind
    }

    /// The records, back.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Whether the batch may have been stored all the same.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.kind, PublishErrorKind::Unknown(_))
    }
}

impl fmt::Display for AtomicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl fmt::Debug for AtomicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicError")
            .field("kind", &self.kind)
            .field("records", &self.records.len())
            .finish()
    }
}

impl Error for AtomicError {}

/// An atomic batch under way: a future, and something a plain thread can wait for.
///
/// # Cancel safety
/// Safe to poll by reference in a `select!`. Dropped, the batch goes on, and nobody hears of it.
#[must_use = "whether the batch was stored is known when this is"]
pub struct AtomicPublishing {
    reply: Reply<Result<Vec<Position>, AtomicError>>,
    runtime: Runtime,
}

impl AtomicPublishing {
    /// Waits on a plain thread. Inside a handler it does not wait: what becomes of the batch is unknown then.
    ///
    /// # Errors
    /// See [`AtomicError`].
    pub fn wait(mut self) -> Result<Vec<Position>, AtomicError> {
        let clock = self.runtime.clock().clone();
        let unknown = || {
            let kind = PublishErrorKind::Unknown("nobody waited for the answer".into());
            Err(AtomicError { kind, records: Vec::new() })
        };
        block_on(&mut self, &*clock, None).unwrap_or_else(unknown)
    }
}

impl Future for AtomicPublishing {
    type Output = Result<Vec<Position>, AtomicError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let closed = AtomicError { kind: PublishErrorKind::Closed, records: Vec::new() };
        Pin::new(&mut self.reply).poll(cx).map(|answer| answer.unwrap_or(Err(closed)))
    }
}

impl fmt::Debug for AtomicPublishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtomicPublishing(..)")
    }
}

/// A message of a batch.
struct Part {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
    partition: u32,
}

impl Shared {
    /// Publishes records as a whole; `expected` is the sequence of the last record of the first one's key, if it must
    /// be that.
    pub(super) fn publish_atomic(
        self: &Arc<Self>,
        topic: &str,
        records: Vec<Record>,
        expected: Option<u64>,
    ) -> AtomicPublishing {
        let (answer, reply) = reply();
        let shared = self.clone();
        let topic = topic.to_owned();
        self.links.publish.io.spawn(async move {
            let client = &shared.links.publish.client;
            let within = shared.options.publish_timeout;
            let parts = shared.parts(&topic, &records, expected);
            let result = match (parts, shared.find(&topic)) {
                (Ok(parts), Ok(topic)) => match shared.ensure(&topic).await {
                    Ok(()) => send(client, parts, within).await,
                    Err(kind) => Err(kind),
                },
                (Err(kind), _) | (_, Err(kind)) => Err(kind),
            };
            let counts = &shared.runtime.core().publishes;
            records.iter().for_each(|_| count(counts, result.as_ref().map(drop)));
            answer.give(result.map_err(|kind| AtomicError { kind, records }));
        });
        AtomicPublishing { reply, runtime: self.runtime.clone() }
    }

    fn parts(
        &self,
        topic: &str,
        records: &[Record],
        expected: Option<u64>,
    ) -> Result<Vec<Part>, PublishErrorKind> {
        let topic = self.find(topic)?;
        let client = &self.links.publish.client;
        let unsupported = |text: &str| Err(PublishErrorKind::Unsupported(text.into()));
        if !(1..=MOST).contains(&records.len()) {
            return unsupported("an atomic batch has 1 to 1000 records");
        }
        if topic.options.at_most_once {
            return unsupported(
                "a topic of core NATS is held by no stream, so that nothing is atomic there",
            );
        }
        // An older server would store each record by itself.
        if !self.links.publish.version().batches() {
            return unsupported("atomic batches need a server of version 2.12 or later");
        }
        let batch = uuid::Uuid::now_v7().simple().to_string();
        let mut parts = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            let expected = expected.filter(|_| at == 0);
            let wish = Wish { expected, ..Wish::default() };
            let order = self.publisher.order(&topic, record.copy(), wish);
            let order = order.map_err(|error| error.kind().clone())?;
            parts.push(part(&order, record, &batch, (at, records.len()), client.max_payload())?);
        }
        Ok(parts)
    }
}

fn part(
    order: &Order,
    record: &Record,
    batch: &str,
    (at, of): (usize, usize),
    most: usize,
) -> Result<Part, PublishErrorKind> {
    let mut headers = wire(order, record).map_err(PublishErrorKind::InvalidHeader)?;
    headers.insert("Nats-Batch-Id", batch);
    headers.insert("Nats-Batch-Sequence", (at + 1).to_string());
    if at + 1 == of {
        headers.insert("Nats-Batch-Commit", "1");
    }
    let bytes = record.payload().len()
        + headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
            .map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len() + 4)
            .sum::<usize>()
        + 12;
    if bytes > most {
        return Err(PublishErrorKind::TooLarge { most: Some(most) });
    }
    let subject = order.topic.subject_in(order.partition, record.key());
    debug_assert!(order.expected.is_none() || order.topic.options.form == Form::Keyed);
    Ok(Part { subject, headers, payload: record.payload_bytes(), partition: order.partition })
}

/// Sends the parts: the first and the last are answered.
async fn send(
    client: &Client,
    parts: Vec<Part>,
    within: Duration,
) -> Result<Vec<Position>, PublishErrorKind> {
    let partitions: Vec<u32> = parts.iter().map(|part| part.partition).collect();
    let last = parts.len() - 1;
    for (at, Part { subject, headers, payload, .. }) in parts.into_iter().enumerate() {
        if at > 0 && at < last {
            let sent = client.publish_with_headers(subject, headers, payload);
            match timeout(within, sent).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => return Err(PublishErrorKind::Failed(error.to_string().into())),
                Err(_) => {
                    return Err(PublishErrorKind::Failed("the connection takes nothing".into()));
                }
            }
        }
        let request = Request::new().headers(headers).payload(payload).timeout(Some(within));
        let answer = match client.send_request(subject, request).await {
            Ok(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => None,
            Ok(answer) => Some(answer.payload),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => None,
            // Without the last part nothing is stored.
            Err(error) if at < last => {
                return Err(PublishErrorKind::Failed(error.to_string().into()));
            }
            Err(error) => return Err(PublishErrorKind::Unknown(error.to_string().into())),
        };
        match answer {
            None => {
                let text = "no stream takes the subjects of the batch";
                return Err(PublishErrorKind::MissingTopic(text.into()));
            }
            Some(answer) if at == last => return stored(&answer, &partitions),
            Some(answer) if answer.is_empty() => {}
            Some(answer) => match Verdict::read(&answer) {
                // Whoever holds the stream is older than the server that we see.
                Verdict::Stored(_) => {
                    let text = "the stream's server stores each record of a batch by itself; the first is stored";
                    return Err(PublishErrorKind::Unknown(text.into()));
                }
                refused => return Err(refusal(refused)),
            },
        }
    }
    Err(PublishErrorKind::Failed("an empty batch".into()))
}

/// The positions of a batch that is stored: its sequences end with the last one.
fn stored(answer: &[u8], partitions: &[u32]) -> Result<Vec<Position>, PublishErrorKind> {
    match Verdict::read(answer) {
        Verdict::Stored(last) => {
            let first = (last + 1).saturating_sub(partitions.len() as u64);
            let positions = partitions.iter().zip(first..);
            Ok(positions.map(|(&partition, offset)| Position { partition, offset }).collect())
        }
        refused => Err(refusal(refused)),
    }
}

fn refusal(verdict: Verdict) -> PublishErrorKind {
    match verdict {
        Verdict::WrongLast(last) => PublishErrorKind::WrongLastSequence { last },
        Verdict::Busy => PublishErrorKind::WrongLastSequence { last: None },
        Verdict::TooLarge => PublishErrorKind::TooLarge { most: None },
        Verdict::Full => PublishErrorKind::Full,
        Verdict::NoBatches(why) => {
            PublishErrorKind::Unsupported(format!("{why}: set allow_atomic on the stream").into())
        }
        Verdict::NotReady(why) | Verdict::Refused(why) => PublishErrorKind::BatchRefused(why),
        Verdict::Stored(_) | Verdict::Unreadable => {
            PublishErrorKind::Unknown("the answer cannot be read".into())
        }
    }
}
