//! Lanes and bells under the model checker: how a message, a token and a sleep pass from thread to thread.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_lane
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use keylane::PushError;
use keylane::internals::{Bell, Lanes, Parker, Peal, Token};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use model::{END, Hourglass, Reached, Still, check, check_within};

/// Lanes of numbers; the private state of each is what its holders handled, in order, written without a lock.
type Numbers = Lanes<u32, Vec<u32>, u32>;

fn lanes(lanes: u32, slots: usize, beds: &[Parker]) -> Arc<Numbers> {
    let workers = beds.len() as u32;
    Arc::new(Lanes::new(lanes, slots, workers, beds.iter().map(Parker::unparker).collect(), 4))
}

/// A worker: its bell, and the lanes that it has in turn.
struct Worker {
    lanes: Arc<Numbers>,
    id: usize,
    turns: VecDeque<u32>,
}

impl Worker {
    fn new(lanes: &Arc<Numbers>, id: usize) -> Self {
        Self { lanes: lanes.clone(), id, turns: VecDeque::new() }
    }

    fn bell(&self) -> &Bell {
        self.lanes.bell(self.id)
    }

    /// The next lane in turn.
    fn take(&mut self) -> Option<Token> {
        let bell = self.lanes.bell(self.id);
        bell.collect(|lane| self.turns.push_back(lane));
        while let Some(lane) = self.turns.pop_front() {
            if let Some(token) = bell.take(lane) {
                return Some(token);
            }
        }
        None
    }

    /// Handles what is in a lane; with more to do it gets another turn. Says how many messages there were.
    fn visit(&mut self, token: Token) -> usize {
        let (count, back) = handle(&self.lanes, token);
        if let Some(token) = back {
            self.turns.push_back(token.lane());
            self.bell().put_back(token);
            thread::yield_now();
        }
        count
    }

    /// Visits the next lane; with none, sleeps until there is one, or until woken.
    fn turn_or_sleep(&mut self, bed: &Parker, parked: &Reached) -> usize {
        match self.take() {
            Some(token) => self.visit(token),
            None => {
                if self.bell().lie_down() {
                    parked.here();
                    bed.park(None);
                    self.bell().rise();
                }
                0
            }
        }
    }

    /// Takes what there is, without sleeping.
    fn drain(&mut self) -> usize {
        let mut count = 0;
        while let Some(token) = self.take() {
            count += self.visit(token);
        }
        count
    }
}

/// A visit: all messages, and then those who wait for room, and then rest.
fn handle(lanes: &Numbers, mut token: Token) -> (usize, Option<Token>) {
    let lane = lanes.get(token.lane());
    let mut log = lane.take_private(&mut token).unwrap_or_default();
    let before = log.len();
    if lane.ring().take_wake(&mut token) {
        log.extend(lane.take_commands());
    }
    while let Some(message) = lane.ring().pop(&mut token) {
        log.push(message);
    }
    let count = log.len() - before;
    lane.put_private(&mut token, log);
    lane.wake_waiting();
    (count, lane.rest(token, false).err())
}

/// What was handled in a lane, at the end.
fn log(worker: &mut Worker, lane: u32) -> Vec<u32> {
    let lanes = worker.lanes.clone();
    lanes.wake(lane);
    let mut log = None;
    for bell in lanes.bells() {
        bell.collect(|_| ());
        if let Some(mut token) = bell.take(lane) {
            log = lanes.get(lane).take_private(&mut token);
            bell.put_back(token);
        }
    }
    *log.unwrap_or_default()
}

/// Two producers, two lanes, and a worker that sleeps when there is nothing: all of it is handled, once, in each
/// producer's order, and what one visit wrote the next one reads.
// convict: bell_ring
#[test]
fn bell_ring_wakes_the_worker_for_every_message() {
    static PARKED: Reached = Reached::new("the worker lay down");
    static TWICE: Reached = Reached::new("a lane was visited again");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(2, 2, std::slice::from_ref(&bed));
        let producers = [[(0, 10), (1, 11)], [(1, 20), (0, 21)]].map(|messages| {
            let lanes = lanes.clone();
            thread::spawn(move || {
                for (lane, message) in messages {
                    lanes.push(lane, message).unwrap();
                }
            })
        });
        let mut worker = Worker::new(&lanes, 0);
        let (mut handled, mut visits) = (0, 0);
        while handled < 4 {
            let count = worker.turn_or_sleep(&bed, &PARKED);
            handled += count;
            visits += usize::from(count > 0);
        }
        TWICE.here_if(visits > 2);
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert_eq!(worker.drain(), 0);
        let (mut first, mut second) = (log(&mut worker, 0), log(&mut worker, 1));
        first.sort_unstable();
        second.sort_unstable();
        assert_eq!((first, second), (vec![10, 21], vec![11, 20]));
    });
    PARKED.assert();
    TWICE.assert();
}

