//! An envelope to bytes.

use super::error::EnvelopeError;
use super::scan::{Dialect, Fault, Scanner};
use super::{DEFAULT_NESTING, Envelope};

impl Envelope<'_> {
    /// Appends the envelope's JSON to `out`; on an error nothing is appended.
    ///
    /// # Errors
    ///
    /// What [`validate`](Self::validate) finds, then an id with white space around it, a payload that is not exactly
    /// one JSON value other than `null`, or a time stamp that has no form on the wire.
    ///
    /// ```
    /// use keylane::{Envelope, Timestamp};
    ///
    /// let envelope = Envelope::new("order-42", "A<B", 1, r#"{"amount": 9.5}"#)
    ///     .with_event_id("e-1")
    ///     .with_timestamp(Timestamp::from_unix(0, 0));
    /// let mut out = Vec::new();
    /// envelope.encode(&mut out)?;
    /// assert_eq!(
    ///     out,
    ///     br#"{"event_id":"e-1","aggregate_id":"order-42","event_type":"A\u003cB","event_version":1,"timestamp":"1970-01-01T00:00:00Z","payload":{"amount": 9.5}}"#
    /// );
    /// # Ok::<(), keylane::EnvelopeError>(())
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EnvelopeError> {
        self.validate()?;
        check_trimmed("event_id", &self.event_id)?;
        check_trimmed("aggregate_id", &self.aggregate_id)?;
        check_payload(&self.payload)?;
        self.timestamp.check()?;
        self.write(out);
        Ok(())
    }

    /// The envelope's JSON in a buffer of its own.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn to_vec(&self) -> Result<Vec<u8>, EnvelopeError> {
        let mut out = Vec::new();
        self.encode(&mut out)?;
        Ok(out)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_size());
        out.extend_from_slice(br#"{"event_id":"#);
        push_string(out, &self.event_id);
        out.extend_from_slice(br#","aggregate_id":"#);
        push_string(out, &self.aggregate_id);
        out.extend_from_slice(br#","event_type":"#);
        push_string(out, &self.event_type);
        out.extend_from_slice(br#","event_version":"#);
        push_integer(out, self.event_version);
        out.extend_from_slice(br#","timestamp":""#);
        self.timestamp.write(out);
        out.push(b'"');
        if !self.trace_id.is_empty() {
            out.extend_from_slice(br#","trace_id":"#);
            push_string(out, &self.trace_id);
        }
        if !self.correlation_id.is_empty() {
            out.extend_from_slice(br#","correlation_id":"#);
            push_string(out, &self.correlation_id);
        }
        if self.tenant_id != 0 {
            out.extend_from_slice(br#","tenant_id":"#);
            push_integer(out, self.tenant_id);
        }
        out.extend_from_slice(br#","payload":"#);
        out.extend_from_slice(&self.payload);
        out.push(b'}');
    }

    /// The size of the JSON if no string needs an escape, rounded up.
    fn encoded_size(&self) -> usize {
        const FIELDS: usize = 240; // names, quotes, both integers and the time stamp at their longest
        let texts = [
            &self.event_id,
            &self.aggregate_id,
            &self.event_type,
            &self.trace_id,
            &self.correlation_id,
        ];
        FIELDS + texts.iter().map(|text| text.len()).sum::<usize>() + self.payload.len()
    }
}

fn check_trimmed(field: &'static str, id: &str) -> Result<(), EnvelopeError> {
    if id.trim().len() == id.len() { Ok(()) } else { Err(EnvelopeError::Untrimmed { field }) }
}

fn check_payload(payload: &[u8]) -> Result<(), EnvelopeError> {
    let mut scanner = Scanner::new(payload);
    if scanner.peek_token() == Some(b'n') && payload.trim_ascii() == b"null" {
        return Err(EnvelopeError::PayloadRequired);
    }
    scanner.skip_value(Dialect::Strict, DEFAULT_NESTING).and_then(|()| scanner.end()).map_err(
        |fault| match fault {
            Fault::Expected { at, what } => EnvelopeError::PayloadNotJson { at, expected: what },
            Fault::TooDeep { limit } => EnvelopeError::PayloadTooDeep { limit },
        },
    )?;
    match std::str::from_utf8(payload) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(EnvelopeError::PayloadNotJson { at: error.valid_up_to(), expected: "UTF-8" })
        }
    }
}

/// Appends `text` quoted, and escaped so that it is safe inside HTML too.
fn push_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if !NEEDS_CARE[usize::from(byte)] {
            continue;
        }
        let escape = match byte {
            b'\n' => Escape::Short(b'n'),
            b'\r' => Escape::Short(b'r'),
            b'\t' => Escape::Short(b't'),
            b'"' | b'\\' => Escape::Short(byte),
            0xe2 => match &bytes[at..] {
                [_, 0x80, last @ (0xa8 | 0xa9), ..] => Escape::Separator(last & 0xf),
                _ => continue,
            },
            _ => Escape::Hex(byte),
        };
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match escape {
            Escape::Short(letter) => out.extend_from_slice(&[b'\\', letter]),
            Escape::Hex(byte) => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 0xf)]);
            }
            Escape::Separator(digit) => {
                out.extend_from_slice(b"\\u202");
                out.push(HEX[usize::from(digit)]);
                written = at + 3;
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

enum Escape {
    Short(u8),
    Hex(u8),
    /// U+2028 or U+2029, of which this is the last hex digit.
    Separator(u8),
}

/// The bytes that are escaped, and the first byte of U+2028 and U+2029.
const NEEDS_CARE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2);
        byte += 1;
    }
    table
};

fn push_integer(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[start..]);
}
