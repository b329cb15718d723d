//! Numbers as text: their grammar and their range. Their values are never needed.

/// Whether `token` is a number of JSON; with `loose`, a negative one may also have leading zeros, a leading dot or
/// a plus behind the minus.
pub(super) fn is_well_formed(token: &[u8], loose: bool) -> bool {
    let negative = token.first() == Some(&b'-');
    let mut rest = &token[usize::from(negative)..];
    let loose = loose && negative;
    if loose && rest.first() == Some(&b'+') {
        rest = &rest[1..];
    }
    let (whole, mut rest) = split_digits(rest);
    if !loose && (whole.is_empty() || whole.len() > 1 && whole[0] == b'0') {
        return false;
    }
    if rest.first() == Some(&b'.') {
        let (fraction, after) = split_digits(&rest[1..]);
        if fraction.is_empty() {
            return false;
        }
        rest = after;
    } else if whole.is_empty() {
        return false;
    }
    let Some(b'e' | b'E') = rest.first() else { return rest.is_empty() };
    rest = &rest[1..];
    if let Some(b'+' | b'-') = rest.first() {
        rest = &rest[1..];
    }
    let (exponent, rest) = split_digits(rest);
    !exponent.is_empty() && rest.is_empty()
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len()))
}

/// The format's readers refuse a number with an exponent that overflows a double, or a single if it
/// begins with zero; digits alone may be as many as they like.
pub(super) fn is_in_range(number: &[u8]) -> bool {
    if !number.iter().any(|b| matches!(b, b'e' | b'E')) {
        return true;
    }
    let digits = number.iter().position(|b| !matches!(b, b'-' | b'+')).unwrap_or(0);
    let Ok(text) = std::str::from_utf8(&number[digits..]) else { return false };
    if number[0] == b'0' {
        text.parse::<f32>().is_ok_and(f32::is_finite)
    } else {
        text.parse::<f64>().is_ok_and(f64::is_finite)
    }
}
