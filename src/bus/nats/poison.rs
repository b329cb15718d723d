//! Messages that the client library cannot read.
//!
//! It takes a message whose headers are not UTF-8, or not what it takes for headers, as the connection's end. The server
//! delivers that message again on the next connection, and so on for ever. So:
//!
//! 1. **Found.** Where a second cut finds us at the place of the first, the records behind that place are read one by one
//!    with `STREAM.MSG.GET`, whose answer is JSON and hurts nobody, until one is unreadable by the library's own rules. A
//!    cut that had another reason costs these look-ups and nothing else.
//! 2. **Taken.** It becomes a record that no handler is called for: it has its place, what can be read of its headers, the
//!    raw bytes of the rest, and its key if that is among what can be read, and fails for good.
//! 3. **Passed by.** How depends on who remembers what is handled.
//!    - *Each and Floor, every retention and version.* The usual barrier comes first, so all above the floor comes again;
//!      as long as something unreadable is known to be ahead, records are asked for one at a time. So the cut that it
//!      causes can lose nothing else, and this is checked: if the server has delivered exactly one record more than we
//!      have taken, and it is that one, then nothing is missing, we go on behind it without another barrier, and the
//!      record is acknowledged by its place like any other when it is finished. If the server says anything else, the
//!      barrier is made again. Nothing is acknowledged or deleted before it is finished: a crash at any point leaves it,
//!      and all else, unacknowledged. A later barrier below it meets it again, and knows it.
//!    - *Checkpoint.* Nothing comes again of itself: the next consumer begins behind it. Until it is finished the
//!      checkpoint says so.

use std::collections::BTreeSet;
use std::str::FromStr;

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, HeaderName, StatusCode, Subject};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::headers;
use super::link::{Link, Refused};
use super::topic::Topic;
use crate::bus::{BrokerError, BrokerErrorKind};
use crate::envelope::Timestamp;
use crate::record::Record;

/// The most places that are known at once. One that was forgotten is found again.
const KNOWN: usize = 1_024;
/// How many records are read in search of one, after a second cut at the same place.
const SEARCH: usize = 2_000;
/// And after any cut, where there was one before.
const GLANCE: usize = 16;
/// Where lines stand that are no headers at all.
const UNREADABLE: &str = "kl-unreadable";

/// What is known of records that cannot be read, and of the cuts that they cause.
#[derive(Debug, Default)]
pub(super) struct Poisons {
    known: BTreeSet<u64>,
    /// The last place that was taken since the barrier.
    last: u64,
    /// The connection that was the last.
    connects: Option<u64>,
    /// Where some delivery of the consumer is acknowledged.
    reply: Option<Subject>,
    /// The newest delivery at the last cut, and how many cuts in a row found that.
    cut: Option<(Option<u64>, usize)>,
}

impl Poisons {
    /// A barrier has begun. How many records are to be looked at; `None` if there was no cut.
    pub(super) fn notice(&mut self, connects: u64, newest: Option<u64>) -> Option<usize> {
        let before = self.connects.replace(connects)?;
        if before == connects {
            return None;
        }
        let times = match self.cut {
            Some((place, times)) if place == newest => times + 1,
            _ => 1,
        };
        self.cut = Some((newest, times));
        Some(match times {
            1 if self.known.is_empty() => 0,
            1 => GLANCE,
            _ => SEARCH,
        })
    }

    /// Everything above `floor` comes again.
    pub(super) fn begin(&mut self, floor: u64) {
        self.known = self.known.split_off(&floor.saturating_add(1));
        self.last = floor;
    }

    /// Something that cannot be read stands there. False if that was known.
    pub(super) fn add(&mut self, place: u64) -> bool {
        if !self.known.insert(place) {
            return false;
        }
        while self.known.len() > KNOWN {
            self.known.pop_first();
        }
        true
    }

    /// A delivery was taken, which is acknowledged there.
    pub(super) fn took(&mut self, place: u64, reply: &Subject) {
        self.last = place;
        if self.reply.is_none() {
            self.reply = Some(reply.clone());
        }
    }

    /// Where some delivery of the consumer is acknowledged, if there was one.
    pub(super) fn reply(&self) -> Option<&Subject> {
        self.reply.as_ref()
    }

    /// The first that is known to come.
    pub(super) fn ahead(&self) -> Option<u64> {
        self.known.range(self.last.saturating_add(1)..).next().copied()
    }

    /// Those that are known.
    pub(super) fn known(&self) -> impl Iterator<Item = u64> {
        self.known.iter().copied()
    }
}

/// A message as the stream holds it.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) place: u64,
    pub(super) subject: String,
    headers: Vec<u8>,
    payload: Bytes,
    pub(super) timestamp: i64,
}

