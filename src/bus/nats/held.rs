//! The deliveries that are not acknowledged: where each is, and since when.

use std::collections::VecDeque;

use async_nats::Subject;

use crate::clock::Time;

/// Deliveries by their place in the stream, ascending.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: VecDeque<Entry>,
    /// Entries that are not finished.
    open: usize,
    /// The number of the barrier since which replies count.
    barrier: u32,
    /// The newest reply since the barrier of what has come again by itself.
    again: Option<Subject>,
}

#[derive(Debug)]
struct Entry {
    position: u64,
    reply: Subject,
    /// The barrier that was the last when the reply came.
    barrier: u32,
    arrived: Time,
    finished: bool,
}

impl Held {
    /// A delivery was taken. Positions ascend.
    pub(super) fn add(&mut self, position: u64, reply: Subject, arrived: Time) {
        self.open += 1;
        let barrier = self.barrier;
        self.entries.push_back(Entry { position, reply, barrier, arrived, finished: false });
    }

    /// A delivery has come again: its newest reply counts, but for one since the same barrier. These ascend as the places
    /// do, which one that came again by itself does not. False if it is not held.
    pub(super) fn renew(&mut self, position: u64, reply: Subject, arrived: Time) -> bool {
        let barrier = self.barrier;
        let Some(entry) = self.find(position) else { return false };
        entry.arrived = arrived;
        if entry.barrier == barrier {
            self.come_again(reply);
        } else {
            (entry.reply, entry.barrier) = (reply, barrier);
        }
        true
    }

    /// Something has come again by itself: the server counts it among the newest deliveries now.
    pub(super) fn come_again(&mut self, reply: Subject) {
        self.again = Some(reply);
    }

    /// A delivery is finished. Where it is acknowledged; that is handed out once.
    pub(super) fn take_finished(&mut self, position: u64) -> Option<Subject> {
        let reply = std::mem::replace(&mut self.mark(position)?.reply, Subject::from_static(""));
        Some(reply)
    }

    /// A delivery is finished, and acknowledged by another's reply, or not at all.
    pub(super) fn finish(&mut self, position: u64) {
        self.mark(position);
    }

    fn mark(&mut self, position: u64) -> Option<&mut Entry> {
        let at = self.place(position)?;
        let entry = self.entries.get_mut(at).filter(|entry| !entry.finished)?;
        entry.finished = true;
        self.open -= 1;
        Some(entry)
    }

    /// Forgets what is finished at its beginning. For where each is acknowledged by itself.
    pub(super) fn forget_finished(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.finished) {
            self.entries.pop_front();
        }
    }

    /// Forgets what lies below `frontier`, and says by which replies all of it is acknowledged, in their order: the last that
    /// has come since the barrier; and once nothing is left, the newest of what has come again, which covers whatever came
    /// before it.
    pub(super) fn pass(&mut self, frontier: u64) -> impl Iterator<Item = Subject> + use<> {
        let mut last = None;
        while self.entries.front().is_some_and(|entry| entry.position < frontier) {
            let Some(entry) = self.entries.pop_front() else { break };
            if !entry.finished {
                self.open -= 1;
            }
            if entry.barrier == self.barrier {
                last = Some(entry.reply);
            }
        }
        let again = if self.entries.is_empty() { self.again.take() } else { None };
        last.into_iter().chain(again)
    }

    /// From here on only replies that come now acknowledge what is before them.
    pub(super) fn begin_barrier(&mut self) {
        self.barrier = self.barrier.wrapping_add(1);
        self.again = None;
    }

    /// Deliveries that are not finished.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// When the oldest unfinished one came.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.entries.iter().find(|entry| !entry.finished).map(|entry| entry.arrived)
    }

    /// Where those are acknowledged that are not: the unfinished ones, or all.
    pub(super) fn replies(&self, all: bool) -> impl Iterator<Item = &Subject> {
        self.entries.iter().filter(move |entry| all || !entry.finished).map(|entry| &entry.reply)
    }

    /// Their time begins anew.
    pub(super) fn touch(&mut self, now: Time) {
        self.entries.iter_mut().for_each(|entry| entry.arrived = now);
    }

    fn find(&mut self, position: u64) -> Option<&mut Entry> {
        let at = self.place(position)?;
        self.entries.get_mut(at)
    }

    fn place(&self, position: u64) -> Option<usize> {
        let first = self.entries.front()?.position;
        // Where nothing is left out of the stream the distance is the place.
        let guess = usize::try_from(position.checked_sub(first)?).ok()?;
        if self.entries.get(guess).is_some_and(|entry| entry.position == position) {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&position, |entry| entry.position).ok()
    }
}
