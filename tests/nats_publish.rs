//! Publishing to a real server: subjects, headers, outcomes, and the order of keys under faults, judged by reading the
//! stream back.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/frame.rs"]
mod frame;
#[path = "support/proxy.rs"]
mod proxy;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, StorageType};
use broker::Server;
use frame::Way;
use keylane::nats::{NatsBuilder, Strategy, TopicOptions};
use keylane::{
    Envelope, HandlerError, NatsBus, PublishError, PublishErrorKind, Record, Runtime, Subscription,
};
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

struct Fixture {
    runtime: Runtime,
    bus: NatsBus,
    context: jetstream::Context,
    url: String,
}

/// A bus, and a connection beside it to look with.
async fn fixture(
    server: &Server,
    url: &str,
    topic: &str,
    options: TopicOptions,
    set: impl FnOnce(NatsBuilder) -> NatsBuilder,
) -> Fixture {
    let runtime = Runtime::builder().workers(1).build().unwrap();
    let builder = NatsBus::builder(&runtime, url).topic(topic, options);
    let bus = set(builder).connect().await.unwrap();
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    Fixture { runtime, bus, context, url: server.url().to_owned() }
}

impl Fixture {
    async fn stream(&self, name: &str, subjects: &[String], change: impl FnOnce(&mut Config)) {
        let mut config = Config {
            name: name.to_owned(),
            subjects: subjects.to_vec(),
            storage: StorageType::File,
            ..Config::default()
        };
        change(&mut config);
        self.context.create_stream(config).await.unwrap();
    }

    async fn messages(&self, stream: &str) -> Vec<jetstream::message::StreamMessage> {
        // A connection of its own: that of the context may not have been driven while the server was killed.
        let context = jetstream::new(async_nats::connect(&self.url).await.unwrap());
        let mut stream = context.get_stream(stream).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut all = Vec::new();
        for sequence in 1..=last {
            all.push(stream.get_raw_message(sequence).await.unwrap());
        }
        all
    }
}

fn plain(builder: NatsBuilder) -> NatsBuilder {
    builder
}

#[test]
fn each_form_has_its_subjects_and_says_the_key_once() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        for (form, options) in [
            ("plain", TopicOptions::plain()),
            ("parts", TopicOptions::partitioned(8)),
            ("keyed", TopicOptions::keyed(8)),
        ] {
            let topic = name(form);
            let stream = format!("S{topic}");
            let options = options.stream(&stream);
            let fix = fixture(server, server.url(), &topic, options, plain).await;
            let subjects = match form {
                "plain" => vec![topic.clone()],
                _ => vec![format!("{topic}.>")],
            };
            fix.stream(&stream, &subjects, |_| ()).await;
            let record = Record::new("order 42", "paid")
                .with_header("h", "a")
                .with_header("h", "")
                .with_null_header("n");
            let first = fix.bus.publish(&topic, record).await.unwrap();
            let event = Envelope::new("order-7", "Paid", 1, "{}").with_event_id("event-1");
            let second = fix.bus.publish_envelope(&topic, &event).await.unwrap();
            let again = fix.bus.publish_envelope(&topic, &event).await.unwrap();
            assert_eq!(
                (first.offset, second.offset, again.offset),
                (1, 2, 2),
                "an event is stored once"
            );
            fix.bus.publish(&topic, Record::keyless("tick")).await.unwrap();
            let stored = fix.messages(&stream).await;
            let headers: Vec<_> = stored
                .iter()
                .map(|message| {
                    let text =
                        |name: &str| message.headers.get(name).map(|v| v.as_str().to_owned());
                    (text("kl-key"), text("X-Aggregate-ID"), text("Nats-Msg-Id"))
                })
                .collect();
            let key = (form != "keyed").then(|| "order%2042".to_owned());
            assert_eq!(
                headers,
                [(key, None, None), (None, None, Some("event-1".into())), (None, None, None)]
            );
            // The reader here keeps the last value of a name only.
            assert_eq!(stored[0].headers.get("h").map(|v| v.as_str()), Some(""));
            assert_eq!(stored[0].headers.get("kl-null").map(|v| v.as_str()), Some("n#0"));
            match form {
                "plain" => assert!(stored.iter().all(|message| *message.subject == *topic)),
                "parts" => assert_eq!(&*stored[0].subject, format!("{topic}.{}", first.partition)),
                _ => assert_eq!(
                    &*stored[0].subject,
                    format!("{topic}.{}.order=2042", first.partition)
                ),
            }
            fix.runtime.stop_now();
        }
    });
}

