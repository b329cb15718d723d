//! What a lane's holder is told to do with keys of its gate.

use crate::attempt::Visit;
use crate::busy::{Busy, Parked};
use crate::core::Command;
use crate::inspect::{Bound, BusyKey, Inspection, Why};
use crate::outcome::{Failure, Outcome};
use crate::sabotage::sabotage;
use crate::sync::Arc;
use crate::table::Entry;
use crate::work::Work;

/// Keys of one lane that an inspection shows.
const SHOWN: usize = 64;

impl Visit<'_> {
    #[cold]
    pub(crate) fn obey(&mut self, command: Command) {
        match command {
            Command::Purge => self.purge(|_| false),
            Command::Cancel { subscription, generation } => self
                .purge(|work| work.subscription == subscription && work.generation == generation),
            Command::Resume { subscription, key, hash } => self.resume(subscription, &key, hash),
            Command::Park { subscription, key, hash } => self.park(subscription, key, hash),
            Command::Skip { hash } => self.skip(hash),
            Command::Count(census) => {
                let own = (census.subscription, census.generation);
                let is_own = |work: &Work| (work.subscription, work.generation) == own;
                let held = self.private.gate.iter().map(|(_, key)| {
                    let busy = key.busy.as_ref().is_some_and(|busy| is_own(busy.work()));
                    usize::from(busy) + key.waiting().filter(|work| is_own(work)).count()
                });
                census.answer(held.sum());
            }
            Command::Inspect(inspection) => self.inspect(&inspection),
        }
    }

    /// Releases what may not be started any more; attempts under way only if `cancelled`.
    fn purge(&mut self, cancelled: impl Fn(&Work) -> bool) {
        for slot in self.private.gate.slots() {
            let over = match self.private.gate.get(slot).and_then(|key| key.busy.as_ref()) {
                Some(Busy::Retry { work, .. } | Busy::Letter { post: None, work, .. }) => {
                    self.is_shut_out(work)
                }
                Some(busy) => cancelled(busy.work()),
                None => false,
            };
            if over {
                self.give_up(slot);
            }
            self.purge_waiting(slot);
            self.advance(slot);
        }
    }

    /// Releases what waits behind a key and may not be started, and lets the key go if it was parked by a
    /// subscription that is gone.
    fn purge_waiting(&mut self, slot: u32) {
        while let Some(key) = self.private.gate.get(slot)
            && key.waiting().next().is_some_and(|work| self.is_shut_out(work))
        {
            if let Some(work) = self.private.gate.next(slot) {
                self.release(work);
            }
        }
        let gone = match self.private.gate.get(slot).and_then(|key| key.parked.as_ref()) {
            Some(Parked::Key { subscription, generation, .. }) => {
                self.table.subscription(*subscription, *generation).is_none()
            }
            _ => false,
        };
        if gone {
            self.private.gate.set_parked(slot, None);
        }
    }

    fn slot_of(&self, hash: u64) -> Option<u32> {
        self.private.gate.find(hash)
    }

    fn resume(&mut self, subscription: u32, key: &[u8], hash: u64) {
        let Some(slot) = self.slot_of(hash) else { return };
        let parked = self.private.gate.get(slot).and_then(|found| found.parked.as_ref());
        let Some(Parked::Key { generation, key: parked, .. }) = parked else { return };
        if **parked == *key {
            if let Some(entry) = self.table.subscription(subscription, *generation) {
                entry.state.resume(key);
            }
            self.private.gate.set_parked(slot, None);
            if sabotage!(ResumeOutOfTurn)
                && let Some(work) = self.private.gate.next(slot)
            {
                let _ = self.private.gate.wait(slot, work);
            }
            self.advance(slot);
        }
    }

    fn park(&mut self, subscription: u32, key: Box<[u8]>, hash: u64) {
        let entry = self.table.subscriptions.get(subscription as usize).and_then(Option::as_ref);
        let own = |entry: &&Arc<Entry>| self.core.router.hash(entry.generation, &key) == hash;
        let Some(entry) = entry.filter(own) else {
            // It is gone, and another may have its number; or it is younger than this visit.
            if !self.is_current() {
                let again = Command::Park { subscription, key, hash };
                self.core.lanes.command(self.lane, again);
            }
            return;
        };
        let slot = self.slot_of(hash);
        let found = slot.and_then(|slot| self.private.gate.get(slot));
        if matches!(found.and_then(|key| key.parked.as_ref()), Some(Parked::Abandoned)) {
            // One of its records was left unfinished: the key stays shut.
            return;
        }
        let parked = entry.state.park(&key, "parked by hand", self.core.config.parked_keys);
        if !parked {
            return;
        }
        let parked = Some(Parked::Key { subscription, generation: entry.generation, key });
        match slot {
            Some(slot) => {
                self.private.gate.set_parked(slot, parked);
            }
            None => {
                self.private.gate.hold(hash, None, parked);
            }
        }
    }

    /// Passes over the record that keeps a key waiting. An attempt under way is not interrupted.
    fn skip(&mut self, hash: u64) {
        let another = if sabotage!(SkipsAnother) { self.private.gate.slots().next() } else { None };
        let Some(slot) = another.or_else(|| self.slot_of(hash)) else { return };
        match self.private.gate.take_busy(slot) {
            Some(Busy::Retry { work, number, error, .. }) => {
                let failure = Failure { error, attempts: number };
                self.finish(work, Outcome::Skipped(failure));
            }
            Some(Busy::Letter { work, failure, .. }) => {
                self.finish(work, Outcome::Skipped(failure));
            }
            Some(busy) => self.private.gate.set_busy(slot, busy),
            None => {}
        }
        self.advance(slot);
    }

    fn inspect(&mut self, inspection: &Inspection) {
        let now = self.now();
        let lane_full = self.private.gate.held() >= self.core.config.lane_waiting;
        let keys = self.private.gate.iter().filter_map(|(_, key)| {
            let (work, why, attempt) = match &key.busy {
                Some(Busy::Future { work, number, .. }) => (Some(work), Why::Future, *number),
                Some(Busy::Blocking { work, number, .. }) => (Some(work), Why::Blocking, *number),
                Some(Busy::Retry { work, number, due, error }) => {
                    let after = due.since(now);
                    (Some(work), Why::Retry { after, error: error.clone() }, *number)
                }
                Some(Busy::Letter { work, failure, sends, .. }) => {
                    (Some(work), Why::DeadLetter { sends: *sends }, failure.attempts)
                }
                None => (key.waiting().next(), Why::Parked, 0),
            };
            let work = work?;
            let name = self.table.subscription(work.subscription, work.generation);
            let waiting = key.waiting().len();
            Some(BusyKey {
                lane: self.lane,
                subscription: name.map_or_else(String::new, |entry| entry.name.to_string()),
                key: work.record.key().map(|key| key[..key.len().min(64)].to_vec()),
                why,
                attempt,
                held_for: now.since(key.since),
                waiting,
                bound: if waiting >= self.core.config.key_waiting {
                    Some(Bound::KeyWaiting)
                } else {
                    lane_full.then_some(Bound::LaneWaiting)
                },
            })
        });
        let mut keys: Vec<BusyKey> = keys.collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.waiting));
        keys.truncate(SHOWN);
        inspection.answer(keys);
    }
}
