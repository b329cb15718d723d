//! A runtime: built, subscribed to, looked at, closed.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::blocking::Blocking;
use crate::clock::{Clock, SystemClock, Time};
use crate::config::Config;
use crate::core::{Core, Parts};
use crate::error::ConfigError;
use crate::handler::{Handled, Handler, Version};
use crate::hash::LaneHash;
use crate::machine::Machine;
use crate::notice::{Notice, OnNotice};
use crate::parker::Parker;
use crate::pinning::{self, Pinning};
use crate::receipt::WaitError;
use crate::record::{Record, RecordRef};
use crate::shutdown::{Closing, Ending, Report};
use crate::snapshot::Snapshot;
use crate::spawner::{Hook, Spawner};
use crate::subscriber::Subscriber;
use crate::subscription::{After, DeadLetter, DeadLetterTo, Subscription};
use crate::sync::Arc;
use crate::table::{Entry, SubscriptionState};
use crate::{monitor, worker};

/// Worker threads that drain lanes and run handlers: every key's records in order, different keys in parallel.
///
/// One runtime serves any number of subscriptions and buses.
///
/// A runtime is a handle: clones are the same one. [`close`](Self::close) it at the end; dropping the last
/// handle stops it at once, and says so.
///
/// ```
/// use std::time::Duration;
/// use keylane::{Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(2).build()?;
/// let orders = runtime.subscribe(Subscription::new("orders"), |record: &Record| {
///     assert_eq!(record.key(), Some(&b"order-42"[..]));
///     Ok(())
/// })?;
/// orders.submit(Record::new("order-42", "paid"))?;
/// let receipt = orders.submit_tracked(Record::new("order-42", "sent"))?;
/// assert!(receipt.wait()?.is_done());
/// assert!(runtime.close(Duration::from_secs(5))?.drained);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Runtime(Arc<Handle>);

struct Handle {
    ending: Arc<Ending>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.ending.has_begun() {
            self.ending.core().notice(&Notice::Dropped);
            self.ending.begin(Time::ZERO);
        }
    }
}

/// Why a runtime was not built.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// An option was refused.
    Config(ConfigError),
    /// A thread could not be started.
    Thread(std::io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "a thread could not be started: {error}"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Thread(error) => Some(error),
        }
    }
}

/// Why a subscription was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name is empty or longer than 255 bytes.
    InvalidName,
    /// The runtime has a subscription of this name.
    AlreadySubscribed(String),
    /// The policy dead-letters, and there is nowhere to.
    NoDeadLetter,
    /// The runtime is closed.
    Closed,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName => f.write_str("a subscription's name has 1 to 255 bytes"),
            Self::AlreadySubscribed(name) => write!(f, "already subscribed as {name:?}"),
            Self::NoDeadLetter => {
                f.write_str("the policy needs a dead letter: give it a sink, or on a bus a topic")
            }
            Self::Closed => f.write_str("the runtime is closed"),
        }
    }
}

impl Error for SubscribeError {}

