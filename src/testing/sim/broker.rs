//! The broker's side: publishing, the consume loop of each partition, commits, assignments.

use std::rc::Rc;
use std::time::Duration;

use super::coverage::Fault;
use super::judge::Epoch;
use super::script::{FED, Item, KEYLESS, PARTITIONS};
use super::stage::Flag;
use super::verdict::Invariant;
use super::world::{World, key_name};
use crate::clock::Time;
use crate::delivery::DeliverError;
use crate::position::Stored;
use crate::source::{Source, SourceOptions};
use crate::undelivered::Undelivered;

/// How long a frontier may have moved without being committed.
const COMMIT: Duration = Duration::from_millis(5);
/// Records that a step of the loop delivers.
const TURN: usize = 3;

pub(super) fn publish(world: &World, partition: usize, item: Item) -> u32 {
    let gap = world.random.borrow_mut().below(world.script.setup.gaps + 1);
    let mut feeds = world.feeds.borrow_mut();
    let feed = &mut feeds[partition];
    let offset = feed.next_offset + gap;
    feed.next_offset = offset + 1;
    let record = world.judge.borrow_mut().know(item, FED[partition], Some((partition, offset)));
    feed.log.push((offset, record));
    feed.flag.raise();
    record
}

/// Ends the assignment of a partition, if it has one.
pub(super) fn revoke(world: &World, partition: usize, commits: bool) {
    if commits {
        advance(world, partition);
        commit(world, partition);
    }
    let (source, epoch) = {
        let mut feeds = world.feeds.borrow_mut();
        (feeds[partition].source.take(), feeds[partition].epoch)
    };
    if source.is_some() {
        drop(source);
        world.judge.borrow_mut().epochs[epoch as usize].over = true;
        world.note(20, partition as u64, || format!("partition {partition} is taken away"));
    }
}

/// Begins an assignment where the partition is committed. False if its subscription is not there.
pub(super) fn assign(world: &World, partition: usize) -> bool {
    let subscriber = {
        let subscribed = world.subscribed.borrow();
        match &subscribed[FED[partition]] {
            Some(own) if !own.leaving => own.subscriber.clone(),
            _ => return false,
        }
    };
    let flag = Flag::raised();
    let stored = world.feeds.borrow()[partition].stored.clone();
    let options = SourceOptions {
        window: None,
        resume: Some(stored.clone()),
        waker: flag.clone().into(),
        name: format!("p{partition}").into(),
    };
    let Ok(source) = subscriber.source(options) else { return false };
    let mut judge = world.judge.borrow_mut();
    let epoch = judge.epochs.len() as u32;
    let frontier = stored.frontier();
    judge.epochs.push(Epoch { resumed: stored, stopped: super::judge::Stopped::No, over: false });
    drop(judge);
    let mut feeds = world.feeds.borrow_mut();
    let feed = &mut feeds[partition];
    feed.next = feed.log.partition_point(|&(offset, _)| offset < frontier);
    (feed.source, feed.epoch, feed.flag) = (Some(source), epoch, flag);
    (feed.full, feed.asleep, feed.changed) = (None, None, false);
    drop(feeds);
    world.note(21, partition as u64, || {
        format!("partition {partition} is assigned from {frontier} on")
    });
    true
}

/// A step of the loop.
pub(super) fn pump(world: &Rc<World>, partition: usize) {
    advance(world, partition);
    let mut delivered = 0;
    while delivered < TURN && deliver(world, partition) {
        delivered += 1;
    }
    with_source(world, partition, Source::ring);
    let now = world.now();
    let due = now.since(world.feeds.borrow()[partition].committed) >= COMMIT;
    if due {
        world.feeds.borrow_mut()[partition].committed = now;
        commit(world, partition);
    }
    if delivered == 0 {
        sleep(world, partition, now);
    }
}

/// What was delivered last comes again, as after a recovery that keeps its assignment.
pub(super) fn redeliver(world: &World, partition: usize, back: usize) {
    let mut feeds = world.feeds.borrow_mut();
    let feed = &mut feeds[partition];
    if feed.source.is_none() {
        return;
    }
    feed.next = feed.next.saturating_sub(back);
    feed.flag.raise();
    let next = feed.next;
    drop(feeds);
    world.note(24, next as u64, || {
        format!("partition {partition} is delivered again from {next} on")
    });
}

fn with_source<R>(world: &World, partition: usize, f: impl FnOnce(&mut Source) -> R) -> Option<R> {
    world.feeds.borrow_mut()[partition].source.as_mut().map(f)
}

fn advance(world: &World, partition: usize) {
    world.feeds.borrow_mut()[partition].flag.lower();
    let changed = with_source(world, partition, |source| {
        source.ledger().cancel_wait();
        source.ledger().advance(|_| ())
    });
    let mut feeds = world.feeds.borrow_mut();
    feeds[partition].changed |= changed == Some(true);
    feeds[partition].asleep = None;
}

