//! The machine: what it is, and what others took of it.

use std::fs;
use std::process::Command;

/// Processor time as /proc/stat counts it, from a moment on.
pub struct Stolen(Option<[u64; 2]>);

impl Stolen {
    pub fn begin() -> Self {
        Self(times())
    }

    /// Whether other machines had more than 1 % of this one's processor time since.
    pub fn too_much(&self) -> bool {
        self.0.zip(times()).is_some_and(|(then, now)| more_than_a_percent(then, now))
    }
}

fn more_than_a_percent(then: [u64; 2], now: [u64; 2]) -> bool {
    let [stolen, all] = [0, 1].map(|at| now[at].saturating_sub(then[at]));
    stolen * 100 > all
}

/// Stolen, and all together.
fn times() -> Option<[u64; 2]> {
    let times = ticks()?;
    // The last two, a guest's, are in the first two already.
    Some([*times.get(7)?, times.iter().take(8).sum()])
}

/// What all processors have done, in ticks.
pub fn ticks() -> Option<Vec<u64>> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().next()?;
    Some(line.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect())
}

/// What the processor calls itself.
pub fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The kernel's release.
pub fn kernel() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}

/// How many threads wanted to run, in the mean of the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// What a program printed; `None` if it is not there or failed.
pub fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_percent_is_too_much() {
        let after = |stolen: u64| more_than_a_percent([7, 1_000], [7 + stolen, 1_400]);
        assert_eq!([0, 4, 5].map(after), [false, false, true]);
    }
}
