//! What keeps a key busy, and a lane's private state.

use std::task::Waker;

use crate::clock::Time;
use crate::gate::{Bounds, Gate};
use crate::handler::{Attempt, Handled, Running};
use crate::outcome::Failure;
use crate::subscription::Sending;
use crate::sync::{Arc, Mutex, weak};
use crate::table::SubscriptionState;
use crate::unwind::{Panicked, guard};
use crate::work::Work;

/// What goes with a lane's token.
pub(crate) struct Private {
    pub(crate) gate: Gate<Busy, Parked, Work>,
    /// Not later than any time that a key of the gate waits for.
    pub(crate) next_due: Option<Time>,
    /// A waker for each slot of the gate, made at its first use and kept: what it wakes is the slot,
    /// whoever is in it.
    pub(crate) wakers: Vec<Option<Waker>>,
    /// The slot that has the first turn in the next visit.
    pub(crate) turn: u32,
    /// The runtime's phase that this lane has followed.
    pub(crate) phase: u8,
}

impl Private {
    pub(crate) fn new(bounds: Bounds, phase: u8) -> Box<Self> {
        Box::new(Self {
            gate: Gate::new(bounds),
            next_due: None,
            wakers: Vec::new(),
            turn: 0,
            phase,
        })
    }
}

/// What keeps a key busy. The record goes with it.
pub(crate) enum Busy {
    /// An async attempt is under way.
    Future { attempt: Attempt, running: Running, work: Work, number: u32, deadline: Option<Time> },
    /// A blocking attempt is under way, or waits for a thread.
    Blocking {
        reply: Arc<Reply>,
        /// The call has it too.
        running: Arc<Running>,
        work: Work,
        number: u32,
        /// When it is to be reported.
        deadline: Option<Time>,
    },
    /// The record waits to be tried again, after this many attempts.
    Retry { work: Work, number: u32, due: Time, error: Box<str> },
    /// The record is on its way to the dead letters, or waits to be sent again.
    Letter {
        post: Option<Post>,
        work: Work,
        failure: Failure,
        sends: u32,
        due: Option<Time>,
        park: bool,
    },
}

impl Busy {
    /// The record.
    pub(crate) fn work(&self) -> &Work {
        match self {
            Self::Future { work, .. }
            | Self::Blocking { work, .. }
            | Self::Retry { work, .. }
            | Self::Letter { work, .. } => work,
        }
    }

    /// The record, whatever was under way dropped or left behind.
    pub(crate) fn into_work(self) -> Work {
        match self {
            Self::Blocking { reply, work, .. } => {
                reply.give_up();
                work
            }
            Self::Future { work, .. } | Self::Retry { work, .. } | Self::Letter { work, .. } => {
                work
            }
        }
    }

    /// When it is to be looked at by itself.
    pub(crate) fn due(&self) -> Option<Time> {
        match self {
            Self::Future { deadline, .. } | Self::Blocking { deadline, .. } => *deadline,
            Self::Retry { due, .. } => Some(*due),
            Self::Letter { due, .. } => *due,
        }
    }
}

/// Why a key is in the gate though nothing of it is under way.
pub(crate) enum Parked {
    /// Its records go to the dead letters until it is resumed.
    Key { generation: u32, state: Arc<SubscriptionState>, key: Box<[u8]> },
    /// One of its records was left unfinished, so none of its later ones may run any more.
    Abandoned,
}

/// A dead letter on its way. Its future is a caller's, so its drop is guarded.
pub(crate) struct Post(Option<Sending>);

impl Post {
    pub(crate) fn new(sending: Sending) -> Self {
        Self(Some(sending))
    }

    pub(crate) fn sending(&mut self) -> Option<&mut Sending> {
        self.0.as_mut()
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        let sending = self.0.take();
        let _ = guard(|| drop(sending));
    }
}

/// Where a blocking call leaves what it said.
#[derive(Debug, Default)]
pub struct Reply(Mutex<Answer>);

#[derive(Debug, Default)]
struct Answer {
    /// The call has started, or it has been given up before: whichever came first.
    settled: bool,
    began: Option<Time>,
    said: Option<Said>,
}

/// What a blocking call said.
#[derive(Debug)]
pub(crate) enum Said {
    Ended(Result<Handled, Panicked>),
    /// The runtime had stopped, or the call was given up, before it began.
    NotStarted,
}

impl Reply {
    /// Whether the call may start: not if it was given up before.
    pub fn start(&self) -> bool {
        !std::mem::replace(&mut self.0.lock().settled, true) || weak!("reply_start")
    }

    /// Whether the call has started, for whoever still waits for it.
    pub(crate) fn has_started(&self) -> bool {
        self.0.lock().settled
    }

    /// Nobody waits for the call any more: it does not start, if it has not.
    pub fn give_up(&self) {
        self.0.lock().settled = true;
    }

    pub(crate) fn set(&self, said: Said) {
        self.0.lock().said = Some(said);
    }

    pub(crate) fn take(&self) -> Option<Said> {
        self.0.lock().said.take()
    }

    /// The handler starts now: its deadline counts from here.
    pub(crate) fn begin(&self, now: Time) {
        self.0.lock().began = Some(now);
    }

    /// When the handler started; told once.
    pub(crate) fn take_began(&self) -> Option<Time> {
        self.0.lock().began.take()
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // What nobody asked for is a caller's error, and its drop a caller's code.
        let said = self.take();
        let _ = guard(|| drop(said));
    }
}
