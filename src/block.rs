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

// In this order: what most records have lies in the first lines, behind the count of references.
#[repr(C)]
pub(crate) struct Block {
    /// Bytes of the key; 0 if there is none.
    front: usize,
    /// Bytes of the key and of a copied payload.
    len: usize,
    pub(crate) attempt: AtomicU32,
    keyed: bool,
    pub(crate) body: Body,
    /// Something of `rest` or `large` was used: most records need none of it, and then none is emptied.
    pub(crate) more: bool,
    /// When it was submitted, in nanoseconds, if that is to be known; else 0.
    #[cfg(feature = "metrics")]
    pub(crate) submitted: u64,
    /// The key if it is short, and behind it the payload if both together are.
    small: Small,
    /// What is not in `small`.
    large: Vec<u8>,
    pub(crate) rest: Rest,
}

/// Bytes that words are read from.
#[derive(Clone)]
#[repr(align(8))]
struct Small([u8; SMALL]);

/// What most records in process have not.
#[derive(Clone, Default)]
pub(crate) struct Rest {
    pub(crate) headers: Vec<HeaderLen>,
    pub(crate) header_bytes: Vec<u8>,
    pub(crate) position: Option<Position>,
    /// Nanoseconds since the Unix epoch.
    pub(crate) timestamp: Option<i64>,
    pub(crate) epoch: u64,
    /// Which of its subscription's topics it came from.
    pub(crate) topic: u32,
    /// The payload, if it is a caller's counted bytes.
    pub(crate) shared: Option<Bytes>,
    /// The envelope in the payload, if it had to be decoded for its key.
    pub(crate) decoded: Option<Box<Envelope<'static>>>,
    /// Why its bus could not read it, or cannot let a handler have it.
    pub(crate) refusal: Option<Box<str>>,
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
            attempt: AtomicU32::new(0),
            keyed: false,
            body: Body::Null,
            more: false,
            #[cfg(feature = "metrics")]
            submitted: 0,
            small: Small([0; SMALL]),
            large: Vec::new(),
            rest: Rest::default(),
        }
    }

    /// The key, or nothing: see `is_keyed`.
    #[inline]
    pub(crate) fn front(&self) -> &[u8] {
        match self.small.0.get(..self.front) {
            Some(front) => front,
            None => &self.large[..self.front],
        }
    }

    /// Whether it has a key, be it empty.
    #[inline]
    pub(crate) fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// A key of 1 to 16 bytes as two words, of which as many bytes count as the key has: for who has to be quick.
    #[inline]
    pub(crate) fn short_key(&self) -> Option<(u32, [u64; 2])> {
        let word = |at| u64::from_le_bytes(*self.small.0[at..].first_chunk().unwrap_or(&[0; 8]));
        (1..=16).contains(&self.front).then(|| (self.front as u32, [word(0), word(8)]))
    }

    /// The copied payload.
    #[inline]
    pub(crate) fn copied(&self) -> &[u8] {
        match self.small.0.get(self.front..self.len) {
            Some(copied) => copied,
            None if self.front <= SMALL => &self.large,
            None => &self.large[self.front..],
        }
    }

    /// What most records have not, to be changed.
    #[inline]
    pub(crate) fn rest_mut(&mut self) -> &mut Rest {
        self.more = true;
        &mut self.rest
    }

    /// Takes in a key and a copied payload. The block is an emptied one.
    #[inline]
    pub(crate) fn fill(&mut self, key: &[u8], body: Body, copied: &[u8]) {
        self.front = key.len();
        self.len = key.len() + copied.len();
        // Together, so that it is one store.
        *self.attempt.get_mut() = 0;
        (self.keyed, self.body, self.more) = (true, body, false);
        #[cfg(feature = "metrics")]
        {
            self.submitted = 0;
        }
        let Some(small) = self.small.0.get_mut(..self.len) else {
            return self.fill_large(key, copied);
        };
        let (head, tail) = small.split_at_mut(key.len());
        match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
            // Most keys: two words that overlap. A copy of so few bytes would be a call.
            (Some(first), Some(last)) if key.len() <= 16 => {
                head.first_chunk_mut().into_iter().for_each(|place| *place = *first);
                head.last_chunk_mut().into_iter().for_each(|place| *place = *last);
            }
            _ => head.copy_from_slice(key),
        }
        tail.copy_from_slice(copied);
    }

    /// Takes another key. Only of a block without a copied payload, which lies behind the key.
    pub(crate) fn set_key(&mut self, key: &[u8]) {
        debug_assert!(self.front == self.len, "a copied payload would be lost");
        self.large.clear();
        match self.small.0.get_mut(..key.len()) {
            Some(small) => small.copy_from_slice(key),
            None => self.large.extend_from_slice(key),
        }
        (self.front, self.len, self.keyed, self.more) = (key.len(), key.len(), true, true);
    }

    /// Takes the key away again: of a record that has none.
    pub(crate) fn set_keyless(&mut self) {
        self.keyed = false;
    }

    #[cold]
    fn fill_large(&mut self, key: &[u8], copied: &[u8]) {
        self.more = true;
        match self.small.0.get_mut(..key.len()) {
            Some(small) => small.copy_from_slice(key),
            None => self.large.extend_from_slice(key),
        }
        self.large.extend_from_slice(copied);
    }

    /// Empties it of what the next record would not write over; false if it has grown too large to keep.
    #[inline]
    pub(crate) fn clear(&mut self) -> bool {
        !self.more || self.clear_more()
    }

    #[cold]
    fn clear_more(&mut self) -> bool {
        self.more = false;
        self.large.clear();
        let rest = &mut self.rest;
        rest.headers.clear();
        rest.header_bytes.clear();
        (rest.position, rest.timestamp, rest.epoch, rest.topic) = (None, None, 0, 0);
        (rest.shared, rest.decoded, rest.refusal) = (None, None, None);
        self.large.capacity() + rest.header_bytes.capacity() <= KEEP
    }
}

impl Clone for Block {
    /// Only for a record that is changed while a handler left behind still reads it.
    fn clone(&self) -> Self {
        Self {
            front: self.front,
            len: self.len,
            attempt: AtomicU32::new(self.attempt.load(Ordering::Relaxed)),
            keyed: self.keyed,
            body: self.body,
            more: self.more,
            #[cfg(feature = "metrics")]
            submitted: self.submitted,
            small: self.small.clone(),
            large: self.large.clone(),
            rest: self.rest.clone(),
        }
    }
}
