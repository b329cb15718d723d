//! A source's record of what was delivered to the runtime and what is finished, and the frontier
//! below which everything is.
//!
//! ```text
//! consume loop owns the Ledger                      workers share its Finished
//!   deliver(position) → slot ── with the record ──→ handler ends: finish(slot)
//!   advance() ← whole words of bits ─────────────── one read-modify-write of the slot's word
//! ```
//!
//! Slots are a ring in the order of delivery, so gaps between positions cost nothing and hold nothing
//! up. One assignment of a source (an epoch) has one ledger: a later one begins with a new
//! [`Ledger`], and a late finish sets a bit of the old [`Finished`] that nobody reads.

use std::task::Waker;

use crate::delivery::{DeliverError, NotNewest, Slot, Status};
use crate::error::ConfigError;
use crate::finished::{BITS, Finished, bit};
use crate::held::Held;
use crate::position::{Run, Stored, covers};
use crate::sabotage::sabotage;
use crate::sync::Arc;
use crate::window::Window;

/// The consume loop's half: delivers, reports what is finished, knows the frontier.
///
/// Memory is bounded by the window; nothing is allocated after [`new`](Self::new) but in
/// [`stored`](Self::stored).
///
/// ```
/// # #[cfg(feature = "internals")] {
/// use keylane::internals::{DeliverError, Ledger};
/// use std::task::Waker;
///
/// let (mut ledger, finished) = Ledger::new(1_000, None, Waker::noop().clone())?;
/// let seven = ledger.deliver(7)?;
/// let nine = ledger.deliver(9)?;                       // there is no 8: a gap
///
/// finished.finish(nine);                               // on any thread
/// ledger.advance(|position| assert_eq!(position, 9));
/// assert_eq!(ledger.frontier(), Some(7));
///
/// let stored = ledger.stored().expect("something was delivered");
/// let (mut next, _) = Ledger::new(1_000, Some(&stored), Waker::noop().clone())?;
/// next.deliver(7)?;
/// assert_eq!(next.deliver(9), Err(DeliverError::AlreadyFinished));
///
/// finished.finish(seven);
/// ledger.advance(|position| assert_eq!(position, 7));
/// assert_eq!(ledger.frontier(), Some(10));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ledger {
    finished: Arc<Finished>,
    /// The deliveries from the oldest unfinished one on.
    window: Window,
    /// The bits of `finished` that `advance` has reported.
    seen: Box<[u64]>,
    /// The deliveries that `rewind` was told will never finish.
    dropped: Box<[u64]>,
    /// Slots in use that are not seen as finished, and those of them that are dropped.
    unfinished: usize,
    lost: usize,
    held: Held,
    /// Past every position delivered or skipped; `None` while there is none and no start.
    next: Option<u64>,
    /// Past every position delivered or skipped since the last rewind.
    cursor: u64,
    resumed: Box<[Run]>,
    /// Words, from the oldest delivery's on, in which a finish wakes the loop.
    armed: usize,
}

impl Ledger {
    /// Deliveries above the frontier that a ledger holds unless told otherwise.
    pub const DEFAULT_WINDOW: usize = 65_536;
    /// The largest window.
    pub const MAX_WINDOW: usize = 1 << 22;

    /// A ledger that holds at most `window` deliveries above its frontier, 1 to
    /// [`MAX_WINDOW`](Self::MAX_WINDOW), and goes on where `resume` ended. `waker` wakes the consume
    /// loop.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for another window.
    pub fn new(
        window: usize,
        resume: Option<&Stored>,
        waker: Waker,
    ) -> Result<(Self, Arc<Finished>), ConfigError> {
        if !(1..=Self::MAX_WINDOW).contains(&window) {
            return Err(ConfigError::OutOfRange {
                option: "ledger_window",
                given: window.to_string(),
                allowed: "1 to 4194304 deliveries",
            });
        }
        let start = resume.map(Stored::frontier);
        let window = Window::new(window, start.unwrap_or(0));
        let finished = Arc::new(Finished::new(window.words(), waker));
        let ledger = Self {
            finished: Arc::clone(&finished),
            seen: vec![0; window.words()].into(),
            dropped: vec![0; window.words()].into(),
            unfinished: 0,
            lost: 0,
            held: Held::new(window.words() * BITS),
            next: start,
            cursor: start.unwrap_or(0),
            resumed: resume.map_or(&[][..], Stored::finished).into(),
            armed: 0,
            window,
        };
        Ok((ledger, finished))
    }

