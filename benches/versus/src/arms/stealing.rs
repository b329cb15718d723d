//! A work-stealing pool with a lock for each key: whoever puts the first message into a key's queue makes the key
//! a task; threads steal tasks from one another, and a task handles its key's queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crossbeam_deque::{Injector, Steal, Stealer, Worker};

use crate::arm::{About, Arm, Feed, Pool, Shape};
use crate::arms::channels::threads;
use crate::load::{Item, Message, lane};
use crate::sink::Sink;

/// Locks; keys are found by their hash, two that share a lock share its order.
const LOCKS: usize = 16_384;
/// Messages in flight at most, since the injector has no bound of its own.
const IN_FLIGHT: u64 = 65_536;
/// Looks around before a thread sleeps.
const LOOKS: u32 = 500;

pub struct Stealing;

impl Arm for Stealing {
    fn name(&self) -> &'static str {
        "stealing-key-locks"
    }

    fn about(&self, shape: &Shape) -> Result<About, String> {
        let form = format!(
            "crossbeam-deque, {LOCKS} key queues each with a lock, a key's whole queue taken at once, {IN_FLIGHT} in flight"
        );
        Ok(About { threads: threads(shape), form })
    }

    fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
        let workers: Vec<Worker<u32>> = (0..threads(shape)).map(|_| Worker::new_fifo()).collect();
        let shared = Arc::new(Shared {
            keys: (0..LOCKS).map(|_| Mutex::default()).collect(),
            injector: Injector::new(),
            stealers: workers.iter().map(Worker::stealer).collect(),
            sleeping: AtomicUsize::new(0),
            beds: Mutex::default(),
            stop: AtomicBool::new(false),
            sink: sink.clone(),
        });
        let threads = workers.into_iter().map(|worker| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.run(&worker))
        });
        let threads = threads.collect();
        Box::new(Threads { shared, threads, producers: shape.producers as u64 })
    }
}

struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    producers: u64,
}

struct Shared {
    keys: Box<[Mutex<Key>]>,
    injector: Injector<u32>,
    stealers: Vec<Stealer<u32>>,
    sleeping: AtomicUsize,
    beds: Mutex<Vec<Thread>>,
    stop: AtomicBool,
    sink: Arc<Sink>,
}

#[derive(Default)]
struct Key {
    queue: VecDeque<Message>,
    /// It is in a deque, or a thread is at it.
    active: bool,
}

impl Shared {
    fn put(&self, message: Message) {
        let number = lane(message.key, LOCKS);
        let mut key = self.keys[number].lock().expect("nobody panics");
        key.queue.push_back(message);
        if key.active {
            return;
        }
        key.active = true;
        drop(key);
        self.injector.push(number as u32);
        // With the fence in `sleep`: the sleeper sees the task or is seen.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) > 0
            && let Some(thread) = self.beds.lock().expect("nobody panics").pop()
        {
            thread.unpark();
        }
    }

    fn run(&self, local: &Worker<u32>) {
        let mut batch = VecDeque::new();
        let mut looks = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(number) = self.find(local) else {
                looks += 1;
                match looks {
                    0..LOOKS => std::hint::spin_loop(),
                    _ => self.sleep(),
                }
                continue;
            };
            looks = 0;
            let key = &self.keys[number as usize];
            std::mem::swap(&mut key.lock().expect("nobody panics").queue, &mut batch);
            for message in batch.drain(..) {
                self.sink.handle(&message.payload);
            }
            let mut key = key.lock().expect("nobody panics");
            key.active = !key.queue.is_empty();
            if key.active {
                local.push(number);
            }
        }
    }

    fn find(&self, local: &Worker<u32>) -> Option<u32> {
        local.pop().or_else(|| {
            std::iter::repeat_with(|| {
                self.injector
                    .steal_batch_and_pop(local)
                    .or_else(|| self.stealers.iter().map(Stealer::steal).collect())
            })
            .find(|steal| !steal.is_retry())
            .and_then(Steal::success)
        })
    }

    fn sleep(&self) {
        self.sleeping.fetch_add(1, Ordering::Relaxed);
        self.beds.lock().expect("nobody panics").push(std::thread::current());
        fence(Ordering::SeqCst);
        if self.injector.is_empty() && !self.stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let mut beds = self.beds.lock().expect("nobody panics");
        let own = std::thread::current().id();
        beds.retain(|thread| thread.id() != own);
        drop(beds);
        self.sleeping.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool for Threads {
    fn feed(&self, _: usize) -> Box<dyn Feed + '_> {
        Box::new(Put { pool: self, sent: 0 })
    }

    fn stop(self: Box<Self>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    }
}

struct Put<'a> {
    pool: &'a Threads,
    sent: u64,
}

impl Feed for Put<'_> {
    #[inline]
    fn one(&mut self, item: Item, stamp: u64) {
        self.sent += 1;
        if self.sent.is_multiple_of(256) {
            // Each producer's share of the bound, as if the others had sent as much.
            while self.sent * self.pool.producers > self.pool.shared.sink.total() + IN_FLIGHT {
                std::thread::yield_now();
            }
        }
        self.pool.shared.put(Message::new(item, stamp));
    }
}
