//! Whether a stream has lost what its consumer was not sent yet, noticed while that runs.
//!
//! The server passes over what is gone without a word. Where every record of the stream is the consumer's, a place that is
//! passed over is a hole in the stream, and the server is asked what it was: a record that somebody has deleted, or the
//! stream's beginning, which has come this far. While nothing is asked for, nobody is sent anything that would show it:
//! then it is asked once in a while.

use std::time::Duration;

use async_nats::datetime::DateTime;

use super::arrival::Numbers;
use super::consumer::Consumer;
use super::desk::Command;
use super::durable::stream_info;
use super::pull::Deliveries;
use super::recovery::Why;
use crate::bus::BusEvent;
use crate::clock::Time;
use crate::subscription::OnLost;

/// How often it is asked while nothing is asked for.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two questions about holes: those that come faster are not waited for.
const APART: Duration = Duration::from_millis(100);

/// What is watched of one consumer.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether all of the stream is the consumer's, and nothing goes of it but by retention, a purge, or by hand.
    whole: bool,
    /// The place behind what was sent last, once something was.
    next: Option<u64>,
    /// The first place of a hole, until it is known what that is.
    hole: Option<u64>,
    /// Whether what came behind it waits for the answer.
    waits: bool,
    /// Whether a question is under way, and whether it was asked about the hole.
    asked: Option<bool>,
    /// When it was asked last, and when about a hole.
    at: Time,
    hole_at: Option<Time>,
    /// The first place that is lost: for a barrier, which has somewhere else to begin.
    lost: Option<u64>,
}

/// The server's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// When the stream was made.
    made: DateTime,
    /// Its first place.
    first: u64,
    /// The number of the consumer's last delivery, if it is there.
    delivered: Option<u64>,
}

impl Watch {
    /// A barrier is over: deliveries go on at this place.
    pub(super) fn begin(&mut self, whole: bool, next: Option<u64>) {
        let (asked, at, hole_at) = (self.asked.map(|_| false), self.at, self.hole_at);
        *self = Self { whole, next, asked, at, hole_at, ..Self::default() };
    }

    /// Follows a delivery. True if it has to wait until it is known what is missing before it.
    pub(super) fn follow(&mut self, numbers: &Numbers, now: Time) -> bool {
        let next = self.next.replace(numbers.stream + 1);
        match next {
            Some(next) if next < numbers.stream && self.whole => self.found(next, now),
            // What comes again is behind.
            Some(next) if next > numbers.stream => {
                self.next = Some(next);
                false
            }
            _ => false,
        }
    }

    #[cold]
    fn found(&mut self, hole: u64, now: Time) -> bool {
        self.hole.get_or_insert(hole);
        self.waits |= self.is_apart(now);
        self.waits
    }

    fn is_apart(&self, now: Time) -> bool {
        self.hole_at.is_none_or(|then| now.since(then) >= APART)
    }

    /// Whether what came last has to wait.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// The first place that is lost, if that has led to a barrier.
    pub(super) fn lost(&self) -> Option<u64> {
        self.lost
    }

    /// Whether the server is to be asked now.
    fn is_due(&self, now: Time, idle: bool) -> bool {
        let due = match self.hole {
            Some(_) => self.is_apart(now),
            None => idle && now.since(self.at) >= AGAIN,
        };
        self.asked.is_none() && self.whole && due
    }

    fn ask(&mut self, now: Time) {
        let about_hole = self.hole.is_some();
        (self.asked, self.at) = (Some(about_hole), now);
        if about_hole {
            self.hole_at = Some(now);
        }
    }

    /// Takes the answer: the first place that is lost. `taken`: everything that was delivered has come.
    fn answered(&mut self, look: Look, taken: bool) -> Option<u64> {
        let about_hole = self.asked.take()?;
        let from = match self.hole {
            Some(hole) if about_hole => {
                (self.hole, self.waits) = (None, false);
                Some(hole)
            }
            // It is asked anew.
            Some(_) => None,
            None => self.next.filter(|_| taken),
        };
        from.filter(|from| *from < look.first)
    }
}

impl<D: Deliveries> Consumer<D> {
    /// Asks the server whether something is lost, if there is a reason to.
    pub(super) fn watch(&mut self) {
        let reads = !self.recovery.is_under_way() && !self.source.is_stopped();
        let idle = self.deliveries.expected(self.now) == 0;
        if !reads || !self.watch.is_due(self.now, idle) || !self.deliveries.is_connected() {
            return;
        }
        self.watch.ask(self.now);
        let (shared, durable) = (self.shared.clone(), self.plan.durable.clone());
        let desk = self.desk.clone();
        self.shared.links.control.io.spawn(async move {
            let control = &shared.links.control;
            let look = async {
                // The stream first: what is delivered meanwhile is taken for delivered before.
                let stream = stream_info(control, &durable.stream).await.ok()?;
                let info = durable.info(control).await.ok()?;
                Some(Look {
                    made: stream.created,
                    first: stream.state.first_sequence,
                    delivered: info.map(|info| info.delivered.consumer_sequence),
                })
            };
            let _ = desk.tell(Command::Looked(look.await));
        });
    }

    /// Takes the server's answer; `None`: there was none.
    pub(super) fn looked(&mut self, look: Option<Look>) {
        let Some(look) = look else {
            // What waits goes on; a hole is asked about again.
            (self.watch.asked, self.watch.waits) = (None, false);
            return;
        };
        let taken = self.kept.is_empty()
            && look.delivered.is_none_or(|last| last + 1 == self.sequence.next());
        let lost = self.watch.answered(look, taken);
        if self.recovery.is_under_way() || self.source.is_stopped() {
            return;
        }
        if self.plan.made.is_some_and(|made| made != look.made) {
            return self.recovery.begin(Why::Gone, self.now);
        }
        let Some(lost) = lost else { return };
        if self.plan.on_lost != OnLost::Earliest {
            self.watch.lost = Some(lost);
            return self.recovery.begin(Why::Truncated, self.now);
        }
        // The server goes on at the oldest by itself, and what is under way ends as it would have.
        self.watch.next = self.watch.next.max(Some(look.first));
        let source = self.plan.label();
        let error = self.plan.gone(lost, look.first);
        log::warn!("{source}: {error}");
        self.shared.health.say(BusEvent::PositionLost { source, error });
    }
}
