//! Lanes as a plain queue for one thread, and what they are held against: a row of `ArrayQueue`s that the consumer
//! scans, for want of a bell.

use std::collections::VecDeque;

use crossbeam_queue::ArrayQueue;
use keylane::internals::{Lanes, Parker, Token};

/// As large as what the runtime puts into a slot.
pub type Message = [u64; 7];

const SLOTS: usize = 1_000;

/// A message that can be told from others.
pub fn message(number: u64) -> Message {
    [number; 7]
}

/// Many queues in one: messages of one lane come out in order.
pub trait Laned {
    /// Puts a message into a lane. False if it is full.
    fn put(&mut self, lane: u32, message: Message) -> bool;

    /// Takes all there is, lane by lane.
    fn take_all(&mut self, each: impl FnMut(u32, Message));
}

/// Lanes with their bell; producer and worker are the same thread.
pub struct Own {
    lanes: Lanes<Message, (), ()>,
    turns: VecDeque<u32>,
}

impl Own {
    /// `lanes` lanes of 1,000 slots.
    pub fn new(lanes: u32) -> Self {
        // Nobody sleeps in this parker: the bell is never asked to wake.
        let sleepers = vec![Parker::new().unparker()];
        let turns = VecDeque::with_capacity(lanes as usize);
        Self { lanes: Lanes::new(lanes, SLOTS, 1, sleepers, 64), turns }
    }

    /// A lane that has no message is woken, taken, looked at and put to rest.
    #[inline]
    pub fn flip(&mut self, lane: u32) -> bool {
        self.lanes.wake(lane);
        let mut empty = true;
        self.visit(|lanes, lane, token| {
            lanes.get(lane).ring().take_wake(token);
            empty &= lanes.get(lane).ring().drain(token).peek().is_none();
        });
        empty
    }

    /// One visit to each lane that is ready: its token is taken, used and put to rest.
    #[inline]
    fn visit(&mut self, mut each: impl FnMut(&Lanes<Message, (), ()>, u32, &mut Token)) {
        let bell = self.lanes.bell(0);
        bell.collect(|lane| self.turns.push_back(lane));
        while let Some(lane) = self.turns.pop_front() {
            if let Some(mut token) = bell.take(lane) {
                each(&self.lanes, lane, &mut token);
                if let Err(token) = self.lanes.get(lane).rest(token, false) {
                    bell.put_back(token);
                    self.turns.push_back(lane);
                }
            }
        }
    }
}

impl Laned for Own {
    #[inline]
    fn put(&mut self, lane: u32, message: Message) -> bool {
        self.lanes.push(lane, message).is_ok()
    }

    #[inline]
    fn take_all(&mut self, mut each: impl FnMut(u32, Message)) {
        self.visit(|lanes, lane, token| {
            while let Some(message) = lanes.get(lane).ring().pop(token) {
                each(lane, message);
            }
        });
    }
}

/// A row of `ArrayQueue`s.
pub struct Scanned(Vec<ArrayQueue<Message>>);

impl Scanned {
    /// `lanes` queues of 1,000 slots.
    pub fn new(lanes: u32) -> Self {
        Self((0..lanes).map(|_| ArrayQueue::new(SLOTS)).collect())
    }
}

impl Laned for Scanned {
    #[inline]
    fn put(&mut self, lane: u32, message: Message) -> bool {
        self.0[lane as usize].push(message).is_ok()
    }

    #[inline]
    fn take_all(&mut self, mut each: impl FnMut(u32, Message)) {
        for (lane, queue) in (0..).zip(&self.0) {
            while let Some(message) = queue.pop() {
                each(lane, message);
            }
        }
    }
}

/// Panics unless every lane gives back what it was given, in order, and refuses what it has no room for.
pub fn check(queue: &mut impl Laned, lanes: u32) {
    for lap in 0..3 {
        let mut next = vec![0; lanes as usize];
        for number in 0..SLOTS as u64 {
            (0..lanes).for_each(|lane| assert!(queue.put(lane, message(lap * 10_000 + number))));
        }
        assert!(!queue.put(lanes - 1, message(7)), "a full lane refuses");
        queue.take_all(|lane, message| {
            assert_eq!(message[0], lap * 10_000 + next[lane as usize]);
            next[lane as usize] += 1;
        });
        assert!(next.iter().all(|&count| count == SLOTS as u64), "lap {lap}");
        queue.take_all(|_, _| panic!("empty"));
    }
}

/// The producer puts `count` messages in, `burst` to a lane and lane after lane, and takes all out after each
/// `every` of them.
#[inline]
pub fn run(queue: &mut impl Laned, lanes: u32, burst: u64, every: u64, count: u64) -> u64 {
    let mut sum = 0;
    for number in 0..count {
        // An odd stride, so that neighbours are not.
        let lane = (number / burst * 37 % u64::from(lanes)) as u32;
        let _ = queue.put(lane, std::hint::black_box(message(number)));
        if (number + 1) % every == 0 {
            queue.take_all(|_, message| sum += message[0]);
        }
    }
    queue.take_all(|_, message| sum += message[0]);
    sum
}
