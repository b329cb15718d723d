//! Keys of records from a broker: where they come from, and what becomes of those that are none.

use super::fixture::{Failed, Shape};
use super::stage::{Stage, Stager, cases};
use super::tools::{Note, Notes, Yield, ensure, equal};
use crate::envelope::Envelope;
use crate::handler::Handled;
use crate::record::{MAX_KEY, Record, RecordRef};
use crate::retry::Retry;
use crate::subscription::{Letter, Subscription};
use crate::sync::{Arc, Mutex};
use std::time::Duration;

cases![
    a_header_is_the_key_where_the_record_has_none,
    another_key_than_the_envelopes_fails_for_good,
    a_key_that_is_too_long_fails_in_its_order,
    a_swapped_handler_is_not_called_for_it_either,
    an_empty_key_is_none,
];

/// Letters, as they came: the record, the error, the attempts.
#[derive(Clone, Default)]
struct Letters(Arc<Mutex<Vec<(Note, String, u32)>>>);

impl Letters {
    /// A policy that would try again for long what may be tried again.
    fn policy(&self, stage: &Stage, name: &str) -> Subscription {
        let (own, signal) = (self.0.clone(), stage.signal.clone());
        let retry = Retry::fixed(Duration::from_secs(1)).attempts(1_000);
        stage.policy(name).retry(retry).dead_letter_to(move |letter: &Letter| {
            let note = Note::of(&letter.record);
            own.lock().push((note, letter.error.to_string(), letter.attempts));
            signal.ring();
            Ok(())
        })
    }

    fn all(&self) -> Vec<(Note, String, u32)> {
        self.0.lock().clone()
    }
}

fn event(key: &str, version: i64) -> Result<Vec<u8>, Failed> {
    Ok(Envelope::new(key, "Placed", version, "{}").to_vec()?)
}

fn a_header_is_the_key_where_the_record_has_none(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, seen) = (stage.name("topic"), Arc::<Mutex<Vec<i64>>>::default());
        let (own, signal) = (seen.clone(), stage.signal.clone());
        let handler = move |envelope: Envelope<'static>| {
            let (own, signal) = (own.clone(), signal.clone());
            // The first is the slowest, so that without a key the others overtake it.
            let yields = 20 / envelope.event_version.max(1);
            async move {
                for _ in 0..yields {
                    Yield::default().await;
                }
                own.lock().push(envelope.event_version);
                signal.ring();
                Ok(())
            }
        };
        let subscribed = stage.bus.subscribe_envelope_async(&topic, stage.policy("s"), handler);
        stage.finish("the subscribe", subscribed)??;
        for version in 1..=20 {
            let record = Record::keyless(event("order-1", version)?);
            stage.publish(&topic, record.with_header("X-Aggregate-ID", "order-1"))?;
        }
        stage.until("all are handled", || seen.lock().len() == 20)?;
        equal("the order", seen.lock().clone(), (1..=20).collect())
    })
}

fn another_key_than_the_envelopes_fails_for_good(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, letters) = (stage.name("topic"), Letters::default());
    let handled = Arc::<Mutex<usize>>::default();
    let (own, signal) = (handled.clone(), stage.signal.clone());
    let handler = move |_: &Envelope<'_>| -> Handled {
        *own.lock() += 1;
        signal.ring();
        Ok(())
    };
    let policy = letters.policy(&stage, "s");
    stage.finish("the subscribe", stage.bus.subscribe_envelope(&topic, policy, handler))??;
    let by_header = Record::keyless(event("order-1", 1)?).with_header("X-Aggregate-ID", "order-2");
    stage.publish(&topic, Record::new("order-2", event("order-1", 1)?))?;
    stage.publish(&topic, by_header)?;
    stage.publish(&topic, Record::new("order-2", "no envelope"))?;
    stage.publish(&topic, Record::new("order-2", event("order-2", 1)?))?;
    stage.until("all have an end", || letters.all().len() == 3 && *handled.lock() == 1)?;
    let letters = letters.all();
    ensure(letters.iter().all(|letter| letter.2 == 1), "there was one attempt at each")?;
    ensure(letters.iter().all(|letter| letter.0.key.as_deref() == Some(b"order-2")), "their key")?;
    let mismatches = letters.iter().filter(|letter| letter.1.contains("aggregate_id"));
    equal("mismatches that are named", mismatches.count(), 2)
}

