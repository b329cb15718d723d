//! Everything that takes part.

mod channels;
mod disruptor;
pub mod go;
mod inline;
pub mod keylane;
mod polled;
mod stealing;
mod tokio;

use crate::arm::Arm;

/// Nothing but the machine.
pub const FLOOR: &dyn Arm = &inline::Inline;
/// keylane one by one, which ratios are of.
pub const OURS: &dyn Arm = &keylane::OneByOne;
/// keylane in batches.
pub const BATCH: &dyn Arm = &keylane::Batches;

/// The peers that are Rust.
pub fn peers() -> Vec<&'static dyn Arm> {
    vec![
        &tokio::Lanes,
        &tokio::Workers,
        &channels::CrossbeamLanes,
        &channels::Crossbeam,
        &channels::FlumeLanes,
        &channels::Flume,
        &channels::KanalLanes,
        &channels::Kanal,
        &channels::CrossfireLanes,
        &channels::Crossfire,
        &channels::StdLanes,
        &channels::Std,
        &disruptor::Disruptor,
        &stealing::Stealing,
        &polled::Lanes,
        &polled::Workers,
    ]
}
