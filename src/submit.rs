//! Submitting records: now, waiting for room, as a future, in batches.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::clock::Time;
use crate::context::in_handler;
use crate::core::Core;
use crate::error::PushError;
use crate::hash::Route;
use crate::metrics::Counter;
use crate::parker::with_current;
use crate::record::{MAX_KEY, Record};
use crate::ring::Refused;
use crate::sabotage::sabotage;
use crate::subscription::Keyless;
use crate::sync::Arc;
use crate::table::{Entry, SubscriptionState};
use crate::timer::Alarm;
use crate::token::Token;
use crate::wait_list::Place;
use crate::work::{Completion, Work};

/// Why a record was not taken; it comes back.
///
/// ```
/// use keylane::{Refusal, Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let orders = runtime.subscribe(Subscription::new("orders"), |_: &Record| Ok(()))?;
/// runtime.stop_now();
/// let refused = orders.submit(Record::new("order-42", "paid")).unwrap_err();
/// assert_eq!((refused.refusal(), refused.is_retryable()), (Refusal::Closed, false));
/// assert_eq!(refused.into_record().payload(), b"paid");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub enum SubmitError {
    /// Its lane is full, and was for as long as the call waits.
    Full(Record),
    /// The runtime takes no more records.
    Closed(Record),
    /// A failure stopped the subscription, or it was removed.
    Stopped(Record),
    /// The key is empty or longer than 4,096 bytes.
    InvalidKey(Record),
    /// It has no key, and the subscription rejects such records.
    NoKey(Record),
}

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Its lane is full.
    Full,
    /// The runtime takes no more records.
    Closed,
    /// A failure stopped the subscription, or it was removed.
    Stopped,
    /// The key is empty or longer than 4,096 bytes.
    InvalidKey,
    /// It has no key, and the subscription rejects such records.
    NoKey,
}

impl SubmitError {
    #[cold]
    pub(crate) fn new(refusal: Refusal, record: Record) -> Self {
        match refusal {
            Refusal::Full => Self::Full(record),
            Refusal::Closed => Self::Closed(record),
            Refusal::Stopped => Self::Stopped(record),
            Refusal::InvalidKey => Self::InvalidKey(record),
            Refusal::NoKey => Self::NoKey(record),
        }
    }

    /// Why.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Full(_) => Refusal::Full,
            Self::Closed(_) => Refusal::Closed,
            Self::Stopped(_) => Refusal::Stopped,
            Self::InvalidKey(_) => Refusal::InvalidKey,
            Self::NoKey(_) => Refusal::NoKey,
        }
    }

    /// The record, back.
    pub fn into_record(self) -> Record {
        match self {
            Self::Full(record)
            | Self::Closed(record)
            | Self::Stopped(record)
            | Self::InvalidKey(record)
            | Self::NoKey(record) => record,
        }
    }

    /// Whether the same record may be taken later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl Refusal {
    /// Counts one: there is a counter for each, in their order.
    #[cold]
    pub(crate) fn count(self, refused: &[Counter; 5]) {
        refused[self as usize].add_shared(1);
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the record's lane is full",
            Self::Closed => "the runtime is closed",
            Self::Stopped => "the subscription has stopped or was removed",
            Self::InvalidKey => "a key has 1 to 4096 bytes; use `Record::keyless` for none",
            Self::NoKey => "the subscription rejects records without a key",
        })
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal().fmt(f)
    }
}

impl fmt::Debug for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(..)", self.refusal())
    }
}

impl Error for SubmitError {}

/// A batch of which some records were not taken. They are in the caller's vector still, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchError {
    /// How many were taken.
    pub taken: usize,
    /// Why the first of the others was not.
    pub first: Refusal,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records were taken, the others were not: {}", self.taken, self.first)
    }
}

impl Error for BatchError {}

/// Where a record goes.
#[inline(always)]
pub(crate) fn route(core: &Core, entry: &Entry, record: &Record) -> Result<Route, Refusal> {
    let key = record.front();
    if !(1..=MAX_KEY).contains(&key.len()) {
        return route_unkeyed(core, entry, record);
    }
    Ok(core.router.route_salted(&entry.salt, key))
}

#[cold]
fn route_unkeyed(core: &Core, entry: &Entry, record: &Record) -> Result<Route, Refusal> {
    match record.key() {
        Some(_) => Err(Refusal::InvalidKey),
        None => route_keyless(core, entry),
    }
}

