//! Lanes: a ring each, the private state that goes with its token, and who waits for room in it.

use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use crossbeam_utils::CachePadded;

use crate::bell::Bell;
use crate::clock::{Clock, Time};
use crate::error::PushError;
use crate::gate::ReadySet;
use crate::metrics::LaneCounters;
use crate::parker::{Parker, Unparker, with_current};
use crate::ring::{Batch, Restless, Ring, rings};
use crate::sabotage::sabotage;
use crate::sync::{Mutex, weak};
use crate::token::{Token, TokenCell};
use crate::wait_list::{Place, WaitList};

/// One lane: messages `M`, private state `P`, commands `C` to whoever holds it.
#[derive(Debug)]
pub struct Lane<M, P, C> {
    ring: Ring<M>,
    private: TokenCell<Option<Box<P>>>,
    cold: Cold<C>,
    /// What the holder counts, for others to read.
    pub counters: CachePadded<LaneCounters>,
    home: u32,
    index: u32,
}

/// What is touched only when a lane is full or has something beside its ring.
#[derive(Debug)]
struct Cold<C> {
    waiting: WaitList,
    ready: OnceLock<ReadySet>,
    ready_slots: usize,
    commands: Mutex<Vec<C>>,
}

/// All lanes of a runtime, and the bells of its workers.
#[derive(Debug)]
pub struct Lanes<M, P, C> {
    lanes: Box<[Lane<M, P, C>]>,
    bells: Box<[Bell]>,
    workers: u32,
}

impl<M: Send, P: Send, C> Lanes<M, P, C> {
    /// `lanes` lanes of `slots` messages each, at home with `workers` workers in turn; a bell for each of
    /// `sleepers`, those past the first `workers` being spares. A gate has at most `ready_slots` slots.
    pub fn new(
        lanes: u32,
        slots: usize,
        workers: u32,
        sleepers: Vec<Unparker>,
        ready_slots: usize,
    ) -> Self {
        let (family, rings) = rings(lanes, slots);
        let bells = (0..)
            .zip(sleepers)
            .map(|(worker, sleeper)| Bell::new(family, worker, workers, lanes, sleeper))
            .collect();
        let lanes = (0..).zip(rings).map(|(lane, ring)| Lane {
            ring,
            private: TokenCell::new(family, lane, None),
            cold: Cold {
                waiting: WaitList::new(),
                ready: OnceLock::new(),
                ready_slots,
                commands: Mutex::new(Vec::new()),
            },
            counters: CachePadded::default(),
            home: lane % workers,
            index: lane / workers,
        });
        Self { lanes: lanes.collect(), bells, workers }
    }

