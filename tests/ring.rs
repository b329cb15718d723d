//! The ring against naive models: a `VecDeque` that knows the same rules, and `crossbeam_queue::ArrayQueue`.
#![cfg(all(feature = "internals", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;
use keylane::PushError;
use keylane::internals::{Queue, Restless, Ring, Single, Token, rings};
use proptest::prelude::*;

/// What can be done to a lane's ring.
#[derive(Debug, Clone, Copy)]
enum Op {
    Push,
    Batch(usize),
    Pop,
    PopAll,
    Peek,
    Rest,
    RestBlocked,
    Wake,
    TakeWake,
    SetWait,
    ClearWait,
    Close,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        40 => Just(Op::Push),
        10 => (0usize..12).prop_map(Op::Batch),
        1 => (900usize..1_100).prop_map(Op::Batch),
        30 => Just(Op::Pop),
        4 => Just(Op::PopAll),
        6 => Just(Op::Peek),
        10 => Just(Op::Rest),
        4 => Just(Op::RestBlocked),
        6 => Just(Op::Wake),
        6 => Just(Op::TakeWake),
        3 => Just(Op::SetWait),
        6 => Just(Op::ClearWait),
    ];
    // Closing is for good, so it comes once, somewhere near the end, or not at all.
    (prop::collection::vec(op, 1..400), prop::option::of(0usize..40)).prop_map(
        |(mut ops, close)| {
            if let Some(back) = close {
                ops.insert(ops.len().saturating_sub(back), Op::Close);
            }
            ops
        },
    )
}

fn capacities() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1usize..=7, 1 => Just(1_000usize)]
}

/// The ring's rules, told without a ring.
#[derive(Default)]
struct Model {
    messages: VecDeque<u64>,
    limit: usize,
    waits: bool,
    woken: bool,
    closed: bool,
}

/// One lane's ring, its token if it is out, and the model, all fed the same.
struct Pair {
    ring: Ring<u64>,
    token: Option<Token>,
    model: Model,
    next: u64,
}

impl Pair {
    fn new(slots: usize) -> Self {
        let (_, mut rings) = rings(1, slots);
        let ring = rings.pop().unwrap();
        let model = Model { limit: slots, ..Model::default() };
        Self { ring, token: None, model, next: 0 }
    }

    /// A token that came out: it must be one that was not out already.
    fn out(&mut self, token: Option<Token>) {
        match token {
            Some(token) => assert!(self.token.replace(token).is_none(), "two tokens"),
            None => assert!(self.token.is_some(), "the token stayed at rest"),
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Push => self.push(),
            Op::Batch(count) => self.push_batch(count),
            Op::Pop => drop(self.pop()),
            Op::PopAll => while self.pop() {},
            Op::Peek => {
                if let Some(token) = &mut self.token {
                    assert_eq!(self.ring.drain(token).peek(), self.model.messages.front());
                }
            }
            Op::Rest => self.rest(false),
            Op::RestBlocked => self.rest(true),
            Op::Wake => {
                let token = self.ring.wake();
                self.out(token);
                self.model.woken = true;
            }
            Op::TakeWake => {
                if let Some(token) = &mut self.token {
                    let woken = std::mem::take(&mut self.model.woken);
                    assert_eq!(self.ring.take_wake(token), woken);
                }
            }
            Op::SetWait => {
                assert_eq!(self.ring.set_wait(), !self.model.closed);
                self.model.waits = true;
            }
            Op::ClearWait => {
                self.ring.clear_wait();
                self.model.waits = false;
            }
            Op::Close => {
                self.ring.close();
                self.model.closed = true;
            }
        }
        self.compare();
    }

    fn push(&mut self) {
        let message = self.next;
        self.next += 1;
        let pushed = self.ring.push(message);
        if self.model.closed {
            assert_eq!(pushed.unwrap_err(), PushError::Closed(message));
        } else if self.model.messages.len() == self.model.limit {
            assert_eq!(pushed.unwrap_err(), PushError::Full(message));
        } else {
            self.out(pushed.unwrap());
            self.model.messages.push_back(message);
        }
    }

