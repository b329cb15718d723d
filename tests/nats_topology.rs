//! Streams made, changed, checked and refused, on real servers.
#![cfg(all(feature = "nats", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/broker.rs"]
mod broker;

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use broker::Server;
use keylane::nats::{
    AckMode, Discard, NatsBuilder, NatsBus, Retention, Storage, Strategy, TopicOptions,
};
use keylane::{BrokerErrorKind, BusError, Record, Runtime, Subscription};

/// Every refusal is told within this.
const SOON: Duration = Duration::from_secs(5);

fn runtime() -> Runtime {
    Runtime::builder().workers(1).lanes(2).build().unwrap()
}

/// A look at the server beside the bus.
struct Beside {
    tokio: tokio::runtime::Runtime,
    jetstream: jetstream::Context,
}

impl Beside {
    fn new(server: &Server) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connect = async { jetstream::new(async_nats::connect(server.url()).await.unwrap()) };
        let jetstream = tokio.block_on(connect);
        Self { tokio, jetstream }
    }

    fn config(&self, stream: &str) -> Config {
        let found = self.tokio.block_on(self.jetstream.get_stream(stream)).unwrap();
        found.cached_info().config.clone()
    }

    fn make(&self, config: Config) {
        self.tokio.block_on(self.jetstream.create_stream(config)).unwrap();
    }
}

fn ensure(builder: NatsBuilder, topic: &str) -> Result<(), (BrokerErrorKind, String)> {
    let bus = builder.connect().wait().unwrap();
    let begun = Instant::now();
    let ensured = bus.ensure(topic).wait();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    ensured.map_err(|error| match error {
        BusError::Broker(error) => (error.kind(), error.to_string()),
        error => panic!("{error:?}"),
    })
}

#[track_caller]
fn refused(builder: NatsBuilder, topic: &str, kind: BrokerErrorKind, told: &[&str]) {
    let (got, text) = ensure(builder, topic).unwrap_err();
    assert_eq!(got, kind, "{text}");
    for told in told {
        assert!(text.contains(told), "{told:?} is not in: {text}");
    }
}

#[test]
fn a_stream_is_made_as_the_options_say() {
    let Some(server) = Server::shared() else { return };
    let (runtime, beside) = (runtime(), Beside::new(server));
    let builder = || NatsBus::builder(&runtime, server.url());
    ensure(builder(), "topo.made").unwrap();
    let made = beside.config("STREAM_topo_made");
    assert_eq!(made.subjects, ["topo.made"]);
    assert_eq!((made.retention, made.storage), (RetentionPolicy::Limits, StorageType::File));
    assert_eq!((made.num_replicas, made.max_age), (1, Duration::ZERO));

    let all = || {
        builder()
            .storage(Storage::Memory)
            .retention(Retention::Interest)
            .discard(Discard::New)
            .max_age(Duration::from_secs(3_600))
            .max_bytes(1 << 20)
            .max_messages(1_000)
            .duplicate_window(Duration::from_secs(60))
            .replicas(1)
    };
    ensure(all(), "topo.full").unwrap();
    let made = beside.config("STREAM_topo_full");
    assert_eq!((made.retention, made.storage), (RetentionPolicy::Interest, StorageType::Memory));
    assert_eq!((made.discard, made.max_age), (DiscardPolicy::New, Duration::from_secs(3_600)));
    assert_eq!((made.max_bytes, made.max_messages), (1 << 20, 1_000));
    assert_eq!(made.duplicate_window, Duration::from_secs(60));
    // Again, and by those who only look.
    ensure(all(), "topo.full").unwrap();
    ensure(all().topology(Strategy::ValidateOnly), "topo.full").unwrap();
    ensure(all().topology(Strategy::CreateOnly), "topo.full").unwrap();
    // What is unset may be as it is.
    ensure(builder(), "topo.full").unwrap();
    assert_eq!(beside.config("STREAM_topo_full"), made);
    runtime.stop_now();
}