#[test]
fn what_is_expected_must_be_the_last() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let topic = name("occ");
        let options = TopicOptions::keyed(4).stream(&topic);
        let fix = fixture(server, server.url(), &topic, options, plain).await;
        fix.stream(&topic, &[format!("{topic}.*.*")], |_| ()).await;
        let publish = |last| fix.bus.publish_expecting(&topic, Record::new("a", "x"), last);
        let first = publish(0).await.unwrap();
        fix.bus.publish(&topic, Record::new("b", "y")).await.unwrap();
        let second = publish(first.offset).await.unwrap();
        let refused = publish(first.offset).await.unwrap_err();
        let last = Some(second.offset);
        assert_eq!(*refused.kind(), PublishErrorKind::WrongLastSequence { last });
        assert!(!refused.is_retryable() && refused.into_record().payload() == b"x");
        // Needs a key, and subjects that hold it.
        for (topic, record) in
            [(&topic, Record::keyless("x")), (&name("plain"), Record::new("a", "x"))]
        {
            let refused = fix.bus.publish_expecting(topic, record, 0).await.unwrap_err();
            assert!(matches!(refused.kind(), PublishErrorKind::Unsupported(_)), "{refused}");
        }
        fix.runtime.stop_now();
    });
}

#[test]
fn refusals_are_named_within_five_seconds() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let topic = name("small");
        let options = TopicOptions::keyed(2).stream(&topic);
        let fix =
            fixture(server, server.url(), &topic, options, |b| b.topology(Strategy::Skip)).await;
        let begun = Instant::now();
        let missing = fix.bus.publish(&topic, Record::new("a", "x")).await.unwrap_err();
        assert!(matches!(missing.kind(), PublishErrorKind::MissingTopic(_)), "{missing}");
        assert!(!missing.is_retryable() && begun.elapsed() < Duration::from_secs(5));
        fix.stream(&topic, &[format!("{topic}.>")], |config| {
            config.max_message_size = 1_000;
            config.max_messages = 2;
            config.discard = jetstream::stream::DiscardPolicy::New;
        })
        .await;
        let kind = |result: Result<_, PublishError>| result.unwrap_err().kind().clone();
        let publish = |record| fix.bus.publish(&topic, record);
        assert_eq!(
            kind(publish(Record::new("a", vec![0; 2_000])).await),
            PublishErrorKind::TooLarge { most: None }
        );
        let huge = kind(publish(Record::new("a", vec![0; 2 << 20])).await);
        assert_eq!(huge, PublishErrorKind::TooLarge { most: Some(1 << 20) });
        let long = kind(publish(Record::new([0; 2_000], "x")).await);
        assert!(matches!(long, PublishErrorKind::SubjectTooLong { bytes: 6_000.., .. }));
        let header = kind(publish(Record::new("a", "x").with_header("kl-null", "")).await);
        assert!(matches!(header, PublishErrorKind::InvalidHeader(_)));
        assert_eq!(kind(publish(Record::new("", "x")).await), PublishErrorKind::InvalidKey);
        let pattern = kind(fix.bus.publish("a.*", Record::new("a", "x")).await);
        assert!(matches!(pattern, PublishErrorKind::InvalidTopic(_)));
        publish(Record::new("a", "1")).await.unwrap();
        publish(Record::new("a", "2")).await.unwrap();
        assert_eq!(kind(publish(Record::new("a", "3")).await), PublishErrorKind::Full);
        let counts = fix.runtime.snapshot().publishes;
        assert_eq!((counts.confirmed, counts.full, counts.failed), (2, 1, 7));
        fix.runtime.stop_now();
    });
}

