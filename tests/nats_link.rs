//! Connecting to real NATS servers: by URL and builder, from threads and async code, over TLS, with every way to say
//! who we are; refusals in words; what is there again after a server was killed.
#![cfg(all(feature = "nats", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/broker.rs"]
mod broker;

use std::fs;
use std::future::Future;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use broker::Server;
use keylane::nats::{AckMode, NatsBuilder, NatsBus, TopicOptions};
use keylane::{
    BrokerErrorKind, Bus, BusError, Events, Handler, Health, Record, Runtime, Subscription,
};

const SOON: Duration = Duration::from_secs(15);

fn runtime() -> Runtime {
    Runtime::builder().workers(1).lanes(2).build().unwrap()
}

/// Waits for a condition, at most for [`SOON`].
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Another executor than tokio's.
fn drive<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// The refusal of a connect, which names its kind and prints no secret.
fn refused(builder: NatsBuilder) -> (BrokerErrorKind, String) {
    match builder.connect().wait() {
        Err(BusError::Broker(error)) => (error.kind(), error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_connects_from_plain_threads_and_from_any_executor() {
    let Some(server) = Server::shared() else { return };
    let runtime = runtime();
    let first = NatsBus::builder(&runtime, server.url()).connect().wait().unwrap();
    first.ensure("link.works").wait().unwrap();
    let works = |bus: Bus| {
        bus.publish("link.works", Record::new("k", "v")).wait().unwrap();
    };
    let url = format!("{}?ack_mode=floor&window=1000&name=link-test", server.url());
    works(Bus::connect(&runtime, &url).wait().unwrap());
    works(drive(Bus::connect(&runtime, &url)).unwrap());
    works(tokio().block_on(Bus::connect(&runtime, &url)).unwrap());
    let bus = NatsBus::builder(&runtime, server.url())
        .ack_mode(AckMode::Floor)
        .topic("link.works", TopicOptions::default())
        .connect();
    works(drive(bus).unwrap().bus());
    runtime.stop_now();
}

#[test]
fn dropping_inside_async_code_neither_blocks_nor_panics() {
    let Some(server) = Server::shared() else { return };
    let runtime = Runtime::builder().workers(1).thread_name("dropped").build().unwrap();
    // Takes connections and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("nats://{}", mute.local_addr().unwrap());
    tokio().block_on(async {
        let patient = || NatsBus::builder(&runtime, &mute).connect_timeout(Duration::from_secs(10));
        let begun = Instant::now();
        drop(patient().connect());
        drop(NatsBus::builder(&runtime, server.url()).connect());
        let mut polled = pin!(patient().connect());
        let waker = Waker::noop();
        assert!(polled.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    });
    tokio().block_on(async {
        let bus = NatsBus::builder(&runtime, server.url()).connect().await.unwrap();
        let begun = Instant::now();
        drop(bus);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    });
    // Nothing of them is left: threads end once their bus is gone.
    until("threads end", || threads("dropped-nats") == 0);
    runtime.stop_now();
}

/// Everything that has happened to a bus since the last look.
fn happened(events: &mut Events) -> String {
    std::iter::from_fn(|| events.try_next()).map(|event| format!("{event:?} ")).collect()
}

/// Threads of this process whose name begins so.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|known| known.starts_with(name)).count()
}

/// The connections' threads are the bus' own: whatever its kind, a handler runs on others.
#[test]
fn handlers_run_on_no_thread_of_a_connection() {
    let Some(server) = Server::shared() else { return };
    let runtime = Runtime::builder().workers(2).thread_name("ours").build().unwrap();
    let bus = NatsBus::builder(&runtime, server.url())
        .topic("link.core-threads", TopicOptions::plain().at_most_once())
        .connect()
        .wait()
        .unwrap();
    for topic in ["link.threads", "link.core-threads"] {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noting = |kind: &'static str| {
            let seen = seen.clone();
            move || {
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                seen.lock().unwrap().push((kind, name));
            }
        };
        let (sync, future, blocking) = (noting("sync"), noting("async"), noting("blocking"));
        let (first, woken) = (Arc::new(future), noting("woken"));
        let woken = Arc::new(woken);
        let kinds = [
            (
                "sync",
                Handler::sync(move |_| {
                    sync();
                    Ok(())
                }),
            ),
            (
                "async",
                Handler::future(move |_| {
                    let (first, woken) = (first.clone(), woken.clone());
                    async move {
                        first();
                        let mut again = true;
                        std::future::poll_fn(|cx| {
                            cx.waker().wake_by_ref();
                            if std::mem::take(&mut again) { Poll::Pending } else { Poll::Ready(()) }
                        })
                        .await;
                        woken();
                        Ok(())
                    }
                }),
            ),
            (
                "blocking",
                Handler::blocking(move |_| {
                    blocking();
                    Ok(())
                }),
            ),
        ];
        for (name, handler) in kinds {
            let policy = Subscription::new(format!("{name}-{}", topic.len()));
            bus.subscribe_handler(topic, policy, handler).wait().unwrap();
        }
        for number in 0..20 {
            bus.publish(topic, Record::new(format!("k{number}"), "v")).wait().unwrap();
        }
        until("all have run", || seen.lock().unwrap().len() == 4 * 20);
        for (kind, name) in seen.lock().unwrap().iter() {
            assert!(
                name.starts_with("ours") && !name.contains("nats"),
                "{topic}, {kind}: on {name}"
            );
        }
    }
    assert!(threads("ours-nats") >= 3, "the connections' threads are named so");
    runtime.stop_now();
}

#[test]
fn a_server_that_is_not_there_or_says_nothing_is_unreachable_in_time() {
    let runtime = runtime();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("nats://{}", mute.local_addr().unwrap());
    let begun = Instant::now();
    let builder = NatsBus::builder(&runtime, &silent).connect_timeout(Duration::from_millis(300));
    let (kind, text) = refused(builder);
    assert_eq!(kind, BrokerErrorKind::Unreachable, "{text}");
    assert!(text.contains("connect_timeout") && text.contains("tls_first"), "{text}");

    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [format!("nats://{gone}"), "nats://no.such.host.invalid".to_owned()] {
        let (kind, text) = refused(NatsBus::builder(&runtime, &url));
        assert_eq!(kind, BrokerErrorKind::Unreachable, "{text}");
        assert!(text.contains(url.trim_start_matches("nats://")), "{text}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    runtime.stop_now();
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_begun() {
    let runtime = runtime();
    let said = |url: &str| {
        let error = Bus::connect(&runtime, url).wait().unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("canary"), "{text}");
        error.to_string()
    };
    assert!(said("nats://h?ack_mod=floor").contains("did you mean `ack_mode`?"));
    assert!(said("nats://h?ack_mode=canar").contains("`each`, `floor` or `checkpoint`"));
    assert!(said("nats://h?password=canary").contains("no secrets"));
    assert!(said("nats://h?token=canary").contains("no secrets"));
    assert!(said("nats://u:canary@h?client_cert=/x").contains("`client_cert`"));
    assert!(said("nats://u:canary@h?token_=canary").contains("token_"));
    assert!(said("nats://u:canary@h/canary").contains("no path"));
    assert!(said("nats://h?domain=a&api_prefix=b").contains("beside `domain`"));
    assert!(said("nats://u:canary@h?creds_file=/nowhere").contains("the only one of"));
    let builder = NatsBus::builder(&runtime, "nats://h").window(0);
    let error = builder.connect().wait().unwrap_err().to_string();
    assert_eq!(error, "option `window` is 0, but must be a number from 1 to 65536");
    runtime.stop_now();
}

#[test]
fn a_password_and_an_nkey_are_accepted_and_wrong_ones_refused_in_words() {
    let Some(server) = Server::start(&["--security=password"]) else { return };
    let runtime = runtime();
    let builder = || NatsBus::builder(&runtime, server.url()).ca_file(server.security("ca.pem"));
    let password = server.secret("password");
    builder().user_and_password("alice", &password).connect().wait().unwrap();
    builder().nkey_seed(server.secret("user.nk")).connect().wait().unwrap();
    let url = server.url().replace("nats://", &format!("tls://alice:{password}@"));
    let ca = server.security("ca.pem");
    let url = format!("{url}?ca_file={}", ca.display());
    Bus::connect(&runtime, &url).wait().unwrap();

    let (kind, text) = refused(builder().user_and_password("alice", "canary"));
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("`user` and `password`") && !text.contains("canary"), "{text}");
    let (kind, text) = refused(builder());
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("without credentials"), "{text}");
    let (kind, text) = refused(builder().token("canary"));
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");

    // Whom we do not trust is told no secret.
    let wrong = || NatsBus::builder(&runtime, server.url()).user_and_password("alice", &password);
    let (kind, text) = refused(wrong().ca_file(server.security("other-ca.pem")));
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("not signed by a certificate of `ca_file`"), "{text}");
    let (kind, text) = refused(wrong());
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("give its issuer as `ca_file`"), "{text}");
    runtime.stop_now();
}

