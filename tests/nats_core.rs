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

fn wait(until: impl Fn() -> bool) {
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
            wait(|| counts(&first, "c").taken == 300);
            let (a, b, c) = (counts(&first, "a"), counts(&second, "b"), counts(&first, "c"));
            assert_eq!(a.taken + b.taken, 300);
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
