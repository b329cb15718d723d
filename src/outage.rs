//! Whether a subscription's dead letters are taken: said once when they are not, and once when they are again.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, OnceLock};

/// Called at the beginning of an outage, with what was said, and at its end.
pub(crate) type OnOutage = Box<dyn Fn(Option<&str>) + Send + Sync>;

/// Whether dead letters are taken.
#[derive(Default)]
pub struct Letters {
    /// As in `outage`; looked at without the lock by those whose letter was taken.
    refused: AtomicBool,
    outage: Mutex<Option<Box<str>>>,
    on_outage: OnceLock<OnOutage>,
}

impl Letters {
    /// Calls `on_outage` from here on: a bus's code, which calls nothing of a caller's. Once.
    pub(crate) fn watch(&self, on_outage: OnOutage) {
        let _ = self.on_outage.set(on_outage);
    }

    /// A letter was not taken, for this reason, or was. True if that was otherwise before.
    #[cold]
    pub fn told(&self, error: Option<&str>) -> bool {
        // Relaxed: of letters that end at the same time either may be the last.
        if error.is_none() && !self.refused.load(Ordering::Relaxed) {
            return false;
        }
        let mut outage = self.outage.lock();
        if outage.is_some() == error.is_some() {
            return false;
        }
        *outage = error.map(Into::into);
        self.refused.store(error.is_some(), Ordering::Relaxed);
        // Under the lock, so that beginnings and ends are told in their order.
        self.on_outage.get().into_iter().for_each(|on_outage| on_outage(error));
        true
    }

    /// Why letters are not taken, if they are not.
    pub fn outage(&self) -> Option<Box<str>> {
        self.outage.lock().clone()
    }
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters").field("outage", &self.outage()).finish_non_exhaustive()
    }
}
