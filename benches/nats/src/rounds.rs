//! Slices of arms in turns, forward and backward (ABBA), and the ratios within each round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Failed;
use crate::record::Recorder;
use crate::stats::{Ratio, quantile};

/// One slice: messages a second.
pub type Run<'a> = Box<dyn FnMut(&str, Duration) -> Result<f64, Failed> + 'a>;

pub struct Arm<'a> {
    pub name: &'static str,
    pub run: Run<'a>,
}

/// Arms on one load, and what is aimed at between them.
pub struct Group<'a> {
    pub name: String,
    pub arms: Vec<Arm<'a>>,
    /// Ours, the rival, and the least ratio aimed at.
    pub goals: Vec<(&'static str, &'static str, f64)>,
}

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    pub slice: Duration,
}

impl Group<'_> {
    pub fn run(&mut self, effort: Effort, recorder: &mut Recorder) -> Result<(), Failed> {
        let mut rates = vec![Vec::new(); self.arms.len()];
        for round in 0..effort.rounds {
            let mut order: Vec<usize> = (0..self.arms.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for place in order {
                let arm = &mut self.arms[place];
                let name = format!("b{}", crate::unique());
                let rate = (arm.run)(&name, effort.slice)
                    .map_err(|why| format!("{}, {}: {why}", self.name, arm.name))?;
                rates[place].push(rate);
            }
        }
        for (arm, rates) in self.arms.iter().zip(&rates) {
            let [low, median, high] = [0.1, 0.5, 0.9].map(|part| quantile(rates, part).round());
            recorder.put(&json!({
                "table": "rate", "group": self.name, "arm": arm.name, "rounds": rates.len(),
                "per_s": median, "low": low, "high": high,
            }));
        }
        let of = |name: &str| self.arms.iter().position(|arm| arm.name == name);
        for (ours, rival, goal) in &self.goals {
            let (Some(a), Some(b)) = (of(ours), of(rival)) else { continue };
            let pairs = rates[a].iter().zip(&rates[b]);
            let ratio = Ratio::of(&pairs.map(|(a, b)| a / b).collect::<Vec<_>>());
            recorder.put(&json!({
                "table": "ratio", "group": self.name, "ours": ours, "rival": rival, "goal": goal,
                "rounds": rates[a].len(), "median": ratio.median, "low": ratio.low,
                "high": ratio.high, "verdict": ratio.verdict(*goal),
            }));
        }
        Ok(())
    }
}

/// Runs a consumer on a thread of its own, and says how many it handles a second from the first to the end of the slice
/// or of the stream. What it handled must be complete and in order.
pub fn slice(
    tally: &Arc<crate::load::Tally>,
    length: Duration,
    consume: impl FnOnce() -> Result<(), Failed> + Send,
) -> Result<f64, Failed> {
    let rate = std::thread::scope(|scope| {
        let consumer = scope.spawn(consume);
        let patience = Instant::now() + Duration::from_secs(20);
        while tally.count() == 0 && !consumer.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_micros(200));
        }
        let (begun, before) = (Instant::now(), tally.count());
        while begun.elapsed() < length && !tally.is_over() && !consumer.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let rate = (tally.count() - before) as f64 / begun.elapsed().as_secs_f64();
        tally.stop();
        match consumer.join() {
            Ok(ended) => ended.map(|()| rate),
            Err(_) => Err("the arm panicked".into()),
        }
    })?;
    let (wrong, again) = tally.faults();
    if wrong + again > 0 {
        return Err(format!("{wrong} out of order or without those before, {again} again").into());
    }
    if tally.count() == 0 { Err("nothing was handled".into()) } else { Ok(rate) }
}
