//! What a memory bus and its consume loop share: topics, subscriptions, commands.

use super::faults::Faults;
use super::feed::{Command, Standing};
use super::log::Topic;
use crate::bus::{BusError, BusHealth, BusReport, Groups, PublishErrorKind};
use crate::metrics::Counter;
use crate::parker::Unparker;
use crate::record::Position;
use crate::reply::{Answer, reply};
use crate::runtime::Runtime;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, OnceLock, ThreadId, current_thread};
use crate::unwind::guard;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::UNIX_EPOCH;

/// Called with every publish's topic and result.
pub type OnPublish = Box<dyn Fn(&str, Result<Position, &PublishErrorKind>) + Send + Sync>;

/// What the bus and its loop share.
pub(super) struct Shared {
    pub(super) runtime: Runtime,
    pub(super) partitions: usize,
    pub(super) capacity: usize,
    pub(super) topics: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
    pub(super) subscriptions: Mutex<Vec<Member>>,
    pub(super) groups: Groups,
    pub(super) health: BusHealth,
    pub(super) commands: Mutex<Commands>,
    pub(super) waker: Unparker,
    /// The loop's thread, once it runs.
    pub(super) looper: OnceLock<ThreadId>,
    pub(super) faults: Faults,
    /// What it left, once it is closed.
    pub(super) report: Mutex<Option<BusReport>>,
    pub(super) closed: AtomicBool,
    pub(super) abandoned: AtomicBool,
    pub(super) on_publish: Option<OnPublish>,
    pub(super) published: Counter,
    pub(super) failed: Counter,
}

pub(super) struct Member {
    pub(super) name: String,
    pub(super) topic: Arc<Topic>,
    pub(super) group: u32,
    pub(super) standings: Vec<Arc<Standing>>,
}

#[derive(Default)]
pub(super) struct Commands {
    pub(super) queue: Vec<Command>,
    pub(super) ended: bool,
}

impl Shared {
    pub(super) fn topic(&self, name: &str) -> Arc<Topic> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.get(name) {
            return topic.clone();
        }
        let name: Arc<str> = name.into();
        let topic = Arc::new(Topic::new(name.clone(), self.partitions, self.capacity));
        topics.insert(name, topic.clone());
        topic
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.commands.lock().ended
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.commands.lock().queue)
    }

    /// Those who wait for room look again: there is none any more in a bus that closes.
    pub(super) fn wake_publishers(&self) {
        let topics: Vec<_> = self.topics.lock().values().cloned().collect();
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            partition.waiting.wake_all(|| ());
        }
    }

    /// The loop ends: commands that come too late are answered by their being dropped, but for closes, which
    /// hear what everybody hears.
    pub(super) fn end(&self, report: BusReport) {
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

    pub(super) fn command(&self, command: Command) -> Result<(), BusError> {
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

    /// This thread is the loop's.
    pub(super) fn begin_loop(&self) {
        let _ = self.looper.set(current_thread().id());
    }

    /// Commands the loop and waits for its answer, even inside a handler: the loop waits for no handler. On the
    /// loop itself, in a notice or a drop that it runs, it only commands.
    pub(super) fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, BusError> {
        let (answer, mut reply) = reply();
        self.command(command(answer))?;
        if self.looper.get() == Some(&current_thread().id()) {
            return Err(BusError::WouldDeadlock);
        }
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

    /// Nanoseconds since the Unix epoch.
    pub(super) fn timestamp(&self) -> i64 {
        let now = self.runtime.clock().system_time().duration_since(UNIX_EPOCH);
        now.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    pub(super) fn count(&self, topic: &str, result: Result<Position, &PublishErrorKind>) {
        let publishes = &self.runtime.core().publishes;
        let counter = match result {
            Ok(_) => &publishes.confirmed,
            Err(PublishErrorKind::Full) => &publishes.full,
            Err(PublishErrorKind::Unknown(_)) => &publishes.unknown,
            Err(_) => &publishes.failed,
        };
        counter.add_shared(1);
        if result.is_err() {
            self.failed.add_shared(1);
        }
        if let Some(on_publish) = &self.on_publish {
            let _ = guard(|| on_publish(topic, result));
        }
    }
}
