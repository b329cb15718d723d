//! What connections report: it goes into the bus' health and events, and to operations
//! that the server forbids.
//!
//! The client drops reports when many come at once, so that they are hints: how often a connection was made is read
//! from its own count, and whether deliveries are missing from their sequences.

use std::fmt;
use std::future::Future;

use async_nats::{Event, ServerError};
use tokio::sync::broadcast;

use crate::bus::{BrokerError, BrokerErrorKind, BusEvent, BusHealth, ReasonKind};
use crate::sync::Mutex;

/// Denials that a waiting operation may be behind.
const DENIALS: usize = 64;

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

/// What a connection is denied, as it is said.
pub(super) type Denials = broadcast::Receiver<Denial>;

/// Where a connection's reports go.
#[derive(Debug)]
pub(super) struct Signals {
    /// What the connection is for.
    role: &'static str,
    health: BusHealth,
    denials: broadcast::Sender<Denial>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// It was made once.
    made: bool,
    lost: bool,
    /// Deliveries that the client has dropped.
    dropped: u64,
    /// The subject of our replies, if the server forbids us to subscribe to it.
    deaf: Option<Denial>,
}

impl Signals {
    pub(super) fn new(role: &'static str, health: BusHealth) -> Self {
        let (denials, _) = broadcast::channel(DENIALS);
        Self { role, health, denials, seen: Mutex::default() }
    }

