//! Blocks for records: a magazine a thread, exchanged whole with a common depot, so that the steady path
//! neither allocates nor touches a shared line for each record.

use std::cell::RefCell;
use std::sync::LazyLock;

use crossbeam_queue::ArrayQueue;
use triomphe::Arc;

use crate::block::Block;

/// Blocks in a magazine.
const MAGAZINE: usize = 32;
/// Magazines in the depot: together with the threads' own at most a few thousand blocks are kept.
const DEPOT: usize = 128;

type Blocks = Vec<Arc<Block>>;

struct Depot {
    full: ArrayQueue<Blocks>,
    empty: ArrayQueue<Blocks>,
}

static COMMON: LazyLock<Depot> =
    LazyLock::new(|| Depot { full: ArrayQueue::new(DEPOT), empty: ArrayQueue::new(DEPOT) });

/// A thread's blocks: two magazines, so that one that takes and puts around an edge does not exchange each time.
pub(crate) struct Magazine {
    current: Blocks,
    other: Blocks,
}

thread_local! {
    static LOCAL: RefCell<Magazine> = const { RefCell::new(Magazine::new()) };
}

/// An emptied block that nobody else has: one to reuse if there is one.
#[inline]
pub(crate) fn take() -> Arc<Block> {
    // A thread that is ending has no magazine any more.
    let kept = LOCAL.try_with(|local| local.try_borrow_mut().ok()?.take()).ok().flatten();
    kept.unwrap_or_else(fresh)
}

#[cold]
fn fresh() -> Arc<Block> {
    Arc::new(Block::empty())
}

/// Keeps an emptied block that nobody else has.
pub(crate) fn put(block: Arc<Block>) {
    // Where it cannot be kept it is dropped: there is nothing of a caller's in it.
    let _ = LOCAL.try_with(move |local| {
        if let Ok(mut local) = local.try_borrow_mut() {
            local.put(block);
        }
    });
}

impl Magazine {
    pub(crate) const fn new() -> Self {
        Self { current: Vec::new(), other: Vec::new() }
    }

    #[inline]
    fn take(&mut self) -> Option<Arc<Block>> {
        match self.current.pop() {
            Some(block) => Some(block),
            None => self.refill(),
        }
    }

    #[cold]
    fn refill(&mut self) -> Option<Arc<Block>> {
        std::mem::swap(&mut self.current, &mut self.other);
        if self.current.is_empty()
            && let Some(full) = COMMON.full.pop()
        {
            let empty = std::mem::replace(&mut self.current, full);
            // A depot that has enough empty ones lets this one go.
            let _ = COMMON.empty.push(empty);
        }
        self.current.pop()
    }

    /// Keeps an emptied block that nobody else has.
    #[inline]
    pub(crate) fn put(&mut self, block: Arc<Block>) {
        // Made at its full size: there is room unless it is full, or none was made yet.
        if self.current.len() == self.current.capacity() {
            return self.exchange(block);
        }
        self.current.push(block);
    }

    #[cold]
    fn exchange(&mut self, block: Arc<Block>) {
        std::mem::swap(&mut self.current, &mut self.other);
        if self.current.len() >= MAGAZINE || self.current.capacity() == 0 {
            let empty = COMMON.empty.pop().unwrap_or_else(|| Vec::with_capacity(MAGAZINE));
            let full = std::mem::replace(&mut self.current, empty);
            if !full.is_empty() {
                // A depot that is full lets these blocks go.
                let _ = COMMON.full.push(full);
            }
        }
        self.current.push(block);
    }
}
