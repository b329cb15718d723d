//! The table of subscriptions and sources that workers read: what a lane's records are handled with.

use std::collections::{BTreeMap, VecDeque};

use crossbeam_utils::CachePadded;

use crate::block::Position;
use crate::counts::SubscriptionCounters;
use crate::error::HandlerError;
use crate::finished::Finished;
use crate::handler::Version;
use crate::hash::Salt;
use crate::metrics::Counter;
use crate::outage::Letters;
use crate::outcome::Failure;
use crate::progress::{Progress, SourceCounts};
use crate::subscription::{DeadLetter, ParkedKey, Subscription};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};

/// One version of the table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Subscriptions by number.
    pub subscriptions: Vec<Option<Arc<Entry>>>,
    /// Sources by number.
    pub sources: Vec<Option<Arc<SourceEntry>>>,
    /// The generation of the next subscription.
    pub generation: u32,
    /// Assignments that ended last, by their epoch: what ends late is counted for them.
    pub ended: VecDeque<(u32, Arc<SourceCounts>)>,
}

/// Ended assignments that are known.
const ENDED: usize = 64;

/// A subscription with its current handler.
pub struct Entry {
    /// Its number.
    pub id: u32,
    /// Which subscription of this number it is.
    pub generation: u32,
    /// What its keys are hashed with.
    pub salt: Salt,
    /// Its name.
    pub name: Arc<str>,
    /// Its policy.
    pub policy: Arc<Subscription>,
    /// Where its dead letters go.
    pub dead_letter: Option<Arc<dyn DeadLetter>>,
    /// Its handler.
    pub version: Arc<Version>,
    /// Whether a bus feeds it: its handlers are not called for what that has refused.
    pub fed: bool,
    /// What stays the same when the handler is swapped.
    pub state: Arc<SubscriptionState>,
}

/// What a subscription's handlers have in common.
#[derive(Debug, Default)]
pub struct SubscriptionState {
    standing: AtomicU8,
    /// Buses read nothing for it.
    paused: AtomicBool,
    stopped_by: Mutex<Option<Failure>>,
    parked: Mutex<BTreeMap<Vec<u8>, Shut>>,
    /// How often the parked keys have changed.
    parkings: AtomicU64,
    letters: Letters,
    /// What is counted of its sources, by name: assignments come and go.
    sources: Mutex<BTreeMap<Arc<str>, Arc<SourceCounts>>>,
    /// What is counted of it.
    pub counters: SubscriptionCounters,
    /// Places given to records without a key, so that they spread.
    pub keyless: Counter,
}

const OPEN: u8 = 0;
const DRAINING: u8 = 1;
const STOPPED: u8 = 2;
const REMOVED: u8 = 3;

impl SubscriptionState {
    /// Open, with nothing parked; for `threads` threads that handle its records.
    pub fn new(threads: usize) -> Self {
        Self { counters: SubscriptionCounters::new(threads), ..Self::default() }
    }

