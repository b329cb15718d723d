//! Rights that are missing, and rights that are withdrawn from what runs: each is named within five seconds, where it is
//! looked for.
#![cfg(all(feature = "nats", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/broker.rs"]
mod broker;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::Server;
use keylane::nats::{AckMode, NatsBuilder, NatsBus};
use keylane::{
    BrokerErrorKind, BusError, BusEvent, Events, HandlerError, Health, ReasonKind, Record, Retry,
    Runtime, Subscription,
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
struct Handled(Arc<AtomicUsize>, Arc<Mutex<BTreeSet<Vec<u8>>>>);

impl Handled {
    fn handler(&self) -> impl Fn(&Record) -> Result<(), HandlerError> + Send + Sync + 'static {
        let (count, payloads) = (self.0.clone(), self.1.clone());
        move |record| {
            payloads.lock().unwrap().insert(record.payload().to_vec());
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

impl Handled {
    fn wait_all(&self, payloads: &[&str]) {
        let begun = Instant::now();
        while !payloads.iter().all(|payload| self.1.lock().unwrap().contains(payload.as_bytes())) {
            assert!(
                begun.elapsed() < LONG,
                "not all of {payloads:?}: {:?}",
                self.1.lock().unwrap()
            );
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
        self.names_after(right, || ());
    }

    /// The same, and does this again and again meanwhile.
    #[track_caller]
    fn names_after(&mut self, right: &str, again: impl Fn()) {
        let (begun, mut said) = (Instant::now(), String::new());
        loop {
            again();
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

/// What nothing answers to is named, too.
#[test]
fn what_is_sent_without_an_answer_is_named() {
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

/// Rewrites the rights of `bob`, and has the server read them.
fn change(server: &Server, before: &str, after: &str) {
    let conf = server.dir().join("n1/conf");
    let text = fs::read_to_string(&conf).unwrap();
    let changed = text.replace(&users(before), &users(after));
    assert_ne!(text, changed, "{text}");
    fs::write(&conf, changed).unwrap();
    let reload = Command::new("kill").args(["-HUP", &server.pid(1).to_string()]).status();
    assert!(reload.unwrap().success());
}

const NOTHING: &str = "\"nothing\"";

/// A right without which nothing is read, or nothing that is handled is kept, ends its source with the right's name, and no
/// other source. With the right everything goes on, and nothing is lost.
fn withdrawn(mode: AckMode, denied: &str, right: &str) {
    const OTHER: &str = "invoices";
    let Some(server) = Server::start(&["--prop", &users(NOTHING)]) else { return };
    let (amy, bob) = (url(&server, "amy"), url(&server, "bob"));
    let publisher = Service::new(&amy, mode);
    publisher.bus.ensure(TOPIC).wait().unwrap();
    publisher.bus.ensure(OTHER).wait().unwrap();
    let publish = |payload: &'static str| {
        publisher.publish(payload);
        publisher.bus.publish(OTHER, Record::new("k", payload)).wait().unwrap();
    };
    let set = |builder: NatsBuilder| {
        builder.ack_mode(mode).checkpoint_interval(Duration::from_millis(100))
    };
    let (mut service, handled, others) =
        (Service::with(&bob, set), Handled::default(), Handled::default());
    service.subscribe(policy(), &handled).unwrap();
    service.bus.subscribe(OTHER, Subscription::new("others"), others.handler()).wait().unwrap();
    publish("a");
    handled.wait(1);
    others.wait(1);

    let denied = format!("\"{denied}\"");
    change(&server, NOTHING, &denied);
    // The server reads its configuration when it comes to that.
    service.names_after(right, || publish("b"));
    let stopped = |service: &Service| match service.bus.health() {
        Health::Degraded(reasons) => reasons
            .iter()
            .filter(|reason| reason.kind == ReasonKind::SourceStopped)
            .map(|reason| (reason.about.clone(), reason.text.contains(&forbids(right))))
            .collect(),
        other => vec![(format!("{other:?}"), false)],
    };
    let about = format!("{TOPIC}/0 of rights");
    let begun = Instant::now();
    while stopped(&service) != [(about.clone(), true)] {
        assert!(begun.elapsed() < LONG, "{:?}", service.bus.health());
        std::thread::sleep(Duration::from_millis(5));
    }
    publish("c");
    others.wait_all(&["a", "b", "c"]);
    assert_eq!(stopped(&service), [(about, true)], "the other goes on");
    service.close();

    change(&server, &denied, NOTHING);
    let again = Service::with(&bob, set);
    again.subscribe(policy(), &handled).unwrap();
    handled.wait_all(&["a", "b", "c"]);
    again.close();
    publisher.close();
}

#[test]
fn acknowledgements_are_forbidden_while_it_runs() {
    for mode in [AckMode::Each, AckMode::Floor] {
        withdrawn(mode, "$JS.ACK.STREAM_orders.>", "$JS.ACK.STREAM_orders.rights-orders.");
    }
}

#[test]
fn pulls_are_forbidden_while_it_runs() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        let right = "$JS.API.CONSUMER.MSG.NEXT.STREAM_orders";
        withdrawn(mode, &format!("{right}.>"), right);
    }
}

#[test]
fn positions_are_forbidden_while_it_runs() {
    let right = "$KV.keylane.at.rights-orders";
    withdrawn(AckMode::Checkpoint, right, right);
}

/// What is needed once something may have been lost.
#[test]
fn resets_are_forbidden_while_it_runs() {
    let Some(server) = Server::start(&["--prop", &users(NOTHING)]) else { return };
    if server.version() < (2, 14, 0) {
        return;
    }
    let bob = url(&server, "bob");
    let (mut service, handled) = (Service::new(&bob, AckMode::Floor), Handled::default());
    service.subscribe(policy(), &handled).unwrap();
    service.publish("a");
    handled.wait(1);
    change(&server, NOTHING, "\"$JS.API.CONSUMER.RESET.>\"");
    server.restart(1);
    service.names("$JS.API.CONSUMER.RESET.STREAM_orders.");
    service.close();
}

/// A position that the server has no room for is no failure: it is said for as long as that is so, and records go on.
#[test]
fn positions_find_no_room_while_it_runs() {
    let Some(server) = Server::start(&["--prop", &users(NOTHING)]) else { return };
    let set = |builder: NatsBuilder| {
        let quick = Duration::from_millis(100);
        builder.ack_mode(AckMode::Checkpoint).checkpoint_interval(quick)
    };
    let (mut service, handled) = (Service::with(&url(&server, "amy"), set), Handled::default());
    service.subscribe(policy(), &handled).unwrap();
    service.publish("a");
    handled.wait(1);
    let limit = |bytes: i64| limit_bucket(server.url(), bytes);
    limit(1);
    if server.version() < (2, 10, 0) {
        // It takes the positions away that are there: whose own is gone stops, and says which.
        service.publish("b");
        let begun = Instant::now();
        while !service.bus.health().to_string().contains("at.rights-orders was removed") {
            assert!(begun.elapsed() < LONG, "{:?}", service.bus.health());
            std::thread::sleep(Duration::from_millis(5));
        }
        return service.close();
    }
    let about = |service: &Service| match service.bus.health() {
        Health::Degraded(reasons) => {
            let mut kept = reasons.into_iter().filter(|r| r.kind == ReasonKind::Uncommitted);
            kept.next().map(|reason| reason.about)
        }
        _ => None,
    };
    let mut number = 1;
    let begun = Instant::now();
    while about(&service).as_deref() != Some("orders/0 of rights") {
        assert!(begun.elapsed() < LONG, "{:?}", service.bus.health());
        service.publish("b");
        number += 1;
        handled.wait(number);
    }
    let said = |service: &mut Service| {
        let events = std::iter::from_fn(|| service.events.try_next());
        events.filter(|event| matches!(event, BusEvent::Uncommitted { .. })).count()
    };
    // The health knows a little before that.
    let mut heard = 0;
    while heard == 0 {
        assert!(begun.elapsed() < LONG, "it is not said");
        heard = said(&mut service);
    }
    limit(-1);
    let begun = Instant::now();
    while service.bus.health() != Health::Healthy {
        assert!(begun.elapsed() < LONG, "{:?}", service.bus.health());
        service.publish("c");
        number += 1;
        handled.wait(number);
    }
    assert_eq!(heard + said(&mut service), 1);
    service.close();
}

/// How many bytes the bucket of positions may take.
fn limit_bucket(url: &str, bytes: i64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = async_nats::ConnectOptions::with_user_and_password("amy".into(), "pw".into());
        let context = async_nats::jetstream::new(options.connect(url).await.unwrap());
        let mut bucket = context.get_stream("KV_keylane").await.unwrap();
        let mut config = bucket.info().await.unwrap().config.clone();
        config.max_bytes = bytes;
        context.update_stream(config).await.unwrap();
    });
}
