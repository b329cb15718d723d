//! A thread of the bus for what waits on sockets: an executor of its own, on which no handler runs.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::spawner::Spawner;

/// An executor on a thread of its own. Dropped, it ends: what was spawned on it is dropped there.
#[derive(Debug)]
pub(super) struct Io {
    handle: Handle,
    /// Its drop ends the thread. The thread is not joined: a bus may be dropped inside async code, or here.
    _alive: oneshot::Sender<()>,
}

impl Io {
    /// Starts the thread `{runtime's name}-{role}`.
    pub(super) fn start(spawner: &Spawner, role: &str) -> io::Result<Self> {
        let executor = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = executor.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        spawner.spawn(role, move || {
            // Ends with an error once the other end is dropped.
            let _ = executor.block_on(ended);
        })?;
        Ok(Self { handle, _alive: alive })
    }

    /// Runs a task on the thread.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task));
    }

    /// What tasks can be run by while the thread is held elsewhere; it does not keep it alive.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}