/// A turn's messages for two lanes, whose worker is told of them together and sleeps until then.
// convict: peal_ring
#[test]
fn peal_ring_wakes_the_worker_for_every_lane() {
    static PARKED: Reached = Reached::new("the worker lay down");
    static KEPT: Reached = Reached::new("another's message went into a lane that was not rung yet");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(2, 2, std::slice::from_ref(&bed));
        let there = lanes.clone();
        let turn = thread::spawn(move || {
            let mut peal = Peal::default();
            peal.push(&there, 0, 10).unwrap();
            peal.push(&there, 1, 11).unwrap();
            KEPT.here_if(there.get(0).ring().len() == 2 && there.bell(0).is_quiet());
            peal.ring(&there);
        });
        let there = lanes.clone();
        let other = thread::spawn(move || there.push(0, 20).unwrap());
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = 0;
        while handled < 3 {
            handled += worker.turn_or_sleep(&bed, &PARKED);
        }
        turn.join().unwrap();
        other.join().unwrap();
        let mut first = log(&mut worker, 0);
        first.sort_unstable();
        assert_eq!((first, log(&mut worker, 1)), (vec![10, 20], vec![11]));
    });
    PARKED.assert();
    KEPT.assert();
}

/// A turn finds a lane full that it has not rung, and waits for room: the lane was rung before, or nobody would make any.
// convict: peal_full
#[test]
fn peal_full_lanes_are_rung_before_their_producer_waits() {
    static PARKED: Reached = Reached::new("the worker lay down");
    static FULL: Reached = Reached::new("the lane was full within the turn");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        let there = lanes.clone();
        let turn = thread::spawn(move || {
            let mut peal = Peal::default();
            for message in [10, 11] {
                if let Err(PushError::Full(message)) = peal.push(&there, 0, message) {
                    FULL.here();
                    there.push_until(0, message, &Still, END).unwrap();
                }
            }
            peal.ring(&there);
        });
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = 0;
        while handled < 2 {
            handled += worker.turn_or_sleep(&bed, &PARKED);
        }
        turn.join().unwrap();
        assert_eq!(log(&mut worker, 0), [10, 11]);
    });
    PARKED.assert();
    FULL.assert();
}

/// A command comes to whoever holds the lane, though the lane may be visited right then.
// convict: ring_ignores_wake
#[test]
fn a_command_is_obeyed_ring_ignores_wake() {
    static PARKED: Reached = Reached::new("the worker lay down");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        let there = lanes.clone();
        let producer = thread::spawn(move || there.push(0, 1).unwrap());
        let there = lanes.clone();
        let commander = thread::spawn(move || there.command(0, 100));
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = 0;
        while handled < 2 {
            handled += worker.turn_or_sleep(&bed, &PARKED);
        }
        producer.join().unwrap();
        commander.join().unwrap();
        let mut log = log(&mut worker, 0);
        log.sort_unstable();
        assert_eq!(log, [1, 100]);
    });
    PARKED.assert();
}

