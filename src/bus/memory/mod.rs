//! The embedded bus: topics in memory, with partitions, redelivery, dead letters and injected faults.

mod faults;
mod feed;
mod log;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

pub use faults::Faults;

use self::faults::Fate;
use self::feed::{Command, Feed, Loop, Standing};
use self::log::Topic;
use super::{
    Bus, BusClosing, BusError, BusReport, BusSubscription, InvalidTopic, PublishError,
    PublishErrorKind, PublishFuture, Publishing, Subscribing, Transport,
};
use crate::clock::Time;
use crate::error::{ConfigError, HandlerError};
use crate::handler::Handler;
use crate::metrics::Counter;
use crate::outcome::Failure;
use crate::parker::{Parker, Unparker};
use crate::record::{MAX_KEY, Position, Record};
use crate::reply::{Answer, reply};
use crate::runtime::Runtime;
use crate::subscription::{DeadLetter, DeadLetterTo, Letter, Sending, Start, Subscription};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, Weak};
use crate::timer::Alarm;
use crate::unwind::guard;
use crate::wait_list::Place;

/// Called with every publish's topic and result.
pub type OnPublish = Box<dyn Fn(&str, Result<Position, &PublishErrorKind>) + Send + Sync>;

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

/// How far a subscription is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionProgress {
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

/// What the bus and its loop share.
struct Shared {
    runtime: Runtime,
    partitions: usize,
    capacity: usize,
    topics: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
    subscriptions: Mutex<Vec<Member>>,
    commands: Mutex<Commands>,
    waker: Unparker,
    faults: Faults,
    /// What it left, once it is closed.
    report: Mutex<Option<BusReport>>,
    closed: AtomicBool,
    abandoned: AtomicBool,
    on_publish: Option<OnPublish>,
    published: Counter,
    failed: Counter,
}

struct Member {
    name: String,
    topic: Arc<Topic>,
    group: u32,
    standings: Vec<Arc<Standing>>,
}

#[derive(Default)]
struct Commands {
    queue: Vec<Command>,
    ended: bool,
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

