//! The judge: a model of what may happen, kept apart from the runtime's own state. It is told what producers,
//! handlers, dead letters and the broker see.

use std::collections::VecDeque;
use std::time::Duration;

pub(super) use super::model::{Delivery, Ended, Epoch, Generation, Known, Phase, State, Stopped};
use super::script::{After, Item, KEYLESS, KEYS, Policy};
use super::verdict::{Conviction, Invariant};
use crate::clock::Time;

/// What has been seen, and what follows from it.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) now: Time,
    /// Which runtime is alive.
    pub(super) life: u32,
    pub(super) phase: Phase,
    pub(super) known: Vec<Known>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) generations: Vec<Generation>,
    pub(super) epochs: Vec<Epoch>,
    /// Deliveries that are not settled.
    pub(super) live: Vec<u32>,
    /// A queue for each generation and key, in the order of taking.
    queues: Vec<VecDeque<u32>>,
    /// Keys that were told to skip since everybody slept.
    pub(super) skips: Vec<(u32, u32)>,
    pub(super) conviction: Option<Conviction>,
}

impl Judge {
    pub(super) fn new() -> Self {
        Self {
            now: Time::ZERO,
            life: 0,
            phase: Phase::Running,
            known: Vec::new(),
            deliveries: Vec::new(),
            generations: Vec::new(),
            epochs: Vec::new(),
            live: Vec::new(),
            queues: Vec::new(),
            skips: Vec::new(),
            conviction: None,
        }
    }

    /// Notes a violation: the first counts.
    #[cold]
    pub(super) fn convict(&mut self, invariant: Invariant, said: String) {
        if self.conviction.is_none() {
            self.conviction = Some(Conviction { invariant, said });
        }
    }

    pub(super) fn demand(
        &mut self,
        holds: bool,
        invariant: Invariant,
        said: impl FnOnce() -> String,
    ) {
        if !holds {
            self.convict(invariant, said());
        }
    }

    pub(super) fn know(&mut self, item: Item, to: usize, log: Option<(usize, u64)>) -> u32 {
        let known =
            Known { item, to, log, terminal: false, unsure: false, plays: 0, delivery: None };
        self.known.push(known);
        self.known.len() as u32 - 1
    }

    pub(super) fn subscribed(&mut self, of: usize, policy: Policy) -> u32 {
        let life = self.life;
        let generation = Generation {
            of,
            life,
            policy,
            version: 0,
            replaced: Vec::new(),
            stopped: Stopped::No,
            removed: false,
            gone: false,
            seen: [0; KEYS as usize],
        };
        self.generations.push(generation);
        self.queues.resize_with(self.generations.len() * KEYS as usize, VecDeque::new);
        self.generations.len() as u32 - 1
    }

    /// A record is offered to the runtime, under a number of its own.
    pub(super) fn offer(
        &mut self,
        record: u32,
        generation: u32,
        lane: u32,
        epoch: Option<u32>,
    ) -> u32 {
        let number = self.deliveries.len() as u32;
        let known = &mut self.known[record as usize];
        known.delivery = Some(number);
        self.deliveries.push(Delivery {
            record,
            generation,
            key: known.item.key,
            lane,
            epoch,
            state: State::Offered,
            attempts: 0,
            began: Time::ZERO,
            ready: None,
            blocking: false,
            version: 0,
            panicked: false,
            skipped: false,
            loose: false,
        });
        number
    }

    /// The delivery of a record that was taken in this assignment.
    pub(super) fn taken_in(&self, record: u32, epoch: u32) -> Option<u32> {
        self.known[record as usize].delivery.filter(|&number| {
            let delivery = &self.deliveries[number as usize];
            delivery.epoch == Some(epoch) && delivery.state != State::Refused
        })
    }

    /// It was taken.
    pub(super) fn taken(&mut self, number: u32) {
        let delivery = &mut self.deliveries[number as usize];
        delivery.state = State::Queued;
        let (generation, key) = (delivery.generation, delivery.key);
        self.live.push(number);
        if key != KEYLESS {
            self.queues[queue(generation, key)].push_back(number);
        }
    }

