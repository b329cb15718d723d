//! Seeded simulations of the whole runtime: see `testing::sim`. The many seeds are `ci/sim.sh`'s.

#![cfg(all(feature = "testing", feature = "internals", not(keylane_loom)))]
#![allow(clippy::unwrap_used, reason = "a thread that panicked is a failure")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use keylane::testing::sim::{Coverage, Simulated, shrink, simulate};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Simulates seeds from `first` on, as many as there are, on all cores; stops at `most` failures.
fn run(first: u64, seeds: u64, most: usize) -> (Vec<Simulated>, Coverage, u64) {
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        let (mut failed, mut coverage, mut steps) = (Vec::new(), Coverage::default(), 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds || failed.len() >= most {
                return (failed, coverage, steps);
            }
            let simulated = simulate(seed, false);
            coverage.add(&simulated.coverage);
            steps += simulated.steps;
            if simulated.conviction.is_some() {
                failed.push(simulated);
            } else {
                let lacks = simulated.had.lacks();
                assert!(lacks.is_empty(), "seed {seed} has too little: {}", lacks.join("; "));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let (mut failed, mut coverage, mut steps) = (Vec::new(), Coverage::default(), 0);
        for thread in threads {
            let (some, met, made) = thread.join().unwrap();
            failed.extend(some);
            coverage.add(&met);
            steps += made;
        }
        failed.sort_by_key(|simulated| simulated.seed);
        (failed, coverage, steps)
    })
}

/// What a seed may cost: 20,000 within three minutes of two cores. Processor time, for on a machine that others use
/// as well the clock says how busy those are.
const MS_A_SEED: f64 = 180.0 * 2.0 / 20_000.0 * 1e3;

/// Seconds of processor time that this process has had. `None` where the system does not tell it this way.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may have anything in it: user and system, in hundredths.
    let (_, behind) = text.rsplit_once(')')?;
    let ticks = behind.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().ok());
    Some(ticks.sum::<Option<u64>>()? as f64 / 100.0)
}

/// Says what a failing seed does, as short as it gets.
fn explain(seed: u64) -> String {
    let Some((script, short)) = shrink(seed) else { return format!("seed {seed} passes") };
    let said = short.conviction.map_or_else(String::new, |conviction| conviction.to_string());
    format!("{script}\n{}\n\nseed {seed}: {said}", short.lines.join("\n"))
}

#[test]
fn a_few_seeds_hold_every_invariant() {
    let (failed, _, _) = run(0, number("KL_SIM_FEW", 40), 1);
    if let Some(first) = failed.first() {
        panic!("{}", explain(first.seed));
    }
}

#[test]
fn a_seed_replays_bit_by_bit() {
    for seed in [1, 7, 12] {
        let (one, two) = (simulate(seed, false), simulate(seed, true));
        assert_eq!((one.trace, one.steps), (two.trace, two.steps), "seed {seed}");
        assert!(!two.lines.is_empty());
    }
}

/// `ci/sim.sh`.
#[test]
#[ignore = "many seeds: ci/sim.sh"]
fn seeds() {
    let (first, seeds) = (number("KL_SIM_FIRST", 0), number("KL_SIM_SEEDS", 20_000));
    let (started, had) = (Instant::now(), processor_seconds());
    let (failed, coverage, steps) = run(first, seeds, 8);
    let took = started.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds from {first}, {steps} steps, {took:.1} s, {:.0} seeds/s",
        seeds as f64 / took
    );
    let spent = had.zip(processor_seconds()).map(|(before, now)| now - before);
    println!("{coverage}");
    for simulated in &failed {
        println!("seed {}: {}", simulated.seed, simulated.conviction.as_ref().unwrap());
    }
    if let Some(first) = failed.first() {
        panic!("{}", explain(first.seed));
    }
    let missing = coverage.missing(seeds / 200);
    assert!(missing.is_empty(), "too seldom:\n{}", missing.join("\n"));
    match spent {
        None => println!("not gated: the system does not tell this process's processor time"),
        Some(spent) => {
            let each = spent * 1e3 / seeds.max(1) as f64;
            println!("{each:.1} ms of processor time a seed, at most {MS_A_SEED:.0}");
            assert!(each <= MS_A_SEED, "{spent:.0} s of processor time for {seeds} seeds");
        }
    }
}

/// `ci/sim.sh --seed N`: what one seed does.
#[test]
#[ignore = "one seed, in words: ci/sim.sh --seed N"]
fn one_seed() {
    let seed = number("KL_SIM_SEED", 0);
    let simulated = simulate(seed, true);
    println!("{}", simulated.lines.join("\n"));
    if let Some(conviction) = simulated.conviction {
        panic!("seed {seed}: {conviction}");
    }
}

/// `ci/sim.sh`: every deliberate bug is convicted by the invariant that is named for it, and the same seed passes
/// without it.
#[cfg(keylane_sabotage)]
#[test]
#[ignore = "needs a build of its own: ci/sim.sh"]
fn every_deliberate_bug_is_convicted() {
    use keylane::testing::sim::{BUGS, choose};
    let seeds = number("KL_SIM_SEEDS", 20_000);
    let mut missed = Vec::new();
    println!("{:20} {:5} {:>8}  what was seen", "bug", "by", "seed");
    for &(bug, what, invariant) in BUGS {
        choose(Some(bug));
        let found = (0..seeds).find_map(|seed| {
            let conviction = simulate(seed, false).conviction?;
            (format!("{:?}", conviction.invariant) == invariant).then_some((seed, conviction.said))
        });
        choose(None);
        let name = format!("{bug:?}");
        match found {
            Some((seed, said)) => {
                println!("{name:20} {invariant:5} {seed:>8}  {said}");
                let without = simulate(seed, false).conviction;
                assert_eq!(without, None, "seed {seed} without {name}");
            }
            None => missed.push(format!("{name} ({what}) by {invariant}")),
        }
    }
    assert!(missed.is_empty(), "not convicted in {seeds} seeds:\n{}", missed.join("\n"));
}

/// Without the private cfg there is nothing to choose from: the runtime has no deliberate bug in it.
#[cfg(not(keylane_sabotage))]
#[test]
fn deliberate_bugs_are_compiled_out() {
    let text = include_str!("../src/sabotage.rs");
    assert!(text.contains("cfg!(keylane_sabotage) && "), "`sabotage!` is false without the cfg");
}
