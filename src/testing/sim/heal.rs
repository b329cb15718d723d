//! The course of a simulation: first the script with its faults, then the healing, after which everything must
//! get done; then a clean close, after which nothing is delivered again.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::judge::{State, Stopped};
use super::script::{FED, Item, Play, SUBSCRIPTIONS, Via};
use super::verdict::Invariant;
use super::world::{Wait, World};
use super::{act, broker, schedule};

/// Rounds of repair that any healing ends in.
const ROUNDS: u32 = 400;
/// Keys that are probed after the healing.
const PROBES: u32 = 4;

/// Plays the script, heals, probes, closes, looks whether anything comes again.
pub(super) fn run(world: &Rc<World>) {
    (0..SUBSCRIPTIONS).for_each(|of| act::subscribe(world, of));
    while !world.is_over() && world.played.get() < world.script.actions.len() {
        if !schedule::step(world) {
            renew(world);
        }
    }
    heal(world);
    settle(world);
    if world.is_over() {
        return;
    }
    for key in 0..PROBES {
        let item = Item { key, plays: [Play::Ok; 3] };
        for to in 0..FED[0] {
            let record = world.judge.borrow_mut().know(item, to, None);
            act::submit(world, record, Via::Try);
        }
        schedule::partitions().for_each(|partition| {
            broker::publish(world, partition, item);
        });
    }
    settle(world);
    close(world);
}

/// Steps until nothing happens any more.
fn rest(world: &Rc<World>) {
    while schedule::step(world) {}
    renew(world);
}

/// Replaces a runtime that has ended.
fn renew(world: &Rc<World>) {
    if world.is_over() {
        return;
    }
    let node = world.node();
    let closed = world.closing.get() && world.judge.borrow().life == node.life;
    if closed && !node.is_over() {
        end(world);
    }
    if closed || node.is_over() {
        act::restart(world);
    }
}

/// A runtime has closed and everybody sleeps for good: what it owes must have come.
fn end(world: &Rc<World>) {
    let runtime = world.node().runtime.borrow().clone();
    if let Some(runtime) = runtime {
        let mut again = std::pin::pin!(runtime.close_async(Duration::ZERO));
        match again.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(report) => {
                report.records.iter().for_each(|(_, record)| act::returned(world, record))
            }
            Poll::Pending => {
                let said = "everybody sleeps and the close has not ended".to_owned();
                world.judge.borrow_mut().convict(Invariant::I15, said);
            }
        }
    }
    // Removals first: they give records back, too.
    let mut waits = std::mem::take(&mut *world.waits.borrow_mut());
    waits.sort_by_key(|own| !matches!(own.wait, Wait::Removal { .. }));
    for own in waits {
        let name = match own.wait {
            Wait::Submit { .. } => Invariant::I10,
            Wait::Removal { .. } => Invariant::I20,
            Wait::Swap { .. } => Invariant::I19,
            Wait::Closing { .. } => Invariant::I15,
            Wait::Receipt { .. } => Invariant::I7,
        };
        if let Some(Wait::Receipt { number, .. }) =
            schedule::poll_one(world, own).map(|own| own.wait)
        {
            let said = format!("the receipt of delivery {number} has no outcome after the close");
            world.judge.borrow_mut().convict(name, said);
        }
    }
    broker::settle(world);
    let feeds = world.feeds.borrow();
    let mut judge = world.judge.borrow_mut();
    for number in 0..judge.deliveries.len() as u32 {
        let delivery = &judge.deliveries[number as usize];
        let Some((partition, offset)) = judge.known[delivery.record as usize].log else { continue };
        let feed = &feeds[partition];
        let own = delivery.epoch == Some(feed.epoch) && feed.source.is_some();
        let handled = own && delivery.state == State::Ended && !delivery.skipped && !delivery.loose;
        let covered = feed.stored.is_finished(offset) || world.script.setup.stored < 100;
        judge.demand(!handled || covered, Invariant::I15, || {
            format!("{offset} of {partition} was handled before the close and is not committed")
        });
    }
    drop(feeds);
    judge.nothing_left(None, Invariant::I15, "close");
}

