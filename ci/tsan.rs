//! What the thread sanitizer is told about std's `Arc`; linked by `ci/san.sh` in place of the sanitizer's own function.
//!
//! `Arc` drops a count by `fetch_sub(Release)`, and whoever was last makes up for the missing acquire by a fence.
//! The sanitizer does not model fences, so it took every use of the content by others for a race with its drop. Here
//! the subtraction acquires as well, which is what the two together do.
//!
//! The price: a `fetch_sub(Release)` that lacks an acquire is not found. There is one besides those of `Arc`s, that
//! of the attempts in flight (`Version::running`), and the loom models judge it.
#![no_std]

/// The sanitizer's numbers of orderings.
const RELEASE: i32 = 3;
const ACQ_REL: i32 = 4;

unsafe extern "C" {
    fn __real___tsan_atomic64_fetch_sub(place: *mut u64, by: u64, ordering: i32) -> u64;
}

/// # Safety
/// As the sanitizer's function, which it calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap___tsan_atomic64_fetch_sub(
    place: *mut u64,
    by: u64,
    ordering: i32,
) -> u64 {
    let ordering = if ordering == RELEASE { ACQ_REL } else { ordering };
    // SAFETY: the caller's.
    unsafe { __real___tsan_atomic64_fetch_sub(place, by, ordering) }
}
