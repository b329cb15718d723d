//! Where a source stands, in the form that survives a restart: the frontier, what is finished above
//! it and which keys are parked, as a short ASCII text that a broker keeps with the position.
//!
//! ```text
//! kl1.<armored: frontier | parked keys, each with its length, then 0 | runs, bitwise>
//! ```
//!
//! A run is two Elias-gamma numbers, its distance from the run before and its length: about one bit
//! a position when every other record is finished, a few bytes when a million in a row are.
//! Nothing in the text is trusted: whatever does not decode is a typed error, and means "replay".

use std::fmt;

use crate::armor;

const PREFIX: &str = "kl";
const VERSION: &str = "1";
/// `kl1.`, before the base64 text.
const HEAD: usize = PREFIX.len() + VERSION.len() + 1;

/// Positions `first..=last`, all of them finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The lowest position.
    pub first: u64,
    /// The highest position; not below `first`.
    pub last: u64,
}

/// What a restarted source needs to know: where to read from, what to skip, which keys are parked.
///
/// ```
/// # #[cfg(feature = "internals")] {
/// use keylane::internals::Stored;
///
/// let stored = Stored::new(40);
/// let text = stored.encode(Stored::LIMIT).text;
/// assert_eq!(Stored::decode_at(&text, 40), Ok(stored));
/// assert!(Stored::decode("written by somebody else").is_err());
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    frontier: u64,
    finished: Vec<Run>,
    parked: Vec<Vec<u8>>,
}

/// A [`Stored`] as text, and what had no room in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Encoded {
    /// ASCII, never longer than the limit. Empty if not even the frontier had room.
    pub text: String,
    /// Finished positions left out: they are handled once more after a restart.
    pub finished_dropped: u64,
    /// Parked keys left out: they are not parked after a restart.
    pub parked_dropped: usize,
}

impl Stored {
    /// The characters that a Kafka broker accepts by default.
    pub const LIMIT: usize = 4_096;
    /// Longer texts are refused unread, in bytes.
    pub const MAX_TEXT: usize = 1 << 20;

    /// Reading goes on at `frontier`; nothing above it is finished, no key is parked.
    pub const fn new(frontier: u64) -> Self {
        Self { frontier, finished: Vec::new(), parked: Vec::new() }
    }

    /// The next position to read: everything below it is finished.
    pub const fn frontier(&self) -> u64 {
        self.frontier
    }

    /// What is finished at or above the frontier: ascending, at least one position apart.
    pub fn finished(&self) -> &[Run] {
        &self.finished
    }

    /// Whether `position` is below the frontier or in a finished run.
    pub fn is_finished(&self, position: u64) -> bool {
        position < self.frontier || covers(&self.finished, position)
    }

    /// The keys that are parked, in the order they were added.
    pub fn parked(&self) -> &[Vec<u8>] {
        &self.parked
    }

    /// Adds a parked key. The empty key is none and is not added.
    pub fn park(&mut self, key: impl Into<Vec<u8>>) {
        let key = key.into();
        if !key.is_empty() {
            self.parked.push(key);
        }
    }

    /// Adds a run above all earlier ones; what of it is not above them is left out.
    pub(crate) fn push(&mut self, run: Run) {
        let last = self.finished.last_mut();
        let from = last.as_ref().map_or(self.frontier, |last| last.last.saturating_add(1));
        let first = run.first.max(from);
        if first > run.last || run.last == u64::MAX {
            return;
        }
        match last {
            Some(last) if first == from => last.last = run.last,
            _ => self.finished.push(Run { first, last: run.last }),
        }
    }

    /// The text form, at most `limit` characters.
    ///
    /// What does not fit is left out in this order, and counted: the finished runs farthest above the
    /// frontier, then parked keys (in order, those that have no room), then everything. Leaving out
    /// costs repeated work or a key's parking, never a record.
    pub fn encode(&self, limit: usize) -> Encoded {
        let mut encoded = Encoded {
            text: String::new(),
            finished_dropped: self.finished.iter().map(Run::len).fold(0, u64::saturating_add),
            parked_dropped: self.parked.len(),
        };
        let room = armor::room(limit.saturating_sub(HEAD));
        let mut body = Vec::new();
        put_varint(&mut body, self.frontier);
        if body.len() + 1 > room {
            return encoded;
        }
        for key in &self.parked {
            let start = body.len();
            put_varint(&mut body, key.len() as u64);
            body.extend_from_slice(key);
            if body.len() + 1 > room {
                body.truncate(start);
            } else {
                encoded.parked_dropped -= 1;
            }
        }
        body.push(0);
        let mut bits = BitWriter { free: 0, bytes: body, room };
        let mut next = self.frontier;
        for run in &self.finished {
            if !bits.put(run.first - next + 1, run.len()) {
                break;
            }
            encoded.finished_dropped -= run.len();
            // The position after a run is not finished, so the next run begins past it.
            next = run.last.saturating_add(2);
        }
        encoded.text = [PREFIX, VERSION, ".", &armor::armor(&bits.bytes)].concat();
        encoded
    }

