//! What cannot be done is refused with a typed error, and the record comes back.

use super::fixture::Failed;
use super::stage::Stager;
use super::stage::cases;
use super::tools::{Note, Notes, ensure, equal, refused};
use crate::bus::{BusError, PublishErrorKind};
use crate::envelope::Envelope;
use crate::record::{MAX_KEY, Record};
use crate::runtime::SubscribeError;
use crate::subscription::Subscription;

cases![
    topics_that_cannot_be_are_refused,
    keys_that_cannot_be_are_refused,
    envelopes_that_cannot_be_are_refused,
    subscriptions_that_cannot_be_are_refused,
];

fn topics_that_cannot_be_are_refused(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (long, notes) = ("t".repeat(256), Notes::new(&stage));
    for topic in ["", " ", "a b", "a\nb", "\0", "é", &long] {
        let record = Record::new("key", "payload").with_header("h", "v");
        let sent = Note::of(&record);
        let publishing = stage.bus.publish(topic, record);
        let error = refused(topic, stage.finish("the publish", publishing)?)?;
        let named = matches!(error.kind(), PublishErrorKind::InvalidTopic(_));
        ensure(named && !error.is_retryable(), &format!("{topic:?} is no topic, not {error:?}"))?;
        equal("the record that came back", Note::of(&error.into_record()), sent)?;
        let subscribed = stage.bus.subscribe(topic, stage.policy("s"), notes.taker());
        let error = refused(topic, stage.finish("the subscribe", subscribed)?)?;
        ensure(matches!(error, BusError::InvalidTopic(_)), &format!("no topic, not {error:?}"))?;
        let policy = stage.policy("s").dead_letter(topic);
        let subscribed = stage.bus.subscribe(stage.name("topic"), policy, notes.taker());
        let error = refused(topic, stage.finish("the subscribe", subscribed)?)?;
        ensure(
            matches!(error, BusError::InvalidTopic(_)),
            &format!("no topic for dead letters, not {error:?}"),
        )?;
    }
    // Nothing of what was refused is left behind: the name is free.
    let subscribed = stage.bus.subscribe(stage.name("topic"), stage.policy("s"), notes.taker());
    stage.finish("the subscribe", subscribed)??;
    Ok(())
}

fn keys_that_cannot_be_are_refused(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), notes.taker());
    stage.finish("the subscribe", subscribed)??;
    let longest = "k".repeat(MAX_KEY);
    for key in ["", &format!("{longest}k")] {
        let publishing = stage.bus.publish(&topic, Record::new(key, "payload"));
        let error = refused("the key", stage.finish("the publish", publishing)?)?;
        equal("why", error.kind(), &PublishErrorKind::InvalidKey)?;
        ensure(!error.is_retryable() && !error.outcome_unknown(), "it is refused for good")?;
        equal("the key that came back", error.into_record().key(), Some(key.as_bytes()))?;
    }
    stage.publish(&topic, Record::new(&longest, "1"))?;
    stage.publish(&topic, Record::new("k", "2"))?;
    stage.until("both are handled", || notes.len() == 2)?;
    equal("with the longest key", notes.texts_of(&longest), vec!["1".to_owned()])
}

fn envelopes_that_cannot_be_are_refused(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    for envelope in [
        Envelope::new("", "Placed", 1, "{}"),
        Envelope::new("order 1", "Placed", 1, "{}"),
        Envelope::new("order-1", "Placed", 0, "{}"),
        Envelope::new("order-1", "Placed", 1, "{"),
        Envelope::new("order-1", "Placed", 1, ""),
    ] {
        let publishing = stage.bus.publish_envelope(&topic, &envelope);
        let error = refused("the envelope", stage.finish("the publish", publishing)?)?;
        let named = matches!(error.kind(), PublishErrorKind::Envelope(_));
        ensure(named && !error.is_retryable(), &format!("it cannot be encoded, not {error:?}"))?;
    }
    Ok(())
}

fn subscriptions_that_cannot_be_are_refused(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let long = "n".repeat(256);
    for (policy, wanted) in [
        (Subscription::new(""), SubscribeError::InvalidName),
        (Subscription::new(&*long), SubscribeError::InvalidName),
        (stage.policy("s").park_key(), SubscribeError::NoDeadLetter),
    ] {
        let subscribed = stage.bus.subscribe(&topic, policy, notes.taker());
        let error = refused("the subscription", stage.finish("the subscribe", subscribed)?)?;
        let known = matches!(&error, BusError::Subscribe(error) if *error == wanted);
        ensure(known, &format!("{wanted:?}, not {error:?}"))?;
    }
    Ok(())
}
