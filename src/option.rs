//! The kinds of options: how a value of each is read from text, written as text, and bounded.

use std::time::Duration;

use crate::hash::LaneHash;
use crate::pinning::Pinning;

/// A kind of option. What [`Kind::write`] gives, [`Kind::parse`] reads as the same value.
pub(crate) trait Kind {
    /// What an option of this kind holds.
    type Value;

    /// How the value is best written where numbers and booleans have forms of their own.
    const SHAPE: Shape = Shape::Text;

    /// The value that `text` means, in range or not.
    fn parse(&self, text: &str) -> Option<Self::Value>;

    /// The value as text.
    fn write(&self, value: &Self::Value) -> String;

    /// Whether the value is in the option's range.
    fn fits(&self, value: &Self::Value) -> bool;
}

/// See [`Kind::SHAPE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A number, or a word that stands for one.
    Number,
    /// `true` or `false`.
    Flag,
    /// A string.
    Text,
}

/// A number, from and to.
pub(crate) struct Count(pub(crate) usize, pub(crate) usize);

impl Kind for Count {
    type Value = usize;
    const SHAPE: Shape = Shape::Number;

    fn parse(&self, text: &str) -> Option<usize> {
        parse_number(text)?.try_into().ok()
    }

    fn write(&self, value: &usize) -> String {
        value.to_string()
    }

    fn fits(&self, value: &usize) -> bool {
        (self.0..=self.1).contains(value)
    }
}

