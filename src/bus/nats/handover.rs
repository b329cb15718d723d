//! Records on their way from those who publish to the publisher's thread, and what became of them on the way back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::sync::{Notify, oneshot};

use super::topic::Topic;
use super::window::{MOST, Ticket};
use crate::bus::{PublishError, PublishErrorKind, PublishFuture};
use crate::clock::Time;
use crate::core::Core;
use crate::counts::Publishes;
use crate::record::{Position, Record};
use crate::sync::{Arc, Mutex};
use crate::unwind::guard;

/// What is known of a publish, by both sides.
#[derive(Debug)]
pub(super) struct Parcel(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Until it is given back, or stored.
    record: Option<Record>,
    stage: Stage,
    result: Option<Result<Position, PublishErrorKind>>,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for room: whoever loses interest takes the record along.
    Waiting,
    /// There is room for it: it is sent, whoever is interested.
    Taken,
    /// Sent: what becomes of it is not in our hands.
    Sent,
    Over,
}

/// The id by which a stream tells a record from one that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Id {
    None,
    /// It stands in the record's headers.
    InRecord,
    Given(Box<str>),
}

/// A record to be published.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) parcel: Arc<Parcel>,
    pub(super) topic: Arc<Topic>,
    pub(super) partition: u32,
    pub(super) id: Id,
    /// The payload says whose record it is.
    pub(super) envelope: bool,
    pub(super) letter: bool,
    /// The sequence of the subject's last record, if it must be that.
    pub(super) expected: Option<u64>,
    /// The hash of what it is ordered by.
    pub(super) key: Option<u64>,
    pub(super) bytes: usize,
    pub(super) deadline: Time,
    /// Whether an earlier sending of it may have been stored.
    pub(super) doubt: bool,
    pub(super) missed: Option<Missed>,
    /// Somebody is being asked about it.
    pub(super) asked: bool,
}

/// That nobody was there to store a record.
#[derive(Debug)]
pub(super) struct Missed {
    /// Since when, or since it was last asked whether anybody ever will be.
    pub(super) since: Time,
    pub(super) times: u32,
    /// What was said last.
    pub(super) why: Box<str>,
}

impl Order {
    pub(super) fn has_id(&self) -> bool {
        self.id != Id::None
    }
}

/// What the publisher's thread hears besides orders.
#[derive(Debug)]
pub(super) enum News {
    /// Whether a stream takes the publish's subject: `None` if nobody said.
    Asked(Ticket, Option<bool>),
    /// The last record of the publish's subject: its sequence and whether it is the one published; `None` if nobody
    /// said.
    ReadBack(Ticket, Option<(u64, bool)>),
    /// The server forbids publishing to a subject.
    Denied(String),
    /// The bus closes: what is not finished by then is given back, and their number answered.
    Close(Time, oneshot::Sender<usize>),
}

/// Who may still publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Open {
    ToAll,
    ToLetters,
    No,
}

/// The way from those who publish to the publisher's thread.
#[derive(Debug)]
pub(super) struct Handover {
    inner: Mutex<Inner>,
    notify: Notify,
    /// Records, and bytes, that may be there in all; and records for which there is room at once.
    most: (usize, usize),
    window: usize,
}

#[derive(Debug)]
struct Inner {
    orders: Vec<Order>,
    news: Vec<News>,
    /// The publisher's thread waits to be called.
    idle: bool,
    open: Open,
    /// Nobody listens any more.
    ended: bool,
    /// What was taken and is not finished.
    records: usize,
    bytes: usize,
}

impl Handover {
    pub(super) fn new(window: usize, most: (usize, usize)) -> Self {
        let inner = Inner {
            orders: Vec::new(),
            news: Vec::new(),
            idle: false,
            open: Open::ToAll,
            ended: false,
            records: 0,
            bytes: 0,
        };
        Self { inner: Mutex::new(inner), notify: Notify::new(), most, window }
    }

    /// Hands over what fits, in order, and returns the rest with the reason: nothing of it was taken.
    pub(super) fn push(
        &self,
        orders: impl IntoIterator<Item = Order>,
    ) -> Result<(), (PublishErrorKind, Vec<Order>)> {
        let mut orders = orders.into_iter();
        let mut refused = None;
        let mut inner = self.inner.lock();
        for order in orders.by_ref() {
            if let Some(kind) = inner.refuses(&order, self.most) {
                refused = Some((kind, order));
                break;
            }
            inner.records += 1;
            inner.bytes += order.bytes;
            if inner.records <= self.window {
                order.parcel.0.lock().stage = Stage::Taken;
            }
            inner.orders.push(order);
        }
        let call = std::mem::take(&mut inner.idle);
        drop(inner);
        if call {
            self.notify.notify_one();
        }
        match refused {
            None => Ok(()),
            Some((kind, first)) => Err((kind, std::iter::once(first).chain(orders).collect())),
        }
    }

    pub(super) fn tell(&self, news: News) {
        let mut inner = self.inner.lock();
        if inner.ended {
            return;
        }
        inner.news.push(news);
        let call = std::mem::take(&mut inner.idle);
        drop(inner);
        if call {
            self.notify.notify_one();
        }
    }

    /// Takes what is there; of what was taken before, `done` records with so many bytes are finished.
    pub(super) fn take(&self, done: (usize, usize), orders: &mut Vec<Order>, news: &mut Vec<News>) {
        let mut inner = self.inner.lock();
        inner.records -= done.0;
        inner.bytes -= done.1;
        std::mem::swap(&mut inner.orders, orders);
        std::mem::swap(&mut inner.news, news);
        // Not called while it looks: it looks again before it waits.
        inner.idle = false;
    }

