//! Latencies and completions, counted by the threads that handle events without getting in each
//! other's way.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// 64 buckets for each power of two: a value is known to 1.6 %.
const BITS: u32 = 6;
const PER_OCTAVE: usize = 1 << BITS;
const BUCKETS: usize = (64 - BITS as usize + 1) * PER_OCTAVE;

fn bucket(value: u64) -> usize {
    let octave = (63 - BITS).saturating_sub((value | 1).leading_zeros());
    (octave as usize) * PER_OCTAVE + (value >> octave) as usize
}

/// The greatest value that falls into a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let octave = (bucket / PER_OCTAVE).saturating_sub(1);
    let within = (bucket - octave * PER_OCTAVE) as u64;
    (within << octave) | ((1 << octave) - 1)
}

/// One thread's counts.
struct Shard {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    greatest: AtomicU64,
    last: AtomicU64,
}

/// Counts of what was handled and how long after it was due. Size is fixed; nothing is allocated
/// and nothing waits when a value is recorded.
pub(crate) struct Latencies {
    shards: Box<[CachePadded<Shard>]>,
}

impl Latencies {
    /// Threads past `threads` share counters with others.
    pub(crate) fn new(threads: usize) -> Self {
        let shard = || Shard {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            greatest: AtomicU64::new(0),
            last: AtomicU64::new(0),
        };
        let shards = (0..threads.clamp(1, 64)).map(|_| CachePadded::new(shard())).collect();
        Self { shards }
    }

    /// Counts an event that was due at `due` and handled at `now`, in nanoseconds.
    pub(crate) fn record(&self, due: u64, now: u64) {
        let shard = &self.shards[thread_number() % self.shards.len()];
        let latency = now.saturating_sub(due);
        shard.buckets[bucket(latency)].fetch_add(1, Relaxed);
        shard.greatest.fetch_max(latency, Relaxed);
        shard.last.fetch_max(now, Relaxed);
        shard.count.fetch_add(1, Relaxed);
    }

    /// How many events were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.count.load(Relaxed)).sum()
    }

    /// When the last of them was handled; 0 if none was.
    pub(crate) fn last(&self) -> u64 {
        self.shards.iter().map(|shard| shard.last.load(Relaxed)).max().unwrap_or(0)
    }

    /// What was recorded up to now.
    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        let counts: Vec<u64> = (0..BUCKETS)
            .map(|index| self.shards.iter().map(|s| s.buckets[index].load(Relaxed)).sum())
            .collect();
        let total: u64 = counts.iter().sum();
        let greatest = self.shards.iter().map(|s| s.greatest.load(Relaxed)).max().unwrap_or(0);
        let at = |fraction: f64| {
            let rank = ((total as f64 * fraction).ceil() as u64).max(1);
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            found.map_or(greatest, |index| upper_bound(index).min(greatest))
        };
        (total > 0).then(|| Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), greatest })
    }
}

/// Latencies in nanoseconds that half, 99 % and 99.9 % of the events kept, and the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantiles {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) greatest: u64,
}

/// A number for this thread, handed out when first asked for.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.with(|number| {
        number.get().unwrap_or_else(|| {
            let next = NEXT.fetch_add(1, Relaxed);
            number.set(Some(next));
            next
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_recorded_has_no_quantiles() {
        assert_eq!(Latencies::new(2).quantiles(), None);
    }

    #[test]
    fn extremes_have_buckets() {
        let latencies = Latencies::new(0);
        latencies.record(0, u64::MAX);
        latencies.record(7, 3);
        let quantiles = latencies.quantiles().unwrap();
        assert_eq!((quantiles.p50, quantiles.greatest), (0, u64::MAX));
        assert_eq!((latencies.count(), latencies.last()), (2, u64::MAX));
    }

    #[test]
    fn threads_count_together() {
        let latencies = Latencies::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|value| latencies.record(0, value)));
            }
        });
        assert_eq!((latencies.count(), latencies.last()), (4_000, 999));
    }

    proptest! {
        #[test]
        fn a_bucket_bounds_its_values(value: u64) {
            let bound = upper_bound(bucket(value));
            prop_assert!(bound >= value);
            prop_assert!(bound - value <= value / 64 + 1, "{bound} for {value}");
            prop_assert!(bucket(value) == 0 || upper_bound(bucket(value) - 1) < value);
        }

        #[test]
        fn quantiles_agree_with_a_sorted_list(
            mut values in prop::collection::vec(0..10_000_000_u64, 1..400)
        ) {
            let latencies = Latencies::new(1);
            values.iter().for_each(|&value| latencies.record(0, value));
            values.sort_unstable();
            let quantiles = latencies.quantiles().unwrap();
            for (fraction, found) in
                [(0.5, quantiles.p50), (0.99, quantiles.p99), (0.999, quantiles.p999)]
            {
                let rank = ((values.len() as f64 * fraction).ceil() as usize).max(1);
                let exact = values[rank - 1];
                prop_assert!(found >= exact && found <= exact + exact / 64 + 1);
            }
            prop_assert_eq!(quantiles.greatest, values[values.len() - 1]);
        }
    }
}
