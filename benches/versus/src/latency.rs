//! An open loop at fixed rates: from the time a record should have been sent at to its handler's start.

use serde_json::json;

use crate::arms::{self, go};
use crate::load::Draw;
use crate::machine;
use crate::options::Options;
use crate::record::Recorder;
use crate::round::{Contender, Job, Load, Paced, paced};
use crate::stats::median;
use crate::throughput::peers;

/// Seconds of a round that count; half as long again goes before them.
const SECONDS: f64 = 0.15;

/// At 10, 50 and 80 % of what the slowest arm can do, and of what each can do itself.
pub fn full(options: &Options, recorder: &mut Recorder) {
    let rounds = options.rounds.unwrap_or(5);
    let arms = capacities(options);
    let slowest = arms.iter().map(|&(_, capacity)| capacity).fold(f64::INFINITY, f64::min);
    let floor = Contender::Here(arms::FLOOR);
    for share in [0.1, 0.5, 0.8] {
        let rate = slowest * share;
        let same: Vec<_> =
            arms.iter().map(|&(who, _)| (who, rate)).chain([(floor, rate)]).collect();
        table("slowest", share, &same, rounds, recorder);
    }
    for share in [0.1, 0.5, 0.8] {
        let own: Vec<_> = arms.iter().map(|&(who, capacity)| (who, capacity * share)).collect();
        table("own", share, &own, rounds, recorder);
    }
}

/// Who takes part, and how many records a second each can do.
fn capacities(options: &Options) -> Vec<(Contender, f64)> {
    let load = Load::new(Job::new(Draw::Uniform, 200_000));
    let shape = load.job.shape();
    let rust = peers(options).into_iter().filter(|who| matches!(who, Contender::Here(_)));
    let go = [go::Mode::New, go::Mode::Built].map(Contender::Child);
    let everybody = std::iter::once(Contender::Here(arms::OURS)).chain(rust).chain(go);
    everybody
        .filter(|who| who.about(&shape).is_ok())
        .filter_map(|who| {
            let runs: Vec<_> = (0..5).filter_map(|_| who.run(&load).ok()).collect();
            let sound = runs.iter().all(|run| run.verdict.violations() == 0) && !runs.is_empty();
            sound.then(|| (who, median(&runs.iter().map(|run| run.rate).collect::<Vec<_>>())))
        })
        .collect()
}

fn table(of: &str, share: f64, arms: &[(Contender, f64)], rounds: usize, recorder: &mut Recorder) {
    recorder.title(&format!("\nlatency at {:.0} % of the {of} capacity (ns)", share * 100.0));
    let loads: Vec<Load> = arms
        .iter()
        .map(|&(_, rate)| {
            Load::new(Job { window: None, ..Job::new(Draw::Uniform, (rate * SECONDS) as usize) })
        })
        .collect();
    // Everybody has a turn in each round.
    let (turns, discarded) = machine::rounds(rounds, |_| {
        let each = arms.iter().zip(&loads).map(|(&(who, rate), load)| paced(who, load, rate));
        each.collect::<Vec<_>>()
    });
    for (place, (who, rate)) in arms.iter().enumerate() {
        let paced: Vec<Paced> =
            turns.iter().filter_map(|turn| turn[place].as_ref().ok().copied()).collect();
        let at = |of: fn(&Paced) -> u64| {
            median(&paced.iter().map(|paced| of(paced) as f64).collect::<Vec<_>>()).round()
        };
        let (p50, p99, p999) = (at(|p| p.p50), at(|p| p.p99), at(|p| p.p999));
        let most = paced.iter().map(|paced| paced.most).max().unwrap_or(0);
        let violations: u64 = paced.iter().map(|paced| paced.verdict.violations()).sum();
        let line = json!({
            "table": "latency", "arm": who.name(), "of": of, "share": share, "rate": rate.round(),
            "p50_ns": p50, "p99_ns": p99, "p999_ns": p999, "max_ns": most,
            "violations": violations, "rounds": paced.len(), "discarded": discarded,
        });
        let mut words = format!(
            "  {:<20} {:>9.0}/s  p50 {p50:>9}  p99 {p99:>9}  p99.9 {p999:>9}  max {most:>10}",
            who.name(),
            rate
        );
        if violations > 0 {
            words += &format!(" VIOLATIONS {violations}");
        }
        recorder.put(&line, &words);
    }
}
