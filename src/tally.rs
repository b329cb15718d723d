//! Counting how deliveries end: for all of a worker's, and for each subscription.

use crate::attempt::Visit;
use crate::outcome::Outcome;
use crate::record::Record;
use crate::table::Entry;
use crate::work::Work;

impl Visit<'_> {
    /// A record was handled: for its subscription.
    #[inline(always)]
    pub(crate) fn handled(&self, entry: &Entry, record: &Record) {
        #[cfg(feature = "metrics")]
        {
            entry.state.counters.handled(self.local.id);
            if let Some(submitted) = record.submitted() {
                self.timed(entry, submitted);
            }
        }
        let _ = (entry, record);
    }

    /// One of the records that are timed was handled.
    #[cfg(feature = "metrics")]
    #[cold]
    fn timed(&self, entry: &Entry, submitted: crate::clock::Time) {
        entry.state.counters.latency.add(self.core.clock.now().since(submitted));
    }

    /// Counts an outcome that is not the common one.
    #[cold]
    pub(crate) fn count(&self, work: &Work, outcome: &Outcome) {
        let outcomes = &self.counters().outcomes;
        let entry = self.table.subscription(work.subscription, work.generation);
        let own = entry.map(|entry| &entry.state.counters);
        let (all, own) = match outcome {
            Outcome::Done => (&outcomes.done, None),
            Outcome::DeadLettered(_) => {
                (&outcomes.dead_lettered, own.map(|own| &own.dead_lettered))
            }
            Outcome::Parked => (&outcomes.parked, own.map(|own| &own.parked)),
            Outcome::Skipped(_) => (&outcomes.skipped, own.map(|own| &own.skipped)),
            Outcome::Stopped(_) => (&outcomes.stopped, own.map(|own| &own.stopped)),
            Outcome::Abandoned => (&outcomes.abandoned, own.map(|own| &own.abandoned)),
        };
        all.add(1);
        own.into_iter().for_each(|own| own.add_shared(1));
    }
}
