//! Threads for handlers that block: started when needed, ended when idle, bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use crate::sync::{Arc, Condvar, Mutex, wait, weak};
use crate::unwind::guard;

/// A call to run on a thread that may block.
pub type Call = Box<dyn FnOnce() + Send>;

/// The pool.
pub struct Blocking {
    state: Mutex<State>,
    called: Condvar,
    most: usize,
    idle_for: Duration,
    /// Starts a thread that runs the given function.
    spawn: Box<dyn Fn(Call) -> std::io::Result<()> + Send + Sync>,
}

/// What a call is about, for whoever asks what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The subscription.
    pub subscription: Arc<str>,
    /// The first 64 bytes of the record's key.
    pub key: Option<Vec<u8>>,
}

/// A call is listed as running until this is dropped.
#[derive(Debug)]
pub struct Listed<'a> {
    pool: &'a Blocking,
    id: u64,
}

#[derive(Default)]
struct State {
    /// The calls that run.
    running: Vec<(u64, About)>,
    /// Those whose records arrived first come first, whatever became ready first: a key with a long queue is
    /// not put behind all that is new each time.
    calls: BTreeMap<(Time, u64), Call>,
    next: u64,
    threads: usize,
    /// Of these, threads that the system was asked for and has not given yet.
    starting: usize,
    idle: usize,
    /// Wake-ups under way to idle threads: these are idle no more.
    called: usize,
    ended: bool,
}

impl Blocking {
    /// At most `most` threads, each ended when it was idle for `idle_for`.
    pub fn new(
        most: usize,
        idle_for: Duration,
        spawn: impl Fn(Call) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            called: Condvar::new(),
            most,
            idle_for,
            spawn: Box::new(spawn),
        })
    }

    /// Has the call run on one of the threads, now or once one is free. `arrived`: when its record did.
    ///
    /// # Errors
    /// If the call waits and no thread could be started, not even one.
    pub fn call(self: &Arc<Self>, arrived: Time, call: Call) -> Result<(), std::io::Error> {
        let mut state = self.state.lock();
        let place = (arrived, state.next);
        state.next += 1;
        state.calls.insert(place, call);
        let spoken_for = if weak!("blocking_called") { 0 } else { state.called };
        if state.idle > spoken_for {
            state.called += 1;
            drop(state);
            self.called.notify_one();
            return Ok(());
        }
        if state.threads >= self.most || state.ended {
            return Ok(());
        }
        state.threads += 1;
        state.starting += 1;
        drop(state);
        let pool = self.clone();
        let spawned = (self.spawn)(Box::new(move || pool.run()));
        let mut state = self.state.lock();
        state.starting -= 1;
        let Err(error) = spawned else { return Ok(()) };
        state.threads -= 1;
        if state.threads > state.starting {
            // With another thread at work the call is only late.
            return Ok(());
        }
        // Nobody would run it; or, once there is a thread again, run it beside what comes of the error.
        if !state.calls.contains_key(&place) {
            return Ok(());
        }
        if weak!("blocking_refused") {
            return Err(error);
        }
        let call = state.calls.remove(&place);
        drop(state);
        drop(call);
        Err(error)
    }

    /// Threads in use, and calls that wait for one.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.threads - state.idle, state.calls.len())
    }

    /// Lists a call as running.
    pub fn list(&self, about: About) -> Listed<'_> {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.running.push((id, about));
        Listed { pool: self, id }
    }

    /// The calls that run.
    pub fn running(&self) -> Vec<About> {
        self.state.lock().running.iter().map(|(_, about)| about.clone()).collect()
    }

    /// Ends the threads once they are idle. Calls that wait still run: they find out by themselves that
    /// there is nothing to do.
    pub fn end(&self) {
        self.state.lock().ended = true;
        if !weak!("blocking_end") {
            self.called.notify_all();
        }
    }

    /// In a model, which has no clock: the time of an idle thread is over.
    #[cfg(keylane_loom)]
    pub fn expire(&self) {
        self.called.notify_one();
    }

    /// The step of a thread, for a simulator in its place: runs the next call. False if there is none; the
    /// thread has ended then.
    #[cfg(all(feature = "internals", feature = "testing"))]
    pub fn step(&self) -> bool {
        let mut state = self.state.lock();
        let Some((_, call)) = state.calls.pop_first() else {
            state.threads -= 1;
            return false;
        };
        drop(state);
        let _ = guard(call);
        true
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some((_, call)) = state.calls.pop_first() {
                drop(state);
                // What a call leaves behind is a caller's to drop: a panic there must not take the thread.
                let _ = guard(call);
                state = self.state.lock();
                continue;
            }
            if state.ended {
                break;
            }
            state.idle += 1;
            wait(&self.called, &mut state, Some(self.idle_for));
            state.idle -= 1;
            // Its time may be over and a call on its way to it at once: then that counts.
            if state.called > 0 && !weak!("blocking_idle") {
                state.called -= 1;
            } else if state.calls.is_empty() || weak!("blocking_idle") {
                break;
            }
        }
        state.threads -= 1;
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.pool.state.lock().running.retain(|running| running.0 != self.id);
    }
}

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocking").field("most", &self.most).finish_non_exhaustive()
    }
}
