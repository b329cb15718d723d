//! Building a runtime: its options, its clock, its hooks, its threads.

use std::fmt;
use std::time::Duration;

use crate::blocking::Blocking;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::core::{Core, Parts};
use crate::hash::LaneHash;
use crate::machine::Machine;
use crate::notice::{Notice, OnNotice};
use crate::parker::Parker;
use crate::pinning::{self, Pinning};
use crate::runtime::{BuildError, Runtime};
use crate::spawner::{Hook, Spawner};
use crate::sync::Arc;
use crate::{monitor, worker};

/// Builds a runtime. Setters for what is asked for most; [`config`](Self::config) sets everything.
///
/// ```
/// use keylane::{BuildError, Config, Runtime};
///
/// let config = Config::default().lanes(64).key_waiting(100);
/// let runtime = Runtime::builder().config(config).workers(2).thread_name("orders").build()?;
/// assert_eq!((runtime.config().lanes, runtime.config().workers), (64, Some(2)));
/// assert!(matches!(Runtime::builder().lanes(0).build(), Err(BuildError::Config(_))));
/// # runtime.stop_now();
/// # Ok::<(), BuildError>(())
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    config: Config,
    clock: Option<Arc<dyn Clock>>,
    on_start: Option<Hook>,
    on_stop: Option<Hook>,
    on_notice: Option<OnNotice>,
    #[cfg(feature = "tokio")]
    tokio: Option<tokio::runtime::Handle>,
}

impl Runtime {
    /// A builder with the defaults: 256 lanes of 1,000 slots, a wait of 500 ms, a worker a core.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Setters that only hand on to the configuration.
macro_rules! options {
    ($($(#[$about:meta])* $name:ident: $type:ty;)+) => {$(
        $(#[$about])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.config = self.config.$name($name);
            self
        }
    )+};
}

impl Builder {
    /// Starts from these options.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    options! {
        /// Lanes: rings with an order of their own. 256 unless said otherwise.
        lanes: usize;
        /// Slots of each lane. 1,000 unless said otherwise.
        slots: usize;
        /// How long a submit waits for room in a full lane. 500 ms unless said otherwise.
        wait: Duration;
        /// Worker threads. One a core unless said otherwise.
        workers: usize;
        /// The cores that workers are bound to. Decided by the machine unless said otherwise.
        pinning: Pinning;
        /// How keys are spread over lanes.
        hash: LaneHash;
        /// What the spread depends on: the same in each run. Random unless said otherwise.
        seed: u64;
        /// What threads' names begin with. `keylane` unless said otherwise.
        thread_name: &str;
        /// The stack of each thread, in bytes. 2 MiB unless said otherwise.
        stack_size: usize;
    }

    /// The clock that decides every timeout. The machine's unless said otherwise.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Called by each thread, with its name, when it starts.
    pub fn on_thread_start(mut self, hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_start = Some(Arc::new(hook));
        self
    }

    /// Called by each thread, with its name, when it ends.
    pub fn on_thread_stop(mut self, hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_stop = Some(Arc::new(hook));
        self
    }

    /// Called with what the runtime has to say. Logged as a warning unless this is set.
    pub fn on_notice(mut self, take: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.on_notice = Some(Box::new(take));
        self
    }

    /// The tokio runtime that handlers are in, so that they may use its timers, sockets and tasks.
    #[cfg(feature = "tokio")]
    pub fn tokio(mut self, handle: tokio::runtime::Handle) -> Self {
        self.tokio = Some(handle);
        self
    }

    /// Builds the runtime and starts its threads.
    ///
    /// # Errors
    /// [`BuildError::Config`] for an option out of its range; [`BuildError::Thread`] if the system gives no
    /// thread.
    pub fn build(self) -> Result<Runtime, BuildError> {
        let config = self.config;
        config.validate().map_err(BuildError::Config)?;
        // Once, before any thread is pinned: threads inherit the mask of the one that starts them.
        let machine = Machine::read();
        let workers = pinning::workers(config.workers, machine);
        let plan = pinning::plan(&config.pinning, workers, machine);
        let spin = pinning::spin_budget(config.spin, workers, machine);
        let spawner = Spawner {
            name: config.thread_name.clone(),
            stack_size: config.stack_size,
            on_start: self.on_start,
            on_stop: self.on_stop,
            #[cfg(feature = "tokio")]
            tokio: self.tokio,
            stage: None,
        };
        let blocking = {
            let (spawner, threads) = (spawner.clone(), config.blocking_threads);
            Blocking::new(threads, config.blocking_idle, move |run| spawner.spawn("blk", run))
        };
        let parker = Parker::new();
        let parts = Parts {
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            workers: workers as u32,
            monitor: parker.unparker(),
            blocking,
            not_pinned: plan.declined.clone(),
            on_notice: self.on_notice.unwrap_or_else(|| Box::new(|notice| log::warn!("{notice}"))),
            spawner,
        };
        let core = Core::new(config, parts);
        if let Some(reason) = plan.declined {
            core.notice(&Notice::NotPinned { reason });
        }
        if cfg!(panic = "abort") {
            core.notice(&Notice::PanicAborts);
        }
        let started = monitor::start(&core, parker).and_then(|()| {
            (0..workers).try_for_each(|id| {
                let on = plan.cores.get(id).copied().flatten();
                worker::start(&core, id, on, spin)
            })
        });
        if let Err(error) = started {
            core.exit();
            return Err(BuildError::Thread(error));
        }
        Ok(Runtime::of(core))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}
