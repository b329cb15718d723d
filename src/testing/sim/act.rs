//! The script's actions, done to the runtime.

use std::rc::Rc;
use std::time::Duration;

use super::broker;
use super::coverage::Fault;
use super::judge::Phase;
use super::play;
use super::script::{Action, FED, Item, KEYLESS, PARTITIONS, SUBSCRIPTIONS, Via};
use super::stage::{Flag, Node};
use super::verdict::Invariant;
use super::world::{Subscribed, Wait, Waiting, World, key_name};
use crate::clock::Time;
use crate::context::InHandler;
use crate::record::Record;
use crate::submit::{Refusal, SubmitError};

/// Does the next action of the script.
pub(super) fn next(world: &Rc<World>) {
    let index = world.played.get();
    world.played.set(index + 1);
    let action = world.script.actions[index].clone();
    world.note(30, index as u64, || format!("{action:?}"));
    act(world, action);
}

fn act(world: &Rc<World>, action: Action) {
    let held = |steps: u32| world.steps.get() + u64::from(steps);
    match action {
        Action::Submit { to, via, item } => {
            let record = world.judge.borrow_mut().know(item, to, None);
            submit(world, record, via);
        }
        Action::Batch { to, items } => batch(world, to, &items),
        Action::Publish { partition, item } => {
            broker::publish(world, partition, item);
        }
        Action::Swap { of, kind } => swap(world, of, kind),
        Action::Remove { of } => remove(world, of, None),
        Action::CloseOne { of, ms } => remove(world, of, Some(ms)),
        Action::Resume { of, key } => command(world, of, Fault::Resume, |own| {
            own.subscriber.resume(&key_name(key));
        }),
        Action::Park { of, key } => command(world, of, Fault::Park, |own| {
            own.subscriber.park(&key_name(key));
        }),
        Action::Skip { of, key } => command(world, of, Fault::Skip, |own| {
            own.subscriber.skip(&key_name(key));
            world.judge.borrow_mut().skip(own.generation, key);
        }),
        Action::Reassign { partition, commits } => {
            if is_read(world, partition) {
                world.meets(Fault::Reassign);
            }
            broker::revoke(world, partition, commits);
            broker::assign(world, partition);
        }
        Action::Redeliver { partition, back } => {
            if is_read(world, partition) {
                world.meets(Fault::Redeliver);
            }
            broker::redeliver(world, partition, back as usize);
        }
        Action::Crash => {
            world.meets(Fault::Crash);
            world.node().crash();
            world.judge.borrow_mut().crashed();
        }
        Action::Close { ms } => {
            if !world.closing.get() {
                world.meets(Fault::Close);
            }
            close(world, ms);
        }
        Action::StopNow => {
            let runtime = world.node().runtime.borrow().clone();
            if let Some(runtime) = runtime {
                world.meets(Fault::StopNow);
                runtime.stop_now();
                world.judge.borrow_mut().phase = Phase::Stopped;
                close(world, 0);
            }
        }
        Action::Jump { ms } => {
            world.meets(Fault::Jump);
            world.advance_to(world.now().after(Duration::from_millis(ms.into())));
        }
        Action::HoldWorker { worker, steps } => {
            world.meets(Fault::HoldWorker);
            world.node().hold_worker(worker, held(steps));
        }
        Action::HoldMonitor { steps } => {
            world.meets(Fault::HoldMonitor);
            world.node().hold_monitor(held(steps));
        }
        Action::HoldBlocking { steps } => {
            world.meets(Fault::HoldBlocking);
            world.node().blocking_held.set(held(steps));
        }
        Action::HoldFeed { partition, steps } => {
            if is_read(world, partition) {
                world.meets(Fault::HoldFeed);
            }
            world.feeds.borrow_mut()[partition].held = held(steps);
        }
        Action::Within { to, item } => world.within.borrow_mut().push_back((to, item)),
        Action::GiveUpSubmit => give_up(world),
        Action::Letters { posts } => world.posts.borrow_mut().extend(posts),
    }
}

/// Whether somebody reads the partition.
fn is_read(world: &World, partition: usize) -> bool {
    world.feeds.borrow()[partition].source.is_some()
}

fn command(world: &World, of: usize, fault: Fault, order: impl FnOnce(&Subscribed)) {
    if let Some(own) = &world.subscribed.borrow()[of] {
        world.meets(fault);
        order(own);
    }
}

/// Inside a handler: submits what the script has for the next one that runs.
pub(super) fn submit_within(world: &Rc<World>) {
    let next = world.within.borrow_mut().pop_front();
    if let Some((to, item)) = next {
        let record = world.judge.borrow_mut().know(item, to, None);
        submit(world, record, Via::Within);
    }
}

