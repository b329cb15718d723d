//! What others took of the machine while a slice ran.

use keylane_bench_support::machine::Stolen;

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
            let stolen = Stolen::begin();
            let result = run()?;
            if !self.careful || !stolen.too_much() {
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
