//! A full topic holds its publishers for a bounded time; nothing blocks inside a handler.

use std::time::Duration;

use super::fixture::{Failed, Shape};
use super::stage::cases;
use super::stage::{Stage, Stager, poll};
use super::tools::{Gate, Judge, Notes, ensure, equal, refused};
use crate::bus::{BusError, BusSubscription, PublishErrorKind};
use crate::close::SwapError;
use crate::handler::Handler;
use crate::record::{Record, RecordRef};
use crate::sync::{Arc, Mutex};

cases![
    a_full_topic_gives_the_record_back,
    a_full_topic_holds_its_publisher_until_there_is_room,
    a_wait_for_room_can_be_given_up,
    inside_a_handler_nothing_blocks,
    publishing_inside_a_handler_works,
];

const LONG: Duration = Duration::from_secs(60);

/// A subscription whose handlers wait at a gate, on a topic that they fill.
struct Full {
    stage: Stage,
    topic: String,
    judge: Judge,
    gate: Gate,
    subscription: BusSubscription,
    stored: u64,
}

impl Full {
    fn new(stager: &Stager<'_>) -> Result<Self, Failed> {
        const CAPACITY: usize = 8;
        let stage = stager.open_as(Shape { capacity: Some(CAPACITY), ..Shape::new() })?;
        let (topic, judge, gate) = (stage.name("topic"), Judge::new(&stage), Gate::default());
        let own = gate.clone();
        let handler = judge.gated(move |_| Some(own.clone()));
        let subscribed = stage.bus.subscribe_async(&topic, stage.policy("s"), handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let mut full = Self { stage, topic, judge, gate, subscription, stored: 0 };
        while full.stored < CAPACITY as u64 {
            full.stored += 1;
            full.judge.publish(&full.stage, &full.topic, "key", full.stored)?;
        }
        Ok(full)
    }

    fn record(&self, number: u64) -> Record {
        Record::new("key", number.to_string()).with_header("h", "v")
    }
}

fn a_full_topic_gives_the_record_back(stager: &Stager<'_>) -> Result<(), Failed> {
    let full = Full::new(stager)?;
    let publishing = full.stage.bus.publish(&full.topic, full.record(9));
    let error = refused("the publish", full.stage.finish("the publish", publishing)?)?;
    equal("why", error.kind(), &PublishErrorKind::Full)?;
    ensure(error.is_retryable() && !error.outcome_unknown(), "it may be published later")?;
    let record = error.into_record();
    equal("the key that came back", record.key(), Some(&b"key"[..]))?;
    equal("the payload that came back", record.payload(), b"9")?;
    equal("the header that came back", record.header("h"), Some(&b"v"[..]))?;
    full.gate.open();
    // It was not stored; published again, it is there once.
    full.stage.until("there is room", || full.judge.oracle.verdict().handled == full.stored)?;
    full.judge.oracle.published("key", 9);
    // Room may be made some time after that.
    let mut published = Err(Failed::Broken("it was not tried".to_owned()));
    full.stage.until("it is taken", || {
        let publishing = full.stage.bus.publish(&full.topic, record.copy());
        let tried = full.stage.finish("the publish", publishing);
        let full = matches!(&tried, Ok(Err(error)) if error.kind() == &PublishErrorKind::Full);
        published = tried;
        !full
    })?;
    published??;
    equal("attempts", full.judge.verdict(&full.stage)?.attempts, 9)
}

fn a_full_topic_holds_its_publisher_until_there_is_room(stager: &Stager<'_>) -> Result<(), Failed> {
    holds(stager)?;
    let full = Full::new(stager)?;
    full.judge.oracle.published("key", 9);
    let mut waiting = full.stage.bus.publish(&full.topic, full.record(9));
    ensure(poll(&mut waiting).is_none(), "the publish waits for room")?;
    ensure(full.subscription.stopped_by().is_none(), "the subscription goes on")?;
    full.gate.open();
    full.stage.finish("the publish", waiting)??;
    equal("attempts", full.judge.verdict(&full.stage)?.attempts, 9)
}

fn a_wait_for_room_can_be_given_up(stager: &Stager<'_>) -> Result<(), Failed> {
    holds(stager)?;
    let full = Full::new(stager)?;
    let timed = full.stage.bus.publish(&full.topic, full.record(9)).wait_timeout(Duration::ZERO);
    let error = refused("the publish", timed)?;
    equal("why", error.kind(), &PublishErrorKind::TimedOut)?;
    equal("the payload that came back", error.into_record().payload(), b"9")?;
    // Dropped while it waits, it is not published.
    let mut dropped = full.stage.bus.publish(&full.topic, full.record(10));
    ensure(poll(&mut dropped).is_none(), "the publish waits for room")?;
    drop(dropped);
    full.gate.open();
    let verdict = full.judge.verdict(&full.stage)?;
    full.stage.pass(Duration::from_secs(1));
    equal("attempts", verdict.attempts, full.stored)?;
    full.judge.concludes(&full.stage)
}

/// Only where a full topic is waited for.
fn holds(stager: &Stager<'_>) -> Result<(), Failed> {
    if stager.fixture().holds_publishers_of_full_topics() {
        return Ok(());
    }
    Err(Failed::Unsupported("a full topic refuses at once"))
}

/// What a handler found when it tried what would wait.
type Found = Arc<Mutex<Option<Result<(), Failed>>>>;

fn inside_a_handler_nothing_blocks(stager: &Stager<'_>) -> Result<(), Failed> {
    let full = Full::new(stager)?;
    let found = Found::default();
    let (stage, inside) = (&full.stage, full.stage.name("inside"));
    let own = Arc::<Mutex<Option<BusSubscription>>>::default();
    let handler = {
        let (bus, topic, found) = (stage.bus.clone(), full.topic.clone(), found.clone());
        let own = own.clone();
        move |_: &Record| {
            let tried = (|| {
                let error = loop {
                    let publishing = bus.publish(&topic, Record::new("key", "9"));
                    let error = refused("a publish to a full topic", publishing.wait())?;
                    // A busy broker may take longer than a handler waits.
                    if !error.outcome_unknown() {
                        break error;
                    }
                };
                equal("why", error.kind(), &PublishErrorKind::Full)?;
                equal("what came back", error.into_record().payload(), b"9")?;
                let subscription = own.lock().clone();
                if let Some(subscription) = subscription {
                    let swapped = subscription.swap(Handler::sync(|_| Ok(()))).wait();
                    let error = refused("the wait for its own swap", swapped)?;
                    equal("why", error, SwapError::WouldDeadlock)?;
                }
                // The last: it has begun, and goes on.
                let error = refused("the wait for the close", bus.close(LONG).wait())?;
                ensure(matches!(error, BusError::WouldDeadlock), "waiting would deadlock")
            })();
            *found.lock() = Some(tried);
            Ok(())
        }
    };
    let subscribed = stage.bus.subscribe(&inside, stage.policy("inside"), handler);
    *own.lock() = Some(stage.finish("the subscribe", subscribed)??);
    stage.publish(&inside, Record::new("key", "1"))?;
    stage.until("the handler has returned", || found.lock().is_some())?;
    own.lock().take();
    full.gate.open();
    let tried = found.lock().take();
    tried.unwrap_or_else(|| Err(Failed::Broken("the handler was not called".to_owned())))
}

fn publishing_inside_a_handler_works(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (from, to, notes) = (stage.name("from"), stage.name("to"), Notes::new(&stage));
        let subscribed = stage.bus.subscribe(&to, stage.policy("to"), notes.taker());
        let subscription = stage.finish("the subscribe", subscribed)??;
        let key = &stage.keys(&subscription, 1)[0];
        stage.lay_stone(&subscription, key)?;
        let (bus, next) = (stage.bus.clone(), to.clone());
        let handler = move |record: RecordRef| {
            let publishing = bus.publish(&next, record.copy());
            async move { Ok(publishing.await.map(|_| ())?) }
        };
        let subscribed = stage.bus.subscribe_async(&from, stage.policy("f"), handler);
        stage.finish("the subscribe", subscribed)??;
        for number in 1..=10 {
            stage.publish(&from, Record::new(key, number.to_string()))?;
        }
        stage.until("all have come through", || notes.len() == 10)?;
        equal("order", notes.texts(), (1..=10).map(|number| number.to_string()).collect())
    })
}
