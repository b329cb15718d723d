//! The ring under the model checker: every interleaving, within a bound on preemptions, of a few threads
//! on rings of one or two slots.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_ring
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use std::collections::VecDeque;
use std::task::Waker;

use keylane::PushError;
use keylane::internals::{Parker, Restless, Ring, Token, TokenCell, rings};
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::sync::{Arc, Mutex};
use loom::thread;

use model::{Reached, check_within};

/// A lane as its workers and producers see it.
struct Lane {
    ring: Ring<u32>,
    /// What was handled, in order; whoever has the token writes here without a lock.
    log: TokenCell<Vec<u32>>,
    /// What sleeps because the ring was full.
    waiters: Mutex<Vec<Waker>>,
    /// Work beside the ring: what a waker leaves before it calls `wake`.
    work: [AtomicBool; 2],
}

impl Lane {
    fn new(slots: usize) -> Arc<Self> {
        let (family, mut rings) = rings(1, slots);
        Arc::new(Self {
            ring: rings.pop().unwrap(),
            log: TokenCell::new(family, 0, Vec::new()),
            waiters: Mutex::new(Vec::new()),
            work: [AtomicBool::new(false), AtomicBool::new(false)],
        })
    }

    /// The token, out of rest.
    fn token(&self) -> Token {
        let mut token = self.ring.wake().expect("at rest");
        assert!(self.ring.take_wake(&mut token));
        token
    }

    /// What a worker does with a lane: drains it, wakes those who wait for room, and puts it to rest.
    fn drain(&self, mut token: Token) {
        loop {
            self.look(&mut token);
            while let Some(message) = self.ring.pop(&mut token) {
                self.log.with(&mut token, |log| log.push(message));
            }
            if self.ring.has_wait() {
                self.wake_waiters();
            }
            match self.ring.rest(token) {
                Ok(()) => return,
                Err(Restless { token: back, wait, .. }) => {
                    token = back;
                    if wait {
                        self.wake_waiters();
                    }
                    thread::yield_now();
                }
            }
        }
    }

    /// Handles the work beside the ring: 100 + its number in the log, once.
    fn look(&self, token: &mut Token) {
        if !self.ring.take_wake(token) {
            return;
        }
        for (number, work) in (100..).zip(&self.work) {
            if work.load(Relaxed) {
                self.log.with(token, |log| {
                    if !log.contains(&number) {
                        log.push(number);
                    }
                });
            }
        }
    }

