//! What an idle runtime costs, checked: memory, wake-ups, CPU; and what a subscription adds.
//!
//! The allocator is the system's: what another one keeps in reserve, or asks for in huge pages, is its own and would
//! hide the rest.
//!
//! Memory is read in a fresh process each time, since one that had a runtime before would reuse its pages, and the
//! median of the runs counts. Wake-ups are watched for three seconds of real time. The exit status is 1 if a
//! limit is missed, and 77 with `not run: …` where the system does not say.

use std::alloc::System;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use keylane::internals::{Lanes, Parker};
use keylane::{Config, Record, Runtime, Subscription};
use keylane_bench_support::allocator::{Counting, live};
use keylane_bench_support::process::{anonymous, mappings_of, threads};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

const MIB: u64 = 1 << 20;
/// Fresh processes whose median counts.
const RUNS: usize = 9;
/// How long an idle runtime is watched.
const WATCHED: Duration = Duration::from_secs(3);
const SUBSCRIPTIONS: u64 = 1_000;

/// Resident memory that the lanes of a default runtime may take, and the whole of it.
const MOST_LANES: u64 = 2 * MIB;
const MOST_RUNTIME: u64 = 2 * MIB;
/// Resident memory of the slab alone before its first use.
const MOST_SLAB: u64 = 64 << 10;
/// Wake-ups a second: four heartbeats and one for luck.
const MOST_WAKES: f64 = 5.0;
const MOST_CPU: f64 = 0.01;
const MOST_SUBSCRIPTION: u64 = 2_048;

