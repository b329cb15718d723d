//! Medians, and how far they can be trusted.

use crate::load::Random;

/// The value in the middle; of an even number, the mean of the two there. NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, half) if len % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The bootstrap's 95 % interval of the median: 2,000 resamples, the same ones in every run.
pub fn interval(values: &[f64]) -> [f64; 2] {
    if values.is_empty() {
        return [f64::NAN; 2];
    }
    let mut random = Random::new(0xb007_57a9);
    let mut medians: Vec<f64> = (0..2_000)
        .map(|_| {
            let resample: Vec<f64> =
                values.iter().map(|_| values[random.below(values.len())]).collect();
            median(&resample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    [medians[49], medians[1_949]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_shrinks_with_the_spread() {
        let wide: Vec<f64> = (1..=9).map(f64::from).collect();
        let narrow: Vec<f64> = (1..=9).map(|value| 5.0 + f64::from(value) / 100.0).collect();
        assert_eq!(median(&wide), 5.0);
        assert_eq!(median(&wide[..4]), 2.5);
        let ([a, b], [c, d]) = (interval(&wide), interval(&narrow));
        assert!(a < 5.0 && b > 5.0 && a >= 1.0 && b <= 9.0);
        assert!(d - c < (b - a) / 50.0);
        assert_eq!(interval(&[3.0; 9]), [3.0; 2]);
    }
}
