//! Asking the server what a consumer's watch has to know, and taking its answer.

use super::consumer::Consumer;
use super::desk::Command;
use super::durable::stream_info;
use super::pull::Deliveries;
use super::recovery::Why;
use super::watch::Look;
use crate::bus::BusEvent;
use crate::subscription::OnLost;

impl<D: Deliveries> Consumer<D> {
    /// Asks the server whether something is lost, if there is a reason to.
    pub(super) fn watch(&mut self) {
        let reads = !self.recovery.is_under_way() && !self.source.is_stopped();
        let idle = self.deliveries.expected(self.now) == 0;
        let due = self.watch.is_due(self.now, idle, self.sequence.next());
        if !reads || !due || !self.deliveries.is_connected() {
            return;
        }
        self.watch.ask(self.now);
        let (shared, plan) = (self.shared.clone(), self.plan.clone());
        let desk = self.desk.clone();
        self.shared.links.control.io.spawn(async move {
            let control = &shared.links.control;
            let look = async {
                // The stream first: what is delivered meanwhile is taken for delivered before.
                let stream = stream_info(control, &plan.durable.stream).await.ok()?;
                let info = plan.durable.info(control).await.ok()?;
                Some(Look {
                    made: stream.created,
                    first: stream.state.first_sequence,
                    whole: plan.has_whole(&stream.config),
                    delivered: info.map(|info| info.delivered.consumer_sequence),
                })
            };
            let _ = desk.tell(Command::Looked(look.await));
        });
    }

    /// Takes the server's answer; `None`: there was none.
    pub(super) fn looked(&mut self, look: Option<Look>) {
        let Some(look) = look else {
            return self.watch.unanswered();
        };
        let taken = self.kept.is_empty()
            && look.delivered.is_none_or(|last| last + 1 == self.sequence.next());
        let lost = self.watch.answered(look, taken, self.sequence.next(), self.now);
        if self.recovery.is_under_way() || self.source.is_stopped() {
            return;
        }
        if self.plan.made.is_some_and(|made| made != look.made) {
            return self.recovery.begin(Why::Gone, self.now);
        }
        if !look.whole {
            if self.watch.is_whole() {
                self.watch.end();
            }
            return;
        }
        let Some(lost) = lost else { return };
        if self.plan.on_lost != OnLost::Earliest {
            self.watch.lose(lost);
            return self.recovery.begin(Why::Truncated, self.now);
        }
        // The server goes on at the oldest by itself, and what is under way ends as it would have.
        self.watch.pass(look.first);
        let source = self.plan.label();
        let error = self.plan.gone(lost, look.first);
        log::warn!("{source}: {error}");
        self.shared.health.say(BusEvent::PositionLost { source, error });
    }
}