/// The owner of a bell and a thief want the same lanes while more is pushed: each lane has one holder at a time, and
/// what the last holder did is seen by the next.
// convict: token_take
#[test]
fn token_take_and_steal_have_one_winner() {
    static STOLEN: Reached = Reached::new("the thief got a lane");
    static MISSED: Reached = Reached::new("the owner found a lane of its turns gone");
    static PASSED: Reached = Reached::new("both visited one lane");
    check(|| {
        let beds = [Parker::new(), Parker::new()];
        let lanes = lanes(3, 2, &beds);
        // Lanes 0 and 2 are at home with worker 0.
        lanes.push(0, 1).unwrap();
        lanes.push(2, 3).unwrap();
        let there = lanes.clone();
        let producer = thread::spawn(move || there.push(0, 2).unwrap());
        let there = lanes.clone();
        let thief = thread::spawn(move || {
            let mut thief = Worker::new(&there, 1);
            let mut handled = 0;
            for _ in 0..2 {
                if let Some(token) = there.bell(0).steal(0) {
                    STOLEN.here();
                    handled += thief.visit(token);
                }
            }
            handled + thief.drain()
        });
        let mut owner = Worker::new(&lanes, 0);
        let bell = lanes.bell(0);
        bell.collect(|lane| owner.turns.push_back(lane));
        let mut handled = 0;
        while let Some(lane) = owner.turns.pop_front() {
            match bell.take(lane) {
                Some(token) => handled += owner.visit(token),
                None => MISSED.here(),
            }
        }
        let stolen = thief.join().unwrap();
        producer.join().unwrap();
        PASSED.here_if(handled > 0 && stolen > 0);
        handled += owner.drain();
        assert_eq!(handled + stolen, 3);
        assert_eq!((log(&mut owner, 0), log(&mut owner, 2)), (vec![1, 2], vec![3]));
    });
    STOLEN.assert();
    MISSED.assert();
    PASSED.assert();
}

/// A worker took three lanes in turn and does not come back from the handler of the first: a thief gets the
/// others, and the one that is woken meanwhile, and none but the first is held up.
// convict: bell_steal
#[test]
fn bell_steal_takes_over_all_other_lanes_of_a_worker_that_hangs() {
    static SLEPT: Reached = Reached::new("the thief slept until it was called");
    static TURN: Reached = Reached::new("a lane was stolen out of the turns");
    check(|| {
        let beds = [Parker::new(), Parker::new()];
        let lanes = lanes(8, 1, &beds);
        let [_, bed] = beds;
        // At home with worker 0: 0, 2, 4 and 6.
        for lane in [0, 2, 4] {
            lanes.push(lane, lane).unwrap();
        }
        let mut owner = Worker::new(&lanes, 0);
        let held = owner.take().unwrap();
        assert_eq!(held.lane(), 0);
        let there = lanes.clone();
        let late = thread::spawn(move || {
            there.push(6, 6).unwrap();
            // Whoever sees that the worker is held up calls.
            there.bell(1).wake();
        });
        let there = lanes.clone();
        let thief = thread::spawn(move || {
            let mut thief = Worker::new(&there, 1);
            let mut handled = 0;
            while handled < 3 {
                let Some(token) = there.bell(0).steal(0) else {
                    handled += thief.turn_or_sleep(&bed, &SLEPT);
                    continue;
                };
                TURN.here_if(token.lane() < 6);
                handled += thief.visit(token);
            }
        });
        thief.join().unwrap();
        late.join().unwrap();
        // The handler returns after all.
        assert_eq!(owner.visit(held), 1);
        assert_eq!(owner.drain(), 0);
        for lane in [0, 2, 4, 6] {
            assert_eq!(log(&mut owner, lane), [lane]);
        }
    });
    SLEPT.assert();
    TURN.assert();
}

/// Pushes against the close: what was taken is handled, what was not comes back, and who waits for room is told.
// convict: lane_close
#[test]
fn lane_close_gives_back_or_handles_everything() {
    static TAKEN: Reached = Reached::new("a message was taken");
    static REFUSED: Reached = Reached::new("a message came back");
    static WAITED: Reached = Reached::new("the producer that waited was told of the close");
    static ROOM: Reached = Reached::new("the producer that waited got room before the close");
    static TOLD: Reached = Reached::new("the close found somebody waiting");
    // Nobody makes room: who waits is told by the close, or not at all.
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let there = lanes.clone();
        let waits = thread::spawn(move || there.push_until(0, 2, &Still, END));
        // Without this the checker does not look at the other thread's going first.
        thread::yield_now();
        TOLD.here_if(lanes.get(0).ring().has_wait());
        lanes.close();
        assert_eq!(waits.join().unwrap(), Err(PushError::Closed(2)));
        assert_eq!(Worker::new(&lanes, 0).drain(), 1);
    });
    TOLD.assert();
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        let clock = Arc::new(Hourglass::new());
        lanes.push(0, 1).unwrap();
        let there = lanes.clone();
        let waits = thread::spawn(move || there.push_until(0, 2, &*clock, END).is_ok());
        let there = lanes.clone();
        let closer = thread::spawn(move || there.close());
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = worker.drain();
        let took = waits.join().unwrap();
        closer.join().unwrap();
        assert_eq!(lanes.push(0, 3), Err(PushError::Closed(3)));
        handled += worker.drain();
        assert_eq!(handled, 1 + usize::from(took));
        ROOM.here_if(took);
        WAITED.here_if(!took);
        let lane = lanes.get(0);
        assert!(lane.ring().is_closed() && lane.ring().is_at_rest());
    });
    WAITED.assert();
    ROOM.assert();
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 2, std::slice::from_ref(&bed));
        let producers = [1, 2].map(|message| {
            let lanes = lanes.clone();
            thread::spawn(move || match lanes.push(0, message) {
                Ok(()) => {
                    TAKEN.here();
                    1
                }
                Err(PushError::Closed(back)) => {
                    REFUSED.here();
                    assert_eq!(back, message);
                    0
                }
                Err(PushError::Full(_)) => panic!("there is room"),
            })
        });
        let mut worker = Worker::new(&lanes, 0);
        lanes.close();
        let mut handled = worker.drain();
        let taken: usize = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        handled += worker.drain();
        assert_eq!(handled, taken);
        assert!(lanes.get(0).ring().is_at_rest());
    });
    TAKEN.assert();
    REFUSED.assert();
}

