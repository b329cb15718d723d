//! Waiting until a runtime has nothing to do.

use crate::core::Core;
use crate::runtime::Runtime;
use crate::sync::atomic::Ordering;

/// Returns once every worker, the monitor and the buses' threads sleep and nobody has called them:
/// whatever was submitted, and whatever was due on the clock, is done as far as it can be.
///
/// With a [`VirtualClock`](super::VirtualClock) time stands still meanwhile, so that what waits for a
/// later time waits on. Threads that run blocking handlers are not waited for, nor are threads of the
/// caller's own.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use std::time::Duration;
/// use keylane::testing::{VirtualClock, settle};
/// use keylane::{HandlerError, Record, Retry, Runtime, Subscription};
///
/// let clock = VirtualClock::new();
/// let runtime = Runtime::builder().workers(1).clock(clock.clone()).build()?;
/// let attempts = Arc::new(AtomicU32::new(0));
/// let policy = Subscription::new("orders").retry(Retry::fixed(Duration::from_secs(60))).skip();
/// let counted = attempts.clone();
/// let orders = runtime.subscribe(policy, move |_: &Record| {
///     counted.fetch_add(1, Ordering::Relaxed);
///     Err(HandlerError::retryable("not yet"))
/// })?;
/// orders.submit(Record::new("order-42", ""))?;
/// settle(&runtime);
/// assert_eq!(attempts.load(Ordering::Relaxed), 1);
/// clock.advance(Duration::from_secs(60));
/// settle(&runtime);
/// assert_eq!(attempts.load(Ordering::Relaxed), 2);
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn settle(runtime: &Runtime) {
    let core = runtime.core();
    let mut before = None;
    loop {
        // Twice the same, with everybody asleep at both: nobody woke somebody who was looked at already.
        let now = is_asleep(core).then(|| activity(core));
        if now.is_some() && now == before {
            return;
        }
        before = now;
        std::thread::yield_now();
    }
}

fn is_asleep(core: &Core) -> bool {
    let workers = core.workers.iter().zip(core.lanes.bells()).all(|(worker, bell)| {
        let runs = worker.started.load(Ordering::Acquire) && !worker.ended.load(Ordering::Acquire);
        !runs || worker.unparker.is_asleep() && bell.is_quiet()
    });
    workers
        && (core.exits() || core.monitor.unparker.is_asleep())
        && core.loops.lock().iter().all(|thread| thread.is_asleep())
}

/// Grows whenever a worker gets up.
fn activity(core: &Core) -> u64 {
    core.workers.iter().map(|w| w.counters.parks.get() + w.counters.visits.get()).sum()
}
