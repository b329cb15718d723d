//! The embedded bus: topics in memory, with partitions, redelivery, dead letters and injected faults.

mod consume;
mod faults;
mod feed;
mod log;
mod room;
mod shared;
mod subscribe;

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

pub use faults::Faults;
pub use shared::OnPublish;

use self::consume::Loop;
use self::feed::Command;
use self::room::Publisher;
use self::shared::Shared;
use crate::bus::{
    Bus, BusClosing, BusError, BusHealth, BusReport, BusSubscription, Events, Groups, Health,
    PublishErrorKind, Publishing, Subscribing, Topics, Transport,
};
use crate::error::ConfigError;
use crate::handler::Handler;
use crate::metrics::Counter;
use crate::outcome::Failure;
use crate::parker::Parker;
use crate::record::{Position, Record};
use crate::reply::reply;
use crate::runtime::Runtime;
use crate::subscription::Subscription;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, OnceLock};

/// The embedded bus. What is published lives in this process's memory until every subscription of its topic
/// has finished it.
///
/// A [`Bus`] with a few calls more: those that tests need. Clones are the same bus.
///
/// ```
/// use std::time::Duration;
/// use keylane::memory::MemoryBus;
/// use keylane::{Envelope, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let bus = MemoryBus::new(&runtime)?;
/// let policy = Subscription::new("billing").dead_letter("orders.dead");
/// bus.subscribe_envelope("orders", policy, |envelope: &Envelope<'_>| {
///     assert_eq!(envelope.event_type, "OrderPlaced");
///     Ok(())
/// })
/// .wait()?;
/// let event = Envelope::new("order-42", "OrderPlaced", 1, r#"{"total":7}"#);
/// bus.publish_envelope("orders", &event).wait()?;
/// assert!(bus.close(Duration::from_secs(5)).wait()?.drained);
/// # runtime.close(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MemoryBus {
    bus: Bus,
    memory: Arc<Memory>,
}

/// Builds a memory bus.
///
/// ```
/// use keylane::memory::MemoryBus;
/// use keylane::{Record, Runtime};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let bus = MemoryBus::builder(&runtime).partitions(4).capacity(1_000).build()?;
/// let position = bus.publish("orders", Record::new("order-42", "paid")).wait()?;
/// assert!(position.partition < 4 && position.offset == 0);
/// assert_eq!((bus.stored("orders"), bus.counts().published), (1, 1));
/// assert!(MemoryBus::builder(&runtime).partitions(0).build().is_err());
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct MemoryBuilder {
    runtime: Runtime,
    partitions: usize,
    capacity: usize,
    on_publish: Option<OnPublish>,
}

/// How far a subscription is in one partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionProgress {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// Everything below this offset is finished.
    pub frontier: u64,
    /// The offset that the next published record gets.
    pub end: u64,
    /// Delivered and not finished.
    pub unfinished: usize,
    /// The number of the assignment, which changes with every restart.
    pub epoch: u32,
    /// The failure that stopped it, if one did.
    pub stopped_by: Option<Failure>,
}

/// What a memory bus has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryCounts {
    /// Records stored.
    pub published: u64,
    /// Publishes that failed.
    pub failed: u64,
}

struct Memory {
    shared: Arc<Shared>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Release);
        self.shared.waker.unpark();
    }
}