/// A full lane: the producer waits for room, or gives up when its time is over; its message is handled, or back
/// with it.
#[test]
fn a_producer_waits_for_room_or_until_its_time_is_over() {
    static IN_TIME: Reached = Reached::new("the producer with a deadline got room");
    static GAVE_UP: Reached = Reached::new("it gave up");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let clock = Arc::new(Hourglass::new());
        let (there, time) = (lanes.clone(), clock.clone());
        let waits = thread::spawn(move || match there.push_until(0, 2, &*time, END) {
            Ok(()) => 1,
            Err(PushError::Full(2)) => 0,
            Err(error) => panic!("{error:?}"),
        });
        let there = clock.clone();
        let time = thread::spawn(move || there.run_out());
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = worker.drain();
        let took = waits.join().unwrap();
        time.join().unwrap();
        handled += worker.drain();
        assert_eq!(handled, 1 + took);
        if took == 1 {
            IN_TIME.here()
        } else {
            GAVE_UP.here()
        }
        // Its place is free again, and the lane works as before.
        lanes.push(0, 3).unwrap();
        assert_eq!(worker.drain(), 1);
    });
    IN_TIME.assert();
    GAVE_UP.assert();
}

/// A producer that waits for room, on a thread of its own.
type Waits = thread::JoinHandle<Result<(), PushError<u32>>>;

/// A lane of one slot that is full, and a producer that waits for room until the clock runs out.
fn producer_at_a_full_lane() -> (Arc<Numbers>, Arc<Hourglass>, Waits) {
    let lanes = lanes(1, 1, std::slice::from_ref(&Parker::new()));
    lanes.push(0, 1).unwrap();
    let clock = Arc::new(Hourglass::new());
    let (there, time) = (lanes.clone(), clock.clone());
    let waits = thread::spawn(move || there.push_until(0, 2, &*time, END));
    (lanes, clock, waits)
}

/// Nobody makes room, and the time runs out at any moment: the producer has its message back, or it would sleep
/// for good. Nothing of it is left in the list of those who wait.
// convict: parker_due
// convict: lane_leave
#[test]
fn parker_due_lane_leave_a_producer_does_not_oversleep() {
    static AWAKE: Reached = Reached::new("the time was over before the producer registered");
    static ASLEEP: Reached = Reached::new("the time ran out while the producer waited");
    check_within(3, || {
        let (lanes, clock, waits) = producer_at_a_full_lane();
        // Without this the checker does not look at the other thread's going first.
        thread::yield_now();
        if lanes.get(0).ring().has_wait() {
            ASLEEP.here()
        } else {
            AWAKE.here()
        }
        clock.run_out();
        assert_eq!(waits.join().unwrap(), Err(PushError::Full(2)));
        assert_eq!(lanes.get(0).waiting(), 0);
        assert_eq!(Worker::new(&lanes, 0).drain(), 1);
    });
    AWAKE.assert();
    ASLEEP.assert();
}