    /// Takes a report of the client, whose replies come to subjects that begin with `inbox`.
    pub(super) fn take(&self, event: Event, inbox: &str) {
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected => self.disconnected(),
            Event::SlowConsumer(_) => self.dropped(),
            Event::ServerError(ServerError::Other(text)) => match Denial::parse(&text) {
                Some(denial) => self.denied(denial, inbox),
                None => self.failed(text),
            },
            Event::LameDuckMode => self.failed("the server is about to end".to_owned()),
            // Ours: the bus is closed.
            Event::Draining | Event::Closed => {}
            Event::ServerError(_) | Event::ClientError(_) => self.failed(event.to_string()),
        }
    }

    fn connected(&self) {
        let connection = self.role.to_owned();
        let mut seen = self.seen.lock();
        (seen.lost, seen.deaf) = (false, None);
        let again = std::mem::replace(&mut seen.made, true);
        drop(seen);
        self.health.clear(ReasonKind::Disconnected, self.role);
        self.health.say(match again {
            true => BusEvent::Reconnected { connection },
            false => BusEvent::Connected { connection },
        });
        log::info!("NATS: the connection to {} is there", self.role);
    }

    fn disconnected(&self) {
        let error = "it was cut, or the server was silent for three pings".to_owned();
        log::warn!("NATS: the connection to {} is lost: {error}", self.role);
        self.seen.lock().lost = true;
        self.health.raise(ReasonKind::Disconnected, self.role, error.clone());
        self.health.say(BusEvent::Disconnected { connection: self.role.to_owned(), error });
    }

    /// A subscription's buffer was full. Said at the first, second, fourth, eighth … time.
    fn dropped(&self) {
        let dropped = {
            let mut seen = self.seen.lock();
            seen.dropped += 1;
            seen.dropped
        };
        if dropped.is_power_of_two() {
            log::warn!("NATS: {dropped} deliveries of the connection to {} are dropped", self.role);
            self.health.say(BusEvent::SlowConsumer { source: self.role.to_owned(), dropped });
        }
    }

    fn denied(&self, denial: Denial, inbox: &str) {
        let error = denial.to_string();
        if !denial.publish && denial.subject.starts_with(inbox) {
            self.seen.lock().deaf = Some(denial.clone());
        }
        // Nobody may be waiting.
        let _ = self.denials.send(denial);
        log::warn!("NATS: {error}");
        self.health.say(BusEvent::Refused { connection: self.role.to_owned(), error });
    }

    /// Anything else that went wrong; while the connection is lost, why it does not come back.
    fn failed(&self, error: String) {
        log::warn!("NATS: the connection to {}: {error}", self.role);
        if self.seen.lock().lost {
            self.health.raise(ReasonKind::Disconnected, self.role, error.clone());
        }
        self.health.say(BusEvent::Refused { connection: self.role.to_owned(), error });
    }

    /// Says something that is worth knowing, and no failure.
    pub(super) fn note(&self, about: &str, text: &str) {
        log::warn!("NATS: {about}: {text}");
        self.health.say(BusEvent::Noted { about: about.to_owned(), text: text.to_owned() });
    }

    /// The connection is there, whatever reports were dropped.
    pub(super) fn is_there(&self) {
        self.health.clear(ReasonKind::Disconnected, self.role);
    }

    /// How many deliveries the client has dropped, as far as its reports tell.
    pub(super) fn drops(&self) -> u64 {
        self.seen.lock().dropped
    }

    pub(super) fn denials(&self) -> Denials {
        self.denials.subscribe()
    }

    /// Awaits an operation; ends with [`NotPermitted`](BrokerErrorKind::NotPermitted) if the server meanwhile forbids a
    /// subject that is the operation's.
    pub(super) async fn permitted<T>(
        &self,
        is_its: impl Fn(&str) -> bool,
        operation: impl Future<Output = T>,
    ) -> Result<T, BrokerError> {
        let mut denials = self.denials();
        let denied = async {
            loop {
                match denials.recv().await {
                    Ok(denial) if is_its(&denial.subject) => return denial,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            // Where both are there the denial counts: an operation may end by itself that was forbidden.
            biased;
            denial = denied => {
                Err(BrokerError::new(BrokerErrorKind::NotPermitted, denial.to_string()))
            }
            done = operation => Ok(done),
        }
    }

    /// Why no reply reaches us, if that is known.
    pub(super) fn deaf(&self) -> Option<Denial> {
        self.seen.lock().deaf.clone()
    }
}

/// A connection that is given up is no trouble any more.
impl Drop for Signals {
    fn drop(&mut self) {
        self.is_there();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Events, Health};
    use crate::clock::{Clock, SystemClock};
    use crate::sync::Arc;

    fn signals() -> (Signals, BusHealth, Events) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let health = BusHealth::new(&clock);
        (Signals::new("control", health.clone()), health.clone(), health.events())
    }

    fn server(error: &str) -> Event {
        Event::ServerError(ServerError::Other(error.to_owned()))
    }

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
    fn a_lost_connection_is_seen_with_its_reason_until_it_is_back() {
        let (signals, health, mut events) = signals();
        signals.take(Event::Connected, "_INBOX");
        assert!(
            matches!(events.try_next(), Some(BusEvent::Connected { connection }) if connection == "control")
        );
        signals.take(Event::Disconnected, "_INBOX");
        assert!(matches!(health.health(), Health::Down(_)));
        assert!(matches!(events.try_next(), Some(BusEvent::Disconnected { .. })));
        signals.take(Event::ServerError(ServerError::AuthorizationViolation), "_INBOX");
        let told = health.health().to_string();
        assert!(told.contains("authorization violation"), "{told}: the latest reason");
        assert!(matches!(events.try_next(), Some(BusEvent::Refused { .. })));
        signals.take(Event::Connected, "_INBOX");
        assert_eq!(health.health(), Health::Healthy);
        assert!(matches!(events.try_next(), Some(BusEvent::Reconnected { .. })));
        signals.take(server("Maximum Payload Violation"), "_INBOX");
        assert_eq!(health.health(), Health::Healthy, "it is there all the same");
        signals.take(Event::Disconnected, "_INBOX");
        signals.is_there();
        assert_eq!(health.health(), Health::Healthy);
    }

    #[test]
    fn a_denial_counts_though_its_operation_has_ended() {
        use std::future::Future;
        let (signals, _, _) = signals();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        // It is said while the operation ends by itself.
        let operation = async {
            signals.take(server("Permissions Violation for Publish to \"a\""), "_INBOX");
        };
        let ended = async {
            operation.await;
            tokio::task::yield_now().await;
        };
        let mut permitted = std::pin::pin!(signals.permitted(|subject| subject == "a", ended));
        let first = permitted.as_mut().poll(&mut cx);
        assert!(first.is_pending(), "the operation goes on");
        let told = permitted.as_mut().poll(&mut cx);
        assert!(matches!(told, std::task::Poll::Ready(Err(_))), "{told:?}");
    }

    #[test]
    fn a_lost_inbox_is_remembered_until_the_next_connect() {
        let (signals, _, _) = signals();
        let mut denials = signals.denials();
        signals.take(server("Permissions Violation for Publish to \"_INBOX.a\""), "_INBOX");
        assert_eq!(signals.deaf(), None);
        let error = "Permissions Violation for Subscription to \"_INBOX.a.*\"";
        signals.take(server(error), "_INBOX");
        assert_eq!(signals.deaf().map(|denial| denial.subject).as_deref(), Some("_INBOX.a.*"));
        assert!(denials.try_recv().is_ok_and(|denial| denial.publish));
        assert!(denials.try_recv().is_ok_and(|denial| !denial.publish));
        signals.take(Event::Connected, "_INBOX");
        assert_eq!(signals.deaf(), None);
    }

    #[test]
    fn a_flood_of_drops_does_not_flood_the_events() {
        let (signals, _, mut events) = signals();
        (0..1_000).for_each(|_| signals.take(Event::SlowConsumer(1), "_INBOX"));
        let told: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
        assert_eq!(told.len(), 10);
        assert!(matches!(told[9], BusEvent::SlowConsumer { dropped: 512, .. }));
    }
}
