//! Order per key, whatever the number of workers, lanes and partitions, and whatever the handler is.

use super::fixture::{Failed, Shape};
use super::stage::cases;
use super::stage::{Stage, Stager};
use super::tools::{Gates, Judge, Notes, ensure, equal};
use crate::handler::Handler;
use crate::record::Record;
use crate::subscription::Keyless;

cases![
    order_is_kept_by_sync_handlers,
    order_is_kept_by_async_handlers,
    order_is_kept_by_blocking_handlers,
    a_slow_key_delays_no_other,
    keyless_records_are_all_handled,
    keyless_records_may_be_serial,
    keyless_records_may_be_rejected,
];

/// Topics of one partition, and of several.
const TOPICS: [Shape; 2] = [Shape::new(), Shape { partitions: 4, ..Shape::new() }];

/// Publishes for many keys, half of which share a lane with a busy one and the first of which has half of all
/// records, and judges.
fn keeps_order(stage: &Stage, judge: &Judge, handler: Handler, rounds: u64) -> Result<(), Failed> {
    let topic = stage.name("topic");
    let subscribed = stage.bus.subscribe_handler(&topic, stage.policy("s"), handler);
    let subscription = stage.finish("the subscribe", subscribed)??;
    let mut keys = stage.keys(&subscription, 7);
    let hot = keys.remove(0);
    stage.lay_stone(&subscription, &hot)?;
    keys.extend((0..6).map(|number| format!("anywhere-{number}")));
    let mut last = 0;
    for number in 1..=rounds {
        for key in &keys {
            judge.publish(stage, &topic, key, number)?;
            last += 1;
            judge.publish(stage, &topic, &hot, last)?;
        }
    }
    equal("records", judge.verdict(stage)?.attempts, 24 * rounds)
}

fn order_is_kept_by_sync_handlers(stager: &Stager<'_>) -> Result<(), Failed> {
    let case = |stage: Stage| {
        let judge = Judge::new(&stage);
        keeps_order(&stage, &judge, Handler::sync(judge.sync()), 20)
    };
    TOPICS.into_iter().try_for_each(|topic| stager.each_shape(topic, case))
}

fn order_is_kept_by_async_handlers(stager: &Stager<'_>) -> Result<(), Failed> {
    let case = |stage: Stage| {
        let judge = Judge::new(&stage);
        keeps_order(&stage, &judge, Handler::future(judge.future()), 20)
    };
    TOPICS.into_iter().try_for_each(|topic| stager.each_shape(topic, case))
}

fn order_is_kept_by_blocking_handlers(stager: &Stager<'_>) -> Result<(), Failed> {
    let case = |stage: Stage| {
        let judge = Judge::new(&stage);
        keeps_order(&stage, &judge, Handler::blocking(judge.blocking()), 5)
    };
    TOPICS.into_iter().try_for_each(|topic| stager.each_shape(topic, case))
}

fn a_slow_key_delays_no_other(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, judge, gates) = (stage.name("topic"), Judge::new(&stage), Gates::default());
        let handler = judge.gated(gates.of_key());
        let subscribed = stage.bus.subscribe_async(&topic, stage.policy("s"), handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let keys = stage.keys(&subscription, 3);
        let gate = gates.shut(&keys[0]);
        for number in 1..=10 {
            keys.iter()
                .try_for_each(|key| judge.publish(&stage, &topic, key, number).map(|_| ()))?;
        }
        stage.until("the quick keys are done", || judge.oracle.verdict().handled == 20)?;
        equal("attempts while the slow key waits", judge.oracle.verdict().attempts, 21)?;
        gate.open();
        judge.concludes(&stage)
    })
}

fn publish_keyless(stage: &Stage, topic: &str, count: u64) -> Result<(), Failed> {
    (1..=count).try_for_each(|number| {
        stage.publish(topic, Record::keyless(number.to_string())).map(|_| ())
    })
}

fn keyless_records_are_all_handled(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open_as(Shape { partitions: 3, ..Shape::new() })?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let policy = stage.policy("s").keyless(Keyless::Spread);
    stage.finish("the subscribe", stage.bus.subscribe(&topic, policy, notes.taker()))??;
    publish_keyless(&stage, &topic, 50)?;
    stage.until("all are handled", || notes.len() >= 50)?;
    ensure(notes.all().iter().all(|note| note.key.is_none()), "none has a key")?;
    let mut numbers: Vec<u64> = notes.texts().iter().filter_map(|text| text.parse().ok()).collect();
    numbers.sort_unstable();
    equal("what was handled", numbers, (1..=50).collect())
}

fn keyless_records_may_be_serial(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, judge) = (stage.name("topic"), Judge::new(&stage));
        let policy = stage.policy("s").keyless(Keyless::Serial);
        let subscribed = stage.bus.subscribe_async(&topic, policy, judge.future());
        let subscription = stage.finish("the subscribe", subscribed)??;
        stage.lay_stone(&subscription, "")?;
        (1..=50).for_each(|number| judge.oracle.published("", number));
        publish_keyless(&stage, &topic, 50)?;
        judge.concludes(&stage)
    })
}

fn keyless_records_may_be_rejected(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let policy = stage.policy("s").keyless(Keyless::Reject);
    let subscribed = stage.bus.subscribe(&topic, policy, notes.taker());
    let subscription = stage.finish("the subscribe", subscribed)??;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("the first is handled", || notes.len() == 1)?;
    let keyless = stage.publish(&topic, Record::keyless("2"))?;
    stage.publish(&topic, Record::new("key", "3"))?;
    // It is not passed over: that would lose it.
    stage.until("the partition has stopped", || !stage.stopped().is_empty())?;
    equal("what stopped", stage.stopped()[0].0, Some(keyless.partition))?;
    stage.pass(std::time::Duration::from_secs(1));
    equal("what was handled", notes.texts(), vec!["1".to_owned()])?;
    match stage.progress(&subscription) {
        Ok(progress) => {
            let over = progress.iter().any(|progress| progress.committed > keyless.offset);
            ensure(!over, "it is not committed")
        }
        Err(Failed::Unsupported(_)) => Ok(()),
        Err(failed) => Err(failed),
    }
}
