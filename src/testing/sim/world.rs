//! All of a simulation: its time, its script, the runtime, the broker, the judge, and what waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use super::coverage::{Coverage, Fault};
use super::feed::Feed;
use super::judge::Judge;
use super::random::{Random, mix};
use super::script::{Item, KEYLESS, Kind, PARTITIONS, Post, SUBSCRIPTIONS, Script};
use super::stage::{Flag, Node};
use crate::clock::Time;
use crate::close::{Removal, Swap};
use crate::receipt::Receipt;
use crate::record::{Position, Record};
use crate::shutdown::Closing;
use crate::submit::SubmitAsync;
use crate::subscriber::Subscriber;

/// Something that is awaited.
pub(super) enum Wait {
    Submit { future: Box<SubmitAsync>, number: u32, lane: u32, until: Time },
    Swap { future: Swap, generation: u32, version: u32 },
    Removal { future: Box<Removal>, generation: u32 },
    Closing { future: Closing, drained: bool },
    Receipt { future: Receipt, number: u32 },
}

pub(super) struct Waiting {
    pub(super) wait: Wait,
    pub(super) flag: Arc<Flag>,
}

/// A handler's or a letter's future that waits for its time.
pub(super) struct Timed {
    pub(super) id: u64,
    pub(super) due: Time,
    pub(super) waker: Waker,
    pub(super) woken: bool,
    /// The attempt that it belongs to; `None` for a letter.
    pub(super) number: Option<u32>,
}

pub(super) struct Subscribed {
    pub(super) subscriber: Subscriber,
    pub(super) generation: u32,
    /// It is on its way out.
    pub(super) leaving: bool,
}

pub(super) struct World {
    pub(super) script: Script,
    /// Actions that have come.
    pub(super) played: Cell<usize>,
    pub(super) random: RefCell<Random>,
    pub(super) now: Arc<AtomicU64>,
    pub(super) judge: RefCell<Judge>,
    pub(super) node: RefCell<Rc<Node>>,
    pub(super) feeds: RefCell<Vec<Feed>>,
    pub(super) subscribed: RefCell<[Option<Subscribed>; SUBSCRIPTIONS]>,
    pub(super) waits: RefCell<Vec<Waiting>>,
    pub(super) timed: RefCell<Vec<Timed>>,
    pub(super) next_timed: Cell<u64>,
    pub(super) posts: RefCell<VecDeque<Post>>,
    /// What handlers submit: to where, and what.
    pub(super) within: RefCell<VecDeque<(usize, Item)>>,
    /// Receipts and the like that the runtime's end settles.
    pub(super) closing: Cell<bool>,
    /// Faults have stopped.
    pub(super) healed: Cell<bool>,
    /// Records that there were by then.
    pub(super) scripted: Cell<usize>,
    pub(super) depth: Cell<u32>,
    pub(super) steps: Cell<u64>,
    /// Moments when everybody slept though a close was due.
    pub(super) overdue: Cell<u32>,
    /// When sleepers further down the stack get up.
    pub(super) sleepers: RefCell<Vec<Time>>,
    pub(super) trace: Cell<u64>,
    pub(super) lines: RefCell<Option<Vec<String>>>,
    pub(super) coverage: RefCell<Coverage>,
    /// What makes a step while a handler is slow.
    pub(super) nest: fn(&Rc<Self>) -> bool,
    /// What submits from within a handler.
    pub(super) submit_within: fn(&Rc<Self>),
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The simulation on this thread, if `life` is its runtime's and that lives.
pub(super) fn alive(life: u32) -> Option<Rc<World>> {
    let world = WORLD.with(|world| world.borrow().clone())?;
    let alive = world.judge.borrow().life == life && !world.node.borrow().is_over();
    alive.then_some(world)
}

/// Puts a simulation on this thread, or takes it off.
pub(super) fn enter(world: Option<Rc<World>>) {
    let before = WORLD.with(|place| std::mem::replace(&mut *place.borrow_mut(), world));
    drop(before);
}

impl World {
    pub(super) fn new(
        script: Script,
        traces: bool,
        nest: fn(&Rc<Self>) -> bool,
        submit_within: fn(&Rc<Self>),
    ) -> Rc<Self> {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let node = Node::build(0, script.seed, &script.setup, &now);
        let mut judge = Judge::new();
        judge.set_now(Time::from_nanos(now.load(Ordering::Relaxed)));
        Rc::new(Self {
            played: Cell::new(0),
            random: RefCell::new(Random::new(mix(script.seed) ^ 0x71e5)),
            now,
            judge: RefCell::new(judge),
            node: RefCell::new(node),
            feeds: RefCell::new((0..PARTITIONS).map(Feed::new).collect()),
            subscribed: RefCell::default(),
            waits: RefCell::default(),
            timed: RefCell::default(),
            next_timed: Cell::new(0),
            posts: RefCell::default(),
            within: RefCell::default(),
            closing: Cell::new(false),
            healed: Cell::new(false),
            scripted: Cell::new(0),
            depth: Cell::new(0),
            steps: Cell::new(0),
            overdue: Cell::new(0),
            sleepers: RefCell::default(),
            trace: Cell::new(script.seed),
            lines: RefCell::new(traces.then(Vec::new)),
            coverage: RefCell::default(),
            script,
            nest,
            submit_within,
        })
    }