#[test]
fn a_batch_has_a_result_for_each_record_and_an_atomic_one_is_whole() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let topic = name("batch");
        let options = TopicOptions::keyed(4).stream(&topic);
        let fix = fixture(server, server.url(), &topic, options, |b| {
            b.publish_window(100).publish_queue(10)
        })
        .await;
        fix.stream(&topic, &[format!("{topic}.*.*")], |config| {
            config.allow_atomic_publish = server.version() >= (2, 12, 0)
        })
        .await;
        let record = |n: usize| Record::new(format!("k{}", n % 7), n.to_string());
        let mut records: Vec<_> = (0..1_000).map(record).collect();
        records[500] = Record::new("", "no key");
        let results = fix.bus.publish_batch(&topic, records).await;
        let failed: Vec<_> = (0..1_000).filter(|&n| results[n].is_err()).collect();
        assert_eq!(failed, [500]);
        in_order(&fix.messages(&topic).await);

        let records = || (0..10).map(record).collect::<Vec<_>>();
        let atomic = fix.bus.publish_atomic(&topic, records(), None).await;
        if server.version() < (2, 12, 0) {
            assert!(matches!(atomic.unwrap_err().kind(), PublishErrorKind::Unsupported(_)));
            return;
        }
        let positions = atomic.unwrap();
        let sequences: Vec<_> = positions.iter().map(|position| position.offset).collect();
        assert_eq!(sequences, (1_000..1_010).collect::<Vec<_>>());
        let refused = fix.bus.publish_atomic(&topic, records(), Some(3)).await.unwrap_err();
        assert!(matches!(refused.kind(), PublishErrorKind::WrongLastSequence { .. }), "{refused}");
        assert_eq!(refused.into_records().len(), 10);
        assert_eq!(fix.messages(&topic).await.len(), 1_009, "all or nothing");
        let other = name("plainbatch");
        fix.stream(&other, std::slice::from_ref(&other), |_| ()).await;
        let refused = fix.bus.publish_atomic(&other, records(), None).await.unwrap_err();
        assert!(matches!(refused.kind(), PublishErrorKind::Unsupported(_)), "{refused}");
        let one = fix.bus.publish_atomic(&topic, vec![record(0)], None).await.unwrap();
        assert_eq!(one[0].offset, 1_010);
        fix.runtime.stop_now();
    });
}

/// A record as it was published and as it came: key, payload unless it is null, headers by name.
type Seen = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn seen(record: &Record) -> Seen {
    let own = |bytes: &[u8]| bytes.to_vec();
    let headers = record.headers().filter(|header| header.name != b"X-Aggregate-ID");
    let mut headers: Vec<_> = headers.map(|h| (h.name.to_vec(), h.value.map(own))).collect();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    (record.key().map(own), (!record.is_null()).then(|| own(record.payload())), headers)
}

#[test]
fn records_come_as_they_were_published() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        for options in [TopicOptions::plain(), TopicOptions::partitioned(3), TopicOptions::keyed(3)]
        {
            let topic = name("verbatim");
            let fix = fixture(server, server.url(), &topic, options, plain).await;
            let (sender, came) = std::sync::mpsc::channel();
            let policy = Subscription::new(name("group"));
            let handler =
                move |record: &Record| sender.send(seen(record)).map_err(HandlerError::fatal);
            fix.bus.subscribe(&topic, policy, handler).await.unwrap();
            for record in [
                Record::new("order-42", "paid")
                    .with_header("traceparent", "00-x")
                    .with_header("h", "1")
                    .with_header("h", "2"),
                Record::new("a b.c*>", "")
                    .with_header("odd", [0xff, 10, 13])
                    .with_header("odd", " x "),
                Record::null([0u8, 255]).with_null_header("n").with_header("n", ""),
                Record::keyless(vec![7; 100_000]),
            ] {
                let published = seen(&record);
                fix.bus.publish(&topic, record).await.unwrap();
                assert_eq!(came.recv_timeout(LONG).unwrap(), published);
            }
            fix.runtime.stop_now();
        }
    });
}

#[test]
fn a_dead_letter_is_the_record_and_how_it_failed() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let (topic, dead) = (name("work"), name("dead"));
        let fix = fixture(server, server.url(), &topic, TopicOptions::plain(), plain).await;
        fix.stream(&format!("STREAM_{dead}"), std::slice::from_ref(&dead), |_| ()).await;
        let policy = Subscription::new("billing").dead_letter(dead.as_str());
        let sub =
            fix.bus.subscribe(&topic, policy, |_: &Record| Err("no\nmoney".into())).await.unwrap();
        let record = Record::new("order-42", "paid")
            .with_header("traceparent", "00-x")
            .with_header("Nats-Msg-Id", "1");
        fix.bus.publish(&topic, record).await.unwrap();
        let (sender, came) = std::sync::mpsc::channel();
        let handler =
            move |record: &Record| sender.send(record.copy()).map_err(HandlerError::fatal);
        fix.bus.subscribe(&dead, Subscription::new("undertaker"), handler).await.unwrap();
        let letter = came.recv_timeout(LONG).unwrap();
        assert_eq!((letter.key(), letter.payload()), (Some(&b"order-42"[..]), &b"paid"[..]));
        for (name, value) in [
            ("traceparent", "00-x"),
            ("kl-original-Nats-Msg-Id", "1"),
            ("X-Original-Topic", &*topic),
            ("X-Original-Partition", "0"),
            ("X-Original-Offset", "1"),
            ("X-Subscription", "billing"),
            ("X-Error-Message", "no\\nmoney"),
            ("X-Attempts", "1"),
        ] {
            let found = letter.header(name).map(|v| String::from_utf8_lossy(v).into_owned());
            assert_eq!(found.as_deref(), Some(value), "{name}");
        }
        assert!(letter.header("Nats-Msg-Id").is_some_and(|id| id.starts_with(b"kl-letter:")));
        assert!(sub.stopped_by().is_none());
        fix.runtime.stop_now();
    });
}

