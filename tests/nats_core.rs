//! Topics of core NATS on a real server: at most once, and every loss counted or said.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/frame.rs"]
mod frame;
#[path = "support/proxy.rs"]
mod proxy;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::Server;
use frame::Way;
use keylane::nats::{CoreCounts, TopicOptions, WhenFull};
use keylane::{BusError, HandlerError, NatsBus, Record, Runtime, Subscription};
use proxy::{Act, Proxy};

const LONG: Duration = Duration::from_secs(30);

fn on_tokio<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A name that no other test uses.
fn name(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{what}{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn wait(mut until: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}");
        std::thread::yield_now();
    }
}

async fn bus(runtime: &Runtime, url: &str, topic: &str, options: TopicOptions) -> NatsBus {
    NatsBus::builder(runtime, url).topic(topic, options).connect().await.unwrap()
}

fn counts(bus: &NatsBus, name: &str) -> CoreCounts {
    bus.core_counts(name).unwrap()
}

/// The numbers that came, by key.
type Came = Arc<Mutex<HashMap<Vec<u8>, Vec<u64>>>>;

fn noting(came: &Came) -> impl Fn(&Record) -> Result<(), HandlerError> + Send + Sync + 'static {
    let came = came.clone();
    move |record| {
        let number = std::str::from_utf8(record.payload()).unwrap().parse().unwrap();
        came.lock().unwrap().entry(record.key().unwrap().to_vec()).or_default().push(number);
        Ok(())
    }
}

#[test]
fn records_come_in_the_order_of_their_keys_and_a_group_shares_them() {
    let Some(server) = Server::shared() else { return };
    for options in [TopicOptions::plain(), TopicOptions::partitioned(4), TopicOptions::keyed(4)] {
        let topic = name("core");
        let options = options.at_most_once();
        let (one, two) = (Runtime::builder().build().unwrap(), Runtime::builder().build().unwrap());
        on_tokio(async {
            let first = bus(&one, server.url(), &topic, options.clone()).await;
            let second = bus(&two, server.url(), &topic, options).await;
            let [shared, alone] = [Came::default(), Came::default()];
            for (bus, name, came, group) in [
                (&first, "a", &shared, "g"),
                (&second, "b", &shared, "g"),
                (&first, "c", &alone, "other"),
            ] {
                let policy = Subscription::new(name).group(group);
                bus.subscribe(&topic, policy, noting(came)).await.unwrap();
            }
            for number in 1..=100u64 {
                for key in ["x", "y z", "w"] {
                    let record = Record::new(key, number.to_string());
                    first.publish(&topic, record).await.unwrap();
                }
            }
            let total = |came: &Came| came.lock().unwrap().values().map(Vec::len).sum::<usize>();
            wait(|| total(&shared) == 300 && total(&alone) == 300);
            for numbers in alone.lock().unwrap().values() {
                assert_eq!(*numbers, (1..=100).collect::<Vec<_>>());
            }
            // A handler may be done before who has handed its record over counts it.
            wait(|| counts(&first, "c").taken == 300);
            wait(|| counts(&first, "a").taken + counts(&second, "b").taken == 300);
            let (a, b, c) = (counts(&first, "a"), counts(&second, "b"), counts(&first, "c"));
            assert!(a.taken > 0 && b.taken > 0, "both have a share");
            assert_eq!(
                (c.received, c.missing, c.gaps_possible, c.dropped_by_client),
                (300, 0, 0, 0)
            );
            assert!(first.close(LONG).await.unwrap().drained);
            assert!(second.close(LONG).await.unwrap().drained);
        });
        one.close(LONG).unwrap();
        two.close(LONG).unwrap();
    }
}