#[test]
fn a_certificate_of_ours_is_shown_where_it_is_asked_for() {
    let Some(server) = Server::start(&["--security=mtls"]) else { return };
    let runtime = runtime();
    let builder = || {
        NatsBus::builder(&runtime, server.url())
            .ca_file(server.security("ca.pem"))
            .user_and_password("alice", server.secret("password"))
    };
    let client = |file| server.security(file);
    let with = builder().client_cert(client("client.pem")).client_key(client("client.key"));
    with.connect().wait().unwrap();
    let (kind, text) = refused(builder());
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("`client_cert` and `client_key`"), "{text}");
    let mixed = builder().client_cert(client("client.pem")).client_key(client("server.key"));
    let text = mixed.connect().wait().unwrap_err().to_string();
    assert!(text.contains("the private key of `client_cert`"), "{text}");
    let foreign = builder().client_cert(client("other-ca.pem")).client_key(client("other-ca.key"));
    let (kind, text) = refused(foreign);
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("does not accept `client_cert`"), "{text}");
    runtime.stop_now();
}

#[test]
fn a_token_and_creds_are_accepted_and_wrong_ones_refused() {
    let runtime = runtime();
    let Some(server) = Server::start(&["--security=token"]) else { return };
    let builder = || NatsBus::builder(&runtime, server.url()).ca_file(server.security("ca.pem"));
    builder().token(server.secret("token")).connect().wait().unwrap();
    let vars = [("KEYLANE_NATS_TOKEN", server.secret("token"))];
    builder().with_vars(vars).unwrap().connect().wait().unwrap();
    let (kind, text) = refused(builder().token("canary"));
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("`token`") && !text.contains("canary"), "{text}");
    drop(server);

    let Some(server) = Server::start(&["--security=creds"]) else { return };
    let Some(other) = Server::start(&["--security=creds"]) else { return };
    let builder = || NatsBus::builder(&runtime, server.url()).ca_file(server.security("ca.pem"));
    builder().creds_file(server.security("user.creds")).connect().wait().unwrap();
    builder().creds(server.secret("user.creds")).connect().wait().unwrap();
    let (kind, text) = refused(builder().creds(other.secret("user.creds")));
    assert_eq!(kind, BrokerErrorKind::Unauthenticated, "{text}");
    assert!(text.contains("`creds`"), "{text}");
    let text = builder().creds_file("/nowhere").connect().wait().unwrap_err().to_string();
    assert!(text.contains("creds_file"), "{text}");
    runtime.stop_now();
}

