//! What the judge demands at certain moments: when everybody sleeps, at a commit, at the end of a swap, a
//! removal, a close.

use std::time::Duration;

use super::judge::{Judge, Phase, State, Stopped};
use super::script::{KEYLESS, Setup};
use super::verdict::Invariant;
use crate::clock::Time;
use crate::outcome::Outcome;
use crate::position::Stored;

impl Judge {
    /// Everybody sleeps, and would until time moves on or something comes from outside. `parked`: whether a
    /// key of a generation is listed as parked.
    pub(super) fn quiet(
        &mut self,
        setup: &Setup,
        parked: impl Fn(u32, u32) -> bool,
        is_empty: impl Fn(u32) -> bool,
    ) {
        self.known_by_now();
        for number in self.live.clone() {
            let delivery = &self.deliveries[number as usize];
            if let State::Retry(by) | State::Letter(Some(by)) = delivery.state
                && delivery.skipped
                && self.now > by
                && self.is_open(delivery)
                && self.phase == Phase::Running
            {
                // It was: else it would have been tried again.
                self.finished(number);
            }
        }
        let mut lanes = vec![(0_usize, false); setup.lanes];
        for index in 0..self.live.len() {
            let delivery = &self.deliveries[self.live[index] as usize];
            if delivery.key == KEYLESS {
                // In any of them.
                lanes.iter_mut().for_each(|lane| lane.0 += 1);
                continue;
            }
            let lane = &mut lanes[delivery.lane as usize];
            lane.0 += 1;
            if delivery.state == State::Queued {
                let same = |&&other: &&u32| {
                    let other = &self.deliveries[other as usize];
                    (other.generation, other.key) == (delivery.generation, delivery.key)
                };
                lane.1 |= self.live.iter().filter(same).count() > setup.key_waiting;
            }
        }
        for index in 0..self.live.len() {
            let number = self.live[index];
            let delivery = &self.deliveries[number as usize];
            let (lane, key) = (delivery.lane as usize, delivery.key);
            let generation = &self.generations[delivery.generation as usize];
            let held = |other: &u32| {
                let other = &self.deliveries[*other as usize];
                other.lane as usize == lane && other.key != key && other.state != State::Queued
            };
            let of = || format!("delivery {number} of key {key}");
            let said = match delivery.state {
                State::Queued if key == KEYLESS || self.phase == Phase::Stopped => continue,
                State::Queued if !self.is_open(delivery) => continue,
                State::Queued => {
                    let bound = lanes[lane].0 >= setup.lane_waiting || lanes[lane].1;
                    let shut = parked(delivery.generation, key);
                    if bound || shut || self.may_wait(number) {
                        continue;
                    }
                    let name = match () {
                        // It was taken, and is nowhere.
                        () if is_empty(delivery.lane) => Invariant::I1,
                        () if self.live.iter().any(held) => Invariant::I21,
                        () => Invariant::I11,
                    };
                    (name, format!("{} could start and everybody sleeps", of()))
                }
                State::Retry(by) if self.now > by && self.goes_on(number) => {
                    let name = if delivery.panicked { Invariant::I12 } else { Invariant::I11 };
                    (name, format!("{} is not tried again in time", of()))
                }
                State::Letter(Some(by)) if self.now > by && self.goes_on(number) => {
                    (Invariant::I11, format!("the letter of {} is not sent in time", of()))
                }
                State::Running => {
                    let late = delivery.ready.is_some_and(|ready| ready <= self.now);
                    let deadline = Duration::from_millis(generation.policy.deadline.into());
                    let over = generation.policy.deadline > 0
                        && !delivery.blocking
                        && self.now > delivery.began.after(deadline);
                    match (late, over) {
                        (true, _) => (Invariant::I11, format!("{} is ready and not polled", of())),
                        (_, true) => (
                            Invariant::I21,
                            format!("{} runs past its deadline at {:?}", of(), self.now),
                        ),
                        _ => continue,
                    }
                }
                _ => continue,
            };
            return self.convict(said.0, said.1);
        }
        self.skips.clear();
    }

