//! Base64 with padding, as the format's first version wrote payloads.

/// The bytes, or `None` if `text` is not base64: whole groups of four from `A-Z a-z 0-9 + /`, the last padded
/// with `=`. Line ends are skipped, and the bits that padding leaves over are not looked at.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut text = text.iter().filter(|b| !matches!(b, b'\r' | b'\n'));
    while let Some(&first) = text.next() {
        let group = [first, *text.next()?, *text.next()?, *text.next()?];
        let padding = match group {
            [.., b'=', b'='] => 2,
            [.., b'='] => 1,
            _ => 0,
        };
        let mut bits = 0;
        for &letter in &group[..4 - padding] {
            bits = bits << 6 | sextet(letter)?;
        }
        let bytes = (bits << (6 * padding)).to_be_bytes();
        out.extend_from_slice(&bytes[1..4 - padding]);
        if padding > 0 {
            return text.next().is_none().then_some(out);
        }
    }
    Some(out)
}

fn sextet(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn groups_padding_and_line_ends() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9v\r\nYmFy", Some(b"foobar")),
            ("Zh==", Some(b"f")),
            ("+/+/", Some(&[0xfb, 0xff, 0xbf])),
            ("Zg=", None),
            ("Zg", None),
            ("Z===", None),
            ("Zg==Zg==", None),
            ("Zm9v=", None),
            ("Zm-_", None),
            ("Z=9v", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), bytes, "{text:?}");
        }
    }
}