/// Where a record without a key goes: each to a place of its own, or all to one.
pub(crate) fn route_keyless(core: &Core, entry: &Entry) -> Result<Route, Refusal> {
    let hash = match entry.policy.keyless {
        Keyless::Spread => {
            let place = entry.state.keyless.next_shared();
            // Nine bytes are no key's hash by design, only by a chance of 2^-64.
            let mut unique = [0xff; 9];
            unique[..8].copy_from_slice(&place.to_le_bytes());
            entry.salt.hash(&unique)
        }
        // No key is empty.
        Keyless::Serial => entry.salt.hash(&[]),
        Keyless::Reject => return Err(Refusal::NoKey),
    };
    Ok(Route { lane: core.router.lane(hash), hash })
}

/// The record, which is submitted now: one in some is timed.
#[inline(always)]
pub(crate) fn timed(core: &Core, record: Record) -> Record {
    #[cfg(feature = "metrics")]
    if crate::latency::is_sampled() {
        let mut record = record;
        record.set_submitted(core.clock.now());
        return record;
    }
    let _ = core;
    record
}

/// What a lane takes of a record.
#[inline]
pub(crate) fn work(entry: &Entry, record: Record, hash: u64, completion: Completion) -> Work {
    Work { record, hash, subscription: entry.id, generation: entry.generation, completion }
}

/// Submits a record. If its lane is full and `wait` says so, waits for room for as long as the runtime's
/// `wait` says; not inside a handler.
#[inline(always)]
pub(crate) fn submit(
    core: &Core,
    entry: &Entry,
    record: Record,
    completion: Completion,
    wait: bool,
) -> Result<(), SubmitError> {
    let record = timed(core, record);
    let key = record.front();
    if !(1..=MAX_KEY).contains(&key.len()) || !entry.state.takes() {
        return submit_slow(core, entry, record, completion, wait);
    }
    let Route { lane, hash } = core.router.route_salted(&entry.salt, key);
    let Some(found) = core.lanes.find(lane) else {
        return submit_slow(core, entry, record, completion, wait);
    };
    match found.ring().claim_one() {
        Ok(claim) => match claim.fill(work(entry, record, hash, completion)) {
            None => Ok(()),
            Some(token) => send(core, token),
        },
        Err(refused) => {
            refuse(core, entry, lane, work(entry, record, hash, completion), refused, wait)
        }
    }
}

/// The lane was at rest: a worker is told.
#[inline(never)]
fn send(core: &Core, token: Token) -> Result<(), SubmitError> {
    core.lanes.send(token);
    Ok(())
}

/// A record without a proper key, or a subscription that takes none.
#[cold]
fn submit_slow(
    core: &Core,
    entry: &Entry,
    record: Record,
    completion: Completion,
    wait: bool,
) -> Result<(), SubmitError> {
    let Route { lane, hash } = match route(core, entry, &record) {
        Ok(routed) if entry.state.takes() => routed,
        routed => {
            let refusal = routed.err().unwrap_or(Refusal::Stopped);
            refusal.count(&entry.state.counters.refused);
            return Err(SubmitError::new(refusal, record));
        }
    };
    match core.lanes.push(lane, work(entry, record, hash, completion)) {
        Ok(()) => Ok(()),
        Err(PushError::Full(work)) => refuse(core, entry, lane, work, Refused::Full, wait),
        Err(PushError::Closed(work)) => refuse(core, entry, lane, work, Refused::Closed, wait),
    }
}

/// No place was given.
#[cold]
fn refuse(
    core: &Core,
    entry: &Entry,
    lane: u32,
    work: Work,
    refused: Refused,
    wait: bool,
) -> Result<(), SubmitError> {
    let back = match refused {
        Refused::Closed => (Refusal::Closed, work),
        Refused::Full if wait && !in_handler() => {
            let deadline = core.clock.now().after(core.config.wait);
            match wait_for_room(core, entry, lane, work, deadline) {
                Ok(()) => return Ok(()),
                Err(back) => back,
            }
        }
        Refused::Full => (Refusal::Full, work),
    };
    back.0.count(&entry.state.counters.refused);
    let another = sabotage!(AnotherComesBack);
    let record = if another { Record::null("another") } else { back.1.record };
    Err(SubmitError::new(back.0, record))
}

