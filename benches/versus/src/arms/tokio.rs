//! tokio's bounded mpsc: a channel and a task for each lane, or for each worker thread.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::arm::{About, Arm, Feed, Pool, Shape};
use crate::arms::channels::{slots, threads};
use crate::load::{Item, Message};
use crate::sink::Sink;

/// Messages that a task takes at once.
const MANY: usize = 256;

pub struct Lanes;
pub struct Workers;

impl Arm for Lanes {
    fn name(&self) -> &'static str {
        "tokio-mpsc-lanes"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        let Shape { lanes, workers, .. } = *shape;
        let form = format!("{lanes} tasks, each with a channel of 1,000; recv_many(256)");
        let blocking = if shape.own_best { lanes.min(64) } else { 0 };
        Ok(About { threads: workers + blocking, form: form + blocks(shape) })
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        Box::new(Tasks::new(shape, sink, shape.lanes, 1_000))
    }
}

impl Arm for Workers {
    fn name(&self) -> &'static str {
        "tokio-mpsc-workers"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        let tasks = threads(shape);
        let form =
            format!("{tasks} tasks, each with a channel of {}; recv_many(256)", slots(tasks));
        let blocking = if shape.own_best { tasks } else { 0 };
        Ok(About { threads: shape.workers + blocking, form: form + blocks(shape) })
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        let tasks = threads(shape);
        Box::new(Tasks::new(shape, sink, tasks, slots(tasks)))
    }
}

fn blocks(shape: &Shape) -> &'static str {
    if shape.own_best { ", spawn_blocking for what blocks" } else { "" }
}

struct Tasks {
    runtime: Runtime,
    senders: Vec<mpsc::Sender<Message>>,
    lanes: usize,
}

impl Tasks {
    fn new(shape: &Shape, sink: &Arc<Sink>, tasks: usize, slots: usize) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(shape.workers)
            .max_blocking_threads(64)
            .enable_time()
            .build()
            .expect("a runtime");
        let own_best = shape.own_best;
        let senders = (0..tasks).map(|_| {
            let (sender, receiver) = mpsc::channel(slots);
            runtime.spawn(drain(receiver, sink.clone(), own_best));
            sender
        });
        let senders = senders.collect();
        Self { runtime, senders, lanes: shape.lanes }
    }
}

async fn drain(mut receiver: mpsc::Receiver<Message>, sink: Arc<Sink>, own_best: bool) {
    let mut many = Vec::with_capacity(MANY);
    while receiver.recv_many(&mut many, MANY).await > 0 {
        for message in many.drain(..) {
            if !own_best {
                sink.handle(&message.payload);
                continue;
            }
            if sink.see(&message.payload) {
                let sleep = || std::thread::sleep(std::time::Duration::from_millis(1));
                tokio::task::spawn_blocking(sleep).await.expect("it sleeps");
            }
            sink.count();
        }
    }
}

impl Pool for Tasks {
    fn feed(&self, _: usize) -> Box<dyn Feed + '_> {
        Box::new(self)
    }

    fn stop(self: Box<Self>) {
        drop(self.senders);
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    }
}

impl Feed for &Tasks {
    #[inline]
    fn one(&mut self, item: Item, stamp: u64) {
        let message = Message::new(item, stamp);
        let lane = message.lane(self.lanes);
        let sender = &self.senders[lane % self.senders.len()];
        if let Err(mpsc::error::TrySendError::Full(message)) = sender.try_send(message) {
            sender.blocking_send(message).expect("the task lives");
        }
    }
}
