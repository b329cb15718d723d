//! Workers, producers, lanes: no cliff.

use serde_json::json;

use super::{figure, said};
use crate::arms;
use crate::load::Draw;
use crate::machine;
use crate::options::Options;
use crate::record::Recorder;
use crate::round::{Job, Load, run};

/// Each point has one turn a round, so that a slow moment of the machine is nobody's cliff.
pub fn full(options: &Options, recorder: &mut Recorder) {
    recorder.title("\ncurves: M records/s, no-op, uniform keys");
    let mut points = Vec::new();
    for (workers, producers) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        for lanes in [16, 64, 256, 1_024, 4_096] {
            let job = Job { workers, producers, lanes, ..Job::new(Draw::Uniform, 100_000) };
            points.push(Load::new(job));
        }
    }
    let arms = [arms::OURS, arms::BATCH];
    let (turns, discarded) = machine::rounds(options.rounds.unwrap_or(7), |_| {
        let each = points.iter().map(|load| arms.map(|arm| run(arm, load)));
        each.collect::<Vec<_>>()
    });
    for (place, load) in points.iter().enumerate() {
        for (number, arm) in arms.iter().enumerate() {
            let measured = turns.iter().map(|turn| turn[place][number]);
            let rates: Vec<f64> = measured.clone().map(|one| one.rate / 1e6).collect();
            let violations: u64 = measured.map(|one| one.verdict.violations()).sum();
            let Job { workers, producers, lanes, .. } = load.job;
            let line = json!({
                "table": "curves", "arm": arm.name(), "workers": workers, "producers": producers,
                "lanes": lanes, "mega_per_s": figure(&rates), "violations": violations,
                "rounds": rates.len(), "discarded": discarded,
            });
            let words = format!(
                "  {:<14} {workers} workers, {producers} producers, {lanes:>5} lanes: {}",
                arm.name(),
                said(&rates)
            );
            recorder.put(&line, &words);
        }
    }
}
