//! What all parts of a NATS bus share.

use super::core_counts::{CoreCounters, CoreCounts};
use super::desk::Desk;
use super::link::Links;
use super::options::NatsOptions;
use super::publisher::Publisher;
use super::streams::Streams;
use crate::bus::{BusError, BusHealth, BusReport, Groups};
use crate::reply::Answer;
use crate::runtime::Runtime;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};

/// Ended subscriptions to core NATS whose counts can still be read.
const KEPT: usize = 64;

pub(super) struct Shared {
    pub(super) runtime: Runtime,
    pub(super) options: NatsOptions,
    pub(super) publisher: Publisher,
    pub(super) links: Links,
    members: Mutex<Vec<Member>>,
    /// What subscriptions to core NATS count, by name.
    cores: Mutex<Vec<(String, Vec<Arc<CoreCounters>>)>>,
    pub(super) streams: Streams,
    pub(super) groups: Groups,
    pub(super) health: BusHealth,
    pub(super) closing: Mutex<Closing>,
    abandoned: AtomicBool,
}

/// How far the bus' end is.
pub(super) enum Closing {
    /// It is open as long as nobody waits for its end.
    Open(Vec<Answer<Result<BusReport, BusError>>>),
    Closed(BusReport),
}

/// A consumer that runs.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) desk: Arc<Desk>,
}

impl Shared {
    pub(super) fn new(
        runtime: Runtime,
        options: NatsOptions,
        links: Links,
        health: BusHealth,
    ) -> Self {
        let publisher = Publisher::start(&runtime, &links, &options);
        let (members, abandoned) = (Mutex::default(), AtomicBool::new(false));
        let closing = Mutex::new(Closing::Open(Vec::new()));
        let groups = Groups::new(&health);
        let cores = Mutex::default();
        Self {
            runtime,
            options,
            publisher,
            links,
            members,
            cores,
            streams: Streams::default(),
            groups,
            health,
            closing,
            abandoned,
        }
    }

    /// Whether its end has begun.
    pub(super) fn is_closed(&self) -> bool {
        !matches!(&*self.closing.lock(), Closing::Open(waiting) if waiting.is_empty())
    }

    pub(super) fn join(&self, member: Member) {
        self.members.lock().push(member);
    }

    /// Shows what a subscription to core NATS counts, for as long as there is no other of its name.
    pub(super) fn count_core(&self, name: String, counters: Vec<Arc<CoreCounters>>) {
        let mut cores = self.cores.lock();
        // What only this list holds is of a subscription that has ended: the newest few are kept.
        let ended = |(_, kept): &(String, Vec<Arc<CoreCounters>>)| {
            kept.iter().all(|counters| Arc::strong_count(counters) == 1)
        };
        while cores.len() >= KEPT
            && let Some(first) = cores.iter().position(ended)
        {
            cores.remove(first);
        }
        cores.retain(|(other, _)| *other != name);
        cores.push((name, counters));
    }

    pub(super) fn core_counts(&self, name: &str) -> Option<CoreCounts> {
        let cores = self.cores.lock();
        let (_, counters) = cores.iter().find(|(other, _)| other == name)?;
        let each = counters.iter().map(|counters| counters.read());
        each.reduce(CoreCounts::and)
    }

    pub(super) fn leave(&self, desk: &Arc<Desk>) {
        self.members.lock().retain(|member| !Arc::ptr_eq(&member.desk, desk));
    }

    pub(super) fn members(&self) -> Vec<Arc<Desk>> {
        self.members.lock().iter().map(|member| member.desk.clone()).collect()
    }

    /// The consumers of a subscription, in the order in which they began.
    pub(super) fn members_of(&self, name: &str) -> Vec<Arc<Desk>> {
        let members = self.members.lock();
        let own = members.iter().filter(|member| member.name == name);
        own.map(|member| member.desk.clone()).collect()
    }

    /// The last handle is gone: loops end without waiting for anything.
    pub(super) fn abandon(&self) {
        // Release pairs with the acquire in `is_abandoned`.
        self.abandoned.store(true, Ordering::Release);
        self.members().iter().for_each(|desk| desk.nudge());
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}
