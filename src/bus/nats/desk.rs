//! How others reach the loop of a consumer, and what they may know of it.

use std::task::{Wake, Waker};

use tokio::sync::Notify;

use super::watch::Look;
use crate::bus::{BusError, BusReport};
use crate::clock::Time;
use crate::outcome::Failure;
use crate::reply::Answer;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};

/// What a consumer's loop is told.
pub(super) enum Command {
    /// Reads no more, lets what was read be handled until then, acknowledges, and ends.
    Close(Time, Answer<BusReport>),
    /// Begins a new assignment, as after a crash, or (true) with what is finished acknowledged first.
    Restart(bool, Answer<Result<(), BusError>>),
    /// The server's answer to whether something is lost, if there was one.
    Looked(Option<Look>),
}

/// How others reach the loop, and what they may know of it.
#[derive(Default)]
pub(super) struct Desk {
    commands: Mutex<Vec<Command>>,
    pub(super) seen: Mutex<Seen>,
    nudge: Arc<Nudge>,
    ended: AtomicBool,
}

/// What others may know of a loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Everything below is acknowledged.
    pub(super) committed: u64,
    /// After the newest record of the stream, as far as deliveries tell.
    pub(super) end: u64,
    pub(super) stopped_by: Option<Failure>,
}

/// Wakes the loop.
#[derive(Default)]
pub(super) struct Nudge(Notify);

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

impl Desk {
    /// Tells the loop. Gives the command back if that has ended.
    pub(super) fn tell(&self, command: Command) -> Result<(), Command> {
        {
            let mut commands = self.commands.lock();
            // Acquire pairs with the release in `end`.
            if self.ended.load(Ordering::Acquire) {
                return Err(command);
            }
            commands.push(command);
        }
        self.nudge.0.notify_one();
        Ok(())
    }

    pub(super) fn nudge(&self) {
        self.nudge.0.notify_one();
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::from(self.nudge.clone())
    }

    /// Ends once somebody calls.
    pub(super) async fn nudged(&self) {
        self.nudge.0.notified().await;
    }

    pub(super) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock())
    }

    pub(super) fn end(&self) -> Vec<Command> {
        let mut commands = self.commands.lock();
        self.ended.store(true, Ordering::Release);
        std::mem::take(&mut *commands)
    }
}
