//! What happens in a simulation: a configuration, subscriptions, and a list of actions. The seed decides it
//! all; the list can be shortened and played again.

use std::fmt;

use super::random::{Random, mix};

/// Records that the script submits or publishes, at least. What handlers submit comes on top, for not all of it
/// finds a handler.
pub(super) const RECORDS: u64 = 200;
/// Keys of a simulation, at most.
pub(super) const KEYS: u32 = 24;
/// The key of a record that has none.
pub(super) const KEYLESS: u32 = u32::MAX;
/// Partitions of the broker. Each feeds the subscription `FED` says.
pub(super) const PARTITIONS: usize = 3;
/// Subscriptions that partitions feed: by partition.
pub(super) const FED: [usize; PARTITIONS] = [3, 3, 4];
/// Subscriptions in all: those before `FED[0]` are submitted to in process.
pub(super) const SUBSCRIPTIONS: usize = 5;

/// How a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sync,
    Async,
    Blocking,
}

/// What a handler does with one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Play {
    Ok,
    Error,
    Fatal,
    Panic,
    /// Others take so many steps meanwhile.
    Slow(u32),
    /// An async one is ready after so many microseconds; others are slow.
    Pending(u32),
    /// As `Pending`, and then fails or panics.
    PendingError(u32),
    PendingPanic(u32),
    /// An async one is never ready; others are slow.
    Never,
}

/// What a subscription does with a record that has failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Stop,
    Skip,
    DeadLetter,
    Park,
}

/// What the dead letters say next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Post {
    Refused,
    Fatal,
    Panic,
    Pending(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) kind: Kind,
    pub(super) after: After,
    pub(super) attempts: u32,
    /// Microseconds between attempts.
    pub(super) pause: u32,
    /// Milliseconds; 0: none.
    pub(super) deadline: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Try,
    /// By a handler.
    Within,
    Tracked,
    Async,
}

/// One record: where it goes and what its attempts do, in turn. Further attempts succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: u32,
    pub(super) plays: [Play; 3],
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Submit {
        to: usize,
        via: Via,
        item: Item,
    },
    Batch {
        to: usize,
        items: Vec<Item>,
    },
    Publish {
        partition: usize,
        item: Item,
    },
    Swap {
        of: usize,
        kind: Kind,
    },
    Remove {
        of: usize,
    },
    CloseOne {
        of: usize,
        ms: u32,
    },
    Resume {
        of: usize,
        key: u32,
    },
    Park {
        of: usize,
        key: u32,
    },
    Skip {
        of: usize,
        key: u32,
    },
    Reassign {
        partition: usize,
        commits: bool,
    },
    /// The broker delivers its last records again, so many.
    Redeliver {
        partition: usize,
        back: u32,
    },
    Crash,
    Close {
        ms: u32,
    },
    StopNow,
    Jump {
        ms: u32,
    },
    HoldWorker {
        worker: usize,
        steps: u32,
    },
    HoldMonitor {
        steps: u32,
    },
    HoldBlocking {
        steps: u32,
    },
    HoldFeed {
        partition: usize,
        steps: u32,
    },
    /// The next handler that runs submits this.
    Within {
        to: usize,
        item: Item,
    },
    GiveUpSubmit,
    Letters {
        posts: [Post; 2],
    },
}

/// The runtime's options that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) workers: usize,
    pub(super) spares: usize,
    pub(super) lanes: usize,
    pub(super) slots: usize,
    pub(super) quantum: usize,
    pub(super) steal: bool,
    pub(super) key_waiting: usize,
    pub(super) lane_waiting: usize,
    pub(super) window: usize,
    pub(super) parked_keys: usize,
    pub(super) blocking: usize,
    pub(super) wait_ms: u32,
    /// Characters that a stored position may have.
    pub(super) stored: usize,
    /// How eager the script is against the runtime's own steps, in a hundred.
    pub(super) eager: u64,
    /// Every position is followed by so many that are none, at most.
    pub(super) gaps: u64,
    pub(super) policies: [Policy; SUBSCRIPTIONS],
}

/// A whole simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) setup: Setup,
    pub(super) actions: Vec<Action>,
}