#[test]
fn a_letter_that_is_refused_for_good_stops_and_names_its_record() {
    let Some(server) = Server::shared() else { return };
    on_tokio(async {
        let (topic, dead) = (name("refused"), name("nowhere"));
        let fix = fixture(server, server.url(), &topic, TopicOptions::plain(), |b| {
            b.topology(Strategy::ValidateOnly)
        })
        .await;
        fix.stream(&format!("STREAM_{topic}"), std::slice::from_ref(&topic), |_| ()).await;
        let small = format!("STREAM_{dead}");
        fix.stream(&small, std::slice::from_ref(&dead), |config| config.max_message_size = 100)
            .await;
        let subscribe = || {
            let policy = Subscription::new("billing").dead_letter(dead.as_str());
            fix.bus.subscribe(&topic, policy, |_: &Record| Err("bad".into()))
        };
        let refused = subscribe().await.unwrap_err();
        assert!(refused.to_string().contains("max_msg_size"), "{refused}");
        fix.context.delete_stream(&small).await.unwrap();
        fix.stream(&small, std::slice::from_ref(&dead), |_| ()).await;
        subscribe().await.unwrap();
        fix.context.delete_stream(&small).await.unwrap();
        fix.bus.publish(&topic, Record::new("order-42", "paid")).await.unwrap();
        let stopped =
            || fix.runtime.snapshot().sources.iter().find_map(|source| source.stopped_by.clone());
        wait(|| stopped().is_some());
        let error = stopped().unwrap().error;
        assert!(error.contains(&dead), "{error}");
        fix.runtime.stop_now();
    });
}

/// Of each key (the last token of the subject) the numbers in the payloads ascend, each there once.
fn in_order(messages: &[jetstream::message::StreamMessage]) {
    let mut last: HashMap<String, u64> = HashMap::new();
    for message in messages {
        let number = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let before = last.insert(message.subject.to_string(), number);
        assert!(
            before.is_none_or(|before| before < number),
            "{} after {before:?} of {}",
            number,
            message.subject
        );
    }
}

/// What became of every record: (key, number) → known to be stored, or not known.
#[derive(Default)]
struct Told {
    stored: HashSet<(usize, u64)>,
    unknown: HashSet<(usize, u64)>,
    full: usize,
}

/// Each key's records, several under way at once, until `until` says so.
async fn publish_keys(bus: &NatsBus, topic: &str, keys: usize, until: impl Fn() -> bool) -> Told {
    let mut told = Told::default();
    let mut number = 0;
    while !until() {
        let mut under_way = Vec::new();
        for _ in 0..4 {
            number += 1;
            for key in 0..keys {
                let record = Record::new(format!("key{key}"), number.to_string());
                under_way.push(((key, number), bus.publish(topic, record)));
            }
        }
        for (which, publishing) in under_way {
            match publishing.await {
                Ok(_) => drop(told.stored.insert(which)),
                Err(error) if error.outcome_unknown() => drop(told.unknown.insert(which)),
                Err(error) => {
                    assert_eq!(*error.kind(), PublishErrorKind::Full, "{error}");
                    told.full += 1;
                }
            }
        }
    }
    told
}

/// Nothing confirmed is lost, order is kept, and nothing is there that nobody heard of.
async fn judge(fix: &Fixture, stream: &str, told: &Told) {
    let messages = fix.messages(stream).await;
    in_order(&messages);
    let found: HashSet<(usize, u64)> = messages
        .iter()
        .map(|message| {
            let key = message.subject.rsplit("key").next().unwrap().parse().unwrap();
            (key, std::str::from_utf8(&message.payload).unwrap().parse().unwrap())
        })
        .collect();
    assert_eq!(found.len(), messages.len(), "one is there twice");
    let lost: Vec<_> = told.stored.difference(&found).collect();
    assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
    let foreign =
        found.iter().filter(|which| !told.stored.contains(which) && !told.unknown.contains(which));
    assert_eq!(foreign.count(), 0, "stored, though it was said that it is not");
}

