//! What a record is made of: one block with key, headers and payload, reused from record to record.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use crate::envelope::Envelope;

/// Key and payload up to this many bytes together lie in the block itself.
pub(crate) const SMALL: usize = 128;

/// A block that has grown past this many bytes is not kept for reuse.
const KEEP: usize = 64 * 1_024;

/// Where a record stands in the source it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The offset or sequence number in it.
    pub offset: u64,
}

pub(crate) struct Block {
    /// The key's length; the key stands in front of the data.
    pub(crate) key: Option<usize>,
    pub(crate) body: Body,
    /// The data if it is short, else in `large`.
    pub(crate) small: [u8; SMALL],
    pub(crate) large: Vec<u8>,
    pub(crate) headers: Vec<HeaderLen>,
    pub(crate) header_bytes: Vec<u8>,
    pub(crate) position: Option<Position>,
    /// Nanoseconds since the Unix epoch.
    pub(crate) timestamp: Option<i64>,
    pub(crate) epoch: u64,
    pub(crate) attempt: AtomicU32,
    /// When it was submitted, in nanoseconds, if that is to be known; else 0.
    #[cfg(feature = "metrics")]
    pub(crate) submitted: u64,
    /// The envelope in the payload, if it had to be decoded for its key.
    pub(crate) decoded: Option<Box<Envelope<'static>>>,
}

#[derive(Clone)]
pub(crate) enum Body {
    Null,
    /// Behind the key, this long.
    Copied(usize),
    Shared(Bytes),
}

#[derive(Clone, Copy)]
pub(crate) struct HeaderLen {
    pub(crate) name: usize,
    pub(crate) value: Option<usize>,
}

impl Block {
    pub(crate) fn empty() -> Self {
        Self {
            key: None,
            body: Body::Null,
            small: [0; SMALL],
            large: Vec::new(),
            headers: Vec::new(),
            header_bytes: Vec::new(),
            position: None,
            timestamp: None,
            epoch: 0,
            attempt: AtomicU32::new(0),
            #[cfg(feature = "metrics")]
            submitted: 0,
            decoded: None,
        }
    }

    /// Key and copied payload, one after the other.
    #[inline]
    pub(crate) fn data(&self) -> &[u8] {
        let copied = match self.body {
            Body::Copied(len) => len,
            _ => 0,
        };
        let len = self.key.unwrap_or(0) + copied;
        if len <= SMALL { &self.small[..len] } else { &self.large }
    }

    /// Empties it; false if it has grown too large to keep.
    #[inline]
    pub(crate) fn clear(&mut self) -> bool {
        self.body = Body::Null;
        self.key = None;
        if !self.headers.is_empty() {
            self.headers.clear();
            self.header_bytes.clear();
        }
        (self.position, self.timestamp, self.epoch) = (None, None, 0);
        *self.attempt.get_mut() = 0;
        #[cfg(feature = "metrics")]
        {
            self.submitted = 0;
        }
        self.decoded = None;
        self.large.capacity() + self.header_bytes.capacity() <= KEEP
    }
}

impl Clone for Block {
    /// Only for a record that is changed while a handler left behind still reads it.
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            body: self.body.clone(),
            small: self.small,
            large: self.large.clone(),
            headers: self.headers.clone(),
            header_bytes: self.header_bytes.clone(),
            position: self.position,
            timestamp: self.timestamp,
            epoch: self.epoch,
            attempt: AtomicU32::new(self.attempt.load(Ordering::Relaxed)),
            #[cfg(feature = "metrics")]
            submitted: self.submitted,
            decoded: self.decoded.clone(),
        }
    }
}