/// Submits a record, if its subscription is there.
pub(super) fn submit(world: &Rc<World>, record: u32, via: Via) {
    let to = world.judge.borrow().known[record as usize].to;
    let Some((subscriber, generation)) =
        world.subscribed.borrow()[to].as_ref().map(|own| (own.subscriber.clone(), own.generation))
    else {
        return;
    };
    let lane = broker::lane_of(world, record, &subscriber);
    let number = world.judge.borrow_mut().offer(record, generation, lane, None);
    let made = world.record(record, number);
    world.note(31, number.into(), || format!("delivery {number} is record {record}, {via:?}"));
    match via {
        Via::Try => match subscriber.try_submit(made) {
            Ok(()) => world.judge.borrow_mut().taken(number),
            Err(refused) => back(world, number, refused),
        },
        Via::Within => {
            world.meets(Fault::Within);
            let inside = InHandler::enter();
            let said = subscriber.submit(made);
            drop(inside);
            match said {
                Ok(()) => world.judge.borrow_mut().taken(number),
                Err(refused) => back(world, number, refused),
            }
        }
        Via::Tracked => {
            // As inside a handler: it does not wait.
            let inside = InHandler::enter();
            let said = subscriber.submit_tracked(made);
            drop(inside);
            match said {
                Ok(future) => {
                    world.judge.borrow_mut().taken(number);
                    wait(world, Wait::Receipt { future, number });
                }
                Err(refused) => back(world, number, refused),
            }
        }
        Via::Async => {
            let future = Box::new(subscriber.submit_async(made));
            let until = Time::from_nanos(u64::MAX);
            wait(world, Wait::Submit { future, number, lane, until });
        }
    }
}

/// A record was refused.
pub(super) fn back(world: &World, number: u32, refused: SubmitError) {
    if refused.refusal() == Refusal::Full {
        world.meets(Fault::Full);
    }
    refuse(world, number, &refused.into_record());
}

fn refuse(world: &World, number: u32, record: &Record) {
    let own = world.judge.borrow().deliveries[number as usize].record;
    let whole = world.is_whole(own, record) && record.epoch() == u64::from(number);
    world.note(32, number.into(), || format!("delivery {number} is refused"));
    world.judge.borrow_mut().refused(number, whole);
}

fn batch(world: &World, to: usize, items: &[Item]) {
    let records: Vec<u32> =
        items.iter().map(|&item| world.judge.borrow_mut().know(item, to, None)).collect();
    let Some((subscriber, generation)) =
        world.subscribed.borrow()[to].as_ref().map(|own| (own.subscriber.clone(), own.generation))
    else {
        return;
    };
    let offered: Vec<u32> = records
        .iter()
        .map(|&record| {
            let lane = broker::lane_of(world, record, &subscriber);
            world.judge.borrow_mut().offer(record, generation, lane, None)
        })
        .collect();
    let mut batch: Vec<Record> = records
        .iter()
        .zip(&offered)
        .map(|(&record, &number)| world.record(record, number))
        .collect();
    let said = subscriber.try_submit_batch(&mut batch);
    let refused: Vec<u32> = batch.iter().map(|record| record.epoch() as u32).collect();
    world.judge.borrow_mut().demand(
        refused.is_sorted() && said.is_ok() == refused.is_empty(),
        Invariant::I10,
        || format!("a batch says {said:?} and leaves {refused:?}"),
    );
    for (record, &number) in batch.iter().zip(&refused) {
        if offered.contains(&number) {
            refuse(world, number, record);
        }
    }
    let mut judge = world.judge.borrow_mut();
    for &number in offered.iter().filter(|number| !refused.contains(number)) {
        let delivery = &judge.deliveries[number as usize];
        let (lane, key) = (delivery.lane, delivery.key);
        let passed = refused.iter().any(|&before| {
            let other = &judge.deliveries[before as usize];
            before < number && other.lane == lane && other.key != KEYLESS && key != KEYLESS
        });
        judge.demand(!passed, Invariant::I3, || {
            format!("delivery {number} passes one of its batch")
        });
        judge.taken(number);
    }
    drop(judge);
    world.note(33, refused.len() as u64, || format!("a batch {offered:?} leaves {refused:?}"));
}

fn swap(world: &World, of: usize, kind: super::script::Kind) {
    let subscribed = world.subscribed.borrow();
    let Some(own) = &subscribed[of] else { return };
    world.meets(Fault::Swap);
    let (life, generation) = (world.judge.borrow().life, own.generation);
    let version = {
        let mut judge = world.judge.borrow_mut();
        let version = &mut judge.generations[generation as usize].version;
        *version += 1;
        *version
    };
    let future = own.subscriber.swap(play::handler(life, kind, version));
    wait(world, Wait::Swap { future, generation, version });
}

/// Removes a subscription, at once or once it has drained; one that is gone comes again.
pub(super) fn remove(world: &World, of: usize, drains: Option<u32>) {
    let (subscriber, generation) = {
        let mut subscribed = world.subscribed.borrow_mut();
        match &mut subscribed[of] {
            None => {
                drop(subscribed);
                return subscribe(world, of);
            }
            Some(own) if own.leaving => return,
            Some(own) => {
                own.leaving = true;
                (own.subscriber.clone(), own.generation)
            }
        }
    };
    world.meets(if drains.is_none() { Fault::Remove } else { Fault::CloseOne });
    let future = match drains {
        None => subscriber.remove(),
        Some(ms) => subscriber.close(Duration::from_millis(ms.into())),
    };
    world.judge.borrow_mut().generations[generation as usize].removed =
        subscriber.entry.state.is_removed();
    wait(world, Wait::Removal { future: Box::new(future), generation });
}