    /// How many lanes there are.
    pub fn len(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// A lane.
    #[inline]
    pub fn get(&self, lane: u32) -> &Lane<M, P, C> {
        &self.lanes[lane as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Lane<M, P, C>> {
        self.lanes.iter()
    }

    /// A worker's bell.
    #[inline]
    pub fn bell(&self, worker: usize) -> &Bell {
        &self.bells[worker]
    }

    /// All bells, those of the spares last.
    pub fn bells(&self) -> &[Bell] {
        &self.bells
    }

    /// How many workers are at home here, without spares.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Sees to it that a worker gets the lane. A call: most pushes find the lane awake.
    #[inline(never)]
    pub fn send(&self, token: Token) {
        let lane = self.get(token.lane());
        self.bells[lane.home as usize].ring(lane.index, token);
    }

    /// A lane, if there is one of that number.
    #[inline(always)]
    pub(crate) fn find(&self, lane: u32) -> Option<&Lane<M, P, C>> {
        self.lanes.get(lane as usize)
    }

    /// Puts a message into a lane.
    ///
    /// # Errors
    /// Gives it back if the lane is full or closed.
    #[inline]
    pub fn push(&self, lane: u32, message: M) -> Result<(), PushError<M>> {
        if let Some(token) = self.get(lane).ring.push(message)? {
            self.send(token);
        }
        Ok(())
    }

    /// Puts messages from the front of `messages` into a lane, as many as there is room for.
    ///
    /// # Errors
    /// If none was taken: the lane is full or closed.
    #[inline]
    pub fn push_batch(
        &self,
        lane: u32,
        messages: &mut impl Batch<M>,
    ) -> Result<usize, PushError<()>> {
        let (count, token) = self.get(lane).ring.push_batch(messages)?;
        if let Some(token) = token {
            self.send(token);
        }
        Ok(count)
    }

    /// Puts a message into a lane, sleeping until there is room or `deadline` has come.
    ///
    /// # Errors
    /// Gives it back if the lane is still full then, or closed.
    pub fn push_until(
        &self,
        lane: u32,
        message: M,
        clock: &dyn Clock,
        deadline: Time,
    ) -> Result<(), PushError<M>> {
        match self.push(lane, message) {
            Err(PushError::Full(message)) => {
                with_current(|parker| self.push_parked(lane, message, clock, deadline, parker))
            }
            result => result,
        }
    }

    #[cold]
    fn push_parked(
        &self,
        lane: u32,
        mut message: M,
        clock: &dyn Clock,
        deadline: Time,
        parker: &Parker,
    ) -> Result<(), PushError<M>> {
        let mut place = None;
        let is_over = || clock.now() >= deadline;
        let result = loop {
            // The time before the try: room that was made in time is not missed.
            let over = (!weak!("lane_over")).then(is_over);
            match self.push_or_join(lane, message, &mut place, parker.waker()) {
                Err(PushError::Full(back)) if !over.unwrap_or_else(is_over) => message = back,
                result => break result,
            }
            parker.park_until(clock, Some(deadline));
        };
        self.leave(lane, &mut place);
        result
    }

    /// As [`push_until`](Self::push_until) for a task: `Pending` if it is registered for room. The message
    /// stays in `message` until it is taken.
    pub fn poll_push(
        &self,
        lane: u32,
        message: &mut Option<M>,
        place: &mut Option<Place>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), PushError<()>>> {
        let Some(taken) = message.take() else { return Poll::Ready(Ok(())) };
        let pushed = match self.push(lane, taken) {
            Err(PushError::Full(back)) => self.push_or_join(lane, back, place, cx.waker()),
            result => result,
        };
        match pushed {
            Ok(()) => {
                self.leave(lane, place);
                Poll::Ready(Ok(()))
            }
            Err(PushError::Closed(back)) => {
                *message = Some(back);
                self.leave(lane, place);
                Poll::Ready(Err(PushError::Closed(())))
            }
            Err(PushError::Full(back)) => {
                *message = Some(back);
                Poll::Pending
            }
        }
    }

    /// Registers for room, says so to the lane, and tries once more. If that fails too, the waker is called
    /// once there is room.
    fn push_or_join(
        &self,
        lane: u32,
        message: M,
        place: &mut Option<Place>,
        waker: &Waker,
    ) -> Result<(), PushError<M>> {
        let own = self.get(lane);
        *place = Some(own.cold.waiting.join(*place, waker));
        own.ring.set_wait();
        if weak!("lane_join") {
            return Err(PushError::Full(message));
        }
        // Only now: the holder that makes room after this sees WAIT before it rests, and wakes.
        self.push(lane, message)
    }

    /// Gives a place among those who wait up.
    pub fn leave(&self, lane: u32, place: &mut Option<Place>) {
        if let Some(place) = place.take()
            && !weak!("lane_leave")
        {
            self.get(lane).cold.waiting.leave(place);
        }
    }

    /// Brings the lane to a worker: there is work beside its ring.
    pub fn wake(&self, lane: u32) {
        if let Some(token) = self.get(lane).ring.wake() {
            self.send(token);
        }
    }

    /// Says that a slot of the lane's gate has something to say, and brings the lane to a worker.
    pub fn wake_slot(&self, lane: u32, slot: u32) {
        self.get(lane).ready().put(slot);
        self.wake(lane);
    }

    /// Leaves a command for the lane's holder and brings the lane to a worker.
    pub fn command(&self, lane: u32, command: C) {
        self.get(lane).cold.commands.lock().push(command);
        self.wake(lane);
    }

    /// As [`command`](Self::command), in the place of an earlier one of its kind that nobody has obeyed yet.
    pub fn command_anew(&self, lane: u32, command: C, is_kind: impl Fn(&C) -> bool) {
        let earlier = {
            let mut commands = self.get(lane).cold.commands.lock();
            match commands.iter_mut().find(|command| is_kind(command)) {
                Some(place) => Some(std::mem::replace(place, command)),
                None => {
                    commands.push(command);
                    None
                }
            }
        };
        drop(earlier);
        self.wake(lane);
    }

    /// Refuses every push from here on, and tells those who wait for room.
    pub fn close(&self) {
        for lane in &self.lanes {
            if weak!("lane_close") {
                lane.cold.waiting.wake_all(|| lane.ring.clear_wait());
                lane.ring.close();
                continue;
            }
            // First this: who joins after the call finds it closed.
            lane.ring.close();
            lane.cold.waiting.wake_all(|| lane.ring.clear_wait());
        }
    }
}

impl<M, P, C> Lane<M, P, C> {
    /// Its ring.
    #[inline]
    pub fn ring(&self) -> &Ring<M> {
        &self.ring
    }

    /// Takes the private state out for a visit; `None` if it was never put in.
    #[inline]
    pub fn take_private(&self, token: &mut Token) -> Option<Box<P>> {
        self.private.with(token, Option::take)
    }

    /// Puts the private state back after a visit.
    #[inline]
    pub fn put_private(&self, token: &mut Token, private: Box<P>) {
        self.private.with(token, |place| *place = Some(private));
    }

    /// The slots of its gate that have something to say.
    pub fn ready(&self) -> &ReadySet {
        self.cold.ready.get_or_init(|| ReadySet::new(self.cold.ready_slots))
    }

    /// How many wait for room. May be stale at once.
    pub fn waiting(&self) -> usize {
        self.cold.waiting.len()
    }

    /// Takes the commands left for the holder.
    pub fn take_commands(&self) -> Vec<C> {
        std::mem::take(&mut *self.cold.commands.lock())
    }

    /// Wakes those who wait for room, if there are any and there is some: for the holder, after it has made it.
    #[inline]
    pub fn wake_waiting(&self) {
        if self.ring.has_wait() && self.ring.len() < self.ring.limit() {
            if sabotage!(RoomUnsaid) {
                return self.ring.clear_wait();
            }
            self.cold.waiting.wake_all(|| self.ring.clear_wait());
        }
    }

    /// Puts the token to rest if the lane is done (`blocked`: even over messages that cannot go on).
    ///
    /// # Errors
    /// Gives it back if there is more to do. Those who wait for room have been woken.
    pub fn rest(&self, mut token: Token, blocked: bool) -> Result<(), Token> {
        loop {
            let rested =
                if blocked { self.ring.rest_blocked(token) } else { self.ring.rest(token) };
            match rested {
                Ok(()) => return Ok(()),
                Err(Restless { token: back, wait: true, wake }) => {
                    self.wake_waiting();
                    if wake || !blocked {
                        return Err(back);
                    }
                    token = back;
                }
                Err(Restless { token, .. }) => return Err(token),
            }
        }
    }
}
