//! Starting threads: their names, stacks and the caller's hooks.

use crate::clock::{Clock, SystemClock, Time};
use crate::context::InHandler;
use crate::parker::Parker;
use crate::sync::{Arc, ThreadBuilder};
use crate::unwind::guard;

/// A hook that a thread calls with its name, when it starts or ends.
pub type Hook = Arc<dyn Fn(&str) + Send + Sync>;

/// What stands in for threads: a simulator, which takes their steps itself.
pub trait Stage: Send + Sync {
    /// A thread for this role would start.
    fn start(&self, role: &str, run: Box<dyn FnOnce() + Send>);
    /// A thread would sleep until it is called, or `until` has come.
    fn sleep(&self, parker: &Parker, until: Option<Time>);
    /// What stands in for the machine's clock.
    fn clock(&self) -> Arc<dyn Clock>;
}

/// How a runtime's threads are started.
#[derive(Clone)]
pub struct Spawner {
    /// What their names begin with.
    pub name: String,
    /// Their stacks, in bytes.
    pub stack_size: usize,
    /// Called by each when it starts.
    pub on_start: Option<Hook>,
    /// Called by each when it ends.
    pub on_stop: Option<Hook>,
    /// The tokio runtime that handlers are in.
    #[cfg(feature = "tokio")]
    pub tokio: Option<tokio::runtime::Handle>,
    /// Instead of threads.
    pub stage: Option<Arc<dyn Stage>>,
}

impl Spawner {
    /// Starts a thread called `{name}-{role}`. Whatever runs on it counts as inside a handler: it must not
    /// wait for the runtime that it belongs to.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(&self, role: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        if let Some(stage) = &self.stage {
            stage.start(role, Box::new(run));
            return Ok(());
        }
        let name = format!("{}-{role}", self.name);
        let own = self.clone();
        ThreadBuilder::new().name(name.clone()).stack_size(self.stack_size).spawn(move || {
            #[cfg(feature = "tokio")]
            let _entered = own.tokio.as_ref().map(tokio::runtime::Handle::enter);
            let _inside = InHandler::enter();
            // Hooks are a caller's code: a panic in one is reported by the panic hook and ends there.
            let call = |hook: &Option<Hook>| {
                if let Some(hook) = hook {
                    let _ = guard(|| hook(&name));
                }
            };
            call(&own.on_start);
            run();
            call(&own.on_stop);
        })?;
        Ok(())
    }

    /// Has the calling thread sleep until it is called, or `until` has come on `clock`.
    pub fn sleep(&self, parker: &Parker, clock: &dyn Clock, until: Option<Time>) {
        match &self.stage {
            None => parker.park_until(clock, until),
            Some(stage) => stage.sleep(parker, until),
        }
    }

    /// The machine's clock, whatever clock the runtime lives on: for what takes no time on that.
    pub fn machine_clock(&self) -> Arc<dyn Clock> {
        self.stage.as_ref().map_or_else(|| Arc::new(SystemClock::new()) as _, |s| s.clock())
    }
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").field("name", &self.name).finish_non_exhaustive()
    }
}
