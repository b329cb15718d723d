//! A runtime: built, subscribed to, looked at, closed.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::core::Core;
use crate::error::ConfigError;
use crate::handler::{Handled, Handler, Version};
use crate::notice::Notice;
use crate::receipt::WaitError;
use crate::record::{Record, RecordRef};
use crate::shutdown::{Closing, Ending, Report};
use crate::snapshot::Snapshot;
use crate::subscriber::Subscriber;
use crate::subscription::{After, DeadLetter, DeadLetterTo, Subscription};
use crate::sync::Arc;
use crate::table::{Entry, SubscriptionState};

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
        self.add(subscription, handler, dead_letter, false)
    }

    /// Subscribes for a bus, with a dead letter that it has resolved. Handlers are not called for records that the
    /// bus has refused.
    pub(crate) fn subscribe_with(
        &self,
        subscription: Subscription,
        handler: Handler,
        dead_letter: Option<Arc<dyn DeadLetter>>,
    ) -> Result<Subscriber, SubscribeError> {
        self.add(subscription, handler.refusing(), dead_letter, true)
    }

    fn add(
        &self,
        subscription: Subscription,
        handler: Handler,
        dead_letter: Option<Arc<dyn DeadLetter>>,
        fed: bool,
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
                fed,
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

    /// The runtime whose core this is. Nobody else has made one of it.
    pub(crate) fn of(core: Arc<Core>) -> Self {
        Self(Arc::new(Handle { ending: Ending::new(core) }))
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
