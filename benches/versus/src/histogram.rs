//! Latencies, counted into buckets an eighth of a percent to 0.8 % wide.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of a power of two: 128, so that an edge is at most 0.8 % off.
const FINE: u32 = 7;
const POWERS: u32 = 40;

/// A histogram of nanoseconds that any thread may add to.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    most: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (POWERS + 1) << FINE;
        Self { buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(), most: AtomicU64::new(0) }
    }
}

impl Histogram {
    #[inline]
    pub fn add(&self, nanos: u64) {
        self.buckets[place(nanos)].fetch_add(1, Ordering::Relaxed);
        if nanos > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// The upper edge of the bucket that `part` of all are at or below.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = ((self.count() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            seen += count.load(Ordering::Relaxed);
            if seen >= wanted {
                return edge(place).min(self.most());
            }
        }
        self.most()
    }
}

#[inline]
fn place(nanos: u64) -> usize {
    let power = (63 - (nanos | 1).leading_zeros()).max(FINE);
    let power = power.min(FINE + POWERS - 1);
    let shift = power - FINE;
    // Below 2^FINE each nanosecond has a bucket; then each power of two has 2^FINE of them.
    let fine = (nanos >> shift).min((2 << FINE) - 1);
    ((u64::from(shift) << FINE) + fine) as usize
}

fn edge(place: usize) -> u64 {
    let place = place as u64;
    if place < 2 << FINE {
        return place;
    }
    let shift = (place >> FINE) - 1;
    let fine = place - (shift << FINE);
    ((fine + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket_of_sorted_samples() {
        let histogram = Histogram::default();
        let mut random = crate::load::Random::new(42);
        let mut samples: Vec<u64> = (0..50_000).map(|_| 1 << random.below(30)).collect();
        samples.iter_mut().for_each(|sample| *sample += random.next() % *sample);
        samples.iter().for_each(|&sample| histogram.add(sample));
        samples.sort_unstable();
        for part in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = samples[((samples.len() as f64 * part).ceil() as usize).max(1) - 1];
            let got = histogram.quantile(part);
            assert!(got >= exact && got <= exact + exact / 128 + 1, "{part}: {got}, {exact}");
        }
        assert_eq!((histogram.count(), histogram.most()), (50_000, samples[49_999]));
    }
}
