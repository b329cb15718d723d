//! Groups: where each begins and goes on, and what becomes of one whose position is lost.

use std::time::Duration;

use super::fixture::{Failed, Loss, Shape};
use super::stage::{Stage, Stager, cases};
use super::tools::{Notes, ensure, equal, refused};
use crate::bus::{BusError, BusEvent, BusSubscription, Health, ReasonKind};
use crate::handler::Handled;
use crate::record::Record;
use crate::subscription::{OnLost, Start, Subscription};

cases![
    subscriptions_start_at_a_time_or_a_position,
    each_group_has_every_record,
    a_group_reads_a_topic_once,
    a_group_goes_on_where_it_was,
    parked_keys_are_parked_where_the_group_goes_on,
    a_lost_position_stops_the_source,
    a_lost_position_may_be_passed_over,
    a_position_that_is_lost_while_nothing_is_read_is_noticed,
    a_topic_made_anew_is_a_lost_position,
];

/// Subscribes a handler that takes notes.
fn follow(
    stage: &Stage,
    topic: &str,
    policy: Subscription,
) -> Result<(BusSubscription, Notes), Failed> {
    let notes = Notes::new(stage);
    let subscribed = stage.bus.subscribe(topic, policy, notes.taker());
    Ok((stage.finish("the subscribe", subscribed)??, notes))
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn subscriptions_start_at_a_time_or_a_position(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let publish = |text: &str| stage.publish(&topic, Record::new("key", text));
    publish("1")?;
    let second = publish("2")?;
    // Apart from its neighbours by more than clocks of two machines are.
    stage.pass(Duration::from_secs(2));
    let time = stage.runtime.clock().system_time();
    stage.pass(Duration::from_secs(2));
    publish("3")?;
    let policy = |name: &str, start| stage.policy(name).start(start);
    let (_, at) = follow(&stage, &topic, policy("at", Start::At(time)))?;
    let (_, from) = follow(&stage, &topic, policy("from", Start::Position(second.offset)))?;
    let future = time + Duration::from_secs(3_600);
    let (_, later) = follow(&stage, &topic, policy("later", Start::At(future)))?;
    publish("4")?;
    stage.until("all have the last", || {
        let last = |notes: &Notes| notes.texts().last().is_some_and(|last| last == "4");
        last(&at) && last(&from)
    })?;
    equal("from the time", at.texts(), texts(&["3", "4"]))?;
    equal("from the position", from.texts(), texts(&["2", "3", "4"]))?;
    ensure(!later.texts().iter().any(|text| text != "4"), "nothing of before a time to come")
}

fn each_group_has_every_record(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let (group, other) = (stage.name("group"), stage.name("other-group"));
    let (one, first) = follow(&stage, &topic, stage.policy("one").group(&*group))?;
    let (two, second) = follow(&stage, &topic, stage.policy("two").group(&*other))?;
    let (three, third) = follow(&stage, &topic, stage.policy("three"))?;
    equal(
        "groups",
        [one.group(), two.group(), three.group()],
        [&*group, &*other, &*stage.name("three")],
    )?;
    for number in 0..20 {
        stage.publish(&topic, Record::new(format!("key-{}", number % 5), number.to_string()))?;
    }
    let all = [&first, &second, &third];
    stage.until("each has every record", || all.iter().all(|notes| notes.len() == 20))?;
    let mut each = all.map(Notes::texts);
    each.iter_mut().for_each(|texts| texts.sort());
    ensure(each[0] == each[1] && each[1] == each[2], "the same ones, each of them once")
}

fn a_group_reads_a_topic_once(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, elsewhere) = (stage.name("topic"), stage.name("elsewhere"));
    let group = stage.name("group");
    let (subscription, notes) = follow(&stage, &topic, stage.policy("one").group(&*group))?;
    let policy = stage.policy("two").group(&*group);
    let again = stage.bus.subscribe(&topic, policy.clone(), notes.taker());
    let again = refused("the same group and topic", stage.finish("the subscribe", again)?)?;
    let named = matches!(
        &again,
        BusError::AlreadyInGroup { group: of, topic: on } if *of == group && *on == topic
    );
    ensure(named, &format!("the error names both, not {again:?}"))?;
    for bad in ["", "two words", "zwölf"] {
        let policy = stage.policy("bad").group(bad);
        let result = stage.bus.subscribe(&elsewhere, policy, notes.taker());
        let error = refused("the group's name", stage.finish("the subscribe", result)?)?;
        ensure(matches!(error, BusError::InvalidGroup(_)), &format!("it is no name: {error:?}"))?;
    }
    // What was refused has left nothing: its name is free, and the group may read other topics.
    let (_, others) = follow(&stage, &elsewhere, policy.clone())?;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.publish(&elsewhere, Record::new("key", "2"))?;
    stage.until("each has its own", || notes.len() == 1 && others.len() == 1)?;
    stage.unsubscribe(&subscription)?;
    follow(&stage, &topic, stage.policy("three").group(&*group)).map(|_| ())
}

