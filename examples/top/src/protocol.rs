//! What a view and a service say to each other: one JSON object a line, each request answered by one line, in turn.
//!
//! | request | answer |
//! |---|---|
//! | `{"do":"snapshot"}` | `{"protocol":1,"at_nanos":…,"operable":["orders"],"snapshot":{…}}`, see `keylane::Snapshot` |
//! | `{"do":"park","subscription":"orders","key":"6f72646572"}` | `{"done":"…"}` |
//! | `{"do":"resume",…}`, `{"do":"skip",…}` | `{"done":"…"}` |
//! | anything else | `{"error":"…"}` |
//!
//! Keys are in hexadecimal. A request has at most [`MAX_REQUEST`] bytes, an answer at most [`MAX_ANSWER`]. What a
//! reader does not know in an answer it passes over, so that fields may be added.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// The number of this protocol.
pub const PROTOCOL: u32 = 1;
/// The longest request, in bytes, its end of line included.
pub const MAX_REQUEST: usize = 16 * 1_024;
/// The longest answer, in bytes, its end of line included.
pub const MAX_ANSWER: usize = 16 * 1_024 * 1_024;
/// Where a service listens unless it is told otherwise.
pub const ADDRESS: &str = "127.0.0.1:7797";

/// What a view asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// A snapshot.
    Snapshot,
    /// Park a key.
    Park(Target),
    /// Let a parked key go.
    Resume(Target),
    /// Pass over the record that a key waits for.
    Skip(Target),
}

/// A key of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The subscription.
    pub subscription: String,
    /// The key, in hexadecimal on the wire.
    #[serde(with = "hex")]
    pub key: Vec<u8>,
}

/// Keys as text.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(key: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let digits = key.iter().map(|byte| format!("{byte:02x}"));
        serializer.serialize_str(&digits.collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(D::Error::custom("a key has two hexadecimal digits a byte"));
        };
        let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?));
        bytes.collect::<Option<_>>().ok_or_else(|| D::Error::custom("a key is hexadecimal"))
    }
}

/// Lines of bounded length from a stream.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    most: usize,
    read: Vec<u8>,
    /// How much of `read` was searched for an end of line.
    searched: usize,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `most` bytes.
    pub fn new(from: R, most: usize) -> Self {
        Self { from, most, read: Vec::new(), searched: 0 }
    }

    /// The next line, without its end; `None` at the end of the stream. May be called again after a timeout: what was
    /// read is kept.
    ///
    /// # Errors
    /// Those of the stream; [`io::ErrorKind::InvalidData`] for a line that is too long, [`io::ErrorKind::UnexpectedEof`]
    /// for one that breaks off.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut part = [0; 8 * 1_024];
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                self.searched = 0;
                line.pop();
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.read.len() >= self.most {
                let error = format!("a line of more than {} bytes", self.most);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            let room = part.len().min(self.most - self.read.len());
            match self.from.read(&mut part[..room]) {
                Ok(0) if self.read.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.read.extend_from_slice(&part[..count]),
                // By a signal, such as that of a terminal's new size.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        let target = Target { subscription: "a \"b\"".into(), key: vec![0, 0x9f, 0xff] };
        for request in [
            Request::Snapshot,
            Request::Park(target.clone()),
            Request::Resume(target.clone()),
            Request::Skip(target),
        ] {
            let text = serde_json::to_string(&request).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
        }
        for bad in [
            "{}",
            r#"{"do":"stop"}"#,
            r#"{"do":"park"}"#,
            r#"{"do":"park","subscription":"s","key":"0"}"#,
            r#"{"do":"park","subscription":"s","key":"zz"}"#,
            r#"{"do":"park","subscription":"s","key":"€€"}"#,
            "[1",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_are_bounded_and_whole() {
        let mut lines = Lines::new(&b"one\n\nthree\nbroken"[..], 10);
        assert_eq!(lines.next_line().unwrap().unwrap(), b"one");
        assert_eq!(lines.next_line().unwrap().unwrap(), b"");
        assert_eq!(lines.next_line().unwrap().unwrap(), b"three");
        assert_eq!(lines.next_line().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(Lines::new(&b""[..], 10).next_line().unwrap().is_none());
        let long = [b'x'; 20_000];
        let error = Lines::new(&long[..], 10_000).next_line().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_signal_breaks_no_line_off() {
        struct Signalled<'a>(&'a [u8], bool);
        impl Read for Signalled<'_> {
            fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                self.0.read(&mut part[..1])
            }
        }
        let mut lines = Lines::new(Signalled(b"one\n", false), 10);
        assert_eq!(lines.next_line().unwrap().unwrap(), b"one");
        assert!(lines.next_line().unwrap().is_none());
    }
}
