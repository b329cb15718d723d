//! The NATS bus beside raw loops on the same client, a bare socket and a peer: slices in turns on one local server, and
//! ratios within each round.
//!
//! `cargo run --release -p keylane-nats-bench` measures and records; `-- --quick` shows in a minute that it runs;
//! `-- --only WORD` runs the groups whose name has the word; `-- --render` writes tables and plots into PERFORMANCE.md.

mod consume;
mod count;
mod handlers;
mod latency;
mod load;
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
mod svg;

use std::alloc::System;
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
        return render::render();
    }
    let quick = has("--quick");
    let messages = if quick { 120_000 } else { 1_200_000 };
    let loads = consume::loads(messages);
    if has("--count") {
        let url = std::env::var("KL_NATS_URL")?;
        return count::child(&url, &loads, &arguments[1..]);
    }
    allocator::stop();
    let rounds = after("--rounds").map(|rounds| rounds.parse()).transpose()?;
    let effort = if quick {
        Effort { rounds: rounds.unwrap_or(1), slice: Duration::from_millis(250) }
    } else {
        Effort { rounds: rounds.unwrap_or(16), slice: Duration::from_secs(2) }
    };
    let only = after("--only").unwrap_or_default();
    let wanted = |name: &str| name.contains(&only);
    let server = Server::start()?;
    let url = &server.url;
    let mut recorder = Recorder::new((!quick).then(record::today).as_deref())?;
    recorder.put(&record::describe(&arguments.join(" ")));

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
    }
    drop(groups);
    if wanted("handlers")
        && let Some(load) = loads.iter().find(|load| load.stream == consume::HANDLERS)
    {
        handlers::run(url, load, effort, &mut recorder)?;
    }
    if wanted("latency") {
        latency::run(url, effort, &mut recorder)?;
    }
    if wanted("count") && !quick {
        count::run(url, &mut recorder)?;
    }
    Ok(())
}
