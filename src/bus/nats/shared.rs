//! What all parts of a NATS bus share.

use super::link::Links;
use super::options::NatsOptions;
use super::publisher::Publisher;
use crate::runtime::Runtime;

pub(super) struct Shared {
    pub(super) runtime: Runtime,
    pub(super) options: NatsOptions,
    pub(super) publisher: Publisher,
    pub(super) links: Links,
}
