//! Several topics of one subscription.

use std::collections::HashSet;
use std::future::Future;

use super::fixture::{Failed, Restart, Shape};
use super::stage::{Stage, Stager, cases};
use super::tools::{Judge, Notes, Yield, ensure, equal, number, refused};
use crate::bus::{BusError, BusSubscription, Topics};
use crate::handler::Handled;
use crate::record::{Record, RecordRef};
use crate::sync::{Arc, Mutex};
use crate::testing::Ended;

cases![
    several_topics_feed_one_subscription,
    several_topics_are_restarted_together,
    several_topics_are_refused_as_a_whole,
    another_set_of_topics_loses_and_repeats_nothing,
    dead_letters_of_several_topics_say_which,
];

const KEYS: u64 = 5;

/// A subscription to topics that have keys in common, and its judge: order is each topic's own.
struct Several {
    topics: Vec<String>,
    judge: Judge,
    /// What must not have been: a record of another topic than it says, two of one key at once.
    wrong: Arc<Mutex<Vec<String>>>,
    /// Keys that are being handled.
    busy: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl Several {
    fn new(stage: &Stage) -> Self {
        let topics = ["one", "two", "three"].map(|name| stage.name(name)).into();
        let (wrong, busy) = (Arc::default(), Arc::default());
        Self { topics, judge: Judge::new(stage), wrong, busy }
    }

    fn subscribe(&self, stage: &Stage) -> Result<BusSubscription, Failed> {
        let topics: Topics = self.topics.iter().collect();
        let subscribed = stage.bus.subscribe_async(topics, stage.policy("s"), self.handler());
        let subscription = stage.finish("the subscribe", subscribed)??;
        let topics: Vec<_> = self.topics.iter().map(String::as_str).collect();
        equal("the topics", subscription.topics().collect(), topics)?;
        Ok(subscription)
    }

    fn handler(
        &self,
    ) -> impl Fn(RecordRef) -> std::pin::Pin<Box<dyn Future<Output = Handled> + Send>>
    + Send
    + Sync
    + 'static {
        let (judge, wrong, busy) = (self.judge.clone(), self.wrong.clone(), self.busy.clone());
        move |record: RecordRef| {
            let (judge, wrong, busy) = (judge.clone(), wrong.clone(), busy.clone());
            let (key, place) = (record.key().unwrap_or_default().to_vec(), record.topic_index());
            if !record.payload().ends_with(format!(" {place}").as_bytes()) {
                wrong.lock().push(format!("{:?} came from topic {place}", record.payload()));
            }
            Box::pin(async move {
                let alone = busy.lock().insert(key.clone());
                if !alone {
                    wrong.lock().push(format!("two of {key:?} at once"));
                }
                let attempt = judge.oracle.start(tagged(place, &key), number(&record));
                Yield::default().await;
                Yield::default().await;
                busy.lock().remove(&key);
                attempt.end(Ended::Done);
                Ok(())
            })
        }
    }

    /// Publishes records of these numbers, of each key to each topic.
    fn publish(&self, stage: &Stage, numbers: std::ops::Range<u64>) -> Result<(), Failed> {
        for number in numbers {
            for (place, topic) in self.topics.iter().enumerate() {
                for key in 0..KEYS {
                    let key = format!("key-{key}");
                    self.judge.oracle.published(tagged(place, key.as_bytes()), number);
                    stage.publish(topic, Record::new(key, format!("{number} {place}")))?;
                }
            }
        }
        Ok(())
    }

    fn concludes(&self, stage: &Stage) -> Result<(), Failed> {
        self.judge.concludes(stage)?;
        equal("what is wrong", &*self.wrong.lock(), &Vec::new())
    }
}

/// A key of one topic, for who judges each topic by itself.
fn tagged(place: usize, key: &[u8]) -> Vec<u8> {
    [place.to_string().as_bytes(), b"/", key].concat()
}

fn several_topics_feed_one_subscription(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let several = Several::new(&stage);
        several.publish(&stage, 1..3)?;
        several.subscribe(&stage)?;
        several.publish(&stage, 3..11)?;
        several.concludes(&stage)?;
        equal("attempts", several.judge.verdict(&stage)?.attempts, 10 * 3 * KEYS)
    })
}

fn several_topics_are_restarted_together(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let several = Several::new(&stage);
    let subscription = several.subscribe(&stage)?;
    for (round, how) in (0..).zip([Restart::Crash, Restart::Graceful, Restart::Crash]) {
        several.publish(&stage, 10 * round + 1..10 * round + 6)?;
        several.judge.concludes(&stage)?;
        several.judge.oracle.restarted();
        stage.restart(&subscription, how)?;
        several.publish(&stage, 10 * round + 6..10 * round + 11)?;
    }
    several.judge.concludes(&stage)?;
    stage.until_committed(&subscription)?;
    stage.unsubscribe(&subscription)
}