#[test]
fn a_killed_server_loses_nothing_confirmed_and_keeps_the_order() {
    let Some(server) = Server::start(&["--nodes", "1"]) else { return };
    on_tokio(async {
        let topic = name("killed");
        let options = TopicOptions::keyed(4).stream(&topic).assign_ids();
        let fix = fixture(&server, server.url(), &topic, options, |b| b.publish_window(200)).await;
        fix.stream(&topic, &[format!("{topic}.*.*")], |_| ()).await;
        let confirmed = || fix.runtime.snapshot().publishes.confirmed;
        let (told, faults) = std::thread::scope(|scope| {
            let faults = scope.spawn(|| {
                for at in [2_000, 6_000] {
                    wait(|| confirmed() >= at);
                    server.kill(1);
                    server.restart(1);
                }
                2
            });
            let until = || faults.is_finished() && confirmed() > 8_000;
            let told = on_a_thread(|| on_tokio(publish_keys(&fix.bus, &topic, 60, until)));
            (told, faults.join().unwrap())
        });
        assert_eq!(faults, 2);
        eprintln!(
            "stored {}, unknown {}, full {}",
            told.stored.len(),
            told.unknown.len(),
            told.full
        );
        assert!(told.unknown.is_empty(), "with ids it is sent again until it is known");
        judge(&fix, &topic, &told).await;
        fix.runtime.stop_now();
    });
}

fn on_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn wait(until: impl Fn() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}");
        std::thread::yield_now();
    }
}

/// The answer of a stream to a publish.
fn is_answer(frame: &frame::Frame) -> bool {
    frame.way == Way::ToClient && frame.payload().starts_with(b"{\"stream\":")
}

#[test]
fn lost_answers_are_asked_for_again_with_an_id_and_are_unknown_without() {
    let Some(server) = Server::shared() else { return };
    for ids in [true, false] {
        let proxy = Proxy::to(server.address(1));
        on_tokio(async {
            let topic = name("answers");
            let mut options = TopicOptions::keyed(2).stream(&topic);
            if ids {
                options = options.assign_ids();
            }
            let publishing = |b: NatsBuilder| b.publish_timeout(Duration::from_millis(200));
            let fix = fixture(server, &proxy.url(), &topic, options, publishing).await;
            fix.stream(&topic, &[format!("{topic}.*.*")], |_| ()).await;
            let injected = proxy.inject(30, Act::Drop, is_answer);
            let confirmed = || fix.runtime.snapshot().publishes.confirmed >= 500;
            let told = publish_keys(&fix.bus, &topic, 20, confirmed).await;
            assert_eq!(injected.count(), 30);
            assert_eq!(told.unknown.len(), if ids { 0 } else { 30 });
            judge(&fix, &topic, &told).await;
            fix.runtime.stop_now();
        });
    }
}

#[test]
fn cut_connections_keep_the_order_with_and_without_ids() {
    let Some(server) = Server::shared() else { return };
    for ids in [true, false] {
        let proxy = Proxy::to(server.address(1));
        on_tokio(async {
            let topic = name("cut");
            let mut options = TopicOptions::keyed(2).stream(&topic);
            if ids {
                options = options.assign_ids();
            }
            let publishing = |b: NatsBuilder| b.publish_timeout(Duration::from_secs(1));
            let fix = fixture(server, &proxy.url(), &topic, options, publishing).await;
            fix.stream(&topic, &[format!("{topic}.*.*")], |_| ()).await;
            let confirmed = || fix.runtime.snapshot().publishes.confirmed;
            let injected: Vec<_> = (1..=3)
                .map(|nth: usize| {
                    let seen = AtomicU64::new(0);
                    let at = 400 * nth as u64;
                    // The answers up to here are dropped with the connection that they were on.
                    proxy.inject(1, Act::CutInside(10), move |frame| {
                        is_answer(frame) && seen.fetch_add(1, Ordering::Relaxed) > at
                    })
                })
                .collect();
            let told = publish_keys(&fix.bus, &topic, 50, || confirmed() >= 3_000).await;
            assert!(injected.iter().all(|injected| injected.count() == 1));
            eprintln!(
                "ids {ids}: stored {}, unknown {}, full {}",
                told.stored.len(),
                told.unknown.len(),
                told.full
            );
            assert!(!ids || told.unknown.is_empty());
            judge(&fix, &topic, &told).await;
            fix.runtime.stop_now();
        });
    }
}

