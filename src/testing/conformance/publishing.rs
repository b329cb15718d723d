//! What is published with a confirmed result is handled by everybody, as it was.

use super::fixture::{Failed, Shape};
use super::stage::Stager;
use super::stage::cases;
use super::tools::{Judge, Note, Notes, ensure, equal, refused};
use crate::bus::BusError;
use crate::record::Record;
use crate::runtime::SubscribeError;
use crate::subscription::Start;

cases![
    a_confirmed_publish_reaches_every_subscription,
    publishing_without_a_subscriber_succeeds,
    subscriptions_start_at_the_earliest_or_the_latest,
    a_name_is_subscribed_once,
    content_arrives_as_it_was,
    null_and_empty_are_told_apart,
    large_payloads_and_unicode_arrive,
    publishing_and_subscribing_at_once_lose_nothing,
];

fn a_confirmed_publish_reaches_every_subscription(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open_as(Shape { partitions: 3, ..Shape::new() })?;
    let (topic, other) = (stage.name("topic"), stage.name("other"));
    let judges = ["a", "b", "c"].map(|name| (name, Judge::new(&stage)));
    for (name, judge) in &judges {
        let subscribed = stage.bus.subscribe(&topic, stage.policy(name), judge.sync());
        let subscription = stage.finish("the subscribe", subscribed)??;
        equal("the topic", subscription.topics().collect(), vec![&*topic])?;
        equal("the name", subscription.subscriber().name(), &stage.name(name))?;
    }
    let (elsewhere, notes) = (Judge::new(&stage), Notes::new(&stage));
    stage.finish(
        "the subscribe",
        stage.bus.subscribe(&other, stage.policy("elsewhere"), elsewhere.sync()),
    )??;
    stage.finish(
        "the subscribe",
        stage.bus.subscribe(&topic, stage.policy("notes"), notes.taker()),
    )??;
    let mut positions = Vec::new();
    for number in 1..=10 {
        for key in 0..10 {
            let key = format!("key-{key}");
            judges.iter().for_each(|(_, judge)| judge.oracle.published(&key, number));
            let record = Record::new(&key, number.to_string());
            positions.push(stage.publish(&topic, record)?);
            elsewhere.publish(&stage, &other, &key, number)?;
        }
    }
    for (_, judge) in &judges {
        equal("attempts", judge.verdict(&stage)?.attempts, 100)?;
    }
    equal("attempts elsewhere", elsewhere.verdict(&stage)?.attempts, 100)?;
    stage.until("all notes are taken", || notes.len() == positions.len())?;
    let mut noted: Vec<_> = notes.all().iter().filter_map(|note| note.position).collect();
    noted.sort();
    positions.sort();
    equal("the positions that publishes gave", noted, positions)
}

fn publishing_without_a_subscriber_succeeds(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let first = stage.publish(&topic, Record::new("key", "1"))?;
    let second = stage.publish(&topic, Record::keyless("2"))?;
    equal("the second offset", second.offset, first.offset + 1)
}

fn subscriptions_start_at_the_earliest_or_the_latest(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let publish = |text: &str| stage.publish(&topic, Record::new("key", text));
    publish("1")?;
    publish("2")?;
    let (all, new) = (Notes::new(&stage), Notes::new(&stage));
    let earliest = stage.policy("earliest").start(Start::Earliest);
    stage.finish("the subscribe", stage.bus.subscribe(&topic, earliest, all.taker()))??;
    let latest = stage.policy("latest").start(Start::Latest);
    stage.finish("the subscribe", stage.bus.subscribe(&topic, latest, new.taker()))??;
    publish("3")?;
    stage.until("both have the last", || {
        [&all, &new].iter().all(|notes| notes.texts().last().is_some_and(|last| last == "3"))
    })?;
    equal("from the earliest", all.texts(), ["1", "2", "3"].map(String::from).to_vec())?;
    equal("from the latest", new.texts(), vec!["3".to_owned()])
}

fn a_name_is_subscribed_once(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, other) = (stage.name("topic"), stage.name("other"));
    let notes = Notes::new(&stage);
    let subscribed = stage.bus.subscribe(&topic, stage.policy("name"), notes.taker());
    stage.finish("the subscribe", subscribed)??;
    for topic in [&topic, &other] {
        let again = stage.bus.subscribe(topic, stage.policy("name"), notes.taker());
        let again = refused("the same name", stage.finish("the subscribe", again)?)?;
        let known = matches!(
            &again,
            BusError::Subscribe(SubscribeError::AlreadySubscribed(name)) if *name == stage.name("name")
        );
        ensure(known, &format!("the error says that the name is taken, not {again:?}"))?;
    }
    // The one that is there goes on.
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("it is handled", || notes.len() == 1)
}

