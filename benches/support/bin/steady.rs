//! The steady path under a load that is the same in every run, for allocation and instruction counts.
//!
//! `steady WAY ROUNDS` puts ROUNDS rounds of records (64-byte payloads, keys in turn) through a runtime of one
//! worker, after 100 rounds that warm it up, and fails if a record allocated more than it may. Run under callgrind
//! with two numbers of rounds, the difference is what a record costs: ci/instructions.sh. `steady WAY ROUNDS bare`
//! counts no allocations, so that their counting is not counted. `… heard` has somebody listen, if the feature
//! `metrics` or `tracing` is on: an exporter publishes once a round, and a subscriber wants every span.
//!
//! | WAY | lanes | in | handler |
//! |---|---|---|---|
//! | `single` | 1 | `submit` | sync: full visits of 64 records |
//! | `spread` | 256 | `submit` | sync: 7 or 8 records a visit |
//! | `sparse` | 2,000 | `submit` | sync: most visits of one record |
//! | `batch-single` | 1 | `submit_batch` of 32 | sync |
//! | `batch` | 256 | `submit_batch` of 32 | sync: most of them to lanes of their own |
//! | `grouped` | 8 | `submit_batch` of 500 | sync: 62 records of a batch to each lane |
//! | `ready` | 256 | `submit` | async, ready at once |
//! | `receipt` | 256 | `submit_tracked` | sync; each receipt is read once it has its outcome, and dropped |
//! | `swap` | 1 | `submit`, and a swap every 1,000 records | sync |
//! | `deep` | 256 | `submit` | sync, 40,000 in flight: more blocks than the pool keeps, so this one allocates |
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use std::alloc::System;
use std::process::ExitCode;

use keylane::{Record, Subscriber};
use keylane_bench_support::allocator::{Counting, calls, stop};
use keylane_bench_support::gated::{Gated, Kind};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

/// Records of a round: fewer than the pool keeps, so that every block comes back.
const RECORDS: usize = 2_000;
/// The same where one lane takes all: as many as it has slots.
const SINGLE: usize = 1_000;
const DEEP: usize = 40_000;
/// Rounds until every magazine of the pool has been made.
const WARM_UP: u64 = 100;

/// How records get in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    OneByOne,
    Batches(usize),
    Tracked,
    /// One by one, with a swap half-way through each round.
    Swapped,
}

struct Way {
    name: &'static str,
    lanes: usize,
    records: usize,
    kind: Kind,
    how: In,
    /// Allocations a record may make.
    may: f64,
}

const fn way(name: &'static str, lanes: usize, records: usize, how: In) -> Way {
    Way { name, lanes, records, kind: Kind::Sync, how, may: 0.0 }
}

const WAYS: [Way; 10] = [
    way("single", 1, SINGLE, In::OneByOne),
    way("spread", 256, RECORDS, In::OneByOne),
    way("sparse", 2_000, RECORDS, In::OneByOne),
    way("batch-single", 1, SINGLE, In::Batches(32)),
    way("batch", 256, RECORDS, In::Batches(32)),
    way("grouped", 8, RECORDS, In::Batches(500)),
    Way { kind: Kind::Ready, ..way("ready", 256, RECORDS, In::OneByOne) },
    way("receipt", 256, RECORDS, In::Tracked),
    // A new table and a new handler.
    Way { may: 0.02, ..way("swap", 1, SINGLE, In::Swapped) },
    Way { may: 1.0, ..way("deep", 256, DEEP, In::OneByOne) },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, rounds, words @ ..] = &arguments[..] else { return usage() };
    if words.iter().any(|word| word != "bare" && word != "heard") {
        return usage();
    }
    let says = |word: &str| words.iter().any(|own| own == word);
    let (bare, heard) = (says("bare"), says("heard"));
    let (Some(way), Ok(rounds)) = (WAYS.iter().find(|way| way.name == name), rounds.parse()) else {
        return usage();
    };
    if bare {
        stop();
    }
    let allocations = run(way, rounds, heard) as f64;
    let count = rounds * way.records as u64;
    println!("{name}: {count} records, {:.3} allocations a record", allocations / count as f64);
    // Who listens may allocate.
    if !heard && allocations > way.may * count as f64 {
        eprintln!("FAILED: a record may make {} allocations", way.may);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Warms up, then runs `rounds` rounds. Returns how many allocations those made.
fn run(way: &Way, rounds: u64, heard: bool) -> u64 {
    let records = way.records;
    let keys: Vec<String> = (0..records).map(|key| format!("order-{key:06}")).collect();
    let payload = [7; 64];
    #[cfg(feature = "tracing")]
    if heard {
        keylane_bench_support::listen::hear_spans();
    }
    let mut gated = Gated::new(way.lanes, way.kind);
    #[cfg(feature = "metrics")]
    let mut exported = heard.then(|| keylane_bench_support::listen::Exported::new(gated.runtime()));
    let _ = heard;
    let mut batch = Vec::with_capacity(RECORDS);
    let mut receipts = Vec::with_capacity(RECORDS);
    let submit_all = |orders: &Subscriber, keys: &[String]| {
        for key in keys {
            orders.submit(Record::new(key, payload)).expect("taken");
        }
    };
    let mut round = |gated: &mut Gated| {
        let handler = (way.how == In::Swapped).then(|| gated.handler());
        gated.round(records as u64, |orders| match way.how {
            In::OneByOne => submit_all(orders, &keys),
            In::Swapped => {
                let (before, after) = keys.split_at(records / 2);
                submit_all(orders, before);
                handler.into_iter().for_each(|handler| drop(orders.swap(handler)));
                submit_all(orders, after);
            }
            In::Batches(of) => {
                for keys in keys.chunks(of) {
                    batch.extend(keys.iter().map(|key| Record::new(key, payload)));
                    orders.submit_batch(&mut batch).expect("taken");
                }
            }
            In::Tracked => {
                // Those of the last round: they have their outcomes.
                for receipt in receipts.drain(..) {
                    let receipt: keylane::Receipt = receipt;
                    assert!(receipt.outcome().is_some_and(|outcome| outcome.is_done()));
                }
                for key in &keys {
                    let receipt = orders.submit_tracked(Record::new(key, payload));
                    receipts.push(receipt.expect("taken"));
                }
            }
        });
        #[cfg(feature = "metrics")]
        exported.iter_mut().for_each(|exported| exported.publish());
    };
    (0..WARM_UP).for_each(|_| round(&mut gated));
    let before = calls();
    (0..rounds).for_each(|_| round(&mut gated));
    let allocations = calls() - before;
    // Not closed: that would take some instructions more or fewer. The process ends.
    std::mem::forget((gated, receipts));
    allocations
}

fn usage() -> ExitCode {
    eprintln!("usage: steady {} ROUNDS [bare] [heard]", WAYS.map(|way| way.name).join("|"));
    ExitCode::from(2)
}
