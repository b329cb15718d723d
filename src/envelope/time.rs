//! A time stamp as the wire format carries it: an instant and the offset in which it is written.

use super::error::EnvelopeError;
use std::fmt;
use std::time::{Duration, SystemTime};

const DAY: i64 = 86_400;
/// 0001-01-01T00:00:00Z, in seconds since 1970.
const UNSET_SECONDS: i64 = -62_135_596_800;
/// The local seconds since 1970 of the first and the last second that four digits of year can write.
const WRITABLE: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// An instant in nanoseconds and the offset from UTC in which it is written.
///
/// Two time stamps are equal if both parts are. The order is by instant, then by offset.
///
/// ```
/// use keylane::Timestamp;
/// use std::time::{Duration, SystemTime};
///
/// let time = Timestamp::from_unix(1_754_627_696, 500_000_000).with_offset_minutes(480);
/// assert_eq!(time.to_string(), "2025-08-08T12:34:56.5+08:00");
/// assert_eq!(
///     time.to_system_time(),
///     Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_754_627_696_500))
/// );
/// assert_eq!(Timestamp::UNSET.to_string(), "0001-01-01T00:00:00Z");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
    offset_minutes: i16,
}

impl Timestamp {
    /// The time of an envelope whose time was never set: the first instant of the year 1, in UTC.
    pub const UNSET: Self = Self { seconds: UNSET_SECONDS, nanos: 0, offset_minutes: 0 };

    /// The instant `seconds` and `nanos` nanoseconds after 1970-01-01T00:00:00Z, written in UTC.
    ///
    /// Whole seconds among `nanos` are carried over.
    #[must_use]
    pub const fn from_unix(seconds: i64, nanos: u32) -> Self {
        const SECOND: u32 = 1_000_000_000;
        Self {
            seconds: seconds.saturating_add((nanos / SECOND) as i64),
            nanos: nanos % SECOND,
            offset_minutes: 0,
        }
    }

    /// Now, by the machine's clock, written in UTC.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The same instant, written `minutes` ahead of UTC.
    #[must_use]
    pub const fn with_offset_minutes(mut self, minutes: i16) -> Self {
        self.offset_minutes = minutes;
        self
    }

    /// Seconds since 1970-01-01T00:00:00Z, rounded down.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds since [`unix_seconds`](Self::unix_seconds), below a thousand million.
    #[must_use]
    pub const fn subsec_nanos(self) -> u32 {
        self.nanos
    }

    /// How many minutes ahead of UTC it is written.
    #[must_use]
    pub const fn offset_minutes(self) -> i16 {
        self.offset_minutes
    }

    /// The instant as the standard library has it, if it can be represented there.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let whole = Duration::from_secs(self.seconds.unsigned_abs());
        let second = if self.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(whole)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(whole)
        };
        second?.checked_add(Duration::from_nanos(self.nanos.into()))
    }

    /// Whether the format can write it.
    pub(super) fn check(self) -> Result<(), EnvelopeError> {
        match self.local_seconds() {
            Some(local) if WRITABLE.contains(&local) => {}
            _ => return Err(EnvelopeError::TimestampYear),
        }
        if self.offset_minutes.unsigned_abs() >= 24 * 60 {
            return Err(EnvelopeError::TimestampOffset);
        }
        Ok(())
    }

    fn local_seconds(self) -> Option<i64> {
        self.seconds.checked_add(i64::from(self.offset_minutes) * 60)
    }

    /// Appends the text of a time stamp that passed [`check`](Self::check).
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let local = self.local_seconds().unwrap_or(0);
        let (year, month, day) = civil_from_days(local.div_euclid(DAY));
        let second = local.rem_euclid(DAY);
        push_digits(out, year, 4);
        out.push(b'-');
        push_digits(out, month, 2);
        out.push(b'-');
        push_digits(out, day, 2);
        out.push(b'T');
        push_digits(out, second / 3600, 2);
        out.push(b':');
        push_digits(out, second / 60 % 60, 2);
        out.push(b':');
        push_digits(out, second % 60, 2);
        if self.nanos > 0 {
            out.push(b'.');
            push_digits(out, self.nanos.into(), 9);
            while out.last() == Some(&b'0') {
                out.pop();
            }
        }
        if self.offset_minutes == 0 {
            out.push(b'Z');
        } else {
            let minutes = i64::from(self.offset_minutes.unsigned_abs());
            out.push(if self.offset_minutes < 0 { b'-' } else { b'+' });
            push_digits(out, minutes / 60, 2);
            out.push(b':');
            push_digits(out, minutes % 60, 2);
        }
    }

    /// Reads a time stamp as the format's readers do: RFC 3339, but the fraction may follow a comma and have
    /// any number of digits (the tenth and later are cut), the hour may have one digit, and the offset
    /// may be up to 24 hours and 60 minutes.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut rest = Digits(text);
        let year = rest.fixed(4)?;
        rest.literal(b'-')?;
        let month = rest.fixed(2).filter(|month| (1..=12).contains(month))?;
        rest.literal(b'-')?;
        let day = rest.fixed(2).filter(|day| (1..=days_in(year, month)).contains(day))?;
        rest.literal(b'T')?;
        let hour = rest.one_or_two().filter(|&hour| hour < 24)?;
        rest.literal(b':')?;
        let minute = rest.fixed(2).filter(|&minute| minute < 60)?;
        rest.literal(b':')?;
        let second = rest.fixed(2).filter(|&second| second < 60)?;
        let nanos = rest.fraction();
        let offset_minutes = rest.offset()?;
        let local = days_from_civil(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
        Some(Self { seconds: local - i64::from(offset_minutes) * 60, nanos, offset_minutes })
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::UNSET
    }
}

