//! Whether a delivery is the one that had to come next: what makes order provable.
//!
//! Every delivery of a consumer carries its number among all deliveries, and these have no gaps. A consumer that has one
//! puller alone therefore sees by them that something was lost between the server and itself.

use super::arrival::Numbers;

/// The deliveries of one consumer, as far as they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    /// The number that the next delivery has.
    next: u64,
}

/// What a delivery's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It had to come next.
    Next,
    /// Deliveries before it were lost, or went to somebody else.
    Gap {
        /// How many.
        missed: u64,
    },
    /// The consumer was reset or made anew by somebody, or its server has forgotten what it had delivered.
    Restarted,
}

impl Sequence {
    /// The next delivery has the number `next`.
    pub(super) fn from(next: u64) -> Self {
        Self { next }
    }

    /// The number that the next delivery has.
    pub(super) fn next(self) -> u64 {
        self.next
    }

    /// Follows a delivery. Only one that had to come next moves it.
    pub(super) fn follow(&mut self, numbers: &Numbers) -> Step {
        match numbers.consumer.checked_sub(self.next) {
            Some(0) => {
                self.next += 1;
                Step::Next
            }
            Some(missed) => Step::Gap { missed },
            None => Step::Restarted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(consumer: u64) -> Numbers {
        Numbers { stream: 0, consumer, delivered: 1, timestamp: 0, pending: 0 }
    }

    #[test]
    fn gaps_and_restarts_are_seen_and_move_nothing() {
        let mut sequence = Sequence::from(1);
        assert_eq!([1, 2].map(|at| sequence.follow(&numbers(at))), [Step::Next; 2]);
        assert_eq!(sequence.follow(&numbers(5)), Step::Gap { missed: 2 });
        assert_eq!(sequence.follow(&numbers(1)), Step::Restarted);
        assert_eq!(sequence.follow(&numbers(2)), Step::Restarted);
        assert_eq!(sequence.follow(&numbers(3)), Step::Next);
    }
}