    fn wake_waiters(&self) {
        let waiters = {
            let mut waiters = self.waiters.lock().unwrap();
            self.ring.clear_wait();
            std::mem::take(&mut *waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
    }

    /// A push whose caller also does what a worker would, if the token comes out.
    fn push(&self, message: u32) -> Result<(), PushError<u32>> {
        if let Some(token) = self.ring.push(message)? {
            self.drain(token);
        }
        Ok(())
    }

    /// A push that sleeps while the ring is full; the steps are those of `Lanes::push_until`. True if it slept.
    fn submit(&self, mut message: u32) -> bool {
        let parker = Parker::new();
        let mut slept = false;
        loop {
            message = match self.push(message) {
                Err(PushError::Full(message)) => message,
                done => return (done.unwrap(), slept).1,
            };
            {
                let mut waiters = self.waiters.lock().unwrap();
                waiters.push(parker.waker().clone());
                self.ring.set_wait();
            }
            message = match self.push(message) {
                Err(PushError::Full(message)) => message,
                done => return (done.unwrap(), slept).1,
            };
            slept = true;
            parker.park(None);
        }
    }

    /// Ends a model: all is handled, the token rests, and the log comes out.
    fn finish(&self) -> Vec<u32> {
        assert!(self.ring.is_at_rest(), "messages or the token were left behind");
        let mut token = self.token();
        let log = self.log.with(&mut token, std::mem::take);
        self.drain(token);
        log
    }
}

// convict: ring_publish
#[test]
fn ring_publish_a_message_is_whole_when_it_is_seen() {
    static BUBBLE: Reached = Reached::new("the consumer came between a claim and its publication");
    check_within(3, || {
        let lane = Lane::new(1);
        let mut token = lane.token();
        let there = lane.clone();
        let producer = thread::spawn(move || there.push(7).unwrap());
        if lane.ring.pop(&mut token).is_none() {
            BUBBLE.here_if(lane.ring.len() == 1);
            producer.join().unwrap();
            assert_eq!(lane.ring.pop(&mut token), Some(7));
        } else {
            producer.join().unwrap();
        }
        lane.drain(token);
        assert!(lane.finish().is_empty());
    });
    BUBBLE.assert();
}

// convict: ring_head
#[test]
fn ring_head_a_slot_is_filled_again_only_when_it_is_empty() {
    static WRAPPED: Reached = Reached::new("the ring wrapped");
    static FULL: Reached = Reached::new("the ring was full");
    check_within(3, || {
        let lane = Lane::new(1);
        let token = lane.token();
        assert!(lane.push(1).is_ok());
        let there = lane.clone();
        let producer = thread::spawn(move || match there.push(2) {
            Ok(()) => WRAPPED.here(),
            Err(back) => {
                assert_eq!(back, PushError::Full(2));
                FULL.here();
            }
        });
        lane.drain(token);
        producer.join().unwrap();
        let log = lane.finish();
        assert!(log == [1] || log == [1, 2]);
    });
    WRAPPED.assert();
    FULL.assert();
}

// Two producers are needed: one that has found room and has said so, but has not claimed it yet, and one
// that trusts what the first said.
// convict: ring_cache
#[test]
fn ring_cache_a_producer_may_trust_what_another_saw() {
    static BOTH: Reached = Reached::new("both producers got a message in");
    check_within(2, || {
        let lane = Lane::new(1);
        let mut token = lane.token();
        assert!(lane.push(1).is_ok());
        let pushes = [2, 3].map(|message| {
            let there = lane.clone();
            thread::spawn(move || there.ring.push(message).is_ok())
        });
        assert_eq!(lane.ring.pop(&mut token), Some(1));
        let in_time = lane.ring.pop(&mut token);
        let accepted = pushes.map(|push| push.join().unwrap());
        BOTH.here_if(accepted == [true, true]);
        lane.drain(token);
        let handled = in_time.is_some() as usize + lane.finish().len();
        assert_eq!(handled, accepted.into_iter().filter(|&accepted| accepted).count());
    });
    BOTH.assert();
}

/// Producers that drain the lane themselves when the token comes out to them.
fn producers_that_drain(
    slots: usize,
    threads: u32,
    each: u32,
    wrapped: &'static Reached,
    full: &'static Reached,
    passed: &'static Reached,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let lane = Lane::new(slots);
        let produce = move |lane: Arc<Lane>, thread: u32| {
            let mut accepted = Vec::new();
            let mut drains = 0;
            for message in (0..each).map(|i| 10 * thread + i) {
                match lane.ring.push(message) {
                    Ok(Some(token)) => {
                        accepted.push(message);
                        drains += 1;
                        lane.drain(token);
                    }
                    Ok(None) => accepted.push(message),
                    Err(back) => {
                        assert_eq!(back, PushError::Full(message));
                        full.here();
                    }
                }
            }
            (accepted, drains)
        };
        let others: Vec<_> = (1..threads)
            .map(|number| {
                let there = lane.clone();
                thread::spawn(move || produce(there, number))
            })
            .collect();
        let mut produced = vec![produce(lane.clone(), 0)];
        produced.extend(others.into_iter().map(|thread| thread.join().unwrap()));

        passed.here_if(produced.iter().filter(|(_, drains)| *drains > 0).count() > 1);
        wrapped.here_if(lane.ring.tail() > lane.ring.limit() as u64);
        let log = lane.finish();
        let total: usize = produced.iter().map(|(accepted, _)| accepted.len()).sum();
        assert_eq!(log.len(), total, "each message is handled once");
        for (accepted, _) in &produced {
            let in_log: Vec<u32> =
                log.iter().copied().filter(|message| accepted.contains(message)).collect();
            assert_eq!(&in_log, accepted, "a producer's messages are handled in order");
        }
    }
}

// convict: ring_rest
#[test]
fn ring_rest_the_next_holder_sees_what_the_last_one_did() {
    static WRAPPED: Reached = Reached::new("the ring wrapped");
    static FULL: Reached = Reached::new("the ring was full");
    static PASSED: Reached = Reached::new("two threads had the token in turn");
    check_within(3, producers_that_drain(1, 2, 2, &WRAPPED, &FULL, &PASSED));
    WRAPPED.assert();
    FULL.assert();
    PASSED.assert();
}

// convict: ring_claim
#[test]
fn ring_claim_a_producer_that_takes_the_token_sees_what_its_last_holder_did() {
    static UNUSED: Reached = Reached::new("");
    static PASSED: Reached = Reached::new("two threads had the token in turn");
    check_within(3, producers_that_drain(2, 2, 1, &UNUSED, &UNUSED, &PASSED));
    PASSED.assert();
}

// convict: ring_ignores_claims
#[test]
fn ring_ignores_claims_a_token_never_rests_over_a_message() {
    static RESTLESS: Reached = Reached::new("a message came between the last look and the rest");
    check_within(3, || {
        let lane = Lane::new(2);
        let mut token = lane.token();
        let there = lane.clone();
        let producer = thread::spawn(move || there.push(1).unwrap());
        if lane.ring.pop(&mut token).is_none() {
            match lane.ring.rest(token) {
                Ok(()) => {}
                Err(Restless { token, wait, wake }) => {
                    assert!(!wait && !wake);
                    RESTLESS.here();
                    lane.drain(token);
                }
            }
        } else {
            lane.drain(token);
        }
        producer.join().unwrap();
        lane.finish();
    });
    RESTLESS.assert();
}

#[test]
fn three_producers_wrap_and_fill_a_ring_of_one_slot() {
    static WRAPPED: Reached = Reached::new("the ring wrapped");
    static FULL: Reached = Reached::new("the ring was full");
    static PASSED: Reached = Reached::new("two threads had the token in turn");
    check_within(2, producers_that_drain(1, 3, 1, &WRAPPED, &FULL, &PASSED));
    WRAPPED.assert();
    FULL.assert();
    PASSED.assert();
}

#[test]
fn three_producers_wrap_and_fill_a_ring_of_two_slots() {
    static WRAPPED: Reached = Reached::new("the ring wrapped");
    static FULL: Reached = Reached::new("the ring was full");
    static PASSED: Reached = Reached::new("two threads had the token in turn");
    check_within(3, producers_that_drain(2, 3, 1, &WRAPPED, &FULL, &PASSED));
    WRAPPED.assert();
    FULL.assert();
    PASSED.assert();
}

#[test]
fn a_batch_is_in_one_piece_and_what_has_no_room_stays() {
    static PART: Reached = Reached::new("a part of the batch was taken");
    static WHOLE: Reached = Reached::new("the whole batch was taken");
    static FULL: Reached = Reached::new("nothing of the batch was taken");
    check_within(3, || {
        let lane = Lane::new(2);
        let there = lane.clone();
        let other = thread::spawn(move || {
            let alone = there.push(1).is_ok();
            there.push(2).is_ok() as usize + alone as usize
        });
        let mut batch = VecDeque::from([10, 11]);
        let taken = match lane.ring.push_batch(&mut batch) {
            Ok((count, token)) => {
                if let Some(token) = token {
                    lane.drain(token);
                }
                count
            }
            Err(refused) => {
                assert_eq!(refused, PushError::Full(()));
                FULL.here();
                0
            }
        };
        assert_eq!(batch, &[10, 11][taken..]);
        PART.here_if(taken == 1);
        let others = other.join().unwrap();
        let log = lane.finish();
        assert_eq!(log.len(), taken + others);
        if taken == 2 {
            WHOLE.here();
            let first = log.iter().position(|&message| message == 10).unwrap();
            assert_eq!(log[first + 1], 11, "a batch is one claim: nobody comes between");
        }
    });
    PART.assert();
    WHOLE.assert();
    FULL.assert();
}

/// Two wakers, each with work of its own, and a holder.
fn wakers(came_out: &'static Reached, kept: &'static Reached) -> impl Fn() + Send + Sync + 'static {
    move || {
        let lane = Lane::new(1);
        let token = lane.token();
        let wakers = [0, 1].map(|number| {
            let there = lane.clone();
            thread::spawn(move || {
                there.work[number].store(true, Relaxed);
                match there.ring.wake() {
                    Some(token) => {
                        came_out.here();
                        there.drain(token);
                    }
                    None => kept.here(),
                }
            })
        });
        lane.drain(token);
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        let mut log = lane.finish();
        log.sort_unstable();
        assert_eq!(log, [100, 101], "a wake-up was lost");
    }
}

