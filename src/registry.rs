//! A table that is read at every lane visit and written a few times a day: a version, the current table
//! under a lock, and a snapshot that each reader keeps for itself.
//!
//! A reader pays one load a visit. A writer publishes a new table, and can wait until no reader uses an
//! older one: each reader says which version it has seen, between visits only.

use crossbeam_utils::CachePadded;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};

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
    pub fn load(&self) -> Arc<T> {
        self.current.lock().clone()
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
        // Release pairs with the acquire in `refresh`: whoever sees the version gets this table or a
        // later one. Under the lock, so that versions and tables have one order.
        let version = self.version.load(Ordering::Relaxed) + 1;
        self.version.store(version, Ordering::Release);
        drop(current);
        // A table may drop a caller's handler: not under the lock.
        drop(old);
        Ok((version, result))
    }

    /// Makes `reader` read, with the current table.
    pub fn start(&self, reader: usize) -> Snapshot<T> {
        let (version, table) = self.current_version();
        self.seen[reader].store(version, Ordering::Release);
        Snapshot { reader, version, table }
    }

    /// The reader reads no more.
    pub fn stop(&self, snapshot: Snapshot<T>) {
        let reader = snapshot.reader;
        drop(snapshot);
        self.seen[reader].store(NOT_READING, Ordering::Release);
    }

    /// Takes a newer table, if there is one, between two visits. True if so.
    #[inline]
    pub fn refresh(&self, snapshot: &mut Snapshot<T>) -> bool {
        if self.version.load(Ordering::Acquire) == snapshot.version {
            return false;
        }
        self.renew(snapshot);
        true
    }

    #[cold]
    fn renew(&self, snapshot: &mut Snapshot<T>) {
        (snapshot.version, snapshot.table) = self.current_version();
        // Release pairs with the acquire in `all_seen`: the reader's visits with the old table happen before
        // whatever is done once nobody uses it.
        self.seen[snapshot.reader].store(snapshot.version, seen_ordering());
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

/// Weakened on purpose where a model must convict the change.
#[inline(always)]
fn seen_ordering() -> Ordering {
    if cfg!(keylane_weak = "registry_seen") { Ordering::Relaxed } else { Ordering::Release }
}