    /// What lanes have learnt by now.
    fn known_by_now(&mut self) {
        let stopped = self.generations.iter_mut().map(|generation| &mut generation.stopped);
        let stopped = stopped.chain(self.epochs.iter_mut().map(|epoch| &mut epoch.stopped));
        stopped
            .filter(|stopped| **stopped == Stopped::Soon)
            .for_each(|stopped| *stopped = Stopped::Yes);
        if self.phase != Phase::Running {
            // What lanes did not know when they were stopped they have not learnt.
            return;
        }
        for delivery in &mut self.deliveries {
            let generation = &self.generations[delivery.generation as usize];
            let policy = &generation.policy;
            if generation.removed {
                continue;
            }
            if std::mem::take(&mut delivery.loose)
                && let State::Retry(by) = &mut delivery.state
                && by.as_nanos() < u64::MAX
            {
                *by = self.now.after(Duration::from_micros(policy.pause.into()));
            }
        }
    }

    /// Whether it is to be tried again.
    fn goes_on(&self, number: u32) -> bool {
        let delivery = &self.deliveries[number as usize];
        !delivery.skipped && self.is_open(delivery) && self.phase == Phase::Running
    }

    /// A key is told to skip what it waits for.
    pub(super) fn skip(&mut self, generation: u32, key: u32) {
        self.skips.push((generation, key));
        for number in self.live.clone() {
            let delivery = &mut self.deliveries[number as usize];
            let waits = matches!(delivery.state, State::Retry(_) | State::Letter(_));
            delivery.skipped |= waits && (delivery.generation, delivery.key) == (generation, key);
        }
    }

    /// A position is committed.
    pub(super) fn committed(
        &mut self,
        partition: usize,
        before: &Stored,
        stored: &Stored,
        log: &[(u64, u32)],
    ) {
        let (was, is) = (before.frontier(), stored.frontier());
        self.demand(is >= was, Invariant::I2, || {
            format!("partition {partition}: the frontier goes back from {was} to {is}")
        });
        for &(offset, record) in log {
            let known = &self.known[record as usize];
            if known.terminal || !stored.is_finished(offset) {
                continue;
            }
            if known.unsure {
                self.known[record as usize].terminal = true;
                continue;
            }
            let delivery = known.delivery.map(|number| &self.deliveries[number as usize]);
            if delivery.is_some_and(|delivery| delivery.skipped) {
                self.known[record as usize].terminal = true;
                continue;
            }
            let state = delivery.map(|delivery| delivery.state);
            let letter = matches!(state, Some(State::Letter(_)));
            let name = if letter { Invariant::I8 } else { Invariant::I2 };
            return self
                .convict(name, format!("partition {partition}: {offset} is committed, {state:?}"));
        }
    }

    /// The swap to `version` has ended.
    pub(super) fn swapped(&mut self, generation: u32, version: u32) {
        let own = &mut self.generations[generation as usize];
        own.replaced.push(version - 1);
        let old = |number: &&u32| {
            let delivery = &self.deliveries[**number as usize];
            delivery.generation == generation
                && delivery.state == State::Running
                && delivery.version + 1 == version
        };
        if let Some(number) = self.live.iter().find(old) {
            let said = format!("the swap to {version} has ended and delivery {number} runs on");
            self.convict(Invariant::I19, said);
        }
    }

    /// A record came back: from a removal, or from the close.
    pub(super) fn returned(&mut self, number: u32, whole: bool) {
        let state = self.deliveries[number as usize].state;
        let record = self.deliveries[number as usize].record;
        // Until its lane knows how a blocking call ended, its record may still come back.
        let loose = self.deliveries[number as usize].loose;
        let known = &mut self.known[record as usize];
        known.unsure |= loose;
        let may = known.unsure || !matches!(state, State::Ended | State::Refused | State::Offered);
        known.terminal &= !known.unsure;
        self.demand(may, Invariant::I7, || {
            format!("delivery {number} comes back, being {state:?}")
        });
        self.demand(whole, Invariant::I10, || {
            format!("delivery {number} comes back as another record")
        });
        self.back(number);
    }