/// Delivers the next record. False if it could not.
fn deliver(world: &World, partition: usize) -> bool {
    let (offset, record, epoch) = {
        let feeds = world.feeds.borrow();
        let feed = &feeds[partition];
        match (feed.log.get(feed.next), &feed.source) {
            (Some(&(offset, record)), Some(source)) if !source.is_stopped() => {
                (offset, record, feed.epoch)
            }
            _ => return false,
        }
    };
    let (generation, lane) = {
        let subscribed = world.subscribed.borrow();
        let Some(own) = &subscribed[FED[partition]] else { return false };
        (own.generation, lane_of(world, record, &own.subscriber))
    };
    let before = world.judge.borrow().taken_in(record, epoch);
    let number = world.judge.borrow_mut().offer(record, generation, lane, Some(epoch));
    let made = world.record(record, number);
    let said = with_source(world, partition, |source| source.put(made));
    let mut judge = world.judge.borrow_mut();
    let mut feeds = world.feeds.borrow_mut();
    let feed = &mut feeds[partition];
    feed.full = None;
    let mut passed = false;
    let back = match said {
        Some(Ok(())) => {
            judge.demand(before.is_none(), Invariant::I6, || {
                format!("{offset} of {partition} is taken twice in one assignment")
            });
            judge.taken(number);
            feed.next += 1;
            drop((judge, feeds));
            world.note(22, number.into(), || {
                format!("delivery {number} is record {record} at {offset} of {partition}")
            });
            return true;
        }
        Some(Err(Undelivered::Full(back))) => {
            // Where one without a key goes, only the runtime knows.
            feed.full = (back.key().is_some()).then_some(lane);
            back
        }
        Some(Err(Undelivered::Ledger(DeliverError::InFlight, back))) => {
            judge.demand(before.is_some(), Invariant::I1, || {
                format!("{offset} of {partition} was never taken and counts as taken")
            });
            feed.next += 1;
            passed = true;
            back
        }
        Some(Err(Undelivered::Ledger(
            DeliverError::AlreadyFinished | DeliverError::Passed,
            back,
        ))) => {
            let known = &judge.known[record as usize];
            let skipped = before.is_some_and(|before| judge.deliveries[before as usize].skipped);
            let may = known.terminal || known.unsure || skipped || feed.stored.is_finished(offset);
            judge.demand(may, Invariant::I2, || {
                format!("{offset} of {partition} counts as finished")
            });
            feed.next += 1;
            passed = true;
            back
        }
        Some(Err(
            Undelivered::Ledger(DeliverError::WindowFull, back)
            | Undelivered::Bytes(back)
            | Undelivered::Stopped(back),
        )) => back,
        Some(Err(Undelivered::Ledger(error, back))) => {
            judge.convict(Invariant::I4, format!("{offset} of {partition}: {error}"));
            back
        }
        Some(Err(Undelivered::Key(refusal, back))) => {
            judge.convict(Invariant::I10, format!("{offset} of {partition}: {refusal}"));
            back
        }
        None => return false,
    };
    drop((judge, feeds));
    let full = world.feeds.borrow()[partition].full.is_some();
    if full {
        world.meets(Fault::Full);
    }
    let whole = world.is_whole(record, &back);
    let mut judge = world.judge.borrow_mut();
    judge.refused(number, whole);
    if before.is_some() {
        // The one that was taken goes on.
        judge.known[record as usize].delivery = before;
    }
    passed
}

/// The lane of a record; of one without a key any, since nothing is demanded of it.
pub(super) fn lane_of(
    world: &World,
    record: u32,
    subscriber: &crate::subscriber::Subscriber,
) -> u32 {
    match world.judge.borrow().known[record as usize].item.key {
        KEYLESS => 0,
        key => world.node().core.router.route(subscriber.entry.generation, &key_name(key)).lane,
    }
}

/// Stores how far the partition has come.
pub(super) fn commit(world: &World, partition: usize) {
    let mut feeds = world.feeds.borrow_mut();
    let feed = &mut feeds[partition];
    if !std::mem::take(&mut feed.changed) {
        return;
    }
    let Some(stored) = feed.source.as_mut().and_then(|source| source.ledger().stored()) else {
        return;
    };
    world.judge.borrow_mut().committed(partition, &feed.stored, &stored, &feed.log);
    let text = stored.encode(world.script.setup.stored).text;
    feed.stored = Stored::decode(&text).unwrap_or_else(|_| Stored::new(stored.frontier()));
    drop(feeds);
    world.note(23, stored.frontier(), || {
        format!("partition {partition} is committed: {}", stored.frontier())
    });
}

/// Sleeps until something is published or finished, or a commit is due.
fn sleep(world: &World, partition: usize, now: Time) {
    let mut feeds = world.feeds.borrow_mut();
    let feed = &mut feeds[partition];
    let Some(source) = &mut feed.source else { return };
    let full = feed.next < feed.log.len() && source.ledger().is_full();
    let until = if feed.changed {
        feed.committed.after(COMMIT).max(now)
    } else {
        Time::from_nanos(u64::MAX)
    };
    let may = !full && feed.changed
        || source.ledger().unfinished() == 0
        || source.ledger().prepare_wait();
    feed.asleep = may.then_some(until);
}

/// What every partition has: for the end.
pub(super) fn settle(world: &World) {
    for partition in 0..PARTITIONS {
        advance(world, partition);
        commit(world, partition);
    }
}
