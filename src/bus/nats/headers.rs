//! A record's headers on the wire, and back.
//!
//! NATS knows neither a null payload nor a null value, cuts white space around a value, and takes no line ends in one;
//! async-nats takes no value that is not UTF-8. So such values are escaped, and marked:
//!
//! - `kl-null: NAME#i`: the i-th value of the header NAME (from 0) is null and not empty; `kl-null: #` is the payload.
//! - `kl-escaped: NAME#i`: that value is escaped: `%XX`, in hexadecimal, for each byte that is not printable ASCII.
//! - `kl-key`: the key, escaped in the same way, where the subject and `X-Aggregate-ID` cannot hold it.
//!
//! Values of one name keep their order; the order among names is not kept, since the client library has none.

use std::borrow::Cow;
use std::fmt::Write;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::topic::Topic;
use crate::envelope::extract_key;
use crate::record::Record;

const NULL: &str = "kl-null";
const ESCAPED: &str = "kl-escaped";
const KEY: &str = "kl-key";
/// Payloads up to this are copied.
const COPIED: usize = 4_096;
/// The id by which a stream tells a record from one that it has already.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The sequence of the last record of the same subject, without which a record is refused.
pub(super) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// The publisher and its number of a record of core NATS.
pub(super) const SEQUENCE: &str = "kl-seq";
/// Headers that the bus writes itself.
const OWN: [&str; 8] = [
    NULL,
    ESCAPED,
    KEY,
    EXPECTED,
    "Nats-Batch-Id",
    "Nats-Batch-Sequence",
    "Nats-Batch-Commit",
    SEQUENCE,
];

/// The headers to send with a record; `with_key` if its key stands nowhere else. Of a dead letter what would command
/// the server anew, `Nats-…`, is sent as `kl-original-Nats-…`.
///
/// # Errors
/// The name that cannot be sent, escaped.
pub(super) fn to_wire(
    record: &Record,
    with_key: bool,
    letter: bool,
) -> Result<HeaderMap, Box<str>> {
    let mut wire = HeaderMap::new();
    for header in record.headers() {
        let refused = || header.name.escape_ascii().to_string().into_boxed_str();
        let text = std::str::from_utf8(header.name).map_err(|_| refused())?;
        // Whatever it is that the client's own check lets through, an empty name is none.
        if text.is_empty() || is_own(text) {
            return Err(refused());
        }
        let commands =
            letter && text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
        let text = if commands { format!("kl-original-{text}") } else { text.to_owned() };
        let name = HeaderName::try_from(text.as_str()).map_err(|_| refused())?;
        let mark = |wire: &HeaderMap| format!("{text}#{}", count(wire, &name));
        match header.value {
            None => {
                let mark = mark(&wire);
                wire.append(NULL, mark);
                wire.append(name, HeaderValue::new());
            }
            Some(value) => match plain(value) {
                Some(value) => wire.append(name, value),
                None => {
                    let mark = mark(&wire);
                    wire.append(ESCAPED, mark);
                    wire.append(name, escape(value));
                }
            },
        }
    }
    if record.is_null() {
        wire.append(NULL, "#");
    }
    if let Some(key) = record.key().filter(|_| with_key) {
        wire.append(KEY, escape(key));
    }
    Ok(wire)
}

/// An id as it stands in a header.
pub(super) fn id(id: &str) -> String {
    plain(id.as_bytes()).map_or_else(|| escape(id.as_bytes()), str::to_owned)
}

/// The headers of ours that say how the others are meant. Looked for in one pass: the client's map makes a name, and
/// hashes it, for each that it is asked for.
#[derive(Default)]
struct Marks<'a> {
    nulls: &'a [HeaderValue],
    escapes: &'a [HeaderValue],
    keys: &'a [HeaderValue],
}

impl<'a> Marks<'a> {
    fn of(wire: &'a HeaderMap) -> Self {
        let mut marks = Self::default();
        for (name, values) in wire.iter() {
            match name.as_ref() {
                NULL => marks.nulls = values,
                ESCAPED => marks.escapes = values,
                KEY => marks.keys = values,
                _ => {}
            }
        }
        marks
    }

    /// Whether the payload was null.
    fn is_null(&self) -> bool {
        self.nulls.iter().any(|mark| mark.as_str() == "#")
    }

    /// The key, if it stands in a header of ours.
    fn key(&self) -> Option<Vec<u8>> {
        unescape(self.keys.first()?.as_str()).filter(|key| !key.is_empty())
    }

    /// Whether all values are as they stand.
    fn all_plain(&self) -> bool {
        self.nulls.is_empty() && self.escapes.is_empty()
    }
}

/// A record with these headers, without those that the publishing bus wrote for itself and for the server.
fn from_wire(mut record: Record, wire: &HeaderMap, marks: &Marks<'_>) -> Record {
    let marked = |marks: &[HeaderValue], name: &str, at: usize| {
        marks.iter().any(|mark| {
            mark.as_str()
                .rsplit_once('#')
                .is_some_and(|(marked, number)| marked == name && number.parse() == Ok(at))
        })
    };
    for (name, values) in wire.iter() {
        let name: &str = name.as_ref();
        if is_own(name) {
            continue;
        }
        if marks.all_plain() {
            for value in values {
                record = record.with_header(name, value.as_str());
            }
            continue;
        }
        for (at, value) in values.iter().enumerate() {
            let unescaped =
                marked(marks.escapes, name, at).then(|| unescape(value.as_str())).flatten();
            record = if marked(marks.nulls, name, at) {
                record.with_null_header(name)
            } else if let Some(value) = unescaped {
                record.with_header(name, value)
            } else {
                record.with_header(name, value.as_str())
            };
        }
    }
    record
}

