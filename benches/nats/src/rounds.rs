//! Slices of arms in turns, forward and backward (ABBA). What a round measured is recorded at once, so that a run that is
//! cut keeps what it has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failed;
use crate::machine::Care;
use crate::record::Recorder;

/// What was handled, and in which time.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub handled: u64,
    pub time: Duration,
}

/// One slice.
pub type Run<'a> = Box<dyn FnMut(&str, Duration) -> Result<Measured, Failed> + 'a>;

pub struct Arm<'a> {
    pub name: &'static str,
    pub run: Run<'a>,
}

/// Ours, the rival, and the least ratio aimed at.
pub type Goal = (&'static str, &'static str, f64);

/// Arms on one load, and what is aimed at between them.
pub struct Group<'a> {
    pub name: String,
    pub arms: Vec<Arm<'a>>,
    pub goals: Vec<Goal>,
}

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    pub slice: Duration,
    /// Whether a slice is repeated that other machines disturbed.
    pub careful: bool,
}

/// The order of a round: every other one backward.
pub fn order(arms: usize, round: usize) -> Vec<usize> {
    let forward = 0..arms;
    if round % 2 == 1 { forward.rev().collect() } else { forward.collect() }
}

/// A round, as it is recorded.
pub fn line(
    group: &str,
    round: usize,
    rates: &[(&str, f64)],
    goals: &[Goal],
    care: &Care,
) -> Value {
    let arms: Vec<_> = rates.iter().map(|rate| rate.0).collect();
    let rates: Vec<_> = rates.iter().map(|rate| rate.1.round()).collect();
    json!({
        "table": "round", "group": group, "round": round, "arms": arms, "per_s": rates, "goals": goals,
        "discarded": care.discarded, "stolen": care.stolen,
    })
}

impl Group<'_> {
    pub fn run(&mut self, effort: Effort, recorder: &mut Recorder) -> Result<(), Failed> {
        for round in 0..effort.rounds {
            let mut care = Care::new(effort.careful);
            let mut rates: Vec<_> = self.arms.iter().map(|arm| (arm.name, f64::NAN)).collect();
            for place in order(self.arms.len(), round) {
                let arm = &mut self.arms[place];
                rates[place].1 = care
                    .slice(|| rate(arm, effort.slice))
                    .map_err(|why| format!("{}, {}: {why}", self.name, arm.name))?;
            }
            recorder.put(&line(&self.name, round, &rates, &self.goals, &care));
        }
        Ok(())
    }
}

/// How many an arm handles a second, in a slice of this length: where its stream ends sooner it begins anew.
fn rate(arm: &mut Arm<'_>, slice: Duration) -> Result<f64, Failed> {
    let (mut handled, mut time) = (0, Duration::ZERO);
    while time < slice {
        let left = (slice - time).max(slice / 4);
        let measured = (arm.run)(&format!("b{}", crate::unique()), left)?;
        handled += measured.handled;
        time += measured.time;
    }
    Ok(handled as f64 / time.as_secs_f64())
}

/// Runs a consumer on a thread of its own, and says how many it handles from the first to the end of the slice or of the
/// stream. What it handled must be complete and in order.
pub fn slice(
    tally: &Arc<crate::load::Tally>,
    length: Duration,
    consume: impl FnOnce() -> Result<(), Failed> + Send,
) -> Result<Measured, Failed> {
    let measured = std::thread::scope(|scope| {
        let consumer = scope.spawn(consume);
        let patience = Instant::now() + Duration::from_secs(20);
        while tally.count() == 0 && !consumer.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_micros(200));
        }
        let (begun, before) = (Instant::now(), tally.count());
        while begun.elapsed() < length && !tally.is_over() && !consumer.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let measured = Measured { handled: tally.count() - before, time: begun.elapsed() };
        tally.stop();
        match consumer.join() {
            Ok(ended) => ended.map(|()| measured),
            Err(_) => Err("the arm panicked".into()),
        }
    })?;
    let (wrong, again) = tally.faults();
    if wrong + again > 0 {
        return Err(format!("{wrong} out of order or without those before, {again} again").into());
    }
    if tally.count() == 0 { Err("nothing was handled".into()) } else { Ok(measured) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_whole_though_the_stream_is_short() {
        let run: Run<'_> = Box::new(|_, length| {
            let time = length.min(Duration::from_millis(300));
            Ok(Measured { handled: u64::try_from(time.as_millis()).unwrap_or(0), time })
        });
        let rate = rate(&mut Arm { name: "short", run }, Duration::from_secs(1));
        assert_eq!(rate.map(f64::round).ok(), Some(1_000.0));
        assert_eq!([order(3, 0), order(3, 1)], [[0, 1, 2], [2, 1, 0]]);
    }
}
