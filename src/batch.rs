//! Submitting batches: grouped by lane, each group with as few claims as there is room for.

use std::cell::RefCell;

use crate::clock::Time;
use crate::context::in_handler;
use crate::core::Core;
use crate::error::PushError;
use crate::hash::Route;
use crate::record::Record;
use crate::ring::Batch;
use crate::submit::{BatchError, Refusal, route, timed, wait_for_room, work};
use crate::table::Entry;
use crate::work::{Completion, Work};

/// What a batch needs, kept by the thread so that the steady path allocates nothing.
#[derive(Default)]
struct Scratch {
    items: Vec<Item>,
    /// For each lane, what the batch has for it.
    groups: Vec<Group>,
    /// The lanes that it has something for.
    lanes: Vec<u32>,
    refused: Vec<(u32, Record)>,
}

/// A record of the batch, at its place.
struct Item {
    record: Option<Record>,
    hash: u64,
    /// The place of the next one of its lane.
    next: u32,
}

/// The records of one lane: a chain through the items, in the batch's order.
#[derive(Default, Clone, Copy)]
struct Group {
    first: u32,
    last: u32,
    count: u32,
}

/// A group on its way into its lane.
struct Chain<'a> {
    entry: &'a Entry,
    items: &'a mut [Item],
    group: Group,
}

impl Chain<'_> {
    /// The first record left, with its place.
    #[inline]
    fn take(&mut self) -> Option<(u32, Work)> {
        self.group.count = self.group.count.checked_sub(1)?;
        let place = self.group.first;
        let item = self.items.get_mut(place as usize)?;
        self.group.first = item.next;
        let record = item.record.take()?;
        Some((place, work(self.entry, record, item.hash, Completion::Untracked)))
    }
}

impl Batch<Work> for Chain<'_> {
    fn len(&self) -> usize {
        self.group.count as usize
    }

    #[inline]
    fn next(&mut self) -> Option<Work> {
        self.take().map(|(_, work)| work)
    }
}

/// Batches up to this many records leave their scratch to the next.
const KEEP: usize = 4_096;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Submits a batch: grouped by lane, each group with one claim. What is refused stays in `records`, in order;
/// once a record of a lane is refused, no later one of that lane is taken.
pub(crate) fn submit_batch(
    core: &Core,
    entry: &Entry,
    records: &mut Vec<Record>,
    wait: bool,
) -> Result<usize, BatchError> {
    let mut scratch = SCRATCH
        .try_with(|scratch| scratch.try_borrow_mut().ok().map(|mut s| std::mem::take(&mut *s)));
    let mut own = Scratch::default();
    let used = match &mut scratch {
        Ok(Some(scratch)) => scratch,
        _ => &mut own,
    };
    let result = run_batch(core, entry, records, wait, used);
    if let Ok(Some(scratch)) = scratch
        && scratch.items.capacity() <= KEEP
    {
        let _ = SCRATCH.try_with(|kept| kept.replace(scratch));
    }
    result
}

fn run_batch(
    core: &Core,
    entry: &Entry,
    records: &mut Vec<Record>,
    wait: bool,
    scratch: &mut Scratch,
) -> Result<usize, BatchError> {
    let count = records.len();
    let Scratch { items, groups, lanes, refused } = scratch;
    let mut first: Option<(u32, Refusal)> = None;
    let mut refuse = |place: u32, record, why: Refusal| {
        if first.is_none_or(|(before, _)| place < before) {
            first = Some((place, why));
        }
        why.count(&entry.state.counters.refused);
        refused.push((place, record));
    };
    if groups.len() < core.lanes.len() as usize {
        groups.resize(core.lanes.len() as usize, Group::default());
    }
    let open = entry.state.takes();
    for (place, record) in (0..).zip(records.drain(..)) {
        let routed = match route(core, entry, &record) {
            Ok(_) if !open => Err(Refusal::Stopped),
            routed => routed,
        };
        let (record, hash) = match routed {
            Ok(Route { lane, hash }) => {
                let group = &mut groups[lane as usize];
                if group.count == 0 {
                    group.first = place;
                    lanes.push(lane);
                } else {
                    items[group.last as usize].next = place;
                }
                group.last = place;
                group.count += 1;
                (Some(timed(core, record)), hash)
            }
            Err(why) => {
                refuse(place, record, why);
                (None, 0)
            }
        };
        items.push(Item { record, hash, next: 0 });
    }
    // One deadline for the whole batch, from the first lane that is full.
    let mut deadline = None;
    for lane in lanes.drain(..) {
        let group = std::mem::take(&mut groups[lane as usize]);
        let mut chain = Chain { entry, items, group };
        if let Some((refusal, held)) = push_group(core, lane, &mut chain, wait, &mut deadline) {
            held.into_iter().for_each(|(place, work)| refuse(place, work.record, refusal));
            while let Some((place, work)) = chain.take() {
                refuse(place, work.record, refusal);
            }
        }
    }
    items.clear();
    refused.sort_unstable_by_key(|refused| refused.0);
    records.extend(refused.drain(..).map(|(_, record)| record));
    match first {
        None => Ok(count),
        Some((_, first)) => Err(BatchError { taken: count - records.len(), first }),
    }
}

/// Puts one lane's part of a batch in. If some are refused: why, and the first of them if it was tried alone; the
/// others are in `chain` still.
#[inline]
fn push_group(
    core: &Core,
    lane: u32,
    chain: &mut Chain<'_>,
    wait: bool,
    deadline: &mut Option<Time>,
) -> Option<(Refusal, Option<(u32, Work)>)> {
    while !chain.is_empty() {
        match core.lanes.push_batch(lane, chain) {
            Ok(_) => {}
            Err(PushError::Closed(())) => return Some((Refusal::Closed, None)),
            Err(PushError::Full(())) if wait && !in_handler() => {
                let deadline =
                    *deadline.get_or_insert_with(|| core.clock.now().after(core.config.wait));
                let (place, work) = chain.take()?;
                if let Err((refusal, work)) = wait_for_room(core, chain.entry, lane, work, deadline)
                {
                    return Some((refusal, Some((place, work))));
                }
            }
            Err(PushError::Full(())) => return Some((Refusal::Full, None)),
        }
    }
    None
}
