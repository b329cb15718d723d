//! Knowing how one record ended: a receipt gets exactly one outcome, whatever happens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::{Clock, Time};
use crate::context::in_handler;
use crate::outcome::Outcome;
use crate::parker::with_current;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::{Arc, Mutex, unless, weak};
use crate::wait_list::{Place, WaitList, Waiting, wake};

/// The end of a runtime, as those see it who wait for something of it.
#[derive(Debug)]
pub struct End {
    ended: AtomicBool,
    waiting: WaitList,
    clock: Arc<dyn Clock>,
}

impl End {
    /// Of a runtime that lives on `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { ended: AtomicBool::new(false), waiting: WaitList::new(), clock })
    }

    /// From here on nothing will be finished any more: who waits is told so.
    pub fn end(&self) {
        if weak!("receipt_end") {
            self.waiting.wake_all(|| ());
            return self.ended.store(true, Ordering::Release);
        }
        // Release pairs with the acquire in `has_ended`.
        self.ended.store(true, Ordering::Release);
        self.waiting.wake_all(|| ());
    }

    /// Whether nobody seems to wait. May be stale at once.
    pub fn is_unwatched(&self) -> bool {
        self.waiting.is_empty()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// The promise of one outcome for one submitted record.
///
/// It is a future, and it can be waited for from a plain thread. Exactly one outcome comes in every
/// case: [`Outcome::Abandoned`] if the runtime ends before the record does, [`Outcome::Stopped`] if a failure stops
/// its subscription before.
///
/// A handler that awaits the receipt of a later record of its own key waits for itself: until its attempt's
/// deadline, or the close.
///
/// # Cancel safety
/// Nothing is lost by dropping it or by polling it by reference: the record goes on either way, and the outcome stays
/// with the receipt for the next look.
///
/// ```
/// use std::time::Duration;
/// use keylane::{Outcome, Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let policy = Subscription::new("orders").skip();
/// let orders = runtime.subscribe(policy, |record: &Record| {
///     if record.payload() == b"bad" { Err("unreadable".into()) } else { Ok(()) }
/// })?;
/// let good = orders.submit_tracked(Record::new("order-42", "good"))?;
/// let bad = orders.submit_tracked(Record::new("order-42", "bad"))?;
/// assert_eq!(good.wait_timeout(Duration::from_secs(5))?, Outcome::Done);
/// assert_eq!(bad.wait()?.failure().map(|failure| &*failure.error), Some("unreadable"));
/// # runtime.close(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a receipt that is dropped tells nobody how the record ended"]
pub struct Receipt {
    /// Taken when it is dropped.
    cell: Option<Shared<Cell>>,
    /// Where it waits as a future: with its cell, and with the runtime's end.
    places: Option<(Place, Place)>,
}

/// Why a wait for a receipt ended without an outcome. The receipt is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// The time is over and the record is not.
    TimedOut,
    /// The caller is inside a handler, where a wait could wait for itself.
    WouldDeadlock,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "not finished within the time given",
            Self::WouldDeadlock => "waiting inside a handler could wait for itself",
        })
    }
}

impl std::error::Error for WaitError {}

/// The other end of a receipt. Dropped without an outcome, it says `Abandoned`.
#[derive(Debug)]
pub struct Promise(Option<Shared<Cell>>);

/// Without weak references, so that whoever is alone with a cell knows it without a locked instruction.
#[cfg(not(keylane_loom))]
type Shared<T> = triomphe::Arc<T>;
#[cfg(keylane_loom)]
type Shared<T> = Arc<T>;

/// What both ends share. Most records are handled before anybody waits: that is one exchange of `word`.
#[derive(Debug)]
struct Cell {
    word: AtomicU32,
    end: Arc<End>,
    rest: Mutex<Rest>,
}

/// The outcome is `Outcome::Done`: for good.
const DONE: u32 = 1;
/// Another outcome is in `rest`: for good. Set under its lock.
const SET: u32 = 2;
/// Somebody waits, or did. Set under the lock of `rest`.
const WATCHED: u32 = 4;

#[derive(Debug, Default)]
struct Rest {
    outcome: Option<Outcome>,
    waiting: Waiting,
}

/// A receipt and the promise that fills it.
#[inline]
pub fn receipt(end: &Arc<End>) -> (Promise, Receipt) {
    let cell = kept::take(end);
    (Promise(Some(cell.clone())), Receipt { cell: Some(cell), places: None })
}

impl Promise {
    /// Gives the outcome. False if the receipt had one already: the runtime ended before.
    pub fn fulfil(mut self, outcome: Outcome) -> bool {
        self.0.take().is_some_and(|cell| cell.set(outcome))
    }