/// The record of a message: its key if the message says it in a way of ours, its payload, and its headers.
pub(super) fn record(
    topic: &Topic,
    subject: &str,
    wire: Option<&HeaderMap>,
    payload: &Bytes,
) -> Record {
    let marks = wire.map(Marks::of).unwrap_or_default();
    let key = topic.key_in(subject).or_else(|| marks.key().map(Cow::Owned));
    // Known from the beginning, it need not be put before what is there already.
    let key = key.or_else(|| told(wire.filter(|_| marks.all_plain())?).map(Cow::Borrowed));
    let record = match key.as_deref() {
        key if marks.is_null() => Record::null_as(key),
        // A slice would keep the whole buffer that it was read into.
        Some(key) if payload.len() <= COPIED => Record::new(key, payload),
        None if payload.len() <= COPIED => Record::keyless(payload),
        key => Record::from_bytes(key, payload.clone()),
    };
    match wire {
        Some(wire) => from_wire(record, wire, &marks),
        None => record,
    }
}

/// The key that stands in a header of others.
fn told(wire: &HeaderMap) -> Option<&[u8]> {
    let all = wire.iter().flat_map(|(name, values)| {
        values.iter().map(|value| (name.as_ref(), value.as_str().as_bytes()))
    });
    extract_key(None, all, None, None).ok().map(str::as_bytes)
}

fn is_own(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'k' | b'K' | b'n' | b'N'))
        && OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
}

fn count(wire: &HeaderMap, name: &HeaderName) -> usize {
    wire.get_all(name.clone()).count()
}

/// The value, if it arrives as it is.
fn plain(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    (text.trim() == text && !text.contains(|c: char| c.is_control())).then_some(text)
}

fn escape(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len() + 8);
    for &byte in value {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            value.push(high << 4 | low);
        } else {
            value.push(byte);
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Headers = Vec<(String, Option<Vec<u8>>)>;

    fn sorted(record: &Record) -> Headers {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let mut all: Headers =
            record.headers().map(|h| (text(h.name), h.value.map(<[u8]>::to_vec))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0)); // stable: the order within a name stays
        all
    }

    fn there_and_back(record: &Record, with_key: bool) -> (Record, Option<Vec<u8>>) {
        let wire = to_wire(record, with_key, false).unwrap();
        {
            let marks = Marks::of(&wire);
            (from_wire(Record::keyless(""), &wire, &marks), marks.key())
        }
    }

    #[test]
    fn null_empty_and_odd_values_are_told_apart() {
        let record = Record::null("k")
            .with_header("a", "")
            .with_null_header("a")
            .with_header("a", " x\r\n")
            .with_header("a", [0xff, 0])
            .with_header("b", "%41 ü");
        let (back, _) = there_and_back(&record, false);
        assert_eq!(sorted(&back), sorted(&record));
        assert!(Marks::of(&to_wire(&record, false, false).unwrap()).is_null());
        assert!(!Marks::of(&to_wire(&Record::new("k", ""), false, false).unwrap()).is_null());
    }

    #[test]
    fn a_key_is_sent_where_it_stands_nowhere_else() {
        let record = Record::new("a b%", "").with_header("X-Aggregate-ID", "other");
        let sent = to_wire(&record, true, false).unwrap();
        assert_eq!(sent.get(KEY).map(|v| v.as_str()), Some("a%20b%25"));
        assert_eq!(Marks::of(&sent).key(), Some(b"a b%".to_vec()));
        let sent = to_wire(&record, false, false).unwrap();
        assert_eq!((sent.get(KEY), Marks::of(&sent).key()), (None, None));
    }

    #[test]
    fn a_letter_commands_nothing() {
        let record =
            Record::new("k", "").with_header("Nats-Msg-Id", "1").with_header("Nats-Rollup", "all");
        let wire = to_wire(&record, false, true).unwrap();
        assert!(wire.get("Nats-Msg-Id").is_none() && wire.get("Nats-Rollup").is_none());
        assert_eq!(wire.get("kl-original-Nats-Rollup").map(|v| v.as_str()), Some("all"));
    }

    #[test]
    fn names_that_cannot_be_sent_are_named() {
        for name in ["", "a b", "a:b", "é", "kl-null", "Kl-Key", EXPECTED] {
            let record = Record::new("k", "").with_header(name, "v");
            assert!(to_wire(&record, false, false).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back(
            headers in proptest::collection::vec(
                ("[a-c]{1,2}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6))), 0..8),
            key_bytes in proptest::collection::vec(any::<u8>(), 1..8),
        ) {
            let record = headers.iter().fold(Record::new(&key_bytes, "p"), |record, (name, value)| match value {
                Some(value) => record.with_header(name, value),
                None => record.with_null_header(name),
            });
            let (back, _) = there_and_back(&record, false);
            prop_assert_eq!(sorted(&back), sorted(&record));
            let wire = to_wire(&record, true, false).unwrap();
            prop_assert_eq!(Marks::of(&wire).key(), Some(key_bytes));
        }
    }
}
