//! What a simulation is convicted of.

use std::fmt;

/// The invariants that the judge knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Invariant {
    /// No loss: whatever was taken has its outcome in the end, or comes back.
    I1,
    /// A committed position covers finished records only, and never goes back.
    I2,
    /// Order: a record starts once all earlier ones of its key have their outcomes.
    I3,
    /// A new assignment replays from its position; the old one starts nothing any more.
    I4,
    /// Attempts of one key never overlap.
    I5,
    /// Nothing that the position covers is handled again.
    I6,
    /// One outcome for each delivery, and no attempt after it.
    I7,
    /// A dead letter is confirmed before its record is finished, and is whole.
    I8,
    /// A refused record comes back as it was and is not handled.
    I10,
    /// No lost wake-up: what can start has started once everybody sleeps.
    I11,
    /// A panic ends its attempt and nothing else.
    I12,
    /// Every bound holds.
    I13,
    /// The close keeps its deadline, starts nothing after it, and gives back what is left.
    I15,
    /// Once faults have stopped everything gets done.
    I18,
    /// After a swap the old handler runs no more.
    I19,
    /// After a removal nothing of the subscription runs, and what was queued comes back.
    I20,
    /// A key that is held up delays no other.
    I21,
    /// A handler sees the record that was submitted.
    I22,
}

/// A violation that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conviction {
    /// What was violated.
    pub invariant: Invariant,
    /// What was seen.
    pub said: String,
}

impl fmt::Display for Conviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.said)
    }
}