    /// Says that the record is handled, if nobody waits for that yet.
    ///
    /// # Errors
    /// Gives the promise back if somebody does: `fulfil` tells them.
    #[inline]
    pub fn done(mut self) -> Result<(), Self> {
        let Some(cell) = self.0.take() else { return Ok(()) };
        // Nothing is left to be dropped: said so, since it would be looked for.
        std::mem::forget(self);
        if cell.done() { Ok(()) } else { Err(Self(Some(cell))) }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.set(Outcome::Abandoned);
        }
    }
}

impl Cell {
    fn new(end: &Arc<End>) -> Self {
        Self { word: AtomicU32::new(0), end: end.clone(), rest: Mutex::new(Rest::default()) }
    }

    /// False if somebody waits, or there is an outcome.
    #[inline]
    fn done(&self) -> bool {
        // Release pairs with the acquire in `Receipt::outcome`: what the handler did is seen.
        let order = unless(weak!("receipt_done"), Ordering::Release);
        self.word.compare_exchange(0, DONE, order, Ordering::Relaxed).is_ok()
    }

    /// Sets the outcome unless there is one, and wakes who waits for it.
    #[cold]
    fn set(&self, outcome: Outcome) -> bool {
        let mut rest = self.rest.lock();
        let said = if outcome == Outcome::Done { DONE } else { SET };
        // Only `done` writes it without the lock, and only where nothing is set. Acquire and release pair with it
        // and with the looks at it.
        let before = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (word & (DONE | SET) == 0 || weak!("receipt_outcome")).then_some(word | said)
        });
        if before.is_err() {
            return false;
        }
        rest.outcome = Some(outcome);
        let mut woken = rest.waiting.take();
        drop(rest);
        if weak!("receipt_wake") {
            woken.pop_last();
        }
        wake(woken);
        true
    }

    /// The outcome, if there is one.
    #[inline]
    fn outcome(&self) -> Option<Outcome> {
        // Acquire pairs with the releases in `done` and `set`.
        match self.word.load(Ordering::Acquire) {
            word if word & SET != 0 => self.rest.lock().outcome.clone(),
            word if word & DONE != 0 => Some(Outcome::Done),
            _ => None,
        }
    }

    /// Registers a waiter; the caller looks once more after this.
    fn join(&self, place: Option<Place>, waker: Waker) -> Place {
        let mut rest = self.rest.lock();
        // Before the caller's look, in one order with `done`'s exchange: either that fails, or the look sees it.
        if !weak!("receipt_watched") {
            self.word.fetch_or(WATCHED, Ordering::AcqRel);
        }
        let (place, replaced) = rest.waiting.join(place, waker);
        drop(rest);
        drop(replaced);
        place
    }
}

impl Receipt {
    fn cell(&self) -> &Cell {
        match &self.cell {
            Some(cell) => cell,
            None => unreachable!("only the drop takes it"),
        }
    }

    /// The outcome, if there is one by now. Once there is, it never changes.
    #[inline]
    pub fn outcome(&self) -> Option<Outcome> {
        let cell = self.cell();
        cell.outcome().or_else(|| {
            if !cell.end.has_ended() {
                return None;
            }
            // Whoever finishes the record later finds that it has an outcome.
            cell.set(Outcome::Abandoned);
            cell.outcome()
        })
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] inside a handler, if there is none yet.
    pub fn wait(&self) -> Result<Outcome, WaitError> {
        self.wait_until(None)
    }

    /// Waits for the outcome for at most `timeout`.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`], or [`WaitError::WouldDeadlock`] inside a handler, if there is none yet.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Outcome, WaitError> {
        self.wait_until(Some(self.cell().end.clock.now().after(timeout)))
    }

    fn wait_until(&self, deadline: Option<Time>) -> Result<Outcome, WaitError> {
        if let Some(outcome) = self.outcome() {
            return Ok(outcome);
        }
        if in_handler() {
            return Err(WaitError::WouldDeadlock);
        }
        let clock = &*self.cell().end.clock;
        with_current(|parker| {
            let mut places = None;
            let is_over = || deadline.is_some_and(|deadline| clock.now() >= deadline);
            let result = loop {
                places = Some(self.join(places, parker.waker()));
                // The time before the outcome: one that came in time is not missed.
                let over = (!weak!("receipt_over")).then(is_over);
                if let Some(outcome) = self.outcome() {
                    break Ok(outcome);
                }
                if over.unwrap_or_else(is_over) {
                    break Err(WaitError::TimedOut);
                }
                parker.park_until(clock, deadline);
            };
            self.leave(places);
            result
        })
    }

    /// Registers with the record and with the runtime's end; the caller looks once more after this.
    fn join(&self, places: Option<(Place, Place)>, waker: &Waker) -> (Place, Place) {
        let (own, end) = places.unzip();
        let own = self.cell().join(own, waker.clone());
        (own, self.cell().end.waiting.join(end, waker))
    }

    #[cold]
    fn leave(&self, places: Option<(Place, Place)>) {
        let Some((own, end)) = places else { return };
        let left = self.cell().rest.lock().waiting.leave(own);
        drop(left);
        if weak!("receipt_leave") {
            return;
        }
        self.cell().end.waiting.leave(end);
    }
}

