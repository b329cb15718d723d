//! Starting threads: their names, stacks and the caller's hooks.

use crate::context::InHandler;
use crate::sync::{Arc, ThreadBuilder};
use crate::unwind::guard;

/// A hook that a thread calls with its name, when it starts or ends.
pub type Hook = Arc<dyn Fn(&str) + Send + Sync>;

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
}

impl Spawner {
    /// Starts a thread called `{name}-{role}`. Whatever runs on it counts as inside a handler: it must not
    /// wait for the runtime that it belongs to.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(&self, role: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
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
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").field("name", &self.name).finish_non_exhaustive()
    }
}