    /// How far the subscription `name` is in each partition; empty if there is none.
    pub fn progress(&self, name: &str) -> Vec<PartitionProgress> {
        let subscriptions = self.memory.shared.subscriptions.lock();
        let Some(member) = subscriptions.iter().find(|member| member.name == name) else {
            return Vec::new();
        };
        let partitions = (0..).zip(member.topic.partitions.iter()).zip(&member.standings);
        partitions
            .filter_map(|((number, partition), standing)| {
                let (progress, seen) = (partition.progress(member.group)?, standing.seen());
                Some(PartitionProgress {
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

    /// Ends a subscription: nothing more of it is delivered, and what only it had not finished goes. Waits
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
        let shared = Arc::new(Shared {
            partitions: self.partitions,
            capacity: self.capacity,
            topics: Mutex::default(),
            subscriptions: Mutex::default(),
            commands: Mutex::default(),
            waker: parker.unparker(),
            faults: Faults::new(parker.unparker()),
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
        self.shared.publish(topic, record, false)
    }

    fn subscribe(
        &self,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Subscribing {
        let shared = &self.shared;
        let subscribed = shared.subscribe(topic, subscription, handler, envelope);
        match subscribed {
            Ok(subscription) => Subscribing::ready(&shared.runtime, Ok(subscription)),
            Err(error) => Subscribing::ready(&shared.runtime, Err(error)),
        }
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

impl Shared {
    fn topic(&self, name: &str) -> Arc<Topic> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.get(name) {
            return topic.clone();
        }
        let name: Arc<str> = name.into();
        let topic = Arc::new(Topic::new(name.clone(), self.partitions, self.capacity));
        topics.insert(name, topic.clone());
        topic
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn has_ended(&self) -> bool {
        self.commands.lock().ended
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.commands.lock().queue)
    }

    /// Those who wait for room look again: there is none any more in a bus that closes.
    fn wake_publishers(&self) {
        let topics: Vec<_> = self.topics.lock().values().cloned().collect();
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            partition.waiting.wake_all(|| ());
        }
    }

    /// The loop ends: commands that come too late are answered by their being dropped, but for closes, which
    /// hear what everybody hears.
    fn end(&self, report: BusReport) {
        self.closed.store(true, Ordering::Release);
        *self.report.lock() = Some(report);
        let late = {
            let mut commands = self.commands.lock();
            commands.ended = true;
            std::mem::take(&mut commands.queue)
        };
        for command in late {
            if let Command::Close { answer, .. } = command {
                answer.give(Ok(report));
            }
        }
        self.wake_publishers();
        self.subscriptions.lock().clear();
        self.runtime.core().loops.lock().retain(|thread| !thread.is_same(&self.waker));
    }

    fn command(&self, command: Command) -> Result<(), BusError> {
        {
            let mut commands = self.commands.lock();
            if commands.ended {
                return Err(BusError::Closed);
            }
            commands.queue.push(command);
        }
        self.waker.unpark();
        Ok(())
    }

    /// Commands the loop and waits for its answer, even inside a handler: the loop waits for no handler.
    fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, BusError> {
        let (answer, mut reply) = reply();
        self.command(command(answer))?;
        crate::parker::with_current(|parker| {
            let mut cx = Context::from_waker(parker.waker());
            loop {
                if let Poll::Ready(answer) = Pin::new(&mut reply).poll(&mut cx) {
                    return answer.ok_or(BusError::Closed);
                }
                parker.park(None);
            }
        })
    }

    fn subscribe(
        self: &Arc<Self>,
        topic: &str,
        subscription: Subscription,
        handler: Handler,
        envelope: bool,
    ) -> Result<BusSubscription, BusError> {
        InvalidTopic::check(topic).map_err(BusError::InvalidTopic)?;
        if self.is_closed() {
            return Err(BusError::Closed);
        }
        let dead_letter: Option<Arc<dyn DeadLetter>> = match &subscription.dead_letter {
            DeadLetterTo::Nowhere => None,
            DeadLetterTo::Sink(sink) => Some(sink.clone()),
            DeadLetterTo::Topic(to) => {
                InvalidTopic::check(to).map_err(BusError::InvalidTopic)?;
                self.topic(to).keep();
                let from = topic.into();
                Some(Arc::new(ToTopic { shared: Arc::downgrade(self), from, to: to.clone() }))
            }
        };
        let latest = subscription.start == Start::Latest;
        let name = subscription.name.clone();
        let subscriber = self.runtime.subscribe_with(subscription, handler, dead_letter)?;
        let topic = self.topic(topic);
        let group = subscriber.entry.generation;
        let (mut feeds, mut standings) = (Vec::new(), Vec::new());
        for (number, partition) in (0..).zip(topic.partitions.iter()) {
            partition.join(group, latest);
            let standing = Arc::<Standing>::default();
            feeds.push(Feed::new(&topic, number, &subscriber, envelope, standing.clone()));
            standings.push(standing);
        }
        self.subscriptions.lock().push(Member { name, topic: topic.clone(), group, standings });
        let added = self.ask(|answer| Command::Add { feeds, answer }).and_then(|added| added);
        if let Err(error) = added {
            self.subscriptions.lock().retain(|member| member.group != group);
            topic.partitions.iter().for_each(|partition| partition.leave(group));
            drop(subscriber.remove());
            return Err(error);
        }
        Ok(BusSubscription { subscriber, topic: topic.name.clone() })
    }

    /// Publishes a record; a `letter` also while the bus closes, since what was read waits for it.
    fn publish(self: &Arc<Self>, topic: &str, record: Record, letter: bool) -> Publishing {
        let refuse = |kind: PublishErrorKind, record| {
            self.count(topic, Err(&kind));
            Publishing::ready(Err(PublishError::new(kind, record)))
        };
        if let Err(error) = InvalidTopic::check(topic) {
            return refuse(PublishErrorKind::InvalidTopic(error), record);
        }
        if record.key().is_some_and(|key| !(1..=MAX_KEY).contains(&key.len())) {
            return refuse(PublishErrorKind::InvalidKey, record);
        }
        let fate = self.faults.fate(topic);
        match fate {
            Fate::Stored | Fate::UnknownStored => {}
            Fate::Failed => {
                return refuse(PublishErrorKind::Failed("an injected fault".into()), record);
            }
            Fate::UnknownLost => {
                return refuse(PublishErrorKind::Unknown("an injected fault".into()), record);
            }
        }
        let own = self.topic(topic);
        let record = match record.timestamp() {
            Some(_) => record,
            None => record.with_timestamp(self.timestamp()),
        };
        let mut room = Room {
            partition: own.partition_of(&record),
            topic: own,
            shared: self.clone(),
            kept: (fate == Fate::UnknownStored).then(|| record.copy()),
            letter,
            record: Some(record),
            place: None,
            alarm: None,
            deadline: None,
        };
        match room.store() {
            Some(result) => Publishing::ready(result),
            None => Publishing::later(room, self.runtime.clock().clone()),
        }
    }

    /// Nanoseconds since the Unix epoch.
    fn timestamp(&self) -> i64 {
        let now = self.runtime.clock().system_time().duration_since(UNIX_EPOCH);
        now.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    fn count(&self, topic: &str, result: Result<Position, &PublishErrorKind>) {
        if result.is_err() {
            self.failed.add_shared(1);
        }
        if let Some(on_publish) = &self.on_publish {
            let _ = guard(|| on_publish(topic, result));
        }
    }
}

/// A publish, perhaps waiting for room in its partition.
struct Room {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    partition: u32,
    record: Option<Record>,
    /// What is given back though it is stored: a fault.
    kept: Option<Record>,
    /// Whether it is a dead letter of this bus.
    letter: bool,
    place: Option<Place>,
    alarm: Option<Alarm>,
    deadline: Option<Time>,
}

impl Room {
    /// Stores the record, if there is room.
    fn store(&mut self) -> Option<Result<Position, PublishError>> {
        let refuses = if self.letter { self.shared.has_ended() } else { self.shared.is_closed() };
        if refuses {
            return self.give_up(PublishErrorKind::Closed).map(Err);
        }
        let record = self.record.take()?;
        let partition = &self.topic.partitions[self.partition as usize];
        match partition.append(self.partition, record) {
            Ok(position) => {
                self.forget();
                self.shared.waker.unpark();
                self.shared.published.add_shared(1);
                let Some(kept) = self.kept.take() else {
                    self.shared.count(&self.topic.name, Ok(position));
                    return Some(Ok(position));
                };
                let kind = PublishErrorKind::Unknown("an injected fault".into());
                self.shared.count(&self.topic.name, Err(&kind));
                Some(Err(PublishError::new(kind, kept)))
            }
            Err(record) => {
                self.record = Some(record);
                // A subscription that was removed meanwhile may be all that keeps it full.
                self.shared.waker.unpark();
                None
            }
        }
    }

    fn forget(&mut self) {
        let waiting = &self.topic.partitions[self.partition as usize].waiting;
        self.place.take().into_iter().for_each(|place| waiting.leave(place));
        let timers = &self.shared.runtime.core().timers;
        self.alarm.take().into_iter().for_each(|alarm| timers.cancel(&alarm));
    }
}

impl Future for Room {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let waiting = &this.topic.partitions[this.partition as usize].waiting;
        this.place = Some(waiting.join(this.place, cx.waker()));
        // After joining: whoever makes room from here on calls.
        if let Some(result) = this.store() {
            return Poll::Ready(result);
        }
        let core = this.shared.runtime.core();
        let now = core.clock.now();
        let wait = core.config.wait;
        let deadline = *this.deadline.get_or_insert_with(|| now.after(wait));
        if now >= deadline {
            return match this.give_up(PublishErrorKind::Full) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            };
        }
        let timers = &this.shared.runtime.core().timers;
        this.alarm.take().into_iter().for_each(|alarm| timers.cancel(&alarm));
        this.alarm = Some(timers.set_task(deadline, cx.waker()));
        Poll::Pending
    }
}

impl PublishFuture for Room {
    fn give_up(&mut self, kind: PublishErrorKind) -> Option<PublishError> {
        let record = self.record.take()?;
        self.forget();
        self.shared.count(&self.topic.name, Err(&kind));
        Some(PublishError::new(kind, record))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Dead letters to a topic of the same bus: the record as it was, and how it failed in headers.
struct ToTopic {
    shared: Weak<Shared>,
    from: String,
    to: String,
}

impl DeadLetter for ToTopic {
    fn send(&self, letter: Letter) -> Sending {
        let Some(shared) = self.shared.upgrade() else {
            return Box::pin(std::future::ready(Err("the bus is gone".into())));
        };
        let mut record = letter
            .record
            .copy()
            .with_header("X-Original-Topic", &self.from)
            .with_header("X-Error-Message", letter.error.as_bytes())
            .with_header("X-Attempts", letter.attempts.to_string())
            .with_header("X-Subscription", letter.subscription.as_bytes());
        if let Some(Position { partition, offset }) = letter.record.position() {
            record = record
                .with_header("X-Original-Partition", partition.to_string())
                .with_header("X-Original-Offset", offset.to_string());
        }
        let publishing = shared.publish(&self.to, record, true);
        Box::pin(async move {
            match publishing.await {
                Ok(_) => Ok(()),
                Err(error) if error.is_retryable() => {
                    Err(HandlerError::retryable(error.to_string()))
                }
                // A closed bus takes it after the restart: the record stays unfinished.
                Err(error) if *error.kind() == PublishErrorKind::Closed => {
                    Err(HandlerError::retryable(error.to_string()))
                }
                Err(error) => Err(HandlerError::fatal(error.to_string())),
            }
        })
    }
}
