//! Medians, ranges, and what they say of a goal.

use std::sync::Mutex;

/// The value below which `part` of the values are, between neighbours where it falls between. NaN of none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

/// A ratio over pairs: its median, and the range from the tenth to the ninetieth percent.
pub struct Ratio {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    pub fn of(ratios: &[f64]) -> Self {
        let [low, median, high] = [0.1, 0.5, 0.9].map(|part| quantile(ratios, part));
        Self { median, low, high }
    }

    /// What it says of a goal that it is to reach.
    pub fn verdict(&self, goal: f64) -> &'static str {
        if self.low >= goal {
            "met"
        } else if self.high < goal {
            "missed"
        } else {
            "not resolved"
        }
    }

    /// What it says of a bound that it is not to pass.
    pub fn at_most(&self, bound: f64) -> &'static str {
        if self.high <= bound {
            "met"
        } else if self.low > bound {
            "missed"
        } else {
            "not resolved"
        }
    }
}

/// What was measured, each kept.
pub struct Samples<T>(Mutex<Vec<T>>);

impl<T> Default for Samples<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Samples<T> {
    pub fn add(&self, sample: T) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sample);
    }

    /// In the order in which they came.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_whether_a_goal_is_met() {
        let values: Vec<f64> = (0..=10).map(|value| f64::from(value) / 10.0).collect();
        let ratio = Ratio::of(&values);
        assert_eq!((ratio.low, ratio.median, ratio.high), (0.1, 0.5, 0.9));
        assert_eq!([0.05, 0.5, 0.95].map(|g| ratio.verdict(g)), ["met", "not resolved", "missed"]);
        assert_eq!([0.05, 0.5, 0.95].map(|b| ratio.at_most(b)), ["missed", "not resolved", "met"]);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
