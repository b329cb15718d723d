//! The end of a bus: what was read is handled, the rest is refused, and everybody hears the same.

use std::time::Duration;

use super::fixture::{Failed, Shape};
use super::stage::cases;
use super::stage::{Stager, poll};
use super::tools::{Gate, Gates, Judge, Notes, ensure, equal, refused};
use crate::bus::{BusError, BusReport, PublishErrorKind};
use crate::handler::Handled;
use crate::record::Record;
use crate::retry::Retry;
use crate::subscription::Letter;
use crate::sync::{Arc, Mutex};

cases![
    after_the_close_everything_is_refused,
    close_handles_what_was_read,
    close_gives_up_at_its_deadline,
    everybody_who_closes_hears_the_same,
    dead_letters_are_taken_while_it_closes,
    a_publisher_that_waits_hears_of_the_close,
];

const LONG: Duration = Duration::from_secs(60);

fn after_the_close_everything_is_refused(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    stage
        .finish("the subscribe", stage.bus.subscribe(&topic, stage.policy("s"), notes.taker()))??;
    let report = stage.finish("the close", stage.bus.close(LONG))??;
    ensure(report.drained && report.unfinished == 0, "nothing was left")?;
    let record = Record::new("key", "payload").with_header("h", "v");
    let publishing = stage.bus.publish(&topic, record);
    let error = refused("the publish", stage.finish("the publish", publishing)?)?;
    equal("why", error.kind(), &PublishErrorKind::Closed)?;
    ensure(!error.is_retryable() && !error.outcome_unknown(), "it is refused for good")?;
    let record = error.into_record();
    let back = (record.key(), record.payload(), record.header("h"));
    equal("what came back", back, (Some(&b"key"[..]), &b"payload"[..], Some(&b"v"[..])))?;
    for policy in [stage.policy("s"), stage.policy("new")] {
        let subscribed = stage.bus.subscribe(&topic, policy, notes.taker());
        let error = refused("the subscribe", stage.finish("the subscribe", subscribed)?)?;
        ensure(matches!(error, BusError::Closed), &format!("the bus is closed, not {error:?}"))?;
    }
    equal("handled", notes.len(), 0)?;
    // The runtime is not the bus's: it goes on.
    let direct = stage.runtime.subscribe(stage.policy("direct"), notes.taker())?;
    direct.submit(Record::new("key", "1"))?;
    stage.until("the runtime goes on", || notes.len() == 1)
}

fn close_handles_what_was_read(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, judge, gates) = (stage.name("topic"), Judge::new(&stage), Gates::default());
        let handler = judge.gated(gates.of_key());
        let subscribed = stage.bus.subscribe_async(&topic, stage.policy("s"), handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let keys = stage.keys(&subscription, 2);
        let gate = gates.shut(&keys[0]);
        for number in 1..=5 {
            for key in &keys {
                judge.publish(&stage, &topic, key, number)?;
            }
        }
        stage.until("the quick key is done", || judge.oracle.verdict().handled == 5)?;
        let mut closing = stage.bus.close(LONG);
        // Not only at once: a close that gives up has its turn here.
        stage.pass(Duration::from_secs(1));
        ensure(poll(&mut closing).is_none(), "the close waits for what was read")?;
        gate.open();
        let report = stage.finish("the close", closing)??;
        ensure(report.drained, &format!("it was all handled: {report:?}"))?;
        equal("handled", judge.verdict(&stage)?.handled, 10)
    })
}

fn close_gives_up_at_its_deadline(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes, gate) = (stage.name("topic"), Notes::new(&stage), Gate::default());
    let (own, taken) = (gate.clone(), notes.clone());
    let handler = move |record: crate::record::RecordRef| {
        taken.take(&record);
        let gate = own.clone();
        async move {
            gate.pass().await;
            Ok(())
        }
    };
    stage
        .finish("the subscribe", stage.bus.subscribe_async(&topic, stage.policy("s"), handler))??;
    for key in ["a", "a", "b"] {
        stage.publish(&topic, Record::new(key, ""))?;
    }
    stage.until("both keys are under way", || notes.len() == 2)?;
    let report = stage.finish("the close", stage.bus.close(Duration::from_secs(2)))??;
    equal("drained", report.drained, false)?;
    equal("unfinished", report.unfinished, 3)?;
    gate.open();
    stage.pass(Duration::from_secs(1));
    equal("started", notes.len(), 2)
}

