//! One message: key, headers, payload, position, time stamp; and the pool that its blocks come from.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use triomphe::Arc;

use crate::block::{Block, Body, HeaderLen, Rest};
use crate::envelope::Envelope;
use crate::pool::{self, Magazine};
use crate::unwind::guard;

pub use crate::block::Position;

/// The longest key, in bytes; the shortest has one.
pub const MAX_KEY: usize = 4_096;

/// One message: key, headers, payload, position and time stamp.
///
/// A record is owned and `Send`, and moves as one pointer. Its block comes from a pool and returns there
/// when the runtime has finished it.
///
/// ```
/// use keylane::Record;
///
/// let record = Record::new("order-42", r#"{"total":7}"#).with_header("traceparent", "00-…");
/// assert_eq!(record.key(), Some(&b"order-42"[..]));
/// assert_eq!(record.payload(), br#"{"total":7}"#);
/// assert_eq!(record.header("traceparent"), Some("00-…".as_bytes()));
/// assert_eq!(Record::keyless("tick").key(), None);
/// ```
pub struct Record(Arc<Block>);

/// A header: its name, and its value unless that is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, as it came.
    pub name: &'a [u8],
    /// The value; `None` is null, which is not the same as empty.
    pub value: Option<&'a [u8]>,
}

impl Record {
    /// A record of `key` with a copy of `payload`.
    ///
    /// The key must have 1 to 4,096 bytes; that is checked where the record is submitted or published, which
    /// gives it back if it is not so.
    #[inline]
    pub fn new(key: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self::build(key.as_ref(), Body::Copied, payload.as_ref())
    }

    /// A record without a key: its order is not kept, see [`Keyless`](crate::Keyless).
    pub fn keyless(payload: impl AsRef<[u8]>) -> Self {
        Self::build_as(None, Body::Copied, payload.as_ref())
    }

    /// A record of `key` (`None`: without one) that takes `payload` without a copy.
    pub fn from_bytes(key: Option<&[u8]>, payload: Bytes) -> Self {
        let mut record = Self::build_as(key, Body::Shared, &[]);
        record.rest_mut().shared = Some(payload);
        record
    }

    /// A record of `key` whose payload is null, which is not the same as empty.
    pub fn null(key: impl AsRef<[u8]>) -> Self {
        Self::build(key.as_ref(), Body::Null, &[])
    }

    /// A record of `key` (`None`: without one) whose payload is null.
    #[cfg(feature = "nats")]
    pub(crate) fn null_as(key: Option<&[u8]>) -> Self {
        Self::build_as(key, Body::Null, &[])
    }

    #[inline(always)]
    fn build(key: &[u8], body: Body, copied: &[u8]) -> Self {
        let mut block = pool::take();
        match Arc::get_mut(&mut block) {
            Some(block) => block.fill(key, body, copied),
            None => unreachable!("nobody else has a block that the pool gives"),
        }
        Self(block)
    }

    fn build_as(key: Option<&[u8]>, body: Body, copied: &[u8]) -> Self {
        let mut record = Self::build(key.unwrap_or_default(), body, copied);
        if key.is_none() {
            record.block_mut().set_keyless();
        }
        record
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add_header(name.as_ref(), Some(value.as_ref()))
    }

    /// Adds a header whose value is null, which is not the same as empty.
    #[must_use]
    pub fn with_null_header(self, name: impl AsRef<[u8]>) -> Self {
        self.add_header(name.as_ref(), None)
    }

    fn add_header(mut self, name: &[u8], value: Option<&[u8]>) -> Self {
        let rest = self.rest_mut();
        rest.header_bytes.extend_from_slice(name);
        rest.header_bytes.extend_from_slice(value.unwrap_or_default());
        rest.headers.push(HeaderLen { name: name.len(), value: value.map(<[u8]>::len) });
        self
    }