#[test]
fn a_lost_message_is_counted_and_a_cut_is_said() {
    let Some(server) = Server::shared() else { return };
    let proxy = Proxy::to(server.address(1));
    let topic = name("lossy");
    let options = TopicOptions::keyed(2).at_most_once();
    let runtime = Runtime::builder().build().unwrap();
    on_tokio(async {
        let publisher = bus(&runtime, server.url(), &topic, options.clone()).await;
        let bus = bus(&runtime, &proxy.url(), &topic, options).await;
        let came = Came::default();
        bus.subscribe(&topic, Subscription::new("s"), noting(&came)).await.unwrap();
        let publish = |number: u64| publisher.publish(&topic, Record::new("k", number.to_string()));
        publish(1).await.unwrap();
        wait(|| counts(&bus, "s").taken == 1);
        let wanted = topic.clone();
        let lost = proxy.inject(3, Act::Drop, move |frame| {
            frame.way == Way::ToClient && frame.is_message() && frame.subject().starts_with(&wanted)
        });
        for number in 2..=5 {
            publish(number).await.unwrap();
        }
        wait(|| counts(&bus, "s").taken == 2);
        assert_eq!((lost.count(), counts(&bus, "s").missing), (3, 3));

        assert!(proxy.cut() > 0);
        wait(|| counts(&bus, "s").gaps_possible == 1);
        // It is subscribed again: nobody says when, so it is published until one comes.
        let begun = Instant::now();
        let mut number = 5;
        while counts(&bus, "s").taken == 2 {
            assert!(begun.elapsed() < LONG);
            number += 1;
            publish(number).await.unwrap();
        }
        wait(|| {
            let counts = counts(&bus, "s");
            counts.taken + counts.missing == number
        });
        let counts = counts(&bus, "s");
        assert_eq!((counts.received, counts.dropped_by_client), (counts.taken, 0));
    });
    runtime.stop_now();
}

#[test]
fn what_does_not_fit_is_dropped_by_policy_and_counted() {
    let Some(server) = Server::shared() else { return };
    for when_full in [WhenFull::Drop, WhenFull::Wait] {
        let topic = name("fits");
        let options = TopicOptions::plain().at_most_once().when_full(when_full);
        let runtime = Runtime::builder()
            .workers(1)
            .lanes(1)
            .slots(8)
            .wait(Duration::from_millis(20))
            .build()
            .unwrap();
        on_tokio(async {
            let bus = bus(&runtime, server.url(), &topic, options).await;
            let open = Arc::new(AtomicBool::new(false));
            let handled = Arc::new(AtomicU64::new(0));
            let (gate, count) = (open.clone(), handled.clone());
            let handler = move |_: &Record| {
                wait(|| gate.load(Ordering::SeqCst));
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            bus.subscribe(&topic, Subscription::new("s"), handler).await.unwrap();
            for number in 0..40 {
                bus.publish(&topic, Record::new("k", number.to_string())).await.unwrap();
            }
            wait(|| {
                let counts = counts(&bus, "s");
                counts.taken + counts.dropped_when_full == 40
            });
            open.store(true, Ordering::SeqCst);
            let counts = counts(&bus, "s");
            assert!(counts.dropped_when_full > 0 && counts.taken >= 8, "{counts:?}");
            wait(|| handled.load(Ordering::SeqCst) == counts.taken);
            assert_eq!((counts.received, counts.missing, counts.refused), (40, 0, 0));
        });
        runtime.stop_now();
    }
}

#[test]
fn a_subscription_that_is_forbidden_or_taken_is_refused() {
    let forbids = "authorization: { users: [ { user: a, password: b, permissions: { subscribe: { deny: [\"secret.>\"] }, \
                   publish: { deny: [\"closed.>\"] } } } ] }";
    let Some(server) = Server::start(&["--nodes", "1", "--prop", forbids]) else { return };
    let url = format!("nats://a:b@{}", server.address(1));
    let runtime = Runtime::builder().build().unwrap();
    on_tokio(async {
        let options = TopicOptions::plain().at_most_once();
        let bus = bus(&runtime, &url, "secret.>", options).await;
        let begun = Instant::now();
        let refused = bus.subscribe("secret.a", Subscription::new("s"), |_: &Record| Ok(())).await;
        let Err(BusError::Broker(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.kind(), keylane::BrokerErrorKind::NotPermitted, "{error}");
        // To a stream's topic, too, the refusal comes at once.
        let refused = bus.publish("closed.a", Record::new("k", "v")).await.unwrap_err();
        assert!(matches!(refused.kind(), keylane::PublishErrorKind::NotPermitted(_)), "{refused}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    });
    runtime.stop_now();
}

/// A topic whose handler is held, and with it the loop, while far more comes than that takes in one turn.
struct Held {
    runtime: Runtime,
    bus: NatsBus,
    open: Arc<AtomicBool>,
    came: Came,
}

const FLOOD: u64 = 2_000;

/// `buffer`: what the client keeps, which is full then.
async fn held(server: &Server, buffer: Option<usize>) -> Held {
    let topic = name("held");
    let options = TopicOptions::plain().at_most_once().when_full(WhenFull::Wait);
    let runtime = Runtime::builder().workers(1).lanes(1).slots(8).wait(Duration::from_secs(60));
    let runtime = runtime.build().unwrap();
    let builder = NatsBus::builder(&runtime, server.url()).topic(&topic, options);
    let builder = if let Some(buffer) = buffer { builder.buffer(buffer) } else { builder };
    let bus = builder.connect().await.unwrap();
    let open = Arc::new(AtomicBool::new(false));
    let came = Came::default();
    let (gate, note) = (open.clone(), noting(&came));
    let handler = move |record: &Record| {
        wait(|| gate.load(Ordering::SeqCst));
        note(record)
    };
    bus.subscribe(&topic, Subscription::new("s"), handler).await.unwrap();
    let mut events = bus.events();
    for number in 0..FLOOD {
        bus.publish(&topic, Record::new("k", number.to_string())).await.unwrap();
    }
    let mut is_full = move || {
        std::iter::from_fn(|| events.try_next())
            .any(|event| matches!(event, keylane::BusEvent::SlowConsumer { .. }))
    };
    if buffer.is_some() {
        wait(&mut is_full);
    }
    Held { runtime, bus, open, came }
}

#[test]
fn what_waits_in_the_clients_buffer_is_handled() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let held = held(server, None).await;
        held.open.store(true, Ordering::SeqCst);
        let counts = || counts(&held.bus, "s");
        wait(|| counts().received + counts().dropped_by_client == FLOOD);
        wait(|| counts().taken == counts().received);
        assert_eq!((counts().taken, counts().dropped_by_client), (FLOOD, 0), "{:?}", counts());
        wait(|| held.came.lock().unwrap()[&b"k"[..]].len() as u64 == FLOOD);
        assert_eq!(held.came.lock().unwrap()[&b"k"[..]], (0..FLOOD).collect::<Vec<_>>());
        held.runtime.stop_now();
    });
}

/// A close lets what has come be handled, of which far more waits than the loop takes in one turn.
#[test]
fn what_waits_at_a_close_is_handled() {
    const BUFFER: u64 = 1_000;
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let held = held(server, Some(BUFFER as usize)).await;
        let before = counts(&held.bus, "s").received;
        let closing = held.bus.close(LONG);
        held.open.store(true, Ordering::SeqCst);
        assert!(closing.await.unwrap().drained);
        let counts = counts(&held.bus, "s");
        let handled = held.came.lock().unwrap()[&b"k"[..]].len() as u64;
        assert!(handled >= before + BUFFER, "{before}, then {counts:?}");
        assert_eq!((counts.taken, counts.received), (handled, handled), "{counts:?}");
        held.runtime.stop_now();
    });
}

