//! Who makes the next step: decided by the seed among all that can.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::judge::Phase;
use super::script::PARTITIONS;
use super::stage::Flag;
use super::verdict::Invariant;
use super::world::{Wait, Waiting, World, alive};
use super::{act, broker, play};
use crate::clock::Time;
use crate::parker::Parker;

/// More steps than any simulation takes.
const MOST: u64 = 60_000;
/// How deep threads may be in the middle of something.
const DEPTH: u32 = 5;
/// Moments of sleep that a close may take after its deadline.
const OVERDUE: u32 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Worker(usize),
    Monitor,
    Blocking,
    Closer,
    Feed(usize),
    Wait(usize),
    Timed(usize),
}

/// Makes one step. False if nothing happens any more, or nothing more may on this stack.
pub(super) fn step(world: &Rc<World>) -> bool {
    let node = world.node();
    if world.is_over() || node.is_over() {
        return false;
    }
    world.steps.set(world.steps.get() + 1);
    if world.steps.get() > MOST {
        let said = "it never comes to rest".to_owned();
        world.judge.borrow_mut().convict(Invariant::I18, said);
        return false;
    }
    node.collect();
    let (choices, held) = choices(world);
    let left = world.played.get() < world.script.actions.len() && !world.closing.get();
    let eager = world.script.setup.eager;
    if !choices.is_empty() {
        if left && world.random.borrow_mut().percent(eager) {
            act::next(world);
        } else {
            let (choice, moves) = {
                let mut random = world.random.borrow_mut();
                let moves = random.percent(6).then(|| random.below(400_000));
                (choices[random.below(choices.len() as u64) as usize], moves)
            };
            if let Some(by) = moves {
                world.advance_to(world.now().after(Duration::from_nanos(by)));
            }
            make(world, choice);
        }
        return true;
    }
    if !held && world.depth.get() == 0 && node.is_unwound() {
        quiet(world);
    }
    overdue(world);
    if left && world.random.borrow_mut().percent(75) {
        act::next(world);
        return true;
    }
    if held {
        return release(world);
    }
    match next_time(world) {
        Some(next) => {
            world.advance_to(next);
            true
        }
        None if left => {
            act::next(world);
            true
        }
        None => false,
    }
}

/// Everybody who can make a step; and whether there are more, who are held.
fn choices(world: &World) -> (Vec<Choice>, bool) {
    let (node, now, step) = (world.node(), world.now(), world.steps.get());
    let (mut choices, mut held) = (Vec::with_capacity(16), false);
    let mut add = |choice: Choice, until: u64| {
        if until > step {
            held = true;
        } else {
            choices.push(choice);
        }
    };
    for id in 0..node.workers() {
        if node.worker_runs(id, now) {
            add(Choice::Worker(id), node.worker_held(id));
        }
    }
    if node.monitor_runs(now) {
        add(Choice::Monitor, node.monitor_held());
    }
    let deep = world.depth.get() >= DEPTH;
    if node.blocking_runs() {
        add(Choice::Blocking, if deep { 0 } else { node.blocking_held.get() });
    }
    if node.closer_runs() && !deep {
        add(Choice::Closer, 0);
    }
    for feed in world.feeds.borrow().iter() {
        if feed.runs(now) {
            add(Choice::Feed(feed.partition), feed.held);
        }
    }
    for (index, waiting) in world.waits.borrow().iter().enumerate() {
        if waiting.flag.is_up() {
            add(Choice::Wait(index), 0);
        }
    }
    for (index, timed) in world.timed.borrow().iter().enumerate() {
        if !timed.woken && timed.due <= now {
            add(Choice::Timed(index), 0);
        }
    }
    (choices, held)
}

/// Lets those go who are held: nobody else can do anything.
fn release(world: &World) -> bool {
    let node = world.node();
    (0..node.workers()).for_each(|id| node.hold_worker(id, 0));
    node.hold_monitor(0);
    node.blocking_held.set(0);
    world.feeds.borrow_mut().iter_mut().for_each(|feed| feed.held = 0);
    true
}

