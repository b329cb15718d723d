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
    /// Bytes of the key, which stands in front of the data; 0 if there is none.
    pub(crate) front: usize,
    /// Bytes of the key and of a copied payload.
    pub(crate) len: usize,
    pub(crate) keyed: bool,
    pub(crate) body: Body,
    /// Something of `rest` or `large` was used: most records need none of it, and then none is emptied.
    pub(crate) more: bool,
    pub(crate) attempt: AtomicU32,
    /// The data if it is short, else in `large`.
    pub(crate) small: [u8; SMALL],
    pub(crate) large: Vec<u8>,
    pub(crate) rest: Rest,
}

/// What most records in process have not.
#[derive(Clone, Default)]
pub(crate) struct Rest {
    pub(crate) headers: Vec<HeaderLen>,
    pub(crate) header_bytes: Vec<u8>,
    pub(crate) position: Option<Position>,
    /// Nanoseconds since the Unix epoch.
    pub(crate) timestamp: Option<i64>,
    pub(crate) epoch: u64,
    /// The payload, if it is a caller's counted bytes.
    pub(crate) shared: Option<Bytes>,
    /// The envelope in the payload, if it had to be decoded for its key.
    pub(crate) decoded: Option<Box<Envelope<'static>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Null,
    /// Behind the key.
    Copied,
    /// In `Rest::shared`.
    Shared,
}

#[derive(Clone, Copy)]
pub(crate) struct HeaderLen {
    pub(crate) name: usize,
    pub(crate) value: Option<usize>,
}

impl Block {
    pub(crate) fn empty() -> Self {
        Self {
            front: 0,
            len: 0,
            keyed: false,
            body: Body::Null,
            more: false,
            attempt: AtomicU32::new(0),
            small: [0; SMALL],
            large: Vec::new(),
            rest: Rest::default(),
        }
    }

    /// Key and copied payload, one after the other.
    #[inline]
    pub(crate) fn data(&self) -> &[u8] {
        if self.len <= SMALL { &self.small[..self.len] } else { &self.large }
    }

    /// What most records have not, to be changed.
    #[inline]
    pub(crate) fn rest_mut(&mut self) -> &mut Rest {
        self.more = true;
        &mut self.rest
    }

    /// Takes in key and copied payload. The block is an emptied one.
    #[inline]
    pub(crate) fn fill(&mut self, key: Option<&[u8]>, body: Body, copied: &[u8]) {
        let front = key.unwrap_or_default();
        self.front = front.len();
        self.len = front.len() + copied.len();
        self.keyed = key.is_some();
        self.body = body;
        *self.attempt.get_mut() = 0;
        match self.small.get_mut(..self.len) {
            Some(small) => {
                let (head, tail) = small.split_at_mut(front.len());
                head.copy_from_slice(front);
                tail.copy_from_slice(copied);
            }
            None => self.fill_large(front, copied),
        }
    }

    #[cold]
    fn fill_large(&mut self, front: &[u8], copied: &[u8]) {
        self.more = true;
        self.large.reserve(self.len);
        self.large.extend_from_slice(front);
        self.large.extend_from_slice(copied);
    }

    /// Empties it of what the next record would not write over; false if it has grown too large to keep.
    #[inline]
    pub(crate) fn clear(&mut self) -> bool {
        !self.more || self.clear_more()
    }

    #[inline(never)]
    fn clear_more(&mut self) -> bool {
        self.more = false;
        self.large.clear();
        let rest = &mut self.rest;
        rest.headers.clear();
        rest.header_bytes.clear();
        (rest.position, rest.timestamp, rest.epoch) = (None, None, 0);
        (rest.shared, rest.decoded) = (None, None);
        self.large.capacity() + rest.header_bytes.capacity() <= KEEP
    }
}

impl Clone for Block {
    /// Only for a record that is changed while a handler left behind still reads it.
    fn clone(&self) -> Self {
        Self {
            front: self.front,
            len: self.len,
            keyed: self.keyed,
            body: self.body,
            more: self.more,
            attempt: AtomicU32::new(self.attempt.load(Ordering::Relaxed)),
            small: self.small,
            large: self.large.clone(),
            rest: self.rest.clone(),
        }
    }
}
