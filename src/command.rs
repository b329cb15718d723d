//! What a lane's holder is told to do with keys of its gate.

use std::cmp::Reverse;

use crate::attempt::Visit;
use crate::bound::Bound;
use crate::busy::{Busy, Parked};
use crate::core::{Command, Restoring};
use crate::inspect::{BusyKey, Inspection, Why};
use crate::outcome::{Failure, Outcome};
use crate::sabotage::sabotage;
use crate::sync::Arc;
use crate::table::{SourceEntry, SubscriptionState};
use crate::work::{Completion, Work};

/// Keys of one lane that an inspection shows.
const SHOWN: usize = 64;

impl Visit<'_> {
    #[cold]
    pub(crate) fn obey(&mut self, command: Command) {
        match command {
            Command::Purge => self.purge(|_| false),
            Command::Cancel { subscription, generation } => self
                .purge(|work| work.subscription == subscription && work.generation == generation),
            Command::Resume { generation, key, hash } => self.resume(generation, &key, hash),
            Command::Park { generation, state, key, hash, of } => {
                self.park(generation, state, key, hash, of.as_deref());
                // Now, whatever came of it, records of the key may come.
                drop(of);
            }
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
            Some(Parked::Key { state, .. }) => state.is_removed(),
            _ => false,
        };
        if gone {
            self.private.gate.set_parked(slot, None);
        }
    }

    fn slot_of(&self, hash: u64) -> Option<u32> {
        self.private.gate.find(hash)
    }

    /// Lets a parked key go.
    fn resume(&mut self, generation: u32, key: &[u8], hash: u64) {
        let Some(slot) = self.slot_of(hash) else { return };
        let parked = self.private.gate.get(slot).and_then(|found| found.parked.as_ref());
        if let Some(Parked::Key { generation: own, state, key: parked }) = parked
            && (*own, &**parked) == (generation, key)
        {
            state.resume(key);
            self.private.gate.set_parked(slot, None);
            self.advance(slot);
        }
    }

    /// Parks a key. The command brings what it needs of the subscription, which may be younger than this
    /// visit's table: so a key's commands take effect in the order in which they were given.
    fn park(
        &mut self,
        generation: u32,
        state: Arc<SubscriptionState>,
        key: Box<[u8]>,
        hash: u64,
        of: Option<&Restoring>,
    ) {
        let slot = self.slot_of(hash);
        let found = slot.and_then(|slot| self.private.gate.get(slot));
        if matches!(found.and_then(|key| key.parked.as_ref()), Some(Parked::Abandoned)) {
            // One of its records was left unfinished: the key stays shut.
            return;
        }
        // A removal from here on is followed by a purge, which finds the key.
        let (why, source) = match of {
            Some(restoring) => ("parked before a restart", Some(&restoring.source)),
            None => ("parked by hand", None),
        };
        let most = self.core.config.parked_keys;
        if state.is_removed() || !state.park(&key, why, source, most) {
            return;
        }
        let parked = Some(Parked::Key { generation, state, key });
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
                Some(Busy::Blocking { work, number, reply, .. }) => {
                    let runs = reply.has_started();
                    (Some(work), if runs { Why::Blocking } else { Why::WaitsForThread }, *number)
                }
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
            let (source, position) = (self.source_of(work), work.record.position());
            let holds = source.is_some_and(|source| source.state.is_held_by(position));
            Some(BusyKey {
                lane: self.lane,
                subscription: name.map_or_else(String::new, |entry| entry.name.to_string()),
                key: work.record.key().map(|key| key[..key.len().min(64)].to_vec()),
                why,
                attempt,
                held_for: now.since(key.since),
                waiting,
                source: source.map(|source| source.name.to_string()),
                position,
                bound: if waiting >= self.core.config.key_waiting {
                    Some(Bound::KeyWaiting)
                } else if lane_full {
                    Some(Bound::LaneWaiting)
                } else {
                    holds.then_some(Bound::SourceWindow)
                },
            })
        });
        let mut keys: Vec<BusyKey> = keys.collect();
        // What holds a bound is shown, however little waits for it.
        keys.sort_by_key(|key| Reverse((key.bound.is_some(), key.waiting)));
        keys.truncate(SHOWN);
        inspection.answer(keys);
    }

    /// The source of a record, if it came from one that goes on.
    pub(crate) fn source_of(&self, work: &Work) -> Option<&'_ SourceEntry> {
        match &work.completion {
            Completion::Source(token) => {
                self.table.source(token.source, token.epoch).map(|source| &**source)
            }
            _ => None,
        }
    }
}
