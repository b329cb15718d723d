//! What is published and not confirmed: a bounded window of publishes under way, a line for each key that has one, and
//! what waits for room. It sends nothing and reads no clock: the publisher does.
//!
//! Of one key at most one publish is under way. So whatever is lost, refused or sent again, the records of a key are
//! stored in the order in which they were published. A publish keeps its place in the window, and its key, until it is
//! finished, however often it is sent.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Time;

/// A publish: the place in the table, and which of its publishes it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    place: u32,
    generation: u32,
}

/// A sending of a publish: a reply names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sending {
    pub(super) ticket: Ticket,
    /// From 1, wrapping around.
    attempt: u16,
}

impl Sending {
    /// As a number, for the last token of a reply subject: 20 bits of place, 32 of generation, 12 of attempt.
    pub(super) fn token(self) -> u64 {
        let Ticket { place, generation } = self.ticket;
        u64::from(place) << 44 | u64::from(generation) << 12 | u64::from(self.attempt)
    }

    /// What a token means.
    pub(super) fn of(token: u64) -> Self {
        // Each is cut to the bits that it has.
        let place = (token >> 44) as u32;
        let generation = (token >> 12) as u32;
        Self { ticket: Ticket { place, generation }, attempt: (token & 0xfff) as u16 }
    }
}

/// The most publishes that a window ever holds, waiting ones included.
pub(super) const MOST: usize = 1 << 20;

/// How much may be under way, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: usize,
    /// Until the reply to a sending is overdue.
    pub(super) reply: Duration,
    /// Until a publish under way is given up.
    pub(super) patience: Duration,
}

/// All publishes that are not finished.
#[derive(Debug)]
pub(super) struct Window<T> {
    room: Room,
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// The last in line of each key that has a publish.
    lines: HashMap<u64, u32>,
    /// May go as soon as there is room, in the order of admission.
    ready: VecDeque<Ticket>,
    /// To be sent again, as soon as can be.
    again: VecDeque<Ticket>,
    /// To be sent again at a time.
    later: BinaryHeap<Reverse<(Time, Ticket)>>,
    /// Never sent, in the order of admission, which is that of their deadlines.
    waiting: VecDeque<(Time, Ticket)>,
    /// Sent, in that order, which is that of the times by which a reply is due.
    sent: VecDeque<(Time, Sending)>,
    /// Under way, in the order of their first sending, which is that of the times when they are given up.
    begun: VecDeque<(Time, Ticket)>,
    under_way: usize,
    bytes: usize,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    item: Option<T>,
    generation: u32,
    attempt: u16,
    stage: Stage,
    key: Option<u64>,
    /// The next in line of the key, and the one before.
    behind: Option<u32>,
    before: Option<u32>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Behind others of its key, or waiting for room.
    Waiting,
    /// Under way: sent, and not yet answered.
    Sent,
    /// Under way: to be sent again.
    Again,
}

