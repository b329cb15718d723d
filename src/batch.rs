//! Submitting batches: grouped by lane, each group with one claim.

use crate::clock::Time;
use crate::context::in_handler;
use crate::core::Core;
use crate::error::PushError;
use crate::record::Record;
use crate::submit::{BatchError, Refusal, Routed, route, wait_for_room, work};
use crate::table::Entry;
use crate::work::{Completion, Work};
use std::cell::RefCell;
use std::collections::VecDeque;

/// What a batch needs, kept by the thread so that the steady path allocates nothing.
#[derive(Default)]
struct Scratch {
    /// Lane and place of each record.
    order: Vec<(u32, u32, u64)>,
    records: Vec<Option<Record>>,
    queue: VecDeque<Work>,
    refused: Vec<(u32, Record)>,
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
        && scratch.order.capacity() <= KEEP
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
    let mut first: Option<(u32, Refusal)> = None;
    let mut refuse = |refused: &mut Vec<(u32, Record)>, place: u32, record, why: Refusal| {
        if first.is_none_or(|(before, _)| place < before) {
            first = Some((place, why));
        }
        why.count(&entry.state.counters.refused);
        refused.push((place, record));
    };
    let open = entry.state.takes();
    for (place, record) in (0..).zip(records.drain(..)) {
        match route(core, entry, &record) {
            Ok(Routed { lane, hash }) if open => {
                scratch.order.push((lane, place, hash));
                scratch.records.push(Some(record));
            }
            Ok(_) => {
                scratch.records.push(None);
                refuse(&mut scratch.refused, place, record, Refusal::Stopped);
            }
            Err(why) => {
                scratch.records.push(None);
                refuse(&mut scratch.refused, place, record, why);
            }
        }
    }
    // Lane by lane, each in the batch's order.
    scratch.order.sort_unstable();
    // One deadline for the whole batch, from the first lane that is full.
    let mut deadline = None;
    for group in scratch.order.chunk_by(|a, b| a.0 == b.0) {
        let lane = group[0].0;
        for &(_, place, hash) in group {
            let record = scratch.records[place as usize].take();
            scratch.queue.extend(
                record.map(|record| work(core, entry, record, hash, Completion::Untracked)),
            );
        }
        let refusal = push_group(core, entry, lane, &mut scratch.queue, wait, &mut deadline);
        let taken = group.len() - scratch.queue.len();
        for (&(_, place, _), work) in group[taken..].iter().zip(scratch.queue.drain(..)) {
            refuse(&mut scratch.refused, place, work.record, refusal);
        }
    }
    scratch.order.clear();
    scratch.records.clear();
    scratch.refused.sort_unstable_by_key(|refused| refused.0);
    records.extend(scratch.refused.drain(..).map(|(_, record)| record));
    match first {
        None => Ok(count),
        Some((_, first)) => Err(BatchError { taken: count - records.len(), first }),
    }
}

/// Puts one lane's part of a batch in; what is left in `queue` was refused.
fn push_group(
    core: &Core,
    entry: &Entry,
    lane: u32,
    queue: &mut VecDeque<Work>,
    wait: bool,
    deadline: &mut Option<Time>,
) -> Refusal {
    while !queue.is_empty() {
        match core.lanes.push_batch(lane, queue) {
            Ok(_) => {}
            Err(PushError::Closed(())) => return Refusal::Closed,
            Err(PushError::Full(())) if wait && !in_handler() => {
                let deadline =
                    *deadline.get_or_insert_with(|| core.clock.now().after(core.config.wait));
                let Some(work) = queue.pop_front() else { break };
                if let Err((refusal, work)) = wait_for_room(core, entry, lane, work, deadline) {
                    queue.push_front(work);
                    return refusal;
                }
            }
            Err(PushError::Full(())) => return Refusal::Full,
        }
    }
    Refusal::Full
}