/// A close ends in its time though no lane has room, and says that something is left.
#[test]
fn a_close_waits_for_no_lane_beyond_its_time() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let held = held(server, Some(100)).await;
        let report = tokio::time::timeout(LONG, held.bus.close(Duration::from_millis(50))).await;
        let report = report.expect("it waits for the handler").unwrap();
        let counts = counts(&held.bus, "s");
        assert!(!report.drained && counts.dropped_when_full > 0, "{report:?}, {counts:?}");
        assert_eq!(counts.received, counts.taken + counts.dropped_when_full, "{counts:?}");
        held.open.store(true, Ordering::SeqCst);
        held.runtime.stop_now();
    });
}

/// Handlers are held, and with them the loop: what then finds the client's small buffer full is dropped, and counted to the
/// message, by the connection's own count and by the publisher's numbers alike.
#[test]
fn what_the_client_drops_is_counted_to_the_message() {
    const ALL: u64 = 500;
    let Some(server) = Server::shared() else { return };
    let topic = name("flood");
    let options = TopicOptions::plain().at_most_once().when_full(WhenFull::Wait);
    // The loop waits in front of a full lane until the flood is over, however long that takes.
    let runtime = Runtime::builder().workers(1).lanes(1).slots(8).wait(Duration::from_secs(60));
    let runtime = runtime.build().unwrap();
    on_tokio(async {
        let publisher = bus(&runtime, server.url(), &topic, options.clone()).await;
        let builder = NatsBus::builder(&runtime, server.url()).topic(&topic, options).buffer(16);
        let small = builder.connect().await.unwrap();
        let open = Arc::new(AtomicBool::new(false));
        let came = Arc::new(Mutex::new(Vec::new()));
        let (gate, noted) = (open.clone(), came.clone());
        let handler = move |record: &Record| {
            wait(|| gate.load(Ordering::SeqCst));
            noted.lock().unwrap().push(record.payload().to_vec());
            Ok(())
        };
        small.subscribe(&topic, Subscription::new("s"), handler).await.unwrap();
        let mut events = small.events();
        for number in 0..ALL {
            publisher.publish(&topic, Record::new("k", number.to_string())).await.unwrap();
        }
        // The loop waits for room in the lane: nothing is lost there, and the flood is over before it goes on.
        wait(|| {
            std::iter::from_fn(|| events.try_next())
                .any(|event| matches!(event, keylane::BusEvent::SlowConsumer { .. }))
        });
        open.store(true, Ordering::SeqCst);
        wait(|| {
            let counts = counts(&small, "s");
            counts.received + counts.dropped_by_client == ALL
        });
        // By now everything has come: one more is the last, and shows what is missing before it.
        publisher.publish(&topic, Record::new("k", "last")).await.unwrap();
        wait(|| came.lock().unwrap().last().is_some_and(|last| last == b"last"));
        wait(|| counts(&small, "s").taken == came.lock().unwrap().len() as u64);
        let counts = counts(&small, "s");
        let lost = ALL + 1 - came.lock().unwrap().len() as u64;
        assert!(lost > 0, "nothing was dropped");
        assert_eq!((counts.dropped_by_client, counts.missing), (lost, lost), "{counts:?}");
        assert_eq!((counts.received, counts.dropped_when_full), (ALL + 1 - lost, 0), "{counts:?}");
    });
    runtime.stop_now();
}

