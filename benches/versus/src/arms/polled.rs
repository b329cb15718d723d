//! `crossbeam_queue::ArrayQueue`, polled: one for each lane, scanned in turn; or one for each worker thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;

use crate::arm::{About, Arm, Feed, Pool, Shape};
use crate::arms::channels::{slots, threads};
use crate::load::{Item, Message};
use crate::sink::Sink;

/// Messages of a queue before the next has its turn.
const QUANTUM: usize = 64;

pub struct Lanes;
pub struct Workers;

impl Arm for Lanes {
    fn name(&self) -> &'static str {
        "arrayqueue-lanes"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        refuse_own_best(shape)?;
        let form = format!(
            "{} queues of 1,000, each thread scans its share, yields after an empty scan",
            shape.lanes
        );
        Ok(About { threads: shape.workers, form })
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        Box::new(Polled::new(shape, sink, shape.lanes, 1_000))
    }
}

impl Arm for Workers {
    fn name(&self) -> &'static str {
        "arrayqueue-workers"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        refuse_own_best(shape)?;
        let form = format!("a thread and a queue of {} each, polled", slots(shape.workers));
        Ok(About { threads: shape.workers, form })
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        let queues = threads(shape);
        Box::new(Polled::new(shape, sink, queues, slots(queues)))
    }
}

fn refuse_own_best(shape: &Shape) -> Result<(), String> {
    if shape.own_best {
        Err("it polls: more threads than cores do not help".into())
    } else {
        Ok(())
    }
}

struct Polled {
    queues: Arc<[ArrayQueue<Message>]>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    lanes: usize,
}

impl Polled {
    fn new(shape: &Shape, sink: &Arc<Sink>, queues: usize, slots: usize) -> Self {
        let queues: Arc<[_]> = (0..queues).map(|_| ArrayQueue::new(slots)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..shape.workers).map(|worker| {
            let (queues, sink, stop) = (queues.clone(), sink.clone(), stop.clone());
            let workers = shape.workers;
            std::thread::spawn(move || scan(&queues, worker, workers, &sink, &stop))
        });
        let threads = threads.collect();
        Self { queues, stop, threads, lanes: shape.lanes }
    }
}

fn scan(
    queues: &[ArrayQueue<Message>],
    worker: usize,
    workers: usize,
    sink: &Sink,
    stop: &AtomicBool,
) {
    let mut idle = 0_u32;
    // Relaxed: the flag carries nothing.
    while !stop.load(Ordering::Relaxed) {
        let mut found = false;
        for queue in queues.iter().skip(worker).step_by(workers) {
            for _ in 0..QUANTUM {
                let Some(message) = queue.pop() else { break };
                sink.handle(&message.payload);
                found = true;
            }
        }
        idle = if found { 0 } else { idle + 1 };
        match idle {
            0..64 => std::hint::spin_loop(),
            _ => std::thread::yield_now(),
        }
    }
}

impl Pool for Polled {
    fn feed(&self, _: usize) -> Box<dyn Feed + '_> {
        Box::new(self)
    }

    fn stop(self: Box<Self>) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    }
}

impl Feed for &Polled {
    #[inline]
    fn one(&mut self, item: Item, stamp: u64) {
        let mut message = Message::new(item, stamp);
        let lane = message.lane(self.lanes);
        let queue = &self.queues[lane % self.queues.len()];
        while let Err(refused) = queue.push(message) {
            message = refused;
            std::thread::yield_now();
        }
    }
}
