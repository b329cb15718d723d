//! A key as one token of a subject, and back.
//!
//! Letters, digits, `_` and `-` stand for themselves; every other byte is `=` and two hexadecimal digits in upper case.
//! So a token has neither dots nor wildcards nor white space, and no two keys share one. A lone `=` is "no key".

use std::borrow::Cow;

/// The token of a record that has no key.
const NONE: &str = "=";
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Adds the token of a key.
pub(super) fn encode(key: Option<&[u8]>, out: &mut String) {
    let Some(key) = key.filter(|key| !key.is_empty()) else {
        out.push_str(NONE);
        return;
    };
    for &byte in key {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            out.push(char::from(byte));
        } else {
            out.push('=');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// The key of a token. What other publishers left unescaped stands for itself; `None` if the token is "no key", or
/// none of ours.
pub(super) fn decode(token: &str) -> Option<Cow<'_, [u8]>> {
    if token.is_empty() || token == NONE {
        return None;
    }
    if !token.as_bytes().contains(&b'=') {
        return Some(Cow::Borrowed(token.as_bytes()));
    }
    let mut key = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'=' {
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            key.push(high << 4 | low);
        } else {
            key.push(byte);
        }
    }
    Some(Cow::Owned(key))
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(key: &[u8]) -> String {
        let mut out = String::new();
        encode(Some(key), &mut out);
        out
    }

    #[test]
    fn what_a_subject_cannot_hold_is_escaped() {
        assert_eq!(token(b"order-42_A"), "order-42_A");
        assert_eq!(token(b"a.b*>c d=\x00"), "a=2Eb=2A=3Ec=20d=3D=00");
        assert_eq!(token("é".as_bytes()), "=C3=A9");
        assert_eq!(
            decode("order:42").as_deref(),
            Some(&b"order:42"[..]),
            "as a foreign publisher left it"
        );
        for bad in ["", "=", "a=", "a=4", "a=4g", "a=2e"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in proptest::collection::vec(any::<u8>(), 1..64)) {
            let token = token(&key);
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b)));
            prop_assert_eq!(decode(&token).map(Cow::into_owned), Some(key));
        }

        #[test]
        fn any_text_is_decoded_or_refused(text in ".*") {
            let _ = decode(&text);
        }
    }
}