#[derive(Deserialize)]
struct Answer {
    message: Told,
}

#[derive(Deserialize)]
struct Told {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

impl Raw {
    /// The first message of the stream at `from` or behind it that one of the filters takes.
    pub(super) async fn next(
        control: &Link,
        stream: &str,
        filters: &[&str],
        from: u64,
    ) -> Result<Option<Self>, BrokerError> {
        let mut first: Option<Self> = None;
        for filter in filters {
            let wanted = json!({ "seq": from, "next_by_subj": filter });
            let found = Self::ask(control, stream, &wanted).await?;
            let sooner =
                |found: &Self| first.as_ref().is_none_or(|first| found.place < first.place);
            if let Some(found) = found.filter(sooner) {
                first = Some(found);
            }
        }
        Ok(first)
    }

    /// What the last message of a subject holds.
    pub(super) async fn last(
        control: &Link,
        stream: &str,
        subject: &str,
    ) -> Result<Option<Bytes>, BrokerError> {
        let wanted = json!({ "last_by_subj": subject });
        Ok(Self::ask(control, stream, &wanted).await?.map(|found| found.payload))
    }

    async fn ask(
        control: &Link,
        stream: &str,
        wanted: &serde_json::Value,
    ) -> Result<Option<Self>, BrokerError> {
        match control.ask::<Answer>(&format!("STREAM.MSG.GET.{stream}"), wanted).await {
            Ok(answer) => answer.message.read().map(Some),
            Err(Refused::Api(code, _)) if code == ErrorCode::NO_MESSAGE_FOUND.0 => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Why the client library cannot read it, if that is so.
    pub(super) fn complaint(&self) -> Option<&'static str> {
        // What is no character comes as this one.
        if self.subject.contains(char::REPLACEMENT_CHARACTER) {
            return Some("its subject is not UTF-8");
        }
        if self.headers.is_empty() {
            return None;
        }
        if self.subject.contains(char::is_whitespace) {
            return Some("its subject contains white space");
        }
        match std::str::from_utf8(&self.headers) {
            Ok(_) => Lines::read(&self.headers).complaint,
            Err(_) => Some("its headers are not UTF-8"),
        }
    }

    /// The record that fails for good, and says why.
    pub(super) fn record(&self, topic: &Topic) -> Record {
        let lines = Lines::read(&self.headers);
        let record = headers::record(topic, &self.subject, Some(&lines.wire), &self.payload);
        lines.rest.iter().fold(record, |record, (name, value)| record.with_header(name, value))
    }
}

impl Told {
    fn read(self) -> Result<Raw, BrokerError> {
        let failed = |what| {
            let text = format!("the {what} of record {} cannot be read", self.seq);
            BrokerError::new(BrokerErrorKind::Failed, text)
        };
        let bytes = |text: &str, what| BASE64_STANDARD.decode(text).map_err(|_| failed(what));
        let (headers, payload) = (bytes(&self.hdrs, "headers")?, bytes(&self.data, "payload")?);
        let time = Timestamp::parse(self.time.as_bytes()).ok_or_else(|| failed("time"))?;
        let nanos =
            i128::from(time.unix_seconds()) * 1_000_000_000 + i128::from(time.subsec_nanos());
        let timestamp = i64::try_from(nanos).map_err(|_| failed("time"))?;
        let (place, subject) = (self.seq, self.subject);
        Ok(Raw { place, subject, headers, payload: payload.into(), timestamp })
    }
}

/// A block of headers, as far as it is one.
#[derive(Default)]
struct Lines {
    wire: HeaderMap,
    /// What is not UTF-8, or no header, by name.
    rest: Vec<(String, Vec<u8>)>,
    complaint: Option<&'static str>,
}

impl Lines {
    /// Reads line by line, by the rules of the client library.
    fn read(block: &[u8]) -> Self {
        let mut read = Self::default();
        let mut lines = block
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .peekable();
        read.version(lines.next().unwrap_or_default());
        while let Some(line) = lines.next() {
            let mut line = line.to_vec();
            while let Some(more) = lines.next_if(|next| is_continued(next)) {
                line.extend_from_slice(more);
            }
            if !line.is_empty() {
                read.header(&line);
            }
        }
        read
    }

    fn version(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let status = match line.strip_prefix(b"NATS/1.0").map(std::str::from_utf8) {
            Some(Ok(rest)) => rest.trim().split(' ').next().unwrap_or_default(),
            _ => return self.refuse(line, "its headers do not begin with `NATS/1.0`"),
        };
        if !status.is_empty() && status.parse::<StatusCode>().is_err() {
            self.refuse(line, "its headers begin with a status that is none");
        }
    }

