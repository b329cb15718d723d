//! No hand-off at all: the producer runs the handler. What it shows at a fixed rate are the machine's own hiccups.

use std::sync::Arc;

use crate::arm::{About, Arm, Feed, Pool, Shape};
use crate::load::Item;
use crate::sink::Sink;

pub struct Inline;

impl Arm for Inline {
    fn name(&self) -> &'static str {
        "hiccup-floor"
    }

    fn about(&self, _: &Shape) -> Result<About, String> {
        Ok(About { threads: 0, form: "the producer runs the handler itself".into() })
    }

    fn start(&self, _: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        Box::new(Caller(sink.clone()))
    }
}

struct Caller(Arc<Sink>);

impl Pool for Caller {
    fn feed(&self, _: usize) -> Box<dyn Feed + '_> {
        Box::new(self)
    }

    fn stop(self: Box<Self>) {}
}

impl Feed for &Caller {
    fn one(&mut self, item: Item, stamp: u64) {
        self.0.handle(&item.payload(stamp));
    }
}
