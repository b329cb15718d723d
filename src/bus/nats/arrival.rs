//! What a pull brings: deliveries, each numbered by the server, and words of the server about the pull itself.

use async_nats::{Message, StatusCode, Subject};

/// The numbers that the server gives a delivery. They stand in the subject that it is acknowledged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Its place in the stream: the record's offset.
    pub(super) stream: u64,
    /// Its place among all deliveries of the consumer, without gaps.
    pub(super) consumer: u64,
    /// How often it was delivered, this time included.
    pub(super) delivered: u64,
    /// When it was stored, in nanoseconds since the Unix epoch.
    pub(super) timestamp: i64,
    /// What the consumer has not been sent yet.
    pub(super) pending: u64,
}

/// A record is delivered: its message is the one that was read.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) numbers: Numbers,
    /// Where it is acknowledged.
    pub(super) reply: Subject,
}

/// What came.
#[derive(Debug)]
pub(super) enum Arrival {
    Delivery(Delivery),
    /// The server is there, and has nothing.
    Heartbeat,
    /// A pull has ended; how much of it did not come.
    Ended {
        left: usize,
    },
    /// Nobody leads the consumer now, or it is not there.
    NoResponders,
    /// The consumer was deleted, or has been made another kind.
    Gone,
    /// Nothing that a pull can bring.
    Foreign,
}

impl Arrival {
    /// Reads a message that came to a pull's inbox.
    #[inline]
    pub(super) fn read(message: &mut Message, form: &mut Form) -> Self {
        // What is stored may say what a status says: it is a delivery all the same.
        let numbers = message.reply.as_deref().and_then(|reply| form.read(reply));
        if let (Some(numbers), Some(reply)) = (numbers, message.reply.take()) {
            return Self::Delivery(Delivery { numbers, reply });
        }
        Self::other(message)
    }

    /// Reads what is no delivery.
    #[cold]
    fn other(message: &Message) -> Self {
        match message.status {
            None => Self::Foreign,
            Some(StatusCode::IDLE_HEARTBEAT) => Self::Heartbeat,
            Some(StatusCode::NO_RESPONDERS) => Self::NoResponders,
            Some(StatusCode::REQUEST_TERMINATED)
                if message.description.as_deref().is_some_and(|text| {
                    let text = text.to_ascii_lowercase();
                    text.contains("consumer deleted") || text.contains("push based")
                }) =>
            {
                Self::Gone
            }
            // What the old leader had numbered may never have been sent: whoever took the gap for somebody else's doing would
            // stop where a cluster changes its mind three times.
            Some(StatusCode::REQUEST_TERMINATED)
                if message.description.as_deref().is_some_and(|text| {
                    text.to_ascii_lowercase().contains("leadership change")
                }) =>
            {
                Self::NoResponders
            }
            Some(_) => {
                let left = message.headers.as_ref().and_then(|headers| {
                    headers.get("Nats-Pending-Messages")?.as_str().parse().ok()
                });
                // Of one that does not say so nothing has come: it was refused.
                Self::Ended { left: left.unwrap_or(usize::MAX) }
            }
        }
    }
}

impl Numbers {
    /// How many tokens stand before the numbers.
    fn before(reply: &str) -> Option<usize> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        match rest.split('.').count() {
            7 => Some(4),
            9.. => Some(6),
            _ => None,
        }
    }

    /// Where a delivery with these numbers is acknowledged, if another of its consumer is acknowledged there.
    pub(super) fn reply_like(&self, other: &str) -> Option<Subject> {
        let before = Self::before(other)?;
        let own = [self.delivered, self.stream, self.consumer];
        let mut own = own.map(|number| number.to_string()).to_vec();
        own.extend([self.timestamp.to_string(), self.pending.to_string()]);
        let tokens = other.split('.').enumerate().map(|(at, token)| {
            at.checked_sub(before).and_then(|at| own.get(at)).map_or(token, String::as_str)
        });
        Some(tokens.collect::<Vec<_>>().join(".").into())
    }
}

/// What the subjects of a consumer's deliveries have in common: what stands before the numbers, and how many digits these
/// have, but for the last. The first is taken apart; of those like it only the digits are read.
#[derive(Debug, Default)]
pub(super) struct Form {
    before: Box<[u8]>,
    /// Where each number ends; the last where the subject does, but for what is behind it.
    ends: [usize; 4],
    behind: usize,
}

impl Form {
    /// Reads `$JS.ACK.STREAM.CONSUMER.DELIVERED.STREAM_SEQ.CONSUMER_SEQ.TIMESTAMP.PENDING`, or the longer form with a
    /// domain and an account before the stream's name, and perhaps a token more at the end.
    #[inline]
    fn read(&mut self, reply: &str) -> Option<Numbers> {
        match self.read_alike(reply.as_bytes()) {
            Some(numbers) => Some(numbers),
            None => self.learn(reply),
        }
    }

