//! What is seen of a bus: its sources' numbers, its health, its events; and what holds its reading back.

use std::time::Duration;

use super::fixture::{Failed, Shape};
use super::stage::{Stage, Stager, cases};
use super::tools::{Gate, Notes, ensure, equal};
use crate::bound::Bound;
use crate::bus::{BusEvent, BusSubscription, Health, ReasonKind};
use crate::error::HandlerError;
use crate::handler::Handled;
use crate::notice::Notice;
use crate::record::{Record, RecordRef};
use crate::source_snapshot::SourceSnapshot;
use crate::subscription::{Letter, Subscription};

cases![
    bytes_under_way_are_bounded,
    a_paused_subscription_reads_nothing,
    lag_and_ages_are_seen,
    a_stopped_source_is_said,
    letters_that_are_not_taken_are_said_and_hold_the_frontier,
    a_letter_refused_for_good_stops_the_source_and_names_the_record,
];

/// Subscribes an async handler that takes notes and waits at a gate.
fn gated(
    stage: &Stage,
    topic: &str,
    policy: Subscription,
) -> Result<(BusSubscription, Notes, Gate), Failed> {
    let (notes, gate) = (Notes::new(stage), Gate::default());
    let (taken, shut) = (notes.clone(), gate.clone());
    let handler = move |record: RecordRef| {
        taken.take(&record);
        let pass = shut.pass();
        async move {
            pass.await;
            Ok(())
        }
    };
    let subscribed = stage.bus.subscribe_async(topic, policy, handler);
    Ok((stage.finish("the subscribe", subscribed)??, notes, gate))
}

/// The one source of a subscription.
fn source(stage: &Stage, of: &BusSubscription) -> Option<SourceSnapshot> {
    let name = of.subscriber().name();
    stage.runtime.snapshot().sources.into_iter().find(|source| source.subscription == name)
}

fn bytes_under_way_are_bounded(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let policy = stage.policy("s").source_bytes(4_096);
    let (subscription, notes, gate) = gated(&stage, &topic, policy)?;
    let payload = "x".repeat(1_000);
    for number in 0..20 {
        stage.publish(&topic, Record::new(format!("key-{number}"), &payload))?;
    }
    stage.until("its bytes are used up", || {
        stage.runtime.snapshot().bounds.iter().any(|used| used.bound == Bound::SourceBytes)
    })?;
    stage.pass(Duration::from_secs(1));
    ensure((1..=4).contains(&notes.len()), &format!("{} are under way", notes.len()))?;
    let seen = source(&stage, &subscription).ok_or(Failed::Broken("no source is seen".into()))?;
    equal("the bound", seen.bytes_limit, 4_096)?;
    ensure((1_000..=4_096).contains(&seen.bytes), &format!("{} bytes are held", seen.bytes))?;
    gate.open();
    stage.until("all are handled", || notes.len() == 20)?;
    // One that is larger than all that may be is taken alone.
    stage.publish(&topic, Record::new("large", "x".repeat(10_000)))?;
    stage.publish(&topic, Record::new("small", "x"))?;
    stage.until("both are handled", || notes.len() == 22)?;
    stage.until("nothing is held", || source(&stage, &subscription).is_some_and(|s| s.bytes == 0))
}

fn a_paused_subscription_reads_nothing(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), notes.taker());
    let subscription = stage.finish("the subscribe", subscribed)??;
    let others = Notes::new(&stage);
    let subscribed = stage.bus.subscribe(&topic, stage.policy("other"), others.taker());
    stage.finish("the subscribe", subscribed)??;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("it is handled", || notes.len() == 1)?;
    subscription.pause();
    ensure(subscription.is_paused(), "it is paused")?;
    // What was asked for before may still come.
    stage.pass(Duration::from_secs(6));
    stage.publish(&topic, Record::new("key", "2"))?;
    stage.until("the other goes on", || others.len() == 2)?;
    stage.pass(Duration::from_secs(1));
    equal("while it is paused", notes.len(), 1)?;
    let seen = source(&stage, &subscription);
    ensure(seen.is_some_and(|source| source.paused), "a snapshot says so")?;
    subscription.resume();
    stage.until("it goes on", || notes.len() == 2)
}

fn lag_and_ages_are_seen(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let (subscription, notes, gate) = gated(&stage, &topic, stage.policy("s"))?;
    for number in 0..5 {
        stage.publish(&topic, Record::new(format!("key-{number}"), "x"))?;
    }
    stage.until("all are under way, and seen", || {
        notes.len() == 5 && source(&stage, &subscription).is_some_and(|source| source.lag == 5)
    })?;
    stage.pass(Duration::from_secs(2));
    let seen = source(&stage, &subscription).ok_or(Failed::Broken("no source is seen".into()))?;
    let age = seen.oldest_age.unwrap_or_default();
    ensure(age >= Duration::from_secs(2), &format!("the oldest is {age:?} old"))?;
    ensure(seen.bytes >= 5, "bytes are held")?;
    ensure(seen.commit_age >= Duration::from_secs(2), "nothing was committed meanwhile")?;
    gate.open();
    stage.until("nothing is behind", || {
        source(&stage, &subscription)
            .is_some_and(|source| source.lag == 0 && source.oldest_age.is_none())
    })?;
    stage.until("it was committed", || {
        source(&stage, &subscription).is_some_and(|source| source.commit_age < age)
    })
}