fn content_arrives_as_it_was(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), notes.taker());
    stage.finish("the subscribe", subscribed)??;
    let record = Record::new([0, 255, b'k'], [0, 159, 146, 150])
        .with_header("traceparent", "00-1")
        .with_header("Name", "first")
        .with_header("Name", "second")
        .with_header("name", [0, 255])
        .with_timestamp(1_767_225_600_000_000_000);
    let position = stage.publish(&topic, record.copy())?;
    stage.until("it is handled", || notes.len() == 1)?;
    let wanted = Note { position: Some(position), attempt: 1, ..Note::of(&record) };
    equal("the record", notes.all(), vec![wanted])
}

fn null_and_empty_are_told_apart(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), notes.taker());
    stage.finish("the subscribe", subscribed)??;
    let records = [
        Record::null("key").with_null_header("null").with_header("empty", ""),
        Record::new("key", "").with_header("h", "").with_null_header("h"),
        Record::new("key", "").with_null_header("h").with_header("h", ""),
    ];
    let wanted: Vec<_> = records.iter().map(Note::of).collect();
    for record in records {
        stage.publish(&topic, record)?;
    }
    stage.until("all are handled", || notes.len() == wanted.len())?;
    let content = |note: &Note| (note.payload.clone(), note.headers.clone());
    let got: Vec<_> = notes.all().iter().map(content).collect();
    equal("payloads and headers", got, wanted.iter().map(content).collect())
}

fn large_payloads_and_unicode_arrive(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), notes.taker());
    stage.finish("the subscribe", subscribed)??;
    let (key, text) = ("注文-Ärger-🛩", "héllo 世界 🛫 \u{202e}\0\r\n");
    // All byte values, with no period that a buffer might share.
    let large: Vec<u8> = (0..512 * 1_024u32).map(|i| (i % 251) as u8).collect();
    let name = if stager.fixture().takes_any_header_name() { "ключ" } else { "key" };
    stage.publish(&topic, Record::new(key, text).with_header(name, "значение"))?;
    stage.publish(&topic, Record::new(key, &large))?;
    stage.publish(&topic, Record::from_bytes(Some(key.as_bytes()), large.clone().into()))?;
    stage.until("all are handled", || notes.len() == 3)?;
    let all = notes.all();
    ensure(all.iter().all(|note| note.key.as_deref() == Some(key.as_bytes())), "keys are kept")?;
    equal("the text", all[0].text(), text.to_owned())?;
    let header = (Vec::from(name), Some(Vec::from("значение")));
    equal("the header", all[0].headers.clone(), vec![header])?;
    let same = all[1..].iter().all(|note| note.payload.as_ref() == Some(&large));
    ensure(same, "large payloads are kept")
}

fn publishing_and_subscribing_at_once_lose_nothing(stager: &Stager<'_>) -> Result<(), Failed> {
    const PUBLISHERS: u64 = 3;
    const RECORDS: u64 = 60;
    let stage = stager.open_as(Shape { partitions: 2, ..Shape::new() })?;
    let topic = stage.name("topic");
    let judge = Judge::new(&stage);
    let scopes: Vec<_> = (0..4).map(|scope| judge.scope(&scope.to_string())).collect();
    // Known before the first is published, since it may be handled at once.
    for publisher in 0..PUBLISHERS {
        for number in 1..=RECORDS {
            scopes.iter().for_each(|s| s.oracle.published(format!("{publisher}"), number));
        }
    }
    let (bus, topic) = (&stage.bus, &topic);
    let done: Vec<Result<(), String>> = std::thread::scope(|threads| {
        let publishers = (0..PUBLISHERS).map(|publisher| {
            threads.spawn(move || {
                let publish = |number: u64| {
                    let record = Record::new(publisher.to_string(), number.to_string());
                    bus.publish(topic, record).wait().map(|_| ()).map_err(|e| e.to_string())
                };
                (1..=RECORDS).try_for_each(publish)
            })
        });
        let publishers: Vec<_> = publishers.collect();
        let subscribers = scopes.iter().enumerate().map(|(scope, judge)| {
            let policy = stage.policy(&scope.to_string());
            threads.spawn(move || {
                let subscribed = bus.subscribe(topic, policy, judge.sync()).wait();
                subscribed.map(|_| ()).map_err(|error| error.to_string())
            })
        });
        let subscribers: Vec<_> = subscribers.collect();
        let joined = publishers.into_iter().chain(subscribers).map(|thread| {
            thread.join().unwrap_or_else(|_| Err("a publisher or subscriber panicked".to_owned()))
        });
        joined.collect()
    });
    if let Some(Err(error)) = done.into_iter().find(Result::is_err) {
        return Err(Failed::Broken(error));
    }
    equal("attempts", judge.verdict(&stage)?.attempts, 4 * PUBLISHERS * RECORDS)
}
