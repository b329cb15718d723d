//! How a bus is: its health with the reasons, and what has happened to it, one event after the other.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::event::BusEvent;
use crate::clock::Clock;
use crate::reply::block_on;
use crate::sync::{Arc, Mutex};
use crate::wait_list::{Place, WaitList};

/// Events that are kept for those who read late.
const KEPT: usize = 256;
/// Reasons that are listed at the same time.
const LISTED: usize = 1_024;

/// How a bus is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Health {
    /// Everything that is subscribed to is read and handled.
    Healthy,
    /// Some of it is not, or not now.
    Degraded(Vec<Reason>),
    /// Nothing is read: the broker is not reached, or the bus is closed.
    Down(Vec<Reason>),
}

/// Why a bus is not healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Reason {
    /// The kind of trouble.
    pub kind: ReasonKind,
    /// What it is about: a source and its subscription (`orders/0 of billing`), a subscription whose dead letters are
    /// not taken, a connection.
    pub about: String,
    /// In words; never with a secret.
    pub text: String,
}

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum ReasonKind {
    /// The bus is closed.
    Closed,
    /// A connection to the broker is not there.
    Disconnected,
    /// A failure stopped a source.
    SourceStopped,
    /// Dead letters of a subscription are not taken: what they are of holds its source's frontier.
    LetterOutage,
    /// A source finds out what it may have lost, or is handed over, and reads nothing new meanwhile.
    Barrier,
    /// The place at which a source is to go on is there no more.
    LostPosition,
    /// Somebody else has taken a source over.
    Fenced,
    /// Somebody else takes deliveries of a source's consumer, or deletes it, again and again.
    SharedConsumer,
    /// What is finished of a source cannot be committed: it would come again after a restart.
    Uncommitted,
}

/// How a bus is, for the bus itself: shared by its threads, and locked only when something changes.
#[derive(Clone)]
pub(crate) struct BusHealth(Arc<Board>);

struct Board {
    clock: Arc<dyn Clock>,
    seen: Mutex<Seen>,
    readers: WaitList,
}

#[derive(Default)]
struct Seen {
    reasons: Vec<Reason>,
    events: VecDeque<BusEvent>,
    /// The number of the oldest event that is kept.
    first: u64,
    ended: bool,
}