    pub(super) fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::Relaxed))
    }

    pub(super) fn advance_to(&self, to: Time) {
        let to = to.as_nanos().max(self.now().as_nanos());
        self.now.store(to, Ordering::Relaxed);
        self.judge.borrow_mut().set_now(Time::from_nanos(to));
    }

    pub(super) fn node(&self) -> Rc<Node> {
        self.node.borrow().clone()
    }

    /// Whether there is nothing more to see: a violation, or more steps than any simulation takes.
    pub(super) fn is_over(&self) -> bool {
        self.judge.borrow().conviction.is_some()
    }

    /// Notes what happens, for the trace.
    pub(super) fn note(&self, what: u64, number: u64, text: impl FnOnce() -> String) {
        if self.judge.try_borrow().is_ok_and(|judge| judge.conviction.is_some()) {
            return;
        }
        let seen =
            mix(self.trace.get() ^ mix(what << 32 ^ number)) ^ self.now.load(Ordering::Relaxed);
        self.trace.set(seen);
        if let Some(lines) = &mut *self.lines.borrow_mut() {
            let now = self.now.load(Ordering::Relaxed) / 1_000;
            lines.push(format!(
                "{:>6} {now:>10} us  {}{}",
                self.steps.get(),
                "  ".repeat(self.depth.get() as usize),
                text()
            ));
        }
    }

    /// A fault comes: counts what it meets.
    pub(super) fn meets(&self, fault: Fault) {
        let parked =
            self.subscribed.borrow().iter().flatten().any(|s| !s.subscriber.parked().is_empty());
        let mut coverage = self.coverage.borrow_mut();
        coverage.meets(fault, &self.judge.borrow(), parked);
        if !self.healed.get() {
            coverage.came(fault);
        }
    }

    /// An attempt fails, `pending` if it had waited.
    pub(super) fn fails(&self, fault: Fault, kind: Kind, pending: bool) {
        let mut coverage = self.coverage.borrow_mut();
        coverage.fails(fault, kind, pending);
        if !self.healed.get() {
            coverage.came(fault);
        }
    }

    /// The record of this number, as delivery `number`.
    pub(super) fn record(&self, record: u32, number: u32) -> Record {
        let judge = self.judge.borrow();
        let known = &judge.known[record as usize];
        let payload = payload(record);
        let made = match known.item.key {
            KEYLESS => Record::keyless(payload),
            key => Record::new(key_name(key), payload),
        };
        let made = made.with_header("id", record.to_le_bytes()).with_epoch(number.into());
        match known.log {
            Some((partition, offset)) => {
                made.with_position(Position { partition: partition as u32, offset })
            }
            None => made,
        }
    }

    /// Whether it is the record of this number as it was made.
    pub(super) fn is_whole(&self, record: u32, seen: &Record) -> bool {
        let judge = self.judge.borrow();
        let Some(known) = judge.known.get(record as usize) else { return false };
        let key = (known.item.key != KEYLESS).then(|| key_name(known.item.key));
        seen.key() == key.as_ref().map(|key| &key[..])
            && seen.payload() == payload(record)
            && seen.header("id") == Some(&record.to_le_bytes()[..])
    }

    /// A future waits until then.
    pub(super) fn wait_until(
        &self,
        id: Option<u64>,
        due: Time,
        waker: &Waker,
        number: Option<u32>,
    ) -> u64 {
        let mut timed = self.timed.borrow_mut();
        if let Some(place) = id.and_then(|id| timed.iter_mut().find(|timed| timed.id == id)) {
            place.waker.clone_from(waker);
            return place.id;
        }
        let id = self.next_timed.get();
        self.next_timed.set(id + 1);
        timed.push(Timed { id, due, waker: waker.clone(), woken: false, number });
        id
    }

    pub(super) fn due_of(&self, id: u64) -> Option<Time> {
        self.timed.borrow().iter().find(|timed| timed.id == id).map(|timed| timed.due)
    }

    pub(super) fn forget(&self, id: u64) {
        self.timed.borrow_mut().retain(|timed| timed.id != id);
    }
}

pub(super) fn key_name(key: u32) -> [u8; 6] {
    let mut name = *b"key-00";
    name[4] += (key / 10) as u8;
    name[5] += (key % 10) as u8;
    name
}

/// What a record holds: longer for some than fits beside the key in a small block.
fn payload(record: u32) -> Vec<u8> {
    let mut bytes = record.to_le_bytes().to_vec();
    let mut random = Random::new(record.into());
    let more = random.below(24) * random.below(8);
    bytes.extend((0..more).map(|_| random.next() as u8));
    bytes
}