    /// Reads one that is like the last that was learned.
    #[inline]
    fn read_alike(&self, text: &[u8]) -> Option<Numbers> {
        let [delivered, stream, consumer, timestamp] = self.ends;
        let pending = text.len().checked_sub(self.behind)?;
        let dots = [delivered, stream, consumer, timestamp];
        let alike = text.starts_with(&self.before)
            && dots.iter().all(|dot| text.get(*dot) == Some(&b'.'))
            && (self.behind == 0 || text.get(pending) == Some(&b'.'));
        if !alike {
            return None;
        }
        let upper = digits(text, consumer + 1, timestamp.checked_sub(16)?)?;
        let lower = long(text, timestamp - 16, timestamp)?;
        // Of at most three digits, or `learn` would not have it.
        let timestamp_of = i64::try_from(upper * 10_000_000_000_000_000 + lower).ok()?;
        Some(Numbers {
            stream: long(text, delivered + 1, stream)?,
            consumer: long(text, stream + 1, consumer)?,
            delivered: digits(text, self.before.len(), delivered)?,
            timestamp: timestamp_of,
            pending: long(text, timestamp + 1, pending)?,
        })
    }

    #[cold]
    fn learn(&mut self, reply: &str) -> Option<Numbers> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let names = match rest.split('.').count() {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let mut dots = reply.match_indices('.').map(|(dot, _)| dot).skip(1 + names);
        let mut begin = dots.next()? + 1;
        let (before, mut numbers, mut ends) = (begin, [0; 5], [0; 5]);
        for (number, end) in numbers.iter_mut().zip(&mut ends) {
            *end = dots.next().unwrap_or(reply.len());
            *number = whole(reply.get(begin..*end)?)?;
            begin = *end + 1;
        }
        let [delivered, stream, consumer, timestamp, pending] = numbers;
        let numbers = Numbers {
            stream,
            consumer,
            delivered,
            timestamp: i64::try_from(timestamp).ok()?,
            pending,
        };
        let [ends @ .., last] = ends;
        // The dot and 19 digits: any time from 2001 to 2286.
        if ends[3] - ends[2] == 20 {
            *self = Self {
                before: reply.as_bytes()[..before].into(),
                ends,
                behind: reply.len() - last,
            };
        }
        Some(numbers)
    }
}

/// The number that a token is, in decimal digits alone.
fn whole(token: &str) -> Option<u64> {
    let all_digits = token.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| token.parse().ok()).flatten()
}

/// As `digits`, for up to sixteen.
#[inline(always)]
fn long(text: &[u8], begin: usize, end: usize) -> Option<u64> {
    match end.checked_sub(8) {
        Some(middle) if middle > begin => {
            Some(digits(text, begin, middle)? * 100_000_000 + digits(text, middle, end)?)
        }
        _ => digits(text, begin, end),
    }
}

