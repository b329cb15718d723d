//! What takes part: an arm starts a pool for each round, and feeds are how producers get records in.

use std::sync::Arc;

use crate::load::Item;
use crate::sink::Sink;

/// The lanes that order is asked for.
pub const LANES: usize = 256;

/// The circumstances of a round that an arm has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub lanes: usize,
    pub producers: usize,
    pub workers: usize,
    /// Of the blocking job: as many threads as the arm likes best, instead of `workers`.
    pub own_best: bool,
    /// Records of one lane that come in a row, for batch calls that need to know.
    pub burst: usize,
}

/// Threads that handle, and how the arm is put together.
#[derive(Debug, Clone)]
pub struct About {
    pub threads: usize,
    pub form: String,
}

/// One way of dispatching.
pub trait Arm: Sync {
    fn name(&self) -> &'static str;

    /// How it is set up for `shape`; an error says why it cannot take part.
    fn about(&self, shape: &Shape) -> Result<About, String>;

    /// A pool whose handlers all end in `sink`.
    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool>;
}

/// What one round runs on.
pub trait Pool: Sync {
    /// A producer's way in, called on its thread and once for each.
    fn feed(&self, producer: usize) -> Box<dyn Feed + '_>;

    /// Ends its threads; everything was handled before.
    fn stop(self: Box<Self>);
}

/// A producer's way in. It waits while there is no room.
pub trait Feed {
    /// One record, in at once.
    fn one(&mut self, item: Item, stamp: u64);

    /// Many, the fastest way the arm has.
    fn all(&mut self, items: &[Item]) {
        items.iter().for_each(|&item| self.one(item, 0));
    }
}