fn a_group_goes_on_where_it_was(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, group) = (stage.name("topic"), stage.name("group"));
    let (subscription, first) = follow(&stage, &topic, stage.policy("one").group(&*group))?;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("it is handled", || first.len() == 1)?;
    stage.until_committed(&subscription)?;
    stage.unsubscribe(&subscription)?;
    stage.publish(&topic, Record::new("key", "2"))?;
    // Where it starts counts only for a group that is new.
    let policy = stage.policy("two").group(&*group).start(Start::Latest);
    let (_, second) = follow(&stage, &topic, policy)?;
    stage.publish(&topic, Record::new("key", "3"))?;
    stage.until("it goes on", || second.len() >= 2)?;
    equal("what it has", second.texts(), texts(&["2", "3"]))?;
    equal("calls after the end", first.len(), 1)
}

fn parked_keys_are_parked_where_the_group_goes_on(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        if !stage.keeps_parked() {
            return Err(Failed::Unsupported("parked keys are not stored"));
        }
        let (topic, dead, handled) = (stage.name("topic"), stage.name("dead"), Notes::new(&stage));
        let subscribe = |name: &str| {
            let taken = handled.clone();
            let handler = move |record: &Record| -> Handled {
                taken.take(record);
                if record.payload().starts_with(b"bad") { Err("no".into()) } else { Ok(()) }
            };
            let policy = stage.policy(name).group(stage.name("group"));
            let policy = policy.dead_letter(&*dead).park_key();
            let subscribed = stage.bus.subscribe(&topic, policy, handler);
            Ok::<_, Failed>(stage.finish("the subscribe", subscribed)??)
        };
        let publish = |key: &str, text: &str| stage.publish(&topic, Record::new(key, text));
        let first = subscribe("one")?;
        publish("a", "bad 1")?;
        publish("b", "2")?;
        stage.until("the key is parked", || first.subscriber().parked().len() == 1)?;
        stage.until_committed(&first)?;
        stage.unsubscribe(&first)?;
        publish("a", "3")?;
        let second = subscribe("two")?;
        publish("a", "4")?;
        publish("b", "5")?;
        let (_, letters) = follow(&stage, &dead, stage.policy("reader"))?;
        stage.until("all have an end", || letters.len() == 3 && handled.len() == 3)?;
        equal("letters", letters.texts(), texts(&["bad 1", "3", "4"]))?;
        equal("handled of the key", handled.texts_of("a"), texts(&["bad 1"]))?;
        second.subscriber().resume(b"a");
        stage.until("it is resumed", || second.subscriber().parked().is_empty())?;
        stage.pass(Duration::from_secs(1));
        stage.until_committed(&second)?;
        stage.unsubscribe(&second)?;
        // What was resumed is not parked again.
        subscribe("three")?;
        publish("a", "6")?;
        stage.until("it is handled", || handled.texts_of("a").len() == 2)
    })
}

/// A subscription that has handled "1", and whose position is lost: "2" is gone, "3" is there, and it is to be read.
fn lose(
    stager: &Stager<'_>,
    loss: Loss,
    on_lost: OnLost,
) -> Result<(Stage, BusSubscription, Notes), Failed> {
    let stage = stager.open()?;
    let topic = stage.name("topic");
    let policy = stage.policy("s").on_lost_position(on_lost);
    let (subscription, notes) = follow(&stage, &topic, policy)?;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("the first is handled", || notes.len() == 1)?;
    stage.until_committed(&subscription)?;
    stage.hold_topic(&topic, true)?;
    stage.publish(&topic, Record::new("key", "2"))?;
    stage.lose(&topic, loss)?;
    stage.publish(&topic, Record::new("key", "3"))?;
    stage.hold_topic(&topic, false)?;
    Ok((stage, subscription, notes))
}