// convict: ring_wake
#[test]
fn ring_wake_every_waker_is_heard() {
    static OUT: Reached = Reached::new("a waker took the token out");
    static KEPT: Reached = Reached::new("a waker left its work to the holder");
    check_within(3, wakers(&OUT, &KEPT));
    OUT.assert();
    KEPT.assert();
}

// convict: ring_look
#[test]
fn ring_look_the_holder_sees_what_was_done_before_the_wake() {
    static OUT: Reached = Reached::new("a waker took the token out");
    static KEPT: Reached = Reached::new("a waker left its work to the holder");
    check_within(2, wakers(&OUT, &KEPT));
    OUT.assert();
    KEPT.assert();
}

/// A waker, and a holder that also pushes.
fn waker_and_push() {
    let lane = Lane::new(2);
    let token = lane.token();
    let there = lane.clone();
    let waker = thread::spawn(move || {
        there.work[0].store(true, Relaxed);
        if let Some(token) = there.ring.wake() {
            there.drain(token);
        }
    });
    assert!(matches!(lane.ring.push(1), Ok(None)));
    lane.drain(token);
    waker.join().unwrap();
    let mut log = lane.finish();
    log.sort_unstable();
    assert_eq!(log, [1, 100], "a wake-up was lost");
}

// convict: ring_drops_wake
#[test]
fn ring_drops_wake_a_push_keeps_it() {
    check_within(3, waker_and_push);
}