/// Events until now that `wanted` picks.
fn events(stage: &Stage, wanted: impl Fn(&BusEvent) -> bool) -> usize {
    let mut events = stage.bus.events();
    std::iter::from_fn(|| events.try_next()).filter(|event| wanted(event)).count()
}

fn reasons(stage: &Stage) -> Vec<(ReasonKind, String)> {
    match stage.bus.health() {
        Health::Degraded(reasons) | Health::Down(reasons) => {
            reasons.into_iter().map(|reason| (reason.kind, reason.text)).collect()
        }
        _ => Vec::new(),
    }
}

fn a_stopped_source_is_said(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let handler = |_: &Record| -> Handled { Err("out of paper".into()) };
    let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), handler);
    let subscription = stage.finish("the subscribe", subscribed)??;
    let others = Notes::new(&stage);
    let subscribed = stage.bus.subscribe(&topic, stage.policy("other"), others.taker());
    let other = stage.finish("the subscribe", subscribed)??;
    // A cluster may need a moment before every node knows who leads what was just made.
    stage.until("it is healthy before", || stage.bus.health() == Health::Healthy)?;
    stage.publish(&topic, Record::new("key", "1"))?;
    let wanted = (ReasonKind::SourceStopped, "out of paper".to_owned());
    stage.until("health says so", || reasons(&stage) == [wanted.clone()])?;
    stage.pass(Duration::from_secs(1));
    let said = |event: &BusEvent| matches!(event, BusEvent::SourceStopped { error, .. } if error == "out of paper");
    equal("events", events(&stage, said), 1)?;
    // What another subscription of the topic does changes nothing of that; its own end does.
    stage.until("the other goes on", || others.len() == 1)?;
    stage.unsubscribe(&other)?;
    stage.pass(Duration::from_secs(1));
    equal("reasons", reasons(&stage), vec![wanted])?;
    stage.unsubscribe(&subscription)?;
    stage.until("nothing is left to say", || stage.bus.health() == Health::Healthy)?;
    let closing = stage.bus.close(Duration::from_secs(5));
    stage.finish("the close", closing)??;
    ensure(matches!(stage.bus.health(), Health::Down(_)), "a closed bus is down")
}

fn letters_that_are_not_taken_are_said_and_hold_the_frontier(
    stager: &Stager<'_>,
) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, dead) = (stage.name("topic"), stage.name("dead"));
        let handler = |_: &Record| -> Handled { Err("no".into()) };
        let policy = stage.policy("s").dead_letter(&*dead);
        let subscribed = stage.bus.subscribe(&topic, policy, handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        stage.break_topic(&dead, true)?;
        let held = stage.publish(&topic, Record::new("a", "1"))?;
        stage.publish(&topic, Record::new("b", "2"))?;
        let outage = || reasons(&stage).iter().any(|known| known.0 == ReasonKind::LetterOutage);
        stage.until("health says so", outage)?;
        stage.pass(Duration::from_secs(3));
        let committed = stage.committed(&subscription, held.partition).map(Some);
        let committed = committed.or_else(|failed| match failed {
            Failed::Unsupported(_) => Ok(None),
            broken => Err(broken),
        })?;
        ensure(committed.is_none_or(|committed| committed <= held.offset), "the frontier holds")?;
        let begun = |event: &BusEvent| matches!(event, BusEvent::LetterOutage { .. });
        equal("events of one outage", events(&stage, begun), 1)?;
        stage.break_topic(&dead, false)?;
        stage.until("both are dead", || stage.runtime.snapshot().outcomes.dead_lettered == 2)?;
        stage.until("health is good again", || stage.bus.health() == Health::Healthy)?;
        let ended = |event: &BusEvent| matches!(event, BusEvent::LetterRecovered { .. });
        equal("events of its end", events(&stage, ended), 1)?;
        let said = stage.notices(|notice| matches!(notice, Notice::LettersRefused { .. }));
        equal("notices", said, 1)
    })
}

fn a_letter_refused_for_good_stops_the_source_and_names_the_record(
    stager: &Stager<'_>,
) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let refusing = |_: &Letter| Err(HandlerError::fatal("too large"));
    let policy = stage.policy("s").dead_letter_to(refusing);
    let handler = |_: &Record| -> Handled { Err("no".into()) };
    stage.finish("the subscribe", stage.bus.subscribe(&topic, policy, handler))??;
    let position = stage.publish(&topic, Record::new("order-42", "1"))?;
    stage.until("the source has stopped", || !stage.stopped().is_empty())?;
    let (partition, error) = stage.stopped().remove(0);
    equal("the partition", partition, Some(position.partition))?;
    let offset = format!("offset {}", position.offset);
    for part in ["no", "too large", &topic, &offset, "order-42"] {
        ensure(error.contains(part), &format!("{part:?} is in the failure: {error}"))?;
    }
    Ok(())
}