fn make(world: &Rc<World>, choice: Choice) {
    let node = world.node();
    let (what, number) = match choice {
        Choice::Worker(id) => (40, id),
        Choice::Monitor => (41, 0),
        Choice::Blocking => (42, 0),
        Choice::Closer => (43, 0),
        Choice::Feed(partition) => (44, partition),
        Choice::Wait(index) => (45, index),
        Choice::Timed(index) => (46, index),
    };
    world.note(what, number as u64, || format!("{choice:?}"));
    world.depth.set(world.depth.get() + 1);
    match choice {
        Choice::Worker(id) => node.step_worker(id),
        Choice::Monitor => node.step_monitor(world.now()),
        Choice::Blocking => node.step_blocking(),
        Choice::Closer => node.step_closer(),
        Choice::Feed(partition) => broker::pump(world, partition),
        Choice::Wait(index) => poll(world, index),
        Choice::Timed(index) => wake(world, index),
    }
    world.depth.set(world.depth.get() - 1);
}

fn wake(world: &World, index: usize) {
    let waker = {
        let mut timed = world.timed.borrow_mut();
        timed[index].woken = true;
        timed[index].waker.clone()
    };
    waker.wake();
}

/// When the next thing happens by itself.
fn next_time(world: &World) -> Option<Time> {
    let now = world.now();
    let feeds = world.feeds.borrow();
    let feeds = feeds.iter().filter(|feed| feed.source.is_some()).filter_map(|feed| feed.asleep);
    let timed = world.timed.borrow();
    let timed = timed.iter().filter(|timed| !timed.woken).map(|timed| timed.due);
    let sleepers = world.sleepers.borrow();
    let all = feeds.chain(timed).chain(sleepers.iter().copied()).chain(world.node().next());
    all.filter(|&time| time > now && time.as_nanos() < u64::MAX).min()
}

/// Everybody sleeps.
fn quiet(world: &World) {
    let setup = &world.script.setup;
    let core = world.node().core.clone();
    let mut judge = world.judge.borrow_mut();
    judge.close_is_due();
    let is_empty = |lane: u32| {
        let lane = core.lanes.get(lane);
        lane.ring().is_at_rest() && lane.counters.held.get() == 0
    };
    judge.quiet(setup, |generation, key| play::is_parked(world, generation, key), is_empty);
    if let (Some(conviction), Some(lines)) = (&judge.conviction, &mut *world.lines.borrow_mut()) {
        lines.push(format!("everybody sleeps: {conviction}"));
        for (number, lane) in core.lanes.iter().enumerate() {
            let (queued, held) = (lane.ring().len(), lane.counters.held.get());
            let (keys, rests) = (lane.counters.keys.get(), lane.ring().is_at_rest());
            lines.push(format!(
                "lane {number}: {queued} queued, {held} held of {keys} keys, rests: {rests}"
            ));
        }
    }
    if judge.phase != Phase::Running {
        return;
    }
    let room = |lane: u32| core.lanes.get(lane).ring().len() < setup.slots;
    for waiting in world.waits.borrow().iter() {
        if let Wait::Submit { number, lane, until, .. } = &waiting.wait
            && judge.deliveries[*number as usize].key != super::script::KEYLESS
        {
            judge.demand(!room(*lane), Invariant::I11, || {
                format!("delivery {number} waits and there is room")
            });
            let late = world.now() > *until;
            judge.demand(!late, Invariant::I11, || {
                format!("delivery {number} waits longer than it may")
            });
        }
    }
    for feed in world.feeds.borrow_mut().iter_mut() {
        if let (Some(lane), Some(source)) = (feed.full, &feed.source) {
            let may = !room(lane) || source.is_stopped();
            judge.demand(may, Invariant::I11, || {
                format!("partition {} waits and there is room", feed.partition)
            });
        }
        let left = feed.source.as_mut().map_or(0, |source| source.ledger().unfinished());
        judge.demand(left <= setup.window, Invariant::I13, || {
            format!("{left} deliveries in a window of {}", setup.window)
        });
    }
    for lane in 0..setup.lanes as u32 {
        let lane = core.lanes.get(lane);
        let (queued, held) = (lane.ring().len(), lane.counters.held.get() as usize);
        judge.demand(queued <= setup.slots, Invariant::I13, || {
            format!("{queued} records in {} slots", setup.slots)
        });
        judge.demand(held <= setup.lane_waiting, Invariant::I13, || {
            format!("{held} records in a gate of {}", setup.lane_waiting)
        });
    }
    for own in world.subscribed.borrow().iter().flatten() {
        let parked = own.subscriber.parked().len();
        judge.demand(parked <= setup.parked_keys, Invariant::I13, || {
            format!("{parked} keys are parked")
        });
    }
    let calls = world.node().in_calls();
    judge.demand(calls <= setup.blocking, Invariant::I13, || format!("{calls} blocking calls"));
}

