//! What an idle runtime costs, checked: memory, wake-ups, CPU; what subscriptions, topics and pending keys add; and
//! that keys which were seen and are idle add nothing.
//!
//! The allocator is the system's: what another one keeps in reserve, or asks for in huge pages, is its own and would
//! hide the rest.
//!
//! Memory is read in a fresh process each time, since one that had a runtime before would reuse its pages, and the
//! median of the runs counts. Wake-ups are watched for three seconds of real time. The exit status is 1 if a
//! limit is missed, and 77 with `not run: …` where the system does not say.

use std::alloc::System;
use std::future::{pending, poll_fn};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use keylane::internals::{Lanes, Parker};
use keylane::memory::MemoryBus;
use keylane::{Config, Handler, Record, Runtime, Subscriber, Subscription};
use keylane_bench_support::allocator::{Counting, live};
use keylane_bench_support::load::Handled;
use keylane_bench_support::process::{anonymous, mappings_of, threads};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

const MIB: u64 = 1 << 20;
/// Fresh processes whose median counts.
const RUNS: usize = 9;
/// How long an idle runtime is watched.
const WATCHED: Duration = Duration::from_secs(3);
/// The same for what takes a second.
const LONG_RUNS: usize = 3;
const SUBSCRIPTIONS: u64 = 1_000;
const TOPICS: u64 = 10;
/// Keys that are seen once and then idle.
const SEEN: u64 = 1_000_000;
/// Keys whose handlers are pending all at once.
const PENDING: u64 = 100_000;
/// Records in flight at most where keys are counted that come and go: fewer than the pool keeps, and seldom ten in
/// one lane.
const WINDOW: u64 = 512;

/// Resident memory that the lanes of a default runtime may take, and the whole of it.
const MOST_LANES: u64 = 2 * MIB;
const MOST_RUNTIME: u64 = 2 * MIB;
/// Resident memory of the slab alone before its first use.
const MOST_SLAB: u64 = 64 << 10;
/// Wake-ups a second: four heartbeats and one for luck.
const MOST_WAKES: f64 = 5.0;
const MOST_CPU: f64 = 0.01;
const MOST_SUBSCRIPTION: u64 = 2_048;
/// Of a topic of the memory bus with one partition and one subscription, resident.
const MOST_TOPIC: u64 = 64 << 10;
/// By how much a million keys that are idle may make a runtime grow: nothing that is theirs, stray pages. A byte a
/// key would be too much.
const MOST_SEEN: u64 = 256 << 10;
/// Of a key whose handler is pending: its record of 76 bytes in a block, its future, its place in the gate.
const MOST_PENDING: u64 = 1_024;

fn main() -> ExitCode {
    let part = std::env::args().nth(1);
    let measured = match part.as_deref() {
        None => return all(),
        Some("lanes") => lanes(),
        Some("runtime") => runtime(),
        Some("subscriptions") => subscriptions(),
        Some("topics") => topics(),
        Some("seen") => seen(false),
        Some("seen-pending") => seen(true),
        Some("pending") => pending_keys(),
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
    // Rings of a thousand slots lie 17 slots apart.
    let slab = ((config.slots.next_power_of_two() + 17) * config.lanes * 64) as u64;
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

/// Resident and allocated bytes of each of 10 topics of a memory bus, with a subscription each.
fn topics() -> Option<[u64; 2]> {
    let runtime = Runtime::builder().build().ok()?;
    let bus = MemoryBus::new(&runtime).ok()?;
    wait_until_idle()?;
    let before = Memory::now()?;
    for number in 0..TOPICS {
        let topic = format!("topic-{number}");
        let policy = Subscription::new(topic.as_str());
        bus.subscribe(&topic, policy, |_: &Record| Ok(())).wait().ok()?;
    }
    wait_until_idle()?;
    let grown = before.grown()?.map(|bytes| bytes / TOPICS);
    runtime.stop_now();
    Some(grown)
}

/// By how many bytes, resident and allocated, a runtime grows by a million keys that it sees once each. Their
/// handler is sync; or async and `pending` at its first poll, so that each key is busy for a while.
fn seen(pending: bool) -> Option<[u64; 2]> {
    let used = Used::new(pending)?;
    let before = Memory::now()?;
    used.run(SEEN, |number| format!("order-{number:08}"))?;
    wait_until_idle()?;
    let grown = before.grown()?;
    used.runtime.stop_now();
    Some(grown)
}

/// Resident and allocated bytes of each of 100,000 keys whose handlers are pending.
fn pending_keys() -> Option<[u64; 2]> {
    let used = Used::new(false)?;
    let started = Arc::new(Handled::default());
    let count = started.clone();
    let handler = Handler::future(move |_record| {
        count.add();
        pending()
    });
    let hung = used.runtime.subscribe_handler(Subscription::new("hung"), handler).ok()?;
    wait_until_idle()?;
    let before = Memory::now()?;
    for number in 0..PENDING {
        hung.submit(Record::new(format!("order-{number:06}"), PAYLOAD)).ok()?;
    }
    started.wait(PENDING);
    wait_until_idle()?;
    let grown = before.grown()?.map(|bytes| bytes / PENDING);
    used.runtime.stop_now();
    Some(grown)
}

const PAYLOAD: [u8; 64] = [7; 64];

/// Resident and allocated bytes at one time.
struct Memory([u64; 2]);

impl Memory {
    fn now() -> Option<Self> {
        Some(Self([anonymous()?, live()]))
    }

    fn grown(&self) -> Option<[u64; 2]> {
        let now = Self::now()?;
        Some([0, 1].map(|which| now.0[which].saturating_sub(self.0[which])))
    }
}

/// A default runtime whose every slot, and whose pool, has been used; and if its handler is `pending` at first, each
/// lane's gate for more keys at once than it will see again.
struct Used {
    runtime: Runtime,
    orders: Subscriber,
    handled: Arc<Handled>,
}

/// Futures that stay pending until they are let go; `None`: they go on at once.
type Held = Arc<Mutex<Option<Vec<Waker>>>>;

impl Used {
    fn new(pending: bool) -> Option<Self> {
        let runtime = Runtime::builder().config(Config::default().seed(7)).build().ok()?;
        let (handled, held) = (Arc::new(Handled::default()), Held::default());
        let handler = if pending {
            twice(handled.clone(), held.clone())
        } else {
            let count = handled.clone();
            Handler::sync(move |_| {
                count.add();
                Ok(())
            })
        };
        let orders = runtime.subscribe_handler(Subscription::new("orders"), handler).ok()?;
        let used = Self { runtime, orders, handled };
        if pending {
            used.hold(&held)?;
        }
        // Of 10,000 keys each lane has some twenty at least: more than 1,024 records, that is, its every slot.
        used.run(600_000, |number| format!("before-{:05}", number % 10_000))?;
        wait_until_idle()?;
        Some(used)
    }

    /// Has 10,000 keys pending at once, some twenty a lane at least.
    fn hold(&self, held: &Held) -> Option<()> {
        let count = 10_000;
        *held.lock().ok()? = Some(Vec::new());
        for number in 0..count {
            self.orders.submit(Record::new(format!("held-{number:05}"), PAYLOAD)).ok()?;
        }
        while held.lock().ok()?.as_ref().is_some_and(|wakers| wakers.len() < count) {
            std::thread::yield_now();
        }
        held.lock().ok()?.take()?.into_iter().for_each(Waker::wake);
        self.handled.wait(count as u64);
        Some(())
    }

    /// Sends `count` records, few at a time, and waits until they are handled.
    fn run(&self, count: u64, key: impl Fn(u64) -> String) -> Option<()> {
        let before = self.handled.total();
        for number in 0..count {
            if number.is_multiple_of(64) {
                self.handled.wait((before + number + 64).saturating_sub(WINDOW));
            }
            self.orders.submit(Record::new(key(number), PAYLOAD)).ok()?;
        }
        self.handled.wait(before + count);
        Some(())
    }
}

/// A handler that is pending at its first poll and done at its second.
fn twice(handled: Arc<Handled>, held: Held) -> Handler {
    Handler::future(move |_record| {
        let (handled, held) = (handled.clone(), held.clone());
        let mut polled = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut polled, true) {
                handled.add();
                return Poll::Ready(Ok(()));
            }
            match held.lock().as_deref_mut() {
                Ok(Some(wakers)) => wakers.push(cx.waker().clone()),
                _ => cx.waker().wake_by_ref(),
            }
            Poll::Pending
        })
    })
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

