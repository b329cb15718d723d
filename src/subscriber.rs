//! A live subscription: submitting to it, swapping its handler, its parked keys, its end.

use std::fmt;
use std::time::Duration;

use crate::close::{Removal, Swap};
use crate::core::{Command, Core};
use crate::handler::{Handler, Version};
use crate::outcome::Failure;
use crate::receipt::{Receipt, receipt};
use crate::record::Record;
use crate::source::{Source, SourceOptions};
use crate::submit::{self, BatchError, SubmitAsync, SubmitError};
use crate::subscription::ParkedKey;
use crate::sync::Arc;
use crate::table::Entry;
use crate::work::Completion;

/// A live subscription of a runtime.
///
/// Clones are handles to the same one; dropping them all leaves it running.
///
/// Order is kept for submits of one key that follow each other: one that returned before the next began.
///
/// | call | when the record's lane is full |
/// |---|---|
/// | [`try_submit`](Self::try_submit), [`try_submit_batch`](Self::try_submit_batch) | gives the record back |
/// | [`submit`](Self::submit), [`submit_tracked`](Self::submit_tracked), [`submit_batch`](Self::submit_batch) | sleeps until there is room, for at most [`wait`](crate::Config::wait); inside a handler as above |
/// | [`submit_async`](Self::submit_async) | the same, as a future |
///
/// ```
/// use std::time::Duration;
/// use keylane::{Handler, Record, Refusal, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let orders = runtime.subscribe(Subscription::new("orders"), |_: &Record| Ok(()))?;
/// orders.try_submit(Record::new("order-42", "placed"))?;
///
/// let receipt = orders.submit_tracked(Record::new("order-42", "paid"))?;
/// assert!(receipt.wait()?.is_done());
///
/// let mut batch = vec![Record::new("order-42", "packed"), Record::new("", "no key is empty")];
/// let refused = orders.submit_batch(&mut batch).unwrap_err();
/// assert_eq!((refused.taken, refused.first), (1, Refusal::InvalidKey));
/// assert_eq!(batch[0].payload(), b"no key is empty");
///
/// orders.swap(Handler::sync(|_| Ok(()))).wait()?; // the old handler runs no more
/// let returned = orders.close(Duration::from_secs(5)).wait()?; // what was not handled
/// assert!(returned.is_empty());
/// # runtime.close(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Subscriber {
    pub(crate) core: Arc<Core>,
    pub(crate) entry: Arc<Entry>,
}

impl Subscriber {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Submits a record if there is room now.
    ///
    /// # Errors
    /// Every refusal gives the record back; see [`SubmitError`].
    #[inline]
    pub fn try_submit(&self, record: Record) -> Result<(), SubmitError> {
        submit::submit(&self.core, &self.entry, record, Completion::Untracked, false)
    }

    /// Submits a record. If its lane is full, sleeps until there is room, for at most the runtime's `wait`
    /// (500 ms). Inside a handler it never sleeps: it acts as [`try_submit`](Self::try_submit). In async code
    /// use [`submit_async`](Self::submit_async).
    ///
    /// # Errors
    /// Every refusal gives the record back; see [`SubmitError`].
    #[inline]
    pub fn submit(&self, record: Record) -> Result<(), SubmitError> {
        submit::submit(&self.core, &self.entry, record, Completion::Untracked, true)
    }

    /// Submits a record, waiting for room as a future, for at most the runtime's `wait`.
    ///
    /// # Errors
    /// Every refusal gives the record back; see [`SubmitError`].
    ///
    /// # Cancel safety
    /// See [`SubmitAsync`].
    pub fn submit_async(&self, record: Record) -> SubmitAsync {
        SubmitAsync::new(&self.core, &self.entry, record)
    }

    /// Submits a record as [`submit`](Self::submit) does, for a receipt that tells how it ended.
    ///
    /// # Errors
    /// Every refusal gives the record back; see [`SubmitError`].
    pub fn submit_tracked(&self, record: Record) -> Result<Receipt, SubmitError> {
        let (promise, receipt) = receipt(&self.core.end);
        submit::submit(&self.core, &self.entry, record, Completion::Receipt(promise), true)?;
        Ok(receipt)
    }

    /// Submits a batch, with one claim a lane. Waits for room as [`submit`](Self::submit) does, once for the
    /// whole batch. Returns how many were taken: all.
    ///
    /// # Errors
    /// If some were refused: they are in `records` still, in order. Once a record was refused, no later one
    /// of its lane was taken in this call, so order is kept when the rest is submitted again.
    pub fn submit_batch(&self, records: &mut Vec<Record>) -> Result<usize, BatchError> {
        crate::batch::submit_batch(&self.core, &self.entry, records, true)
    }

