//! keylane against its own limits: what a hop, a wake and a successor take, and what must not hurt.

pub mod curves;
pub mod hop;
pub mod isolation;
pub mod skew;
pub mod successor;
pub mod swap;
pub mod wake;

use serde_json::{Value, json};

use crate::record::round;
use crate::stats::{interval, median};

/// A figure of many rounds: median and interval.
fn figure(values: &[f64]) -> Value {
    json!({ "median": round(median(values)), "spread": interval(values).map(round) })
}

/// The same in words.
fn said(values: &[f64]) -> String {
    let [low, high] = interval(values);
    format!("{:.2} [{low:.2}–{high:.2}]", median(values))
}
