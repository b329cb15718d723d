//! Streams: made, checked or left alone, as the bus is told.

use async_nats::jetstream::stream;

use super::link::Link;
use super::topic::Topic;
use crate::bus::{BrokerError, BrokerErrorKind};

/// Makes sure of a topic's stream and says how it is.
pub(super) async fn ensure(control: &Link, topic: &Topic) -> Result<stream::Info, BrokerError> {
    let config = stream::Config {
        name: topic.stream.clone(),
        subjects: topic.filters(None),
        ..Default::default()
    };
    let failed = |error: String| BrokerError::new(BrokerErrorKind::Failed, error);
    let stream = control
        .jetstream
        .get_or_create_stream(config)
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(stream.cached_info().clone())
}