/// Room is made, and then the time runs out: the producer has the room, however late it comes to look.
// convict: lane_over
#[test]
fn lane_over_room_that_was_made_in_time_is_not_missed() {
    static WAITED: Reached = Reached::new("the producer waited before there was room");
    static STRAIGHT: Reached = Reached::new("there was room before it waited");
    check_within(3, || {
        let (lanes, clock, waits) = producer_at_a_full_lane();
        thread::yield_now();
        if lanes.get(0).ring().has_wait() {
            WAITED.here()
        } else {
            STRAIGHT.here()
        }
        let mut worker = Worker::new(&lanes, 0);
        let handled = worker.drain();
        clock.run_out();
        assert_eq!(waits.join().unwrap(), Ok(()));
        assert_eq!(handled + worker.drain(), 2);
    });
    WAITED.assert();
    STRAIGHT.assert();
}

/// Two wait for the same room, one of them with a limit that comes: whoever gives up takes the other's place
/// in the list not along, nor its wake-up.
// convict: wait_list_leave
#[test]
fn wait_list_leave_who_gives_up_leaves_the_other_its_wake_up() {
    static GAVE_UP: Reached = Reached::new("one gave up before there was room");
    static BEHIND: Reached = Reached::new("the other waited behind it");
    check_within(1, || {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let there = lanes.clone();
        let waits = thread::spawn(move || there.push_until(0, 2, &Still, END).unwrap());
        let (there, clock) = (lanes.clone(), Arc::new(Hourglass::new()));
        let time = clock.clone();
        let gives_up = thread::spawn(move || there.push_until(0, 3, &*time, END));
        thread::yield_now();
        BEHIND.here_if(lanes.get(0).ring().has_wait());
        clock.run_out();
        assert_eq!(gives_up.join().unwrap(), Err(PushError::Full(3)));
        GAVE_UP.here();
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = worker.drain();
        waits.join().unwrap();
        handled += worker.drain();
        assert_eq!((handled, lanes.get(0).waiting()), (2, 0));
    });
    GAVE_UP.assert();
    BEHIND.assert();
}

/// A full lane with a producer that waits for room, without a limit: whoever makes room wakes it.
// convict: lane_join
#[test]
fn lane_join_is_woken_once_there_is_room() {
    static PARKED: Reached = Reached::new("the worker lay down");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let there = lanes.clone();
        let waits = thread::spawn(move || there.push_until(0, 2, &Still, END).unwrap());
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = 0;
        while handled < 2 {
            handled += worker.turn_or_sleep(&bed, &PARKED);
        }
        waits.join().unwrap();
    });
    PARKED.assert();
}

/// As above, with another that does not wait: the first does not sleep on, though the other was quicker.
#[test]
fn who_waits_for_room_is_woken_though_another_was_quicker() {
    static PARKED: Reached = Reached::new("the worker lay down");
    static BARGED: Reached = Reached::new("the other got in");
    check_within(1, || {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let there = lanes.clone();
        let waits = thread::spawn(move || there.push_until(0, 2, &Still, END).unwrap());
        let there = lanes.clone();
        let barges = thread::spawn(move || usize::from(there.push(0, 3).is_ok()));
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = 0;
        while handled < 2 {
            handled += worker.turn_or_sleep(&bed, &PARKED);
        }
        let barged = barges.join().unwrap();
        BARGED.here_if(barged == 1);
        handled += worker.drain();
        waits.join().unwrap();
        handled += worker.drain();
        assert_eq!(handled, 2 + barged);
    });
    PARKED.assert();
    BARGED.assert();
}

/// Two that wait for the same room, one after the other.
#[test]
#[ignore = "long: run by ci/loom-full.sh"]
fn two_producers_wait_for_one_slot() {
    static PARKED: Reached = Reached::new("the worker lay down");
    static BOTH: Reached = Reached::new("both waited");
    check_within(1, || {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let producers = [2, 3].map(|message| {
            let lanes = lanes.clone();
            thread::spawn(move || lanes.push_until(0, message, &Still, END).unwrap())
        });
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = 0;
        while handled < 3 {
            BOTH.here_if(lanes.get(0).waiting() == 2);
            handled += worker.turn_or_sleep(&bed, &PARKED);
        }
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert_eq!(worker.drain(), 0);
        let mut log = log(&mut worker, 0);
        log.sort_unstable();
        assert_eq!(log, [1, 2, 3]);
    });
    PARKED.assert();
    BOTH.assert();
}

