//! Since when a source's oldest delivery is under way, told from a few marks instead of a time for each.

use std::collections::VecDeque;

use crate::clock::Time;

/// Marks that are kept; of more, every second goes, so that ages between them look longer, never shorter.
const MOST: usize = 64;

/// Marks: positions from here on were not delivered before then.
#[derive(Debug, Default)]
pub struct Ages(VecDeque<(u64, Time)>);

impl Ages {
    /// Positions from `from` on were delivered about now; `from` is past all that were marked before.
    pub fn mark(&mut self, from: u64, now: Time) {
        if self.0.len() >= MOST {
            let mut place = 0;
            self.0.retain(|_| {
                place += 1;
                place % 2 == 1
            });
        }
        self.0.push_back((from, now));
    }

    /// When `oldest` was delivered, or a little before. Nothing older will be asked for.
    pub fn since(&mut self, oldest: u64) -> Option<Time> {
        while self.0.get(1).is_some_and(|next| next.0 <= oldest) {
            self.0.pop_front();
        }
        self.0.front().map(|mark| mark.1)
    }

    /// Everything is finished.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_exact_for_what_holds_and_never_too_short_for_others() {
        let (mut ages, at) = (Ages::default(), Time::from_nanos);
        for turn in 0..10_000 {
            ages.mark(turn * 3, at(turn * 10));
            assert_eq!(ages.since(0), Some(at(0)), "the one that holds the frontier");
            assert!(ages.0.len() <= MOST);
        }
        for oldest in [1_000, 14_999, 29_999] {
            let since = ages.since(oldest).unwrap();
            assert!(since <= at(oldest / 3 * 10), "{oldest}: {since:?}");
        }
        assert!(ages.since(29_999).unwrap() > at(90_000), "and not much too long");
        ages.clear();
        assert_eq!(ages.since(0), None);
    }
}
