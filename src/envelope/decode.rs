//! Bytes to an envelope that borrows from them.

use super::base64;
use super::error::DecodeError;
use super::scan::{Controls, Dialect, Raw, Scanner};
use super::text::unescape;
use super::{DEFAULT_NESTING, Envelope, Timestamp};
use std::borrow::Cow;

/// Reads envelopes, with options.
///
/// ```
/// use keylane::Decoder;
///
/// let old = br#"{"aggregate_id":"order-42","event_type":"OrderPlaced","event_version":1,
///     "timestamp":"2025-10-13T10:00:00Z","payload":"eyJhbW91bnQiOjl9"}"#;
/// let envelope = Decoder::new().base64_payload(true).decode(old)?;
/// assert_eq!(&envelope.payload[..], br#"{"amount":9}"#);
/// # Ok::<(), keylane::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    nesting: usize,
    base64: bool,
}

impl Decoder {
    /// A decoder with 2,000 levels of nesting, and no base64.
    #[must_use]
    pub const fn new() -> Self {
        Self { nesting: DEFAULT_NESTING, base64: false }
    }

    /// How many levels of arrays and objects a value of the envelope may have (2,000; the envelope itself is
    /// not counted). A level takes no stack and, past the 64th, one bit of memory.
    #[must_use]
    pub const fn nesting_limit(mut self, levels: usize) -> Self {
        self.nesting = levels;
        self
    }

    /// Whether a payload that is a JSON string holds base64, as the format's first version wrote it (false).
    ///
    /// Such a payload is decoded; it may be any bytes. Its envelope may lack the event id, which that version
    /// did not have: it is empty then. A payload of any other kind is taken as it is, so a topic may
    /// hold both versions, as long as no payload of the newer one is itself a string.
    #[must_use]
    pub const fn base64_payload(mut self, yes: bool) -> Self {
        self.base64 = yes;
        self
    }

    /// Reads the one envelope that `bytes` hold. Nothing is copied, unless a string holds an escape or the
    /// payload is base64.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] says what is wrong and at which byte; it never holds payload.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Envelope<'a>, DecodeError> {
        let fields = Reader { scanner: Scanner::new(bytes), options: *self }.document()?;
        let envelope = fields.envelope;
        if !(fields.old && envelope.event_id.is_empty()) {
            envelope.validate_event_id()?;
        }
        envelope.validate_the_rest()?;
        Ok(envelope)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy)]
enum Field {
    EventId,
    AggregateId,
    EventType,
    EventVersion,
    Timestamp,
    TraceId,
    CorrelationId,
    TenantId,
    Payload,
}

/// In the order in which they are written.
const FIELDS: [(&[u8], Field); 9] = [
    (b"event_id", Field::EventId),
    (b"aggregate_id", Field::AggregateId),
    (b"event_type", Field::EventType),
    (b"event_version", Field::EventVersion),
    (b"timestamp", Field::Timestamp),
    (b"trace_id", Field::TraceId),
    (b"correlation_id", Field::CorrelationId),
    (b"tenant_id", Field::TenantId),
    (b"payload", Field::Payload),
];

struct Fields<'a> {
    envelope: Envelope<'a>,
    /// The payload was base64.
    old: bool,
}

struct Reader<'a> {
    scanner: Scanner<'a>,
    options: Decoder,
}

