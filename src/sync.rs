//! The one place where atomics, cells, locks and threads come from: std's (and parking_lot's), or
//! loom's under `--cfg keylane_loom`.
//!
//! Counters that are only counted (`metrics`) take std's atomics directly, so that they do not
//! blow up a model's state space.

#[cfg(not(keylane_loom))]
mod imp {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread::Builder as ThreadBuilder;

    /// std's cell behind loom's closure interface.
    #[repr(transparent)]
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    /// Waits on `condvar` for at most `timeout` (`None`: without a limit).
    pub(crate) fn wait<T>(
        condvar: &Condvar,
        guard: &mut MutexGuard<'_, T>,
        timeout: Option<std::time::Duration>,
    ) {
        match timeout {
            Some(timeout) => {
                condvar.wait_for(guard, timeout);
            }
            None => condvar.wait(guard),
        }
    }
}

#[cfg(keylane_loom)]
mod imp {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic;
    pub(crate) use loom::thread::Builder as ThreadBuilder;

    /// parking_lot's interface over loom's lock.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            // A model that panics is reported by loom itself; nothing runs on after it.
            MutexGuard(Some(self.0.lock().unwrap_or_else(|e| e.into_inner())))
        }
    }

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> std::ops::Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            match &self.0 {
                Some(guard) => guard,
                None => unreachable!("only `wait` takes the guard, and puts it back"),
            }
        }
    }

    impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            match &mut self.0 {
                Some(guard) => guard,
                None => unreachable!("only `wait` takes the guard, and puts it back"),
            }
        }
    }

    pub(crate) use loom::sync::Condvar;

    /// Waits on `condvar`. loom has no clock: a wait with a timeout is modelled as one without, so
    /// that a lost wake-up shows as a deadlock; what a timeout does is modelled by its caller.
    pub(crate) fn wait<T>(
        condvar: &Condvar,
        guard: &mut MutexGuard<'_, T>,
        _timeout: Option<std::time::Duration>,
    ) {
        if let Some(inner) = guard.0.take() {
            guard.0 = Some(condvar.wait(inner).unwrap_or_else(|e| e.into_inner()));
        }
    }
}

pub(crate) use imp::*;

/// Tells the model checker that nothing goes on here until another thread does. Nothing outside of models.
#[inline(always)]
pub(crate) fn model_yield() {
    #[cfg(keylane_loom)]
    loom::thread::yield_now();
}

/// Whether the model checker runs with this weakness: an ordering or a step left out, which a model must
/// convict (`KEYLANE_WEAK=NAME`). Never outside of models.
macro_rules! weak {
    ($name:literal) => {
        cfg!(keylane_loom) && $crate::sync::is_weak($name)
    };
}
pub(crate) use weak;

#[cfg(keylane_loom)]
pub(crate) fn is_weak(name: &str) -> bool {
    static WEAK: OnceLock<Option<String>> = OnceLock::new();
    WEAK.get_or_init(|| std::env::var("KEYLANE_WEAK").ok()).as_deref() == Some(name)
}

#[cfg(not(keylane_loom))]
pub(crate) const fn is_weak(_name: &str) -> bool {
    false
}

/// `ordering`; or none at all where the model checker runs with that weakness.
#[inline(always)]
pub(crate) const fn unless(weak: bool, ordering: atomic::Ordering) -> atomic::Ordering {
    if weak { atomic::Ordering::Relaxed } else { ordering }
}

// Reference counts are std's in both worlds: they are not ours to model.
pub(crate) use std::sync::{Arc, Weak};

// What is written once, and what is a fact of the machine, is no model's business.
pub(crate) use std::sync::OnceLock;
pub(crate) use std::thread::{ThreadId, available_parallelism, current as current_thread};