fn is_loss(event: &BusEvent) -> bool {
    matches!(event, BusEvent::PositionLost { .. })
}

fn a_lost_position_stops_the_source(stager: &Stager<'_>) -> Result<(), Failed> {
    let (stage, _, notes) = lose(stager, Loss::Purged, OnLost::Stop)?;
    stage.until("it has stopped", || !stage.stopped().is_empty())?;
    let (_, error) = stage.stopped().remove(0);
    ensure(error.contains("lost"), &format!("it says what is lost: {error}"))?;
    stage.pass(Duration::from_secs(1));
    equal("what was handled", notes.texts(), texts(&["1"]))?;
    stage.until("health says so", || match stage.bus.health() {
        Health::Degraded(reasons) => {
            reasons.iter().any(|reason| reason.kind == ReasonKind::LostPosition)
        }
        _ => false,
    })?;
    let mut events = stage.bus.events();
    let losses = std::iter::from_fn(|| events.try_next()).filter(is_loss).count();
    equal("events", losses, 1)
}

fn a_lost_position_may_be_passed_over(stager: &Stager<'_>) -> Result<(), Failed> {
    for (on_lost, wanted) in
        [(OnLost::Earliest, &["1", "3", "4"][..]), (OnLost::Latest, &["1", "4"][..])]
    {
        let (stage, subscription, notes) = lose(stager, Loss::Purged, on_lost)?;
        let mut events = stage.bus.events();
        let mut lost = false;
        stage.until("the loss is noticed", || {
            lost |= std::iter::from_fn(|| events.try_next()).any(|event| is_loss(&event));
            lost
        })?;
        stage.publish(&stage.name("topic"), Record::new("key", "4"))?;
        stage.until("the last is handled", || notes.len() >= wanted.len())?;
        equal("what was handled", notes.texts(), texts(wanted))?;
        stage.until_committed(&subscription)?;
        equal("health", stage.bus.health(), Health::Healthy)?;
    }
    Ok(())
}

fn a_position_that_is_lost_while_nothing_is_read_is_noticed(
    stager: &Stager<'_>,
) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, mut events) = (stage.name("topic"), stage.bus.events());
    let (stops, notes) = follow(&stage, &topic, stage.policy("stops"))?;
    let policy = stage.policy("goes-on").on_lost_position(OnLost::Earliest);
    let (goes_on, others) = follow(&stage, &topic, policy)?;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("the first is handled", || notes.len() == 1 && others.len() == 1)?;
    stops.pause();
    goes_on.pause();
    // What was asked for before comes.
    stage.pass(Duration::from_secs(7));
    stage.publish(&topic, Record::new("key", "2"))?;
    stage.lose(&topic, Loss::Purged)?;
    stage.until("one of them has stopped", || stops.stopped_by().is_some())?;
    let mut losses = 0;
    stage.until("both have noticed it", || {
        losses += std::iter::from_fn(|| events.try_next()).filter(is_loss).count();
        losses == 2
    })?;
    ensure(goes_on.stopped_by().is_none(), "the other goes on")?;
    goes_on.resume();
    stage.publish(&topic, Record::new("key", "3"))?;
    stage.until("it goes on", || others.len() == 2)?;
    equal("what it has", others.texts(), texts(&["1", "3"]))?;
    equal("what the other has", notes.texts(), texts(&["1"]))?;
    stage.until_committed(&goes_on)
}

fn a_topic_made_anew_is_a_lost_position(stager: &Stager<'_>) -> Result<(), Failed> {
    let (stage, _, notes) = lose(stager, Loss::MadeAnew, OnLost::Stop)?;
    stage.until("it has stopped", || !stage.stopped().is_empty())?;
    equal("what was handled", notes.texts(), texts(&["1"]))?;
    let (stage, subscription, notes) = lose(stager, Loss::MadeAnew, OnLost::Earliest)?;
    stage.publish(&stage.name("topic"), Record::new("key", "4"))?;
    stage.until("the last is handled", || notes.len() >= 3)?;
    equal("what was handled", notes.texts(), texts(&["1", "3", "4"]))?;
    stage.until_committed(&subscription)
}