fn a_key_that_is_too_long_fails_in_its_order(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, handled) = (stage.name("topic"), Notes::new(&stage));
        let (letters, taken) = (Letters::default(), handled.clone());
        let handler = move |record: RecordRef| {
            taken.take(&record);
            async { Ok(()) }
        };
        let policy = letters.policy(&stage, "s");
        let subscribed = stage.bus.subscribe_async(&topic, policy, handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let long = "k".repeat(MAX_KEY + 1);
        for number in 0..10 {
            stage.publish_foreign(&topic, Record::new(&long, number.to_string()))?;
            stage.publish(&topic, Record::new("key", number.to_string()))?;
        }
        stage.until("all have an end", || letters.all().len() == 10 && handled.len() == 10)?;
        ensure(handled.all().iter().all(|note| note.key.as_deref() == Some(b"key")), "no call")?;
        for (number, (note, error, attempts)) in letters.all().into_iter().enumerate() {
            equal("the order", note.text(), number.to_string())?;
            equal("its key", note.key.as_deref(), Some(long.as_bytes()))?;
            equal("attempts", attempts, 1)?;
            ensure(error.contains("4097 bytes"), &format!("the error says why: {error}"))?;
        }
        stage.until_committed(&subscription).or_else(unsupported)
    })
}

fn a_swapped_handler_is_not_called_for_it_either(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, handled, letters) = (stage.name("topic"), Notes::new(&stage), Letters::default());
    let policy = letters.policy(&stage, "s");
    let subscribed = stage.bus.subscribe(&topic, policy, |_: &Record| Ok(()));
    let subscription = stage.finish("the subscribe", subscribed)??;
    let sync = crate::handler::Handler::sync(handled.taker());
    let swap = subscription.subscriber().swap(sync);
    stage.finish("the swap", swap)??;
    stage.publish_foreign(&topic, Record::new("k".repeat(2 * MAX_KEY), "long"))?;
    let taken = handled.clone();
    let blocking = crate::handler::Handler::blocking(move |record: RecordRef| {
        taken.take(&record);
        Ok(())
    });
    stage.until("it has an end", || letters.all().len() == 1)?;
    stage.finish("the swap", subscription.swap(blocking))??;
    stage.publish_foreign(&topic, Record::new("k".repeat(2 * MAX_KEY), "long"))?;
    stage.publish(&topic, Record::new("key", "short"))?;
    stage.until("all have an end", || letters.all().len() == 2 && handled.len() == 1)?;
    equal("what was handled", handled.texts(), vec!["short".to_owned()])
}

fn an_empty_key_is_none(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, raw) = (stage.name("topic"), Notes::new(&stage));
    let subscribed = stage.bus.subscribe(&topic, stage.policy("raw"), raw.taker());
    stage.finish("the subscribe", subscribed)??;
    let seen = Arc::<Mutex<usize>>::default();
    let (own, signal) = (seen.clone(), stage.signal.clone());
    let handler = move |_: &Envelope<'_>| -> Handled {
        *own.lock() += 1;
        signal.ring();
        Ok(())
    };
    let policy = stage.policy("envelopes");
    stage.finish("the subscribe", stage.bus.subscribe_envelope(&topic, policy, handler))??;
    stage.publish_foreign(&topic, Record::new("", event("order-1", 1)?))?;
    stage.until("both have it", || raw.len() == 1 && *seen.lock() == 1)?;
    ensure(raw.all()[0].key.as_ref().is_none_or(Vec::is_empty), "it is keyless")
}

/// A check that the fixture cannot make is left out.
fn unsupported(failed: Failed) -> Result<(), Failed> {
    match failed {
        Failed::Unsupported(_) => Ok(()),
        broken => Err(broken),
    }
}
