//! What connections report: one place for all of a bus, and a signal a connection for what waits on it.
//!
//! The client drops events when many come at once, so that they are hints: how often a connection was made is read
//! from its own count, and whether deliveries are missing from their sequences.

use std::collections::VecDeque;
use std::fmt;

use async_nats::{Event, ServerError};
use tokio::sync::{broadcast, watch};

use crate::sync::{Arc, Mutex};

/// Events that are kept for whoever comes to look.
const KEPT: usize = 256;
/// Denials that a waiting operation may be behind.
const DENIALS: usize = 64;

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkEvent {
    Connected,
    Disconnected,
    /// The server is about to end; the client will go to another one.
    LameDuck,
    /// A subscription's buffer was full: a message was dropped.
    SlowConsumer(u64),
    /// The server forbids an operation.
    Denied(Denial),
    /// Anything else that went wrong, in words.
    Failed(String),
    /// Something that is worth knowing, and no failure.
    Noted(String),
}

/// What a server forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    /// Publishing, as opposed to subscribing.
    pub(super) publish: bool,
    pub(super) subject: String,
}

impl Denial {
    /// The denial in an error of a server: `Permissions Violation for Publish to "a.b"`, `… for Subscription to "a.>"`.
    fn parse(error: &str) -> Option<Self> {
        const START: &str = "permissions violation for ";
        let (start, rest) = error.split_at_checked(START.len())?;
        if !start.eq_ignore_ascii_case(START) {
            return None;
        }
        let publish = rest.get(..7)?.eq_ignore_ascii_case("publish");
        let (_, quoted) = rest.split_once('"')?;
        let (subject, _) = quoted.split_once('"')?;
        Some(Self { publish, subject: subject.to_owned() })
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.publish { "publish to" } else { "subscribe to" };
        write!(f, "the server forbids to {what} \"{}\": permit it to this user", self.subject)
    }
}

/// The last events of all connections of a bus.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<(&'static str, LinkEvent)>,
    /// Number of the first of them, counted from the bus' beginning.
    first: u64,
}

impl Journal {
    /// Notes an event of the connection `role`.
    pub(super) fn note(&self, role: &'static str, event: LinkEvent) {
        let mut kept = self.0.lock();
        if kept.events.len() == KEPT {
            kept.events.pop_front();
            kept.first += 1;
        }
        kept.events.push_back((role, event));
    }

    /// The events from number `from` on that are still kept, and the number of the one after them.
    pub(super) fn since(&self, from: u64) -> (Vec<(&'static str, LinkEvent)>, u64) {
        let kept = self.0.lock();
        let skip = usize::try_from(from.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        let events = kept.events.iter().skip(skip).cloned().collect();
        (events, kept.first + kept.events.len() as u64)
    }
}

/// Where a connection's events go.
#[derive(Debug)]
pub(super) struct Signals {
    role: &'static str,
    journal: Arc<Journal>,
    /// Counts events: whoever waits for a change of the connection looks again.
    changes: watch::Sender<u64>,
    denials: broadcast::Sender<Denial>,
    /// The subject of our replies, if the server forbids us to subscribe to it.
    deaf: Mutex<Option<Denial>>,
}

impl Signals {
    pub(super) fn new(role: &'static str, journal: Arc<Journal>) -> Self {
        let (denials, _) = broadcast::channel(DENIALS);
        Self { role, journal, changes: watch::Sender::new(0), denials, deaf: Mutex::new(None) }
    }

    /// Takes an event of the client, whose replies come to subjects that begin with `inbox`.
    pub(super) fn take(&self, event: Event, inbox: &str) {
        let event = match event {
            Event::Connected => {
                *self.deaf.lock() = None;
                LinkEvent::Connected
            }
            Event::Disconnected => LinkEvent::Disconnected,
            Event::LameDuckMode => LinkEvent::LameDuck,
            Event::SlowConsumer(subscription) => LinkEvent::SlowConsumer(subscription),
            Event::ServerError(ServerError::Other(text)) => match Denial::parse(&text) {
                Some(denial) => {
                    if !denial.publish && denial.subject.starts_with(inbox) {
                        *self.deaf.lock() = Some(denial.clone());
                    }
                    // Nobody may be waiting.
                    let _ = self.denials.send(denial.clone());
                    LinkEvent::Denied(denial)
                }
                None => LinkEvent::Failed(text),
            },
            other => LinkEvent::Failed(other.to_string()),
        };
        match &event {
            LinkEvent::Connected | LinkEvent::Disconnected => {
                log::debug!("{} of the bus over NATS: {event:?}", self.role);
            }
            event => log::warn!("{} of the bus over NATS: {event:?}", self.role),
        }
        self.note(event);
    }

    /// Notes an event.
    pub(super) fn note(&self, event: LinkEvent) {
        self.journal.note(self.role, event);
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn denials(&self) -> broadcast::Receiver<Denial> {
        self.denials.subscribe()
    }

    /// Why no reply reaches us, if that is known.
    pub(super) fn deaf(&self) -> Option<Denial> {
        self.deaf.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_read() {
        let denial = |publish, subject: &str| Some(Denial { publish, subject: subject.to_owned() });
        for (text, expected) in [
            ("Permissions Violation for Publish to \"$JS.API.INFO\"", denial(true, "$JS.API.INFO")),
            ("Permissions Violation for Publish with Reply of \"a.b\"", denial(true, "a.b")),
            ("permissions violation for subscription to \"a.>\"", denial(false, "a.>")),
            (
                "Permissions Violation for Subscription to \"a\" using queue \"q\"",
                denial(false, "a"),
            ),
            ("Permissions Violation for Publish", None),
            ("Permissions Violation for é\"a\"", None),
            ("Maximum Payload Violation", None),
            ("", None),
        ] {
            assert_eq!(Denial::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn the_last_events_are_kept() {
        let journal = Journal::default();
        for number in 0..KEPT as u64 + 10 {
            journal.note("control", LinkEvent::SlowConsumer(number));
        }
        let (events, next) = journal.since(0);
        assert_eq!((events.len(), next), (KEPT, KEPT as u64 + 10));
        assert_eq!(events[0].1, LinkEvent::SlowConsumer(10));
        let (events, next) = journal.since(next - 1);
        assert_eq!((events.len(), next), (1, KEPT as u64 + 10));
        assert!(journal.since(next).0.is_empty());
        assert!(journal.since(u64::MAX).0.is_empty());
    }

    #[test]
    fn a_lost_inbox_is_remembered_until_the_next_connect() {
        let signals = Signals::new("control", Arc::default());
        let mut denials = signals.denials();
        let error = "Permissions Violation for Subscription to \"_INBOX.a.*\"";
        signals.take(Event::ServerError(ServerError::Other(error.into())), "_INBOX");
        assert_eq!(signals.deaf().map(|denial| denial.subject).as_deref(), Some("_INBOX.a.*"));
        assert!(denials.try_recv().is_ok_and(|denial| !denial.publish));
        signals.take(Event::Connected, "_INBOX");
        assert_eq!(signals.deaf(), None);
        assert_eq!(*signals.changes().borrow(), 2);
    }
}