/// Faults stop.
fn heal(world: &Rc<World>) {
    if world.is_over() {
        return;
    }
    world.note(60, 0, || "faults stop".to_owned());
    world.healed.set(true);
    world.scripted.set(world.judge.borrow().known.len());
    world.posts.borrow_mut().clear();
    let now = world.now();
    let mut judge = world.judge.borrow_mut();
    for timed in world.timed.borrow_mut().iter_mut() {
        if timed.due.as_nanos() == u64::MAX {
            timed.due = now;
            if let Some(number) = timed.number {
                judge.deliveries[number as usize].ready = Some(now);
            }
        }
    }
}

/// Steps and repairs until everything is done.
fn settle(world: &Rc<World>) {
    for _ in 0..ROUNDS {
        rest_for(world, Duration::from_secs(30));
        if world.is_over() {
            return;
        }
        let unfinished = world.judge.borrow().unfinished().count();
        let behind = schedule::partitions().any(|partition| is_behind(world, partition));
        if unfinished == 0 && !behind {
            return;
        }
        repair(world);
        // A letter that a skip by hand has ended is known for that once its time has passed.
        world.advance_to(world.now().after(Duration::from_secs(11)));
    }
    give_up(world);
}

/// What is never done, whoever repairs.
fn give_up(world: &World) {
    let mut judge = world.judge.borrow_mut();
    let Some(record) = judge.unfinished().next() else {
        return judge
            .convict(Invariant::I18, "a position does not come to its partition's end".to_owned());
    };
    let known = &judge.known[record as usize];
    let delivery = known.delivery.map(|number| (number, &judge.deliveries[number as usize]));
    let name = match delivery {
        Some((_, delivery)) if delivery.panicked => Invariant::I12,
        _ if known.log.is_none() => Invariant::I1,
        _ => Invariant::I18,
    };
    let state = delivery.map(|(number, delivery)| (number, delivery.state));
    let said = format!("record {record} is never done: {state:?}");
    judge.convict(name, said);
}

/// Whether there is something of the partition that is not committed.
fn is_behind(world: &World, partition: usize) -> bool {
    let feeds = world.feeds.borrow();
    let feed = &feeds[partition];
    feed.log.last().is_some_and(|&(offset, _)| !feed.stored.is_finished(offset))
}

/// Steps until nothing happens, or for so long.
fn rest_for(world: &Rc<World>, limit: Duration) {
    let until = world.now().after(limit);
    while world.now() < until && schedule::step(world) {}
    let stopped = world.closing.get() || world.node().is_over();
    if stopped {
        rest(world);
    }
}

/// What an operator would do.
fn repair(world: &Rc<World>) {
    for of in 0..SUBSCRIPTIONS {
        let own = world.subscribed.borrow()[of]
            .as_ref()
            .map(|own| (own.subscriber.clone(), own.generation, own.leaving));
        match own {
            None => act::subscribe(world, of),
            Some((subscriber, generation, leaving)) => {
                if world.judge.borrow().generations[generation as usize].stopped != Stopped::No
                    && !leaving
                {
                    act::remove(world, of, None);
                } else {
                    subscriber.parked().iter().for_each(|parked| subscriber.resume(&parked.key));
                }
            }
        }
    }
    for partition in schedule::partitions() {
        let (none, epoch) = {
            let feeds = world.feeds.borrow();
            (feeds[partition].source.is_none(), feeds[partition].epoch)
        };
        let stopped = !none && world.judge.borrow().epochs[epoch as usize].stopped != Stopped::No;
        if stopped {
            broker::revoke(world, partition, true);
        }
        if none || stopped {
            broker::assign(world, partition);
        }
    }
    let again: Vec<u32> = {
        let judge = world.judge.borrow();
        let idle = |record: &u32| {
            let known = &judge.known[*record as usize];
            let delivery = known.delivery.map(|number| judge.deliveries[number as usize].state);
            known.log.is_none() && matches!(delivery, None | Some(State::Back | State::Refused))
        };
        judge.unfinished().filter(idle).collect()
    };
    again.into_iter().for_each(|record| act::submit(world, record, Via::Try));
}

/// Everything is done: the close has nothing to give back, and nothing comes again.
fn close(world: &Rc<World>) {
    if world.is_over() {
        return;
    }
    act::close(world, 60_000);
    rest(world);
    rest_for(world, Duration::from_secs(1));
}
