//! Whether the calling thread is inside a handler: a call that would block there never blocks.

use std::cell::Cell;

thread_local! {
    static HANDLERS: Cell<u32> = const { Cell::new(0) };
}

/// Whether a handler is running on this thread.
#[inline]
pub fn in_handler() -> bool {
    HANDLERS.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

/// Marks the thread as inside a handler until it is dropped.
#[derive(Debug)]
pub struct InHandler(());

impl InHandler {
    /// Enters.
    #[inline]
    pub fn enter() -> Self {
        let _ = HANDLERS.try_with(|depth| depth.set(depth.get() + 1));
        Self(())
    }
}

impl Drop for InHandler {
    #[inline]
    fn drop(&mut self) {
        let _ = HANDLERS.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}