    /// Takes the record at `position`, next in the source's order, into the ledger. Gaps are free.
    ///
    /// # Errors
    /// Says what to do with a record that is not new; see [`DeliverError`].
    #[inline]
    pub fn deliver(&mut self, position: u64) -> Result<Slot, DeliverError> {
        // Nearly all are behind whatever came before.
        let resumed = self.resumed.last().is_some_and(|run| position <= run.last);
        if self.is_newest(position) && !resumed && position < u64::MAX {
            return self.append(position);
        }
        match self.status(position) {
            Status::Unknown if position == u64::MAX => Err(DeliverError::TooLarge),
            Status::Unknown if self.is_newest(position) => self.append(position),
            Status::Unknown => self.deliver_again(position),
            Status::Unfinished if sabotage!(DuplicateCounts) => Err(DeliverError::AlreadyFinished),
            Status::Unfinished if sabotage!(DuplicateTaken) => self.append(position),
            Status::Unfinished => {
                self.pass(position);
                Err(DeliverError::InFlight)
            }
            Status::Finished => {
                self.pass(position);
                Err(DeliverError::AlreadyFinished)
            }
            Status::Passed => Err(DeliverError::Passed),
        }
    }

    #[inline]
    fn append(&mut self, position: u64) -> Result<Slot, DeliverError> {
        self.give_up_lost();
        if self.window.is_full() {
            return Err(DeliverError::WindowFull);
        }
        let slot = self.window.push(position);
        self.dropped[slot / BITS] &= !bit(slot);
        self.unfinished += 1;
        self.pass(position);
        Ok(Slot(slot as u32))
    }

    /// Gives a dropped delivery's slot out again.
    fn deliver_again(&mut self, position: u64) -> Result<Slot, DeliverError> {
        match self.window.find(position) {
            Some((slot, true)) if position >= self.cursor && !self.is_seen(slot) => {
                self.dropped[slot / BITS] &= !bit(slot);
                self.lost -= 1;
                self.pass(position);
                Ok(Slot(slot as u32))
            }
            _ => Err(DeliverError::OutOfOrder { last: self.newest().unwrap_or(0) }),
        }
    }

    /// The record of a delivery has so many bytes: they count until it is finished or given up.
    pub fn hold(&mut self, slot: Slot, bytes: usize) {
        self.held.hold(slot.0 as usize, bytes);
    }

    /// Bytes of the records that the runtime holds, as of the last [`advance`](Self::advance).
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Takes back the newest delivery, because the runtime did not accept the record. It may be
    /// delivered again.
    ///
    /// # Errors
    /// [`NotNewest`], and nothing changes, if something was delivered or skipped since, or it is
    /// finished.
    pub fn retract(&mut self, slot: Slot) -> Result<(), NotNewest> {
        let slot = slot.0 as usize;
        let position = self.window.position(slot).ok_or(NotNewest)?;
        let newest =
            self.window.find(position) == Some((slot, true)) && position + 1 == self.cursor;
        if !newest || self.is_seen(slot) || self.is_dropped(slot) {
            return Err(NotNewest);
        }
        self.cancel_wait();
        self.held.free(slot);
        self.cursor = position;
        if self.next == Some(position + 1) {
            self.window.pop();
            self.unfinished -= 1;
            self.next = Some(position);
        } else {
            self.dropped[slot / BITS] |= bit(slot);
            self.lost += 1;
        }
        Ok(())
    }

