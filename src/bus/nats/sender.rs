//! The publisher's thread: sends what is handed over, follows each record until its outcome is known, and sends again
//! what may have been lost and can be told from a second of its kind.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::core_sequence::Sequences;
use super::handover::{Handover, Id, Missed, News, Order, count};
use super::headers;
use super::inquiry::Inquiry;
use super::link::Links;
use super::outgoing::{Sent, given, wire};
use super::verdict::Verdict;
use super::window::{Room, Sending, Ticket, Window};
use crate::bus::PublishErrorKind;
use crate::clock::Time;
use crate::core::Core;
use crate::record::Position;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// How often deadlines are looked at while something is under way.
const TICK: Duration = Duration::from_millis(10);
/// Pauses before a record is sent again that nobody was there to store: the first, doubled up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// For how long nobody may be there to store a record before it is asked whether its stream exists.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// Records and replies dealt with before others on the thread have their turn.
const TURN: usize = 256;
/// Orders for which the room that they were handed over in is kept.
const KEPT: usize = 4_096;

/// The publisher's thread.
pub(super) struct Sender {
    hand: Arc<Handover>,
    core: Arc<Core>,
    client: Client,
    inquiry: Inquiry,
    window: Window<Order>,
    inbox: String,
    sequences: Sequences,
    /// How often the connection had been made when it was last looked at.
    connects: u64,
    /// The connection takes no more for now.
    clogged: bool,
    done: (usize, usize),
    /// Empty: what the next orders are taken in.
    orders: Vec<Order>,
    closing: Option<(Time, Vec<oneshot::Sender<usize>>)>,
}

impl Sender {
    pub(super) fn new(hand: Arc<Handover>, core: Arc<Core>, links: &Links, room: Room) -> Self {
        let client = links.publish.client.clone();
        Self {
            hand,
            core,
            inbox: client.new_inbox(),
            connects: client.statistics().connects.load(Ordering::Relaxed),
            client,
            inquiry: Inquiry::new(links),
            window: Window::new(room),
            sequences: Sequences::default(),
            clogged: false,
            done: (0, 0),
            orders: Vec::new(),
            closing: None,
        }
    }

    /// Runs until the bus is closed; dropped, it gives back what it has.
    pub(super) async fn run(mut self) {
        let Ok(mut replies) = self.client.subscribe(format!("{}.*", self.inbox)).await else {
            return;
        };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.turn(&mut replies) {
            let busy = self.window.len() > 0 || self.closing.is_some();
            if self.clogged && self.is_connected() {
                // The connection's own task runs on this thread.
                tokio::task::yield_now().await;
                continue;
            }
            let hand = self.hand.clone();
            tokio::select! {
                biased;
                reply = replies.next() => match reply {
                    Some(reply) => self.reply(&reply),
                    None => return,
                },
                () = hand.called() => {}
                _ = tick.tick(), if busy => self.deadlines(),
            }
        }
    }

