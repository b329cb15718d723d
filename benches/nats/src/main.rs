//! The NATS bus beside raw loops on the same client, a bare socket and a peer: slices in turns on one local server, and
//! ratios within each round.
//!
//! `cargo run --release -p keylane-nats-bench` measures and records; `-- --quick` shows in a minute that it runs;
//! `-- --only WORD` runs the groups whose name has the word; `-- --into FILE` records there instead of under `results`;
//! `-- --render` writes tables and plots of the newest record, or of `--from FILE`, into PERFORMANCE.md, or `--page FILE`.

mod consume;
mod count;
mod handed;
mod handlers;
mod latency;
mod load;
mod machine;
mod ours;
mod peer;
mod publish;
mod raw;
mod record;
mod render;
mod rounds;
mod server;
mod socket;
mod stats;
mod summary;
mod svg;

use std::alloc::System;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keylane_bench_support::allocator::{self, Counting};

use record::Recorder;
use rounds::Effort;
use server::{Server, context, fill, on_tokio, stream};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

/// Why there is no figure.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A number that nothing else in this run has.
pub fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    if has("--render") {
        let path = |flag| after(flag).map(PathBuf::from);
        return render::render(path("--from"), path("--page"));
    }
    let quick = has("--quick");
    // As many as the fastest arm takes in a slice, of those of 128 bytes.
    let messages = if quick { 120_000 } else { 1_600_000 };
    let loads = consume::loads(messages);
    if has("--count") {
        let url = std::env::var("KL_NATS_URL")?;
        return count::child(&url, &loads, &arguments[1..]);
    }
    allocator::stop();
    let rounds = after("--rounds").map(|rounds| rounds.parse()).transpose()?;
    let effort = if quick {
        Effort { rounds: rounds.unwrap_or(1), slice: Duration::from_millis(250), careful: false }
    } else {
        Effort { rounds: rounds.unwrap_or(16), slice: Duration::from_secs(2), careful: true }
    };
    let only = after("--only").unwrap_or_default();
    let wanted = |name: &str| name.contains(&only);
    let server = Server::start()?;
    let url = &server.url;
    let path = after("--into").map(PathBuf::from).or_else(|| (!quick).then(record::today));
    let mut recorder = Recorder::new(path.as_deref())?;
    let version = on_tokio(async {
        let client = async_nats::connect(url).await?;
        Ok::<_, Failed>(format!("nats-server {}", client.server_info().version))
    })??;
    recorder.put(&record::describe(&arguments.join(" "), &version));

    let mut groups = consume::groups(url, &loads);
    groups.extend(publish::groups(url));
    groups.retain(|group| wanted(&group.name));
    let streams: Vec<_> = loads
        .iter()
        .filter(|load| {
            let header = matches!(load.form, load::Form::Header(_)) && wanted("header");
            let own = groups.iter().any(|group| group.name.split(' ').next() == Some(load.topic));
            let slow = load.stream == consume::HANDLERS && wanted("handlers");
            header || own || slow || wanted("count") && load.size == 128
        })
        .collect();
    let handlers = wanted("handlers");
    let latency = wanted("latency");
    let slices = groups.iter().map(|group| group.arms.len()).sum::<usize>()
        + if handlers { 2 } else { 0 }
        + if latency { 2 * latency::SHARES.len() } else { 0 };
    // A consumer or a bus is made and ended around each; 100,000 records are stored a second.
    let around = Duration::from_millis(350);
    let filling = Duration::from_micros(10 * streams.iter().map(|load| load.messages).sum::<u64>());
    let counting = if wanted("count") && !quick { count::LENGTH } else { Duration::ZERO };
    let length =
        (effort.slice + around) * u32::try_from(slices * effort.rounds)? + filling + counting;
    eprintln!(
        "{} rounds of {slices} slices: about {} minutes, longer by what is repeated",
        effort.rounds,
        length.as_secs().div_ceil(60)
    );
    on_tokio(async {
        for load in streams {
            fill(url, load).await?;
        }
        let js = context(url).await?;
        for load in [publish::load(), latency::load()] {
            stream(&js, load.stream, load.filter).await?;
        }
        Ok::<_, Failed>(())
    })??;
    for group in &mut groups {
        group.run(effort, &mut recorder)?;
        recorder.sum_up();
    }
    drop(groups);
    if handlers && let Some(load) = loads.iter().find(|load| load.stream == consume::HANDLERS) {
        handlers::run(url, load, effort, &mut recorder)?;
        recorder.sum_up();
    }
    if latency {
        latency::run(url, effort, &mut recorder)?;
        recorder.sum_up();
    }
    if wanted("count") && !quick {
        count::run(url, &mut recorder)?;
    }
    Ok(())
}
