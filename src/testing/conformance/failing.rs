//! What fails goes by its policy, and keeps nobody else from being handled.

use std::time::Duration;

use super::fixture::{Failed, Shape};
use super::stage::cases;
use super::stage::{Stage, Stager};
use super::tools::{Judge, Notes, ensure, equal, number};
use crate::bus::BusSubscription;
use crate::error::HandlerError;
use crate::handler::Handled;
use crate::record::Record;
use crate::retry::Retry;
use crate::testing::{Ended, Oracle};

cases![
    errors_and_panics_stop_nobody_else,
    a_stop_stops_its_partition_alone,
    retries_are_in_place,
    fatal_errors_are_not_tried_again,
    a_handler_can_be_swapped_for_one_that_works,
    an_unsubscribed_name_is_free_and_handles_nothing,
];

fn errors_and_panics_stop_nobody_else(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, judge) = (stage.name("topic"), Judge::new(&stage));
        let own = judge.clone();
        let handler = move |record: &Record| -> Handled {
            let key = record.key().unwrap_or_default();
            match number(record) % 3 {
                0 => {
                    own.oracle.start(key, number(record)).end(Ended::Skipped);
                    Err(HandlerError::retryable("an error"))
                }
                1 => {
                    own.oracle.start(key, number(record)).end(Ended::Skipped);
                    std::panic::panic_any("a panic that the case wants")
                }
                _ => {
                    own.handled(record);
                    Ok(())
                }
            }
        };
        let subscribed = stage.bus.subscribe(&topic, stage.policy("s").skip(), handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let keys = stage.keys(&subscription, 3);
        stage.lay_stone(&subscription, &keys[0])?;
        for number in 1..=15 {
            for key in &keys {
                judge.publish(&stage, &topic, key, number)?;
            }
        }
        let verdict = judge.verdict(&stage)?;
        equal("attempts and skips", (verdict.attempts, verdict.skipped), (45, 30))?;
        let outcomes = || stage.runtime.snapshot().outcomes;
        stage.until("all outcomes are counted", || outcomes().skipped == 30)?;
        equal("panics", outcomes().panics, 15)
    })
}

/// Keys of two different partitions, found by publishing them to a topic of the same shape.
fn two_partitions(
    stage: &Stage,
    subscription: &BusSubscription,
) -> Result<[(String, u32); 2], Failed> {
    let topic = stage.name("scout");
    let mut first: Option<(String, u32)> = None;
    for key in stage.keys(subscription, 200) {
        let partition = stage.publish(&topic, Record::new(&key, ""))?.partition;
        match first.take() {
            Some(other) if other.1 != partition => return Ok([other, (key, partition)]),
            known => first = Some(known.unwrap_or((key, partition))),
        }
    }
    Err(Failed::Unsupported("all keys are in one partition"))
}

fn a_stop_stops_its_partition_alone(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape { partitions: 4, ..Shape::new() }, |stage| {
        let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
        let taken = notes.clone();
        let handler = move |record: &Record| -> Handled {
            taken.take(record);
            match record.payload() {
                b"bad 2" => Err(HandlerError::retryable("out of\npaper")),
                _ => Ok(()),
            }
        };
        let subscribed = stage.bus.subscribe(&topic, stage.policy("s").stop(), handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let [(bad, stopped), (good, _)] = two_partitions(&stage, &subscription)?;
        stage.lay_stone(&subscription, &bad)?;
        let mut places = Vec::new();
        for number in 1..=4 {
            places.push(stage.publish(&topic, Record::new(&bad, format!("bad {number}")))?.offset);
            stage.publish(&topic, Record::new(&good, number.to_string()))?;
        }
        stage.until("the good key is done", || notes.texts_of(&good).len() == 4)?;
        stage.until("the partition has stopped", || !stage.stopped().is_empty())?;
        stage.pass(Duration::from_secs(1));
        equal("of the bad key", notes.texts_of(&bad), ["bad 1", "bad 2"].map(String::from).into())?;
        equal("what stopped", stage.stopped(), vec![(Some(stopped), "out of\\npaper".to_owned())])?;
        ensure(subscription.subscriber().stopped_by().is_none(), "the subscription goes on")?;
        let why = subscription.stopped_by().map(|failure| failure.error);
        equal("why it has stopped", why.as_deref(), Some("out of\\npaper"))?;
        match stage.committed(&subscription, stopped) {
            Ok(committed) => equal("what the stopped partition committed", committed, places[1]),
            Err(Failed::Unsupported(_)) => Ok(()),
            Err(failed) => Err(failed),
        }
    })
}

