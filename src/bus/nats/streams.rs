//! The streams that were asked for before something was published to them.

use std::collections::HashMap;

use super::handover::Order;
use crate::sync::Mutex;

/// The streams that were asked for.
#[derive(Default)]
pub(super) struct Streams(pub(super) Mutex<HashMap<String, State>>);

pub(super) enum State {
    /// It is being made sure of; what waits for it, in order.
    Asked(Vec<Order>),
    There,
}