    /// Does what can be done now; whether that was the last.
    fn turn(&mut self, replies: &mut Subscriber) -> bool {
        for _ in 0..TURN {
            match replies.next().now_or_never() {
                Some(Some(reply)) => self.reply(&reply),
                _ => break,
            }
        }
        let (mut orders, mut news) = (std::mem::take(&mut self.orders), Vec::new());
        self.hand.take(std::mem::take(&mut self.done), &mut orders, &mut news);
        for order in orders.drain(..) {
            // Of core NATS nothing is confirmed: what is sent is in order as it is.
            let key = order.key.filter(|_| !order.topic.options.at_most_once);
            let (bytes, deadline) = (order.bytes, order.deadline);
            self.window.admit(order, key, bytes, deadline);
        }
        // Given back to be filled again at the next turn, unless it has grown in a rush.
        orders.shrink_to(KEPT);
        self.orders = orders;
        news.into_iter().for_each(|news| self.hear(news));
        self.reconnected();
        self.send_all();
        self.close_if_due()
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    fn now(&self) -> Time {
        self.core.clock.now()
    }

    /// After a reconnect what is not answered may be lost: what has an id is sent again, the rest waits until its
    /// reply is overdue.
    fn reconnected(&mut self) {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        if connects == self.connects || !self.is_connected() {
            return;
        }
        self.connects = connects;
        for ticket in self.window.unanswered() {
            if let Some(order) = self.window.get(ticket).filter(|order| order.has_id()) {
                order.doubt = true;
                self.window.again(ticket, None);
            }
        }
    }

    /// Sends as long as there is room; nothing while the connection is down, so that what was not sent is known not
    /// to be stored.
    fn send_all(&mut self) {
        self.clogged = false;
        if !self.is_connected() {
            return;
        }
        let now = self.now();
        while let Some(sending) = self.window.next(now) {
            match self.send(sending) {
                Sent::Yes => {}
                Sent::TakenBack => self.drop_order(sending.ticket),
                Sent::Over(result) => self.finish(sending.ticket, result),
                Sent::NotNow => {
                    if let Some(order) =
                        self.window.get(sending.ticket).filter(|order| !order.doubt)
                    {
                        order.parcel.unsent();
                    }
                    self.window.unsent(sending);
                    self.clogged = true;
                    return;
                }
            }
        }
    }

    fn send(&mut self, sending: Sending) -> Sent {
        let Some(order) = self.window.get(sending.ticket) else { return Sent::TakenBack };
        let (topic, sequences) = (&order.topic, &mut self.sequences);
        let made = order.parcel.send(|record| {
            let subject = topic.subject_in(order.partition, record.key());
            let wire = wire(order, record)?;
            Ok((subject, wire, record.payload_bytes()))
        });
        let (subject, wire, payload) = match made {
            Some(Ok(made)) => made,
            Some(Err(name)) => return Sent::Over(Err(PublishErrorKind::InvalidHeader(name))),
            None => return Sent::TakenBack,
        };
        if topic.options.at_most_once {
            let partition = order.partition;
            let (number, mark) = sequences.next(&subject);
            let mut wire = wire;
            wire.insert(headers::SEQUENCE, mark);
            let sent = given(&self.client, subject.clone(), None, wire, payload);
            if !matches!(sent, Sent::Yes) {
                sequences.take_back(&subject);
                return sent;
            }
            return Sent::Over(Ok(Position { partition, offset: number }));
        }
        let reply = Subject::from(format!("{}.{:x}", self.inbox, sending.token()));
        given(&self.client, subject, Some(reply), wire, payload)
    }

    /// Takes an answer.
    fn reply(&mut self, reply: &Message) {
        let token = reply.subject.rsplit('.').next();
        let token = token.and_then(|token| u64::from_str_radix(token, 16).ok());
        let Some(sending) = token.map(Sending::of) else { return };
        let ticket = sending.ticket;
        let verdict = if reply.status == Some(StatusCode::NO_RESPONDERS) {
            Verdict::NotReady("no stream was there to store it".into())
        } else {
            Verdict::read(&reply.payload)
        };
        let newest = self.window.is_newest(sending);
        let Some(order) = self.window.get(ticket) else { return };
        let partition = order.partition;
        match verdict {
            Verdict::Stored(offset) => self.finish(ticket, Ok(Position { partition, offset })),
            // The answer to an earlier sending; that to the last one counts.
            _ if !newest => {}
            Verdict::NotReady(why) => self.not_ready(ticket, why),
            Verdict::Busy => {
                let at = self.now().after(PAUSES.0);
                self.window.again(ticket, Some(at));
            }
            Verdict::WrongLast(_) if order.doubt && !order.asked => self.read_back(ticket),
            Verdict::WrongLast(last) => {
                self.refuse(ticket, PublishErrorKind::WrongLastSequence { last });
            }
            Verdict::Full => self.refuse(ticket, PublishErrorKind::Full),
            Verdict::TooLarge => self.refuse(ticket, PublishErrorKind::TooLarge { most: None }),
            Verdict::Refused(why) | Verdict::NoBatches(why) => {
                self.refuse(ticket, PublishErrorKind::Failed(why));
            }
            Verdict::Unreadable => self.lost(ticket, "the answer cannot be read"),
        }
    }

    /// Nobody was there to store it: it is sent again, and after a while it is asked whether there ever will be.
    fn not_ready(&mut self, ticket: Ticket, why: Box<str>) {
        log::debug!("a publish is tried again: {why}");
        let now = self.now();
        let Some(order) = self.window.get(ticket) else { return };
        let (since, times) = order.missed.as_ref().map_or((now, 0), |m| (m.since, m.times));
        order.missed = Some(Missed { since, times: times + 1, why });
        if now.since(since) >= ASK_AFTER && !order.asked {
            order.asked = true;
            let subject =
                order.parcel.send(|record| order.topic.subject_in(order.partition, record.key()));
            if let Some(subject) = subject {
                self.inquiry.exists(&self.hand, ticket, subject);
            }
        }
        let pause = PAUSES.0.saturating_mul(1 << times.min(8)).min(PAUSES.1);
        self.window.again(ticket, Some(now.after(pause)));
    }

    /// The sequence expected was not the last; perhaps because an earlier sending of the same record is.
    fn read_back(&mut self, ticket: Ticket) {
        let Some(order) = self.window.get(ticket) else { return };
        order.asked = true;
        let asked = order.parcel.send(|record| {
            let subject = order.topic.subject_in(order.partition, record.key());
            let id = match &order.id {
                Id::Given(id) => id.to_string(),
                Id::InRecord | Id::None => {
                    let id = record.header(headers::MESSAGE_ID).unwrap_or_default();
                    String::from_utf8_lossy(id).into_owned()
                }
            };
            (subject, id)
        });
        if let Some((subject, id)) = asked {
            self.inquiry.last(&self.hand, ticket, order.topic.stream.clone(), subject, id);
        }
    }

    /// Its outcome is not known: it is sent again if that can do no harm.
    fn lost(&mut self, ticket: Ticket, why: &str) {
        let Some(order) = self.window.get(ticket) else { return };
        order.doubt = true;
        if order.has_id() {
            self.window.again(ticket, None);
        } else {
            self.finish(ticket, Err(PublishErrorKind::Unknown(why.into())));
        }
    }

    /// The last sending was refused. If an earlier one may have been stored, that is not the whole outcome.
    fn refuse(&mut self, ticket: Ticket, kind: PublishErrorKind) {
        let doubt = self.window.get(ticket).is_some_and(|order| order.doubt);
        let kind = if doubt {
            PublishErrorKind::Unknown(format!("sent again after no answer came: {kind}").into())
        } else {
            kind
        };
        self.finish(ticket, Err(kind));
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Asked(ticket, exists) => {
                let Some(order) = self.window.get(ticket) else { return };
                // Asked again later, if it is not there by then.
                order.asked = false;
                if let Some(missed) = &mut order.missed {
                    missed.since = self.core.clock.now();
                }
                if exists == Some(false) {
                    let name = &order.topic.name;
                    let text = format!(
                        "no stream takes the subjects of {name:?}; make one, or let the bus"
                    );
                    self.refuse(ticket, PublishErrorKind::MissingTopic(text.into()));
                }
            }
            News::ReadBack(ticket, last) => {
                let Some(order) = self.window.get(ticket) else { return };
                let partition = order.partition;
                match last {
                    Some((offset, true)) => self.finish(ticket, Ok(Position { partition, offset })),
                    Some((last, false)) => {
                        let kind = PublishErrorKind::WrongLastSequence { last: Some(last) };
                        self.finish(ticket, Err(kind));
                    }
                    None => {
                        order.asked = false;
                        let at = self.now().after(PAUSES.1);
                        self.window.again(ticket, Some(at));
                    }
                }
            }
            News::Denied(subject) => {
                for ticket in self.window.unanswered() {
                    let Some(order) = self.window.get(ticket) else { continue };
                    let own = order
                        .parcel
                        .send(|record| order.topic.subject_in(order.partition, record.key()));
                    if own.as_deref() == Some(&*subject) {
                        let text =
                            format!("the server forbids {subject:?}; permit it to this user");
                        self.refuse(ticket, PublishErrorKind::NotPermitted(text.into()));
                    }
                }
            }
            News::Close(until, answer) => {
                let (at, answers) = self.closing.get_or_insert_with(|| (until, Vec::new()));
                *at = until.min(*at);
                answers.push(answer);
            }
        }
    }

