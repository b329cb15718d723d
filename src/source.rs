//! One partition that feeds a subscription: what its consume loop delivers, and how far it may commit.

use std::fmt;
use std::task::Waker;

use crate::age::Ages;
use crate::clock::Time;
use crate::core::{Command, Core, Restoring};
use crate::delivery::{DeliverError, Slot};
use crate::error::{ConfigError, PushError};
use crate::latency::tell_put;
use crate::ledger::Ledger;
use crate::notice::Notice;
use crate::outcome::Failure;
use crate::peal::Peal;
use crate::position::Stored;
use crate::progress::{NO_POSITION, SourceCounts, UNSAID};
use crate::record::{MAX_KEY, Record};
use crate::sabotage::sabotage;
use crate::submit::{route_keyless, timed, work};
use crate::sync::{Arc, Weak};
use crate::table::{Entry, SourceEntry, SourceState};
use crate::undelivered::Undelivered;
use crate::work::{Completion, SourceToken, Work};

/// How a source begins.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// What it is called in snapshots: its topic and partition.
    pub name: Arc<str>,
    /// Deliveries above the frontier that it may have; `None`: as the runtime's `source_window` says.
    pub window: Option<usize>,
    /// Where it goes on.
    pub resume: Option<Stored>,
    /// Wakes the consume loop: when the frontier may move, when there is room, when the source stops.
    pub waker: Waker,
}

/// One assignment of a partition. Owned by its consume loop; dropped, it ends the assignment: what is
/// finished later is counted as stale and changes nothing.
pub struct Source {
    core: Arc<Core>,
    entry: Arc<Entry>,
    ledger: Ledger,
    state: Arc<SourceState>,
    waker: Waker,
    number: u32,
    epoch: u32,
    /// Bytes of records under way that it may have.
    budget: usize,
    name: Arc<str>,
    counts: Arc<SourceCounts>,
    ages: Ages,
    /// What is below was marked in `ages`.
    marked: u64,
    /// The change of parked keys that was looked at last.
    parkings: u64,
    /// Keys that are being parked again: nothing is delivered before they are.
    restoring: Option<Weak<Restoring>>,
    delivered: u64,
    /// Lanes that it has put something into, and whose workers it has not told.
    peal: Peal,
    waits: Option<(u32, Option<crate::wait_list::Place>)>,
}

/// Why a source could not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceError {
    /// The window is out of its range.
    Config(ConfigError),
    /// The subscription is gone.
    Removed,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Removed => f.write_str("the subscription was removed"),
        }
    }
}

impl std::error::Error for SourceError {}

impl Source {
    pub(crate) fn new(
        core: &Arc<Core>,
        entry: &Arc<Entry>,
        options: SourceOptions,
    ) -> Result<Self, SourceError> {
        let window = options.window.unwrap_or(core.config.source_window);
        let (ledger, finished) =
            Ledger::new(window, options.resume.as_ref(), options.waker.clone())
                .map_err(SourceError::Config)?;
        let state = Arc::new(SourceState::new(options.waker.clone()));
        let budget = entry.policy.source_bytes.unwrap_or(core.config.source_bytes);
        let name = options.name;
        let counts = entry.state.source_counts(&name);
        let (_, (number, epoch)) = core.change(|table| {
            if table.subscription(entry.id, entry.generation).is_none() {
                return Err(SourceError::Removed);
            }
            let mut table = table.clone();
            let epoch = table.generation;
            table.generation = epoch.wrapping_add(1);
            let free = table.sources.iter().position(Option::is_none);
            let number = free.unwrap_or(table.sources.len());
            let source = Some(Arc::new(SourceEntry {
                name: name.clone(),
                subscription: entry.name.clone(),
                epoch,
                finished,
                window,
                budget,
                state: state.clone(),
                counts: counts.clone(),
            }));
            match free {
                Some(number) => table.sources[number] = source,
                None => table.sources.push(source),
            }
            Ok((table, (number as u32, epoch)))
        })?;
        let parked = options.resume.as_ref().map_or(&[][..], Stored::parked);
        let restoring = restore(core, entry, &name, parked, &options.waker);
        let source = Self {
            name,
            counts,
            ages: Ages::default(),
            marked: 0,
            parkings: entry.state.parkings(),
            restoring,
            core: core.clone(),
            entry: entry.clone(),
            ledger,
            state,
            waker: options.waker,
            number,
            epoch,
            budget,
            delivered: 0,
            peal: Peal::default(),
            waits: None,
        };
        source.show();
        Ok(source)
    }

    /// Says how far it is, for snapshots. For its loop, once a turn, with the time that it has read: a few plain
    /// stores.
    pub fn turn(&mut self, now: Time) {
        let next = self.ledger.newest().map_or(0, |newest| newest.saturating_add(1));
        if next > self.marked {
            self.ages.mark(self.marked, now);
            self.marked = next;
        }
        let since = match self.ledger.oldest_unfinished() {
            Some(oldest) => self.ages.since(oldest),
            None => {
                self.ages.clear();
                None
            }
        };
        let progress = self.state.progress();
        progress.oldest_since.set(since.map_or(UNSAID, Time::as_nanos));
        if progress.committed.get() == UNSAID {
            // Until it is committed, the age counts from its first turn.
            progress.committed.set(now.as_nanos());
        }
        self.show();
    }