impl From<SystemTime> for Timestamp {
    /// Written in UTC.
    fn from(time: SystemTime) -> Self {
        let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self::from_unix(seconds(after), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Self::from_unix(-seconds(before), 0),
                    nanos => Self::from_unix(-1 - seconds(before), 1_000_000_000 - nanos),
                }
            }
        }
    }
}

impl fmt::Display for Timestamp {
    /// As on the wire; seconds since 1970 if the wire has no form for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.check().is_err() {
            return write!(f, "{}s+{}ns since 1970", self.seconds, self.nanos);
        }
        let mut text = Vec::with_capacity(35);
        self.write(&mut text);
        f.pad(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is left of a text that is read from the front.
struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    fn fixed(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.0 = rest;
        Some(digits.iter().fold(0, |value, b| value * 10 + i64::from(b - b'0')))
    }

    fn one_or_two(&mut self) -> Option<i64> {
        self.fixed(2).or_else(|| self.fixed(1))
    }

    fn literal(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    /// Nanoseconds; zero, and nothing taken, unless a separator and a digit come first.
    fn fraction(&mut self) -> u32 {
        let [b'.' | b',', digits @ ..] = self.0 else { return 0 };
        let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return 0;
        }
        self.0 = &digits[count..];
        let digit = |at: usize| digits[..count].get(at).map_or(0, |b| u32::from(b - b'0'));
        (0..9).fold(0, |nanos, at| nanos * 10 + digit(at))
    }

    /// Minutes ahead of UTC, from the last part of the text.
    fn offset(mut self) -> Option<i16> {
        if self.0 == b"Z" {
            return Some(0);
        }
        let sign = match self.0.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return None,
        };
        self.0 = &self.0[1..];
        let hours = self.fixed(2).filter(|&hours| hours <= 24)?;
        self.literal(b':')?;
        let minutes = self.fixed(2).filter(|&minutes| minutes <= 60)?;
        let offset = i16::try_from(sign * (hours * 60 + minutes)).ok()?;
        self.0.is_empty().then_some(offset)
    }
}

fn push_digits(out: &mut Vec<u8>, value: i64, count: u32) {
    for place in (0..count).rev() {
        out.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a day of the proleptic Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last: then a month's first day is a linear
/// function of the month, rounded down.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let march_year = if month > 2 { year } else { year - 1 };
    let march_month = (month + 9) % 12;
    let leap_days =
        march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    march_year * 365 + leap_days + (153 * march_month + 2) / 5 + day - 1 - 719_468
}

/// The year, month and day of a day counted since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097); // of 400 years
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (year_of_era * 365 + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_the_writable_years_survives_the_calendar() {
        let (mut year, mut month, mut day) = (0, 1, 1);
        for days in WRITABLE.start() / DAY..=WRITABLE.end() / DAY {
            assert_eq!(civil_from_days(days), (year, month, day));
            assert_eq!(days_from_civil(year, month, day), days);
            day += 1;
            if day > days_in(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    #[test]
    fn system_time_survives_on_both_sides_of_1970() {
        for time in [
            SystemTime::UNIX_EPOCH,
            SystemTime::UNIX_EPOCH + Duration::from_nanos(1_754_627_696_123_456_789),
            SystemTime::UNIX_EPOCH - Duration::from_nanos(1),
            SystemTime::UNIX_EPOCH - Duration::from_nanos(3_000_000_000),
        ] {
            assert_eq!(Timestamp::from(time).to_system_time(), Some(time));
        }
    }
}