/// A task that waits for room, polled by hand: woken, it gets in; it gives its message back when it gives up.
#[test]
fn a_task_waits_for_room_and_gives_up_with_its_message() {
    static PENDING: Reached = Reached::new("the task was pending");
    static GAVE_UP: Reached = Reached::new("it gave up");
    static AT_ONCE: Reached = Reached::new("it got room at its second try");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let there = lanes.clone();
        let give_up = Arc::new(AtomicBool::new(false));
        let waker: Arc<Mutex<Option<Waker>>> = Arc::new(Mutex::new(None));
        let (stop, call) = (give_up.clone(), waker.clone());
        let task = thread::spawn(move || {
            let bed = Parker::new();
            *call.lock().unwrap() = Some(bed.waker().clone());
            let (mut message, mut place) = (Some(2), None);
            let mut cx = Context::from_waker(bed.waker());
            let mut polls = 0;
            loop {
                polls += 1;
                match there.poll_push(0, &mut message, &mut place, &mut cx) {
                    Poll::Ready(done) => {
                        done.unwrap();
                        AT_ONCE.here_if(polls == 1);
                        return 1;
                    }
                    Poll::Pending if stop.load(Ordering::Acquire) => {
                        assert_eq!(message, Some(2));
                        there.leave(0, &mut place);
                        GAVE_UP.here();
                        return 0;
                    }
                    Poll::Pending => {
                        PENDING.here();
                        bed.park(None);
                    }
                }
            }
        });
        let time = thread::spawn(move || {
            give_up.store(true, Ordering::Release);
            let waker = waker.lock().unwrap().take();
            waker.into_iter().for_each(Waker::wake);
        });
        let mut worker = Worker::new(&lanes, 0);
        let mut handled = worker.drain();
        let took = task.join().unwrap();
        time.join().unwrap();
        handled += worker.drain();
        assert_eq!(handled, 1 + took);
    });
    PENDING.assert();
    GAVE_UP.assert();
    AT_ONCE.assert();
}

/// A lane that cannot go on rests over a full ring, and those who wait for room are not woken for nothing; they
/// are once it goes on.
#[test]
fn a_blocked_lane_rests_though_others_wait() {
    static RESTED: Reached = Reached::new("it rested over a full ring with somebody waiting");
    static LATE: Reached = Reached::new("it rested before anybody waited");
    static PARKED: Reached = Reached::new("the worker lay down");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 1, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        let there = lanes.clone();
        let producer = thread::spawn(move || {
            there.push_until(0, 2, &Still, END).unwrap();
        });
        let mut worker = Worker::new(&lanes, 0);
        let token = worker.take().unwrap();
        let lane = lanes.get(0);
        lane.wake_waiting();
        if let Err(token) = lane.rest(token, true) {
            panic!("nobody woke lane {}, and there is no room", token.lane());
        }
        if lane.ring().has_wait() {
            RESTED.here()
        } else {
            LATE.here()
        }
        // What it waited for has come.
        lanes.wake(0);
        let mut handled = 0;
        while handled < 2 {
            handled += worker.turn_or_sleep(&bed, &PARKED);
        }
        producer.join().unwrap();
        assert_eq!(log(&mut worker, 0), [1, 2]);
    });
    RESTED.assert();
    LATE.assert();
}

/// A lane that cannot go on does not rest while somebody waits for room that there is.
// convict: ring_rest_room
#[test]
fn a_blocked_lane_gives_its_room_away_ring_rest_room() {
    static WAITED: Reached = Reached::new("the producer waited before the lane rested");
    static TAKEN: Reached = Reached::new("a push took the token out of the blocked lane");
    check(|| {
        let bed = Parker::new();
        let lanes = lanes(1, 2, std::slice::from_ref(&bed));
        lanes.push(0, 1).unwrap();
        lanes.push(0, 2).unwrap();
        let there = lanes.clone();
        let producer = thread::spawn(move || {
            there.push_until(0, 3, &Still, END).unwrap();
        });
        let mut worker = Worker::new(&lanes, 0);
        let mut token = worker.take().unwrap();
        let lane = lanes.get(0);
        assert_eq!(lane.ring().pop(&mut token), Some(1));
        WAITED.here_if(lane.ring().has_wait());
        lane.wake_waiting();
        if let Err(token) = lane.rest(token, true) {
            panic!("nobody woke lane {}", token.lane());
        }
        // The next message cannot go on, and nobody comes; there is room all the same.
        producer.join().unwrap();
        TAKEN.here_if(!lanes.bell(0).is_quiet());
        lanes.wake(0);
        assert_eq!(worker.drain(), 2);
        assert_eq!(log(&mut worker, 0), [2, 3]);
    });
    WAITED.assert();
    TAKEN.assert();
}