impl BusHealth {
    /// A healthy bus that nothing has happened to.
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self(Arc::new(Board {
            clock: clock.clone(),
            seen: Mutex::default(),
            readers: WaitList::new(),
        }))
    }

    /// There is this trouble; what was said of the same kind about the same thing is replaced. Whether it is new.
    pub(crate) fn raise(&self, kind: ReasonKind, about: &str, text: impl Into<String>) -> bool {
        let mut seen = self.0.seen.lock();
        if seen.ended {
            return false;
        }
        let known =
            seen.reasons.iter_mut().find(|known| known.kind == kind && known.about == about);
        match known {
            Some(known) => {
                known.text = text.into();
                false
            }
            None => {
                let room = seen.reasons.len() < LISTED;
                if room {
                    seen.reasons.push(Reason { kind, about: about.to_owned(), text: text.into() });
                }
                room
            }
        }
    }

    /// This trouble is over. Whether there was any.
    pub(crate) fn clear(&self, kind: ReasonKind, about: &str) -> bool {
        let mut seen = self.0.seen.lock();
        let before = seen.reasons.len();
        seen.reasons.retain(|known| known.kind != kind || known.about != about);
        seen.reasons.len() < before
    }

    /// Nothing that was said about this counts any more: it is gone, or begins anew.
    pub(crate) fn forget(&self, about: &str) {
        self.0.seen.lock().reasons.retain(|known| known.about != about);
    }

    /// Something happened.
    pub(crate) fn say(&self, event: BusEvent) {
        {
            let mut seen = self.0.seen.lock();
            if seen.events.len() == KEPT {
                seen.events.pop_front();
                seen.first += 1;
            }
            seen.events.push_back(event);
        }
        self.0.readers.wake_all(|| ());
    }

    /// A failure stopped a source: a reason and, once, an event.
    pub(crate) fn source_stopped(&self, source: &str, error: &str) {
        if self.raise(ReasonKind::SourceStopped, source, error) {
            let (source, error) = (source.to_owned(), error.to_owned());
            self.say(BusEvent::SourceStopped { source, error });
        }
    }

    /// Dead letters of a subscription are not taken (`Some`), or are taken again.
    pub(crate) fn letters(&self, subscription: &str, error: Option<&str>) {
        let subscription = subscription.to_owned();
        match error {
            Some(error) => {
                if self.raise(ReasonKind::LetterOutage, &subscription, error) {
                    let error = error.to_owned();
                    self.say(BusEvent::LetterOutage { subscription, error });
                }
            }
            None => {
                if self.clear(ReasonKind::LetterOutage, &subscription) {
                    self.say(BusEvent::LetterRecovered { subscription });
                }
            }
        }
    }

    /// The bus is closed: nothing more happens to it.
    pub(crate) fn end(&self, why: &str) {
        {
            let mut seen = self.0.seen.lock();
            seen.ended = true;
            let (kind, about) = (ReasonKind::Closed, String::new());
            seen.reasons = vec![Reason { kind, about, text: why.to_owned() }];
        }
        self.0.readers.wake_all(|| ());
    }

    /// How the bus is.
    pub(crate) fn health(&self) -> Health {
        let reasons = self.0.seen.lock().reasons.clone();
        let down = |kind| matches!(kind, ReasonKind::Closed | ReasonKind::Disconnected);
        match reasons.iter().any(|reason| down(reason.kind)) {
            true => Health::Down(reasons),
            false if reasons.is_empty() => Health::Healthy,
            false => Health::Degraded(reasons),
        }
    }

    /// What has happened, from the oldest that is kept.
    pub(crate) fn events(&self) -> Events {
        let next = self.0.seen.lock().first;
        Events { board: self.0.clone(), next, missed: 0 }
    }
}

/// What happens to a bus, as a stream of its own: it begins with the oldest of the last 256 events, and one that is
/// not read for longer than that misses the oldest.
///
/// ```
/// use std::time::Duration;
/// use keylane::memory::MemoryBus;
/// use keylane::{BusEvent, Health, Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let bus = MemoryBus::new(&runtime)?;
/// bus.subscribe("orders", Subscription::new("billing"), |_: &Record| Err("no".into())).wait()?;
/// let mut events = bus.events();
/// assert_eq!((bus.health(), events.try_next()), (Health::Healthy, None));
/// bus.publish("orders", Record::new("order-42", "paid")).wait()?;
/// let event = events.wait_timeout(Duration::from_secs(5)).ok_or("nothing happened")?;
/// assert!(matches!(event, BusEvent::SourceStopped { source, .. } if source == "orders/0 of billing"));
/// assert!(matches!(bus.health(), Health::Degraded(reasons) if reasons[0].text == "no"));
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Events {
    board: Arc<Board>,
    /// The number of the next event to read.
    next: u64,
    missed: u64,
}

impl Events {
    /// The next event, if it has happened.
    pub fn try_next(&mut self) -> Option<BusEvent> {
        let seen = self.board.seen.lock();
        if self.next < seen.first {
            self.missed += seen.first - self.next;
            self.next = seen.first;
        }
        let event = seen.events.get((self.next - seen.first) as usize)?.clone();
        self.next += 1;
        Some(event)
    }

    /// Of a bus that says nothing.
    pub(crate) fn none(clock: &Arc<dyn Clock>) -> Self {
        let health = BusHealth::new(clock);
        health.end("");
        health.events()
    }

    /// Waits for the next event for at most `timeout` of the runtime's clock. `None` if there was none, or if the
    /// bus is closed and all were read. Inside a handler it does not wait.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<BusEvent> {
        let clock = self.board.clock.clone();
        let deadline = Some(clock.now().after(timeout));
        block_on(&mut self.recv(), &*clock, deadline).flatten()
    }

    /// The next event; `None` once the bus is closed and all were read.
    pub fn recv(&mut self) -> NextEvent<'_> {
        NextEvent { events: self, place: None }
    }

    /// Events that this stream has missed, since it was not read for too long.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