impl MemoryBus {
    /// A bus whose topics have one partition of 65,536 records.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(runtime: &Runtime) -> Result<Self, BusError> {
        Self::builder(runtime).build()
    }

    /// A builder.
    pub fn builder(runtime: &Runtime) -> MemoryBuilder {
        MemoryBuilder {
            runtime: runtime.clone(),
            partitions: 1,
            capacity: 65_536,
            on_publish: None,
        }
    }

    /// The bus alone.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }

    /// Its faults, for tests.
    pub fn faults(&self) -> &Faults {
        &self.memory.shared.faults
    }

    /// What it has counted.
    pub fn counts(&self) -> MemoryCounts {
        let shared = &self.memory.shared;
        MemoryCounts { published: shared.published.get(), failed: shared.failed.get() }
    }

    /// How far the subscription `name` is in each partition of each of its topics; empty if there is none.
    pub fn progress(&self, name: &str) -> Vec<PartitionProgress> {
        let subscriptions = self.memory.shared.subscriptions.lock();
        let own = subscriptions.iter().filter(|member| member.name == name);
        let partitions = own.flat_map(|member| {
            let partitions = (0..).zip(member.topic.partitions.iter()).zip(&member.standings);
            partitions.map(move |partition| (member, partition))
        });
        partitions
            .filter_map(|(member, ((number, partition), standing))| {
                let (progress, seen) = (partition.progress(member.group)?, standing.seen());
                Some(PartitionProgress {
                    topic: member.topic.name.clone(),
                    partition: number,
                    frontier: progress.frontier,
                    end: progress.end,
                    unfinished: seen.unfinished,
                    epoch: seen.epoch,
                    stopped_by: seen.stopped_by,
                })
            })
            .collect()
    }

    /// Restarts the consumer of a subscription as if its process had crashed: whatever is not below the
    /// committed frontier is delivered again, under a new epoch. Attempts under way go on, and count no more.
    /// A partition that had stopped goes on. Nothing happens if there is no subscription of this name.
    ///
    /// # Errors
    /// [`BusError::Closed`] if the bus is, [`BusError::NotSubscribed`] if it has no such subscription.
    pub fn crash_consumer(&self, name: &str) -> Result<(), BusError> {
        self.restart(name, false)
    }

    /// Restarts the consumer of a subscription where it is: what is finished by now is committed first, and not
    /// delivered again. Attempts under way go on, and count no more.
    ///
    /// # Errors
    /// [`BusError::Closed`] if the bus is, [`BusError::NotSubscribed`] if it has no such subscription.
    pub fn restart_consumer(&self, name: &str) -> Result<(), BusError> {
        self.restart(name, true)
    }

    fn restart(&self, name: &str, finished: bool) -> Result<(), BusError> {
        let shared = &self.memory.shared;
        let group = {
            let subscriptions = shared.subscriptions.lock();
            match subscriptions.iter().find(|member| member.name == name) {
                Some(member) => member.group,
                None if shared.is_closed() => return Err(BusError::Closed),
                None => return Err(BusError::NotSubscribed(name.to_owned())),
            }
        };
        shared.ask(|answer| Command::Restart { group, finished, answer })?
    }

    /// Ends a subscription: nothing more of it is delivered, and what only it had not finished may go. The position of
    /// its group is kept: a later subscription of that group goes on there, or at the oldest record that is left. Waits
    /// until its handlers run no more; inside a handler it does not wait.
    ///
    /// # Errors
    /// [`BusError::Closed`] if the bus is.
    pub fn unsubscribe(&self, subscription: &BusSubscription) -> Result<(), BusError> {
        let shared = &self.memory.shared;
        let group = subscription.subscriber.entry.generation;
        shared.subscriptions.lock().retain(|member| member.group != group);
        shared.ask(|answer| Command::Remove { group, answer })?;
        // Its records are the bus': none was submitted in process.
        let _ = subscription.subscriber.remove().wait();
        Ok(())
    }

    /// Drops what a topic holds, whether it was handled or not, as retention or somebody's purge would. A topic that
    /// is not there stays so.
    pub fn purge(&self, topic: &str) {
        self.drop_all(topic, false);
    }

    /// Drops what a topic holds and has its offsets begin anew, as if somebody had deleted it and made it again.
    pub fn recreate(&self, topic: &str) {
        self.drop_all(topic, true);
    }

    fn drop_all(&self, topic: &str, anew: bool) {
        let shared = &self.memory.shared;
        let found = shared.topics.lock().get(topic).cloned();
        let partitions = found.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| partition.purge(anew));
        shared.waker.unpark();
    }

    /// Publishes a record as another program might: its key may be empty, or longer than any key may be.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub fn publish_foreign(&self, topic: &str, record: Record) -> Publishing {
        self.memory.shared.publish(topic, record, Publisher::Foreign)
    }

    /// Records that a topic holds.
    pub fn stored(&self, topic: &str) -> usize {
        let topics = self.memory.shared.topics.lock();
        topics.get(topic).map_or(0, |topic| topic.partitions.iter().map(|p| p.len()).sum())
    }
}

