//! How long records take from being submitted to being handled: one in 128 of them, in logarithmic buckets.

use std::time::Duration;

#[cfg(feature = "metrics")]
pub use sampling::{Latencies, is_sampled};

/// Latencies that were sampled, from the call that submitted a record to the end of the attempt that handled it:
/// waiting for room, for its key and for retries included.
///
/// ```
/// # #[cfg(feature = "metrics")] {
/// use std::time::Duration;
/// use keylane::{Record, Runtime, Subscription};
///
/// let runtime = Runtime::builder().workers(1).build().unwrap();
/// let orders = runtime.subscribe(Subscription::new("orders"), |_: &Record| Ok(())).unwrap();
/// (0..1_000).for_each(|n| orders.submit(Record::new("order-42", [n as u8])).unwrap());
/// let receipt = orders.submit_tracked(Record::new("order-42", "last")).unwrap();
/// assert!(receipt.wait().unwrap().is_done());
/// let latency = runtime.snapshot().subscriptions[0].latency.clone().unwrap();
/// assert_eq!(latency.samples(), 1_000 / 128); // a thread's every 128th record
/// assert!(latency.quantile(0.5) <= latency.quantile(0.99));
/// # runtime.close(Duration::from_secs(5)).unwrap();
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Latency {
    /// The longest latency that a bucket may hold, and how many it holds; those that hold none are left out.
    pub buckets: Vec<(Duration, u64)>,
}

impl Latency {
    /// How many were sampled.
    pub fn samples(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.1).sum()
    }

    /// The latency that this part of the samples does not exceed, 0 to 1, at most a sixteenth too long; `None`
    /// without any sample.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (part.clamp(0.0, 1.0) * self.samples() as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        self.buckets.iter().find_map(|&(most, count)| {
            below += count;
            (below >= rank).then_some(most)
        })
    }
}

/// Told the payload of every record that a source hands to the runtime, for our own benches: they look at the clock.
#[cfg(feature = "internals")]
pub static PUT: crate::sync::OnceLock<fn(&[u8])> = crate::sync::OnceLock::new();

/// A source hands a record of this payload to the runtime.
#[inline(always)]
pub(crate) fn tell_put(payload: &[u8]) {
    #[cfg(feature = "internals")]
    if let Some(tell) = PUT.get() {
        tell(payload);
    }
    let _ = payload;
}

#[cfg(feature = "metrics")]
mod sampling {
    use std::cell::Cell;
    use std::time::Duration;

    use super::Latency;
    use crate::metrics::Counter;

    /// One record in so many is timed, of those that a thread submits.
    const SAMPLED: u32 = 128;
    /// Up to 9 hours; what took longer is in the last one.
    const BUCKETS: usize = 672;

    /// Buckets to an octave: what a bucket holds differs by at most a sixteenth.
    const STEPS: u64 = 16;

    /// The bucket that holds a latency of so many nanoseconds.
    pub(super) fn bucket(nanos: u64) -> usize {
        if nanos < STEPS {
            return nanos as usize;
        }
        let octave = u64::from(nanos.ilog2());
        let step = (nanos >> (octave - 4)) % STEPS;
        ((octave - 3) * STEPS + step) as usize
    }

    /// The longest latency that a bucket holds, in nanoseconds.
    pub(super) fn most(bucket: usize) -> u64 {
        let (octave, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
        match octave {
            0 => step,
            _ => ((STEPS + step + 1) << (octave - 1)) - 1,
        }
    }

    thread_local! {
        static TURN: Cell<u32> = const { Cell::new(0) };
    }

    /// Whether the record that this thread submits is to be timed.
    #[inline]
    pub fn is_sampled() -> bool {
        TURN.with(|turn| {
            let next = turn.get().wrapping_add(1);
            turn.set(next);
            next % SAMPLED == 0
        })
    }

    /// Sampled latencies, by bucket. Many may add.
    #[derive(Debug)]
    pub struct Latencies(Box<[Counter]>);

    impl Default for Latencies {
        fn default() -> Self {
            Self((0..BUCKETS).map(|_| Counter::default()).collect())
        }
    }

    impl Latencies {
        /// One more.
        pub fn add(&self, latency: Duration) {
            let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            self.0[bucket(nanos).min(BUCKETS - 1)].add_shared(1);
        }

        /// What was added so far.
        pub fn read(&self) -> Latency {
            let counts = self.0.iter().map(Counter::get).enumerate();
            let held = counts.filter(|(_, count)| *count > 0);
            let buckets = held.map(|(place, n)| (Duration::from_nanos(most(place)), n)).collect();
            Latency { buckets }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "metrics")]
    #[test]
    fn buckets_follow_one_another_and_are_at_most_a_sixteenth_wide() {
        use super::sampling::{bucket, most};
        for place in 0..960 {
            let least = if place == 0 { 0 } else { most(place - 1) + 1 };
            let most = most(place);
            assert_eq!(bucket(most), place);
            assert_eq!(bucket(most.saturating_add(1)), place + 1);
            assert_eq!(bucket(least), place);
            assert!((most - least) as f64 <= least as f64 / 16.0, "{least}..={most}");
        }
        assert_eq!(bucket(u64::MAX), 975);
    }

    #[test]
    fn quantiles_are_those_of_the_samples() {
        let latency = |counts: &[(u64, u64)]| Latency {
            buckets: counts.iter().map(|&(ns, n)| (Duration::from_nanos(ns), n)).collect(),
        };
        assert_eq!(latency(&[]).quantile(0.5), None);
        let some = latency(&[(10, 50), (20, 49), (90, 1)]);
        let at = |part| some.quantile(part).unwrap().as_nanos();
        assert_eq!(
            [at(0.0), at(0.5), at(0.51), at(0.99), at(0.991), at(7.0)],
            [10, 10, 20, 20, 90, 90]
        );
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn what_is_added_is_read_back() {
        let latencies = Latencies::default();
        for millis in 1..=1_000 {
            latencies.add(Duration::from_millis(millis));
        }
        latencies.add(Duration::MAX);
        let read = latencies.read();
        assert_eq!(read.samples(), 1_001);
        for (part, millis) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = read.quantile(part).unwrap().as_secs_f64() * 1_000.0;
            assert!((found / millis - 1.0).abs() < 0.07, "{part}: {found} ms");
        }
        assert!(read.quantile(1.0).unwrap() > Duration::from_secs(3_600));
    }
}
