//! What others took of the machine while a slice ran.

use std::fs;

use crate::Failed;

/// How often a slice is repeated that others disturbed.
const REPEATS: usize = 3;

/// Slices of one round, with care that the machine was ours alone.
#[derive(Debug)]
pub struct Care {
    /// Or nobody looks.
    careful: bool,
    /// Slices that were thrown away because others disturbed them.
    pub discarded: usize,
    /// Whether one had to be kept all the same: the round counts for nothing.
    pub stolen: bool,
}

impl Care {
    pub fn new(careful: bool) -> Self {
        Self { careful, discarded: 0, stolen: false }
    }

    /// Runs a slice, again if other machines had more than 1 % of this one's processor time meanwhile.
    pub fn slice<T>(&mut self, mut run: impl FnMut() -> Result<T, Failed>) -> Result<T, Failed> {
        let mut repeats = 0;
        loop {
            let before = times();
            let result = run()?;
            if !self.careful || !too_much(before, times()) {
                return Ok(result);
            }
            if repeats == REPEATS {
                self.stolen = true;
                return Ok(result);
            }
            repeats += 1;
            self.discarded += 1;
        }
    }
}

/// Whether more than 1 % of the time in between was stolen.
fn too_much(before: Option<[u64; 2]>, after: Option<[u64; 2]>) -> bool {
    let (Some([stolen, all]), Some(now)) = (before, after) else { return false };
    now[0].saturating_sub(stolen) * 100 > now[1].saturating_sub(all)
}

/// Processor time as /proc/stat counts it: stolen, and all together.
fn times() -> Option<[u64; 2]> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().next()?.split_whitespace().skip(1);
    let times: Vec<u64> = line.filter_map(|time| time.parse().ok()).collect();
    // The last two, a guest's, are in the first two already.
    Some([*times.get(7)?, times.iter().take(8).sum()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_percent_is_too_much() {
        let after = |stolen: u64| too_much(Some([7, 1_000]), Some([7 + stolen, 1_400]));
        assert_eq!([0, 4, 5].map(after), [false, false, true]);
        assert!(!too_much(None, Some([9, 9])), "not known");
    }
}