    /// Begins a recovery: the source will deliver again, in order, from the position returned.
    ///
    /// `dropped` are the deliveries that the runtime gave up before they ran; their slots must not be
    /// finished any more. From here on [`deliver`](Self::deliver) takes those again, and absorbs what
    /// still runs or is finished. What of `dropped` has not come again when something newer does is
    /// gone from the source, and no longer holds the frontier.
    pub fn rewind(&mut self, dropped: impl IntoIterator<Item = Slot>) -> Option<u64> {
        for slot in dropped {
            let slot = slot.0 as usize;
            let found = self.window.position(slot).and_then(|position| self.window.find(position));
            let held = found == Some((slot, true));
            if held && !self.is_seen(slot) && !self.is_dropped(slot) {
                self.dropped[slot / BITS] |= bit(slot);
                self.lost += 1;
                self.held.free(slot);
            }
        }
        let frontier = self.frontier();
        self.cursor = frontier.unwrap_or(0);
        frontier
    }

    /// Reads the finished bits, reports each newly finished position once (ascending within one call)
    /// and moves the frontier. Ends a wait. Whether there was anything new.
    pub fn advance(&mut self, mut on_finished: impl FnMut(u64)) -> bool {
        self.cancel_wait();
        let mut changed = false;
        for (word, mask) in self.window.spans() {
            let open = mask & !self.seen[word];
            if open == 0 {
                continue;
            }
            let fresh = self.finished.read(word) & open;
            changed |= fresh != 0;
            self.seen[word] |= fresh;
            self.unfinished -= fresh.count_ones() as usize;
            // It was finished after all: as good as any other.
            self.lost -= (fresh & self.dropped[word]).count_ones() as usize;
            self.dropped[word] &= !fresh;
            self.held.free_word(word, fresh);
            self.window.positions_of(word, fresh).for_each(&mut on_finished);
        }
        self.release() || changed
    }

    /// Moves the head past what is finished; whether it moved.
    fn release(&mut self) -> bool {
        let mut moved = false;
        loop {
            let head = self.window.head();
            // No slot out of use is seen from here on.
            let count = (self.seen[head / BITS] >> (head % BITS)).trailing_ones() as usize;
            if count == 0 {
                return moved;
            }
            moved = true;
            if let Some(word) = self.window.release(count) {
                self.seen[word] = 0;
                self.finished.clear(word);
            }
        }
    }

    /// The next position to read after a restart: everything delivered below it is finished. `None`
    /// before the first delivery of a ledger that resumed nothing.
    pub fn frontier(&self) -> Option<u64> {
        if sabotage!(FrontierOverGap) {
            return self.next;
        }
        self.window.first().or(self.next)
    }

    /// The newest position delivered or skipped. A source whose positions may start over compares.
    pub fn newest(&self) -> Option<u64> {
        self.next.and_then(|next| next.checked_sub(1))
    }

    /// Deliveries that are not finished, as of the last [`advance`](Self::advance).
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Deliveries that the runtime still holds: [`unfinished`](Self::unfinished) less the dropped ones.
    pub fn in_flight(&self) -> usize {
        self.unfinished - self.lost
    }

    /// Deliveries above the frontier, the finished ones among them: what the window bounds.
    pub fn in_window(&self) -> usize {
        self.window.len()
    }

    /// The position that holds the frontier.
    pub fn oldest_unfinished(&self) -> Option<u64> {
        self.window.first()
    }

    /// Whether the window has no room: nothing new can be delivered until the frontier moves.
    pub fn is_full(&self) -> bool {
        self.window.is_full()
    }

    /// What is known of a position, as of the last [`advance`](Self::advance). O(log n).
    pub fn status(&self, position: u64) -> Status {
        let resumed = self.resumed.last().is_some_and(|run| position <= run.last);
        if resumed && sabotage!(RedeliverySkipped)
            || resumed && covers(&self.resumed, position) && !sabotage!(FinishedAgain)
        {
            return Status::Finished;
        }
        if self.is_newest(position) {
            return Status::Unknown;
        }
        if position < self.window.horizon() {
            return Status::Passed;
        }
        match self.window.find(position) {
            Some((slot, _)) if self.is_dropped(slot) => Status::Unknown,
            Some((slot, true)) if !self.is_seen(slot) => Status::Unfinished,
            Some(_) => Status::Finished,
            None => Status::Unknown,
        }
    }

