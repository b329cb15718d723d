//! The runtime and the bus, and nothing else of the example: what a service would write.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use keylane::{Bus, HandlerError, MemoryBus, Record, Runtime, Subscription};

use crate::args::Args;
use crate::event::Topic;
use crate::outbox::Outbox;
use crate::run::Run;
#[cfg(feature = "nats")]
use crate::server::Server;

/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(10);

/// Any of the errors of the steps below; the example only shows it.
pub(crate) type JobError = Box<dyn std::error::Error>;

/// One runtime, one bus, a subscription for each topic.
pub(crate) struct Job {
    runtime: Runtime,
    bus: Bus,
    /// What the topics are called on the bus, in the order of [`Topic::ALL`].
    names: [String; 3],
    outbox: RefCell<Outbox>,
    #[cfg(feature = "nats")]
    server: Option<Server>,
}

/// What the runtime says of itself, once it is closed.
pub(crate) struct Load {
    pub(crate) workers: usize,
    /// How many events each lane handled.
    pub(crate) lanes: Vec<u64>,
}

impl Job {
    /// Starts the runtime, connects the bus, and subscribes `run` to all topics.
    pub(crate) fn start(args: &Args, run: &Arc<Run>) -> Result<Self, JobError> {
        let mut builder = Runtime::builder();
        let count = |count: Option<NonZeroUsize>| count.map(NonZeroUsize::get);
        if let Some(workers) = count(args.workers) {
            builder = builder.workers(workers);
        }
        if let Some(lanes) = count(args.lanes) {
            builder = builder.lanes(lanes);
        }
        let runtime = builder.build()?;
        let job = match args.bus.as_deref() {
            None | Some("memory:") => Self {
                bus: MemoryBus::new(&runtime)?.bus(),
                names: Topic::ALL.map(|topic| topic.name().to_owned()),
                outbox: RefCell::default(),
                #[cfg(feature = "nats")]
                server: None,
                runtime,
            },
            Some(url) => Self::on_server(runtime, url)?,
        };
        for (topic, name) in Topic::ALL.into_iter().zip(&job.names) {
            let run = Arc::clone(run);
            let handler = move |record: &Record| {
                // What is not an event of this run is none at the next attempt either.
                run.handle(topic, record.key(), record.payload()).map_err(HandlerError::fatal)
            };
            let subscription = Subscription::new(topic.subscription());
            job.bus.subscribe(name, subscription, handler).wait()?;
        }
        Ok(job)
    }

    #[cfg(feature = "nats")]
    fn on_server(runtime: Runtime, url: &str) -> Result<Self, JobError> {
        let server = Server::connect(&runtime, url)?;
        Ok(Self {
            bus: server.bus(),
            names: Topic::ALL.map(|topic| server.topic(topic)),
            outbox: RefCell::default(),
            server: Some(server),
            runtime,
        })
    }

    #[cfg(not(feature = "nats"))]
    fn on_server(_: Runtime, _: &str) -> Result<Self, JobError> {
        Err("this build has no bus but `memory:`; for one over NATS: cargo run --release --example quickstart \
             --features nats -- --bus nats://HOST"
            .into())
    }

    /// Publishes an event under its id. On memory the bus has it once this returns; on a server, once
    /// [`flush`](Self::flush) has.
    pub(crate) fn publish(
        &self,
        topic: Topic,
        key: Option<&str>,
        id: u64,
        payload: &[u8],
    ) -> Result<(), JobError> {
        let record = match key {
            Some(key) => Record::new(key, payload),
            None => Record::keyless(payload),
        };
        let name = &self.names[topic as usize];
        if self.is_in_memory() {
            self.bus.publish(name, record).wait()?;
        } else {
            // By this id a server that was restarted knows what it has already.
            let record = record.with_header("Nats-Msg-Id", id.to_string());
            self.outbox.borrow_mut().publish(&self.bus, topic, key, name, record)?;
        }
        Ok(())
    }

    /// Waits until all that was published is on the bus.
    pub(crate) fn flush(&self) -> Result<(), JobError> {
        Ok(self.outbox.borrow_mut().flush(&self.bus)?)
    }

    fn is_in_memory(&self) -> bool {
        #[cfg(feature = "nats")]
        return self.server.is_none();
        #[cfg(not(feature = "nats"))]
        true
    }

    /// How often the server was lost and found again: as often, it may deliver again what was handled.
    pub(crate) fn reconnects(&self) -> u64 {
        #[cfg(feature = "nats")]
        return self.server.as_ref().map_or(0, Server::reconnects);
        #[cfg(not(feature = "nats"))]
        0
    }

    /// Closes the bus and the runtime; after this no handler runs. Removes what a server has of this run, unless it
    /// is to be kept.
    pub(crate) fn close(self, keep: bool) -> Result<Load, JobError> {
        let closed = self.bus.close(CLOSE).wait();
        self.runtime.close(CLOSE)?;
        #[cfg(feature = "nats")]
        if let Some(server) = self.server.as_ref().filter(|_| !keep) {
            server.remove_streams();
        }
        #[cfg(not(feature = "nats"))]
        let _ = keep;
        closed?;
        let snapshot = self.runtime.snapshot();
        let lanes = snapshot.lanes.iter().map(|lane| lane.handled).collect();
        Ok(Load { workers: snapshot.workers.len(), lanes })
    }
}
