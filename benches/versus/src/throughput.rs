//! How many records a second, each peer in turns with keylane.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::load::{Draw, Handle};
use crate::options::Options;
use crate::record::{self, Recorder};
use crate::round::{Contender, Job, Load, duel, everybody};

/// Records of a no-op round: some tens of milliseconds.
const COUNT: usize = 200_000;

/// After this the quick form repeats no turn: it ends within a minute.
const PATIENCE: Duration = Duration::from_secs(30);

/// No-op, uniform and Zipf, one producer.
pub fn quick(options: &Options, recorder: &mut Recorder) {
    let until = Some(Instant::now() + PATIENCE);
    let rounds = options.rounds.unwrap_or(5);
    for draw in [Draw::Uniform, Draw::Zipf] {
        job(Job::new(draw, COUNT / 2), options, (rounds, until), recorder);
    }
}

/// The grid.
pub fn full(options: &Options, recorder: &mut Recorder) {
    let rounds = options.rounds.unwrap_or(9);
    jobs().into_iter().for_each(|wanted| job(wanted, options, (rounds, None), recorder));
}

fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for draw in [Draw::Uniform, Draw::Zipf] {
        let noop = Job::new(draw, COUNT);
        jobs.extend([1, 8, 32].map(|burst| Job { burst, ..noop }));
        jobs.push(Job { window: None, ..noop });
        jobs.push(Job { producers: 2, ..noop });
        jobs.push(Job { producers: 2, workers: 2, ..noop });
        let micro = Job { handle: Handle::Micro, count: COUNT / 8, ..noop };
        jobs.extend([1, 2].map(|workers| Job { workers, ..micro }));
    }
    jobs
}

/// One in a thousand blocks for a millisecond: with the same two threads for all, and as each arm likes it best.
pub fn blocking(options: &Options, recorder: &mut Recorder) {
    let rounds = options.rounds.unwrap_or(9);
    for draw in [Draw::Uniform, Draw::Zipf] {
        let block = Job { handle: Handle::Block, workers: 2, ..Job::new(draw, 20_000) };
        job(block, options, (rounds, None), recorder);
        job(Job { own_best: true, count: 100_000, ..block }, options, (rounds, None), recorder);
    }
}

/// Measures a job and puts its lines.
fn job(
    job: Job,
    options: &Options,
    (rounds, until): (usize, Option<Instant>),
    recorder: &mut Recorder,
) {
    let load = Load::new(job);
    let table = duel(&load, &peers(options), rounds, until);
    let lines = record::throughput(&job, &table);
    recorder.title(&format!("\n{}: {} records a round", job.name(), job.count));
    lines.iter().for_each(|line| recorder.put(line, &words(line)));
}

/// Everybody, unless only some were asked for.
pub fn peers(options: &Options) -> Vec<Contender> {
    let asked = |who: &Contender| {
        options.arms.as_ref().is_none_or(|arms| arms.iter().any(|arm| arm == who.name()))
    };
    everybody().into_iter().filter(asked).collect()
}

fn words(line: &Value) -> String {
    let arm = line["arm"].as_str().unwrap_or("");
    if let Some(why) = line["not_run"].as_str() {
        return format!("  {arm:<20} not run: {why}");
    }
    let rate = line["msgs_per_s"].as_f64().unwrap_or(0.0) / 1e6;
    let ratio = |ratio: &str, spread: &str| match line[ratio].as_f64() {
        None => "    –              ".to_owned(),
        Some(median) => {
            let [low, high] = [0, 1].map(|end| line[spread][end].as_f64().unwrap_or(f64::NAN));
            format!("{median:>6.2} [{low:.2}–{high:.2}]")
        }
    };
    let mut words = format!(
        "  {arm:<20} {rate:>7.2} M/s  {:<20} {:<20}",
        ratio("ratio", "spread"),
        ratio("batch_ratio", "batch_spread")
    );
    if line["violations"].as_u64() != Some(0) {
        words += &format!(" VIOLATIONS {}", line["violations"]);
    }
    if line["discarded"].as_u64() != Some(0) {
        words += &format!(" ({} discarded)", line["discarded"]);
    }
    format!("{words} {} threads; {}", line["threads"], line["form"].as_str().unwrap_or(""))
}
