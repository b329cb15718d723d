//! Where rings' slots live.

use std::mem::MaybeUninit;

use crate::sync::atomic::AtomicU64;
use crate::sync::{Arc, UnsafeCell};

#[repr(C, align(64))]
pub(super) struct Slot<M> {
    /// `pos + 1` once the message of position `pos` is in; zero, as a fresh page has it and the consumer leaves it,
    /// is "nothing yet".
    pub(super) seq: AtomicU64,
    pub(super) message: UnsafeCell<MaybeUninit<M>>,
}

/// All lanes' slots in one piece: zero pages of the system, mapped at first touch.
#[cfg(not(keylane_loom))]
pub(super) struct Slab<M> {
    /// Kept for its pages; reached through `base` only.
    _pages: memmap2::MmapMut,
    base: *mut Slot<M>,
}

// SAFETY: the slab is memory; what is in it is governed by the rings (see there).
#[cfg(not(keylane_loom))]
unsafe impl<M: Send> Send for Slab<M> {}
// SAFETY: as above.
#[cfg(not(keylane_loom))]
unsafe impl<M: Send> Sync for Slab<M> {}

#[cfg(not(keylane_loom))]
impl<M> Slab<M> {
    pub(super) fn new(slots: usize) -> Self {
        let bytes = slots.checked_mul(size_of::<Slot<M>>());
        let pages = bytes.map(memmap2::MmapMut::map_anon);
        let Some(Ok(mut pages)) = pages else {
            panic!("no memory for {slots} slots of {} bytes", size_of::<Slot<M>>());
        };
        // Huge pages would make an idle lane resident. Where the advice is not known, nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::NoHugePage);
        let base = pages.as_mut_ptr().cast::<Slot<M>>();
        assert!(base.is_aligned(), "pages are aligned to more than a slot");
        Self { _pages: pages, base }
    }
}

/// One ring's part of the slab.
#[cfg(not(keylane_loom))]
pub(super) struct Slots<M> {
    _slab: Arc<Slab<M>>,
    first: *mut Slot<M>,
}

#[cfg(not(keylane_loom))]
impl<M> Slots<M> {
    /// The part that starts at slot `first`.
    pub(super) fn new(slab: Arc<Slab<M>>, first: usize) -> Self {
        // SAFETY: `rings` makes the slab for `lanes * spacing` slots and `first` is `lane * spacing`.
        let first = unsafe { slab.base.add(first) };
        Self { _slab: slab, first }
    }

    #[inline]
    pub(super) fn get(&self, index: u64) -> &Slot<M> {
        // SAFETY: callers mask the index to the stride, so it is in this ring's part of the slab,
        // which `_slab` keeps. A slot is valid as zero bytes: `seq` 0, the message uninitialised.
        unsafe { &*self.first.add(index as usize) }
    }
}

/// Under the model checker slots are made one by one: its types are not valid as zero bytes.
#[cfg(keylane_loom)]
pub(super) struct Slab<M> {
    slots: Vec<Slot<M>>,
}

#[cfg(keylane_loom)]
// SAFETY: as for the real slab.
unsafe impl<M: Send> Send for Slab<M> {}
#[cfg(keylane_loom)]
// SAFETY: as above.
unsafe impl<M: Send> Sync for Slab<M> {}

#[cfg(keylane_loom)]
impl<M> Slab<M> {
    pub(super) fn new(slots: usize) -> Self {
        let slot =
            |_| Slot { seq: AtomicU64::new(0), message: UnsafeCell::new(MaybeUninit::uninit()) };
        Self { slots: (0..slots).map(slot).collect() }
    }
}

#[cfg(keylane_loom)]
pub(super) struct Slots<M> {
    slab: Arc<Slab<M>>,
    first: usize,
}

#[cfg(keylane_loom)]
impl<M> Slots<M> {
    pub(super) fn new(slab: Arc<Slab<M>>, first: usize) -> Self {
        Self { slab, first }
    }

    pub(super) fn get(&self, index: u64) -> &Slot<M> {
        &self.slab.slots[self.first + index as usize]
    }
}

impl<M> std::fmt::Debug for Slots<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slots")
    }
}
