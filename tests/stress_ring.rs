//! The ring, the token set and the parker under real threads, for the thread sanitizer too:
//! `ci/san.sh stress`. Only plain threads and their joins: the sanitizer does not see into std's channels.
#![cfg(all(feature = "internals", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::thread;

use keylane::PushError;
use keylane::internals::{Parker, Restless, Ring, Token, TokenCell, TokenSet, Unparker, rings};
use parking_lot::Mutex;

/// A message that is whole or not, and counts its end.
struct Message {
    producer: usize,
    number: u64,
    /// On the heap, so that a message read too early or twice is seen by the sanitizer.
    check: Box<u64>,
    dropped: Arc<AtomicUsize>,
}

impl Drop for Message {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A lane: its ring, what was seen of each producer (the token's holder alone writes here), and who waits.
struct Lane {
    ring: Ring<Message>,
    seen: TokenCell<Vec<u64>>,
    waiters: Mutex<Vec<Waker>>,
}

impl Lane {
    /// Handles at most `quantum` messages. The token comes back if the lane cannot rest yet.
    fn visit(&self, mut token: Token, quantum: usize, handled: &AtomicUsize) -> Option<Token> {
        for _ in 0..quantum {
            let Some(message) = self.ring.pop(&mut token) else { break };
            assert_eq!(*message.check, message.number ^ message.producer as u64);
            self.seen.with(&mut token, |seen| {
                let last = &mut seen[message.producer];
                assert!(message.number > *last, "{} after {last}", message.number);
                *last = message.number;
            });
            handled.fetch_add(1, Ordering::Relaxed);
        }
        if self.ring.has_wait() {
            self.wake_waiters();
        }
        match self.ring.rest(token) {
            Ok(()) => None,
            Err(Restless { token, wait, .. }) => {
                if wait {
                    self.wake_waiters();
                }
                Some(token)
            }
        }
    }

    fn wake_waiters(&self) {
        let waiters = {
            let mut waiters = self.waiters.lock();
            self.ring.clear_wait();
            std::mem::take(&mut *waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
    }
}

/// Lanes, one set of ready lanes a worker, and the workers.
struct World {
    lanes: Vec<Lane>,
    ready: Vec<TokenSet>,
    workers: Vec<Unparker>,
    handled: AtomicUsize,
    stolen: AtomicUsize,
    stop: AtomicBool,
}

impl World {
    fn ring_bell(&self, token: Token) {
        let lane = token.lane() as usize;
        let worker = lane % self.ready.len();
        if self.ready[worker].put((lane / self.ready.len()) as u32, token) {
            self.workers[worker].unpark();
        }
    }

    fn submit(&self, lane: &Lane, mut message: Message, parker: &Parker) {
        loop {
            for waits in [false, true] {
                if waits {
                    let mut waiters = lane.waiters.lock();
                    waiters.push(parker.waker().clone());
                    assert!(lane.ring.set_wait());
                }
                message = match lane.ring.push(message) {
                    Ok(None) => return,
                    Ok(Some(token)) => return self.ring_bell(token),
                    Err(PushError::Full(message)) => message,
                    Err(PushError::Closed(_)) => panic!("nobody closed it"),
                };
            }
            parker.park(None);
        }
    }

    fn work(&self, worker: usize, parker: &Parker) {
        let own = &self.ready[worker];
        let mut mine = VecDeque::new();
        loop {
            for word in 0..own.words() {
                own.take_word(word, |_, token| mine.push_back(token));
            }
            if mine.is_empty() {
                let victim = &self.ready[(worker + 1) % self.ready.len()];
                if let Some(token) = victim.take_any(0) {
                    self.stolen.fetch_add(1, Ordering::Relaxed);
                    mine.push_back(token);
                }
            }
            match mine.pop_front() {
                Some(token) => {
                    let lane = &self.lanes[token.lane() as usize];
                    if let Some(token) = lane.visit(token, 4, &self.handled) {
                        // Back through the set, so that the others can steal it.
                        self.ring_bell(token);
                        thread::yield_now();
                    }
                }
                None if own.try_raise() => {
                    // Acquire pairs with the release in `run`.
                    if self.stop.load(Ordering::Acquire) {
                        own.lower();
                        return;
                    }
                    parker.park(None);
                    own.lower();
                }
                None => {}
            }
        }
    }
}

/// `producers` threads push `each` messages to every lane; `workers` threads drain them.
fn run(lanes: u32, slots: usize, producers: usize, workers: usize, each: u64) {
    let (family, rings) = rings(lanes, slots);
    let parkers: Vec<Parker> = (0..workers).map(|_| Parker::new()).collect();
    let stride = workers as u32;
    let world = Arc::new(World {
        lanes: (0..)
            .zip(rings)
            .map(|(lane, ring)| Lane {
                ring,
                seen: TokenCell::new(family, lane, vec![0; producers]),
                waiters: Mutex::new(Vec::new()),
            })
            .collect(),
        ready: (0..stride)
            .map(|w| TokenSet::new(family, w, stride, lanes.div_ceil(stride)))
            .collect(),
        workers: parkers.iter().map(Parker::unparker).collect(),
        handled: AtomicUsize::new(0),
        stolen: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    });
    let dropped = Arc::new(AtomicUsize::new(0));

    let workers: Vec<_> = (0..)
        .zip(parkers)
        .map(|(number, parker)| {
            let world = world.clone();
            thread::spawn(move || {
                world.work(number, &parker);
                parker
            })
        })
        .collect();
    let threads: Vec<_> = (0..producers)
        .map(|producer| {
            let (world, dropped) = (world.clone(), dropped.clone());
            thread::spawn(move || {
                let parker = Parker::new();
                for number in 1..=each {
                    for lane in &world.lanes {
                        let check = Box::new(number ^ producer as u64);
                        let message = Message { producer, number, check, dropped: dropped.clone() };
                        world.submit(lane, message, &parker);
                    }
                }
                parker
            })
        })
        .collect();
    // Kept to the end, so that this thread is the last to let go of them: the sanitizer does not see the
    // fence in the drop of std's `Arc`.
    let parkers: Vec<Parker> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();

    // All is pushed: once each lane is at rest, all is handled.
    let total = producers * each as usize * lanes as usize;
    while !world.lanes.iter().all(|lane| lane.ring.is_at_rest()) {
        thread::yield_now();
    }
    assert_eq!(world.handled.load(Ordering::Relaxed), total);
    // Release pairs with the acquire in `work`.
    world.stop.store(true, Ordering::Release);
    world.workers.iter().for_each(Unparker::unpark);
    let mut kept = parkers;
    for worker in workers {
        while !worker.is_finished() {
            world.workers.iter().for_each(Unparker::unpark);
            thread::yield_now();
        }
        kept.push(worker.join().unwrap());
    }
    assert_eq!(dropped.load(Ordering::Relaxed), total);
    for lane in &world.lanes {
        let mut token = lane.ring.wake().expect("at rest");
        lane.seen.with(&mut token, |seen| assert!(seen.iter().all(|&last| last == each)));
        std::mem::forget(token);
    }
}

#[test]
fn stress_one_slot_and_many_producers() {
    run(1, 1, 3, 1, 2_000);
}

#[test]
fn stress_few_slots_and_two_workers_that_steal() {
    run(5, 3, 2, 2, 2_000);
}

#[test]
fn stress_more_lanes_than_a_word_holds() {
    run(130, 7, 2, 2, 100);
}

#[test]
fn stress_closing_in_a_burst_loses_nothing() {
    for round in 0..50 {
        let (_, mut rings) = rings::<Box<u64>>(1, 4);
        let ring = Arc::new(rings.pop().unwrap());
        let mut token = ring.wake().unwrap();
        let producers: Vec<_> = (0..2u64)
            .map(|producer| {
                let ring = ring.clone();
                thread::spawn(move || {
                    let (mut accepted, mut number) = (0u64, 0);
                    loop {
                        let mut batch = VecDeque::from([Box::new(number), Box::new(number)]);
                        match if producer == 0 {
                            ring.push_batch(&mut batch).map(|(count, token)| {
                                assert!(token.is_none());
                                count as u64
                            })
                        } else {
                            ring.push(Box::new(number)).map(|_| 1).map_err(
                                |refused| match refused {
                                    PushError::Full(_) => PushError::Full(()),
                                    PushError::Closed(_) => PushError::Closed(()),
                                },
                            )
                        } {
                            Ok(count) => accepted += count,
                            Err(PushError::Closed(())) => return accepted,
                            Err(PushError::Full(())) => thread::yield_now(),
                        }
                        number += 1;
                    }
                })
            })
            .collect();
        let mut handled = 0;
        for _ in 0..round * 10 {
            handled += ring.pop(&mut token).is_some() as u64;
        }
        ring.close();
        let accepted: u64 = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        while ring.pop(&mut token).is_some() {
            handled += 1;
        }
        assert_eq!(handled, accepted);
        std::mem::forget(token);
    }
}
