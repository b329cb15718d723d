//! Walks JSON text without building anything and without recursion.

use super::error::DecodeError;
use super::number;
use super::text::plain_run;

/// Which texts count as a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RFC 8259, to the letter: what we write.
    Strict,
    /// What the format's readers let through besides: raw control characters in a string after its first
    /// escape, `null` as a key of an inner object after the first, and negative numbers with leading zeros,
    /// a leading dot or a plus behind the minus.
    Lenient,
}

/// Where a string may hold raw control characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Controls {
    Nowhere,
    AfterEscape,
    Anywhere,
}

/// A string's text between its quotes.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) text: &'a [u8],
    pub(super) escaped: bool,
}

/// Why a scan ended early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Expected { at: usize, what: &'static str },
    TooDeep { limit: usize },
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Expected { at, what } => Self::Malformed { at, expected: what },
            Fault::TooDeep { limit } => Self::TooDeep { limit },
        }
    }
}

pub(super) struct Scanner<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.input[start..self.at]
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    /// Skips white space, then looks at the byte after it.
    pub(super) fn peek_token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    /// Skips white space and takes the byte after it if it is `token`.
    pub(super) fn take(&mut self, token: u8) -> bool {
        let found = self.peek_token() == Some(token);
        self.at += usize::from(found);
        found
    }

    pub(super) fn require(&mut self, token: u8, what: &'static str) -> Result<(), Fault> {
        if self.take(token) { Ok(()) } else { Err(self.expected(what)) }
    }

    pub(super) fn expected(&self, what: &'static str) -> Fault {
        Fault::Expected { at: self.at, what }
    }

    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.peek_token() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end")),
        }
    }

    /// Takes a whole `null`, if one is next.
    pub(super) fn take_null(&mut self) -> Result<bool, Fault> {
        if self.peek_token() != Some(b'n') {
            return Ok(false);
        }
        self.word(b"null").map(|()| true)
    }

    /// Skips one value of any kind; `limit` is the number of levels of arrays and objects it may have.
    pub(super) fn skip_value(&mut self, dialect: Dialect, limit: usize) -> Result<(), Fault> {
        let mut open = Nesting::new(limit);
        loop {
            if !self.skip_start(dialect, &mut open)? {
                continue; // an array or an object has opened and its first value is due
            }
            // A value has ended: close what ends with it.
            loop {
                let Some(object) = open.innermost() else { return Ok(()) };
                if self.take(b',') {
                    if object {
                        self.skip_key(dialect, false)?;
                    }
                    break;
                }
                let (close, what) =
                    if object { (b'}', "`,` or `}`") } else { (b']', "`,` or `]`") };
                self.require(close, what)?;
                open.pop();
            }
        }
    }

    /// Skips a scalar or an empty array or object (true), or enters an array or object (false).
    fn skip_start(&mut self, dialect: Dialect, open: &mut Nesting) -> Result<bool, Fault> {
        match self.peek_token() {
            Some(b'"') => self.string(dialect.controls()).map(|_| true),
            Some(b'-' | b'0'..=b'9') => self.number(dialect).map(|()| true),
            Some(b'n') => self.word(b"null").map(|()| true),
            Some(b't') => self.word(b"true").map(|()| true),
            Some(b'f') => self.word(b"false").map(|()| true),
            Some(b'[') => {
                open.push(false)?;
                self.at += 1;
                let empty = self.take(b']');
                if empty {
                    open.pop();
                }
                Ok(empty)
            }
            Some(b'{') => {
                open.push(true)?;
                self.at += 1;
                let empty = self.take(b'}');
                if empty {
                    open.pop();
                } else {
                    self.skip_key(dialect, true)?;
                }
                Ok(empty)
            }
            _ => Err(self.expected("a JSON value")),
        }
    }

    fn skip_key(&mut self, dialect: Dialect, first: bool) -> Result<(), Fault> {
        let null = dialect == Dialect::Lenient && !first && self.take_null()?;
        if !null {
            self.peek_token();
            self.string(dialect.controls())?;
        }
        self.require(b':', "`:`")
    }

    /// Takes a string whose opening quote is next.
    pub(super) fn string(&mut self, controls: Controls) -> Result<Raw<'a>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a string"));
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_run(&self.input[self.at..]);
            match self.peek() {
                None => return Err(self.expected("the string's end")),
                Some(b'"') => {
                    let text = self.since(start);
                    self.at += 1;
                    return Ok(Raw { text, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => {
                    let allowed = match controls {
                        Controls::Nowhere => false,
                        Controls::AfterEscape => escaped,
                        Controls::Anywhere => true,
                    };
                    if !allowed {
                        return Err(self.expected("an escaped control character"));
                    }
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.input.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.input.get(self.at + 2..self.at + 6) {
                Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => self.at += 6,
                _ => return Err(self.expected("four hex digits after `\\u`")),
            },
            _ => return Err(self.expected("an escape that JSON knows")),
        }
        Ok(())
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Fault> {
        if self.input[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.expected("`null`, `true` or `false`"))
        }
    }

    fn number(&mut self, dialect: Dialect) -> Result<(), Fault> {
        let rest = &self.input[self.at..];
        let length = rest
            .iter()
            .position(|b| !matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        let loose = dialect == Dialect::Lenient;
        if !number::is_well_formed(&rest[..length], loose) {
            return Err(self.expected("a number"));
        }
        if !number::is_in_range(&rest[..length]) {
            return Err(self.expected("a number in the range of a float"));
        }
        self.at += length;
        Ok(())
    }

    /// Takes an integer of 64 bits; leading zeros end it.
    pub(super) fn integer(&mut self) -> Result<i64, Fault> {
        self.peek_token();
        let start = self.at;
        let fault = Fault::Expected { at: start, what: "an integer of 64 bits" };
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let mut value: i64 = 0; // negated, since the negative range is the larger
        let mut digits = 0;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            if digits > 0 && value == 0 {
                return Err(fault); // a digit after a leading zero
            }
            let next = value.checked_mul(10).and_then(|v| v.checked_sub(i64::from(digit - b'0')));
            let Some(next) = next else { return Err(fault) };
            value = next;
            digits += 1;
            self.at += 1;
        }
        match (digits, negative) {
            (0, _) => Err(fault),
            (_, true) => Ok(value),
            (_, false) => value.checked_neg().ok_or(fault),
        }
    }
}

impl Dialect {
    fn controls(self) -> Controls {
        match self {
            Self::Strict => Controls::Nowhere,
            Self::Lenient => Controls::AfterEscape,
        }
    }
}

/// The arrays (0) and objects (1) that are open, a bit each: the innermost 64 in `top`, others in `rest`.
struct Nesting {
    top: u64,
    rest: Vec<u64>,
    depth: usize,
    limit: usize,
}

impl Nesting {
    fn new(limit: usize) -> Self {
        Self { top: 0, rest: Vec::new(), depth: 0, limit }
    }

    fn push(&mut self, object: bool) -> Result<(), Fault> {
        if self.depth >= self.limit {
            return Err(Fault::TooDeep { limit: self.limit });
        }
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.rest.push(self.top);
        }
        self.top = self.top << 1 | u64::from(object);
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.top >>= 1;
        self.depth -= 1;
        if self.depth.is_multiple_of(64) {
            self.top = self.rest.pop().unwrap_or(0);
        }
    }

    fn innermost(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.top & 1 == 1)
    }
}