fn several_topics_are_refused_as_a_whole(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (taken, free) = (stage.name("taken"), stage.name("free"));
    let (group, notes, others) = (stage.name("group"), Notes::new(&stage), Notes::new(&stage));
    let policy = |name: &str| stage.policy(name).group(&*group);
    let subscribed = stage.bus.subscribe(&taken, policy("first"), notes.taker());
    stage.finish("the subscribe", subscribed)??;
    let refuse = |topics: Topics| {
        let subscribed = stage.bus.subscribe(topics, policy("second"), others.taker());
        refused("the topics", stage.finish("the subscribe", subscribed)?)
    };
    for topics in [[&*free, &*taken], [&*taken, &*free]] {
        let error = refuse(topics.into())?;
        let named = matches!(
            &error,
            BusError::AlreadyInGroup { group: of, topic } if *of == group && *topic == taken
        );
        ensure(named, &format!("the error names group and topic, not {error:?}"))?;
    }
    for topics in [Topics::from([&*free, &*free]), Topics::from([""; 0])] {
        let error = refuse(topics)?;
        ensure(matches!(error, BusError::InvalidTopics(_)), &format!("it says so: {error:?}"))?;
    }
    let error = refuse([&*free, "two words"].into())?;
    ensure(matches!(error, BusError::InvalidTopic(_)), &format!("it says so: {error:?}"))?;
    // Nothing is left of what was refused: name and topic are free, and nobody has read it.
    stage.publish(&free, Record::new("key", "1"))?;
    stage.publish(&taken, Record::new("key", "2"))?;
    stage.until("the first goes on", || notes.len() == 1)?;
    equal("what the refused have", others.len(), 0)?;
    let subscribed = stage.bus.subscribe(&free, policy("second"), others.taker());
    stage.finish("the subscribe", subscribed)??;
    stage.until("the second has its own", || others.len() == 1)
}

fn another_set_of_topics_loses_and_repeats_nothing(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let names = ["a", "b", "c"].map(|name| stage.name(name));
    let [a, b, c] = &names;
    let (group, notes) = (stage.name("group"), Notes::new(&stage));
    // And how many were handled at the end of each.
    let lives = [(vec![a, b], 4), (vec![b, c], 10), (vec![a, b, c], 18)];
    let mut number = 0;
    for (life, (topics, wanted)) in lives.into_iter().enumerate() {
        // To all of them, whoever reads them now.
        let mut publish = || {
            names.iter().try_for_each(|topic| {
                number += 1;
                stage.publish(topic, Record::new("key", number.to_string())).map(drop)
            })
        };
        publish()?;
        let policy = stage.policy(&format!("life-{life}")).group(&*group);
        let topics: Topics = topics.into_iter().collect();
        let subscribed = stage.bus.subscribe(topics, policy, notes.taker());
        let subscription = stage.finish("the subscribe", subscribed)??;
        publish()?;
        stage.until("all of them are handled", || notes.len() >= wanted)?;
        stage.until_committed(&subscription)?;
        stage.unsubscribe(&subscription)?;
        equal("what was handled", notes.len(), wanted)?;
    }
    let mut all: Vec<u64> = notes.texts().iter().filter_map(|text| text.parse().ok()).collect();
    all.sort_unstable();
    equal("each of them once", all, (1..=18).collect())
}

fn dead_letters_of_several_topics_say_which(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let topics = ["one", "two"].map(|name| stage.name(name));
    let (dead, letters) = (stage.name("dead"), Notes::new(&stage));
    let handler = |_: &Record| -> Handled { Err("no".into()) };
    let policy = stage.policy("s").dead_letter(&*dead);
    let subscribed = stage.bus.subscribe(topics.clone(), policy, handler);
    stage.finish("the subscribe", subscribed)??;
    let subscribed = stage.bus.subscribe(&dead, stage.policy("dead"), letters.taker());
    stage.finish("the subscribe", subscribed)??;
    for topic in &topics {
        stage.publish(topic, Record::new("key", &**topic))?;
    }
    stage.until("both have a letter", || letters.len() == 2)?;
    for letter in letters.all() {
        let from = (b"X-Original-Topic".to_vec(), Some(letter.text().into_bytes()));
        ensure(letter.headers.contains(&from), &format!("it says where it is from: {letter:?}"))?;
    }
    Ok(())
}