#[test]
fn a_stream_grows_and_never_shrinks() {
    let Some(server) = Server::shared() else { return };
    let (runtime, beside) = (runtime(), Beside::new(server));
    let builder = || NatsBus::builder(&runtime, server.url());
    let name = "STREAM_topo_grow";
    beside.make(Config {
        name: name.into(),
        subjects: vec!["elsewhere.topo".into()],
        max_age: Duration::from_secs(60),
        max_messages: 100,
        description: Some("theirs".into()),
        ..Config::default()
    });
    // Who may only look or make says what is missing, and changes nothing.
    for strategy in [Strategy::ValidateOnly, Strategy::CreateOnly] {
        let kind = BrokerErrorKind::Mismatch;
        refused(
            builder().topology(strategy),
            "topo.grow",
            kind,
            &["lacks the subject \"topo.grow\""],
        );
    }
    ensure(builder().topology(Strategy::Skip), "topo.grow").unwrap();
    assert_eq!(beside.config(name).subjects, ["elsewhere.topo"]);

    ensure(builder().max_messages(200), "topo.grow").unwrap();
    let grown = beside.config(name);
    assert_eq!(grown.subjects, ["elsewhere.topo", "topo.grow"]);
    assert_eq!((grown.max_messages, grown.max_age), (200, Duration::from_secs(60)));
    assert_eq!(grown.description.as_deref(), Some("theirs"), "what is not ours stays");

    let kind = BrokerErrorKind::Mismatch;
    refused(
        builder().max_messages(50),
        "topo.grow",
        kind,
        &["max_msgs is 200", "asks for 50", "unset"],
    );
    refused(
        builder().max_age(Duration::from_secs(1)),
        "topo.grow",
        kind,
        &["max_age is 60s", "1s"],
    );
    ensure(builder().max_age(Duration::ZERO), "topo.grow").unwrap();
    assert_eq!(beside.config(name).max_age, Duration::ZERO);
    refused(builder().retention(Retention::WorkQueue), "topo.grow", kind, &["retention is limits"]);
    refused(
        builder().storage(Storage::Memory),
        "topo.grow",
        kind,
        &["storage is file", "another stream"],
    );
    ensure(builder().discard(Discard::New), "topo.grow").unwrap();
    refused(builder().discard(Discard::Old), "topo.grow", kind, &["discard is new"]);
    // All differences at once.
    let builder = builder().topology(Strategy::ValidateOnly).replicas(3).max_bytes(9);
    refused(builder, "topo.grow", kind, &["num_replicas is 1", "max_bytes is without an end"]);
    runtime.stop_now();
}

#[test]
fn subjects_that_a_wider_one_covers_are_not_missing() {
    let Some(server) = Server::shared() else { return };
    let (runtime, beside) = (runtime(), Beside::new(server));
    let builder = || NatsBus::builder(&runtime, server.url());
    let wide = |name: &str, subject: &str| Config {
        name: name.into(),
        subjects: vec![subject.into()],
        ..Config::default()
    };
    beside.make(wide("STREAM_wide_orders", "wide.*"));
    ensure(builder().topology(Strategy::ValidateOnly), "wide.orders").unwrap();
    // Another stream has them: it is named.
    beside.make(wide("BUSINESS", "business.>"));
    let kind = BrokerErrorKind::Mismatch;
    refused(
        builder(),
        "business.orders",
        kind,
        &["\"BUSINESS\" has them", "STREAM_business_orders"],
    );
    runtime.stop_now();
}

#[test]
fn a_missing_stream_is_named() {
    let Some(server) = Server::shared() else { return };
    let runtime = runtime();
    for strategy in [Strategy::ValidateOnly, Strategy::Skip] {
        let builder = NatsBus::builder(&runtime, server.url()).topology(strategy);
        let told = ["\"topo.missing\"", "\"STREAM_topo_missing\"", "create_or_update"];
        refused(builder, "topo.missing", BrokerErrorKind::MissingTopic, &told);
    }
    runtime.stop_now();
}

