//! What all parts of a NATS bus share.

use super::consumer::Desk;
use super::link::Links;
use super::options::NatsOptions;
use crate::runtime::Runtime;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};

pub(super) struct Shared {
    pub(super) runtime: Runtime,
    pub(super) options: NatsOptions,
    pub(super) links: Links,
    members: Mutex<Vec<Member>>,
    abandoned: AtomicBool,
}

/// A consumer that runs.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) desk: Arc<Desk>,
}

impl Shared {
    pub(super) fn new(runtime: Runtime, options: NatsOptions, links: Links) -> Self {
        let (members, abandoned) = (Mutex::default(), AtomicBool::new(false));
        Self { runtime, options, links, members, abandoned }
    }

    pub(super) fn join(&self, member: Member) {
        self.members.lock().push(member);
    }

    pub(super) fn leave(&self, desk: &Arc<Desk>) {
        self.members.lock().retain(|member| !Arc::ptr_eq(&member.desk, desk));
    }

    pub(super) fn members(&self) -> Vec<Arc<Desk>> {
        self.members.lock().iter().map(|member| member.desk.clone()).collect()
    }

    pub(super) fn member(&self, name: &str) -> Option<Arc<Desk>> {
        let members = self.members.lock();
        members.iter().find(|member| member.name == name).map(|member| member.desk.clone())
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