/// Sleeps until the record is taken, the deadline has come, or it will not be taken any more.
#[cold]
pub(crate) fn wait_for_room(
    core: &Core,
    entry: &Entry,
    lane: u32,
    work: Work,
    deadline: Time,
) -> Result<(), (Refusal, Work)> {
    warn_if_async(core);
    with_current(|parker| {
        let mut cx = Context::from_waker(parker.waker());
        let (mut work, mut place) = (Some(work), None);
        let refusal = loop {
            // Each time: the subscription may have been stopped or removed meanwhile.
            if !entry.state.takes() {
                break Refusal::Stopped;
            }
            match core.lanes.poll_push(lane, &mut work, &mut place, &mut cx) {
                Poll::Ready(Ok(())) => return Ok(()),
                Poll::Ready(Err(_)) => break Refusal::Closed,
                Poll::Pending if core.clock.now() >= deadline => break Refusal::Full,
                Poll::Pending => parker.park_until(&*core.clock, Some(deadline)),
            }
        };
        core.lanes.leave(lane, &mut place);
        work.map_or(Ok(()), |work| Err((refusal, work)))
    })
}

/// Says, once, that a call that may block was made where async tasks are driven.
#[cfg(feature = "tokio")]
pub(crate) fn warn_if_async(core: &Core) {
    use crate::sync::atomic::Ordering;
    if tokio::runtime::Handle::try_current().is_ok()
        && !core.said_async.swap(true, Ordering::Relaxed)
    {
        core.notice(&crate::notice::Notice::BlockingInAsync);
    }
}

#[cfg(not(feature = "tokio"))]
pub(crate) fn warn_if_async(_core: &Core) {}

/// A submit that waits for room as a future.
///
/// # Cancel safety
/// Poll it by reference in a `select!`: until it is ready the record is not taken, and
/// [`take_record`](Self::take_record) gives it back. Dropped while pending, it drops the record.
#[must_use = "a future does nothing unless it is polled"]
pub struct SubmitAsync {
    core: Arc<Core>,
    state: Arc<SubscriptionState>,
    lane: u32,
    work: Option<Work>,
    refusal: Option<Refusal>,
    place: Option<Place>,
    deadline: Option<Time>,
    alarm: Option<Alarm>,
}

impl SubmitAsync {
    pub(crate) fn new(core: &Arc<Core>, entry: &Entry, record: Record) -> Self {
        let (lane, hash, refusal) = match route(core, entry, &record) {
            Ok(routed) if entry.state.takes() => (routed.lane, routed.hash, None),
            Ok(_) => (0, 0, Some(Refusal::Stopped)),
            Err(refusal) => (0, 0, Some(refusal)),
        };
        let work = Some(work(entry, timed(core, record), hash, Completion::Untracked));
        let (core, state) = (core.clone(), entry.state.clone());
        Self { core, state, lane, work, refusal, place: None, deadline: None, alarm: None }
    }

    /// The record, back, unless it was taken. The future then stays pending for ever.
    pub fn take_record(&mut self) -> Option<Record> {
        self.forget();
        self.work.take().map(|work| work.record)
    }

    fn forget(&mut self) {
        self.core.lanes.leave(self.lane, &mut self.place);
        if let Some(alarm) = self.alarm.take() {
            self.core.timers.cancel(&alarm);
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Poll<Result<(), SubmitError>> {
        match self.take_record() {
            Some(record) => {
                refusal.count(&self.state.counters.refused);
                Poll::Ready(Err(SubmitError::new(refusal, record)))
            }
            None => Poll::Pending,
        }
    }
}

impl Future for SubmitAsync {
    type Output = Result<(), SubmitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.work.is_none() {
            return Poll::Pending;
        }
        if let Some(refusal) = this.refusal {
            return this.refuse(refusal);
        }
        // Each time: the subscription may have been stopped or removed meanwhile.
        if !this.state.takes() {
            return this.refuse(Refusal::Stopped);
        }
        let pushed = this.core.lanes.poll_push(this.lane, &mut this.work, &mut this.place, cx);
        match pushed {
            Poll::Ready(Ok(())) => {
                this.forget();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => this.refuse(Refusal::Closed),
            Poll::Pending => {
                let now = this.core.clock.now();
                let wait = this.core.config.wait;
                let deadline = *this.deadline.get_or_insert_with(|| now.after(wait));
                if now >= deadline {
                    return this.refuse(Refusal::Full);
                }
                if let Some(alarm) = this.alarm.take() {
                    this.core.timers.cancel(&alarm);
                }
                this.alarm = Some(this.core.timers.set_task(deadline, cx.waker()));
                Poll::Pending
            }
        }
    }
}

impl Drop for SubmitAsync {
    fn drop(&mut self) {
        self.forget();
    }
}

impl fmt::Debug for SubmitAsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitAsync").field("pending", &self.work.is_some()).finish_non_exhaustive()
    }
}