/// The next event of a bus, awaited.
///
/// # Cancel safety
/// Dropped, it leaves the event to the next.
#[must_use = "a future does nothing unless it is polled"]
pub struct NextEvent<'a> {
    events: &'a mut Events,
    place: Option<Place>,
}

impl Future for NextEvent<'_> {
    type Output = Option<BusEvent>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BusEvent>> {
        let this = &mut *self;
        this.place = Some(this.events.board.readers.join(this.place, cx.waker()));
        // After joining: whoever says something from here on calls.
        if let Some(event) = this.events.try_next() {
            return Poll::Ready(Some(event));
        }
        if this.events.board.seen.lock().ended { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Drop for NextEvent<'_> {
    fn drop(&mut self) {
        self.place.take().into_iter().for_each(|place| self.events.board.readers.leave(place));
    }
}

impl fmt::Debug for BusHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.health().fmt(f)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("missed", &self.missed).finish_non_exhaustive()
    }
}

impl fmt::Debug for NextEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NextEvent")
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, reasons) = match self {
            Self::Healthy => return f.write_str("healthy"),
            Self::Degraded(reasons) => ("degraded", reasons),
            Self::Down(reasons) => ("down", reasons),
        };
        f.write_str(state)?;
        let mut mark = ": ";
        for reason in reasons {
            write!(f, "{mark}{reason}")?;
            mark = "; ";
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.about.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.about, self.text)
        }
    }
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn healthy() -> BusHealth {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        BusHealth::new(&clock)
    }

    fn gap(number: u64) -> BusEvent {
        BusEvent::SlowConsumer { source: "s".into(), dropped: number }
    }

    #[test]
    fn reasons_are_set_replaced_and_cleared_one_by_one() {
        let health = healthy();
        assert_eq!(health.health(), Health::Healthy);
        assert!(health.raise(ReasonKind::Barrier, "a/0", "gap"));
        assert!(!health.raise(ReasonKind::Barrier, "a/0", "reset"));
        assert!(health.raise(ReasonKind::Barrier, "a/1", "gap"));
        assert_eq!(health.health().to_string(), "degraded: a/0: reset; a/1: gap");
        assert!(health.raise(ReasonKind::Disconnected, "publish", "refused"));
        assert!(matches!(health.health(), Health::Down(reasons) if reasons.len() == 3));
        assert!(health.clear(ReasonKind::Disconnected, "publish"));
        assert!(!health.clear(ReasonKind::Disconnected, "publish"));
        health.forget("a/1");
        assert_eq!(health.health().to_string(), "degraded: a/0: reset");
        health.end("the bus is closed");
        assert!(!health.raise(ReasonKind::Barrier, "a/0", "too late"));
        assert_eq!(health.health().to_string(), "down: the bus is closed");
    }

    #[test]
    fn a_late_reader_misses_the_oldest_and_is_told_how_many() {
        let health = healthy();
        let mut early = health.events();
        (0..KEPT as u64 + 10).for_each(|number| health.say(gap(number)));
        assert_eq!((early.try_next(), early.missed()), (Some(gap(10)), 10));
        assert_eq!(health.events().try_next(), Some(gap(10)));
        assert_eq!(std::iter::from_fn(|| early.try_next()).count(), KEPT - 1);
        assert_eq!(early.wait_timeout(Duration::ZERO), None);
    }

    #[test]
    fn a_reader_that_waits_is_called_and_hears_the_end() {
        let health = healthy();
        let (mut events, teller) = (health.events(), health.clone());
        let told = std::thread::spawn(move || {
            teller.say(gap(1));
            teller.end("closed");
        });
        let day = Duration::from_secs(86_400);
        assert_eq!(events.wait_timeout(day), Some(gap(1)));
        assert_eq!(events.wait_timeout(day), None);
        told.join().unwrap();
    }
}