/// How often faults of each sort come, in a thousand actions: each sort is off in some seeds.
struct Rates {
    error: u64,
    panic: u64,
    slow: u64,
    pending: u64,
    never: u64,
    /// Handlers submit.
    within: bool,
    faults: Vec<(u64, Fault)>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Swap,
    Remove,
    CloseOne,
    Resume,
    Park,
    Skip,
    Reassign,
    Redeliver,
    Crash,
    Close,
    StopNow,
    Jump,
    HoldWorker,
    HoldMonitor,
    HoldBlocking,
    HoldFeed,
    GiveUp,
    Letters,
}

const FAULTS: [(u64, Fault); 18] = [
    (20, Fault::Swap),
    (8, Fault::Remove),
    (8, Fault::CloseOne),
    (20, Fault::Resume),
    (8, Fault::Park),
    (15, Fault::Skip),
    (10, Fault::Reassign),
    (12, Fault::Redeliver),
    (4, Fault::Crash),
    (3, Fault::Close),
    (2, Fault::StopNow),
    (20, Fault::Jump),
    (15, Fault::HoldWorker),
    (10, Fault::HoldMonitor),
    (15, Fault::HoldBlocking),
    (10, Fault::HoldFeed),
    (10, Fault::GiveUp),
    (25, Fault::Letters),
];

impl Script {
    /// What the seed's dice say; `enough` adds what they leave out.
    pub(super) fn generate(seed: u64) -> Self {
        let mut random = Random::new(mix(seed) ^ 0x5c21);
        let setup = setup(&mut random);
        let rates = rates(&mut random);
        let total: u64 = rates.faults.iter().map(|(rate, _)| rate).sum();
        let records = random.within(RECORDS, RECORDS + 60);
        let keys = random.within(20, u64::from(KEYS));
        let hot = random.percent(50);
        let (mut actions, mut made) = (Vec::new(), 0);
        while made < records {
            if random.below(1_000) < total {
                actions.push(fault(&mut random, &rates));
                continue;
            }
            let item = |random: &mut Random| Item {
                key: match () {
                    () if random.percent(3) => KEYLESS,
                    () if hot && random.percent(40) => random.below(3) as u32,
                    () => random.below(keys) as u32,
                },
                plays: std::array::from_fn(|_| play(random, &rates)),
            };
            if random.percent(45) {
                let partition = random.below(PARTITIONS as u64) as usize;
                actions.push(Action::Publish { partition, item: item(&mut random) });
                made += 1;
                continue;
            }
            let to = random.below(FED[0] as u64) as usize;
            if random.percent(10) {
                let count = random.within(2, 8);
                made += count;
                let items = (0..count).map(|_| item(&mut random)).collect();
                actions.push(Action::Batch { to, items });
            } else if rates.within && random.percent(10) {
                actions.push(Action::Within { to, item: item(&mut random) });
            } else {
                let via = random.pick(&[Via::Try, Via::Try, Via::Tracked, Via::Async]);
                actions.push(Action::Submit { to, via, item: item(&mut random) });
                made += 1;
            }
        }
        Self { seed, setup, actions }
    }
}

fn setup(random: &mut Random) -> Setup {
    let policies = std::array::from_fn(|_| Policy {
        kind: random.pick(&[Kind::Sync, Kind::Async, Kind::Async, Kind::Blocking]),
        after: random.pick(&[After::Stop, After::Skip, After::DeadLetter, After::Park]),
        attempts: random.within(1, 3) as u32,
        pause: random.pick(&[0, 500, 20_000]),
        deadline: random.pick(&[0, 0, 5, 40]),
    });
    Setup {
        workers: 2,
        spares: random.below(3) as usize,
        lanes: random.within(2, 6) as usize,
        slots: random.pick(&[2, 4, 8, 64]),
        quantum: random.pick(&[1, 3, 64]),
        steal: random.percent(70),
        key_waiting: random.pick(&[2, 6, 64]),
        lane_waiting: random.pick(&[6, 24, 256]),
        window: random.pick(&[8, 24, 200]),
        parked_keys: random.pick(&[2, 64, 64]),
        blocking: random.within(1, 3) as usize,
        wait_ms: random.pick(&[2, 50]),
        stored: random.pick(&[24, 4_096]),
        eager: random.pick(&[5, 15, 40, 70]),
        gaps: random.pick(&[0, 2]),
        policies,
    }
}

