//! The suite that every bus passes, on a real server and in every way to acknowledge.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/broker.rs"]
mod broker;

use std::thread;
use std::time::Instant;

use broker::Server;
use keylane::nats::{AckMode, NatsBus};
use keylane::testing::conformance::{
    Conformance, Ended, Failed, Fixture, Loss, Opened, Progress, Restart, Shape, names,
};
use keylane::{Bus, BusSubscription, Runtime};
use parking_lot::Mutex;

struct Nats {
    server: &'static Server,
    mode: AckMode,
}

struct Open(NatsBus);

impl Fixture for Nats {
    fn takes_any_header_name(&self) -> bool {
        false
    }

    fn tells_keys_of_envelopes(&self) -> bool {
        false
    }

    fn commits_above_the_frontier(&self) -> bool {
        self.mode != AckMode::Floor
    }

    fn open(&self, runtime: &Runtime, shape: &Shape) -> Result<Box<dyn Opened>, Failed> {
        if shape.partitions > 1 {
            return Err(Failed::Unsupported("partitions"));
        }
        if shape.capacity.is_some() {
            return Err(Failed::Unsupported("a full stream"));
        }
        let executor = tokio::runtime::Builder::new_current_thread().build()?;
        let replicas = if self.server.nodes() > 1 { 3 } else { 1 };
        let builder = NatsBus::builder(runtime, self.server.url()).ack_mode(self.mode);
        let bus = builder.replicas(replicas).connect();
        Ok(Box::new(Open(executor.block_on(bus)?)))
    }
}

impl Opened for Open {
    fn bus(&self) -> Bus {
        self.0.bus()
    }

    fn restart(&self, subscription: &BusSubscription, how: Restart) -> Result<(), Failed> {
        Ok(self.0.restart_consumer(subscription.subscriber().name(), how == Restart::Graceful)?)
    }

    fn progress(&self, subscription: &BusSubscription) -> Result<Vec<Progress>, Failed> {
        let progress = self.0.progress(subscription.subscriber().name()).into_iter();
        Ok(progress.map(|(committed, end)| Progress { partition: 0, committed, end }).collect())
    }

    fn lose(&self, topic: &str, loss: Loss) -> Result<(), Failed> {
        if loss != Loss::Purged {
            return Err(Failed::Unsupported("streams are made anew in tests of their own"));
        }
        let executor = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let purge = format!("$JS.API.STREAM.PURGE.STREAM_{topic}");
        let answer = executor.block_on(self.0.control().request(purge, "".into()))?;
        let answer = String::from_utf8_lossy(&answer.payload).into_owned();
        if answer.contains(r#""success":true"#) { Ok(()) } else { Err(Failed::Broken(answer)) }
    }
}

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
        let mut results = Vec::new();
        while let Some(case) = next() {
            let begun = Instant::now();
            let result = suite.run_case(case);
            println!("{:4} s {result}", begun.elapsed().as_secs());
            results.push(result);
        }
        results
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.len(), names().count());
    let not_run = results.iter().filter(|case| matches!(case.ended, Ended::NotRun(_)));
    not_run.for_each(|case| eprintln!("{case}"));
    let failed: Vec<_> = results.iter().filter(|case| case.has_failed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
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