#[test]
fn tls_that_one_side_does_not_speak_is_said() {
    let Some(server) = Server::shared() else { return };
    let runtime = runtime();
    let url = server.url().replace("nats://", "tls://");
    for builder in
        [NatsBus::builder(&runtime, &url), NatsBus::builder(&runtime, &url).tls_first(true)]
    {
        let (kind, text) = refused(builder.connect_timeout(Duration::from_secs(1)));
        assert_eq!(kind, BrokerErrorKind::Unreachable, "{text}");
        assert!(text.to_lowercase().contains("tls"), "{text}");
    }
    runtime.stop_now();
}

#[test]
fn everything_is_back_after_the_server_was_killed_and_came_again() {
    let Some(server) = Server::start(&[]) else { return };
    let runtime = runtime();
    let bus = NatsBus::builder(&runtime, server.url()).connect().wait().unwrap();
    bus.ensure("link.back").wait().unwrap();
    bus.publish("link.back", Record::new("k", "before")).wait().unwrap();
    let core = tokio();
    let client = bus.control().clone();
    let mut heard = core.block_on(client.subscribe("link.core.>")).unwrap();
    let mut events = bus.events();
    until("the first connects are told", || happened(&mut events).contains("Connected"));
    assert_eq!(bus.reconnects(), 0);
    for round in 1..=2 {
        server.kill(1);
        let mut seen = String::new();
        until("the cut of all connections is seen", || {
            seen += &happened(&mut events);
            seen.matches("Disconnected").count() == 3
        });
        let Health::Down(reasons) = bus.health() else { panic!("{:?}", bus.health()) };
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        server.restart(1);
        until("all connections are back", || bus.reconnects() == 3 * round as u64);
        until("it is healthy", || bus.health() == Health::Healthy);
        until("that they are back is told", || happened(&mut events).contains("Reconnected"));
        // Requests and their replies, and a subscription that was made before.
        bus.publish("link.back", Record::new("k", "after")).wait().unwrap();
        bus.ensure("link.back").wait().unwrap();
        let said = core.block_on(async {
            client.publish("link.core.a", round.to_string().into()).await.unwrap();
            client.flush().await.unwrap();
            futures_util::StreamExt::next(&mut heard).await.unwrap()
        });
        assert_eq!(said.payload, round.to_string());
    }
    runtime.stop_now();
}

/// Credentials are renewed on servers and in files: nobody restarts a service for that.
#[test]
fn a_server_that_knows_us_no_more_is_tried_until_it_does() {
    let Some(server) = Server::start(&["--security=creds"]) else { return };
    let Some(other) = Server::start(&["--security=creds"]) else { return };
    let runtime = runtime();
    let file = server.dir().join("renewed.creds");
    fs::write(&file, server.secret("user.creds")).unwrap();
    let bus = NatsBus::builder(&runtime, server.url())
        .ca_file(server.security("ca.pem"))
        .creds_file(&file)
        .reconnect_most(Duration::from_millis(100))
        .request_timeout(Duration::from_secs(1))
        .connect()
        .wait()
        .unwrap();
    bus.ensure("link.renewed").wait().unwrap();
    server.kill(1);
    fs::write(&file, other.secret("user.creds")).unwrap();
    server.restart(1);
    until("it is refused", || bus.health().to_string().contains("authorization violation"));
    let begun = Instant::now();
    let error = bus.ensure("link.renewed").wait().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "what waits ends in its own time");
    assert!(error.to_string().contains("within 1s"), "{error}");
    assert_eq!(bus.reconnects(), 0);
    fs::write(&file, server.secret("user.creds")).unwrap();
    until("it is back", || bus.reconnects() == 3);
    until("it is healthy", || bus.health() == Health::Healthy);
    bus.ensure("link.renewed").wait().unwrap();
    runtime.stop_now();
}
