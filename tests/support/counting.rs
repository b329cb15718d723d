//! An allocator that counts what some threads allocate.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static CURRENT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static GROUP: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what the threads of one group allocate.
pub struct Counting;

/// A new group, counted from here on; those before it, whose threads may be ending still, are not.
pub fn new_group() -> u64 {
    CURRENT.fetch_add(1, Ordering::SeqCst) + 1
}

/// Adds this thread to a group.
pub fn join(group: u64) {
    GROUP.set(group);
}

/// How often the threads of the groups have allocated, or made an allocation larger.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::SeqCst)
}

fn count() {
    // The group is constant at first and needs no drop: reading it allocates nothing, at any time.
    let group = GROUP.try_with(Cell::get).unwrap_or(0);
    if group != 0 && group == CURRENT.load(Ordering::SeqCst) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every call is handed on to the system's allocator as it came, and what that returns is returned
// unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from this allocator, hence from the system's, with this layout.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from this allocator, hence from the system's, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}