/// Cells that a thread keeps for its next receipts. They keep their runtime's `End`, which is small, until they are used for
/// another runtime or the thread ends.
#[cfg(not(keylane_loom))]
mod kept {
    use std::cell::RefCell;

    use super::{Arc, Cell, End, Ordering, Rest, Shared};

    /// Cells that a thread keeps at most, of some 100 bytes each.
    const MOST: usize = 4_096;

    thread_local! {
        static KEPT: RefCell<Vec<Shared<Cell>>> = const { RefCell::new(Vec::new()) };
    }

    /// A cell that nobody else has.
    #[inline]
    pub(super) fn take(end: &Arc<End>) -> Shared<Cell> {
        // A thread that is ending keeps none any more.
        let kept = KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.pop()).ok().flatten();
        match kept {
            Some(cell) if Arc::ptr_eq(&cell.end, end) => cell,
            _ => Shared::new(Cell::new(end)),
        }
    }

    /// Keeps a cell for later if nobody else has it.
    #[inline]
    pub(super) fn put(mut cell: Shared<Cell>) {
        let Some(own) = Shared::get_mut(&mut cell) else { return };
        if own.word.load(Ordering::Relaxed) != super::DONE {
            *own.rest.get_mut() = Rest::default();
        }
        *own.word.get_mut() = 0;
        let _ = KEPT.try_with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut()
                && kept.len() < MOST
            {
                kept.push(cell);
            }
        });
    }
}

/// A model's cells do not outlive its run.
#[cfg(keylane_loom)]
mod kept {
    use super::{Arc, Cell, End, Shared};

    pub(super) fn take(end: &Arc<End>) -> Shared<Cell> {
        Shared::new(Cell::new(end))
    }

    pub(super) fn put(cell: Shared<Cell>) {
        drop(cell);
    }
}

impl Future for Receipt {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        self.places = Some(self.join(self.places, cx.waker()));
        self.outcome().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Receipt {
    #[inline]
    fn drop(&mut self) {
        if self.places.is_some() {
            self.leave(self.places);
        }
        self.cell.take().into_iter().for_each(kept::put);
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("outcome", &self.outcome()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn end() -> Arc<End> {
        End::new(Arc::new(SystemClock::new()))
    }

    #[test]
    fn one_outcome_and_the_first_one_counts() {
        let end = end();
        let (promise, receipt) = receipt(&end);
        assert_eq!(receipt.outcome(), None);
        assert_eq!(receipt.wait_timeout(Duration::ZERO), Err(WaitError::TimedOut));
        assert!(promise.fulfil(Outcome::Done));
        assert_eq!(receipt.wait(), Ok(Outcome::Done));
        end.end();
        assert_eq!(receipt.outcome(), Some(Outcome::Done));
    }

    #[test]
    fn a_promise_that_is_dropped_abandons() {
        let (promise, receipt) = receipt(&end());
        drop(promise);
        assert_eq!(receipt.wait(), Ok(Outcome::Abandoned));
    }

    #[test]
    fn the_end_wakes_a_waiter_and_a_late_outcome_is_refused() {
        let end = end();
        let (promise, receipt) = receipt(&end);
        let waiter = std::thread::spawn(move || receipt.wait());
        end.end();
        assert_eq!(waiter.join().unwrap(), Ok(Outcome::Abandoned));
        assert!(!promise.fulfil(Outcome::Done));
    }

    #[test]
    fn no_wait_inside_a_handler() {
        let (promise, receipt) = receipt(&end());
        let inside = crate::context::InHandler::enter();
        assert_eq!(receipt.wait(), Err(WaitError::WouldDeadlock));
        drop(promise);
        assert_eq!(receipt.wait(), Ok(Outcome::Abandoned));
        drop(inside);
    }
}