    /// It was refused, and its record given back.
    pub(super) fn refused(&mut self, number: u32, whole: bool) {
        let delivery = &mut self.deliveries[number as usize];
        delivery.state = State::Refused;
        let said = || format!("delivery {number} was refused and came back as another record");
        self.demand(whole, Invariant::I10, said);
    }

    /// Whether anything of it may still be started.
    pub(super) fn is_open(&self, delivery: &Delivery) -> bool {
        let generation = &self.generations[delivery.generation as usize];
        let open = |epoch: u32| {
            let epoch = &self.epochs[epoch as usize];
            !epoch.over && epoch.stopped == Stopped::No
        };
        generation.life == self.life
            && generation.stopped == Stopped::No
            && !generation.removed
            && delivery.epoch.is_none_or(open)
    }

    /// Whether it keeps later records of its key from being started.
    fn blocks(&self, delivery: &Delivery) -> bool {
        match delivery.state {
            State::Running => true,
            State::Letter(None) => !delivery.skipped,
            State::Queued | State::Retry(_) | State::Letter(Some(_)) => {
                !delivery.skipped && self.is_open(delivery)
            }
            State::Offered | State::Ended | State::Back | State::Refused => false,
        }
    }

    /// The first delivery of its key that must end before it.
    pub(super) fn before(&self, number: u32) -> Option<u32> {
        let delivery = &self.deliveries[number as usize];
        if delivery.key == KEYLESS {
            return None;
        }
        self.queues[queue(delivery.generation, delivery.key)]
            .iter()
            .copied()
            .take_while(|&earlier| earlier != number)
            .find(|&earlier| self.blocks(&self.deliveries[earlier as usize]))
    }

    /// Whether an earlier one of its key may keep it waiting.
    pub(super) fn may_wait(&self, number: u32) -> bool {
        let delivery = &self.deliveries[number as usize];
        self.queues[queue(delivery.generation, delivery.key)]
            .iter()
            .take_while(|&&earlier| earlier != number)
            .map(|&earlier| &self.deliveries[earlier as usize])
            .any(|earlier| earlier.skipped || self.blocks(earlier))
    }

    fn demand_turn(&mut self, number: u32, does: &str) {
        let Some(earlier) = self.before(number) else { return };
        let state = self.deliveries[earlier as usize].state;
        let invariant = if state == State::Running { Invariant::I5 } else { Invariant::I3 };
        let key = self.deliveries[number as usize].key;
        let said =
            format!("delivery {number} of key {key} {does} before {earlier}, which is {state:?}");
        self.convict(invariant, said);
    }

