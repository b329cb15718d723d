//! What the judge knows of records, deliveries, subscriptions, assignments and the runtime's end.

use super::script::{Item, KEYS, Policy};
use crate::clock::Time;
use crate::position::Stored;

/// A record, whether it is submitted in process or comes from a partition.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) item: Item,
    pub(super) to: usize,
    /// Its partition and its offset there.
    pub(super) log: Option<(usize, u64)>,
    /// It has its outcome for good.
    pub(super) terminal: bool,
    /// It may have: its subscription went while it failed.
    pub(super) unsure: bool,
    /// Attempts of it that were made, whatever became of them.
    pub(super) plays: usize,
    /// Its newest delivery.
    pub(super) delivery: Option<u32>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its submit has not been answered.
    Offered,
    Queued,
    /// An attempt is under way.
    Running,
    /// It is tried again by then.
    Retry(Time),
    /// It is on its way to the dead letters; sent again by then if that is not out.
    Letter(Option<Time>),
    /// It has its outcome.
    Ended,
    /// It was given back, or will be delivered again.
    Back,
    /// It was not taken.
    Refused,
}

/// One taking of a record by a runtime.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) record: u32,
    pub(super) generation: u32,
    pub(super) key: u32,
    pub(super) lane: u32,
    /// The assignment that it came by.
    pub(super) epoch: Option<u32>,
    pub(super) state: State,
    pub(super) attempts: u32,
    pub(super) began: Time,
    /// When its future is ready, if it waits as one.
    pub(super) ready: Option<Time>,
    pub(super) blocking: bool,
    pub(super) version: u32,
    pub(super) panicked: bool,
    /// A skip by hand may have ended it.
    pub(super) skipped: bool,
    /// Its lane may not know yet how it ended.
    pub(super) loose: bool,
}

/// One life of a subscription in one runtime.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) of: usize,
    pub(super) life: u32,
    pub(super) policy: Policy,
    pub(super) version: u32,
    /// Versions that run no more.
    pub(super) replaced: Vec<u32>,
    pub(super) stopped: Stopped,
    pub(super) removed: bool,
    /// Its removal has been answered.
    pub(super) gone: bool,
    /// The newest version that each key has seen.
    pub(super) seen: [u32; KEYS as usize],
}

/// One assignment of a partition.
#[derive(Debug)]
pub(super) struct Epoch {
    /// It covers what the position it began with covers.
    pub(super) resumed: Stored,
    pub(super) stopped: Stopped,
    pub(super) over: bool,
}

/// Whether a failure has stopped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    No,
    /// The blocking call that failed has ended; its lane may not know yet.
    Soon,
    Yes,
}

/// How far the runtime's close is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Closing(Time),
    Stopped,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    Failed,
    Fatal,
    Panicked,
    /// Its future was dropped.
    Dropped,
}
