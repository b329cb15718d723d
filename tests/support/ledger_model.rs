//! The ledger against a naive model, driven by bytes: for the property tests and the fuzz target.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};

use keylane::internals::{DeliverError, Finished, Ledger, Slot, Status, Stored};

#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    InFlight,
    Unreported,
    Finished,
    Dropped,
    Gone,
}

struct Entry {
    position: u64,
    slot: Slot,
    state: State,
}

#[derive(PartialEq)]
enum Armed {
    No,
    Head(usize),
    Any(usize),
}

struct Model {
    window: usize,
    ledger: Ledger,
    finished: Arc<Finished>,
    wakes: Arc<Wakes>,
    armed: Armed,
    entries: VecDeque<Entry>,
    /// Released from `entries`, in order: position, and whether it was finished (or else is gone).
    past: Vec<(u64, bool)>,
    start: u64,
    resumed: BTreeSet<u64>,
    next: Option<u64>,
    cursor: u64,
    /// Unfinished slots of earlier epochs.
    stale: Vec<(Arc<Finished>, Slot)>,
    /// The truth over all epochs, kept apart from how the model works.
    delivered: BTreeSet<u64>,
    done: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

/// Takes `data` as operations on a ledger of `window` and panics where it differs from the model.
pub(crate) fn run(window: usize, start: Option<u64>, data: &[u8]) {
    let wakes = Arc::new(Wakes::default());
    let resume = start.map(Stored::new);
    let (ledger, finished) =
        Ledger::new(window, resume.as_ref(), Waker::from(Arc::clone(&wakes))).unwrap();
    let mut model = Model {
        window,
        ledger,
        finished,
        wakes,
        armed: Armed::No,
        entries: VecDeque::new(),
        past: Vec::new(),
        start: start.unwrap_or(0),
        resumed: BTreeSet::new(),
        next: start,
        cursor: start.unwrap_or(0),
        stale: Vec::new(),
        delivered: BTreeSet::new(),
        done: BTreeSet::new(),
        gone: BTreeSet::new(),
    };
    for pair in data.chunks_exact(2) {
        model.step(pair[0], usize::from(pair[1]));
        model.check();
    }
    model.finish_all();
}

impl Model {
    fn step(&mut self, op: u8, arg: usize) {
        match op % 24 {
            0..4 => self.deliver_next(arg),
            4..6 => (0..arg % 80).for_each(|_| self.deliver_next(0)),
            6..9 => self.finish(arg),
            9 => {
                // All but one.
                let kept = arg % self.entries.len().max(1);
                (0..self.entries.len()).filter(|&i| i != kept).for_each(|i| self.finish_at(i));
            }
            10..14 => self.advance(),
            14..16 => self.retract(arg),
            16 => self.rewind(arg),
            17 => self.resume(arg),
            18 => self.deliver(self.near(arg)),
            19 => _ = self.query(self.near(arg)),
            20 => self.prepare_wait(),
            21 => self.prepare_wait_any(),
            22 => {
                self.ledger.cancel_wait();
                self.armed = Armed::No;
            }
            _ => {
                // A late finish of an old epoch.
                if !self.stale.is_empty() {
                    let (finished, slot) = self.stale.swap_remove(arg % self.stale.len());
                    let before = self.wakes.count();
                    finished.finish(slot);
                    assert_eq!(self.wakes.count(), before, "an old epoch woke the loop");
                }
            }
        }
    }

    /// A position about where things are.
    fn near(&self, arg: usize) -> u64 {
        let around = match arg % 3 {
            0 => self.cursor,
            1 => self.ledger.frontier().unwrap_or(0),
            _ => self.start,
        };
        if arg == 255 { u64::MAX } else { around.saturating_add(arg as u64 / 3).saturating_sub(20) }
    }

    /// What an orderly source does: goes on after the cursor, again over what it has, then anew.
    fn deliver_next(&mut self, arg: usize) {
        let known = self.delivered.union(&self.resumed);
        let again = known.copied().filter(|&p| p >= self.cursor && !self.gone.contains(&p));
        let again = again.filter(|&p| self.next.is_some_and(|next| p < next)).min();
        let gap = if arg.is_multiple_of(16) { arg as u64 } else { arg as u64 % 3 };
        let anew = self.next.unwrap_or(0).saturating_add(gap);
        // Now and then a record has gone from the source meanwhile.
        self.deliver(if arg % 32 == 31 { anew } else { again.unwrap_or(anew) });
    }

