//! The text of JSON strings: its plain runs and its escapes.

/// How many bytes come before the first quote, backslash or control character.
#[inline]
pub(super) fn plain_run(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES * 0x80;
    // Sets the high bit of the first byte that is below `bound` (bytes after it may be set in error).
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGHS;
    let (chunks, tail) = text.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        let stop = below(word, 0x20)
            | below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1);
        if stop != 0 {
            return index * 8 + stop.trailing_zeros() as usize / 8;
        }
    }
    let stop = tail.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20));
    text.len() - tail.len() + stop.unwrap_or(tail.len())
}

/// A string's text with its escapes resolved; surrogates without a partner become U+FFFD.
///
/// `text` is what a scanner's `string` took, so that every escape is whole.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&b| b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let kind = rest.get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        match kind {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => rest = unescape_unicode(rest, &mut out),
            itself => out.push(itself),
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Resolves the hex digits after a `\u`, and the `\u` escape after them if the two are a surrogate pair.
fn unescape_unicode<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let (unit, mut rest) = take_hex(text);
    let mut decoded = char::from_u32(unit);
    if decoded.is_none() && rest.starts_with(b"\\u") {
        let (low, after) = take_hex(&rest[2..]);
        if let (0xd800..0xdc00, 0xdc00..0xe000) = (unit, low) {
            decoded = char::from_u32(0x10000 + ((unit - 0xd800) << 10 | (low - 0xdc00)));
        } else {
            // Two escapes that are no pair are two characters, whatever follows them.
            push_char(None, out);
            decoded = char::from_u32(low);
        }
        rest = after;
    }
    push_char(decoded, out);
    rest
}

fn take_hex(text: &[u8]) -> (u32, &[u8]) {
    let (hex, rest) = text.split_at(text.len().min(4));
    let digit = |value: u32, b: &u8| value << 4 | char::from(*b).to_digit(16).unwrap_or(0);
    (hex.iter().fold(0, digit), rest)
}

fn push_char(decoded: Option<char>, out: &mut Vec<u8>) {
    let c = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::plain_run;

    #[test]
    fn a_plain_run_ends_where_a_byte_by_byte_search_ends() {
        for byte in 0..=u8::MAX {
            for length in 0..20 {
                for at in 0..length {
                    for filler in [b'a', b' ', 0x21, 0x5b, 0x7f, 0x80, 0xa2, 0xff] {
                        let mut text = vec![filler; length];
                        text[at] = byte;
                        // A stop behind the one that counts must not hide it.
                        text[length - 1] = if at == length - 1 { byte } else { b'"' };
                        let naive = text.iter().position(|b| *b < 0x20 || b"\"\\".contains(b));
                        assert_eq!(plain_run(&text), naive.unwrap_or(length), "{text:?}");
                    }
                }
            }
        }
    }
}