    /// Ready once there is something to take.
    pub(super) async fn called(&self) {
        {
            let mut inner = self.inner.lock();
            if !inner.orders.is_empty() || !inner.news.is_empty() {
                return;
            }
            inner.idle = true;
        }
        self.notify.notified().await;
    }

    /// Takes no more but dead letters.
    pub(super) fn refuse_all_but_letters(&self) {
        let mut inner = self.inner.lock();
        inner.open = inner.open.max(Open::ToLetters);
    }

    /// Takes no more.
    pub(super) fn refuse(&self) {
        self.inner.lock().open = Open::No;
    }

    /// Takes no more, and nobody listens.
    pub(super) fn end(&self) {
        let mut inner = self.inner.lock();
        (inner.open, inner.ended) = (Open::No, true);
    }

    /// Records for which there is room at once.
    pub(super) fn window(&self) -> usize {
        self.window
    }
}

impl Inner {
    fn refuses(&self, order: &Order, most: (usize, usize)) -> Option<PublishErrorKind> {
        let letter = order.letter;
        let closed = if letter { self.open == Open::No } else { self.open != Open::ToAll };
        // Letters are few, and what waits for them holds much more: they have room of their own.
        let records = if letter { MOST } else { most.0 };
        let full = self.records >= records
            || (!letter && self.records > 0 && self.bytes.saturating_add(order.bytes) > most.1);
        match (closed, full) {
            (true, _) => Some(PublishErrorKind::Closed),
            (_, true) => Some(PublishErrorKind::Full),
            _ => None,
        }
    }
}

impl Parcel {
    pub(super) fn new(record: Record) -> Arc<Self> {
        let state =
            State { record: Some(record), stage: Stage::Waiting, result: None, waker: None };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Shows the record to who sends it; `None` if its publisher has taken it back.
    pub(super) fn send<T>(&self, send: impl FnOnce(&Record) -> T) -> Option<T> {
        let mut state = self.0.lock();
        let sent = send(state.record.as_ref()?);
        state.stage = Stage::Sent;
        Some(sent)
    }

    /// Whether its record was ever shown to who sends it.
    pub(super) fn is_sent(&self) -> bool {
        self.0.lock().stage == Stage::Sent
    }

    /// It was not sent after all.
    pub(super) fn unsent(&self) {
        let mut state = self.0.lock();
        if state.stage == Stage::Sent {
            state.stage = Stage::Taken;
        }
    }

    /// The result. Whoever has taken the record back hears nothing.
    pub(super) fn end(&self, result: Result<Position, PublishErrorKind>) {
        let (waker, stored) = {
            let mut state = self.0.lock();
            if state.stage == Stage::Over {
                return;
            }
            state.stage = Stage::Over;
            let stored = result.is_ok().then(|| state.record.take()).flatten();
            state.result = Some(result);
            (state.waker.take(), stored)
        };
        stored.into_iter().for_each(Record::recycle_quietly);
        // A waker is a caller's code.
        let _ = guard(|| waker.into_iter().for_each(Waker::wake));
    }

    /// The result, as its publisher gets it.
    pub(super) fn result(&self) -> Option<Result<Position, PublishError>> {
        let mut state = self.0.lock();
        let result = state.result.take()?;
        Some(result.map_err(|kind| state.give(kind)))
    }
}

impl State {
    fn give(&mut self, kind: PublishErrorKind) -> PublishError {
        PublishError::new(kind, self.record.take().unwrap_or_else(|| Record::keyless("")))
    }
}

/// A publish as its publisher sees it.
pub(super) struct Pending {
    pub(super) parcel: Arc<Parcel>,
    pub(super) core: Arc<Core>,
}

/// Counts a result.
pub(super) fn count(counts: &Publishes, result: Result<(), &PublishErrorKind>) {
    let counter = match result {
        Ok(()) => &counts.confirmed,
        Err(PublishErrorKind::Full) => &counts.full,
        Err(PublishErrorKind::Unknown(_)) => &counts.unknown,
        Err(_) => &counts.failed,
    };
    counter.add_shared(1);
}

impl Future for Pending {
    type Output = Result<Position, PublishError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.parcel.result() {
            return Poll::Ready(result);
        }
        // Cloned before the lock and dropped after it: a waker is a caller's code.
        let waker = cx.waker().clone();
        let mut state = self.parcel.0.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result.map_err(|kind| state.give(kind)));
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl PublishFuture for Pending {
    fn give_up(&mut self, kind: PublishErrorKind) -> Option<PublishError> {
        let mut state = self.parcel.0.lock();
        match state.stage {
            Stage::Waiting | Stage::Taken => {
                state.stage = Stage::Over;
                count(&self.core.publishes, Err(&kind));
                Some(state.give(kind))
            }
            // It may yet be stored; who sends it again has to have it.
            Stage::Sent => {
                let kind =
                    PublishErrorKind::Unknown("the wait was over before the answer came".into());
                let copy = state.record.as_ref().map(Record::copy)?;
                Some(PublishError::new(kind, copy))
            }
            // The result is there: it is read instead.
            Stage::Over => None,
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut state = self.parcel.0.lock();
        if state.stage == Stage::Waiting {
            state.stage = Stage::Over;
            let record = state.record.take();
            drop(state);
            record.into_iter().for_each(Record::recycle_quietly);
        }
    }
}