    fn status(&self, position: u64) -> (Status, bool) {
        let below = self.ledger.frontier().is_some_and(|frontier| position < frontier);
        if self.resumed.contains(&position) {
            return (Status::Finished, false);
        }
        if self.next.is_none_or(|next| position >= next) {
            return (Status::Unknown, false);
        }
        if position < self.start {
            return (Status::Passed, false);
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.position == position) {
            let status = match entry.state {
                State::InFlight | State::Unreported => Status::Unfinished,
                State::Finished => Status::Finished,
                State::Dropped | State::Gone => Status::Unknown,
            };
            return (status, false);
        }
        let remembered = self.window.saturating_sub(self.entries.len());
        let recent = &self.past[self.past.len().saturating_sub(remembered)..];
        let old = recent.len() < self.past.len()
            && recent.first().is_none_or(|&(oldest, _)| position < oldest);
        match self.past.iter().find(|(past, _)| *past == position) {
            Some((_, true)) => (Status::Finished, old && below),
            _ => (Status::Unknown, old && below),
        }
    }

    fn query(&self, position: u64) -> Status {
        let (expected, may_have_passed) = self.status(position);
        let status = self.ledger.status(position);
        if !(may_have_passed && status == Status::Passed) {
            assert_eq!(status, expected, "status of {position}");
        }
        status
    }

    fn deliver(&mut self, position: u64) {
        let status = self.query(position);
        let result = self.ledger.deliver(position);
        // A wait covers what was delivered before it.
        self.armed = Armed::No;
        let newest = self.next.is_none_or(|next| position >= next);
        match status {
            Status::Passed => assert_eq!(result, Err(DeliverError::Passed)),
            Status::Finished => {
                assert_eq!(result, Err(DeliverError::AlreadyFinished));
                self.pass(position);
            }
            Status::Unfinished => {
                assert_eq!(result, Err(DeliverError::InFlight));
                self.pass(position);
            }
            Status::Unknown if position == u64::MAX => {
                assert_eq!(result, Err(DeliverError::TooLarge));
            }
            Status::Unknown if newest => {
                self.give_up();
                if self.entries.len() == self.window {
                    assert_eq!(result, Err(DeliverError::WindowFull));
                    return;
                }
                let slot = result.expect("there is room");
                self.entries.push_back(Entry { position, slot, state: State::InFlight });
                self.delivered.insert(position);
                self.pass(position);
            }
            Status::Unknown => {
                let cursor = self.cursor;
                let entry = self.entries.iter_mut().find(|entry| {
                    entry.position == position
                        && entry.state == State::Dropped
                        && position >= cursor
                });
                if let Some(entry) = entry {
                    assert_eq!(result, Ok(entry.slot));
                    entry.state = State::InFlight;
                    self.pass(position);
                } else {
                    assert_eq!(
                        result,
                        Err(DeliverError::OutOfOrder { last: self.next.unwrap() - 1 })
                    );
                }
            }
        }
    }

    fn pass(&mut self, position: u64) {
        if self.next.is_none_or(|next| position >= next) {
            self.give_up();
            self.next = Some(position + 1);
        }
        self.cursor = self.cursor.max(position + 1);
    }

    fn give_up(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Dropped) {
            entry.state = State::Gone;
            self.gone.insert(entry.position);
        }
    }

    fn finish(&mut self, arg: usize) {
        let running = self.entries.iter().enumerate().filter(|(_, e)| e.state == State::InFlight);
        let running: Vec<_> = running.map(|(i, _)| i).collect();
        if !running.is_empty() {
            self.finish_at(running[arg % running.len()]);
        }
    }

    fn finish_at(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        if entry.state != State::InFlight {
            return;
        }
        entry.state = State::Unreported;
        self.done.insert(entry.position);
        self.finished.finish(entry.slot);
        match self.armed {
            Armed::Head(before) if index == 0 => assert_eq!(self.wakes.count(), before + 1),
            Armed::Head(before) => assert!(self.wakes.count() <= before + 1),
            Armed::Any(before) => assert!(self.wakes.count() > before),
            Armed::No => {}
        }
    }