fn main() -> ExitCode {
    let part = std::env::args().nth(1);
    let measured = match part.as_deref() {
        None => return all(),
        Some("lanes") => lanes(),
        Some("runtime") => runtime(),
        Some("subscriptions") => subscriptions(),
        Some(_) => {
            eprintln!("usage: footprint");
            return ExitCode::from(2);
        }
    };
    match measured {
        Some(numbers) => {
            println!("{}", numbers.map(|number| number.to_string()).join(" "));
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}

/// Resident bytes of 256 lanes of 1,000 slots without threads, and of their slab.
fn lanes() -> Option<[u64; 2]> {
    let before = anonymous()?;
    let config = Config::default();
    let lanes: Lanes<[u64; 7], (), ()> = Lanes::new(
        config.lanes as u32,
        config.slots,
        1,
        vec![Parker::new().unparker()],
        config.lane_waiting,
    );
    let after = anonymous()?;
    let slab = (config.slots.next_power_of_two() * config.lanes * 64) as u64;
    let resident = match mappings_of(slab)? {
        (0, _) => return None,
        (_, resident) => resident,
    };
    drop(lanes);
    Some([after.saturating_sub(before), resident])
}

/// Resident bytes of a default runtime that has just been built, and bytes it has allocated.
fn runtime() -> Option<[u64; 2]> {
    let (before, allocated) = (anonymous()?, live());
    let runtime = Runtime::builder().build().ok()?;
    wait_until_idle()?;
    let (after, then) = (anonymous()?, live());
    runtime.stop_now();
    Some([after.saturating_sub(before), then.saturating_sub(allocated)])
}

/// Resident and allocated bytes of each of 1,000 subscriptions.
fn subscriptions() -> Option<[u64; 2]> {
    let runtime = Runtime::builder().build().ok()?;
    wait_until_idle()?;
    let (before, allocated) = (anonymous()?, live());
    for number in 0..SUBSCRIPTIONS {
        let policy = Subscription::new(format!("topic-{number}"));
        runtime.subscribe(policy, |_: &Record| Ok(())).ok()?;
    }
    wait_until_idle()?;
    let (after, then) = (anonymous()?, live());
    runtime.stop_now();
    let each = |before: u64, after: u64| after.saturating_sub(before) / SUBSCRIPTIONS;
    Some([each(before, after), each(allocated, then)])
}

/// Waits until no thread of the runtime has run for some 50 ms.
fn wait_until_idle() -> Option<()> {
    let give_up = Instant::now() + Duration::from_secs(10);
    let mut before = None;
    loop {
        let ran: u64 = threads("keylane")?.iter().map(|thread| thread.sleeps).sum();
        if before == Some(ran) || Instant::now() > give_up {
            return Some(());
        }
        before = Some(ran);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The medians of what `part` says in processes of its own.
fn medians(part: &str) -> Option<[u64; 2]> {
    let program = std::env::current_exe().ok()?;
    let mut runs = (0..RUNS)
        .map(|_| {
            let said = Command::new(&program).arg(part).output().ok()?;
            let text = String::from_utf8(said.stdout).ok()?;
            let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
            Some([numbers.next()??, numbers.next()??])
        })
        .collect::<Option<Vec<[u64; 2]>>>()?;
    Some([0, 1].map(|which| {
        runs.sort_by_key(|run| run[which]);
        runs[RUNS / 2][which]
    }))
}

fn all() -> ExitCode {
    let parts = [medians("lanes"), medians("runtime"), medians("subscriptions")];
    let [Some(lanes), Some(runtime), Some(subscription)] = parts else {
        println!("not run: /proc does not say how much of this process is resident");
        return ExitCode::from(77);
    };
    let mut table = Table::default();
    let kib = |bytes: u64| bytes as f64 / 1_024.0;
    table.row("256 lanes x 1000 slots, resident", kib(lanes[0]), kib(MOST_LANES), "KiB");
    table.row("  their slab of 16 MiB before use", kib(lanes[1]), kib(MOST_SLAB), "KiB");
    table.row("a default runtime, idle, resident", kib(runtime[0]), kib(MOST_RUNTIME), "KiB");
    table.tell("  allocated by it", kib(runtime[1]), "KiB");
    let most = MOST_SUBSCRIPTION as f64;
    table.row("one subscription of 1,000, allocated", subscription[1] as f64, most, "bytes");
    table.tell("  resident", subscription[0] as f64, "bytes");
    for used in [false, true] {
        if idle(&mut table, used).is_none() {
            println!("not run: /proc does not say how often a thread of this process sleeps");
            return ExitCode::from(77);
        }
    }
    if table.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Watches a default runtime that has nothing to do: fresh, or after a load.
fn idle(table: &mut Table, used: bool) -> Option<()> {
    let runtime = Runtime::builder().build().ok()?;
    if used {
        let orders = runtime.subscribe(Subscription::new("orders"), |_: &Record| Ok(())).ok()?;
        for number in 0..100_000u32 {
            orders.submit(Record::new(number.to_le_bytes(), "")).ok()?;
        }
    }
    wait_until_idle()?;
    let (begin, before) = (Instant::now(), threads("keylane")?);
    std::thread::sleep(WATCHED);
    let (seconds, after) = (begin.elapsed().as_secs_f64(), threads("keylane")?);
    println!("idle for {seconds:.1} s, {}", if used { "after 100,000 records" } else { "fresh" });
    for (before, after) in before.iter().zip(&after).filter(|(a, b)| a.name == b.name) {
        // The monitor sleeps until it is called.
        let most = if after.name.ends_with("mon") { 2.0 } else { MOST_WAKES };
        let wakes = (after.sleeps - before.sleeps) as f64 / seconds;
        table.row(&format!("  {}: wake-ups", after.name), wakes, most, "a second");
    }
    let ran: u64 =
        after.iter().map(|t| t.ran).sum::<u64>() - before.iter().map(|t| t.ran).sum::<u64>();
    table.row("  CPU of all its threads", ran as f64 / 1e7 / seconds, MOST_CPU * 100.0, "%");
    runtime.close(Duration::from_secs(10)).ok()?;
    Some(())
}

/// Prints rows and remembers whether one missed its limit.
#[derive(Default)]
struct Table {
    missed: bool,
}

impl Table {
    fn row(&mut self, what: &str, is: f64, most: f64, unit: &str) {
        let missed = is > most;
        self.missed |= missed;
        let said = if missed { "  MISSED" } else { "" };
        println!("{what:<40} {is:>9.2} {unit:<8} (at most {most}){said}");
    }

    fn tell(&self, what: &str, is: f64, unit: &str) {
        println!("{what:<40} {is:>9.2} {unit}");
    }
}