    /// What is left of a generation when nothing of it may be: of those that were submitted in process.
    pub(super) fn nothing_left(&mut self, generation: Option<u32>, name: Invariant, what: &str) {
        for number in self.live.clone() {
            let delivery = &self.deliveries[number as usize];
            let own = generation.is_none_or(|generation| delivery.generation == generation)
                && self.generations[delivery.generation as usize].life == self.life;
            if !own {
                continue;
            }
            let (state, epoch) = (delivery.state, delivery.epoch);
            if delivery.skipped {
                self.finished(number);
                continue;
            }
            match (state, epoch) {
                (State::Running, _) => {
                    self.convict(name, format!("delivery {number} runs after the {what}"));
                }
                // It is delivered again.
                (_, Some(_)) => self.back(number),
                (_, None) => {
                    self.convict(
                        name,
                        format!("delivery {number}, {state:?}, is lost in the {what}"),
                    );
                }
            }
        }
    }

    /// A receipt has its outcome.
    pub(super) fn receipt(&mut self, number: u32, outcome: &Outcome) {
        let delivery = &mut self.deliveries[number as usize];
        let (state, skipped, attempts) = (delivery.state, delivery.skipped, delivery.attempts);
        let known = &self.known[delivery.record as usize];
        let right = match outcome {
            Outcome::Done => known.terminal && state == State::Ended,
            Outcome::DeadLettered(_) | Outcome::Parked => state == State::Ended,
            Outcome::Skipped(_) => state == State::Ended || skipped,
            Outcome::Stopped(_) | Outcome::Abandoned => state != State::Ended,
        };
        let letter = matches!(outcome, Outcome::DeadLettered(_) | Outcome::Parked);
        let name = if letter { Invariant::I8 } else { Invariant::I7 };
        let loose = delivery_loose(self, number);
        self.demand(right || loose || known_unsure(self, number), name, || {
            format!("the receipt of delivery {number} says {outcome:?} after {attempts} attempts, {state:?}")
        });
        if skipped && matches!(outcome, Outcome::Skipped(_)) && state != State::Ended {
            self.finished(number);
        }
    }

    /// Everybody sleeps, and the close is past its deadline: nothing starts from here on.
    pub(super) fn close_is_due(&mut self) {
        if matches!(self.phase, Phase::Closing(at) if self.now >= at) {
            self.phase = Phase::Stopped;
        }
    }

    /// A dead letter's future was dropped before it was confirmed.
    pub(super) fn letter_dropped(&mut self, number: u32) {
        let delivery = &self.deliveries[number as usize];
        if delivery.state != State::Letter(None) {
            return;
        }
        let removed = self.generations[delivery.generation as usize].removed;
        let may = removed || self.phase != Phase::Running;
        if delivery.skipped && may {
            // By the skip, or by the end of all.
            let record = delivery.record;
            self.known[record as usize].unsure = true;
            return self.back(number);
        }
        if delivery.skipped {
            return self.finished(number);
        }
        self.demand(may, Invariant::I8, || format!("the letter of delivery {number} was dropped"));
        self.left(number);
    }

    /// The runtime has crashed: what it had is delivered again, or lost with it.
    pub(super) fn crashed(&mut self) {
        for number in self.live.clone() {
            self.back(number);
        }
        for epoch in &mut self.epochs {
            epoch.over = true;
        }
        self.life += 1;
        self.phase = Phase::Running;
        self.skips.clear();
    }

    /// Once faults have stopped: records that have no outcome.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.known).filter(|(_, known)| !known.terminal).map(|(number, _)| number)
    }

    pub(super) fn set_now(&mut self, now: Time) {
        self.now = now;
    }
}

fn delivery_loose(judge: &Judge, number: u32) -> bool {
    judge.deliveries[number as usize].loose
}

fn known_unsure(judge: &Judge, number: u32) -> bool {
    judge.known[judge.deliveries[number as usize].record as usize].unsure
}
