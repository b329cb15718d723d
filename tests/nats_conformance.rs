//! The suite that every bus passes, on a real server and in every way to acknowledge.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/broker.rs"]
mod broker;

use std::thread;
use std::time::Instant;

use broker::Server;
use keylane::nats::{AckMode, Discard, NatsBus, Retention, TopicOptions};
use keylane::testing::conformance::{
    Conformance, Ended, Failed, Fixture, Loss, Opened, Progress, Restart, Shape, names,
};
use keylane::{Bus, BusSubscription, Runtime};
use parking_lot::Mutex;

struct Nats {
    server: &'static Server,
    mode: AckMode,
}

struct Open {
    bus: NatsBus,
    partitions: u32,
}

/// Why a case is not run.
const FULL_FOR_EVER: &str = "what checkpoints are for keeps its records, and once full stays so";
const REFUSES_AT_ONCE: &str = "a full topic refuses at once";
const MADE_ANEW: &str = "streams are made anew in tests of their own";

impl Fixture for Nats {
    fn takes_any_header_name(&self) -> bool {
        false
    }

    fn holds_publishers_of_full_topics(&self) -> bool {
        false
    }

    fn tells_keys_of_envelopes(&self) -> bool {
        false
    }

    fn commits_above_the_frontier(&self) -> bool {
        self.mode != AckMode::Floor
    }

    fn open(&self, runtime: &Runtime, shape: &Shape) -> Result<Box<dyn Opened>, Failed> {
        let replicas = if self.server.nodes() > 1 { 3 } else { 1 };
        let mut builder =
            NatsBus::builder(runtime, self.server.url()).ack_mode(self.mode).replicas(replicas);
        let partitions = u32::try_from(shape.partitions)?;
        if partitions > 1 {
            builder = builder.topic("*", TopicOptions::partitioned(partitions));
        }
        if let Some(capacity) = shape.capacity {
            if self.mode == AckMode::Checkpoint {
                return Err(Failed::Unsupported(FULL_FOR_EVER));
            }
            // One that has room again once its records are acknowledged.
            builder =
                builder.retention(Retention::Interest).max_messages(capacity).discard(Discard::New);
        }
        let executor = tokio::runtime::Builder::new_current_thread().build()?;
        let bus = executor.block_on(builder.connect())?;
        Ok(Box::new(Open { bus, partitions }))
    }
}

impl Open {
    /// The place of a partition's last record.
    fn last(&self, topic: &str, partition: u32) -> Result<Option<u64>, Failed> {
        let executor = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let wanted = format!(r#"{{"last_by_subj":"{topic}.{partition}"}}"#);
        let subject = format!("$JS.API.STREAM.MSG.GET.STREAM_{topic}");
        let answer = executor.block_on(self.bus.control().request(subject, wanted.into()))?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
        Ok(answer["message"]["seq"].as_u64())
    }
}

impl Opened for Open {
    fn bus(&self) -> Bus {
        self.bus.bus()
    }

    fn restart(&self, subscription: &BusSubscription, how: Restart) -> Result<(), Failed> {
        Ok(self.bus.restart_consumer(subscription.subscriber().name(), how == Restart::Graceful)?)
    }

    fn progress(&self, subscription: &BusSubscription) -> Result<Vec<Progress>, Failed> {
        let seen = self.bus.progress(subscription.subscriber().name());
        // Topic after topic, and of each its partitions.
        let topics =
            subscription.topics().flat_map(|topic| (0..self.partitions).map(move |p| (topic, p)));
        let each = seen.into_iter().zip(topics).map(|((committed, end), (topic, partition))| {
            // Places are the stream's: a partition's end is behind its own last record, and the floor of some servers goes on
            // over records of the others behind that.
            if self.partitions == 1 {
                return Ok(Progress { partition, committed, end });
            }
            let end = self.last(topic, partition)?.map_or(committed, |last| last + 1);
            Ok(Progress { partition, committed: committed.min(end), end })
        });
        each.collect()
    }

    fn lose(&self, topic: &str, loss: Loss) -> Result<(), Failed> {
        if loss != Loss::Purged {
            return Err(Failed::Unsupported(MADE_ANEW));
        }
        let executor = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let purge = format!("$JS.API.STREAM.PURGE.STREAM_{topic}");
        let answer = executor.block_on(self.bus.control().request(purge, "".into()))?;
        let answer = String::from_utf8_lossy(&answer.payload).into_owned();
        if answer.contains(r#""success":true"#) { Ok(()) } else { Err(Failed::Broken(answer)) }
    }
}

/// What is not run, and why; nothing else may be left out.
const NOT_RUN: &[&str] = &[
    FULL_FOR_EVER,
    REFUSES_AT_ONCE,
    // Tests of their own do this to a server: nats_places, nats_poison, nats_service, parked_keys.
    MADE_ANEW,
    "deliveries cannot be held",
    "publishes cannot be made to fail",
    "records of other programs cannot be made",
    "parked keys are not stored",
    // What is promised instead is tried by the other modes' cases.
    "what is above the frontier is committed as well",
];

/// So many cases of a mode are under way at once: they wait more than they work, and each has names of its own.
const AT_ONCE: usize = 8;
/// On a cluster, where every stream and every consumer is a group of three.
const AT_ONCE_OF_THREE: usize = 2;

fn passes(mode: AckMode) {
    let Some(server) = Server::shared() else { return };
    let at_once = if server.nodes() > 1 { AT_ONCE_OF_THREE } else { AT_ONCE };
    let cases = Mutex::new(names());
    let next = || cases.lock().next();
    let run = || {
        let suite = Conformance::new(Nats { server, mode });
        let mut broken = Vec::new();
        while let Some(name) = next() {
            let begun = Instant::now();
            let case = suite.run_case(name);
            println!("{:4} s {case}", begun.elapsed().as_secs());
            match &case.ended {
                Ended::Passed => {}
                Ended::NotRun(why) if NOT_RUN.contains(why) => eprintln!("{case}"),
                _ => broken.push(case.to_string()),
            }
        }
        broken
    };
    let broken: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "{mode:?}:\n{}", broken.join("\n"));
}

#[test]
fn acknowledging_each_record() {
    passes(AckMode::Each);
}

#[test]
fn acknowledging_a_floor() {
    passes(AckMode::Floor);
}

#[test]
fn keeping_checkpoints() {
    passes(AckMode::Checkpoint);
}