// convict: ring_ignores_wake
#[test]
fn ring_ignores_wake_the_holder_does_not_rest_over_it() {
    static RESTLESS: Reached = Reached::new("a wake came between the last look and the rest");
    check_within(3, || {
        let lane = Lane::new(1);
        let mut token = lane.token();
        let there = lane.clone();
        let waker = thread::spawn(move || {
            there.work[0].store(true, Relaxed);
            if let Some(token) = there.ring.wake() {
                there.drain(token);
            }
        });
        lane.look(&mut token);
        if let Err(Restless { token, wait, wake }) = lane.ring.rest(token) {
            assert!(wake && !wait);
            RESTLESS.here();
            lane.drain(token);
        }
        waker.join().unwrap();
        assert_eq!(lane.finish(), [100], "a wake-up was lost");
    });
    RESTLESS.assert();
}

#[test]
fn a_blocked_lane_goes_on_when_it_is_woken() {
    static BLOCKED: Reached = Reached::new("the token rested over a message");
    static WOKEN: Reached = Reached::new("the waker took the token out");
    static PUSHED: Reached = Reached::new("a push took the token out of a blocked lane");
    static AGAIN: Reached = Reached::new("a wake came between the last look and the rest");

    /// Handles messages only once the first piece of work is there.
    fn turn(lane: &Lane, mut token: Token) {
        loop {
            let woken = lane.ring.take_wake(&mut token);
            if lane.work[0].load(Relaxed) {
                return lane.drain(token);
            }
            assert!(!woken, "the work comes before the wake");
            assert!(!lane.ring.is_empty());
            match lane.ring.rest_blocked(token) {
                Ok(()) => return BLOCKED.here(),
                Err(Restless { token: back, wait, wake }) => {
                    assert!(wake && !wait);
                    AGAIN.here();
                    token = back;
                }
            }
        }
    }

    check_within(2, || {
        let lane = Lane::new(2);
        let token = lane.token();
        assert!(matches!(lane.ring.push(1), Ok(None)));
        let there = lane.clone();
        let waker = thread::spawn(move || {
            there.work[0].store(true, Relaxed);
            if let Some(token) = there.ring.wake() {
                WOKEN.here();
                turn(&there, token);
            }
        });
        let there = lane.clone();
        let producer = thread::spawn(move || {
            if let Some(token) = there.ring.push(2).unwrap() {
                PUSHED.here();
                turn(&there, token);
            }
        });
        turn(&lane, token);
        waker.join().unwrap();
        producer.join().unwrap();
        // Whoever drained may have looked at the work first: it is in the log or not, the messages are.
        let log = lane.finish();
        assert_eq!(log.into_iter().filter(|&number| number < 100).collect::<Vec<_>>(), [1, 2]);
    });
    BLOCKED.assert();
    WOKEN.assert();
    PUSHED.assert();
    AGAIN.assert();
}

