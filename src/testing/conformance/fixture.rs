//! What a bus gives the suite.

use std::fmt;

use crate::bus::{Bus, BusSubscription};
use crate::record::Record;
use crate::runtime::Runtime;

/// One kind of bus, as the suite opens it.
pub trait Fixture: Sync {
    /// Whether all that the bus waits for is on the runtime's clock, so that a
    /// [`VirtualClock`](crate::testing::VirtualClock) drives it.
    fn has_virtual_time(&self) -> bool {
        false
    }

    /// Whether a header's name may be of any bytes, and not only of those that most protocols take.
    fn takes_any_header_name(&self) -> bool {
        true
    }

    /// Whether a publish to a full topic waits for room, and is not refused at once.
    fn holds_publishers_of_full_topics(&self) -> bool {
        true
    }

    /// Whether handlers of raw records see the key of what was published as an envelope: not where it stands in the body
    /// alone.
    fn tells_keys_of_envelopes(&self) -> bool {
        true
    }

    /// Whether what is finished above the frontier is committed, too, so that not even a crash repeats it.
    fn commits_above_the_frontier(&self) -> bool {
        false
    }

    /// Opens a bus of its own for one case. Topics and subscriptions are named anew in each case.
    ///
    /// # Errors
    /// [`Failed::Unsupported`] if it cannot be of this shape: the case is not run.
    fn open(&self, runtime: &Runtime, shape: &Shape) -> Result<Box<dyn Opened>, Failed>;
}

/// A bus that a case has opened, and what only its own side can do with it. What it cannot do is
/// [`Failed::Unsupported`], the default: cases that need it are not run.
pub trait Opened: Send + Sync {
    /// The bus.
    fn bus(&self) -> Bus;

    /// Restarts the consumer of a subscription and returns once the old one delivers no more.
    ///
    /// # Errors
    /// If it cannot, or it did not work.
    fn restart(&self, subscription: &BusSubscription, how: Restart) -> Result<(), Failed> {
        let _ = (subscription, how);
        Err(Failed::Unsupported("a consumer cannot be restarted"))
    }

    /// How far a subscription has committed, by partition.
    ///
    /// # Errors
    /// If it cannot tell.
    fn progress(&self, subscription: &BusSubscription) -> Result<Vec<Progress>, Failed> {
        let _ = subscription;
        Err(Failed::Unsupported("how far a subscription is cannot be told"))
    }

    /// While `broken`, publishes to the topic fail.
    ///
    /// # Errors
    /// If it cannot break topics.
    fn break_topic(&self, topic: &str, broken: bool) -> Result<(), Failed> {
        let _ = (topic, broken);
        Err(Failed::Unsupported("publishes cannot be made to fail"))
    }

    /// While `held`, nothing of the topic is delivered.
    ///
    /// # Errors
    /// If it cannot hold topics.
    fn hold_topic(&self, topic: &str, held: bool) -> Result<(), Failed> {
        let _ = (topic, held);
        Err(Failed::Unsupported("deliveries cannot be held"))
    }

    /// Publishes a record as another program might: its key may be empty, or longer than any key may be.
    ///
    /// # Errors
    /// If it cannot, or it did not work.
    fn publish_foreign(&self, topic: &str, record: Record) -> Result<(), Failed> {
        let _ = (topic, record);
        Err(Failed::Unsupported("records of other programs cannot be made"))
    }

    /// Has what the topic holds be gone, so that who has not read it has lost its position.
    ///
    /// # Errors
    /// If it cannot, or it did not work.
    fn lose(&self, topic: &str, loss: Loss) -> Result<(), Failed> {
        let _ = (topic, loss);
        Err(Failed::Unsupported("positions cannot be lost"))
    }

    /// Whether a group's parked keys are stored with its position.
    fn keeps_parked(&self) -> bool {
        false
    }

    /// Ends a subscription for good, and returns once no handler of it runs.
    ///
    /// # Errors
    /// If it did not work.
    fn unsubscribe(&self, subscription: &BusSubscription) -> Result<(), Failed> {
        subscription.subscriber().remove().wait()?;
        Ok(())
    }
}

/// How a consumer is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restart {
    /// It commits what is finished, then begins anew.
    Graceful,
    /// As after the death of its process: what was not committed before counts as unfinished.
    Crash,
}

/// How the records of a topic go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// By retention or a purge: positions go on.
    Purged,
    /// The topic was deleted and made anew: positions begin again.
    MadeAnew,
}

/// How far a subscription is in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: u32,
    /// Everything below this offset is committed as finished.
    pub committed: u64,
    /// The offset after the newest record.
    pub end: u64,
}

/// What a case needs of its runtime and its bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shape {
    /// Workers of the runtime.
    pub workers: usize,
    /// Lanes of the runtime.
    pub lanes: usize,
    /// Partitions of each topic.
    pub partitions: usize,
    /// Records that a partition takes before it is full; `None`: more than the case has.
    pub capacity: Option<usize>,
}

impl Shape {
    /// Two workers, eight lanes, one partition.
    pub const fn new() -> Self {
        Self { workers: 2, lanes: 8, partitions: 1, capacity: None }
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, lanes, partitions, .. } = self;
        write!(f, "{workers} workers, {lanes} lanes, {partitions} partitions")
    }
}

/// Why a case did not pass. Any error converts by `?` into a broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failed {
    /// The fixture cannot do this: the case is not run.
    Unsupported(&'static str),
    /// The promise is broken.
    Broken(String),
}

// `Failed` does not implement `Error`, so that this can exist.
impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Broken(error.to_string())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(what) => write!(f, "unsupported: {what}"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}