    fn push_batch(&mut self, count: usize) {
        let mut batch: VecDeque<u64> = (self.next..).take(count).collect();
        self.next += count as u64;
        let given = batch.clone();
        let room = self.model.limit - self.model.messages.len();
        match self.ring.push_batch(&mut batch) {
            Ok((taken, token)) => {
                assert!(!self.model.closed || count == 0);
                assert_eq!(taken, count.min(room));
                if taken > 0 {
                    self.out(token);
                } else {
                    assert!(token.is_none() && count == 0);
                }
                self.model.messages.extend(given.range(..taken));
                assert!(
                    batch.iter().eq(given.range(taken..)),
                    "what was not taken stays, in order"
                );
            }
            Err(refused) => {
                assert_eq!(batch, given);
                if self.model.closed {
                    assert_eq!(refused, PushError::Closed(()));
                } else {
                    assert_eq!((refused, room), (PushError::Full(()), 0));
                }
            }
        }
    }

    fn pop(&mut self) -> bool {
        let Some(token) = &mut self.token else { return false };
        let popped = self.ring.pop(token);
        assert_eq!(popped, self.model.messages.pop_front());
        popped.is_some()
    }

    fn rest(&mut self, over_messages: bool) {
        let Some(token) = self.token.take() else { return };
        let rested = match over_messages {
            true => self.ring.rest_blocked(token),
            false => self.ring.rest(token),
        };
        let model = &self.model;
        // Over a full ring, those who wait for room may wait on.
        let wait_on = over_messages && model.messages.len() == model.limit;
        let may = (!model.waits || wait_on)
            && !model.woken
            && (over_messages || model.messages.is_empty());
        match rested {
            Ok(()) => assert!(may),
            Err(Restless { token, wait, wake }) => {
                assert!(!may);
                assert_eq!((wait, wake), (model.waits, model.woken));
                self.token = Some(token);
            }
        }
    }