fn retries_are_in_place(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, judge, notes) = (stage.name("topic"), Judge::new(&stage), Notes::new(&stage));
        let (own, taken): (Oracle, Notes) = (judge.oracle.clone(), notes.clone());
        // Each third record succeeds at its third attempt.
        let handler = move |record: &Record| -> Handled {
            taken.take(record);
            let attempt = own.start(record.key().unwrap_or_default(), number(record));
            if number(record).is_multiple_of(3) && record.attempt() < 3 {
                attempt.end(Ended::Failed);
                return Err("not yet".into());
            }
            attempt.end(Ended::Done);
            Ok(())
        };
        let policy = stage.policy("s").retry(Retry::fixed(Duration::from_millis(20)).attempts(3));
        let subscribed = stage.bus.subscribe(&topic, policy, handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let keys = stage.keys(&subscription, 2);
        stage.lay_stone(&subscription, &keys[0])?;
        for number in 1..=9 {
            for key in &keys {
                judge.publish(&stage, &topic, key, number)?;
            }
        }
        let verdict = judge.verdict(&stage)?;
        equal("attempts and retries", (verdict.attempts, verdict.retries), (30, 12))?;
        let third: Vec<u32> = notes
            .all()
            .iter()
            .filter(|note| note.key.as_deref() == Some(keys[0].as_bytes()) && note.text() == "3")
            .map(|note| note.attempt)
            .collect();
        equal("the attempts' numbers", third, vec![1, 2, 3])
    })
}

fn fatal_errors_are_not_tried_again(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let taken = notes.clone();
    let handler = move |record: &Record| -> Handled {
        taken.take(record);
        match record.payload() {
            b"fatal" => Err(HandlerError::fatal("never")),
            b"not retryable" => Err("not this".into()),
            _ => Ok(()),
        }
    };
    let retry =
        Retry::fixed(Duration::from_millis(1)).only_if(|error| error.to_string() != "not this");
    let policy = stage.policy("s").retry(retry).skip();
    stage.finish("the subscribe", stage.bus.subscribe(&topic, policy, handler))??;
    let texts = ["fatal", "not retryable", "good"];
    for text in texts {
        stage.publish(&topic, Record::new("key", text))?;
    }
    stage.until("the last is handled", || notes.len() >= 3)?;
    stage.pass(Duration::from_secs(1));
    equal("attempts", notes.texts(), texts.map(String::from).to_vec())
}

fn a_handler_can_be_swapped_for_one_that_works(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
        let taken = notes.clone();
        let broken = move |record: &Record| -> Handled {
            taken.take(record);
            Err("broken".into())
        };
        let policy = stage.policy("s").retry(Retry::fixed(Duration::from_secs(1)).forever());
        let subscribed = stage.bus.subscribe(&topic, policy, broken);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let key = &stage.keys(&subscription, 1)[0];
        stage.lay_stone(&subscription, key)?;
        stage.publish(&topic, Record::new(key, "1"))?;
        stage.publish(&topic, Record::new(key, "2"))?;
        stage.until("the first attempt has failed", || notes.len() == 1)?;
        let mended = Notes::new(&stage);
        let swap = subscription.swap(crate::handler::Handler::sync(mended.taker()));
        stage.finish("the swap", swap)??;
        stage.until("both are handled", || mended.len() == 2)?;
        equal("order", mended.texts(), ["1", "2"].map(String::from).to_vec())?;
        let before = notes.len();
        stage.publish(&topic, Record::new(key, "3"))?;
        stage.until("the third is handled", || mended.len() == 3)?;
        equal("calls of the old handler", notes.len(), before)
    })
}

fn an_unsubscribed_name_is_free_and_handles_nothing(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, first, second) = (stage.name("topic"), Notes::new(&stage), Notes::new(&stage));
    let (stays, policy) = (Notes::new(&stage), stage.policy("s"));
    stage.finish(
        "the subscribe",
        stage.bus.subscribe(&topic, stage.policy("stays"), stays.taker()),
    )??;
    let subscribed = stage.bus.subscribe(&topic, policy.clone(), first.taker());
    let subscription = stage.finish("the subscribe", subscribed)??;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("it is handled", || first.len() == 1 && stays.len() == 1)?;
    stage.unsubscribe(&subscription)?;
    stage.publish(&topic, Record::new("key", "2"))?;
    stage.until("the other goes on", || stays.len() == 2)?;
    equal("calls after the end", first.len(), 1)?;
    let again = stage.bus.subscribe(&topic, policy, second.taker());
    stage.finish("the subscribe", again)??;
    stage.publish(&topic, Record::new("key", "3"))?;
    stage.until("the new one handles", || second.texts().last().is_some_and(|last| last == "3"))?;
    equal("calls after the end", first.len(), 1)
}