impl Runtime {
    /// A builder with the defaults: 256 lanes of 1,000 slots, a wait of 500 ms, a worker a core.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Subscribes a sync handler: for what takes microseconds. One that runs longer than 1 ms holds up its
    /// lane and a thread, no other lane, and is reported; declare it blocking.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub fn subscribe(
        &self,
        subscription: Subscription,
        handler: impl Fn(&Record) -> Handled + Send + Sync + 'static,
    ) -> Result<Subscriber, SubscribeError> {
        self.subscribe_handler(subscription, Handler::sync(handler))
    }

    /// Subscribes an async handler: its futures are polled by the workers, and one that is slow or hangs
    /// delays its own key alone.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub fn subscribe_async<F, Fut>(
        &self,
        subscription: Subscription,
        handler: F,
    ) -> Result<Subscriber, SubscribeError>
    where
        F: Fn(RecordRef) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Handled> + Send + 'static,
    {
        self.subscribe_handler(subscription, Handler::future(handler))
    }

    /// Subscribes a handler that may block its thread: it runs on a pool of up to `blocking_threads`, and one
    /// that is slow or hangs delays its own key alone.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub fn subscribe_blocking(
        &self,
        subscription: Subscription,
        handler: impl Fn(RecordRef) -> Handled + Send + Sync + 'static,
    ) -> Result<Subscriber, SubscribeError> {
        self.subscribe_handler(subscription, Handler::blocking(handler))
    }

    /// Subscribes a handler of any kind.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub fn subscribe_handler(
        &self,
        subscription: Subscription,
        handler: Handler,
    ) -> Result<Subscriber, SubscribeError> {
        let dead_letter = match &subscription.dead_letter {
            DeadLetterTo::Sink(sink) => Some(sink.clone()),
            // Only a bus has topics.
            DeadLetterTo::Topic(_) => return Err(SubscribeError::NoDeadLetter),
            DeadLetterTo::Nowhere => None,
        };
        self.subscribe_with(subscription, handler, dead_letter)
    }

    /// Subscribes with a dead letter that a bus has resolved.
    pub(crate) fn subscribe_with(
        &self,
        subscription: Subscription,
        handler: Handler,
        dead_letter: Option<Arc<dyn DeadLetter>>,
    ) -> Result<Subscriber, SubscribeError> {
        let core = self.core();
        if !(1..=255).contains(&subscription.name.len()) {
            return Err(SubscribeError::InvalidName);
        }
        if dead_letter.is_none() && matches!(subscription.after, After::DeadLetter | After::Park) {
            return Err(SubscribeError::NoDeadLetter);
        }
        if self.0.ending.has_begun() {
            return Err(SubscribeError::Closed);
        }
        let name: Arc<str> = subscription.name.as_str().into();
        let policy = Arc::new(subscription);
        let version = Version::new(handler);
        let _kept = (policy.clone(), version.clone(), dead_letter.clone()); // a caller's: not dropped under the lock
        let (_, entry) = core.change(|table| {
            if table.subscriptions.iter().flatten().any(|entry| entry.name == name) {
                return Err(SubscribeError::AlreadySubscribed(name.to_string()));
            }
            let mut table = table.clone();
            let generation = table.generation;
            table.generation = generation.wrapping_add(1);
            let free = table.subscriptions.iter().position(Option::is_none);
            let id = free.unwrap_or(table.subscriptions.len());
            let entry = Arc::new(Entry {
                id: id as u32,
                generation,
                salt: core.router.salt(generation),
                name: name.clone(),
                policy,
                dead_letter,
                version,
                state: Arc::new(SubscriptionState::new(core.workers.len())),
            });
            match free {
                Some(id) => table.subscriptions[id] = Some(entry.clone()),
                None => table.subscriptions.push(Some(entry.clone())),
            }
            Ok((table, entry))
        })?;
        Ok(Subscriber { core: core.clone(), entry })
    }

    /// What it is doing. Lanes with busy keys are asked, and answer at their next visit: this may take a moment, at
    /// most some 200 ms. May be called inside a handler, whose own lane then does not answer.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.core())
    }

    /// The options in force.
    pub fn config(&self) -> &Config {
        &self.core().config
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.core().clock
    }

    /// Closes it: takes no more records, handles those it has taken for at most `timeout`, then stops. A later
    /// call, from any thread, gets the same report but for the records; an earlier deadline counts.
    ///
    /// Retries that wait are given up at once. At the deadline async attempts are dropped; sync and blocking
    /// handlers that have not returned are left behind and named in the report.
    ///
    /// # Errors
    /// [`WaitError::WouldDeadlock`] inside a handler: the close has begun and goes on.
    pub fn close(&self, timeout: Duration) -> Result<Report, WaitError> {
        self.close_async(timeout).wait()
    }

    /// As [`close`](Self::close), awaited. The close has begun when this returns.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the close.
    pub fn close_async(&self, timeout: Duration) -> Closing {
        self.0.ending.begin(self.core().clock.now().after(timeout));
        Closing::new(&self.0.ending)
    }

    /// Stops it: nothing is started after this returns; what runs is not waited for. [`close`](Self::close) then gives
    /// the report.
    pub fn stop_now(&self) {
        self.0.ending.begin(Time::ZERO);
        self.core().enter_phase(crate::core::STOPPED);
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.0.ending.core()
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("config", self.config()).finish_non_exhaustive()
    }
}

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
        Ok(Runtime(Arc::new(Handle { ending: Ending::new(core) })))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}