#[test]
fn an_own_first_write_is_no_conflict() {
    let Some(server) = Server::shared() else { return };
    let proxy = Proxy::to(server.address(1));
    on_tokio(async {
        let topic = name("ownfirst");
        let options = TopicOptions::keyed(2).stream(&topic);
        let publishing = |b: NatsBuilder| b.publish_timeout(Duration::from_millis(300));
        let fix = fixture(server, &proxy.url(), &topic, options, publishing).await;
        // So short that the server may have forgotten what it had: then it is read back.
        fix.stream(&topic, &[format!("{topic}.*.*")], |config| {
            config.duplicate_window = Duration::from_millis(100);
        })
        .await;
        let lost = proxy.inject(1, Act::Drop, is_answer);
        let stored = fix.bus.publish_expecting(&topic, Record::new("a", "1"), 0).await.unwrap();
        assert_eq!((stored.offset, lost.count()), (1, 1));
        // Another's first write is one.
        let lost = proxy
            .inject(1, Act::Drop, |frame| frame.way == Way::ToServer && frame.verb() == "HPUB");
        let publishing = fix.bus.publish_expecting(&topic, Record::new("b", "ours"), 0);
        let other =
            fix.context.publish(format!("{topic}.1.x"), "".into()).await.unwrap().await.unwrap();
        assert_eq!(other.sequence, 2);
        let stored = publishing.await.unwrap();
        assert_eq!((stored.offset, lost.count()), (3, 1));
        assert_eq!(fix.messages(&topic).await.len(), 3);
        fix.runtime.stop_now();
    });
}

#[test]
fn a_full_window_gives_records_back_and_a_close_the_rest() {
    let Some(server) = Server::shared() else { return };
    let proxy = Proxy::to(server.address(1));
    on_tokio(async {
        let topic = name("full");
        let options = TopicOptions::keyed(2).stream(&topic);
        let publishing = |b: NatsBuilder| b.publish_window(10).publish_queue(10);
        let fix = fixture(server, &proxy.url(), &topic, options, publishing).await;
        fix.stream(&topic, &[format!("{topic}.*.*")], |_| ()).await;
        fix.bus.publish(&topic, Record::new("first", "0")).await.unwrap();
        proxy.black_hole(Way::ToClient);
        let publish =
            |n: usize| fix.bus.publish(&topic, Record::new(format!("k{n}"), n.to_string()));
        let mut all: Vec<_> = (0..20).map(publish).collect();
        let begun = Instant::now();
        let beyond = publish(20).await.unwrap_err();
        assert_eq!(*beyond.kind(), PublishErrorKind::Full);
        assert!(begun.elapsed() < Duration::from_millis(400), "the queue was full too");
        for (n, waited) in all.drain(10..).enumerate() {
            let given_back = waited.await.unwrap_err();
            assert_eq!(*given_back.kind(), PublishErrorKind::Full);
            assert_eq!(given_back.into_record().payload(), (n + 10).to_string().as_bytes());
        }
        assert!(begun.elapsed() >= Duration::from_millis(450), "they waited for room");
        let report = fix.bus.close(Duration::from_millis(100)).await.unwrap();
        assert!(!report.drained);
        for sent in all {
            assert!(sent.await.unwrap_err().outcome_unknown());
        }
        assert_eq!(*publish(0).await.unwrap_err().kind(), PublishErrorKind::Closed);
        let counts = fix.runtime.snapshot().publishes;
        assert_eq!((counts.confirmed, counts.full, counts.unknown, counts.failed), (1, 11, 10, 1));
        fix.runtime.stop_now();
    });
}

#[test]
fn dropping_the_bus_ends_what_is_under_way() {
    let Some(server) = Server::shared() else { return };
    let proxy = Proxy::to(server.address(1));
    on_tokio(async {
        let topic = name("dropped");
        let fix = fixture(server, &proxy.url(), &topic, TopicOptions::plain(), plain).await;
        fix.bus.publish(&topic, Record::new("a", "0")).await.unwrap();
        proxy.black_hole(Way::ToClient);
        let publishing = fix.bus.publish(&topic, Record::new("a", "1"));
        drop(fix.bus);
        let error = tokio::time::timeout(LONG, publishing).await.unwrap().unwrap_err();
        assert_eq!(error.into_record().payload(), b"1");
        fix.runtime.stop_now();
    });
}
