//! A server's version, and what servers since a version can do.

use std::fmt;

/// A server's version. What follows the three numbers (`-beta.1`) does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

impl Version {
    /// The version that `text` names (`2.15.1`, `v2.10.0-beta.3`). One that cannot be read is the oldest: nothing is
    /// taken for granted then.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = text.splitn(3, '.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part[..digits].parse().ok()
        });
        let mut next = || numbers.next().flatten();
        match (next(), next(), next()) {
            (Some(major), Some(minor), patch) => Self(major, minor, patch.unwrap_or(0)),
            _ => Self::default(),
        }
    }

    /// A consumer that is set back to its floor, by a request.
    pub(super) fn resets(self) -> bool {
        self >= Self(2, 14, 0)
    }

    /// Atomic batches, on streams that allow them.
    pub(super) fn batches(self) -> bool {
        self >= Self(2, 12, 0)
    }

    /// The oldest that is supported.
    pub(super) const OLDEST: Self = Self(2, 9, 0);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(Version::parse("2.15.1"), Version(2, 15, 1));
        assert_eq!(Version::parse("v2.10.0-beta.3"), Version(2, 10, 0));
        assert_eq!(Version::parse("2.9"), Version(2, 9, 0));
        for unreadable in ["", "x", "2", "2.x.1", "99999999999.1.1", "-1.2.3", "é.1.1"] {
            assert_eq!(Version::parse(unreadable), Version::default(), "{unreadable:?}");
        }
        assert!(Version::parse("2.9.10") < Version::parse("2.10.0"), "numbers, not text");
        assert_eq!(Version::parse("2.9.10").to_string(), "2.9.10");
    }

    #[test]
    fn what_a_server_can_do_follows_its_version() {
        let can = |text: &str| {
            let version = Version::parse(text);
            [version >= Version::OLDEST, version.batches(), version.resets()]
        };
        assert_eq!(can("2.8.4"), [false; 3]);
        assert_eq!(can("2.9.10"), [true, false, false]);
        assert_eq!(can("2.12.8"), [true, true, false]);
        assert_eq!(can("2.14.0"), [true; 3]);
        assert_eq!(can("2.15.1"), [true; 3]);
    }
}