    /// How far its frontier is behind the end of its partition, as the broker has said last.
    pub fn set_lag(&self, lag: u64) {
        self.state.progress().lag.set(lag);
    }

    /// It was committed, or its position stored, at this time.
    pub fn committed(&self, now: Time) {
        self.state.progress().committed.set(now.as_nanos());
    }

    /// What is counted of it over all assignments. Barriers and reconnects are its bus' to count.
    pub fn counts(&self) -> &SourceCounts {
        &self.counts
    }

    /// What to keep for a restart: how far it is, and which of its keys are parked.
    pub fn stored_with_parked(&mut self) -> Option<Stored> {
        let mut stored = self.ledger.stored()?;
        self.entry.state.parked_of(&self.name).into_iter().for_each(|key| stored.park(key));
        Some(stored)
    }

    /// Whether keys were parked or resumed since the last time it was asked: there is something to store, though
    /// nothing may have been finished.
    pub fn parked_changed(&mut self) -> bool {
        let parkings = self.entry.state.parkings();
        std::mem::replace(&mut self.parkings, parkings) != parkings
    }

    fn show(&self) {
        let (progress, ledger) = (self.state.progress(), &self.ledger);
        let position = |position: Option<u64>| position.unwrap_or(NO_POSITION);
        progress.delivered.set(self.delivered);
        progress.unfinished.set(ledger.unfinished() as u64);
        progress.window.set(ledger.in_window() as u64);
        progress.bytes.set(ledger.bytes() as u64);
        progress.frontier.set(position(ledger.frontier()));
        progress.oldest.set(position(ledger.oldest_unfinished()));
        progress.next.set(ledger.newest().map_or(NO_POSITION, |newest| newest.saturating_add(1)));
    }

    /// The number of this assignment, unique in its runtime.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Delivers the record at its position's offset. Never blocks. One whose key is longer than 4,096 bytes takes the
    /// place of its key, and fails there for good.
    ///
    /// # Errors
    /// Gives the record back; see [`Undelivered`]. After `Full` the waker is called once there is room.
    pub fn deliver(&mut self, record: Record) -> Result<(), Undelivered> {
        let put = self.put(record);
        self.ring();
        put
    }

    /// As [`deliver`](Self::deliver), for a loop that has several: a worker that is at rest hears of it only by
    /// [`ring`](Self::ring), which is called before the loop sleeps or does anything that takes long.
    ///
    /// # Errors
    /// As `deliver`.
    pub fn put(&mut self, record: Record) -> Result<(), Undelivered> {
        tell_put(record.payload());
        if self.state.is_stopped() || !self.entry.state.takes() {
            return Err(Undelivered::Stopped(record));
        }
        if self.restoring.is_some() && self.is_restoring() {
            return Err(Undelivered::Full(record));
        }
        let routed = match record.front() {
            // From a broker an empty key is none.
            [] => route_keyless(&self.core, &self.entry),
            key => Ok(self.core.router.route_salted(&self.entry.salt, key)),
        };
        let routed = match routed {
            Ok(routed) => routed,
            Err(refusal) => return Err(Undelivered::Key(refusal, record)),
        };
        let bytes = record.bytes();
        let over = self.ledger.bytes() > 0 && self.ledger.bytes() + bytes > self.budget;
        if over != self.state.is_heavy() {
            self.state.set_heavy(over);
            self.show();
        }
        if over {
            return Err(Undelivered::Bytes(record));
        }
        let record = if record.front().len() > MAX_KEY { too_long(record) } else { record };
        let offset = record.position().map_or(0, |position| position.offset);
        let delivered = self.ledger.deliver(offset);
        let full = delivered == Err(DeliverError::WindowFull);
        if full != self.state.is_full() {
            self.state.set_full(full);
            self.show();
        }
        let slot = match delivered {
            Ok(slot) => slot,
            Err(error) => return Err(self.absorb(error, record)),
        };
        let token = SourceToken { source: self.number, epoch: self.epoch, slot };
        let record = if sabotage!(KeyMixedUp) { record.with_key(b"another", None) } else { record };
        let record = timed(&self.core, record);
        let work = work(&self.entry, record, routed.hash, Completion::Source(token));
        if let Err(error) = self.peal.push(&self.core.lanes, routed.lane, work) {
            self.refused(error, routed.lane, slot)?;
        }
        self.delivered += 1;
        self.ledger.hold(slot, bytes);
        Ok(())
    }

    /// Tells the workers of what was [`put`](Self::put).
    #[inline]
    pub fn ring(&mut self) {
        self.peal.ring(&self.core.lanes);
    }

    #[cold]
    fn is_restoring(&mut self) -> bool {
        if self.restoring.as_ref().is_some_and(|weak| weak.strong_count() == 0) {
            self.restoring = None;
        }
        self.restoring.is_some()
    }

