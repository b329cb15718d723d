//! Lines of a CSV file and their fields.

use std::io::{self, BufRead};

/// A line longer than this is not a row.
pub(crate) const MAX_LINE: usize = 64 * 1024;

/// One line without its end, or why it is not text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Text(&'a str),
    TooLong,
    NotUtf8,
}

/// The lines of a file, numbered from 1; memory is bounded by [`MAX_LINE`].
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), number: 0 }
    }

    /// The next line, with its number.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        self.buffer.clear();
        let complete = self.read_line()?;
        if complete.is_none() {
            return Ok(None);
        }
        self.number += 1;
        let line = match (complete, std::str::from_utf8(&self.buffer)) {
            (Some(false), _) => Line::TooLong,
            (_, Ok(text)) => Line::Text(text),
            (_, Err(_)) => Line::NotUtf8,
        };
        Ok(Some((self.number, line)))
    }

    /// Fills the buffer with one line; whether all of it fitted, or `None` at the end of the file.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        let (mut started, mut complete) = (false, true);
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            started = true;
            let end = available.iter().position(|&byte| byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            let room = (MAX_LINE + 1).saturating_sub(self.buffer.len());
            complete &= part.len() <= room;
            self.buffer.extend_from_slice(&part[..part.len().min(room)]);
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        Ok(started.then_some(complete && self.buffer.len() <= MAX_LINE))
    }
}

/// A quote that opens and does not close on its line, or closes in the middle of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StrayQuote;

/// The fields of one line, in buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    text: String,
    ends: Vec<usize>,
}

impl Fields {
    /// Takes `line` apart at its commas. A field may be quoted (a quote within it is doubled); a
    /// quoted line break is not supported, so that a stray quote costs one row and not the file.
    pub(crate) fn split(&mut self, line: &str) -> Result<(), StrayQuote> {
        self.text.clear();
        self.ends.clear();
        let mut rest = line;
        loop {
            rest = match rest.strip_prefix('"') {
                Some(quoted) => self.take_quoted(quoted)?,
                None => {
                    let end = rest.find(',').unwrap_or(rest.len());
                    self.text.push_str(&rest[..end]);
                    &rest[end..]
                }
            };
            self.ends.push(self.text.len());
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None if rest.is_empty() => return Ok(()),
                None => return Err(StrayQuote),
            }
        }
    }

    /// Takes the inside of a quoted field; what follows the closing quote comes back.
    fn take_quoted<'a>(&mut self, mut rest: &'a str) -> Result<&'a str, StrayQuote> {
        loop {
            let (inside, after) = rest.split_once('"').ok_or(StrayQuote)?;
            self.text.push_str(inside);
            match after.strip_prefix('"') {
                Some(more) => {
                    self.text.push('"');
                    rest = more;
                }
                None => return Ok(after),
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The field at `index`; empty if there is none.
    pub(crate) fn get(&self, index: usize) -> &str {
        let Some(&end) = self.ends.get(index) else { return "" };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(line: &str) -> Result<Vec<String>, StrayQuote> {
        let mut fields = Fields::default();
        fields.split(line)?;
        Ok((0..fields.len()).map(|index| fields.get(index).to_owned()).collect())
    }

    #[test]
    fn fields_are_split_and_unquoted() {
        let split = |line| fields(line).unwrap();
        assert_eq!(split("a,b"), ["a", "b"]);
        assert_eq!(split(""), [""]);
        assert_eq!(split(",,"), ["", "", ""]);
        assert_eq!(
            split(r#""a","b,c","say ""hi""","""#.trim_end_matches('"')),
            ["a", "b,c", "say \"hi\"", ""]
        );
        assert_eq!(split(r#"2" tube,b"#), ["2\" tube", "b"]);
        assert_eq!(fields(r#"a,"b"#), Err(StrayQuote));
        assert_eq!(fields(r#""a"b,c"#), Err(StrayQuote));
    }

    #[test]
    fn lines_are_numbered_and_bounded() {
        let long = "x".repeat(MAX_LINE + 1);
        let fits = "y".repeat(MAX_LINE);
        let mut text = format!("a\r\n\n{long}\n{fits}\r\n").into_bytes();
        text.extend_from_slice(b"\xff\nlast");
        // A small buffer, so that lines come in parts.
        let mut lines = Lines::new(io::BufReader::with_capacity(7, &text[..]));
        assert_eq!(lines.next().unwrap(), Some((1, Line::Text("a"))));
        assert_eq!(lines.next().unwrap(), Some((2, Line::Text(""))));
        assert_eq!(lines.next().unwrap(), Some((3, Line::TooLong)));
        assert_eq!(lines.next().unwrap(), Some((4, Line::Text(&fits))));
        assert_eq!(lines.next().unwrap(), Some((5, Line::NotUtf8)));
        assert_eq!(lines.next().unwrap(), Some((6, Line::Text("last"))));
        assert_eq!(lines.next().unwrap(), None);
    }

    proptest! {
        #[test]
        fn quoting_and_splitting_agree(values in prop::collection::vec("[a-z,\" é]{0,6}", 1..8)) {
            let quoted: Vec<_> =
                values.iter().map(|value| format!("\"{}\"", value.replace('"', "\"\""))).collect();
            prop_assert_eq!(fields(&quoted.join(",")), Ok(values));
        }

        #[test]
        fn no_line_panics(line in "[a,\"]{0,24}") {
            if let Ok(fields) = fields(&line) {
                prop_assert!(!fields.is_empty());
            }
        }
    }
}
