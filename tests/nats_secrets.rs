//! No secret is ever printed: not by us, not by the client library and not by the TLS library at their most talkative,
//! nor by `Debug` and `Display` of whatever we hand out.
#![cfg(all(feature = "nats", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/broker.rs"]
mod broker;

use std::fmt::{Debug, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use broker::Server;
use keylane::nats::{NatsBuilder, NatsBus};
use keylane::{Bus, Runtime};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Everything that was logged by anybody.
static LOGGED: Mutex<String> = Mutex::new(String::new());

/// Takes what is logged through the crates `log` and `tracing`, at every level.
struct Everything;

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Everything {
    fn take(target: &str, fields: impl FnOnce(&mut Fields<'_>)) {
        let mut logged = LOGGED.lock().unwrap();
        logged.push_str(target);
        fields(&mut Fields(&mut logged));
        logged.push('\n');
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        Self::take(span.metadata().target(), |fields| span.record(fields));
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, values: &Record<'_>) {
        Self::take("span", |fields| values.record(fields));
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        Self::take(event.metadata().target(), |fields| event.record(fields));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl log::Log for Everything {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        Self::take(record.target(), |fields| {
            let _ = write!(fields.0, " {}", record.args());
        });
    }
    fn flush(&self) {}
}

/// Prints whatever can be printed of connecting so; the bus, if there is one.
fn connect(builder: NatsBuilder) -> Option<NatsBus> {
    Everything::take("builder", |all| write!(all.0, "{builder:?} {builder:#?}").unwrap());
    let connecting = builder.connect();
    Everything::take("connecting", |all| write!(all.0, "{connecting:?}").unwrap());
    let connected = connecting.wait();
    Everything::take("connected", |all| write!(all.0, "{connected:?}").unwrap());
    match connected {
        Ok(bus) => {
            let ensured = bus.ensure("orders").wait();
            let mut events = bus.events();
            let events: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
            let reported = (events, bus.health(), bus.bus());
            Everything::take("bus", |all| {
                write!(all.0, "{bus:?} {reported:?} {ensured:?}").unwrap()
            });
            Some(bus)
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            Everything::take("error", |all| write!(all.0, "{error} {error:?} {source:?}").unwrap());
            None
        }
    }
}

/// None of these was printed, each of which is a secret or a good part of one.
fn nobody_said(secrets: &[&str]) {
    let logged = LOGGED.lock().unwrap();
    for secret in secrets {
        assert!(secret.len() >= 6, "{secret:?} could stand there by chance");
        let line = logged.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret:?} was printed");
    }
}

#[test]
fn nobody_prints_a_secret() {
    log::set_logger(&Everything).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    tracing::subscriber::set_global_default(Everything).unwrap();
    let runtime = Runtime::builder().workers(1).lanes(2).build().unwrap();

    // It is heard what the others say, or all of this proves nothing.
    let Some(plain) = Server::start(&["--security=password"]) else { return };
    let (password, seed) = (plain.secret("password"), plain.secret("user.nk"));
    let ca = plain.security("ca.pem");
    let builder = || NatsBus::builder(&runtime, plain.url()).ca_file(&ca);
    let bus = connect(builder().user_and_password("alice", &password)).expect("it is right");
    {
        let logged = LOGGED.lock().unwrap();
        for heard in ["write operation: CONNECT", "rustls::", "NatsBuilder"] {
            assert!(logged.contains(heard), "{heard:?} was not logged");
        }
    }
    connect(builder().nkey_seed(&seed)).expect("it is right");
    connect(builder().user_and_password("alice", "canary-password"));
    connect(builder().user_and_password("somebody", "canary-password").token("canary-token"));
    connect(builder().nkey_seed("SUCANARYSEED"));
    connect(builder().creds("canary-creds"));
    connect(builder().token("canary-token"));
    let file = plain.dir().join("wrong.creds");
    std::fs::write(&file, "canary-creds").unwrap();
    connect(builder().creds_file(&file));
    connect(builder().with_vars([("KEYLANE_NATS_PASSWORD", "canary-password")]).unwrap());

    // In URLs, right and wrong, known and unknown.
    let host = plain.url().trim_start_matches("nats://");
    for url in [
        format!("tls://alice:{password}@{host}?ca_file={}", ca.display()),
        format!("tls://alice:canary-password@{host}?ca_file={}", ca.display()),
        format!("nats://canary-token@{host}?ca_file={}", ca.display()),
        format!("nats://alice:canary-password@{host}/canary-path"),
        format!("nats://alice:canary-password@{host}?password=canary-password"),
        format!("nats://alice:canary-password@{host}?window=many"),
        format!("nats://alice:canary%2password@{host}"),
        "nats://alice:canary-password@127.0.0.1:1".to_owned(),
        "nats://alice:canary-password@no.such.host.invalid".to_owned(),
        "nats://alice:canary-password@ho st".to_owned(),
        "ws://alice:canary-password@host".to_owned(),
        "kafka://alice:canary-password@host".to_owned(),
    ] {
        let connecting = Bus::connect(&runtime, &url);
        Everything::take("connecting", |all| write!(all.0, "{connecting:?}").unwrap());
        let connected = connecting.wait();
        Everything::take("connected", |all| write!(all.0, "{connected:?}").unwrap());
        if let Err(error) = connected {
            Everything::take("error", |all| write!(all.0, "{error}").unwrap());
        }
    }

    // While it connects again, and is refused.
    plain.restart(1);
    let deadline = Instant::now() + Duration::from_secs(15);
    while bus.reconnects() < 3 {
        assert!(Instant::now() < deadline, "{:?}", bus.health());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut events = bus.events();
    while let Some(event) = events.try_next() {
        Everything::take("event", |all| write!(all.0, "{event:?}").unwrap());
    }

    let Some(signed) = Server::start(&["--security=creds"]) else { return };
    let creds = signed.secret("user.creds");
    let (ca, file) = (signed.security("ca.pem"), signed.security("user.creds"));
    let builder = || NatsBus::builder(&runtime, signed.url()).ca_file(&ca);
    connect(builder().creds(&creds)).expect("they are right");
    connect(builder().creds_file(&file)).expect("they are right");
    let long = |line: &&str| line.len() > 40 && !line.starts_with('-');
    let signed_secrets: Vec<&str> = creds.lines().filter(long).collect();
    assert_eq!(signed_secrets.len(), 2, "a JWT and a seed");

    let Some(keyed) = Server::start(&["--security=token"]) else { return };
    let token = keyed.secret("token");
    let (ca, url) = (keyed.security("ca.pem"), keyed.url());
    connect(NatsBus::builder(&runtime, url).ca_file(&ca).token(&token)).expect("it is right");
    connect(NatsBus::builder(&runtime, url).ca_file(&ca).token("canary-token"));

    nobody_said(&[&password, &seed, &token, "canary", "CANARY"]);
    nobody_said(&signed_secrets);
    runtime.stop_now();
}
