//! A table that is read at every lane visit and written a few times a day: a version, the current table
//! under a lock, and a snapshot that each reader keeps for itself.
//!
//! A reader pays one load a visit. A writer publishes a new table, and can wait until no reader uses an
//! older one: each reader says which version it has seen, between visits only.

use std::ops::Deref;

use crossbeam_utils::CachePadded;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, unless, weak};
use crate::unwind::guard;

/// A reader that reads nothing: it has seen every version.
const NOT_READING: u64 = u64::MAX;

/// The current table and what its readers have seen of it.
#[derive(Debug)]
pub struct Registry<T> {
    version: CachePadded<AtomicU64>,
    current: Mutex<Arc<T>>,
    seen: Box<[CachePadded<AtomicU64>]>,
}

/// One reader's table.
#[derive(Debug)]
pub struct Snapshot<T> {
    reader: usize,
    version: u64,
    table: Arc<T>,
}

/// A table that was looked at. Perhaps the last to hold it, so that a caller's handler goes with it: its panic
/// ends here.
#[derive(Debug)]
pub struct Loaded<T>(Option<Arc<T>>);

impl<T> Registry<T> {
    /// A registry for `readers` readers, none of which reads yet.
    pub fn new(table: T, readers: usize) -> Self {
        Self {
            version: CachePadded::new(AtomicU64::new(0)),
            current: Mutex::new(Arc::new(table)),
            seen: (0..readers).map(|_| CachePadded::new(AtomicU64::new(NOT_READING))).collect(),
        }
    }

    /// The current table, for a look that is not on the steady path.
    pub fn load(&self) -> Loaded<T> {
        Loaded(Some(self.current.lock().clone()))
    }

    /// Replaces the table by what `change` makes of it. Returns the new version.
    ///
    /// # Errors
    /// What `change` returns; the table stays as it was.
    pub fn update<R, E>(
        &self,
        change: impl FnOnce(&T) -> Result<(T, R), E>,
    ) -> Result<(u64, R), E> {
        let mut current = self.current.lock();
        let (table, result) = change(&current)?;
        let old = std::mem::replace(&mut *current, Arc::new(table));
        // Release pairs with the acquire in `is_newer`: whoever sees the version gets this table or a
        // later one. Under the lock, so that versions and tables have one order.
        let version = self.version.load(Ordering::Relaxed) + 1;
        self.version.store(version, unless(weak!("registry_version"), Ordering::Release));
        drop(current);
        discard(old);
        Ok((version, result))
    }

    /// Makes `reader` read, with the current table.
    pub fn start(&self, reader: usize) -> Snapshot<T> {
        let current = self.current.lock();
        let version = self.version.load(Ordering::Relaxed);
        let table = current.clone();
        if weak!("registry_start") {
            drop(current);
            self.seen[reader].store(version, Ordering::Release);
            return Snapshot { reader, version, table };
        }
        // Under the lock: a change comes before this and is what is read, or after it, and then `all_seen`
        // finds the reader.
        self.seen[reader].store(version, Ordering::Release);
        drop(current);
        Snapshot { reader, version, table }
    }

    /// The reader reads no more.
    pub fn stop(&self, snapshot: Snapshot<T>) {
        let reader = snapshot.reader;
        discard(snapshot.table);
        // Release as in `renew`.
        self.seen[reader].store(NOT_READING, unless(weak!("registry_stop"), Ordering::Release));
    }

    /// Takes a newer table, if there is one, between two visits. True if so.
    #[inline]
    pub fn refresh(&self, snapshot: &mut Snapshot<T>) -> bool {
        if !self.is_newer(snapshot) {
            return false;
        }
        self.renew(snapshot);
        true
    }

    /// Whether there is a newer table. What came before its change is seen, too.
    #[inline]
    pub fn is_newer(&self, snapshot: &Snapshot<T>) -> bool {
        // Acquire pairs with the release in `update`.
        self.version.load(Ordering::Acquire) != snapshot.version
    }

    #[cold]
    fn renew(&self, snapshot: &mut Snapshot<T>) {
        let (version, table) = self.current_version();
        snapshot.version = version;
        discard(std::mem::replace(&mut snapshot.table, table));
        // Release pairs with the acquire in `all_seen`: the reader's visits with the old table happen before
        // whatever is done once nobody uses it.
        self.seen[snapshot.reader]
            .store(version, unless(weak!("registry_seen"), Ordering::Release));
    }

    /// Whether every reader has taken `version` or a later one: nobody uses an older table, or will.
    pub fn all_seen(&self, version: u64) -> bool {
        self.seen.iter().all(|seen| seen.load(Ordering::Acquire) >= version)
    }

    /// Readers that still use an older table than `version`.
    pub fn behind(&self, version: u64) -> impl Iterator<Item = usize> {
        self.seen
            .iter()
            .enumerate()
            .filter(move |(_, seen)| seen.load(Ordering::Acquire) < version)
            .map(|(reader, _)| reader)
    }

    fn current_version(&self) -> (u64, Arc<T>) {
        let current = self.current.lock();
        (self.version.load(Ordering::Relaxed), current.clone())
    }
}

impl<T> Snapshot<T> {
    /// The table.
    #[inline]
    pub fn table(&self) -> &Arc<T> {
        &self.table
    }
}

impl<T> Deref for Loaded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(table) => table,
            None => unreachable!("only the drop takes it"),
        }
    }
}

impl<T> Drop for Loaded<T> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(discard);
    }
}

/// Drops a table, and with it maybe a caller's handler: not under the lock, and its panic ends here, for the
/// thread may have a lane in hand.
fn discard<T>(table: Arc<T>) {
    let _ = guard(|| drop(table));
}