/// A close that never ends.
fn overdue(world: &World) {
    let mut judge = world.judge.borrow_mut();
    let due = match judge.phase {
        Phase::Running => false,
        Phase::Closing(at) => world.now() >= at,
        Phase::Stopped => true,
    };
    if !due {
        return;
    }
    world.overdue.set(world.overdue.get() + 1);
    let said = || "the close goes on past its deadline".to_owned();
    judge.demand(world.overdue.get() < OVERDUE, Invariant::I15, said);
}

/// A thread sleeps in the middle of something: others make steps until it is called, or its time has come.
pub(super) fn sleep(life: u32, parker: &Parker, until: Option<Time>) {
    let Some(world) = alive(life) else { return };
    let until = until.unwrap_or(Time::from_nanos(u64::MAX));
    world.sleepers.borrow_mut().push(until);
    while !parker.unparker().take_call() && world.now() < until && alive(life).is_some() {
        if !step(&world) {
            if world.is_over() {
                // For whoever would wait for ever.
                world.node().crash();
            } else {
                world
                    .judge
                    .borrow_mut()
                    .convict(Invariant::I15, "the close waits for ever".to_owned());
            }
        }
    }
    world.sleepers.borrow_mut().pop();
}

/// Polls what is awaited.
fn poll(world: &Rc<World>, index: usize) {
    let own = world.waits.borrow_mut().remove(index);
    own.flag.lower();
    if let Some(own) = poll_one(world, own) {
        world.waits.borrow_mut().push(own);
    }
}

/// Polls it; it comes back if it is pending.
pub(super) fn poll_one(world: &Rc<World>, mut own: Waiting) -> Option<Waiting> {
    let waker = Waker::from(Arc::<Flag>::clone(&own.flag));
    let cx = &mut Context::from_waker(&waker);
    match &mut own.wait {
        Wait::Submit { future, number, until, .. } => {
            if until.as_nanos() == u64::MAX {
                *until =
                    world.now().after(Duration::from_millis(world.script.setup.wait_ms.into()));
            }
            match Pin::new(&mut **future).poll(cx) {
                Poll::Pending => return Some(own),
                Poll::Ready(Ok(())) => {
                    let number = *number;
                    world.judge.borrow_mut().taken(number);
                    world.note(50, number.into(), || format!("delivery {number} is taken"));
                }
                Poll::Ready(Err(refused)) => act::back(world, *number, refused),
            }
        }
        Wait::Swap { future, generation, version } => match Pin::new(future).poll(cx) {
            Poll::Pending => return Some(own),
            Poll::Ready(Ok(())) => world.judge.borrow_mut().swapped(*generation, *version),
            Poll::Ready(Err(_)) => {}
        },
        Wait::Removal { future, generation } => {
            let generation = *generation;
            let polled = Pin::new(&mut **future).poll(cx);
            note_removal(world, generation);
            match polled {
                Poll::Pending => return Some(own),
                Poll::Ready(Ok(records)) => act::removed(world, generation, &records),
                Poll::Ready(Err(error)) => {
                    world
                        .judge
                        .borrow_mut()
                        .convict(Invariant::I20, format!("a removal says {error}"));
                }
            }
        }
        Wait::Closing { future, drained } => match Pin::new(future).poll(cx) {
            Poll::Pending => return Some(own),
            Poll::Ready(report) => {
                *drained = report.drained;
                let wrong = report.drained && !report.records.is_empty();
                let mut judge = world.judge.borrow_mut();
                judge.demand(!wrong, Invariant::I15, || {
                    "a drained close gives records back".to_owned()
                });
                judge.phase = Phase::Stopped;
                drop(judge);
                report.records.iter().for_each(|(_, record)| act::returned(world, record));
            }
        },
        Wait::Receipt { future, number } => match Pin::new(future).poll(cx) {
            Poll::Pending => return Some(own),
            Poll::Ready(outcome) => world.judge.borrow_mut().receipt(*number, &outcome),
        },
    }
    None
}

/// A drain may have become a removal.
fn note_removal(world: &World, generation: u32) {
    let removed = world
        .subscribed
        .borrow()
        .iter()
        .flatten()
        .any(|own| own.generation == generation && own.subscriber.entry.state.is_removed());
    if removed {
        world.judge.borrow_mut().generations[generation as usize].removed = true;
    }
}

/// Partitions, for those who look at all of them.
pub(super) fn partitions() -> std::ops::Range<usize> {
    0..PARTITIONS
}
