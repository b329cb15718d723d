//! Keeping what is finished: the checkpoint that follows, and what is said where the server does not let it be kept.

use std::time::Duration;

use tokio::sync::broadcast::error::TryRecvError;

use super::choice::AckMode;
use super::consumer::Consumer;
use super::pull::Deliveries;
use crate::bus::{BrokerError, BrokerErrorKind, BusEvent, ReasonKind};

/// How long the last checkpoint may take.
const KEEP: Duration = Duration::from_secs(5);

impl<D: Deliveries> Consumer<D> {
    /// Has the checkpoint follow, if there is one.
    pub(super) fn check(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        if self.source.is_stopped() && self.source.stopped_by().is_none() {
            return;
        }
        let parked = self.source.parked_changed();
        let before = checkpoint.written();
        let frontier = self.source.ledger().frontier();
        let source = &mut self.source;
        let control = &self.shared.links.control;
        let stored = || source.stored_with_parked();
        let checked = checkpoint.turn(control, self.now, frontier, parked, stored);
        if checkpoint.written() != before {
            self.source.committed(self.now);
        }
        let heard = checkpoint.heard();
        if let Err(error) = checked {
            self.checkpoint = None;
            self.failed(&error);
        }
        if let Some(heard) = heard {
            self.say_kept(heard);
        }
    }

    /// Writes the checkpoint as it is, and waits for that.
    pub(super) async fn keep(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let stored = self.source.stored_with_parked();
        let kept = tokio::time::timeout(KEEP, checkpoint.finish(stored)).await;
        if let Ok(Err(error)) = kept {
            self.checkpoint = None;
            self.failed(&error);
        }
    }

    /// Says that the position cannot be written, for as long as that is so.
    #[cold]
    fn say_kept(&self, heard: Result<(), String>) {
        let (health, source) = (&self.shared.health, self.plan.label());
        match heard {
            Ok(()) => _ = health.clear(ReasonKind::Uncommitted, &source),
            Err(error) => {
                if health.raise(ReasonKind::Uncommitted, &source, &*error) {
                    log::warn!("{source}: {error}");
                    health.say(BusEvent::Uncommitted { source, error });
                }
            }
        }
    }

    /// What the server forbids without an answer, which are pulls and acknowledgements, is heard of on the connection.
    pub(super) fn look_for_denials(&mut self) {
        loop {
            match self.denials.try_recv() {
                Ok(denial) if denial.publish && self.needs(&denial.subject) => {
                    if !self.source.is_stopped() {
                        let kind = BrokerErrorKind::NotPermitted;
                        self.failed(&BrokerError::new(kind, denial.to_string()));
                    }
                }
                // Some were overtaken by newer ones; what is still forbidden is denied again.
                Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Whether this consumer pulls or acknowledges there.
    fn needs(&self, subject: &str) -> bool {
        let durable = &self.plan.durable;
        subject == durable.pulls(&self.shared.links.consume)
            || self.plan.acks != AckMode::Checkpoint && durable.has_acked_on(subject)
    }
}
