//! Faults that a test injects into a memory bus.

use std::collections::HashMap;

use crate::parker::Unparker;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Faults of a [`MemoryBus`](super::MemoryBus), for tests of what a service does when its bus fails.
///
/// ```
/// use keylane::memory::MemoryBus;
/// use keylane::{Record, Runtime};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let bus = MemoryBus::new(&runtime)?;
/// bus.faults().fail_publishes("orders", 1);
/// let failed = bus.publish("orders", Record::new("order-42", "paid")).wait().unwrap_err();
/// assert!(failed.is_retryable() && !failed.outcome_unknown());
/// bus.publish("orders", failed.into_record()).wait()?;
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Faults {
    any: AtomicBool,
    topics: Mutex<HashMap<String, TopicFaults>>,
    /// Wakes the bus's loop.
    waker: Unparker,
}

#[derive(Debug, Default)]
struct TopicFaults {
    failing: u64,
    unknown_stored: u64,
    unknown_lost: u64,
    held: bool,
}

/// What becomes of one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    Failed,
    /// The result is lost, the record is stored.
    UnknownStored,
    /// Both are lost.
    UnknownLost,
}

impl Faults {
    pub(super) fn new(waker: Unparker) -> Self {
        Self { any: AtomicBool::new(false), topics: Mutex::default(), waker }
    }

    /// The next `count` publishes to `topic` fail; the records are not stored.
    pub fn fail_publishes(&self, topic: &str, count: u64) {
        self.change(topic, |faults| faults.failing = count);
    }

    /// The results of the next `count` publishes to `topic` are lost; the records are stored if `stored`.
    pub fn lose_results(&self, topic: &str, count: u64, stored: bool) {
        self.change(topic, |faults| {
            if stored {
                faults.unknown_stored = count;
            } else {
                faults.unknown_lost = count;
            }
        });
    }

    /// Nothing of `topic` is delivered until [`release`](Self::release): what a broker that does not answer
    /// looks like.
    pub fn hold(&self, topic: &str) {
        self.change(topic, |faults| faults.held = true);
    }

    /// Ends a [`hold`](Self::hold).
    pub fn release(&self, topic: &str) {
        self.change(topic, |faults| faults.held = false);
        self.waker.unpark();
    }

    fn change(&self, topic: &str, change: impl FnOnce(&mut TopicFaults)) {
        change(self.topics.lock().entry(topic.to_owned()).or_default());
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn fate(&self, topic: &str) -> Fate {
        if !self.any.load(Ordering::Acquire) {
            return Fate::Stored;
        }
        let mut topics = self.topics.lock();
        let Some(faults) = topics.get_mut(topic) else { return Fate::Stored };
        for (count, fate) in [
            (&mut faults.failing, Fate::Failed),
            (&mut faults.unknown_stored, Fate::UnknownStored),
            (&mut faults.unknown_lost, Fate::UnknownLost),
        ] {
            if *count > 0 {
                *count -= 1;
                return fate;
            }
        }
        Fate::Stored
    }

    pub(super) fn holds(&self, topic: &str) -> bool {
        self.any.load(Ordering::Acquire)
            && self.topics.lock().get(topic).is_some_and(|faults| faults.held)
    }
}