#[test]
fn what_can_lose_records_is_said() {
    let Some(server) = Server::shared() else { return };
    let runtime = runtime();
    let bus = NatsBus::builder(&runtime, server.url())
        .max_messages(10)
        .storage(Storage::Memory)
        .connect()
        .wait()
        .unwrap();
    bus.ensure("topo.noted").wait().unwrap();
    let mut events = bus.events();
    let happened: String =
        std::iter::from_fn(|| events.try_next()).map(|event| format!("{event:?}")).collect();
    for told in ["max_msgs may delete records that nobody has handled", "is in memory"] {
        assert!(happened.contains(told), "{told:?} is not in: {happened}");
    }
    runtime.stop_now();
}

/// What is sent again is known again: streams that are made remember for longer than that, and of others it is said.
#[test]
fn a_stream_that_forgets_ids_early_is_told() {
    let Some(server) = Server::shared() else { return };
    let (runtime, beside) = (runtime(), Beside::new(server));
    let patient = || {
        let builder = NatsBus::builder(&runtime, server.url());
        builder.publish_patience(Duration::from_secs(90))
    };
    ensure(patient(), "topo.patient").unwrap();
    assert_eq!(beside.config("STREAM_topo_patient").duplicate_window, Duration::from_secs(180));

    let short = |name: &str| Config {
        name: format!("STREAM_{name}"),
        subjects: vec![name.replace('_', ".")],
        duplicate_window: Duration::from_secs(10),
        ..Config::default()
    };
    beside.make(short("topo_short"));
    let with_ids =
        |builder: NatsBuilder| builder.topic("topo.short", TopicOptions::plain().assign_ids());
    let told = ["duplicate_window is 10s", "`publish_patience` is 90s", "stored twice"];
    refused(with_ids(patient()), "topo.short", BrokerErrorKind::Mismatch, &told);
    // Without ids of every record it is worth a word.
    let bus = patient().connect().wait().unwrap();
    bus.ensure("topo.short").wait().unwrap();
    let mut events = bus.events();
    let happened: String =
        std::iter::from_fn(|| events.try_next()).map(|event| format!("{event:?}")).collect();
    assert!(told.iter().all(|told| happened.contains(told)), "{happened}");
    // As told: asked for, it is raised.
    let raised = || with_ids(patient()).duplicate_window(Duration::from_secs(100));
    ensure(raised(), "topo.short").unwrap();
    assert_eq!(beside.config("STREAM_topo_short").duplicate_window, Duration::from_secs(100));
    let error = patient().duplicate_window(Duration::from_secs(90)).connect().wait().unwrap_err();
    assert!(error.to_string().contains("longer than `publish_patience`"), "{error}");
    runtime.stop_now();
}

/// What a durable is made with if nothing is set, read back from the server: how long it waits, and how much may be under way.
#[test]
fn a_durable_is_made_with_the_usual_limits() {
    const LONG: Duration = Duration::from_secs(120);
    const SHORT: Duration = Duration::from_secs(5);
    for (version, retention, ack_wait) in [
        ("2.15.1", Retention::Limits, LONG),
        ("2.15.1", Retention::Interest, LONG),
        ("debian", Retention::Limits, LONG),
        // It knows no reset: what is delivered again comes by itself.
        ("debian", Retention::Interest, SHORT),
    ] {
        let Some(server) = Server::start(&["--version", version]) else { return };
        for mode in [AckMode::Each, AckMode::Floor] {
            let runtime = runtime();
            let builder = NatsBus::builder(&runtime, server.url()).ack_mode(mode);
            let bus = builder.retention(retention).connect().wait().unwrap();
            let group = format!("{mode:?}").to_lowercase();
            let policy = Subscription::new(group.as_str());
            bus.subscribe("usual", policy, |_: &Record| Ok(())).wait().unwrap();
            let beside = Beside::new(&server);
            let config = beside.tokio.block_on(async {
                let stream = beside.jetstream.get_stream("STREAM_usual").await.unwrap();
                stream.consumer_info(format!("{group}-usual")).await.unwrap().config
            });
            let got = (config.ack_wait, config.max_ack_pending, config.max_deliver);
            assert_eq!(got, (ack_wait, 10_000, -1), "{version} {retention:?} {mode:?}");
            runtime.stop_now();
        }
    }
}