fn rates(random: &mut Random) -> Rates {
    let mut some = |most: u64| if random.percent(35) { 0 } else { random.within(1, most) };
    let (error, panic, slow) = (some(300), some(120), some(80));
    let (pending, never) = (some(500), some(60));
    let mut faults: Vec<(u64, Fault)> = Vec::new();
    // At least three kinds.
    while faults.len() < 3 {
        faults = FAULTS.into_iter().filter(|_| random.percent(50)).collect();
    }
    Rates { error, panic, slow, pending, never, within: random.percent(65), faults }
}

fn play(random: &mut Random, rates: &Rates) -> Play {
    let later = |random: &mut Random| random.pick(&[0, 100, 3_000, 30_000]);
    let dice = random.below(1_000);
    let mut limit = rates.error;
    if dice < limit {
        return match random.below(8) {
            0 => Play::Fatal,
            1 => Play::PendingError(later(random)),
            _ => Play::Error,
        };
    }
    limit += rates.panic;
    if dice < limit {
        return if random.percent(30) { Play::PendingPanic(later(random)) } else { Play::Panic };
    }
    limit += rates.slow;
    if dice < limit {
        return Play::Slow(random.within(1, 24) as u32);
    }
    limit += rates.never;
    if dice < limit {
        return Play::Never;
    }
    limit += rates.pending;
    if dice < limit { Play::Pending(later(random)) } else { Play::Ok }
}

fn fault(random: &mut Random, rates: &Rates) -> Action {
    let total: u64 = rates.faults.iter().map(|(rate, _)| rate).sum();
    let mut dice = random.below(total);
    let mut chosen = Fault::Jump;
    for &(rate, fault) in &rates.faults {
        chosen = fault;
        if dice < rate {
            break;
        }
        dice -= rate;
    }
    let of = random.below(SUBSCRIPTIONS as u64) as usize;
    let key = random.below(u64::from(KEYS)) as u32;
    let partition = random.below(PARTITIONS as u64) as usize;
    let steps = random.within(5, 120) as u32;
    let ms = random.pick(&[0, 1, 10, 200]);
    match chosen {
        Fault::Swap => {
            Action::Swap { of, kind: random.pick(&[Kind::Sync, Kind::Async, Kind::Blocking]) }
        }
        Fault::Remove => Action::Remove { of },
        Fault::CloseOne => Action::CloseOne { of, ms },
        Fault::Resume => Action::Resume { of, key },
        Fault::Park => Action::Park { of, key },
        Fault::Skip => Action::Skip { of, key },
        Fault::Reassign => Action::Reassign { partition, commits: random.percent(50) },
        Fault::Redeliver => Action::Redeliver { partition, back: steps },
        Fault::Crash => Action::Crash,
        Fault::Close => Action::Close { ms },
        Fault::StopNow => Action::StopNow,
        Fault::Jump => Action::Jump { ms: random.pick(&[1, 30, 1_000, 3_600_000]) },
        Fault::HoldWorker => Action::HoldWorker { worker: random.below(2) as usize, steps },
        Fault::HoldMonitor => Action::HoldMonitor { steps },
        Fault::HoldBlocking => Action::HoldBlocking { steps: steps * 4 },
        Fault::HoldFeed => Action::HoldFeed { partition, steps },
        Fault::GiveUp => Action::GiveUpSubmit,
        Fault::Letters => {
            let post = |random: &mut Random| match random.below(8) {
                0 => Post::Fatal,
                1 => Post::Panic,
                2..5 => Post::Refused,
                _ => Post::Pending(random.pick(&[0, 200, 60_000])),
            };
            Action::Letters { posts: [post(random), post(random)] }
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "{:?}", self.setup)?;
        for (number, action) in self.actions.iter().enumerate() {
            writeln!(f, "{number:4}  {action:?}")?;
        }
        Ok(())
    }
}