    /// As [`submit_batch`](Self::submit_batch), without waiting.
    ///
    /// # Errors
    /// As there.
    pub fn try_submit_batch(&self, records: &mut Vec<Record>) -> Result<usize, BatchError> {
        crate::batch::submit_batch(&self.core, &self.entry, records, false)
    }

    /// Replaces the handler. Records that are queued or wait to be tried again get the new one; attempts
    /// under way end with the old one, which [`Swap::wait`] waits for.
    ///
    /// May be called inside a handler, without waiting.
    pub fn swap(&self, handler: Handler) -> Swap {
        let handler = if self.entry.fed { handler.refusing() } else { handler };
        let version = Version::new(handler);
        // If it is not taken, it is dropped after the table's lock: its drop is a caller's code.
        let _kept = version.clone();
        let (id, generation) = (self.entry.id, self.entry.generation);
        let changed = self.core.change(|table| {
            let Some(old) = table.subscription(id, generation) else { return Err(()) };
            version.follow(&old.version);
            let entry = Entry {
                id,
                generation,
                salt: old.salt,
                name: old.name.clone(),
                policy: old.policy.clone(),
                dead_letter: old.dead_letter.clone(),
                version,
                fed: old.fed,
                state: old.state.clone(),
            };
            let replaced = old.version.clone();
            let mut table = table.clone();
            table.subscriptions[id as usize] = Some(Arc::new(entry));
            Ok((table, replaced))
        });
        Swap::new(&self.core, changed.ok())
    }

    /// Removes the subscription: nothing of it is started any more. What is queued is released, unfinished:
    /// records submitted in process come back from [`Removal::wait`], a source's are delivered again later.
    /// Attempts under way go on. Of a subscription that a failure has stopped, this is the way to the records that
    /// it held; nobody having asked, they are in the report of the runtime's close.
    pub fn remove(&self) -> Removal {
        Removal::begin(&self.core, &self.entry)
    }

    /// Handles what is queued for at most `timeout`, then removes the subscription as
    /// [`remove`](Self::remove) does. New submits are refused from the start.
    pub fn close(&self, timeout: Duration) -> Removal {
        Removal::drain(&self.core, &self.entry, timeout)
    }

    /// The failure that stopped it, if one did.
    pub fn stopped_by(&self) -> Option<Failure> {
        self.entry.state.stopped_by()
    }

    /// The failure that stopped a source of it, if one did.
    pub(crate) fn source_stopped_by(&self) -> Option<Failure> {
        let table = self.core.registry.load();
        let mut own =
            table.sources.iter().flatten().filter(|source| source.subscription == self.entry.name);
        own.find_map(|source| source.state.stopped_by())
    }

    /// The keys that are parked, at most [`parked_keys`](crate::Config::parked_keys). Those of other
    /// subscriptions are not among them.
    pub fn parked(&self) -> Vec<ParkedKey> {
        self.entry.state.parked()
    }

    /// Lets a parked key go: its next record is handled again. It happens at the lane's next visit; a key that is
    /// not parked is left as it is.
    pub fn resume(&self, key: &[u8]) {
        let generation = self.entry.generation;
        self.command(key, |hash| Command::Resume { generation, key: key.into(), hash });
    }

    /// Parks a key: its records go to the dead letters, in order, until it is resumed. Without a dead letter
    /// in the policy nothing happens: false. Of one key, parks, resumes and skips that were given one after the
    /// other take effect in that order, at the lane's next visit: a record that the lane's visit is at may still be
    /// handled.
    pub fn park(&self, key: &[u8]) -> bool {
        let (generation, state) = (self.entry.generation, self.entry.state.clone());
        if self.entry.dead_letter.is_some() {
            let of = None;
            self.command(key, |hash| Command::Park {
                generation,
                state,
                key: key.into(),
                hash,
                of,
            });
        }
        self.entry.dead_letter.is_some()
    }

    /// Passes over the record that a key waits for: one that is to be tried again, or is not taken by the dead
    /// letters. An attempt under way is not interrupted.
    pub fn skip(&self, key: &[u8]) {
        self.command(key, |hash| Command::Skip { hash });
    }

    /// A source that feeds this subscription: for buses.
    ///
    /// # Errors
    /// If the window is out of its range, or the subscription is gone.
    #[doc(hidden)]
    pub fn source(&self, options: SourceOptions) -> Result<Source, crate::source::SourceError> {
        Source::new(&self.core, &self.entry, options)
    }

    fn command(&self, key: &[u8], command: impl FnOnce(u64) -> Command) {
        let route = self.core.router.route(self.entry.generation, key);
        self.core.lanes.command(route.lane, command(route.hash));
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("name", &self.entry.name).finish_non_exhaustive()
    }
}
