//! How one delivery ended.

use std::fmt;

/// How one delivery ended. A receipt gets exactly one.
///
/// ```
/// use keylane::{Failure, Outcome};
///
/// let failure = Failure { error: "no such account".into(), attempts: 3 };
/// assert_eq!(failure.to_string(), "no such account (after 3 attempts)");
/// let outcome = Outcome::DeadLettered(failure);
/// assert!(!outcome.is_done() && outcome.failure().is_some());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Outcome {
    /// The handler handled it.
    Done,
    /// It failed for good and is in the dead letters.
    DeadLettered(Failure),
    /// Its key is parked, so it followed its predecessors to the dead letters without being tried.
    Parked,
    /// It failed for good, and the policy says to go on without it.
    Skipped(Failure),
    /// It is unfinished, since a failure stopped its subscription: its own, or another record's while it
    /// waited. The record itself comes back from the subscription's
    /// [`remove`](crate::Subscriber::remove) or [`close`](crate::Subscriber::close), or else in the
    /// [report](crate::Report) of the runtime's close.
    Stopped(Failure),
    /// It is unfinished: the runtime or the subscription was closed or removed before. The record itself comes
    /// back as a stopped one does.
    Abandoned,
}

impl Outcome {
    /// Whether the handler handled it.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// The failure, if it failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::DeadLettered(failure) | Self::Skipped(failure) | Self::Stopped(failure) => {
                Some(failure)
            }
            Self::Done | Self::Parked | Self::Abandoned => None,
        }
    }
}

/// Why a delivery failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Failure {
    /// What the last attempt said, cut to 1 KiB.
    pub error: Box<str>,
    /// How many attempts there were.
    pub attempts: u32,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} attempts)", self.error, self.attempts)
    }
}