    fn header(&mut self, line: &[u8]) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        let name = std::str::from_utf8(name).ok().and_then(|name| HeaderName::from_str(name).ok());
        match (name, value) {
            (Some(name), Some(value)) => match std::str::from_utf8(value) {
                Ok(value) => self.wire.append(name, value.trim()),
                Err(_) => self.rest.push((name.to_string(), value.trim_ascii().to_vec())),
            },
            (None, Some(_)) => self.refuse(line, "the name of a header is none"),
            (_, None) => self.refuse(line, "a header has no value"),
        }
    }

    fn refuse(&mut self, line: &[u8], complaint: &'static str) {
        self.rest.push((UNREADABLE.to_owned(), line.to_vec()));
        self.complaint.get_or_insert(complaint);
    }
}

/// Whether a line belongs to the one before it.
fn is_continued(line: &[u8]) -> bool {
    String::from_utf8_lossy(line).starts_with(char::is_whitespace)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bus::nats::topic_options::TopicOptions;

    fn raw(subject: &str, headers: &[u8]) -> Raw {
        let (subject, headers) = (subject.to_owned(), headers.to_vec());
        Raw { place: 1, subject, headers, payload: Bytes::from_static(b"p"), timestamp: 0 }
    }

    #[test]
    fn what_the_library_cannot_read_is_said() {
        for fine in [
            &b""[..],
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0 503\r\nA: b\r\n c\r\n\r\n",
            "NATS/1.0\r\nA: \u{fc}\r\nA:\r\n\r\n".as_bytes(),
        ] {
            assert_eq!(raw("orders", fine).complaint(), None, "{}", fine.escape_ascii());
        }
        for (block, why) in [
            (&b"NATS/1.0\r\nA: \xff\r\n\r\n"[..], "UTF-8"),
            (b"NATS/2.0\r\nA: b\r\n\r\n", "begin with"),
            (b"NATS/1.0 many\r\n\r\n", "status"),
            (b"NATS/1.0\r\nA b: c\r\n\r\n", "name"),
            (b"NATS/1.0\r\nA\r\n\r\n", "no value"),
        ] {
            let complaint = raw("orders", block).complaint().unwrap();
            assert!(complaint.contains(why), "{complaint}");
        }
        assert!(raw("orders.\u{fffd}", b"").complaint().is_some());
        assert!(raw("orders.\u{a0}", b"").complaint().is_none());
        assert!(raw("orders.\u{a0}", b"NATS/1.0\r\n\r\n").complaint().is_some());
    }

    #[test]
    fn a_record_has_what_can_be_read_and_the_bytes_of_the_rest() {
        let block =
            b"NATS/1.0\r\nX-Aggregate-ID: k1\r\nBad: a\xffb\r\nodd line\r\nGood: \xc3\xbc\r\n\r\n";
        let topic = Topic::with("orders", TopicOptions::plain()).unwrap();
        let record = raw("orders", block).record(&topic);
        assert_eq!(record.header("X-Aggregate-ID"), Some(&b"k1"[..]));
        assert_eq!(record.header("Bad"), Some(&b"a\xffb"[..]));
        assert_eq!(record.header("Good"), Some("\u{fc}".as_bytes()));
        assert_eq!(record.header(UNREADABLE), Some(&b"odd line"[..]));
        assert_eq!(record.payload(), b"p");
    }

    #[test]
    fn the_second_cut_at_a_place_is_one_too_many() {
        let mut poisons = Poisons::default();
        assert_eq!(poisons.notice(1, None), None);
        assert_eq!(poisons.notice(1, None), None, "another barrier, the same connection");
        assert_eq!(poisons.notice(2, Some(7)), Some(0));
        assert_eq!(poisons.notice(3, Some(8)), Some(0), "something came");
        assert_eq!(poisons.notice(4, Some(8)), Some(SEARCH));
        poisons.add(9);
        assert_eq!(poisons.notice(5, Some(9)), Some(GLANCE));
    }

    #[test]
    fn what_is_ahead_is_above_what_was_taken() {
        let mut poisons = Poisons::default();
        [9, 4, 12].into_iter().for_each(|place| _ = poisons.add(place));
        poisons.begin(4);
        assert_eq!(poisons.ahead(), Some(9));
        poisons.took(9, &"r".into());
        assert_eq!(poisons.ahead(), Some(12));
        poisons.begin(8);
        assert_eq!((poisons.ahead(), poisons.known().count()), (Some(9), 2));
        (20..20 + 2 * KNOWN as u64).for_each(|place| _ = poisons.add(place));
        assert_eq!(poisons.known().count(), KNOWN);
    }
}