/// A server that is killed and comes again finds all subscriptions again: a topic's, and those of a queue group, which
/// share what comes as before.
#[test]
fn subscriptions_are_back_after_the_server_was_killed() {
    let Some(server) = Server::start(&[]) else { return };
    let topic = name("back");
    let options = TopicOptions::plain().at_most_once();
    let runtime = Runtime::builder().build().unwrap();
    let second = Runtime::builder().build().unwrap();
    on_tokio(async {
        let first_bus = bus(&runtime, server.url(), &topic, options.clone()).await;
        let second_bus = bus(&second, server.url(), &topic, options).await;
        let [alone, shared] = [Came::default(), Came::default()];
        for (bus, name, group, came) in [
            (&first_bus, "alone", "alone", &alone),
            (&first_bus, "a", "g", &shared),
            (&second_bus, "b", "g", &shared),
        ] {
            bus.subscribe(&topic, Subscription::new(name).group(group), noting(came))
                .await
                .unwrap();
        }
        let all = [(&first_bus, "alone"), (&first_bus, "a"), (&second_bus, "b")];
        server.kill(1);
        server.restart(1);
        wait(|| all.iter().all(|(bus, name)| counts(bus, name).gaps_possible == 1));
        let total = |came: &Came| came.lock().unwrap().values().map(Vec::len).sum::<usize>();
        // A subscription is sent before anything else of its connection: who has had one message is back.
        let mut number = 0;
        let begun = Instant::now();
        while !all.iter().all(|(bus, name)| counts(bus, name).taken > 0) {
            assert!(begun.elapsed() < LONG, "not all are back");
            number += 1;
            let record = Record::new("k", number.to_string());
            let _ = first_bus.publish(&topic, record).await;
        }
        // From here on nothing is lost, and a group has each once.
        let last = number + 50;
        for number in number + 1..=last {
            first_bus.publish(&topic, Record::new("k", number.to_string())).await.unwrap();
        }
        let tail = |came: &Came| -> Vec<u64> {
            let came = came.lock().unwrap();
            let mut tail: Vec<_> =
                came.values().flatten().copied().filter(|n| *n > last - 50).collect();
            tail.sort_unstable();
            tail
        };
        let wanted: Vec<u64> = (last - 49..=last).collect();
        wait(|| tail(&alone).len() >= 50 && tail(&shared).len() >= 50);
        assert_eq!((tail(&alone), tail(&shared)), (wanted.clone(), wanted));
        assert!(total(&alone) >= 50);
    });
    runtime.stop_now();
    second.stop_now();
}