    fn deadlines(&mut self) {
        let now = self.now();
        self.window.turn(now);
        while let Some(ticket) = self.window.expired(now) {
            self.finish(ticket, Err(PublishErrorKind::Full));
        }
        while let Some(ticket) = self.window.stale(now) {
            let Some(order) = self.window.get(ticket) else { continue };
            let kind = if let Some(missed) = order.missed.take().filter(|_| !order.doubt) {
                PublishErrorKind::Failed(missed.why)
            } else if order.doubt || order.parcel.is_sent() {
                PublishErrorKind::Unknown("no answer came, though it was sent again".into())
            } else {
                PublishErrorKind::Failed("the connection took nothing".into())
            };
            self.finish(ticket, Err(kind));
        }
        while let Some(sending) = self.window.overdue(now) {
            self.lost(sending.ticket, "no answer came in time");
        }
    }

    fn finish(&mut self, ticket: Ticket, result: Result<Position, PublishErrorKind>) {
        let Some(order) = self.window.finish(ticket) else { return };
        self.done = (self.done.0 + 1, self.done.1 + order.bytes);
        count(&self.core.publishes, result.as_ref().map(drop));
        order.parcel.end(result);
    }

    fn drop_order(&mut self, ticket: Ticket) {
        if let Some(order) = self.window.finish(ticket) {
            self.done = (self.done.0 + 1, self.done.1 + order.bytes);
        }
    }

    /// Whether the bus closes and there is nothing more to wait for.
    fn close_if_due(&mut self) -> bool {
        let Some((until, _)) = &self.closing else { return false };
        if self.window.len() > 0 && self.now() < *until {
            return false;
        }
        let left = self.give_back();
        for answer in self.closing.take().into_iter().flat_map(|(_, answers)| answers) {
            // Whoever closed may have gone.
            let _ = answer.send(left);
        }
        true
    }

    /// Gives back whatever is here; how many.
    fn give_back(&mut self) -> usize {
        self.hand.end();
        let (mut orders, mut news) = (self.window.finish_all(), Vec::new());
        let mut late = Vec::new();
        self.hand.take((0, 0), &mut late, &mut news);
        orders.append(&mut late);
        for order in &orders {
            let kind = if order.parcel.is_sent() {
                PublishErrorKind::Unknown("the bus closed before an answer came".into())
            } else {
                PublishErrorKind::Closed
            };
            count(&self.core.publishes, Err(&kind));
            order.parcel.end(Err(kind));
        }
        orders.len()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.give_back();
    }
}