    /// Sets the time stamp, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp(mut self, nanos: i64) -> Self {
        self.rest_mut().timestamp = Some(nanos);
        self
    }

    /// Sets the position. A bus does this for what it delivers.
    #[must_use]
    pub fn with_position(mut self, position: Position) -> Self {
        self.rest_mut().position = Some(position);
        self
    }

    /// Sets the fencing token of the assignment that delivers it. A bus does this.
    #[must_use]
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.rest_mut().epoch = epoch;
        self
    }

    /// Sets which of its subscription's topics it comes from.
    #[must_use]
    pub(crate) fn with_topic_index(mut self, place: u32) -> Self {
        self.rest_mut().topic = place;
        self
    }

    /// Sets position, time stamp and fencing token at once.
    #[cfg(feature = "nats")]
    pub(crate) fn delivered(mut self, position: Position, timestamp: i64, epoch: u64) -> Self {
        let rest = self.rest_mut();
        (rest.position, rest.timestamp, rest.epoch) = (Some(position), Some(timestamp), epoch);
        self
    }

    /// A record of its own with the same content, as a bus needs one for each subscription.
    #[must_use]
    pub fn copy(&self) -> Self {
        self.copy_as(self.key())
    }

    /// The record under a key that was found in its content, and the envelope if that was decoded for it.
    pub(crate) fn with_key(self, key: &[u8], decoded: Option<Envelope<'static>>) -> Self {
        let mut own = match self.0.body {
            // Its payload lies behind the key.
            Body::Copied if !self.payload().is_empty() => self.copy_as(Some(key)),
            _ => {
                let mut own = self;
                own.block_mut().set_key(key);
                own
            }
        };
        own.rest_mut().decoded = decoded.map(Box::new);
        own
    }

    /// The record as one that no handler is called for: it fails for good, for this reason. For what a bus could
    /// not read, or cannot keep in order.
    #[must_use]
    pub(crate) fn with_refusal(mut self, why: impl Into<Box<str>>) -> Self {
        self.rest_mut().refusal = Some(why.into());
        self
    }

    /// Why no handler is called for it, if that is so.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.0.rest.refusal.as_deref()
    }

    /// The envelope in the payload, if it was decoded before.
    pub(crate) fn decoded(&self) -> Option<&Envelope<'static>> {
        self.0.rest.decoded.as_deref()
    }

    fn copy_as(&self, key: Option<&[u8]>) -> Self {
        let mut copy = match (self.0.body, &self.0.rest.shared) {
            (Body::Shared, Some(payload)) => Self::from_bytes(key, payload.clone()),
            (body, _) => Self::build_as(key, body, self.payload()),
        };
        if self.0.more {
            let (rest, own) = (copy.rest_mut(), &self.0.rest);
            rest.headers.extend_from_slice(&own.headers);
            rest.header_bytes.extend_from_slice(&own.header_bytes);
            (rest.position, rest.timestamp) = (own.position, own.timestamp);
            (rest.epoch, rest.topic) = (own.epoch, own.topic);
        }
        copy
    }

    /// The key; `None` if the record has none.
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.0.is_keyed().then(|| self.0.front())
    }

    /// The payload; empty if it is null.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match self.0.body {
            Body::Null => &[],
            Body::Copied => self.0.copied(),
            Body::Shared => self.0.rest.shared.as_deref().unwrap_or_default(),
        }
    }

    /// The payload as counted bytes: without a copy if it came so.
    pub fn payload_bytes(&self) -> Bytes {
        match &self.0.rest.shared {
            Some(bytes) => bytes.clone(),
            None => Bytes::copy_from_slice(self.payload()),
        }
    }

    /// Whether the payload is null, which is not the same as empty.
    pub fn is_null(&self) -> bool {
        self.0.body == Body::Null
    }

    /// The value of the first header of this name; `None` if there is none or its value is null.
    pub fn header(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.headers().find(|header| header.name == name.as_ref())?.value
    }

    /// The headers, in order, duplicates and all.
    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        let mut rest = &self.0.rest.header_bytes[..];
        self.0.rest.headers.iter().map(move |len| {
            let (name, after) = rest.split_at(len.name);
            let (value, after) = after.split_at(len.value.unwrap_or(0));
            rest = after;
            Header { name, value: len.value.map(|_| value) }
        })
    }

    /// Where it stands in its source, if it came from one.
    pub fn position(&self) -> Option<Position> {
        self.0.rest.position
    }

    /// Nanoseconds since the Unix epoch, if it has a time stamp.
    pub fn timestamp(&self) -> Option<i64> {
        self.0.rest.timestamp
    }

    /// The fencing token of the assignment it was delivered under; 0 in process.
    pub fn epoch(&self) -> u64 {
        self.0.rest.epoch
    }

    /// Which of its subscription's topics it came from: the place among those that were given, from 0. 0 in process, too.
    pub fn topic_index(&self) -> usize {
        self.0.rest.topic as usize
    }

    /// Which attempt at it this is, from 1; 0 before the first.
    pub fn attempt(&self) -> u32 {
        self.0.attempt.load(Ordering::Relaxed)
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.0.front().len() + self.payload().len() + self.0.rest.header_bytes.len()
    }

    #[inline]
    pub(crate) fn set_attempt(&self, attempt: u32) {
        self.0.attempt.store(attempt, Ordering::Relaxed);
    }

    /// The key as two words, if it has 1 to 16 bytes: their number and they; what is behind them means nothing.
    #[inline]
    pub(crate) fn short_key(&self) -> Option<(u32, [u64; 2])> {
        self.0.short_key()
    }

    /// The key's bytes; none if there is no key.
    #[inline]
    pub(crate) fn front(&self) -> &[u8] {
        self.0.front()
    }

    /// When it was submitted, if it is one of those that are timed.
    #[cfg(feature = "metrics")]
    #[inline]
    pub(crate) fn submitted(&self) -> Option<crate::clock::Time> {
        let nanos = self.0.submitted;
        (nanos != 0).then(|| crate::clock::Time::from_nanos(nanos))
    }

    /// It is submitted now, and one of those that are timed.
    #[cfg(feature = "metrics")]
    #[cold]
    pub(crate) fn set_submitted(&mut self, now: crate::clock::Time) {
        self.block_mut().submitted = now.as_nanos().max(1);
    }

    /// A counted reference to the same record, for a handler that outlives the call.
    #[inline]
    pub(crate) fn share(&self) -> RecordRef {
        RecordRef(Self(self.0.clone()))
    }

    /// Ends the record and keeps its block for the next. Runs the drop of a shared payload, which may be
    /// a caller's code.
    pub(crate) fn recycle(mut self) {
        if let Some(block) = Arc::get_mut(&mut self.0)
            && block.clear()
        {
            pool::put(self.0);
        }
    }

    /// As [`recycle`](Self::recycle), for a thread with blocks of its own.
    ///
    /// # Errors
    /// If there is more to it than that: the record is as it was.
    #[inline(always)]
    pub(crate) fn recycle_to(self, blocks: &mut Magazine) -> Result<(), Self> {
        if self.0.more || !self.0.is_unique() {
            return Err(self);
        }
        blocks.put(self.0);
        Ok(())
    }

    /// As [`recycle`](Self::recycle), where a panic of a caller's drop has nowhere to go.
    pub(crate) fn recycle_quietly(self) {
        let _ = guard(|| self.recycle());
    }

    /// The block; a copy of its own if a handler left behind still reads it.
    fn block_mut(&mut self) -> &mut Block {
        Arc::make_mut(&mut self.0)
    }

    fn rest_mut(&mut self) -> &mut Rest {
        self.block_mut().rest_mut()
    }
}

