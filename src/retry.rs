//! When a record that failed is tried again.

use std::fmt;
use std::time::Duration;

use crate::error::HandlerError;
use crate::sync::Arc;

/// When a failed record is tried again.
///
/// It is tried in place: its key waits, others go on. Pauses are spread at random over their upper half.
///
/// ```
/// use std::time::Duration;
/// use keylane::Retry;
///
/// // After 25 to 50 ms, 50 to 100 ms, and so on up to 2.5 to 5 s; 8 attempts in all.
/// let backoff = Retry::exponential(Duration::from_millis(50), Duration::from_secs(5)).attempts(8);
/// // Only what is worth it.
/// let patient = Retry::fixed(Duration::from_secs(1))
///     .forever()
///     .only_if(|error| error.to_string().contains("timed out"));
/// assert!(format!("{backoff:?}").contains("attempts: 8"));
/// assert!(format!("{patient:?}").contains("first: 1s"));
/// ```
#[derive(Clone)]
pub struct Retry {
    attempts: u32,
    first: Duration,
    most: Duration,
    retryable: Option<Retryable>,
}

/// Whether an error may be tried again.
type Retryable = Arc<dyn Fn(&HandlerError) -> bool + Send + Sync>;

impl Retry {
    /// No second attempt.
    pub fn none() -> Self {
        Self { attempts: 1, first: Duration::ZERO, most: Duration::ZERO, retryable: None }
    }

    /// Waits `first` after the first attempt and twice as long after each further one, up to `most`.
    /// 5 attempts unless said otherwise.
    pub fn exponential(first: Duration, most: Duration) -> Self {
        Self { attempts: 5, first, most: most.max(first), retryable: None }
    }

    /// Waits `pause` after each attempt. 5 attempts unless said otherwise.
    pub fn fixed(pause: Duration) -> Self {
        Self::exponential(pause, pause)
    }

    /// The most attempts in all, from 1. 0 counts as 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Tries for ever.
    #[must_use]
    pub fn forever(self) -> Self {
        self.attempts(u32::MAX)
    }

    /// Tries again only what `retryable` says; beside this, [`HandlerError::fatal`] never is.
    #[must_use]
    pub fn only_if(
        mut self,
        retryable: impl Fn(&HandlerError) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.retryable = Some(Arc::new(retryable));
        self
    }

    /// The pause before the next attempt, or `None` if `attempt` was the last. `random` spreads the
    /// pause over its upper half. Calls the caller's predicate.
    pub(crate) fn pause(
        &self,
        attempt: u32,
        error: Option<&HandlerError>,
        random: u64,
    ) -> Option<Duration> {
        let may = error.is_none_or(|error| {
            error.is_retryable() && self.retryable.as_ref().is_none_or(|only| only(error))
        });
        if attempt >= self.attempts || !may {
            return None;
        }
        Some(jittered(self.first, self.most, attempt, random))
    }
}

/// `first` doubled for each attempt after the first, at most `most`, spread over its upper half.
pub(crate) fn jittered(first: Duration, most: Duration, attempt: u32, random: u64) -> Duration {
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(31));
    let pause = u64::try_from(doubled.min(most).as_nanos()).unwrap_or(u64::MAX);
    let half = pause / 2;
    // The product's high word is a number below `pause - half + 1`, evenly spread.
    let above = ((u128::from(random) * (u128::from(pause - half) + 1)) >> 64) as u64;
    Duration::from_nanos(half + above)
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("attempts", &self.attempts)
            .field("first", &self.first)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound_and_is_spread_over_its_upper_half() {
        let retry = Retry::exponential(Duration::from_millis(10), Duration::from_millis(35));
        let least = |attempt| retry.clone().forever().pause(attempt, None, 0).unwrap();
        let most = |attempt| retry.clone().forever().pause(attempt, None, u64::MAX).unwrap();
        assert_eq!(
            [1, 2, 3, 60].map(least).map(|d| d.as_micros()),
            [5_000, 10_000, 17_500, 17_500]
        );
        assert_eq!(
            [1, 2, 3, 60].map(most).map(|d| d.as_micros()),
            [10_000, 20_000, 35_000, 35_000]
        );
        assert!(retry.pause(4, None, 0).is_some() && retry.pause(5, None, 0).is_none());
    }

    #[test]
    fn what_is_retryable_is_up_to_the_error_and_the_policy() {
        let retry = Retry::fixed(Duration::ZERO).only_if(|error| error.to_string() != "no");
        let pause = |error: HandlerError| retry.pause(1, Some(&error), 0);
        assert!(pause("yes".into()).is_some());
        assert!(pause("no".into()).is_none());
        assert!(pause(HandlerError::fatal("yes")).is_none());
        assert_eq!(Retry::none().pause(1, None, 0), None);
    }
}
