//! Asking a durable consumer for deliveries, and taking them as they come.

use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::client::traits::Publisher;
use async_nats::message::OutboundMessage;
use async_nats::{Client, Message, Subject, Subscriber};
use futures_util::StreamExt;

use super::arrival::{Arrival, Form};
use crate::bus::{BrokerError, BrokerErrorKind};
use crate::clock::Time;

/// How long the server keeps a pull that it cannot fill.
const EXPIRES: Duration = Duration::from_secs(4);
/// How often it says that it is there meanwhile.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// For how long nothing may come while a pull is under way, at the least. A connection is given up after three pings without
/// an answer: what is on its way for as long as that is waited for.
const SILENCE: Duration = Duration::from_secs(5);
const PINGS: u32 = 3;
/// Between two looks at the connection, in things said.
const LOOK: u32 = 64;

/// Where a consumer's deliveries come from: the one seam between the network and order, ledger and recovery.
pub(super) trait Deliveries: Send {
    /// Records that were asked for and have not come.
    fn expected(&self, now: Time) -> usize;

    /// Asks for `count` records more, of at most `bytes` bytes together (0: however many).
    fn pull(&mut self, count: usize, bytes: usize, now: Time) -> impl Future<Output = bool> + Send;

    /// The next that has come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Message>;

    /// What it is. Of a delivery the reply is taken out; the rest stays where it is, since it is large.
    fn read(&mut self, message: &mut Message, now: Time) -> Arrival;

    /// Pulls are asked for at `next` from here on.
    fn aim(&mut self, next: String);

    /// Forgets what was asked for: nothing of it comes any more. What comes after a new pull is of that pull.
    fn begin_anew(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Says something of a delivery, while there is a connection. False if it could not be sent.
    fn say(&mut self, reply: Subject, word: &'static [u8]) -> impl Future<Output = bool> + Send;

    /// Whether the server should have said something since.
    fn is_silent(&self, now: Time) -> bool;

    /// A number that changes when something may have been lost.
    fn connects(&self) -> u64;

    /// Whether there is a connection.
    fn is_connected(&self) -> bool;
}

/// Pulls over a client.
pub(super) struct Puller {
    client: Client,
    /// `$JS.API.CONSUMER.MSG.NEXT.STREAM.CONSUMER`, with the bus' domain or prefix.
    next: Subject,
    /// The inbox of all pulls, without its last token.
    inbox: String,
    arrivals: Option<Subscriber>,
    form: Form,
    number: u64,
    /// Deliveries do not say which pull they are of: only the sum counts.
    expected: usize,
    /// When the newest pull has ended, whether we have heard of it or not.
    until: Time,
    heard: Time,
    /// After so long without a word the server is silent.
    silence: Duration,
    said: u32,
}

impl Puller {
    /// For the consumer whose pulls are asked for at `next`, on a connection that is pinged so often.
    pub(super) fn new(client: Client, next: String, ping_interval: Duration) -> Self {
        Self {
            client,
            next: next.into(),
            inbox: String::new(),
            arrivals: None,
            form: Form::default(),
            number: 0,
            expected: 0,
            until: Time::ZERO,
            heard: Time::ZERO,
            silence: SILENCE.max(PINGS * ping_interval),
            said: 0,
        }
    }
}

impl Deliveries for Puller {
    fn expected(&self, now: Time) -> usize {
        if now < self.until { self.expected } else { 0 }
    }

    async fn pull(&mut self, count: usize, bytes: usize, now: Time) -> bool {
        if count == 0 || !self.is_connected() {
            return false;
        }
        self.number += 1;
        let request = format!(
            r#"{{"batch":{count},"expires":{},"idle_heartbeat":{}{}}}"#,
            EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos(),
            if bytes == 0 { String::new() } else { format!(r#","max_bytes":{bytes}"#) },
        );
        let inbox = format!("{}.{}", self.inbox, self.number);
        let asked = self.client.publish_with_reply(self.next.clone(), inbox, request.into()).await;
        if asked.is_err() {
            return false;
        }
        if self.expected == 0 {
            self.heard = now;
        }
        self.expected += count;
        self.until = now.after(EXPIRES + HEARTBEAT);
        true
    }

    #[inline]
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        let Some(arrivals) = &mut self.arrivals else { return Poll::Pending };
        match arrivals.poll_next_unpin(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(message),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    #[inline]
    fn read(&mut self, message: &mut Message, now: Time) -> Arrival {
        self.heard = now;
        let arrival = Arrival::read(message, &mut self.form);
        match &arrival {
            Arrival::Delivery(_) => self.expected = self.expected.saturating_sub(1),
            Arrival::Ended { left } => self.expected = self.expected.saturating_sub(*left),
            Arrival::NoResponders | Arrival::Gone => self.expected = 0,
            Arrival::Heartbeat | Arrival::Foreign => {}
        }
        arrival
    }

    fn aim(&mut self, next: String) {
        self.next = next.into();
    }

    async fn begin_anew(&mut self) -> Result<(), BrokerError> {
        let failed = |error: String| BrokerError::new(BrokerErrorKind::Failed, error);
        if let Some(mut old) = self.arrivals.take() {
            // What the client has of it is dropped, and the server told to send no more, before anything that is sent later.
            let _ = old.unsubscribe().await;
        }
        self.expected = 0;
        self.inbox = self.client.new_inbox();
        let subscribed = self.client.subscribe(format!("{}.*", self.inbox)).await;
        self.arrivals = Some(subscribed.map_err(|error| failed(error.to_string()))?);
        Ok(())
    }

    async fn say(&mut self, reply: Subject, word: &'static [u8]) -> bool {
        // Looked at now and then, and long before so much is said that the client would have it wait for a connection.
        self.said = self.said.wrapping_add(1);
        if self.said.is_multiple_of(LOOK) && !self.is_connected() {
            return false;
        }
        // As a message, which takes the subject: by itself it would be copied.
        let payload = bytes::Bytes::from_static(word);
        let said = OutboundMessage { subject: reply, reply: None, payload, headers: None };
        self.client.publish_message(said).await.is_ok()
    }

    fn is_silent(&self, now: Time) -> bool {
        self.expected > 0 && now.since(self.heard) > self.silence
    }

    fn connects(&self) -> u64 {
        // Relaxed: a number that is looked at again and again.
        self.client.statistics().connects.load(crate::sync::atomic::Ordering::Relaxed)
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}