// convict: ring_closed
#[test]
fn ring_closed_a_message_is_refused_or_handled() {
    static REFUSED: Reached = Reached::new("the push was refused");
    static ACCEPTED: Reached = Reached::new("the push was accepted");
    static LEFT: Reached = Reached::new("the closer found a lane that was not at rest");
    check_within(3, || {
        let lane = Lane::new(1);
        let there = lane.clone();
        let producer = thread::spawn(move || match there.push(1) {
            Ok(()) => {
                ACCEPTED.here();
                true
            }
            Err(back) => {
                assert_eq!(back, PushError::Closed(1));
                REFUSED.here();
                false
            }
        });
        lane.ring.close();
        LEFT.here_if(!lane.ring.is_at_rest());
        assert!(lane.ring.is_closed());
        assert_eq!(lane.push(2), Err(PushError::Closed(2)));
        let accepted = producer.join().unwrap();
        assert_eq!(lane.finish().len(), accepted as usize);
    });
    REFUSED.assert();
    ACCEPTED.assert();
    LEFT.assert();
}

/// A producer that sleeps while the ring is full, and the consumer.
fn full_lane(
    parked: &'static Reached,
    straight: &'static Reached,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let lane = Lane::new(1);
        let token = lane.token();
        assert!(lane.push(1).is_ok());
        let there = lane.clone();
        let producer =
            thread::spawn(move || if there.submit(2) { parked.here() } else { straight.here() });
        lane.drain(token);
        producer.join().unwrap();
        assert_eq!(lane.finish(), [1, 2]);
    }
}

// convict: ring_wait
#[test]
fn ring_wait_nobody_sleeps_beside_a_lane_at_rest() {
    static PARKED: Reached = Reached::new("the producer slept");
    static STRAIGHT: Reached = Reached::new("the producer had no need to sleep");
    check_within(3, full_lane(&PARKED, &STRAIGHT));
    PARKED.assert();
    STRAIGHT.assert();
}

// convict: ring_ignores_wait
#[test]
fn ring_ignores_wait_the_consumer_does_not_rest_over_sleepers() {
    static PARKED: Reached = Reached::new("the producer slept");
    static UNUSED: Reached = Reached::new("");
    check_within(3, full_lane(&PARKED, &UNUSED));
    PARKED.assert();
}

// convict: ring_drops_wait
#[test]
fn ring_drops_wait_a_push_of_another_keeps_it() {
    static PARKED: Reached = Reached::new("the producer slept");
    static BARGED: Reached = Reached::new("another producer took the room");
    check_within(3, || {
        let lane = Lane::new(1);
        let mut token = lane.token();
        assert!(lane.push(1).is_ok());
        let there = lane.clone();
        let producer = thread::spawn(move || PARKED.here_if(there.submit(2)));
        // A handler that submits to its own lane.
        assert_eq!(lane.ring.pop(&mut token), Some(1));
        BARGED.here_if(lane.ring.push(3).is_ok());
        lane.drain(token);
        producer.join().unwrap();
        assert!(lane.finish().contains(&2));
    });
    PARKED.assert();
    BARGED.assert();
}