    fn compare(&mut self) {
        // Whoever holds the token knows where the ring begins.
        if let Some(token) = &mut self.token {
            self.ring.drain(token);
        }
        let (ring, model) = (&self.ring, &self.model);
        assert_eq!(ring.limit(), model.limit);
        assert_eq!(ring.len(), model.messages.len());
        assert_eq!(ring.is_empty(), model.messages.is_empty());
        assert_eq!(ring.head() >= ring.tail(), model.messages.is_empty());
        assert_eq!(ring.has_wait(), model.waits);
        assert_eq!(ring.is_closed(), model.closed);
        let rests = self.token.is_none() && !model.woken && model.messages.is_empty();
        assert_eq!(ring.is_at_rest(), rests);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        std::mem::forget(self.token.take());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_does_what_the_model_does(slots in capacities(), ops in ops()) {
        let mut pair = Pair::new(slots);
        ops.into_iter().for_each(|op| pair.apply(op));
    }

    #[test]
    fn a_ring_as_a_queue_does_what_array_queue_does(
        slots in capacities(),
        pushes in prop::collection::vec((0usize..9, 0usize..9), 1..200),
    ) {
        let (mut own, mut other) = (Single::new(slots), ArrayQueue::new(slots));
        let mut next = 0u64;
        for (push, pop) in pushes {
            for _ in 0..push {
                prop_assert_eq!(Queue::push(&own, next), Queue::push(&other, next));
                next += 1;
            }
            for _ in 0..pop {
                prop_assert_eq!(Queue::pop(&mut own), Queue::pop(&mut other));
            }
            prop_assert_eq!(own.ring().len(), other.len());
        }
    }

    #[test]
    fn each_message_is_dropped_once(
        slots in capacities(),
        ops in prop::collection::vec(0u8..7, 0..200),
        close in any::<bool>(),
    ) {
        let (dropped, mut made) = (Arc::new(AtomicUsize::new(0)), 0);
        {
            let mut queue = Single::new(slots);
            let mut message = || {
                made += 1;
                Counted(dropped.clone())
            };
            for op in ops {
                match op {
                    0..=2 => drop(Queue::push(&queue, message())),
                    3 => {
                        let mut batch: VecDeque<_> = (0..5).map(|_| message()).collect();
                        let _ = queue.ring().push_batch(&mut batch);
                    }
                    _ => drop(Queue::pop(&mut queue)),
                }
            }
            if close {
                queue.ring().close();
                let _ = Queue::push(&queue, message());
            }
            let held = queue.ring().len();
            prop_assert_eq!(dropped.load(Relaxed) + held, made);
        }
        prop_assert_eq!(dropped.load(Relaxed), made);
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn many_laps_keep_order() {
    for slots in (1..=9).chain([63, 64, 65, 1_000]) {
        let mut queue = Single::new(slots);
        let (mut next, mut seen) = (0u64, 0u64);
        // Bursts whose sizes share no factor with the ring's, so that they begin at every slot.
        for burst in (1..=slots).cycle().take(40 * slots.min(100)) {
            for _ in 0..burst {
                Queue::push(&queue, next).unwrap();
                next += 1;
            }
            while let Some(message) = Queue::pop(&mut queue) {
                assert_eq!(message, seen);
                seen += 1;
            }
        }
        assert_eq!(seen, next);
        assert!(seen > 10 * slots as u64);
    }
}

#[test]
fn a_refused_message_is_the_one_that_was_given() {
    let queue = Single::new(1);
    Queue::push(&queue, Box::new(1)).unwrap();
    let second = Box::new(2);
    let place: *const i32 = &*second;
    let back = Queue::push(&queue, second).unwrap_err();
    assert!(back.is_full());
    assert!(std::ptr::eq(&*back.into_inner(), place));

    queue.ring().close();
    let third = Box::new(3);
    let place: *const i32 = &*third;
    let back = Queue::push(&queue, third).unwrap_err();
    assert!(!back.is_full());
    assert!(std::ptr::eq(&*back.into_inner(), place));
}

#[test]
fn a_closed_ring_gives_out_what_it_holds() {
    let mut queue = Single::new(4);
    for message in 0..3 {
        Queue::push(&queue, message).unwrap();
    }
    queue.ring().close();
    assert_eq!(Queue::push(&queue, 3), Err(PushError::Closed(3)));
    let left: Vec<i32> = std::iter::from_fn(|| Queue::pop(&mut queue)).collect();
    assert_eq!(left, [0, 1, 2]);
}

#[test]
fn lanes_of_one_slab_do_not_touch_each_other() {
    let (family, lanes) = rings(7, 3);
    let mut tokens = Vec::new();
    for round in 0..50u64 {
        for (lane, ring) in (0..).zip(&lanes) {
            for message in 0..3 {
                if let Some(token) = ring.push(100 * round + 10 * lane + message).unwrap() {
                    assert_eq!((token.lane() as u64, token.family()), (lane, family));
                    tokens.push(token);
                }
            }
            assert!(ring.push(0).unwrap_err().is_full());
        }
        assert_eq!(tokens.len(), 7);
        for mut token in tokens.drain(..) {
            let lane = token.lane();
            let ring = &lanes[lane as usize];
            for message in 0..3 {
                assert_eq!(ring.pop(&mut token), Some(100 * round + 10 * lane as u64 + message));
            }
            ring.rest(token).unwrap();
        }
    }
}

#[test]
#[should_panic(expected = "a token drains only its own lane")]
fn a_foreign_token_drains_nothing() {
    let (_, lanes) = rings::<u8>(2, 1);
    let mut token = lanes[0].wake().unwrap();
    lanes[1].pop(&mut token);
}

/// Ten slots of sixteen: what was known to be free before the ring began anew reaches into it, and not far enough.
#[test]
fn a_ring_that_begins_anew_has_room_for_all() {
    let (_, rings) = rings(1, 10);
    let ring = &rings[0];
    let mut token = None;
    for burst in [10, 1, 10, 3, 10] {
        for message in 0..burst {
            token = token.or(ring.push(message).expect("there is room"));
        }
        let mut held = token.take().unwrap();
        for message in 0..burst {
            assert_eq!(ring.pop(&mut held), Some(message));
        }
        // The eleventh has made it known how far the second round reaches.
        if burst == 1 {
            ring.rest(held).unwrap();
        } else {
            token = Some(held);
        }
    }
    ring.rest(token.unwrap()).unwrap();
}

#[test]
fn messages_of_any_size_and_alignment_fit() {
    #[repr(align(64))]
    #[derive(Debug, PartialEq, Clone, Copy)]
    struct Aligned(u8);

    fn pass<M: Send + Sync + Copy + PartialEq + std::fmt::Debug>(message: M) {
        let (_, lanes) = rings(3, 5);
        let mut token = lanes[2].push(message).unwrap().unwrap();
        let place: *const M = lanes[2].drain(&mut token).peek().unwrap();
        assert!(place.is_aligned());
        assert_eq!(lanes[2].pop(&mut token), Some(message));
        lanes[2].rest(token).unwrap();
    }
    pass(());
    pass(1u8);
    pass(u128::MAX);
    pass([7u8; 57]);
    pass([7u64; 100]);
    pass(Aligned(3));
    pass("a string");
}

#[test]
#[should_panic(expected = "a ring has at least one slot")]
fn no_slots_are_refused() {
    rings::<u8>(1, 0);
}

#[test]
fn sizes_that_wrap_or_exceed_the_memory_are_refused() {
    for (lanes, slots) in
        [(1, usize::MAX), (2, usize::MAX / 2 + 1), (u32::MAX, 1 << 33), (1, 1 << 59)]
    {
        let refused = std::panic::catch_unwind(|| drop(rings::<u8>(lanes, slots))).unwrap_err();
        let text = refused.downcast_ref::<String>().unwrap();
        assert!(text.starts_with("no memory for"), "{text}");
    }
}

#[test]
fn no_lanes_are_an_empty_list() {
    assert!(rings::<u8>(0, 1_000).1.is_empty());
}

#[test]
fn a_message_that_panics_when_it_is_dropped_is_dropped_once() {
    struct Panics(Arc<AtomicUsize>);
    impl Drop for Panics {
        fn drop(&mut self) {
            if self.0.fetch_add(1, Relaxed) == 1 {
                panic!("the second");
            }
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let (_, lanes) = rings(1, 4);
    for _ in 0..4 {
        std::mem::forget(lanes[0].push(Panics(dropped.clone())).unwrap());
    }
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(lanes))).is_err());
    assert_eq!(dropped.load(Relaxed), 4, "one that panics does not keep the others");
}

/// `Some` type-level facts: what may cross threads and what may not.
mod shared {
    use super::*;

    trait Not<A> {
        const YES: bool = false;
    }
    struct Is<T: ?Sized>(std::marker::PhantomData<T>);
    impl<T: ?Sized> Not<()> for Is<T> {}
    impl<T: ?Sized + Send + Sync> Is<T> {
        const YES: bool = true;
    }

    #[test]
    fn a_ring_is_shared_where_its_messages_may_move() {
        const { assert!(Is::<Ring<u64>>::YES) };
        // A message that may move but not be shared is no obstacle: each is one thread's at a time.
        const { assert!(Is::<Ring<Cell<u64>>>::YES) };
        const { assert!(!Is::<Ring<Rc<u64>>>::YES) };
        const { assert!(Is::<Token>::YES) };
    }
}
