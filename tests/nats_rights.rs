//! Rights that are missing, and rights that are withdrawn from what runs: each is named within five seconds, where it is
//! looked for.
#![cfg(all(feature = "nats", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/broker.rs"]
mod broker;

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::Server;
use keylane::nats::{AckMode, NatsBuilder, NatsBus};
use keylane::{
    BrokerErrorKind, BusError, Events, HandlerError, Record, Retry, Runtime, Subscription,
};

/// Every right that is missing is told within this.
const SOON: Duration = Duration::from_secs(5);
/// For what only has to happen.
const LONG: Duration = Duration::from_secs(20);
const TOPIC: &str = "orders";

/// What `bob` may not publish to. There is another user, who may all.
fn users(denied: &str) -> String {
    format!(
        "authorization: {{ users: [ {{ user: amy, password: pw }}, {{ user: bob, password: pw, permissions: {{ publish: {{ deny: \
         [{denied}] }} }} }} ] }}"
    )
}

fn url(server: &Server, user: &str) -> String {
    server.url().replace("nats://", &format!("nats://{user}:pw@"))
}

/// What a handler has done, and fails at if it is told to.
#[derive(Clone, Default)]
struct Handled(Arc<AtomicUsize>);

impl Handled {
    fn handler(&self) -> impl Fn(&Record) -> Result<(), HandlerError> + Send + Sync + 'static {
        let count = self.0.clone();
        move |record| {
            count.fetch_add(1, Ordering::SeqCst);
            if record.payload() == b"bad" { Err("bad".into()) } else { Ok(()) }
        }
    }

    fn wait(&self, count: usize) {
        let begun = Instant::now();
        while self.0.load(Ordering::SeqCst) < count {
            assert!(begun.elapsed() < LONG, "not {count} records within {LONG:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One process of a service: its runtime, its bus, and what it is told.
struct Service {
    runtime: Runtime,
    bus: NatsBus,
    events: Events,
}

impl Service {
    fn new(url: &str, mode: AckMode) -> Self {
        Self::with(url, |builder| builder.ack_mode(mode))
    }

    fn with(url: &str, set: impl FnOnce(NatsBuilder) -> NatsBuilder) -> Self {
        let runtime = Runtime::builder().workers(1).lanes(2).build().unwrap();
        let bus = set(NatsBus::builder(&runtime, url)).connect().wait().unwrap();
        let events = bus.events();
        Self { runtime, bus, events }
    }

    fn subscribe(&self, policy: Subscription, handled: &Handled) -> Result<(), BusError> {
        self.bus.subscribe(TOPIC, policy, handled.handler()).wait().map(drop)
    }

    fn publish(&self, payload: &'static str) {
        self.bus.publish(TOPIC, Record::new("k", payload)).wait().unwrap();
    }

    /// Waits for an event, or a reason of the health, that names this right.
    #[track_caller]
    fn names(&mut self, right: &str) {
        let (begun, mut said) = (Instant::now(), String::new());
        loop {
            let events = std::iter::from_fn(|| self.events.try_next());
            said.extend(events.map(|event| format!("{event:?}\n")));
            let told = format!("{said}{}", self.bus.health()).replace('\\', "");
            if told.contains(&forbids(right)) {
                return;
            }
            assert!(begun.elapsed() < SOON, "{right} is not in: {told}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn close(self) {
        self.runtime.stop_now();
    }
}

fn policy() -> Subscription {
    Subscription::new("rights").retry(Retry::fixed(Duration::from_millis(1)).attempts(1))
}

/// How it is said that a right is missing whose subject begins so.
fn forbids(right: &str) -> String {
    format!("forbids to publish to \"{right}")
}

/// Begins to be denied with one durable there, that has handled what was published.
fn begun(denied: &str, version: &[&str], mode: AckMode) -> Option<Server> {
    let users = users(denied);
    let server = Server::start(&[version, &["--prop", &users]].concat())?;
    let (service, handled) = (Service::new(&url(&server, "amy"), mode), Handled::default());
    service.subscribe(policy(), &handled).unwrap();
    service.publish("a");
    handled.wait(1);
    service.bus.close(LONG).wait().unwrap();
    service.close();
    Some(server)
}

/// A subscription without the right is refused, and the refusal names it.
#[track_caller]
fn refuses(server: &Server, mode: AckMode, right: &str) {
    let service = Service::new(&url(server, "bob"), mode);
    let before = Instant::now();
    let refused = service.subscribe(policy(), &Handled::default());
    let took = before.elapsed();
    let Err(BusError::Broker(error)) = refused else { panic!("{right}: {refused:?}") };
    assert_eq!(error.kind(), BrokerErrorKind::NotPermitted, "{error}");
    assert!(error.to_string().contains(&forbids(right)), "{error}");
    assert!(took < SOON, "{right}: {took:?}");
    service.close();
}

#[test]
fn what_a_subscription_needs_at_its_beginning() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let Some(server) = Server::start(&["--prop", &users("\"$JS.API.CONSUMER.CREATE.>\"")])
        else {
            return;
        };
        refuses(&server, mode, "$JS.API.CONSUMER.CREATE.STREAM_orders.");
    }
    for mode in [AckMode::Each, AckMode::Floor] {
        let denied = "\"$JS.API.CONSUMER.INFO.>\"";
        let Some(server) = Server::start(&["--prop", &users(denied)]) else { return };
        refuses(&server, mode, "$JS.API.CONSUMER.INFO.STREAM_orders.rights-orders");
    }
    for (denied, right) in [
        ("$KV.keylane.>", "$KV.keylane."),
        ("$JS.API.STREAM.MSG.GET.>", "$JS.API.STREAM.MSG.GET.KV_keylane"),
        ("$JS.API.STREAM.INFO.KV_keylane", "$JS.API.STREAM.INFO.KV_keylane"),
    ] {
        let denied = format!("\"{denied}\"");
        let Some(server) = begun(&denied, &[], AckMode::Checkpoint) else { return };
        refuses(&server, AckMode::Checkpoint, right);
    }
}

/// What numbers began at in a durable says whether it was made anew.
fn created(server: &Server) -> String {
    let amy = async_nats::ConnectOptions::with_user_and_password("amy".into(), "pw".into());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let client = amy.connect(server.url()).await.unwrap();
        let subject = "$JS.API.CONSUMER.INFO.STREAM_orders.rights-orders";
        let answer = client.request(subject, "".into()).await.unwrap();
        let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        info["created"].as_str().unwrap_or_else(|| panic!("{info}")).to_owned()
    })
}

/// A durable that may not be reset is not taken for one of an old server, and stays.
#[test]
fn a_reset_that_is_forbidden_is_named_and_the_durable_stays() {
    let Some(server) = begun("\"$JS.API.CONSUMER.RESET.>\"", &[], AckMode::Each) else { return };
    if server.version() < (2, 14, 0) {
        return;
    }
    let before = created(&server);
    refuses(&server, AckMode::Each, "$JS.API.CONSUMER.RESET.STREAM_orders.rights-orders");
    assert_eq!(created(&server), before, "it was made anew");
}

/// Where a durable cannot be reset, it is deleted.
#[test]
fn a_deletion_that_is_forbidden_is_named_and_the_durable_stays() {
    let denied = "\"$JS.API.CONSUMER.DELETE.>\"";
    let Some(server) = begun(denied, &["--version", "debian"], AckMode::Each) else { return };
    let before = created(&server);
    refuses(&server, AckMode::Each, "$JS.API.CONSUMER.DELETE.STREAM_orders.rights-orders");
    assert_eq!(created(&server), before, "it was made anew");
}

/// What nothing answers to is said as an event.
#[test]
fn what_is_sent_without_an_answer_is_named_as_an_event() {
    for mode in [AckMode::Each, AckMode::Floor] {
        for (denied, right) in [
            (
                "$JS.API.CONSUMER.MSG.NEXT.>",
                "$JS.API.CONSUMER.MSG.NEXT.STREAM_orders.rights-orders",
            ),
            ("$JS.ACK.>", "$JS.ACK.STREAM_orders.rights-orders."),
        ] {
            let users = users(&format!("\"{denied}\""));
            let Some(server) = Server::start(&["--prop", &users]) else { return };
            let (mut service, handled) =
                (Service::new(&url(&server, "bob"), mode), Handled::default());
            service.subscribe(policy(), &handled).unwrap();
            service.publish("a");
            service.names(right);
            service.close();
        }
    }
}

/// A letter that may not be sent stops its source, and both say why.
#[test]
fn a_dead_letter_that_is_forbidden_is_named() {
    let Some(server) = Server::start(&["--prop", &users("\"dead\"")]) else { return };
    let (mut service, handled) =
        (Service::new(&url(&server, "bob"), AckMode::Each), Handled::default());
    service.bus.ensure("dead").wait().unwrap();
    service.subscribe(policy().dead_letter("dead"), &handled).unwrap();
    service.publish("bad");
    service.names("dead");
    service.close();
}

/// Rewrites the rights of `bob`, has the server read them, and waits until they hold.
fn withdraw(server: &Server, denied: &str) {
    let conf = server.dir().join("n1/conf");
    let text = fs::read_to_string(&conf).unwrap();
    let changed = text.replace(&users("\"nothing\""), &users(denied));
    assert_ne!(text, changed, "{text}");
    fs::write(&conf, changed).unwrap();
    let reload = Command::new("kill").args(["-HUP", &server.pid(1).to_string()]).status();
    assert!(reload.unwrap().success());
}

#[test]
fn a_right_that_is_withdrawn_while_it_runs_is_named() {
    for (mode, denied, right) in [
        (AckMode::Each, "$JS.ACK.>", "$JS.ACK.STREAM_orders.rights-orders."),
        (AckMode::Floor, "$JS.API.CONSUMER.RESET.>", "$JS.API.CONSUMER.RESET.STREAM_orders."),
        (AckMode::Checkpoint, "$KV.keylane.>", "$KV.keylane."),
    ] {
        let Some(server) = Server::start(&["--prop", &users("\"nothing\"")]) else { return };
        let resets = server.version() >= (2, 14, 0);
        if right.contains("RESET") && !resets {
            continue;
        }
        let (amy, bob) = (url(&server, "amy"), url(&server, "bob"));
        let publisher = Service::new(&amy, mode);
        publisher.bus.ensure(TOPIC).wait().unwrap();
        let (mut service, handled) = (Service::new(&bob, mode), Handled::default());
        service.subscribe(policy(), &handled).unwrap();
        publisher.publish("a");
        handled.wait(1);
        withdraw(&server, &format!("\"{denied}\""));
        if right.contains("RESET") {
            // What is needed once something may have been lost.
            server.restart(1);
        } else {
            publisher.publish("b");
        }
        service.names(right);
        service.close();
        publisher.close();
    }
}