    /// An attempt starts. `parked`: its key is listed as parked.
    pub(super) fn started(
        &mut self,
        number: u32,
        version: u32,
        attempt: u32,
        blocking: bool,
        parked: bool,
    ) {
        let delivery = &self.deliveries[number as usize];
        let generation = &self.generations[delivery.generation as usize];
        let (key, state, life) = (delivery.key, delivery.state, self.life);
        let (gone, stopped) = (generation.removed, generation.stopped == Stopped::Yes);
        let replaced = generation.replaced.contains(&version);
        let (alive, due, phase) = (generation.life == life, delivery.attempts + 1, self.phase);
        let epoch = delivery.epoch.map(|epoch| &self.epochs[epoch as usize]);
        let over = epoch.is_some_and(|epoch| epoch.over);
        let halted = stopped || epoch.is_some_and(|epoch| epoch.stopped == Stopped::Yes);
        let offset = self.known[delivery.record as usize].log.map_or(0, |(_, offset)| offset);
        let again = epoch.is_some_and(|epoch| epoch.resumed.is_finished(offset));
        let of = || format!("delivery {number} of key {key}");
        self.demand(state != State::Refused, Invariant::I10, || {
            format!("{} was refused and starts", of())
        });
        self.demand(alive, Invariant::I4, || format!("{} of an earlier runtime starts", of()));
        self.demand(state != State::Running, Invariant::I5, || {
            format!("{} starts twice at once", of())
        });
        let may = matches!(state, State::Queued | State::Retry(_));
        self.demand(may, Invariant::I7, || format!("{} starts, being {state:?}", of()));
        self.demand(attempt == due, Invariant::I7, || {
            format!("{}: attempt {attempt} after {}", of(), due - 1)
        });
        self.demand(phase != Phase::Stopped, Invariant::I15, || {
            format!("{} starts after the stop", of())
        });
        // A blocking call may have waited for a thread since.
        let retries = attempt > 1 && !blocking && matches!(phase, Phase::Closing(_));
        self.demand(!retries, Invariant::I15, || {
            format!("{} is tried again during the close", of())
        });
        self.demand(!gone, Invariant::I20, || format!("{} starts after its removal", of()));
        self.demand(!over, Invariant::I4, || {
            format!("{} starts though its assignment is over", of())
        });
        self.demand(!halted, Invariant::I3, || {
            format!("{} starts after the failure that stops it", of())
        });
        self.demand(!again, Invariant::I6, || {
            format!("{} was finished by the position it began with", of())
        });
        let let_through = parked && attempt == 1 && !blocking;
        self.demand(!let_through, Invariant::I3, || {
            format!("{} starts though its key is parked", of())
        });
        self.demand(!replaced, Invariant::I19, || {
            format!("{} starts with handler {version} after its swap has ended", of())
        });
        self.demand_turn(number, "starts");
        let now = self.now;
        let delivery = &mut self.deliveries[number as usize];
        (delivery.state, delivery.attempts, delivery.began) = (State::Running, attempt, now);
        (delivery.version, delivery.ready, delivery.panicked) = (version, None, false);
        (delivery.blocking, delivery.skipped) = (blocking, false);
        let (record, generation) = (delivery.record, delivery.generation);
        self.known[record as usize].plays += 1;
        if key == KEYLESS {
            return;
        }
        let seen = &mut self.generations[generation as usize].seen[key as usize];
        let before = std::mem::replace(seen, version.max(*seen));
        self.demand(version >= before, Invariant::I19, || {
            format!("delivery {number}: handler {version} of key {key} after {before}")
        });
    }

    /// An attempt ends.
    pub(super) fn ended(&mut self, number: u32, how: Ended) {
        let delivery = &self.deliveries[number as usize];
        let (state, attempts) = (delivery.state, delivery.attempts);
        if state == State::Back && delivery.blocking {
            // Left behind by a close.
            return;
        }
        let (blocking, record) = (delivery.blocking, delivery.record);
        let removed = self.generations[delivery.generation as usize].removed;
        let policy = self.generations[delivery.generation as usize].policy;
        self.demand(state == State::Running, Invariant::I7, || {
            format!("delivery {number} ends, being {state:?}")
        });
        let deadline = Duration::from_millis(policy.deadline.into());
        let expired = policy.deadline > 0
            && self.now >= delivery_deadline(&self.deliveries[number as usize], deadline);
        let closing = self.phase != Phase::Running;
        self.deliveries[number as usize].panicked = how == Ended::Panicked;
        let late = matches!(self.phase, Phase::Closing(at) if self.now >= at);
        if blocking && (removed || late || self.phase == Phase::Stopped) {
            // It may have been left behind.
            self.known[record as usize].unsure = true;
            return self.back(number);
        }
        self.deliveries[number as usize].loose = blocking;
        match how {
            Ended::Done => return self.finished(number),
            // The end of all, or of its subscription, drops a future; else only its deadline does.
            Ended::Dropped if removed || late || self.phase == Phase::Stopped => {
                self.known[record as usize].unsure |= expired;
                return self.back(number);
            }
            Ended::Dropped => self.demand(expired, Invariant::I7, || {
                format!("the attempt of delivery {number} was dropped")
            }),
            _ => {}
        }
        if how != Ended::Fatal && attempts < policy.attempts {
            if closing || removed {
                return self.left(number);
            }
            let by = self.now.after(Duration::from_micros(policy.pause.into()));
            return self.set(number, State::Retry(by));
        }
        if removed {
            // It depends on whether its policy was still at hand.
            let record = self.deliveries[number as usize].record;
            self.known[record as usize].unsure = true;
            return self.back(number);
        }
        match policy.after {
            After::Skip => self.finished(number),
            After::Stop => self.halt(number),
            After::DeadLetter | After::Park => self.set(number, State::Letter(Some(self.now))),
        }
    }