    /// Whether records are handled.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.standing.load(Ordering::Relaxed) <= DRAINING
    }

    /// Whether records are taken.
    #[inline]
    pub fn takes(&self) -> bool {
        self.standing.load(Ordering::Relaxed) == OPEN
    }

    /// Whether buses read nothing for it.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Says whether buses read for it. Whoever says so wakes their loops.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Takes no more records; those taken are handled.
    pub fn drain(&self) {
        let _ = self.standing.compare_exchange(OPEN, DRAINING, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The failure that stopped it, if one did.
    pub fn stopped_by(&self) -> Option<Failure> {
        self.stopped_by.lock().clone()
    }

    /// Stops it, unless it is stopped or removed.
    pub fn stop(&self, failure: &Failure) {
        let mut stopped_by = self.stopped_by.lock();
        let open = |standing| matches!(standing, OPEN | DRAINING).then_some(STOPPED);
        // In one step: a removal at the same time counts.
        if self.standing.fetch_update(Ordering::AcqRel, Ordering::Relaxed, open).is_ok() {
            *stopped_by = Some(failure.clone());
        }
    }

    /// Removes it.
    pub fn remove(&self) {
        self.standing.store(REMOVED, Ordering::Release);
    }

    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        self.standing.load(Ordering::Relaxed) == REMOVED
    }

    /// Adds a parked key of a source, if it is known to be of one. False if there are as many as may be, and it is
    /// none of them.
    pub fn park(&self, key: &[u8], error: &str, source: Option<&Arc<str>>, most: usize) -> bool {
        let mut parked = self.parked.lock();
        if let Some(known) = parked.get_mut(key) {
            if known.source.as_ref() != source {
                // Of two sources none is known to be its own.
                known.source = None;
            }
            return true;
        }
        if parked.len() >= most {
            return false;
        }
        let entry = ParkedKey { key: key.to_vec(), error: error.into(), followed: 0 };
        parked.insert(key.to_vec(), Shut { key: entry, source: source.cloned() });
        drop(parked);
        self.parkings.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// One more record followed a parked key, out of this source.
    pub fn followed(&self, key: &[u8], source: Option<&Arc<str>>) {
        if let Some(parked) = self.parked.lock().get_mut(key) {
            parked.key.followed += 1;
            if source.is_some() && parked.source.as_ref() != source {
                parked.source = source.cloned();
                self.parkings.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes a parked key out.
    pub fn resume(&self, key: &[u8]) -> Option<ParkedKey> {
        let resumed = self.parked.lock().remove(key)?;
        self.parkings.fetch_add(1, Ordering::Relaxed);
        Some(resumed.key)
    }

    /// How many keys are parked.
    pub fn parked_count(&self) -> usize {
        self.parked.lock().len()
    }

    /// The parked keys.
    pub fn parked(&self) -> Vec<ParkedKey> {
        self.parked.lock().values().map(|shut| shut.key.clone()).collect()
    }

    /// The keys that a source is to know parked when it goes on: its own, and those whose source nobody knows.
    pub fn parked_of(&self, source: &Arc<str>) -> Vec<Vec<u8>> {
        let parked = self.parked.lock();
        let own =
            parked.values().filter(|shut| shut.source.as_ref().is_none_or(|own| own == source));
        own.map(|shut| shut.key.key.clone()).collect()
    }

    /// Another number after each change of the parked keys.
    pub fn parkings(&self) -> u64 {
        self.parkings.load(Ordering::Relaxed)
    }

    /// What is counted of the source of this name.
    pub fn source_counts(&self, name: &Arc<str>) -> Arc<SourceCounts> {
        self.sources.lock().entry(name.clone()).or_default().clone()
    }

    /// Dead letters are not taken, or are again.
    pub fn letters(&self) -> &Letters {
        &self.letters
    }
}

/// A parked key, and the source that its records come from, if that is known.
#[derive(Debug)]
struct Shut {
    key: ParkedKey,
    source: Option<Arc<str>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One assignment of a source.
#[derive(Debug)]
pub struct SourceEntry {
    /// What it is called, for whoever looks.
    pub name: Arc<str>,
    /// The subscription that it feeds.
    pub subscription: Arc<str>,
    /// Which assignment of this number it is.
    pub epoch: u32,
    /// Deliveries that it may have above its frontier.
    pub window: usize,
    /// Bytes of records under way that it may have.
    pub budget: usize,
    /// What its deliveries are marked finished in.
    pub finished: Arc<Finished>,
    /// Whether it goes on.
    pub state: Arc<SourceState>,
    /// What is counted of it.
    pub counts: Arc<SourceCounts>,
}

/// Whether a source goes on.
#[derive(Debug)]
pub struct SourceState {
    stopped: AtomicU8,
    stopped_by: Mutex<Option<Failure>>,
    /// Its window is used up: it is read no further until the frontier moves.
    full: AtomicBool,
    /// Its bytes are used up: it is read no further until something is finished.
    heavy: AtomicBool,
    /// On a line of its own: workers read the rest for every record.
    progress: CachePadded<Progress>,
    waker: std::task::Waker,
}

impl SourceState {
    /// A source that goes on; `waker` wakes its consume loop.
    pub fn new(waker: std::task::Waker) -> Self {
        Self {
            stopped: AtomicU8::new(OPEN),
            stopped_by: Mutex::new(None),
            full: AtomicBool::new(false),
            heavy: AtomicBool::new(false),
            progress: CachePadded::default(),
            waker,
        }
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether its window is used up, and the delivery at this position holds it.
    pub fn is_held_by(&self, position: Option<Position>) -> bool {
        self.is_full() && self.holds_oldest(position)
    }

    /// Whether the delivery at this position is the oldest that is not finished.
    pub fn holds_oldest(&self, position: Option<Position>) -> bool {
        let oldest = self.progress.oldest.get();
        position.is_some_and(|position| position.offset == oldest)
    }

    /// Whether its window is used up.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Says whether its window is used up. For its owner.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Whether its bytes are used up.
    pub fn is_heavy(&self) -> bool {
        self.heavy.load(Ordering::Relaxed)
    }

    /// Says whether its bytes are used up. For its owner.
    pub fn set_heavy(&self, heavy: bool) {
        self.heavy.store(heavy, Ordering::Relaxed);
    }

    /// Whether it has stopped.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) != OPEN
    }

    /// The failure that stopped it, if one did.
    pub fn stopped_by(&self) -> Option<Failure> {
        self.stopped_by.lock().clone()
    }

    /// Stops it and tells its consume loop.
    pub fn stop(&self, failure: Option<&Failure>) {
        {
            let mut stopped_by = self.stopped_by.lock();
            if self.stopped.swap(STOPPED, Ordering::AcqRel) == OPEN {
                *stopped_by = failure.cloned();
            }
        }
        self.waker.wake_by_ref();
    }
}

impl Table {
    /// Takes out an assignment, if it is there.
    pub fn end_source(&mut self, id: u32, epoch: u32) -> Option<Arc<SourceEntry>> {
        let place = self.sources.get_mut(id as usize)?;
        let source = place.take_if(|source| source.epoch == epoch)?;
        if self.ended.len() >= ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((epoch, source.counts.clone()));
        Some(source)
    }

    /// A delivery ended after its assignment had.
    #[cold]
    pub fn count_stale(&self, epoch: u32) {
        let ended = self.ended.iter().rev().find(|ended| ended.0 == epoch);
        ended.into_iter().for_each(|(_, counts)| counts.stale.add_shared(1));
    }

    /// The subscription that a record was submitted to, if it is still here.
    #[inline]
    pub fn subscription(&self, id: u32, generation: u32) -> Option<&Arc<Entry>> {
        self.subscriptions.get(id as usize)?.as_ref().filter(|entry| entry.generation == generation)
    }

    /// The assignment that a record was delivered under, if it still holds.
    #[inline]
    pub fn source(&self, id: u32, epoch: u32) -> Option<&Arc<SourceEntry>> {
        self.sources.get(id as usize)?.as_ref().filter(|source| source.epoch == epoch)
    }
}

/// An attempt ran longer than its subscription allows.
pub(crate) fn deadline_passed(after: std::time::Duration) -> HandlerError {
    HandlerError::retryable(format!("the attempt did not end within {after:?}"))
}
