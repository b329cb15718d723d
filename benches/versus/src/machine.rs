//! The machine: what it is, and how much of it others took.

use std::fs;
use std::time::Instant;

pub use keylane_bench_support::machine::said;
use keylane_bench_support::machine::{self, Stolen, ticks};
use serde_json::{Value, json};

/// How long something took, and how much of the processors others had meanwhile.
pub struct Watch {
    begun: Instant,
    /// Busy anywhere, all there is, our own and our ended children's.
    times: Option<[u64; 3]>,
}

impl Watch {
    pub fn begin() -> Self {
        Self { begun: Instant::now(), times: busy() }
    }

    /// Seconds, and what share of all processor time others had. `None` where the system does not tell.
    pub fn end(&self) -> (f64, Option<f64>) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let others = self.times.zip(busy()).map(|(then, now)| others(then, now));
        (seconds, others)
    }
}

/// What was busy and not ours, as a part of all there was.
fn others(then: [u64; 3], now: [u64; 3]) -> f64 {
    let [busy, all, own] = [0, 1, 2].map(|at| now[at].saturating_sub(then[at]) as f64);
    // Ticks are counted on either side for itself.
    ((busy - own) / all.max(1.0)).clamp(0.0, 1.0)
}

fn busy() -> Option<[u64; 3]> {
    let times = ticks()?;
    let all: u64 = times.iter().take(8).sum();
    // Idle, and waiting for a disk.
    let idle = times.get(3)? + times.get(4)?;
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may have anything in it: user, system, and both of children that have ended.
    let (_, behind) = text.rsplit_once(')')?;
    let own = behind.split_whitespace().skip(11).take(4).map(|time| time.parse::<u64>().ok());
    Some([all - idle, all, own.sum::<Option<u64>>()?])
}

/// `rounds` rounds from which nobody stole more than 1 %, of four times as many at most; and how many were discarded.
pub fn rounds<T>(rounds: usize, round: impl FnMut(usize) -> T) -> (Vec<T>, usize) {
    rounds_until(rounds, None, round)
}

/// The same; after `until` none that is discarded is repeated.
pub fn rounds_until<T>(
    rounds: usize,
    until: Option<Instant>,
    mut round: impl FnMut(usize) -> T,
) -> (Vec<T>, usize) {
    let (mut kept, mut discarded) = (Vec::new(), 0);
    for turn in 0..rounds * 4 {
        let late = until.is_some_and(|until| Instant::now() > until);
        if kept.len() == rounds || late && turn >= rounds {
            break;
        }
        let stolen = Stolen::begin();
        let result = round(turn);
        if stolen.too_much() {
            discarded += 1;
        } else {
            kept.push(result);
        }
    }
    (kept, discarded)
}

/// The first two cores this process may use, if there are two.
pub fn two_cores() -> Option<[core_affinity::CoreId; 2]> {
    let cores = core_affinity::get_core_ids()?;
    Some([*cores.first()?, *cores.get(1)?])
}

/// Runs on a thread of its own, pinned to `core`: the caller stays where it may.
pub fn pinned<T: Send>(core: core_affinity::CoreId, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            core_affinity::set_for_current(core);
            run()
        });
        thread.join().expect("it does not panic")
    })
}

/// The first line of a record: what the figures are of.
pub fn describe() -> Value {
    json!({
        "table": "run",
        "date": said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "commit": said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        "cpu": machine::cpu(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "load": machine::load(),
        "kernel": machine::kernel(),
        "rustc": said("rustc", &["--version"]),
        "go": said("go", &["version"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_do_ourselves_is_not_others() {
        assert_eq!(others([10, 100, 5], [110, 300, 105]), 0.0, "all that was busy was ours");
        assert_eq!(others([10, 100, 5], [110, 300, 25]), 0.4);
        assert_eq!(others([10, 100, 5], [110, 300, 106]), 0.0, "a tick too many");
        assert_eq!(others([10, 100, 5], [10, 100, 5]), 0.0, "no time has passed");
    }

    #[test]
    fn our_own_time_is_seen_to_pass() {
        let watch = Watch::begin();
        let Some(before) = watch.times else { return };
        // Some ticks of our own, however few others leave us.
        let mut now = before;
        while now[2] < before[2] + 5 {
            now = busy().expect("it was there before");
        }
        assert!(now[0] > before[0] && now[1] > before[1], "{before:?} {now:?}");
        let (seconds, others) = watch.end();
        assert!(seconds > 0.0 && others.is_some());
    }
}