/// A removal has ended with these records.
pub(super) fn removed(world: &World, generation: u32, records: &[Record]) {
    let of = world.judge.borrow().generations[generation as usize].of;
    for record in records {
        returned(world, record);
    }
    let ends = world.judge.borrow().phase != Phase::Running;
    let mut judge = world.judge.borrow_mut();
    judge.generations[generation as usize].gone = true;
    if !ends {
        // Else the report of the close has the rest.
        judge.nothing_left(Some(generation), Invariant::I20, "removal");
    }
    drop(judge);
    for partition in (0..PARTITIONS).filter(|&partition| FED[partition] == of) {
        broker::revoke(world, partition, true);
    }
    let own = world.subscribed.borrow_mut()[of].take();
    drop(own);
    let again = world.random.borrow_mut().percent(50);
    if again || world.healed.get() {
        subscribe(world, of);
    }
}

/// A record that was submitted in process came back.
pub(super) fn returned(world: &World, record: &Record) {
    let number = record.epoch() as u32;
    let known =
        world.judge.borrow().deliveries.get(number as usize).map(|delivery| delivery.record);
    let whole = known.is_some_and(|known| world.is_whole(known, record));
    world.note(34, number.into(), || format!("delivery {number} comes back"));
    match known {
        Some(_) => world.judge.borrow_mut().returned(number, whole),
        None => world
            .judge
            .borrow_mut()
            .convict(Invariant::I10, "an unknown record comes back".to_owned()),
    }
}

/// Subscribes, and begins the partitions that feed it.
pub(super) fn subscribe(world: &World, of: usize) {
    let policy = world.script.setup.policies[of];
    let life = world.judge.borrow().life;
    let Some(runtime) = world.node().runtime.borrow().clone() else { return };
    let own = play::policy(life, &format!("s{of}"), &policy);
    let Ok(subscriber) = runtime.subscribe_handler(own, play::handler(life, policy.kind, 0)) else {
        return;
    };
    let generation = world.judge.borrow_mut().subscribed(of, policy);
    let subscribed = Subscribed { subscriber, generation, leaving: false };
    world.subscribed.borrow_mut()[of] = Some(subscribed);
    world.note(35, of as u64, || format!("s{of} is subscribed: {policy:?}"));
    for partition in (0..PARTITIONS).filter(|&partition| FED[partition] == of) {
        broker::assign(world, partition);
    }
}

/// Begins the close of the runtime.
pub(super) fn close(world: &World, ms: u32) {
    if world.closing.replace(true) {
        return;
    }
    let Some(runtime) = world.node().runtime.borrow().clone() else { return };
    let future = runtime.close_async(Duration::from_millis(ms.into()));
    let deadline = world.now().after(Duration::from_millis(ms.into()));
    let mut judge = world.judge.borrow_mut();
    if judge.phase == Phase::Running {
        judge.phase = if ms == 0 { Phase::Stopped } else { Phase::Closing(deadline) };
    }
    drop(judge);
    wait(world, Wait::Closing { future, drained: false });
}

fn give_up(world: &World) {
    let mut waits = world.waits.borrow_mut();
    let Some(index) = waits.iter().position(|own| matches!(own.wait, Wait::Submit { .. })) else {
        return;
    };
    let own = waits.remove(index);
    drop(waits);
    if let Wait::Submit { mut future, number, .. } = own.wait
        && let Some(record) = future.take_record()
    {
        world.meets(Fault::GiveUp);
        refuse(world, number, &record);
    }
}

fn wait(world: &World, wait: Wait) {
    world.waits.borrow_mut().push(Waiting { wait, flag: Flag::raised() });
}

/// Takes what is left of a runtime away and begins another.
pub(super) fn restart(world: &World) {
    put_away(world);
    let life = world.judge.borrow().life;
    let fresh = Node::build(life, world.script.seed, &world.script.setup, &world.now);
    let old = std::mem::replace(&mut *world.node.borrow_mut(), fresh);
    drop(old);
    world.closing.set(false);
    world.overdue.set(0);
    (0..SUBSCRIPTIONS).for_each(|of| subscribe(world, of));
}

/// Takes what is left of a runtime away.
pub(super) fn put_away(world: &World) {
    let node = world.node();
    node.crash();
    if world.judge.borrow().life == node.life {
        world.judge.borrow_mut().crashed();
    }
    let waits = std::mem::take(&mut *world.waits.borrow_mut());
    for own in &waits {
        if let Wait::Submit { number, .. } = own.wait {
            world.judge.borrow_mut().refused(number, true);
        }
    }
    drop(waits);
    for partition in 0..PARTITIONS {
        let source = world.feeds.borrow_mut()[partition].source.take();
        drop(source);
    }
    let subscribed = std::mem::take(&mut *world.subscribed.borrow_mut());
    drop(subscribed);
    drop(std::mem::take(&mut *world.timed.borrow_mut()));
    node.clear();
}
