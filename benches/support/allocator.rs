//! A count of what an allocator is asked for.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static COUNTS: AtomicBool = AtomicBool::new(true);
static CALLS: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

/// An allocator that counts: for the binaries that report allocations. It costs two locked instructions a call,
/// until it is told to [`stop`].
pub struct Counting<A>(pub A);

// SAFETY: every call goes to the allocator inside as it came; the counters touch no memory of a caller's.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            CALLS.fetch_add(1, Ordering::Relaxed);
            TAKEN.fetch_add(layout.size() as u64, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is `alloc`'s own.
        unsafe { self.0.alloc(layout) }
    }

    // Not left to the default, which would write zeros to pages that the system gives as zeros.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            CALLS.fetch_add(1, Ordering::Relaxed);
            TAKEN.fetch_add(layout.size() as u64, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is `alloc_zeroed`'s own.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if COUNTS.load(Ordering::Relaxed) {
            FREED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        }
        // SAFETY: `place` came from `alloc` or `realloc` here, hence from the allocator inside, with this layout.
        unsafe { self.0.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if COUNTS.load(Ordering::Relaxed) {
            CALLS.fetch_add(1, Ordering::Relaxed);
            TAKEN.fetch_add(size as u64, Ordering::Relaxed);
            FREED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        }
        // SAFETY: as in `dealloc`; the caller vouches for `size`.
        unsafe { self.0.realloc(place, layout, size) }
    }
}

/// Counts no more: where instructions are counted, the counting's own are not wanted. A look at a flag is left.
pub fn stop() {
    COUNTS.store(false, Ordering::Relaxed);
}

/// Allocations and reallocations of the process so far; 0 for ever unless [`Counting`] is its allocator.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Bytes that are allocated now.
pub fn live() -> u64 {
    TAKEN.load(Ordering::Relaxed).saturating_sub(FREED.load(Ordering::Relaxed))
}