    #[cold]
    fn absorb(&self, error: DeliverError, record: Record) -> Undelivered {
        use DeliverError::{AlreadyFinished, InFlight, Passed};
        if matches!(error, AlreadyFinished | InFlight | Passed) {
            self.counts.absorbed.add(1);
        }
        Undelivered::Ledger(error, record)
    }

    /// A lane did not take a delivery: waits for room if it is full. Unless it takes it after all, its place in the
    /// ledger is taken back.
    #[cold]
    fn refused(
        &mut self,
        error: PushError<Work>,
        lane: u32,
        slot: Slot,
    ) -> Result<(), Undelivered> {
        let refused = match error {
            PushError::Full(work) => self.wait_for_room(lane, work),
            error => Err(error),
        };
        let Err(error) = refused else { return Ok(()) };
        let retracted = self.ledger.retract(slot);
        debug_assert!(retracted.is_ok(), "the newest delivery was not taken");
        Err(match error {
            PushError::Full(work) => Undelivered::Full(work.record),
            PushError::Closed(work) => Undelivered::Stopped(work.record),
        })
    }

    /// Registers for room in a full lane and tries once more.
    #[cold]
    fn wait_for_room(&mut self, lane: u32, work: Work) -> Result<(), PushError<Work>> {
        self.leave();
        let (mut work, mut place) = (Some(work), None);
        let mut cx = std::task::Context::from_waker(&self.waker);
        let polled = self.core.lanes.poll_push(lane, &mut work, &mut place, &mut cx);
        self.waits = Some((lane, place));
        match (polled, work) {
            (std::task::Poll::Pending, Some(_)) if sabotage!(FullLaneLoses) => Ok(()),
            (std::task::Poll::Pending, Some(work)) => Err(PushError::Full(work)),
            (std::task::Poll::Ready(Err(_)), Some(work)) => Err(PushError::Closed(work)),
            _ => Ok(()),
        }
    }

    fn leave(&mut self) {
        if let Some((lane, mut place)) = self.waits.take() {
            self.core.lanes.leave(lane, &mut place);
        }
    }

    /// Its ledger: what is finished, how far it may commit, whether to sleep.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Whether its window or its bytes were used up when it was delivered to last.
    pub fn is_full(&self) -> bool {
        self.state.is_full() || self.state.is_heavy()
    }

    /// Bytes of records that it may deliver before it has used up its budget.
    pub fn room(&self) -> usize {
        self.budget.saturating_sub(self.ledger.bytes())
    }

    /// Whether its subscription is paused: nothing is read, what was read is delivered.
    pub fn is_paused(&self) -> bool {
        self.entry.state.is_paused()
    }

    /// Whether it has stopped: nothing more is handled of it, and what is unfinished stays so.
    pub fn is_stopped(&self) -> bool {
        self.state.is_stopped() || !self.entry.state.is_open()
    }

    /// The failure that stopped it, if one did.
    pub fn stopped_by(&self) -> Option<Failure> {
        self.state.stopped_by().or_else(|| self.entry.state.stopped_by())
    }

    /// Stops it for this reason, and says so. `partition` is what it feeds from.
    pub fn stop_by(&self, partition: u32, failure: &Failure) {
        self.state.stop(Some(failure));
        let (subscription, error) = (self.entry.name.to_string(), failure.error.clone());
        self.core.notice(&Notice::Stopped { subscription, partition: Some(partition), error });
        self.core.purge();
    }

    /// Stops it: what is queued is released unfinished, attempts under way go on.
    pub fn stop(&self) {
        self.state.stop(None);
        self.core.purge();
    }
}

/// Parks the keys again that were parked when the source's position was stored.
fn restore(
    core: &Core,
    entry: &Entry,
    name: &Arc<str>,
    parked: &[Vec<u8>],
    waker: &Waker,
) -> Option<Weak<Restoring>> {
    if parked.is_empty() || entry.dead_letter.is_none() {
        return None;
    }
    let restoring = Arc::new(Restoring { source: name.clone(), waker: waker.clone() });
    for key in parked {
        let (generation, state) = (entry.generation, entry.state.clone());
        let crate::hash::Route { lane, hash } = core.router.route_salted(&entry.salt, key);
        let (key, of) = (key.as_slice().into(), Some(restoring.clone()));
        core.lanes.command(lane, Command::Park { generation, state, key, hash, of });
    }
    Some(Arc::downgrade(&restoring))
}

/// A record whose key is no key of the runtime's.
#[cold]
fn too_long(record: Record) -> Record {
    let bytes = record.front().len();
    record.with_refusal(format!("its key has {bytes} bytes, and a key has at most {MAX_KEY}"))
}

impl Drop for Source {
    fn drop(&mut self) {
        // Whatever ended it between a `put` and its `ring`: nobody else can wake those lanes.
        self.ring();
        self.leave();
        self.state.stop(None);
        let _ = self.core.change(|table| {
            let mut table = table.clone();
            let ended = table.end_source(self.number, self.epoch);
            ended.map(|source| (table, source)).ok_or(())
        });
        self.core.purge();
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("subscription", &self.entry.name)
            .field("epoch", &self.epoch)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}
