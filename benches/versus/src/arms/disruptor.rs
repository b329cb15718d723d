//! disruptor-rs: a ring for each worker thread, with its managed, busily spinning processor.

use std::hint::black_box;
use std::sync::{Arc, Mutex};

use disruptor::{BusySpin, Producer, build_multi_producer, build_single_producer};

use crate::arm::{About, Arm, Feed, Pool, Shape};
use crate::arms::channels::slots;
use crate::load::{Item, Message, PAYLOAD};
use crate::sink::Sink;

pub struct Disruptor;

/// What stands in the ring: what other peers carry.
struct Event(Message);

impl Arm for Disruptor {
    fn name(&self) -> &'static str {
        "disruptor"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        if shape.own_best {
            return Err(
                "its processors are one thread a ring, each spinning: more of them do not help"
                    .into(),
            );
        }
        let slots = slots(shape.workers).next_power_of_two();
        let kind =
            if shape.producers == 1 { "build_single_producer" } else { "build_multi_producer" };
        let each = if shape.workers == 1 { ", batch_publish of up to 64" } else { "" };
        let form = format!("a thread and a ring of {slots} each, {kind}, BusySpin{each}");
        Ok(About { threads: shape.workers, form })
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        let slots = slots(shape.workers).next_power_of_two();
        let factory = || Event(Message { key: b"", payload: [0; PAYLOAD] });
        let mut producers: Vec<Vec<_>> = (0..shape.producers).map(|_| Vec::new()).collect();
        if shape.producers == 1 {
            producers[0].extend((0..shape.workers).map(|_| {
                build_single_producer(slots, factory, BusySpin)
                    .handle_events_with(processor(sink))
                    .build()
            }));
            return Box::new(Rings::new(shape, producers));
        }
        let mut producers: Vec<Vec<_>> = (0..shape.producers).map(|_| Vec::new()).collect();
        for _ in 0..shape.workers {
            let first = build_multi_producer(slots, factory, BusySpin)
                .handle_events_with(processor(sink))
                .build();
            producers.iter_mut().for_each(|producers| producers.push(first.clone()));
        }
        Box::new(Rings::new(shape, producers))
    }
}

fn processor(sink: &Arc<Sink>) -> impl FnMut(&Event, i64, bool) + Send + 'static {
    let sink = sink.clone();
    move |event, _, _| sink.handle(&event.0.payload)
}

struct Rings<P> {
    producers: Mutex<Vec<Option<Vec<P>>>>,
    lanes: usize,
}

impl<P> Rings<P> {
    fn new(shape: &Shape, producers: Vec<Vec<P>>) -> Self {
        let producers = Mutex::new(producers.into_iter().map(Some).collect());
        Self { producers, lanes: shape.lanes }
    }
}

impl<P: Producer<Event> + Send> Pool for Rings<P> {
    fn feed(&self, producer: usize) -> Box<dyn Feed + '_> {
        let mut producers = self.producers.lock().expect("nobody panics");
        let rings = producers[producer].take().expect("one feed a producer");
        Box::new(Publish { rings, lanes: self.lanes })
    }

    fn stop(self: Box<Self>) {
        // The producers' drop waits for the processors.
        drop(self.producers);
    }
}

struct Publish<P> {
    rings: Vec<P>,
    lanes: usize,
}

impl<P: Producer<Event>> Feed for Publish<P> {
    #[inline]
    fn one(&mut self, item: Item, stamp: u64) {
        let message = Message::new(item, stamp);
        let ring = message.lane(self.lanes) % self.rings.len();
        self.rings[ring].publish(|event| event.0 = message);
    }

    fn all(&mut self, items: &[Item]) {
        let [ring] = &mut self.rings[..] else {
            return items.iter().for_each(|&item| self.one(item, 0));
        };
        for items in items.chunks(64) {
            ring.batch_publish(items.len(), |events| {
                for (event, item) in events.zip(items) {
                    event.0 = Message::new(*item, 0);
                    // Others have to know it; one ring does not, but its service has more than one.
                    black_box(event.0.lane(self.lanes));
                }
            });
        }
    }
}