/// A server on which `bob` may not do this.
fn without(denied: &str) -> Option<Server> {
    let users = format!(
        "authorization: {{ users: [ {{ user: bob, password: pw, permissions: {{ {denied} }} }} ] }}"
    );
    Server::start(&["--prop", &users])
}

#[test]
fn each_right_that_is_missing_is_named_within_five_seconds() {
    let runtime = runtime();
    for (denied, told) in [
        (
            "publish: { deny: [\"$JS.API.STREAM.INFO.>\"] }",
            "publish to \"$JS.API.STREAM.INFO.STREAM_orders\"",
        ),
        (
            "publish: { deny: [\"$JS.API.STREAM.CREATE.>\"] }",
            "publish to \"$JS.API.STREAM.CREATE.STREAM_orders\"",
        ),
        ("publish: { deny: [\"$JS.API.>\"] }", "publish to \"$JS.API."),
        ("subscribe: { deny: [\"_INBOX.>\"] }", "set `inbox_prefix`"),
    ] {
        let Some(server) = without(denied) else { return };
        let url = server.url().replace("nats://", "nats://bob:pw@");
        let builder = NatsBus::builder(&runtime, &url).request_timeout(Duration::from_secs(2));
        refused(builder, "orders", BrokerErrorKind::NotPermitted, &[told]);
    }
    let Some(server) = without("subscribe: { deny: [\"_INBOX.>\"] }") else { return };
    let url = server.url().replace("nats://", "nats://bob:pw@");
    ensure(NatsBus::builder(&runtime, &url).inbox_prefix("bobs"), "orders").unwrap();
    runtime.stop_now();
}

#[test]
fn a_publish_that_is_forbidden_ends_with_the_right_that_is_missing() {
    let Some(server) = without("publish: { deny: [\"orders\"] }") else { return };
    let runtime = runtime();
    let url = server.url().replace("nats://", "nats://bob:pw@");
    let bus = NatsBus::builder(&runtime, &url).connect().wait().unwrap();
    bus.ensure("orders").wait().unwrap();
    let begun = Instant::now();
    let error = bus.publish("orders", Record::new("k", "v")).wait().unwrap_err();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(error.to_string().contains("forbids \"orders\""), "{error}");
    runtime.stop_now();
}

#[test]
fn a_domain_that_is_not_there_is_said() {
    let Some(server) = Server::shared() else { return };
    let runtime = runtime();
    for builder in [
        NatsBus::builder(&runtime, server.url()).domain("hub"),
        NatsBus::builder(&runtime, server.url()).api_prefix("from.hub"),
    ] {
        refused(builder, "orders", BrokerErrorKind::Unsupported, &["`domain`", "`api_prefix`"]);
    }
    let Some(hub) = Server::start(&["--prop", "jetstream.domain: hub"]) else { return };
    ensure(NatsBus::builder(&runtime, hub.url()).domain("hub"), "orders").unwrap();
    runtime.stop_now();
}

/// An old server drops what it does not know without a word; what it knows it does.
#[test]
fn the_oldest_server_takes_what_is_asked_for() {
    let Some(server) = Server::start(&["--version", "debian"]) else { return };
    assert_eq!(server.version(), (2, 9, 10));
    let (runtime, beside) = (runtime(), Beside::new(&server));
    let builder = || NatsBus::builder(&runtime, server.url());
    ensure(builder().max_age(Duration::from_secs(60)).discard(Discard::New), "orders").unwrap();
    assert_eq!(beside.config("STREAM_orders").max_age, Duration::from_secs(60));
    ensure(builder().max_messages(0), "orders").unwrap();
    refused(builder().max_messages(7), "orders", BrokerErrorKind::Mismatch, &["max_msgs"]);
    runtime.stop_now();
}