/// A counted reference to a record, for handlers that outlive the call that starts them: it derefs to the record.
///
/// ```
/// use keylane::{HandlerError, RecordRef};
///
/// async fn handle(record: RecordRef) -> Result<(), HandlerError> {
///     let key = record.key().map(<[u8]>::to_vec);
///     drop(record); // or keep it for as long as the future lives
///     if key.is_none() { Err("no key".into()) } else { Ok(()) }
/// }
/// # let _ = handle;
/// ```
#[derive(Debug)]
pub struct RecordRef(Record);

impl Clone for RecordRef {
    fn clone(&self) -> Self {
        self.0.share()
    }
}

impl Deref for RecordRef {
    type Target = Record;

    #[inline]
    fn deref(&self) -> &Record {
        &self.0
    }
}

impl fmt::Debug for Record {
    /// Never shows the payload or a header's value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Record");
        match self.key() {
            Some(key) => shown.field("key", &KeyText(key)),
            None => shown.field("key", &"none"),
        };
        shown.field("payload_bytes", &self.payload().len());
        if let Some(position) = self.position() {
            shown.field("position", &position);
        }
        shown.finish_non_exhaustive()
    }
}

/// A key as a person may read it: escaped, and cut to 64 bytes.
pub(crate) struct KeyText<'a>(pub(crate) &'a [u8]);

impl fmt::Display for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(64)];
        write!(f, "{}", shown.escape_ascii())?;
        if shown.len() < self.0.len() {
            write!(f, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

impl fmt::Debug for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_long_and_shared_content_reads_back() {
        for len in [0, 1, 100, 120, 121, 128, 129, 70_000] {
            let payload = vec![7; len];
            let record = Record::new("key-8byt", &payload);
            assert_eq!(record.key(), Some(&b"key-8byt"[..]), "{len}");
            assert_eq!(record.payload(), payload, "{len}");
            let shared = Record::from_bytes(Some(b"k"), payload.clone().into());
            assert_eq!((shared.key(), shared.payload()), (Some(&b"k"[..]), &payload[..]));
            assert_eq!(shared.copy().payload(), payload);
            record.recycle();
        }
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        assert!(Record::null("k").is_null() && !Record::new("k", "").is_null());
        let record = Record::keyless("p").with_header("a", "").with_null_header("a");
        let values: Vec<_> = record.headers().map(|header| header.value).collect();
        assert_eq!(values, [Some(&b""[..]), None]);
        assert_eq!(record.copy().headers().count(), 2);
        assert_eq!((Record::new("", "p").key(), record.key()), (Some(&b""[..]), None));
    }

    #[test]
    fn a_reused_block_shows_nothing_of_its_last_record() {
        for _ in 0..100 {
            Record::new("secret-key", "secret")
                .with_header("h", "v")
                .with_timestamp(9)
                .with_epoch(3)
                .recycle();
        }
        let record = Record::keyless("");
        assert_eq!((record.key(), record.payload(), record.headers().count()), (None, &b""[..], 0));
        assert_eq!((record.timestamp(), record.epoch(), record.attempt()), (None, 0, 0));
    }

    #[test]
    fn a_record_that_is_still_read_is_copied_before_it_changes() {
        let record = Record::new("k", "old");
        let reader = record.share();
        let changed = record.with_header("new", "1");
        assert_eq!((reader.headers().count(), changed.headers().count()), (0, 1));
    }

    #[test]
    fn debug_shows_no_payload() {
        let text = format!("{:?}", Record::new("k\n", "secret").with_header("h", "hidden"));
        assert!(text.contains(r"k\n") && !text.contains("secret") && !text.contains("hidden"));
    }
}
