//! Envelopes: published under their aggregate's id, decoded for their handlers, refused for good if broken.

use std::time::Duration;

use super::fixture::{Failed, Shape};
use super::stage::Signal;
use super::stage::cases;
use super::stage::{Stage, Stager};
use super::tools::{Note, Notes, Yield, ensure, equal};
use crate::envelope::Envelope;
use crate::handler::Handled;
use crate::record::{Record, RecordRef};
use crate::retry::Retry;
use crate::subscription::Letter;
use crate::sync::{Arc, Mutex};

cases![
    envelopes_reach_sync_async_and_blocking_handlers,
    envelopes_reach_raw_handlers_too,
    broken_envelopes_are_not_tried,
    keyless_envelopes_are_ordered_by_their_aggregate,
];

/// The envelopes that a handler saw.
#[derive(Clone)]
struct Seen(Arc<Mutex<Vec<Envelope<'static>>>>, Signal);

impl Seen {
    fn new(stage: &Stage) -> Self {
        Self(Arc::default(), stage.signal.clone())
    }

    fn take(&self, envelope: &Envelope<'_>) {
        self.0.lock().push(envelope.clone().into_owned());
        self.1.ring();
    }

    fn of(&self, key: &str) -> Vec<Envelope<'static>> {
        self.0.lock().iter().filter(|envelope| envelope.key() == key).cloned().collect()
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

fn event(key: &str, number: u32) -> Envelope<'static> {
    let payload = format!(r#"{{ "number":{number}, "text":"é\u0000<>" }}"#);
    Envelope::new(key.to_owned(), "Placed", i64::from(number), payload)
        .with_trace_id("trace")
        .with_correlation_id("correlation")
        .with_tenant_id(7)
}

fn envelopes_reach_sync_async_and_blocking_handlers(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let seen = [(); 3].map(|()| Seen::new(&stage));
    let [sync, future, blocking] = seen.clone();
    let (bus, policy) = (&stage.bus, |name: &str| stage.policy(name));
    let handler = move |envelope: &Envelope<'_>| {
        sync.take(envelope);
        Ok(())
    };
    stage.finish("the subscribe", bus.subscribe_envelope(&topic, policy("sync"), handler))??;
    let handler = move |envelope: Envelope<'static>| {
        let future = future.clone();
        async move {
            Yield::default().await;
            future.take(&envelope);
            Ok(())
        }
    };
    let subscribed = bus.subscribe_envelope_async(&topic, policy("async"), handler);
    stage.finish("the subscribe", subscribed)??;
    let handler = move |envelope: &Envelope<'_>| {
        blocking.take(envelope);
        Ok(())
    };
    let subscribed = bus.subscribe_envelope_blocking(&topic, policy("blocking"), handler);
    stage.finish("the subscribe", subscribed)??;

    let keys = ["order-1", "order-2", "eu:de/3.a_b"];
    let mut sent = Vec::new();
    for number in 1..=5 {
        for key in keys {
            let event = event(key, number);
            stage.finish("the publish", bus.publish_envelope(&topic, &event))??;
            sent.push(event);
        }
    }
    stage.until("all are handled", || seen.iter().all(|seen| seen.len() == sent.len()))?;
    for (seen, key) in seen.iter().flat_map(|seen| keys.map(|key| (seen, key))) {
        let own: Vec<_> = sent.iter().filter(|event| event.key() == key).cloned().collect();
        equal("the envelopes of a key", seen.of(key), own)?;
    }
    Ok(())
}

fn envelopes_reach_raw_handlers_too(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes, seen) = (stage.name("topic"), Notes::new(&stage), Seen::new(&stage));
    stage.finish(
        "the subscribe",
        stage.bus.subscribe(&topic, stage.policy("raw"), notes.taker()),
    )??;
    let own = seen.clone();
    let subscribed = stage.bus.subscribe_envelope(&topic, stage.policy("typed"), move |envelope| {
        own.take(envelope);
        Ok(())
    });
    stage.finish("the subscribe", subscribed)??;
    let event = event("order-1", 1);
    stage.finish("the publish", stage.bus.publish_envelope(&topic, &event))??;
    // What a raw publisher wrote counts the same.
    stage.publish(&topic, Record::new("order-1", event.to_vec()?))?;
    stage.until("both are handled", || notes.len() == 2 && seen.len() == 2)?;
    let by_id = |note: &Note| note.key.as_deref() == Some(b"order-1");
    let told = notes.all().iter().filter(|note| by_id(note)).count();
    ensure(told == 2 || told == 1 && !stager.fixture().tells_keys_of_envelopes(), "by its id")?;
    equal("the bytes", notes.all()[0].payload.clone(), Some(event.to_vec()?))?;
    equal("the envelopes", seen.of("order-1"), vec![event.clone(), event])
}