    /// Reads the text form back.
    ///
    /// # Errors
    /// Whatever this version did not write whole. Replay from the broker's own position then.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        if text.len() > Self::MAX_TEXT {
            return Err(DecodeError::TooLong { bytes: text.len() });
        }
        let tagged = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.'));
        let (version, armored) = tagged.ok_or(DecodeError::Foreign)?;
        if version != VERSION {
            let digits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
            let found = version.parse().ok().filter(|_| digits);
            return Err(found.map_or(DecodeError::Foreign, |found| DecodeError::Version { found }));
        }
        let body = armor::open(armored).ok_or(DecodeError::Broken)?;
        Self::from_body(&body).ok_or(DecodeError::Broken)
    }

    /// Reads the text form that was stored together with the broker's `position`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); and [`DecodeError::Moved`] if it was written for another
    /// position: somebody moved the source on purpose, and what was finished then says nothing now.
    pub fn decode_at(text: &str, position: u64) -> Result<Self, DecodeError> {
        let stored = Self::decode(text)?;
        if stored.frontier == position {
            Ok(stored)
        } else {
            Err(DecodeError::Moved { stored: stored.frontier, position })
        }
    }

    fn from_body(mut body: &[u8]) -> Option<Self> {
        let mut stored = Self::new(take_varint(&mut body)?);
        loop {
            let length = usize::try_from(take_varint(&mut body)?).ok()?;
            if length == 0 {
                break;
            }
            let (key, rest) = body.split_at_checked(length)?;
            stored.parked.push(key.to_vec());
            body = rest;
        }
        let mut bits = BitReader { bytes: body, at: 0 };
        let mut next = stored.frontier;
        while !bits.at_end() {
            let first = next.checked_add(bits.take()? - 1)?;
            let last = first.checked_add(bits.take()? - 1)?;
            next = last.saturating_add(2);
            // The highest number is no position: nothing could be read after it.
            if last == u64::MAX {
                return None;
            }
            stored.finished.push(Run { first, last });
        }
        Some(stored)
    }
}

impl Run {
    /// How many positions; at least 1, because `last` is below the highest number.
    const fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Whether one of the ascending `runs` holds `position`.
pub(crate) fn covers(runs: &[Run], position: u64) -> bool {
    let after = runs.partition_point(|run| run.last < position);
    runs.get(after).is_some_and(|run| run.first <= position)
}

/// Why a text is not a stored position. The answer to each is to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Something else wrote it, or nobody did.
    Foreign,
    /// Another version of this crate wrote it.
    Version {
        /// The version found.
        found: u32,
    },
    /// It was cut short or changed.
    Broken,
    /// It is longer than anything this crate writes.
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It was written for another position than the broker's.
    Moved {
        /// The position it was written for.
        stored: u64,
        /// The broker's position.
        position: u64,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("not a stored position of keylane; reading starts at the broker's"),
            Self::Version { found } => write!(
                f,
                "the stored position has version {found}, this is version {VERSION}; what was finished above the broker's position is handled again"
            ),
            Self::Broken => f.write_str(
                "the stored position is damaged; what was finished above the broker's position is handled again",
            ),
            Self::TooLong { bytes } => write!(
                f,
                "a stored position has at most {} bytes, this text has {bytes}",
                Stored::MAX_TEXT
            ),
            Self::Moved { stored, position } => write!(
                f,
                "stored for position {stored}, but the broker is at {position}; everything from there is handled again"
            ),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Pairs of Elias-gamma numbers after whole bytes; the last byte is filled up with zeros.
struct BitWriter {
    bytes: Vec<u8>,
    /// Unused low bits of the last byte.
    free: u32,
    /// The most bytes there may be.
    room: usize,
}

impl BitWriter {
    /// Appends both numbers (at least 1), or neither if there is no room.
    fn put(&mut self, a: u64, b: u64) -> bool {
        let wanted = (gamma_bits(a) + gamma_bits(b)) as usize;
        if wanted > (self.room - self.bytes.len()) * 8 + self.free as usize {
            return false;
        }
        self.put_one(a);
        self.put_one(b);
        true
    }

    fn put_one(&mut self, value: u64) {
        let width = 64 - value.leading_zeros();
        for _ in 1..width {
            self.put_bit(0);
        }
        for bit in (0..width).rev() {
            self.put_bit((value >> bit & 1) as u8);
        }
    }

    fn put_bit(&mut self, bit: u8) {
        if self.free == 0 {
            self.bytes.push(0);
            self.free = 8;
        }
        self.free -= 1;
        if let Some(last) = self.bytes.last_mut() {
            *last |= bit << self.free;
        }
    }
}

const fn gamma_bits(value: u64) -> u32 {
    2 * (64 - value.leading_zeros()) - 1
}

struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next bit.
    at: usize,
}

impl BitReader<'_> {
    /// Whether only the filling of the last byte is left.
    fn at_end(&self) -> bool {
        let rest = self.bytes.len() * 8 - self.at;
        rest < 8 && self.bytes.last().is_none_or(|last| last.trailing_zeros() as usize >= rest)
    }

    fn take(&mut self) -> Option<u64> {
        let mut more = 0;
        while !self.bit()? {
            more += 1;
            if more == 64 {
                return None;
            }
        }
        let mut value = 1;
        for _ in 0..more {
            value = value << 1 | u64::from(self.bit()?);
        }
        Some(value)
    }

    fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
