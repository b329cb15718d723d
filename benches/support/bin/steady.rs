//! The steady path under a load that is the same in every run, for allocation and instruction counts.
//!
//! `steady WAY ROUNDS` puts ROUNDS rounds of 2,000 records (64-byte payloads, keys in turn) through a runtime of
//! one worker, after 100 rounds that warm it up, and fails if a record allocated. Run under callgrind with two
//! numbers of rounds, the difference is what a record costs: ci/instructions.sh.
//!
//! | WAY | lanes | in | handler |
//! |---|---|---|---|
//! | `single` | 1 | `submit` | sync: full visits of 64 records |
//! | `spread` | 256 | `submit` | sync: 7 or 8 records a visit |
//! | `sparse` | 2,000 | `submit` | sync: most visits of one record |
//! | `batch` | 256 | `submit_batch` of 500 | sync |
//! | `grouped` | 8 | `submit_batch` of 500 | sync: 62 records of a batch to each lane |
//! | `deep` | 256 | `submit` | sync, 40,000 in flight: more blocks than the pool keeps, so this one allocates |
//! | `ready` | 256 | `submit` | async, ready at once |
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use std::alloc::System;
use std::process::ExitCode;

use keylane::Record;
use keylane_bench_support::allocator::{Counting, calls};
use keylane_bench_support::gated::{Gated, Kind};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

/// Fewer than the pool keeps, so that every block comes back.
const RECORDS: usize = 2_000;
const DEEP: usize = 40_000;
const BATCH: usize = 500;
/// Rounds until every magazine of the pool has been made.
const WARM_UP: u64 = 100;
const SINGLE: usize = 900;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, rounds] = &arguments[..] else { return usage() };
    let Ok(rounds) = rounds.parse::<u64>() else { return usage() };
    let (lanes, kind, records) = match way.as_str() {
        "single" => (1, Kind::Sync, SINGLE),
        "spread" | "batch" => (256, Kind::Sync, RECORDS),
        "grouped" => (8, Kind::Sync, RECORDS),
        "deep" => (256, Kind::Sync, DEEP),
        "sparse" => (2_000, Kind::Sync, RECORDS),
        "ready" => (256, Kind::Ready, RECORDS),
        _ => return usage(),
    };
    let keys: Vec<String> = (0..records).map(|key| format!("order-{key:06}")).collect();
    let payload = [7; 64];
    let mut gated = Gated::new(lanes, kind);
    let mut batch = Vec::with_capacity(BATCH);
    let mut round = |gated: &mut Gated| match way.as_str() {
        "batch" | "grouped" => gated.round(records as u64, |orders| {
            for keys in keys.chunks(BATCH) {
                batch.extend(keys.iter().map(|key| Record::new(key, payload)));
                orders.submit_batch(&mut batch).expect("taken");
            }
        }),
        _ => gated.round(records as u64, |orders| {
            for key in &keys {
                orders.submit(Record::new(key, payload)).expect("taken");
            }
        }),
    };
    (0..WARM_UP).for_each(|_| round(&mut gated));
    let before = calls();
    (0..rounds).for_each(|_| round(&mut gated));
    let allocations = calls() - before;
    let count = rounds * records as u64;
    // Not closed: that would take some instructions more or fewer. The process ends.
    std::mem::forget(gated);
    println!("{way}: {count} records, {allocations} allocations");
    if way != "deep" && allocations > 0 {
        eprintln!("FAILED: the steady path allocates");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: steady single|spread|sparse|batch|grouped|deep|ready ROUNDS");
    ExitCode::from(2)
}