impl Deref for MemoryBus {
    type Target = Bus;

    fn deref(&self) -> &Bus {
        &self.bus
    }
}

impl fmt::Debug for MemoryBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBus").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl MemoryBuilder {
    /// Partitions of each topic, 1 to 1,024.
    pub fn partitions(mut self, partitions: usize) -> Self {
        self.partitions = partitions;
        self
    }

    /// Records that a partition holds, 1 to 16,777,216. A publish to a full one waits for the runtime's
    /// `wait`. Without any subscription the oldest go, but for dead letters.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Called with every publish's topic and result.
    pub fn on_publish(
        mut self,
        on_publish: impl Fn(&str, Result<Position, &PublishErrorKind>) + Send + Sync + 'static,
    ) -> Self {
        self.on_publish = Some(Box::new(on_publish));
        self
    }

    /// Builds the bus and starts its thread.
    ///
    /// # Errors
    /// [`BusError::Config`] for a number out of its range, [`BusError::Thread`] if the system gives no thread.
    pub fn build(self) -> Result<MemoryBus, BusError> {
        let out = |option, given: usize, allowed| {
            Err(BusError::Config(ConfigError::OutOfRange {
                option,
                given: given.to_string(),
                allowed,
            }))
        };
        if !(1..=1_024).contains(&self.partitions) {
            return out("partitions", self.partitions, "a number from 1 to 1024");
        }
        if !(1..=1 << 24).contains(&self.capacity) {
            return out("capacity", self.capacity, "a number from 1 to 16777216");
        }
        let parker = Parker::new();
        let health = BusHealth::new(self.runtime.clock());
        let shared = Arc::new(Shared {
            partitions: self.partitions,
            capacity: self.capacity,
            topics: Mutex::default(),
            subscriptions: Mutex::default(),
            commands: Mutex::default(),
            waker: parker.unparker(),
            looper: OnceLock::new(),
            faults: Faults::new(parker.unparker()),
            groups: Groups::new(&health),
            health,
            report: Mutex::default(),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            on_publish: self.on_publish,
            published: Counter::default(),
            failed: Counter::default(),
            runtime: self.runtime,
        });
        let core = shared.runtime.core();
        let consume = Loop::new(&shared);
        core.loops.lock().push(shared.waker.clone());
        if let Err(error) = core.spawner.spawn("mem", move || consume.run(&parker)) {
            shared.end(BusReport::default());
            return Err(BusError::Thread(error));
        }
        let memory = Arc::new(Memory { shared });
        Ok(MemoryBus { bus: Bus(memory.clone()), memory })
    }
}

impl fmt::Debug for MemoryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBuilder")
            .field("partitions", &self.partitions)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl Transport for Memory {
    fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    fn publish(&self, topic: &str, record: Record) -> Publishing {
        self.shared.publish(topic, record, Publisher::Own)
    }

    fn subscribe(
        &self,
        topics: Topics,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing {
        let shared = &self.shared;
        let subscribed = shared.subscribe(&topics, subscription, handler, envelope);
        match subscribed {
            Ok(subscription) => Subscribing::ready(&shared.runtime, Ok(subscription)),
            Err(error) => Subscribing::ready(&shared.runtime, Err(error)),
        }
    }

    fn health(&self) -> Health {
        self.shared.health.health()
    }

    fn events(&self) -> Events {
        self.shared.health.events()
    }

    fn close(&self, timeout: Duration) -> BusClosing {
        let shared = &self.shared;
        shared.closed.store(true, Ordering::Release);
        shared.wake_publishers();
        let deadline = shared.runtime.clock().now().after(timeout);
        let (answer, reply) = reply();
        match shared.command(Command::Close { deadline, answer }) {
            Ok(()) => BusClosing::later(&shared.runtime, reply),
            // It was closed before: everybody hears the same.
            Err(_) => {
                let report = shared.report.lock().unwrap_or_default();
                BusClosing::ready(&shared.runtime, Ok(report))
            }
        }
    }
}
