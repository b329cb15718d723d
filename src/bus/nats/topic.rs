//! A topic on NATS: its stream, its subjects, and where a record's key stands.

use crate::bus::InvalidTopic;
use crate::sync::Arc;

/// A topic and how it lies on the server.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    /// The stream that holds it.
    pub(super) stream: String,
}

impl Topic {
    pub(super) fn new(name: &str) -> Result<Self, InvalidTopic> {
        InvalidTopic::check(name)?;
        Ok(Self { name: name.into(), stream: format!("STREAM_{}", name.replace('.', "_")) })
    }

    /// The partitions that this process takes; one without a number where the topic has none.
    pub(super) fn partitions(&self) -> Vec<Option<u32>> {
        vec![None]
    }

    /// The subjects of the stream that are this topic, those of the given partition alone if there is one.
    pub(super) fn filters(&self, _partition: Option<u32>) -> Vec<String> {
        vec![self.name.to_string()]
    }

    /// The subject that a record of this key is published under.
    pub(super) fn subject(&self, _key: Option<&[u8]>) -> String {
        self.name.to_string()
    }

    /// The key that stands in a subject of this topic.
    pub(super) fn key_in(&self, _subject: &str) -> Option<Vec<u8>> {
        None
    }

    /// The durable consumer of a group.
    pub(super) fn durable(&self, group: &str, partition: Option<u32>) -> String {
        let plain =
            |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
        let name = format!("{}-{}", plain(group), plain(&self.name));
        partition.map_or(name.clone(), |partition| format!("{name}-{partition}"))
    }
}