impl<'a> Reader<'a> {
    fn document(mut self) -> Result<Fields<'a>, DecodeError> {
        let mut fields = Fields { envelope: Envelope::empty(), old: false };
        if !self.scanner.take_null()? {
            self.scanner.require(b'{', "an object")?;
            if !self.scanner.take(b'}') {
                self.fields(&mut fields)?;
            }
        }
        self.scanner.end()?;
        Ok(fields)
    }

    fn fields(&mut self, fields: &mut Fields<'a>) -> Result<(), DecodeError> {
        let mut next = 0; // where in FIELDS the next name is likely to be
        loop {
            self.scanner.peek_token();
            let at = self.scanner.at();
            let name = self.scanner.string(Controls::Anywhere)?;
            let field = find_field(name, &mut next);
            self.scanner.require(b':', "`:`")?;
            self.scanner.peek_token();
            match field {
                Some(field) => self.field(field, fields)?,
                None => self.unknown(name, at)?,
            }
            if !self.scanner.take(b',') {
                return Ok(self.scanner.require(b'}', "`,` or `}`")?);
            }
        }
    }

    /// Reads a field's value. As in every reader of the format, the last of several wins, and `null` empties
    /// a string and the payload but leaves a number or the time as it was.
    fn field(&mut self, field: Field, fields: &mut Fields<'a>) -> Result<(), DecodeError> {
        let envelope = &mut fields.envelope;
        match field {
            Field::EventId => envelope.event_id = self.text()?,
            Field::AggregateId => envelope.aggregate_id = self.text()?,
            Field::EventType => envelope.event_type = self.text()?,
            Field::TraceId => envelope.trace_id = self.text()?,
            Field::CorrelationId => envelope.correlation_id = self.text()?,
            Field::EventVersion => self.integer(&mut envelope.event_version)?,
            Field::TenantId => self.integer(&mut envelope.tenant_id)?,
            Field::Timestamp => self.timestamp(&mut envelope.timestamp)?,
            Field::Payload => (envelope.payload, fields.old) = self.payload()?,
        }
        Ok(())
    }

    fn text(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        if self.scanner.take_null()? {
            return Ok(Cow::Borrowed(""));
        }
        let at = self.scanner.at();
        let raw = self.scanner.string(Controls::AfterEscape)?;
        let not_utf8 = DecodeError::NotUtf8 { at };
        if raw.escaped {
            String::from_utf8(unescape(raw.text)).map(Cow::Owned).map_err(|_| not_utf8)
        } else {
            std::str::from_utf8(raw.text).map(Cow::Borrowed).map_err(|_| not_utf8)
        }
    }

    fn integer(&mut self, value: &mut i64) -> Result<(), DecodeError> {
        if !self.scanner.take_null()? {
            *value = self.scanner.integer()?;
        }
        Ok(())
    }

    fn timestamp(&mut self, value: &mut Timestamp) -> Result<(), DecodeError> {
        if !self.scanner.take_null()? {
            let fault = self.scanner.expected("a time like \"2006-01-02T15:04:05Z\"");
            // The time is read as it stands: an escape in it is an error, even one that spells a digit.
            let raw = self.scanner.string(Controls::AfterEscape)?;
            *value = Timestamp::parse(raw.text).ok_or(fault)?;
        }
        Ok(())
    }

    fn payload(&mut self) -> Result<(Cow<'a, [u8]>, bool), DecodeError> {
        if self.scanner.take_null()? {
            return Ok((Cow::Borrowed(&[]), false));
        }
        if self.options.base64 && self.scanner.peek() == Some(b'"') {
            let fault = self.scanner.expected("a payload in base64");
            let raw = self.scanner.string(Controls::AfterEscape)?;
            let text = if raw.escaped { Cow::Owned(unescape(raw.text)) } else { raw.text.into() };
            return Ok((Cow::Owned(base64::decode(&text).ok_or(fault)?), true));
        }
        let start = self.scanner.at();
        self.scanner.skip_value(Dialect::Lenient, self.options.nesting)?;
        Ok((Cow::Borrowed(self.scanner.since(start)), false))
    }

    /// Skips the value of a field that is not ours; its name and the value must be UTF-8 all the same.
    fn unknown(&mut self, name: Raw<'a>, name_at: usize) -> Result<(), DecodeError> {
        let start = self.scanner.at();
        self.scanner.skip_value(Dialect::Lenient, self.options.nesting)?;
        for (text, at) in [(name.text, name_at), (self.scanner.since(start), start)] {
            std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8 { at })?;
        }
        Ok(())
    }
}

/// The field of that name, upper or lower case; `next` is where to look first.
fn find_field(name: Raw<'_>, next: &mut usize) -> Option<Field> {
    let unescaped;
    let mut text = name.text;
    if name.escaped {
        unescaped = unescape(text);
        text = &unescaped;
    }
    let is = |at: &usize| FIELDS[*at].0.eq_ignore_ascii_case(text);
    let found = (*next..FIELDS.len()).chain(0..*next).find(is)?;
    *next = (found + 1) % FIELDS.len();
    Some(FIELDS[found].1)
}
