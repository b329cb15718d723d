//! What a view knows of a runtime: the parts of a snapshot that it shows. Unknown ones are passed over, missing ones are
//! empty.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// An answer to a request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The protocol's number, beside a snapshot.
    pub protocol: u32,
    /// The runtime's time when it was taken.
    pub at_nanos: u64,
    /// Subscriptions whose keys may be touched.
    pub operable: Vec<String>,
    /// The snapshot.
    pub snapshot: Option<Box<View>>,
    /// What was done.
    pub done: Option<String>,
    /// Why nothing was.
    pub error: Option<String>,
}

/// A snapshot.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields of `keylane::Snapshot`
pub struct View {
    pub phase: String,
    pub outcomes: BTreeMap<String, u64>,
    pub in_flight: usize,
    pub lanes: Vec<Lane>,
    pub workers: Vec<Worker>,
    pub subscriptions: Vec<Subscription>,
    pub busy: Vec<Busy>,
    pub busiest: Vec<Busiest>,
    pub publishes: BTreeMap<String, u64>,
    pub bounds: Vec<Value>,
    pub sources: Vec<Source>,
    pub blocking: (usize, usize),
    pub spares: usize,
}

/// A lane.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Lane {
    pub depth: usize,
    pub held: usize,
    pub keys: usize,
    pub handled: u64,
}

/// A worker.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Worker {
    pub asleep: bool,
    pub running: Option<Running>,
    pub attempts: u64,
    pub visits: u64,
    pub steals: u64,
    pub parks: u64,
    pub waiting: u32,
}

/// What a worker is at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Running {
    pub subscription: String,
    pub key: Option<Vec<u8>>,
    pub overruns: bool,
}

/// A subscription.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Subscription {
    pub name: String,
    pub stopped_by: Option<Value>,
    pub parked_keys: usize,
    pub parked: Vec<Parked>,
    pub running: usize,
    pub counts: Counts,
    pub latency: Option<Latency>,
}

/// A source.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Source {
    pub name: String,
    pub subscription: String,
    pub lag: u64,
    pub window: usize,
    pub window_limit: usize,
    pub stopped: bool,
}

/// What was counted of a subscription.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Counts {
    pub handled: Option<u64>,
    pub failed: u64,
}

/// Sampled latencies.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Latency {
    pub buckets: Vec<(Duration, u64)>,
}

/// A parked key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Parked {
    pub key: Vec<u8>,
    pub error: String,
    pub followed: u64,
}

/// A busy key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Busy {
    pub lane: u32,
    pub subscription: String,
    pub key: Option<Vec<u8>>,
    pub why: Value,
    pub attempt: u32,
    pub held_for: Duration,
    pub waiting: usize,
    pub bound: Option<Value>,
}

/// A busiest key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Busiest {
    pub subscription: String,
    pub key: Option<Vec<u8>>,
    pub lane: u32,
    pub share: f64,
}
