//! Bytes as ASCII that shows when it was changed: base64url of a CRC-32C and the bytes.

const CHECKSUM: usize = 4;

/// How many bytes fit into `chars` characters.
pub(crate) const fn room(chars: usize) -> usize {
    (chars / 4 * 3 + chars % 4 * 3 / 4).saturating_sub(CHECKSUM)
}

/// The text of `bytes`.
pub(crate) fn armor(bytes: &[u8]) -> String {
    let checked = [&crc32c(bytes).to_le_bytes(), bytes].concat();
    let mut text = String::with_capacity(checked.len().div_ceil(3) * 4);
    put_base64(&mut text, &checked);
    text
}

/// The bytes of `text`; `None` if it is not exactly what [`armor`] writes.
pub(crate) fn open(text: &str) -> Option<Vec<u8>> {
    let checked = base64_bytes(text)?;
    let (checksum, bytes) = checked.split_first_chunk()?;
    (crc32c(bytes) == u32::from_le_bytes(*checksum)).then(|| bytes.to_vec())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn put_base64(text: &mut String, bytes: &[u8]) {
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0)) << (16 - 8 * i);
        let bits = at(0) | at(1) | at(2);
        for i in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]));
        }
    }
}

/// `None` unless it is exactly what [`put_base64`] writes.
fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut bits = 0;
        for (i, &c) in chunk.iter().enumerate() {
            bits |= digit(c)? << (18 - 6 * i);
        }
        let [_, b0, b1, b2] = u32::to_be_bytes(bits);
        match (chunk.len(), b1, b2) {
            (4, ..) => bytes.extend_from_slice(&[b0, b1, b2]),
            (3, _, 0) => bytes.extend_from_slice(&[b0, b1]),
            (2, 0, 0) => bytes.push(b0),
            _ => return None,
        }
    }
    Some(bytes)
}

fn digit(c: u8) -> Option<u32> {
    Some(u32::from(match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    }))
}

/// CRC-32C (Castagnoli): finds every change within 32 neighbouring bits.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78);
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[(crc as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_its_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