fn everybody_who_closes_hears_the_same(stager: &Stager<'_>) -> Result<(), Failed> {
    for blocked in [false, true] {
        let stage = stager.open()?;
        let (topic, notes, gate) = (stage.name("topic"), Notes::new(&stage), Gate::default());
        let (own, taken) = (gate.clone(), notes.clone());
        let handler = move |record: crate::record::RecordRef| {
            taken.take(&record);
            let gate = own.clone();
            async move {
                gate.pass().await;
                Ok(())
            }
        };
        let subscribed = stage.bus.subscribe_async(&topic, stage.policy("s"), handler);
        stage.finish("the subscribe", subscribed)??;
        stage.publish(&topic, Record::new("key", ""))?;
        stage.until("it is under way", || notes.len() == 1)?;
        if !blocked {
            gate.open();
        }
        let begun: Vec<_> = std::thread::scope(|threads| {
            let closers: Vec<_> = (0..4)
                .map(|_| threads.spawn(|| stage.bus.clone().close(Duration::from_secs(2))))
                .collect();
            closers.into_iter().filter_map(|closer| closer.join().ok()).collect()
        });
        equal("closers", begun.len(), 4)?;
        let mut reports: Vec<BusReport> = Vec::new();
        for closing in begun {
            reports.push(stage.finish("the close", closing)??);
        }
        // And so does who comes later.
        reports.push(stage.finish("the late close", stage.bus.close(LONG))??);
        let wanted = (!blocked, usize::from(blocked));
        for report in reports {
            equal("a report", (report.drained, report.unfinished), wanted)?;
        }
        gate.open();
    }
    Ok(())
}

fn dead_letters_are_taken_while_it_closes(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, dead, gate) = (stage.name("topic"), stage.name("dead"), Gate::default());
    let own = gate.clone();
    let handler = move |_: crate::record::RecordRef| {
        let gate = own.clone();
        async move {
            gate.pass().await;
            Err("no".into())
        }
    };
    let policy = stage.policy("s").dead_letter(&*dead);
    stage.finish("the subscribe", stage.bus.subscribe_async(&topic, policy, handler))??;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("it is under way", || {
        stage.runtime.snapshot().subscriptions.iter().any(|own| own.running == 1)
    })?;
    let mut closing = stage.bus.close(LONG);
    ensure(poll(&mut closing).is_none(), "the close waits for what was read")?;
    gate.open();
    let report = stage.finish("the close", closing)??;
    ensure(report.drained, &format!("the letter was taken: {report:?}"))?;
    equal("letters", stage.runtime.snapshot().outcomes.dead_lettered, 1)
}

fn a_publisher_that_waits_hears_of_the_close(stager: &Stager<'_>) -> Result<(), Failed> {
    if !stager.fixture().holds_publishers_of_full_topics() {
        return Err(Failed::Unsupported("a full topic refuses at once"));
    }
    let shape = Shape { capacity: Some(1), ..Shape::new() };
    let stage = stager.open_as(shape)?;
    let topic = stage.name("topic");
    let failures = Arc::<Mutex<u32>>::default();
    let counted = failures.clone();
    let sink = move |_: &Letter| {
        *counted.lock() += 1;
        Ok(())
    };
    // It waits to be tried again, and keeps the topic full.
    let retry = Retry::fixed(Duration::from_secs(3_600)).forever();
    let policy = stage.policy("s").retry(retry).dead_letter_to(sink);
    let notes = Notes::new(&stage);
    let handler = {
        let taken = notes.clone();
        move |record: &Record| -> Handled {
            taken.take(record);
            Err("not yet".into())
        }
    };
    stage.finish("the subscribe", stage.bus.subscribe(&topic, policy, handler))??;
    stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("it has failed", || notes.len() == 1)?;
    let mut waiting = stage.bus.publish(&topic, Record::new("key", "2"));
    ensure(poll(&mut waiting).is_none(), "the publish waits for room")?;
    let closing = stage.bus.close(Duration::from_secs(1));
    let error = refused("the publish", stage.finish("the publish", waiting)?)?;
    equal("why", error.kind(), &PublishErrorKind::Closed)?;
    equal("what came back", error.into_record().payload(), b"2")?;
    let report = stage.finish("the close", closing)??;
    equal("unfinished", report.unfinished, 1)?;
    equal("letters", *failures.lock(), 0)
}