    fn advance(&mut self) {
        let before = self.wakes.count();
        let mut reported = Vec::new();
        self.ledger.advance(|position| reported.push(position));
        let mut expected = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Unreported) {
            entry.state = State::Finished;
            expected.push(entry.position);
        }
        assert_eq!(reported, expected);
        let over = |entry: &Entry| matches!(entry.state, State::Finished | State::Gone);
        while self.entries.front().is_some_and(over) {
            let entry = self.entries.pop_front().unwrap();
            self.past.push((entry.position, entry.state == State::Finished));
        }
        self.armed = Armed::No;
        assert_eq!(self.wakes.count(), before);
    }

    fn retract(&mut self, arg: usize) {
        let Some(last) = self.entries.len().checked_sub(1) else { return };
        let index = last - if arg.is_multiple_of(4) { arg / 4 % (last + 1) } else { 0 };
        let entry = &mut self.entries[index];
        // A finished slot is not the caller's any more.
        if entry.state == State::Unreported {
            return;
        }
        let newest = entry.state == State::InFlight && entry.position + 1 == self.cursor;
        assert_eq!(self.ledger.retract(entry.slot).is_ok(), newest);
        if newest {
            self.armed = Armed::No;
            self.cursor = entry.position;
            if self.next == Some(entry.position + 1) {
                self.next = Some(entry.position);
                self.delivered.remove(&entry.position);
                self.entries.pop_back();
            } else {
                entry.state = State::Dropped;
            }
        }
    }

    fn rewind(&mut self, arg: usize) {
        let dropped = self
            .entries
            .iter_mut()
            .enumerate()
            .filter(|(i, entry)| entry.state == State::InFlight && (arg >> (i % 8)) & 1 == 1);
        let slots: Vec<_> = dropped
            .map(|(_, entry)| {
                entry.state = State::Dropped;
                entry.slot
            })
            .collect();
        let from = self.ledger.rewind(slots);
        assert_eq!(from, self.ledger.frontier());
        self.cursor = from.unwrap_or(0);
    }

    /// A new epoch from what is stored.
    fn resume(&mut self, arg: usize) {
        let Some(stored) = self.ledger.stored() else { return };
        let frontier = stored.frontier();
        let at = |state| self.entries.iter().filter(move |e| e.state == state).map(|e| e.position);
        let mut finished: BTreeSet<u64> = at(State::Finished).filter(|&p| p >= frontier).collect();
        finished.extend(self.resumed.range(frontier..));
        let of = |stored: &Stored| -> BTreeSet<u64> {
            stored.finished().iter().flat_map(|run| run.first..=run.last).collect()
        };
        assert_eq!(of(&stored), finished);
        assert!(finished.is_subset(&self.done), "finished was invented");

        let whole = stored.encode(Stored::MAX_TEXT);
        assert_eq!((whole.finished_dropped, whole.parked_dropped), (0, 0));
        assert_eq!(Stored::decode_at(&whole.text, frontier).as_ref(), Ok(&stored));
        let short = stored.encode(arg);
        assert!(short.text.len() <= arg);
        let stored = Stored::decode(&short.text).unwrap_or(Stored::new(frontier));
        let kept = of(&stored);
        assert_eq!(finished.len() - kept.len(), short.finished_dropped as usize);
        assert!(finished.iter().take(kept.len()).eq(kept.iter()), "not the nearest were kept");

        let waker = Waker::from(Arc::clone(&self.wakes));
        let (ledger, new) = Ledger::new(self.window, Some(&stored), waker).unwrap();
        self.ledger = ledger;
        let old = std::mem::replace(&mut self.finished, new);
        for entry in self.entries.drain(..).filter(|entry| entry.state == State::InFlight) {
            self.stale.push((Arc::clone(&old), entry.slot));
        }
        self.past.clear();
        self.start = frontier;
        self.resumed = kept;
        self.next = Some(frontier);
        self.cursor = frontier;
        self.armed = Armed::No;
        self.delivered.retain(|&position| position < frontier);
    }

    fn prepare_wait(&mut self) {
        let head = self.entries.front();
        let idle = head.is_none_or(|e| matches!(e.state, State::InFlight | State::Dropped));
        assert_eq!(self.ledger.prepare_wait(), idle);
        self.armed = if idle { Armed::Head(self.wakes.count()) } else { Armed::No };
    }

    fn prepare_wait_any(&mut self) {
        let news = self.entries.iter().any(|entry| entry.state == State::Unreported)
            || self.entries.front().is_some_and(|entry| entry.state == State::Gone);
        assert_eq!(self.ledger.prepare_wait_any(), !news);
        self.armed = if news { Armed::No } else { Armed::Any(self.wakes.count()) };
    }

    fn check(&self) {
        let open = |e: &&Entry| !matches!(e.state, State::Finished | State::Gone);
        let unfinished = self.entries.iter().filter(open).count();
        let dropped = self.entries.iter().filter(|e| e.state == State::Dropped).count();
        assert_eq!(self.ledger.unfinished(), unfinished);
        assert_eq!(self.ledger.in_flight(), unfinished - dropped);
        let head = self.entries.front().map(|entry| entry.position);
        assert_eq!(self.ledger.oldest_unfinished(), head);
        assert_eq!(self.ledger.frontier(), head.or(self.next));
        assert_eq!(self.ledger.is_full(), self.entries.len() == self.window);
        let frontier = self.ledger.frontier().unwrap_or(0);
        for position in self.delivered.range(..frontier) {
            let over = self.done.contains(position) || self.gone.contains(position);
            assert!(over, "the frontier {frontier} passed {position}, which is not finished");
        }
    }

    /// Whatever happened: once all is finished, nothing holds the frontier.
    fn finish_all(mut self) {
        self.ledger.rewind([]);
        self.cursor = self.ledger.frontier().unwrap_or(0);
        let mut dropped: BTreeMap<u64, ()> = BTreeMap::new();
        let lost = self.entries.iter().filter(|entry| entry.state == State::Dropped);
        dropped.extend(lost.map(|entry| (entry.position, ())));
        dropped.into_keys().for_each(|position| self.deliver(position));
        (0..self.entries.len()).for_each(|index| self.finish_at(index));
        self.advance();
        self.check();
        assert_eq!(self.ledger.unfinished(), 0);
        assert_eq!(self.ledger.frontier(), self.next);
    }
}
