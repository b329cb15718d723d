//! One partition of the broker and the consume loop that reads it.

use std::sync::Arc;

use super::stage::Flag;
use crate::clock::Time;
use crate::position::Stored;
use crate::source::Source;

/// A partition, what is committed of it, and who reads it.
pub(super) struct Feed {
    pub(super) partition: usize,
    /// Offsets and records.
    pub(super) log: Vec<(u64, u32)>,
    pub(super) next_offset: u64,
    /// What survives a crash.
    pub(super) stored: Stored,
    pub(super) source: Option<Source>,
    pub(super) epoch: u32,
    /// The next of `log` to read.
    pub(super) next: usize,
    /// The lane that was full for it.
    pub(super) full: Option<u32>,
    pub(super) changed: bool,
    pub(super) committed: Time,
    /// The loop sleeps until then, or until the flag is up.
    pub(super) asleep: Option<Time>,
    pub(super) flag: Arc<Flag>,
    pub(super) held: u64,
}

impl Feed {
    pub(super) fn new(partition: usize) -> Self {
        Self {
            partition,
            log: Vec::new(),
            next_offset: 0,
            stored: Stored::new(0),
            source: None,
            epoch: 0,
            next: 0,
            full: None,
            changed: false,
            committed: Time::ZERO,
            asleep: None,
            flag: Flag::raised(),
            held: 0,
        }
    }

    pub(super) fn runs(&self, now: Time) -> bool {
        self.source.is_some() && (self.flag.is_up() || self.asleep.is_none_or(|until| until <= now))
    }
}