impl<T> Window<T> {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            entries: Vec::new(),
            free: Vec::new(),
            lines: HashMap::new(),
            ready: VecDeque::new(),
            again: VecDeque::new(),
            later: BinaryHeap::new(),
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            begun: VecDeque::new(),
            under_way: 0,
            bytes: 0,
            len: 0,
        }
    }

    /// How many are not finished.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many are under way.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Takes a publish in, behind all others of its key. It waits for its turn until `deadline`, which is no earlier
    /// than that of any before.
    pub(super) fn admit(
        &mut self,
        item: T,
        key: Option<u64>,
        bytes: usize,
        deadline: Time,
    ) -> Ticket {
        let entry = Entry {
            item: Some(item),
            generation: 0,
            attempt: 0,
            stage: Stage::Waiting,
            key,
            behind: None,
            before: key.and_then(|key| self.lines.get(&key).copied()),
            bytes,
        };
        let before = entry.before;
        let place = match self.free.pop() {
            Some(place) => {
                let old = &mut self.entries[place as usize];
                let generation = old.generation;
                *old = Entry { generation, ..entry };
                place
            }
            None => {
                self.entries.push(entry);
                // Never more than the publisher admits, which is far below.
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let ticket = Ticket { place, generation: self.entries[place as usize].generation };
        if let Some(key) = key {
            self.lines.insert(key, place);
        }
        match before {
            Some(before) => self.entries[before as usize].behind = Some(place),
            None => self.ready.push_back(ticket),
        }
        self.waiting.push_back((deadline, ticket));
        self.len += 1;
        ticket
    }

    /// The next to send, if there is room.
    pub(super) fn next(&mut self, now: Time) -> Option<Sending> {
        let ticket = match self.next_again() {
            Some(ticket) => ticket,
            None => self.next_ready()?,
        };
        let entry = &mut self.entries[ticket.place as usize];
        if entry.attempt == 0 {
            self.begun.push_back((now.after(self.room.patience), ticket));
        }
        entry.stage = Stage::Sent;
        // 12 bits; never 0 again, which says that it was not sent yet.
        entry.attempt = entry.attempt % 0xfff + 1;
        let sending = Sending { ticket, attempt: entry.attempt };
        self.sent.push_back((now.after(self.room.reply), sending));
        Some(sending)
    }

    fn next_again(&mut self) -> Option<Ticket> {
        loop {
            let ticket = self.again.pop_front()?;
            if self.entry(ticket).is_some_and(|entry| entry.stage == Stage::Again) {
                return Some(ticket);
            }
        }
    }

    fn next_ready(&mut self) -> Option<Ticket> {
        loop {
            let ticket = *self.ready.front()?;
            let Some(bytes) = self.entry(ticket).map(|entry| entry.bytes) else {
                self.ready.pop_front();
                continue;
            };
            let fits = self.under_way < self.room.records
                && (self.under_way == 0 || self.bytes.saturating_add(bytes) <= self.room.bytes);
            if !fits {
                return None;
            }
            self.ready.pop_front();
            self.under_way += 1;
            self.bytes += bytes;
            return Some(ticket);
        }
    }

    /// What was given to be sent could not be, for now: it is the next again.
    pub(super) fn unsent(&mut self, sending: Sending) {
        // It is the last that was sent, since nothing was since.
        self.sent.pop_back();
        if let Some(entry) = self.entry_mut(sending.ticket) {
            entry.stage = Stage::Again;
            self.again.push_front(sending.ticket);
        }
    }

    /// The publish, unless it is finished.
    pub(super) fn get(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.entry_mut(ticket)?.item.as_mut()
    }

    /// Whether this is the sending whose reply is waited for.
    pub(super) fn is_newest(&self, sending: Sending) -> bool {
        self.entry(sending.ticket)
            .is_some_and(|entry| entry.stage == Stage::Sent && entry.attempt == sending.attempt)
    }

    /// Has a publish under way sent again, now or at a time.
    pub(super) fn again(&mut self, ticket: Ticket, at: Option<Time>) {
        let Some(entry) = self.entry_mut(ticket).filter(|entry| entry.stage != Stage::Waiting)
        else {
            return;
        };
        entry.stage = Stage::Again;
        match at {
            Some(at) => self.later.push(Reverse((at, ticket))),
            None => self.again.push_back(ticket),
        }
    }

    /// What was to be sent again by now is to be sent.
    pub(super) fn turn(&mut self, now: Time) {
        while let Some(Reverse((at, ticket))) = self.later.peek().copied()
            && at <= now
        {
            self.later.pop();
            self.again.push_back(ticket);
        }
    }

    /// A publish that has waited for its turn until its deadline.
    pub(super) fn expired(&mut self, now: Time) -> Option<Ticket> {
        loop {
            let (deadline, ticket) = *self.waiting.front()?;
            let waits = self.entry(ticket).is_some_and(|entry| entry.attempt == 0);
            if waits && deadline > now {
                return None;
            }
            self.waiting.pop_front();
            if waits {
                return Some(ticket);
            }
        }
    }

    /// A publish that was under way for as long as one may be.
    pub(super) fn stale(&mut self, now: Time) -> Option<Ticket> {
        loop {
            let (until, ticket) = *self.begun.front()?;
            let under_way = self.entry(ticket).is_some();
            if under_way && until > now {
                return None;
            }
            self.begun.pop_front();
            if under_way {
                return Some(ticket);
            }
        }
    }

    /// A sending whose reply was due.
    pub(super) fn overdue(&mut self, now: Time) -> Option<Sending> {
        loop {
            let (due, sending) = *self.sent.front()?;
            let newest = self.is_newest(sending);
            if newest && due > now {
                return None;
            }
            self.sent.pop_front();
            if newest {
                return Some(sending);
            }
        }
    }

    /// All that are under way and wait for a reply, in the order in which they were sent.
    pub(super) fn unanswered(&self) -> Vec<Ticket> {
        let newest = self.sent.iter().filter(|(_, sending)| self.is_newest(*sending));
        newest.map(|(_, sending)| sending.ticket).collect()
    }

    /// Ends a publish; the next of its key may go.
    pub(super) fn finish(&mut self, ticket: Ticket) -> Option<T> {
        let entry = self.entry_mut(ticket)?;
        let item = entry.item.take()?;
        let (bytes, key, stage) = (entry.bytes, entry.key, entry.stage);
        let (before, behind) = (entry.before.take(), entry.behind.take());
        // Late replies name the generation before.
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(ticket.place);
        self.len -= 1;
        if stage != Stage::Waiting {
            self.under_way -= 1;
            self.bytes -= bytes;
        }
        if let Some(before) = before {
            self.entries[before as usize].behind = behind;
        }
        match (behind, key) {
            (Some(behind), _) => {
                let next = &mut self.entries[behind as usize];
                next.before = before;
                if before.is_none() {
                    let generation = next.generation;
                    self.ready.push_back(Ticket { place: behind, generation });
                }
            }
            (None, Some(key)) => match before {
                Some(before) => drop(self.lines.insert(key, before)),
                None => drop(self.lines.remove(&key)),
            },
            (None, None) => {}
        }
        self.forget();
        Some(item)
    }

    /// Ends all of them, those that were admitted first first.
    pub(super) fn finish_all(&mut self) -> Vec<T> {
        let places = 0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let entries = &self.entries;
        let tickets: Vec<_> = places
            .map(|place| Ticket { place, generation: entries[place as usize].generation })
            .collect();
        tickets.into_iter().filter_map(|ticket| self.finish(ticket)).collect()
    }

    /// The queues forget what is finished: at once what lies in front, now and then all of it, so that they stay
    /// about as short as the window.
    fn forget(&mut self) {
        const SLACK: usize = 1_024;
        let mut waiting = std::mem::take(&mut self.waiting);
        let waits = |(_, ticket): &(Time, Ticket)| {
            self.entry(*ticket).is_some_and(|entry| entry.attempt == 0)
        };
        shorten(&mut waiting, 2 * self.len + SLACK, waits);
        self.waiting = waiting;
        let mut sent = std::mem::take(&mut self.sent);
        shorten(&mut sent, 2 * self.under_way + SLACK, |(_, sending)| self.is_newest(*sending));
        self.sent = sent;
        let mut begun = std::mem::take(&mut self.begun);
        shorten(&mut begun, 2 * self.under_way + SLACK, |(_, ticket)| {
            self.entry(*ticket).is_some()
        });
        self.begun = begun;
    }

    fn entry(&self, ticket: Ticket) -> Option<&Entry<T>> {
        self.entries
            .get(ticket.place as usize)
            .filter(|entry| entry.generation == ticket.generation && entry.item.is_some())
    }

    fn entry_mut(&mut self, ticket: Ticket) -> Option<&mut Entry<T>> {
        self.entries
            .get_mut(ticket.place as usize)
            .filter(|entry| entry.generation == ticket.generation && entry.item.is_some())
    }
}

/// Lets go what is not to be kept: what lies in front, and everything if the queue is longer than `most`.
fn shorten<T>(queue: &mut VecDeque<T>, most: usize, keep: impl Fn(&T) -> bool) {
    while queue.front().is_some_and(|first| !keep(first)) {
        queue.pop_front();
    }
    if queue.len() > most {
        queue.retain(keep);
    }
}

#[cfg(test)]
mod tests;
