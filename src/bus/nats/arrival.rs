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
pub(super) enum Arrival {
    Delivery(Box<Delivery>),
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
    pub(super) fn read(mut message: Message) -> Self {
        // What is stored may say what a status says: it is a delivery all the same.
        let numbers = message.reply.as_deref().and_then(Numbers::read);
        if let (Some(numbers), Some(reply)) = (numbers, message.reply.take()) {
            return Self::Delivery(Box::new(Delivery { numbers, reply, message }));
        }
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

    /// Reads `$JS.ACK.STREAM.CONSUMER.DELIVERED.STREAM_SEQ.CONSUMER_SEQ.TIMESTAMP.PENDING`, or the longer form with a
    /// domain and an account before the stream's name, and perhaps a token more at the end.
    fn read(reply: &str) -> Option<Self> {
        // By bytes, since every delivery is read: searching text for dots costs several times as much.
        let rest = reply.strip_prefix("$JS.ACK.")?.as_bytes();
        let before = match rest.iter().filter(|byte| **byte == b'.').count() {
            6 => 2,
            8.. => 4,
            _ => return None,
        };
        let mut tokens = rest.split(|byte| *byte == b'.').skip(before);
        let mut number = || digits(tokens.next()?);
        Some(Self {
            delivered: number()?,
            stream: number()?,
            consumer: number()?,
            timestamp: i64::try_from(number()?).ok()?,
            pending: number()?,
        })
    }
}

/// A number in decimal digits alone.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const READ: Numbers = Numbers {
        delivered: 2,
        stream: 31,
        consumer: 7,
        timestamp: 1_700_000_000_000_000_001,
        pending: 9,
    };

    #[test]
    fn both_forms_of_the_subject_are_read() {
        let numbers = "2.31.7.1700000000000000001.9";
        assert_eq!(Numbers::read(&format!("$JS.ACK.S.c.{numbers}")), Some(READ));
        assert_eq!(Numbers::read(&format!("$JS.ACK._.acc.S.c.{numbers}")), Some(READ));
        assert_eq!(Numbers::read(&format!("$JS.ACK.hub.acc.S.c.{numbers}.random")), Some(READ));
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
            assert_eq!(Numbers::read(foreign), None, "{foreign}");
        }
    }
}