    /// A failure stops what the delivery came from.
    pub(super) fn halt(&mut self, number: u32) {
        let delivery = &self.deliveries[number as usize];
        let stopped = if delivery.blocking { Stopped::Soon } else { Stopped::Yes };
        match delivery.epoch {
            Some(epoch) => self.epochs[epoch as usize].stopped = stopped,
            None => self.generations[delivery.generation as usize].stopped = stopped,
        }
        self.left(number);
    }

    /// It will not be tried again, and stays unfinished: what comes after it must not start, unless all of that
    /// has ended.
    pub(super) fn left(&mut self, number: u32) {
        let never = Time::from_nanos(u64::MAX);
        self.set(number, State::Retry(never));
    }

    pub(super) fn set(&mut self, number: u32, state: State) {
        let told = self.skips.contains(&{
            let delivery = &self.deliveries[number as usize];
            (delivery.generation, delivery.key)
        });
        let delivery = &mut self.deliveries[number as usize];
        delivery.state = state;
        delivery.skipped |= told && matches!(state, State::Retry(_) | State::Letter(_));
    }

    /// It has its outcome.
    pub(super) fn finished(&mut self, number: u32) {
        self.settle(number, State::Ended);
        let record = self.deliveries[number as usize].record;
        self.known[record as usize].terminal = true;
    }

    /// It is given back, or will be delivered again.
    pub(super) fn back(&mut self, number: u32) {
        self.settle(number, State::Back);
    }

    fn settle(&mut self, number: u32, state: State) {
        let delivery = &mut self.deliveries[number as usize];
        delivery.state = state;
        let (generation, key) = (delivery.generation, delivery.key);
        self.live.retain(|&live| live != number);
        if key != KEYLESS {
            self.queues[queue(generation, key)].retain(|&queued| queued != number);
        }
    }

    /// A dead letter is sent.
    pub(super) fn letter(&mut self, number: u32, attempts: u32, whole: bool) {
        let delivery = &self.deliveries[number as usize];
        let (state, made) = (delivery.state, delivery.attempts);
        if state == State::Back && self.known[delivery.record as usize].unsure {
            // Its policy was still at hand when its subscription went.
            return;
        }
        let follows = state == State::Queued && attempts == 0;
        let may = matches!(state, State::Letter(_)) || follows;
        self.demand(may, Invariant::I8, || {
            format!("a letter of delivery {number}, which is {state:?}")
        });
        let whole = whole && attempts == made;
        self.demand(whole, Invariant::I8, || {
            format!("the letter of delivery {number} is not whole")
        });
        self.demand_turn(number, "goes to the dead letters");
        self.set(number, State::Letter(None));
    }

    /// What the dead letters said. `full`: as many keys are parked as may be.
    pub(super) fn answered(&mut self, number: u32, said: Result<(), Ended>, full: bool) {
        if self.deliveries[number as usize].state != State::Letter(None) {
            return;
        }
        let delivery = &self.deliveries[number as usize];
        let generation = &self.generations[delivery.generation as usize];
        let (removed, closing) = (generation.removed, self.phase != Phase::Running);
        let parks = generation.policy.after == After::Park && delivery.attempts > 0;
        match said {
            Ok(()) if parks && full && delivery.key != KEYLESS && removed => {
                let record = delivery.record;
                self.known[record as usize].unsure = true;
                self.back(number);
            }
            Ok(()) if parks && full && delivery.key != KEYLESS => self.halt(number),
            Ok(()) => self.finished(number),
            Err(_) if removed => self.back(number),
            Err(Ended::Fatal) => self.halt(number),
            Err(_) if closing => self.left(number),
            Err(_) => {
                self.set(number, State::Letter(Some(self.now.after(Duration::from_secs(10)))))
            }
        }
    }
}

fn delivery_deadline(delivery: &Delivery, deadline: Duration) -> Time {
    delivery.began.after(deadline)
}

fn queue(generation: u32, key: u32) -> usize {
    (generation * KEYS + key) as usize
}