fn broken_envelopes_are_not_tried(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, seen) = (stage.name("topic"), Seen::new(&stage));
    let letters = Arc::<Mutex<Vec<(String, String, u32)>>>::default();
    let (own, signal) = (letters.clone(), stage.signal.clone());
    let policy = stage
        .policy("s")
        .retry(Retry::fixed(Duration::from_millis(1)).forever())
        .dead_letter_to(move |letter: &Letter| {
            let key = String::from_utf8_lossy(letter.record.key().unwrap_or_default()).into_owned();
            own.lock().push((key, letter.error.to_string(), letter.attempts));
            signal.ring();
            Ok(())
        });
    let own = seen.clone();
    let handler = move |envelope: &Envelope<'_>| -> Handled {
        own.take(envelope);
        Ok(())
    };
    stage.finish("the subscribe", stage.bus.subscribe_envelope(&topic, policy, handler))??;
    let good = event("order-1", 1);
    let whole = String::from_utf8_lossy(&good.to_vec()?).into_owned();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = whole.replace(r#""payload":"#, &format!(r#""deep":{deep},"payload":"#));
    for record in [
        Record::new("not-json", "{"),
        Record::new("not-utf8", [&b"{\"event_id\":\"\xff\","[..], &whole.as_bytes()[1..]].concat()),
        Record::new("cut-off", &whole[..whole.len() - 1]),
        Record::new("order-1", deep),
        Record::new("no-envelope", r#"{"a":1}"#),
        Record::null("null"),
        Record::new("order-2", good.to_vec()?),
        Record::keyless("no key anywhere"),
        Record::new("order-1", good.to_vec()?),
    ] {
        stage.publish(&topic, record)?;
    }
    stage.until("all have an end", || letters.lock().len() == 8 && seen.len() == 1)?;
    stage.pass(Duration::from_secs(1));
    let letters = letters.lock().clone();
    equal("letters", letters.len(), 8)?;
    ensure(letters.iter().all(|letter| letter.2 == 1), "there was one attempt at each")?;
    let mismatch = letters.iter().find(|letter| letter.0 == "order-2");
    let text = mismatch.map(|letter| letter.1.clone()).unwrap_or_default();
    ensure(text.contains("aggregate_id"), &format!("the key's mismatch is named: {text}"))?;
    equal("handled", seen.of("order-1"), vec![good])
}

fn keyless_envelopes_are_ordered_by_their_aggregate(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, seen) = (stage.name("topic"), Seen::new(&stage));
        let own = seen.clone();
        let handler = move |envelope: Envelope<'static>| {
            let own = own.clone();
            // The first of each is the slowest, so that without a key the others overtake it.
            let yields = 20 / envelope.event_version.max(1);
            async move {
                for _ in 0..yields {
                    Yield::default().await;
                }
                own.take(&envelope);
                Ok(())
            }
        };
        let subscribed = stage.bus.subscribe_envelope_async(&topic, stage.policy("s"), handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let keys = stage.keys(&subscription, 2);
        stage.lay_stone(&subscription, &keys[0])?;
        for number in 1..=20 {
            for key in &keys {
                let bytes = event(key, number).to_vec()?;
                stage.publish(&topic, Record::keyless(bytes))?;
            }
        }
        stage.until("all are handled", || seen.len() == 40)?;
        for key in &keys {
            let versions: Vec<_> = seen.of(key).iter().map(|event| event.event_version).collect();
            equal("the order", versions, (1..=20).collect())?;
        }
        by_header(&stage)
    })
}

/// What is no envelope is ordered by its header; raw handlers see it as it was.
fn by_header(stage: &Stage) -> Result<(), Failed> {
    let (topic, keys) = (stage.name("header"), Arc::<Mutex<Vec<Vec<u8>>>>::default());
    let (own, signal) = (keys.clone(), stage.signal.clone());
    let policy = stage.policy("by-header").dead_letter_to(move |letter: &Letter| {
        own.lock().push(letter.record.key().unwrap_or_default().to_vec());
        signal.ring();
        Ok(())
    });
    let handler = |_: &Envelope<'_>| -> Handled { Ok(()) };
    stage.finish("the subscribe", stage.bus.subscribe_envelope(&topic, policy, handler))??;
    let raw = Notes::new(stage);
    let taken = raw.clone();
    let handler = move |record: RecordRef| {
        taken.take(&record);
        async { Ok(()) }
    };
    stage.finish(
        "the subscribe",
        stage.bus.subscribe_async(&topic, stage.policy("raw"), handler),
    )??;
    let record = Record::keyless("no envelope").with_header("X-Aggregate-ID", " order-9 ");
    stage.publish(&topic, record)?;
    stage.until("both have an end", || keys.lock().len() == 1 && raw.len() == 1)?;
    equal("the key by the header", keys.lock().clone(), vec![b"order-9".to_vec()])?;
    equal("the raw one, too", raw.all()[0].key.clone(), Some(b"order-9".to_vec()))
}