    /// What to keep for a restart: the frontier and what is finished above it. `None` as in
    /// [`frontier`](Self::frontier).
    pub fn stored(&self) -> Option<Stored> {
        let mut stored = Stored::new(self.frontier()?);
        let mut resumed = self.resumed.iter().copied().peekable();
        for (word, mask) in self.window.spans() {
            let finished = self.seen[word] & mask & !self.dropped[word];
            for position in self.window.positions_of(word, finished) {
                while let Some(run) = resumed.next_if(|run| run.first < position) {
                    stored.push(run);
                }
                stored.push(Run { first: position, last: position });
            }
        }
        resumed.for_each(|run| stored.push(run));
        Some(stored)
    }

    /// Before sleeping until the frontier can move: whether the loop may sleep. If so, a finish among
    /// the oldest deliveries wakes it, once; if not, [`advance`](Self::advance) has news. It covers
    /// what was delivered before it.
    pub fn prepare_wait(&mut self) -> bool {
        self.cancel_wait();
        let head = self.window.head();
        if self.window.is_empty() || self.is_seen(head) {
            return self.window.is_empty();
        }
        self.armed = 1;
        self.arm_or_cancel(head / BITS, bit(head))
    }

    /// Before sleeping until anything is finished: whether the loop may sleep. If so, the next finish
    /// wakes it; if not, [`advance`](Self::advance) has news. Costs a read-modify-write for each word
    /// with unfinished deliveries.
    pub fn prepare_wait_any(&mut self) -> bool {
        self.cancel_wait();
        if self.is_seen(self.window.head()) {
            return false;
        }
        self.armed = usize::MAX;
        for (word, mask) in self.window.spans() {
            let open = mask & !self.seen[word];
            if open != 0 && !self.arm_or_cancel(word, open) {
                return false;
            }
        }
        true
    }

    /// Sets WAIT in a word, or ends the wait if one of `open` is finished.
    fn arm_or_cancel(&mut self, word: usize, open: u64) -> bool {
        let idle = self.finished.arm(word) & open == 0;
        if !idle {
            self.cancel_wait();
        }
        idle
    }

    /// Ends a wait: no finish wakes the loop any more. Nothing to do after [`advance`](Self::advance).
    pub fn cancel_wait(&mut self) {
        let words = std::mem::take(&mut self.armed);
        if words == 0 {
            return;
        }
        for (word, _) in self.window.spans().take(words) {
            self.finished.disarm(word);
        }
    }

    /// The pass over the source has come to `position`.
    #[inline]
    fn pass(&mut self, position: u64) {
        let after = position.saturating_add(1);
        if self.is_newest(position) {
            self.give_up_lost();
            self.next = Some(after);
        }
        self.cursor = self.cursor.max(after);
    }

    /// A pass that has come to something new did not find these: they are gone from the source. The
    /// head may be one of them; `advance` moves it.
    #[inline(always)]
    fn give_up_lost(&mut self) {
        if self.lost > 0 {
            for (word, mask) in self.window.spans() {
                // They stay marked as dropped, so that they never count as finished.
                self.seen[word] |= self.dropped[word] & mask;
            }
            self.unfinished -= std::mem::take(&mut self.lost);
        }
    }

    fn is_newest(&self, position: u64) -> bool {
        self.next.is_none_or(|next| position >= next)
    }

    fn is_seen(&self, slot: usize) -> bool {
        self.seen[slot / BITS] & bit(slot) != 0
    }

    fn is_dropped(&self, slot: usize) -> bool {
        self.dropped[slot / BITS] & bit(slot) != 0
    }
}

/// A loop that is gone is not woken.
impl Drop for Ledger {
    fn drop(&mut self) {
        self.cancel_wait();
    }
}
