//! What a ledger and its callers say to each other of one delivery.

use std::fmt;

/// One delivery's place in its ledger: goes with the record and comes back in `Finished::finish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(crate) u32);

/// What a ledger knows of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Never delivered, or dropped by a rewind and not delivered since.
    Unknown,
    /// Delivered and not finished: it waits, or runs.
    Unfinished,
    /// Finished, in this epoch or according to what was resumed.
    Finished,
    /// Below the frontier and no longer remembered: finished, if the source delivered without loss.
    Passed,
}

/// Why a record was not taken into the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeliverError {
    /// The window is full: keep the record until the frontier moves.
    WindowFull,
    /// It is finished: acknowledge it and drop it.
    AlreadyFinished,
    /// It was delivered before and is not finished: drop it, the first delivery's finish counts.
    InFlight,
    /// It is below the frontier and no longer remembered: as [`Status::Passed`].
    Passed,
    /// It was never delivered, but something later was: the source lost or reordered records.
    /// Recover: rewind, or begin a new epoch.
    OutOfOrder {
        /// The newest position delivered or skipped.
        last: u64,
    },
    /// `u64::MAX` is no position: nothing could be read after it.
    TooLarge,
}

impl fmt::Display for DeliverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WindowFull => f.write_str(
                "the ledger's window is full; keep the record until the oldest ones finish, or widen `ledger_window`",
            ),
            Self::AlreadyFinished => f.write_str("the record is finished; acknowledge and drop it"),
            Self::InFlight => f.write_str("the record is being handled; drop this delivery of it"),
            Self::Passed => f.write_str("the record is below the frontier; acknowledge and drop it"),
            Self::OutOfOrder { last } => write!(
                f,
                "the record was never delivered, but position {last} was; rewind the source or begin a new epoch"
            ),
            Self::TooLarge => f.write_str("the highest number is no position; end the source below it"),
        }
    }
}

impl std::error::Error for DeliverError {}

/// The delivery is not the newest, or is finished, and cannot be retracted; rewind instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNewest;

impl fmt::Display for NotNewest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "only the newest unfinished delivery can be retracted; rewind the source instead",
        )
    }
}

impl std::error::Error for NotNewest {}