/// The medians of what `part` says in `runs` processes of its own.
fn medians(part: &str, runs: usize) -> Option<[u64; 2]> {
    let program = std::env::current_exe().ok()?;
    let mut said = (0..runs)
        .map(|_| {
            let said = Command::new(&program).arg(part).output().ok()?;
            let text = String::from_utf8(said.stdout).ok()?;
            let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
            Some([numbers.next()??, numbers.next()??])
        })
        .collect::<Option<Vec<[u64; 2]>>>()?;
    Some([0, 1].map(|which| {
        said.sort_by_key(|run| run[which]);
        said[runs / 2][which]
    }))
}

fn all() -> ExitCode {
    let parts = ["lanes", "runtime", "subscriptions", "topics"].map(|part| medians(part, RUNS));
    let long = ["seen", "seen-pending", "pending"].map(|part| medians(part, LONG_RUNS));
    let (
        [Some(lanes), Some(runtime), Some(subscription), Some(topic)],
        [Some(seen), Some(seen_pending), Some(pending)],
    ) = (parts, long)
    else {
        println!("not run: /proc does not say how much of this process is resident");
        return ExitCode::from(77);
    };
    let mut table = Table::default();
    let kib = |bytes: u64| bytes as f64 / 1_024.0;
    table.row("256 lanes x 1000 slots, resident", kib(lanes[0]), kib(MOST_LANES), "KiB");
    table.tell("  each", lanes[0] as f64 / 256.0, "bytes");
    table.row("  their slab of 16 MiB before use", kib(lanes[1]), kib(MOST_SLAB), "KiB");
    table.row("a default runtime, idle, resident", kib(runtime[0]), kib(MOST_RUNTIME), "KiB");
    table.tell("  allocated by it", kib(runtime[1]), "KiB");
    let most = MOST_SUBSCRIPTION as f64;
    table.row("one subscription of 1,000, allocated", subscription[1] as f64, most, "bytes");
    table.tell("  resident", subscription[0] as f64, "bytes");
    table.row("one topic of 10, resident", kib(topic[0]), kib(MOST_TOPIC), "KiB");
    table.tell("  allocated", kib(topic[1]), "KiB");
    for (handler, grown) in [("sync", seen), ("pending once", seen_pending)] {
        let what = format!("1,000,000 idle keys ({handler}), resident");
        table.row(&what, kib(grown[0]), kib(MOST_SEEN), "KiB");
        table.row("  allocated", kib(grown[1]), kib(MOST_SEEN), "KiB");
    }
    let most = MOST_PENDING as f64;
    table.row("one pending key of 100,000, resident", pending[0] as f64, most, "bytes");
    table.row("  allocated", pending[1] as f64, most, "bytes");
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
        println!("{what:<46} {is:>9.2} {unit:<8} (at most {most}){said}");
    }

    fn tell(&self, what: &str, is: f64, unit: &str) {
        println!("{what:<46} {is:>9.2} {unit}");
    }
}
