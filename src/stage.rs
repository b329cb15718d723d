//! A runtime's threads as a model drives them: workers and lanes as they are, the monitor look by look, no clock
//! but the model's. Only under the model checker.

use std::time::Duration;

use crate::blocking::Blocking;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::{Core, Parts};
use crate::handler::{Handler, Version};
use crate::monitor::Monitor;
use crate::parker::Parker;
use crate::record::Record;
use crate::spawner::Spawner;
use crate::subscription::Subscription;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex};
use crate::table::{Entry, SubscriptionState};
use crate::work::{Completion, Work};
use crate::worker;

/// A runtime with one subscription, none of whose threads runs yet.
#[derive(Clone)]
pub struct Stage {
    core: Arc<Core>,
    monitor: Arc<Mutex<Monitor>>,
}

impl Stage {
    /// A runtime of `workers` workers and `config.spares` spares, whose records `handler` handles.
    pub fn new(config: Config, workers: u32, clock: Arc<dyn Clock>, handler: Handler) -> Self {
        let parts = Parts {
            clock,
            workers,
            monitor: Parker::new().unparker(),
            not_pinned: None,
            blocking: Blocking::new(1, Duration::ZERO, |_| Ok(())),
            on_notice: Box::new(|_| ()),
            spawner: Spawner {
                name: String::new(),
                stack_size: 1 << 16,
                on_start: None,
                on_stop: None,
                #[cfg(feature = "tokio")]
                tokio: None,
                stage: None,
            },
        };
        let core = Core::new(config, parts);
        let entry = Arc::new(Entry {
            id: 0,
            generation: 0,
            salt: core.router.salt(0),
            name: "modelled".into(),
            policy: Arc::new(Subscription::new("modelled").skip()),
            dead_letter: None,
            version: Version::new(handler),
            fed: false,
            state: Arc::new(SubscriptionState::default()),
        });
        let subscribed = core.registry.update(|table| {
            let mut table = table.clone();
            table.subscriptions.push(Some(entry));
            table.generation = 1;
            Ok::<_, ()>((table, ()))
        });
        debug_assert!(subscribed.is_ok(), "the change cannot fail");
        let monitor = Arc::new(Mutex::new(Monitor::new(&core)));
        Self { core, monitor }
    }

    /// Submits a record to a lane. False if that is full or closed.
    pub fn push(&self, lane: u32, key: &str) -> bool {
        let work = Work {
            record: Record::new(key, ""),
            hash: u64::from(lane),
            subscription: 0,
            generation: 0,
            completion: Completion::Untracked,
        };
        self.core.lanes.push(lane, work).is_ok()
    }

    /// Runs worker `id` on this thread until `exit`.
    pub fn work(&self, id: usize) {
        let shared = &self.core.workers[id];
        let Some(parker) = shared.parker.lock().take() else { return };
        shared.started.store(true, Ordering::Release);
        worker::run(&self.core, id, &parker, Duration::ZERO);
    }

    /// A look of the monitor.
    pub fn look(&self) {
        let _ = self.monitor.lock().look();
    }

    /// Whether a worker's thread was started.
    pub fn is_started(&self, id: usize) -> bool {
        self.core.workers[id].started.load(Ordering::Acquire)
    }

    /// Whether a worker says that it sleeps.
    pub fn is_asleep(&self, id: usize) -> bool {
        self.core.lanes.bell(id).is_parked()
    }

    /// Whether the monitor holds a worker for stuck.
    pub fn is_stuck(&self, id: usize) -> bool {
        self.core.workers[id].status.is_stuck()
    }

    /// Lanes that a worker took from others.
    pub fn steals(&self, id: usize) -> u64 {
        self.core.workers[id].counters.steals.get()
    }

    /// Ends the workers once they have no lane.
    pub fn exit(&self) {
        self.core.exit();
    }

    /// Whether a lane's token is at rest, with nothing in its ring.
    pub fn is_at_rest(&self, lane: u32) -> bool {
        self.core.lanes.get(lane).ring().is_at_rest()
    }
}