/// Another kind, or a word for "decide for me".
pub(crate) struct Or<K>(pub(crate) &'static str, pub(crate) K);

impl<K: Kind> Kind for Or<K> {
    type Value = Option<K::Value>;
    const SHAPE: Shape = K::SHAPE;

    fn parse(&self, text: &str) -> Option<Option<K::Value>> {
        if text == self.0 { Some(None) } else { self.1.parse(text).map(Some) }
    }

    fn write(&self, value: &Option<K::Value>) -> String {
        value.as_ref().map_or_else(|| self.0.to_owned(), |value| self.1.write(value))
    }

    fn fits(&self, value: &Option<K::Value>) -> bool {
        value.as_ref().is_none_or(|value| self.1.fits(value))
    }
}

/// `true` or `false`.
pub(crate) struct Flag;

impl Kind for Flag {
    type Value = bool;
    const SHAPE: Shape = Shape::Flag;

    fn parse(&self, text: &str) -> Option<bool> {
        text.parse().ok()
    }

    fn write(&self, value: &bool) -> String {
        value.to_string()
    }

    fn fits(&self, _value: &bool) -> bool {
        true
    }
}

/// Any 64-bit number.
pub(crate) struct Seed;

impl Kind for Seed {
    type Value = u64;
    const SHAPE: Shape = Shape::Number;

    fn parse(&self, text: &str) -> Option<u64> {
        parse_number(text)
    }

    fn write(&self, value: &u64) -> String {
        value.to_string()
    }

    fn fits(&self, _value: &u64) -> bool {
        true
    }
}

/// Largest unit first: a value is written in the largest that leaves no remainder.
const DURATIONS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A duration, from and to.
pub(crate) struct Span(pub(crate) Duration, pub(crate) Duration);

impl Kind for Span {
    type Value = Duration;

    fn parse(&self, text: &str) -> Option<Duration> {
        parse_units(text, &DURATIONS).map(Duration::from_nanos)
    }

    fn write(&self, value: &Duration) -> String {
        let nanos = value.as_nanos();
        let largest = DURATIONS.iter().find(|(_, unit)| nanos.is_multiple_of(u128::from(*unit)));
        match largest {
            Some((name, unit)) if nanos > 0 => format!("{}{name}", nanos / u128::from(*unit)),
            _ => nanos.to_string(),
        }
    }

    fn fits(&self, value: &Duration) -> bool {
        (self.0..=self.1).contains(value)
    }
}

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

/// A number of bytes, from and to.
pub(crate) struct Size(pub(crate) usize, pub(crate) usize);

impl Kind for Size {
    type Value = usize;

    fn parse(&self, text: &str) -> Option<usize> {
        parse_units(text, &SIZES)?.try_into().ok()
    }

    fn write(&self, value: &usize) -> String {
        let bytes = *value as u64;
        let largest = SIZES.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
        largest.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
    }

    fn fits(&self, value: &usize) -> bool {
        (self.0..=self.1).contains(value)
    }
}

/// A name for threads, at most so many characters.
pub(crate) struct Name(pub(crate) usize);

impl Kind for Name {
    type Value = String;

    fn parse(&self, text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn write(&self, value: &String) -> String {
        value.clone()
    }

    fn fits(&self, value: &String) -> bool {
        (1..=self.0).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

/// A [`Pinning`].
pub(crate) struct Cores;

impl Kind for Cores {
    type Value = Pinning;

    fn parse(&self, text: &str) -> Option<Pinning> {
        text.parse().ok()
    }

    fn write(&self, value: &Pinning) -> String {
        value.to_string()
    }

    fn fits(&self, value: &Pinning) -> bool {
        value.is_sound()
    }
}

/// A [`LaneHash`].
pub(crate) struct Mapping;

impl Kind for Mapping {
    type Value = LaneHash;

    fn parse(&self, text: &str) -> Option<LaneHash> {
        text.parse().ok()
    }

    fn write(&self, value: &LaneHash) -> String {
        value.to_string()
    }

    fn fits(&self, _value: &LaneHash) -> bool {
        true
    }
}

/// Digits only: std's `parse` would take a sign too.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A number and its unit, without a space between. Zero needs no unit.
fn parse_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, name) = text.split_at(digits);
    let number = parse_number(number)?;
    match units.iter().find(|(unit, _)| *unit == name) {
        Some((_, unit)) => number.checked_mul(*unit),
        None => (number == 0 && name.is_empty()).then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Option<Duration> {
        Span(Duration::ZERO, Duration::MAX).parse(text)
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(span("100us"), Some(Duration::from_micros(100)));
        assert_eq!(span("0"), Some(Duration::ZERO));
        assert_eq!(span("0s"), Some(Duration::ZERO));
        assert_eq!(span("1h"), Some(Duration::from_secs(3_600)));
        for bad in ["", "5", "ms", "-1s", "+1s", "1 s", "1.5s", "1S", "1µ", "99999999999h", "é"] {
            assert_eq!(span(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn durations_are_written_in_the_largest_exact_unit() {
        let write = |nanos| Span(Duration::ZERO, Duration::MAX).write(&Duration::from_nanos(nanos));
        assert_eq!(write(0), "0");
        assert_eq!(write(1_500_000_000), "1500ms");
        assert_eq!(write(90_000_000_000), "90s");
        assert_eq!(write(7), "7ns");
        let huge = Span(Duration::ZERO, Duration::MAX).write(&Duration::MAX);
        assert!(huge.ends_with("ns"), "{huge}: out of every range, but no panic");
    }

    #[test]
    fn sizes_may_carry_a_unit() {
        let size = Size(0, usize::MAX);
        assert_eq!(size.parse("2MiB"), Some(2 << 20));
        assert_eq!(size.parse("65537"), Some(65_537));
        assert_eq!(size.parse("2MB"), None);
        assert_eq!(size.parse("99999999999GiB"), None);
        assert_eq!((size.write(&0), size.write(&(3 << 30))), ("0".into(), "3GiB".into()));
        assert_eq!((size.write(&1_025), size.write(&1_024)), ("1025".into(), "1KiB".into()));
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(parse_number("007"), Some(7));
        for bad in ["", "+7", "-7", "7 ", "7_000", "1e3", "٣", "18446744073709551616"] {
            assert_eq!(parse_number(bad), None, "{bad:?}");
        }
    }
}
