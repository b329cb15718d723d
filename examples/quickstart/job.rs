//! The runtime and the bus, and nothing else of the example: what a service would write.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use keylane::{HandlerError, MemoryBus, Record, Runtime, Subscription};

use crate::event::Topic;
use crate::run::Run;

/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(10);

/// Any of the errors of the steps below; the example only shows it.
pub(crate) type JobError = Box<dyn std::error::Error>;

/// One runtime, one bus, a subscription for each topic.
pub(crate) struct Job {
    runtime: Runtime,
    bus: MemoryBus,
}

/// What the runtime says of itself.
pub(crate) struct Load {
    pub(crate) workers: usize,
    /// How many events each lane handled.
    pub(crate) lanes: Vec<u64>,
}

impl Job {
    /// Starts the runtime and subscribes `run` to all topics.
    pub(crate) fn start(
        workers: Option<NonZeroUsize>,
        lanes: Option<NonZeroUsize>,
        run: &Arc<Run>,
    ) -> Result<Self, JobError> {
        let mut builder = Runtime::builder();
        if let Some(workers) = workers {
            builder = builder.workers(workers.get());
        }
        if let Some(lanes) = lanes {
            builder = builder.lanes(lanes.get());
        }
        let runtime = builder.build()?;
        let bus = MemoryBus::new(&runtime)?;
        for topic in Topic::ALL {
            let run = Arc::clone(run);
            let handler = move |record: &Record| {
                // What is not an event of this run is none at the next attempt either.
                run.handle(topic, record.key(), record.payload()).map_err(HandlerError::fatal)
            };
            bus.subscribe(topic.name(), Subscription::new(topic.subscription()), handler).wait()?;
        }
        Ok(Self { runtime, bus })
    }

    /// Publishes an event; once this returns `Ok`, the bus has it.
    pub(crate) fn publish(
        &self,
        topic: Topic,
        key: Option<&str>,
        payload: &[u8],
    ) -> Result<(), JobError> {
        let record = match key {
            Some(key) => Record::new(key, payload),
            None => Record::keyless(payload),
        };
        self.bus.publish(topic.name(), record).wait()?;
        Ok(())
    }

    /// Closes the bus and the runtime; after this no handler runs.
    pub(crate) fn close(self) -> Result<Load, JobError> {
        self.bus.close(CLOSE).wait()?;
        self.runtime.close(CLOSE)?;
        let snapshot = self.runtime.snapshot();
        let lanes = snapshot.lanes.iter().map(|lane| lane.handled).collect();
        Ok(Load { workers: snapshot.workers.len(), lanes })
    }
}