/// The number from one place to another, one to eight digits; at least as many bytes stand before its end. Neighbours are put
/// together, then pairs of these, then all.
#[inline(always)]
fn digits(text: &[u8], begin: usize, end: usize) -> Option<u64> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let count = end.checked_sub(begin).filter(|count| (1..=8).contains(count))?;
    let word = u64::from_le_bytes(*text.get(..end)?.last_chunk()?);
    // What stands before them counts as zeros.
    let digits = (word ^ (EACH * 0x30)) & (u64::MAX << (64 - 8 * count));
    // A byte above 9 has a high bit, or gets one.
    if (digits | digits.wrapping_add(EACH * 0x76)) & (EACH * 0x80) != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let pick = 0x0000_00ff_0000_00ff;
    let outer = (pairs & pick).wrapping_mul(100 + (1_000_000 << 32));
    let inner = ((pairs >> 16) & pick).wrapping_mul(1 + (10_000 << 32));
    Some(outer.wrapping_add(inner) >> 32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READ: Numbers = Numbers {
        delivered: 2,
        stream: 31,
        consumer: 7,
        timestamp: 1_700_000_000_000_000_001,
        pending: 9,
    };

    fn read(reply: &str) -> Option<Numbers> {
        let told = naive(reply);
        assert_eq!(Form::default().read(reply), told, "{reply}");
        told
    }

    /// Token by token, without a memory.
    fn naive(reply: &str) -> Option<Numbers> {
        let rest: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let numbers = match rest.len() {
            7 => &rest[2..],
            9.. => &rest[4..9],
            _ => return None,
        };
        let all_digits = |token: &&str| token.bytes().all(|byte| byte.is_ascii_digit());
        let read = |at: usize| numbers.get(at).copied().filter(all_digits)?.parse::<u64>().ok();
        Some(Numbers {
            delivered: read(0)?,
            stream: read(1)?,
            consumer: read(2)?,
            timestamp: i64::try_from(read(3)?).ok()?,
            pending: read(4)?,
        })
    }

    proptest! {
        #[test]
        fn what_is_remembered_of_others_changes_nothing(
            replies in proptest::collection::vec(
                r"(\$JS\.ACK|\$JS)(\.(S|c|1)){2,4}(\.[0-9]{1,2}|\.[0-9:/]{7,20}){3,6}(\.|\.x|\.18446744073709551615|\.18446744073709551616)?",
                1..8,
            ),
        ) {
            let mut form = Form::default();
            for reply in &replies {
                prop_assert_eq!(form.read(reply), naive(reply), "{}", reply);
            }
        }
    }

    proptest! {
        /// Those of one consumer, which are alike, with a character changed here and there.
        #[test]
        fn of_those_alike_all_numbers_are_read(
            names in r"(S\.c|_\.acc\.S\.c|1\.1)",
            behind in r"(|\.x)",
            all in proptest::collection::vec(
                (1..12_u64, 0..3_000_u64, 0..40_u64, 0..i64::MAX as u64, 0..2_000_u64,
                    proptest::option::of((0..60_usize, r"[0-9.x:]"))),
                1..16,
            ),
            base in prop::sample::select(vec![0, 99_999_000, 9_999_999_999_000_u64, u64::MAX - 3_000]),
            time in prop::sample::select(vec![1_700_000_000_000_000_000, 999_999_999_999_000_000_u64, 9_223_372_036_854_000_000]),
        ) {
            let mut form = Form::default();
            for (delivered, stream, consumer, timestamp, pending, change) in all {
                let (stream, timestamp) = (base + stream, time + timestamp % 2_000_000_000_000_000);
                let mut reply =
                    format!("$JS.ACK.{names}.{delivered}.{stream}.{consumer}.{timestamp}.{pending}{behind}");
                if let Some((at, by)) = change.filter(|change| change.0 < reply.len()) {
                    reply.replace_range(at..=at, &by);
                }
                prop_assert_eq!(form.read(&reply), naive(&reply), "{}", reply);
                // And again: what has just been learned is read at once.
                prop_assert_eq!(form.read(&reply), naive(&reply), "{}", reply);
            }
        }
    }

    #[test]
    fn both_forms_of_the_subject_are_read() {
        let numbers = "2.31.7.1700000000000000001.9";
        assert_eq!(read(&format!("$JS.ACK.S.c.{numbers}")), Some(READ));
        assert_eq!(read(&format!("$JS.ACK._.acc.S.c.{numbers}")), Some(READ));
        assert_eq!(read(&format!("$JS.ACK.hub.acc.S.c.{numbers}.random")), Some(READ));
    }

    #[test]
    fn a_subject_is_made_as_others_are() {
        for form in ["$JS.ACK.S.c.N", "$JS.ACK._.acc.S.c.N", "$JS.ACK.hub.acc.S.c.N.random"] {
            let other = form.replace('N', "1.2.3.4.5");
            let own = form.replace('N', "2.31.7.1700000000000000001.9");
            assert_eq!(READ.reply_like(&other).as_deref(), Some(&*own));
        }
        assert_eq!(READ.reply_like("_INBOX.x"), None);
    }

    #[test]
    fn what_is_no_such_subject_is_not_taken_for_one() {
        for foreign in [
            "",
            "$JS.ACK",
            "$JS.ACK.S.c.1.2.3.4",
            "_INBOX.x",
            "$JS.ACK.S.c.1.x.3.4.5",
            "$JS.ACK.S.c.1.2.3.-4.5",
            "$JS.ACK.S.c.1.2.3.+4.5",
            "$JS.ACK.S.c.1..3.4.5",
            "$JS.ACK.S.c.1.2.3.4.18446744073709551616",
            "$JS.ACK.S.c.1.2.3.18446744073709551615.5",
        ] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn what_the_server_says_of_a_pull_is_told_apart() {
        let status = |code, text: &str| {
            let message = Message {
                subject: "_INBOX.1".into(),
                reply: None,
                payload: bytes::Bytes::new(),
                headers: None,
                status: StatusCode::from_u16(code).ok(),
                description: Some(text.to_owned()),
                length: 0,
            };
            format!("{:?}", Arrival::other(&message))
        };
        assert_eq!(status(100, "Idle Heartbeat"), "Heartbeat");
        assert_eq!(status(503, ""), "NoResponders");
        assert_eq!(status(409, "Consumer Deleted"), "Gone");
        assert_eq!(status(409, "Consumer is push based"), "Gone");
        assert_eq!(status(409, "Leadership Change"), "NoResponders");
        for (code, text) in [(408, "Request Timeout"), (409, "Batch Completed"), (404, "")] {
            assert_eq!(status(code, text), format!("Ended {{ left: {} }}", usize::MAX), "{text}");
        }
    }
}
