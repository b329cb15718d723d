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

/// One record, delivered.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) numbers: Numbers,
    /// Where it is acknowledged.
    pub(super) reply: Subject,
    pub(super) message: Message,
}

/// What came.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are deliveries: a box for each would cost more"
)]
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
    pub(super) fn read(mut message: Message, form: &mut Form) -> Self {
        // What is stored may say what a status says: it is a delivery all the same.
        let numbers = message.reply.as_deref().and_then(|reply| form.read(reply));
        if let (Some(numbers), Some(reply)) = (numbers, message.reply.take()) {
            return Self::Delivery(Delivery { numbers, reply, message });
        }
        Self::other(&message)
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

    /// Reads the numbers at the beginning of `text`. Something may stand behind them only if the form is the longer one.
    #[inline]
    fn at(text: &[u8], longer: bool) -> Option<Self> {
        let (delivered, end) = number(text, 0)?;
        let (stream, end) = number(text, behind_dot(text, end)?)?;
        let (consumer, end) = number(text, behind_dot(text, end)?)?;
        let (timestamp, end) = number(text, behind_dot(text, end)?)?;
        let (pending, end) = number(text, behind_dot(text, end)?)?;
        let timestamp = i64::try_from(timestamp).ok()?;
        let whole = end == text.len() || longer && behind_dot(text, end).is_some();
        whole.then_some(Self { stream, consumer, delivered, timestamp, pending })
    }
}

/// What stands before the numbers in the subjects of a consumer's deliveries. It is the same in all of them, so it is
/// taken apart once.
#[derive(Debug, Default)]
pub(super) struct Form {
    before: Box<[u8]>,
    /// Whether it is the longer form.
    longer: bool,
}

impl Form {
    /// Reads `$JS.ACK.STREAM.CONSUMER.DELIVERED.STREAM_SEQ.CONSUMER_SEQ.TIMESTAMP.PENDING`, or the longer form with a
    /// domain and an account before the stream's name, and perhaps a token more at the end.
    #[inline]
    fn read(&mut self, reply: &str) -> Option<Numbers> {
        let known = reply.as_bytes().strip_prefix(&*self.before);
        match known.filter(|numbers| !numbers.is_empty() && !self.before.is_empty()) {
            Some(numbers) => Numbers::at(numbers, self.longer).or_else(|| self.learn(reply)),
            None => self.learn(reply),
        }
    }

    #[cold]
    fn learn(&mut self, reply: &str) -> Option<Numbers> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let (longer, names) = match rest.split('.').count() {
            7 => (false, 2),
            9.. => (true, 4),
            _ => return None,
        };
        let before = rest.match_indices('.').nth(names - 1)?.0 + "$JS.ACK.".len() + 1;
        let (before, numbers) = reply.as_bytes().split_at_checked(before)?;
        let numbers = Numbers::at(numbers, longer)?;
        *self = Self { before: before.into(), longer };
        Some(numbers)
    }
}

/// Digits that any number of so many fits with.
const SAFE: usize = 19;
/// The powers of ten that up to eight digits stand before.
const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Where a token begins, if the last has ended at a dot.
#[inline]
fn behind_dot(text: &[u8], end: usize) -> Option<usize> {
    (text.get(end) == Some(&b'.')).then_some(end + 1)
}

/// The number that begins at `from`, in decimal digits alone, and where they end.
#[inline]
fn number(text: &[u8], from: usize) -> Option<(u64, usize)> {
    let (mut number, mut end) = (0_u64, from);
    loop {
        let (digits, count) = digits(word(text, end));
        number = number.wrapping_mul(POWERS[count]).wrapping_add(digits);
        end += count;
        if count < 8 {
            break;
        }
    }
    match end - from {
        0 => None,
        1..=SAFE => Some((number, end)),
        _ => Some((std::str::from_utf8(text.get(from..end)?).ok()?.parse().ok()?, end)),
    }
}

/// The eight characters from there on; behind the end there is none.
#[inline]
fn word(text: &[u8], from: usize) -> u64 {
    let left = text.get(from..).unwrap_or_default();
    if let Some(eight) = left.first_chunk() {
        return u64::from_le_bytes(*eight);
    }
    match text.last_chunk() {
        Some(eight) if !left.is_empty() => u64::from_le_bytes(*eight) >> (8 * (8 - left.len())),
        _ => left.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// How many of eight characters are digits, up to the first that is none, and the number that they are: neighbours are put
/// together, then pairs of these, then all.
#[inline]
fn digits(text: u64) -> (u64, usize) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let digits = text ^ (EACH * 0x30);
    // A byte above 9 has a high bit, or gets one; what it carries over spoils only what is behind it.
    let others = (digits | digits.wrapping_add(EACH * 0x76)) & (EACH * 0x80);
    let count = (others.trailing_zeros() / 8) as usize;
    // With zeros before it; two shifts, since it may be none.
    let rest = 8 * (8 - count) as u32;
    let digits = digits << (rest / 2) << (rest - rest / 2);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let pick = 0x0000_00ff_0000_00ff;
    let outer = (pairs & pick).wrapping_mul(100 + (1_000_000 << 32));
    let inner = ((pairs >> 16) & pick).wrapping_mul(1 + (10_000 << 32));
    (outer.wrapping_add(inner) >> 32, count)
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
}
