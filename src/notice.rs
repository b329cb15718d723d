//! What a runtime has to say to whoever runs it: rare, typed, and logged unless somebody takes it.

use std::fmt;
use std::time::Duration;

use crate::record::KeyText;

/// Something that whoever runs a runtime may want to know.
///
/// Logged as a warning (crate `log`) unless [`Builder::on_notice`](crate::Builder::on_notice) takes it.
///
/// ```
/// use keylane::Notice;
///
/// let notice = Notice::SpareStarted { running: 1 };
/// assert_eq!(notice.to_string(), "all workers are held up by handlers: 1 spares run now");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Workers are not pinned, for this reason.
    NotPinned {
        /// Why.
        reason: String,
    },
    /// The build aborts on a panic: a handler's panic ends the process.
    PanicAborts,
    /// A sync handler ran longer than it may; the other lanes of its worker are taken over. Declare it
    /// blocking. Said once a subscription.
    Overrun {
        /// The subscription.
        subscription: String,
        /// The first 64 bytes of the record's key.
        key: Option<Vec<u8>>,
        /// How long it had run when it was noticed.
        ran: Duration,
    },
    /// A sync or blocking attempt passed its deadline; its key stays busy until it returns.
    DeadlinePassed {
        /// The subscription.
        subscription: String,
        /// The first 64 bytes of the record's key.
        key: Option<Vec<u8>>,
    },
    /// A spare worker started, since all others were held up.
    SpareStarted {
        /// How many spares run now.
        running: usize,
    },
    /// A thread could not be started.
    NoThread {
        /// What it was for.
        role: &'static str,
        /// What the system said.
        error: String,
    },
    /// A failed record stopped its subscription or source.
    Stopped {
        /// The subscription.
        subscription: String,
        /// The partition, if the record came from a source.
        partition: Option<u32>,
        /// What the last attempt said.
        error: Box<str>,
    },
    /// Dead letters are not taken, and what they are of holds its source's frontier. Said once; they are sent again
    /// until they are.
    LettersRefused {
        /// The subscription.
        subscription: String,
        /// What was said of the first that was not taken.
        error: Box<str>,
    },
    /// Dead letters are taken again.
    LettersRecovered {
        /// The subscription.
        subscription: String,
    },
    /// The loop of a bus panicked, which it must not: the bus has closed, and what it had not committed is
    /// unfinished.
    BusFailed {
        /// The kind of bus.
        bus: &'static str,
        /// What the panic said.
        error: String,
    },
    /// The last handle of a runtime that was not closed was dropped: it stopped.
    Dropped,
    /// `submit` may block, and was called on a thread that drives async tasks. Said once.
    BlockingInAsync,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned { reason } => write!(f, "workers are not pinned: {reason}"),
            Self::PanicAborts => {
                f.write_str("this build aborts on a panic: a handler that panics ends the process")
            }
            Self::Overrun { subscription, key, ran } => write!(
                f,
                "a sync handler of {subscription:?} has run {ran:?}{}: declare it blocking",
                of(key)
            ),
            Self::DeadlinePassed { subscription, key } => {
                write!(f, "an attempt of {subscription:?} passed its deadline{}", of(key))
            }
            Self::SpareStarted { running } => {
                write!(f, "all workers are held up by handlers: {running} spares run now")
            }
            Self::NoThread { role, error } => write!(f, "no thread for {role}: {error}"),
            Self::Stopped { subscription, partition: None, error } => {
                write!(f, "subscription {subscription:?} has stopped: {error}")
            }
            Self::Stopped { subscription, partition: Some(partition), error } => {
                write!(f, "partition {partition} of {subscription:?} has stopped: {error}")
            }
            Self::LettersRefused { subscription, error } => write!(
                f,
                "dead letters of {subscription:?} are not taken, and are sent again until they are: {error}"
            ),
            Self::LettersRecovered { subscription } => {
                write!(f, "dead letters of {subscription:?} are taken again")
            }
            Self::BusFailed { bus, error } => {
                write!(f, "the {bus} bus has closed, since its loop {error}")
            }
            Self::Dropped => f.write_str(
                "a runtime was dropped without being closed: what was queued was not handled",
            ),
            Self::BlockingInAsync => f.write_str(
                "`submit` may block and was called in async code: use `submit_async` there",
            ),
        }
    }
}

fn of(key: &Option<Vec<u8>>) -> String {
    key.as_ref().map_or(String::new(), |key| format!(" with key {}", KeyText(key)))
}

/// Who takes notices.
pub type OnNotice = Box<dyn Fn(&Notice) + Send + Sync>;
