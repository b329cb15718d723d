//! Where a durable consumer stood when it was last looked at, and in which stream.
//!
//! A durable's position is the server's, and goes the server's ways: it is gone with its stream, a purge moves it, and an
//! older copy of a stream may bring an older one. By what is kept beside it the next start learns of all three.

use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream;

use super::floors::Floors;
use super::place::floor;
use crate::bus::BrokerError;
use crate::clock::Time;
use crate::reply::Reply;

/// What is kept of one durable consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// When the stream was made, and when the durable was: nanoseconds since 1970.
    pub(super) made: u128,
    pub(super) durable: u128,
    /// Everything below is handled.
    pub(super) place: u64,
    /// The number of the delivery of that place, or a lower one. 0: not all of the stream is the consumer's, and what it
    /// passes over may have been anybody's.
    pub(super) number: u64,
    /// When it was written; 0 before that.
    pub(super) at: u128,
}

/// Acknowledgements that came later than so many nanoseconds behind a mark are not ours, or of a life without marks: what
/// they took the durable over, and how it was counted since, is not known.
const OURS: u128 = 10_000_000_000;

impl Mark {
    /// As text, with the stream's name.
    pub(super) fn encode(&self, stream: &str) -> String {
        let Self { made, durable, place, number, at } = self;
        format!("{stream} {made} {durable} {place} {number} {at}")
    }

    /// Reads it, if it is of a stream of this name.
    pub(super) fn decode(text: &[u8], stream: &str) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        words.next().filter(|name| *name == stream)?;
        let (made, durable) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (place, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let at = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { made, durable, place, number, at })
    }

    /// Whether the stream is another than it was.
    pub(super) fn is_of_another(&self, stream: &stream::Info) -> bool {
        self.made != nanos(stream.created)
    }

    /// Whether the place is lost. `info`: the durable, if it is there; `whole`: all of the stream is its.
    pub(super) fn is_lost(&self, stream: &stream::Info, info: Option<&Info>, whole: bool) -> bool {
        let state = &stream.state;
        let ends_before = self.place > state.last_sequence.saturating_add(1);
        let gone = || {
            let passed_by = info.is_some_and(|info| self.was_passed_by(info));
            whole && self.place < state.first_sequence && passed_by
        };
        !info.is_some_and(|info| self.is_behind(info))
            && (self.is_of_another(stream) || ends_before || gone())
    }

    /// Whether somebody has begun another life since, with a durable of its own that has come to a place: that one counts.
    fn is_behind(&self, info: &Info) -> bool {
        self.durable != nanos(info.created) && info.ack_floor.consumer_sequence > 0
    }

    /// Whether the durable has come further than deliveries took it: a purge moves it and counts none. How far it came by
    /// deliveries, ours or somebody else's, is its own affair, and so is one that was made anew or began to count anew.
    fn was_passed_by(&self, info: &Info) -> bool {
        let further = (floor(info) + 1).checked_sub(self.place);
        let acknowledged = (info.ack_floor.consumer_sequence + 1).checked_sub(self.number);
        let ours = info.ack_floor.last_active.is_none_or(|last| nanos(last) <= self.at + OURS);
        let known = ours && self.number > 0 && self.durable == nanos(info.created);
        known && matches!((further, acknowledged), (Some(further), Some(by)) if further > by)
    }
}

/// The mark of one consumer.
#[derive(Default)]
pub(super) struct Marks {
    /// Whether it was looked what there is of an earlier life.
    pub(super) looked: bool,
    /// What there was, until the consumer has begun.
    pub(super) found: Option<Mark>,
    /// When the durable was made, and the place behind its floor, as of the last barrier; 0: it has none.
    pub(super) durable: u128,
    pub(super) behind: u64,
    /// The number of the newest delivery that the source has taken.
    pub(super) newest: u64,
    /// When the stream was made, once the consumer has begun.
    pub(super) made: Option<u128>,
    pub(super) written: Option<Mark>,
    pub(super) writing: Option<(Mark, Reply<Result<Floors, BrokerError>>)>,
    /// The bucket, once something was written to it.
    pub(super) floors: Option<Floors>,
    pub(super) due: Time,
    /// Whether it was said that it cannot be kept.
    pub(super) said: bool,
}

impl Marks {
    /// The durable stands like this.
    pub(super) fn stands(&mut self, info: &Info) {
        let floor = floor(info);
        self.durable = nanos(info.created);
        self.behind = if floor > 0 { floor + 1 } else { 0 };
    }
}

pub(super) fn nanos(time: DateTime) -> u128 {
    SystemTime::from(time).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MARK: Mark = Mark { made: 1_000, durable: 2_000, place: 9, number: 4, at: 3_000 };

    fn time(nanos: u64) -> String {
        format!("1970-01-01T00:00:00.{nanos:09}Z")
    }

    fn stream(made: u64, first: u64, last: u64) -> stream::Info {
        serde_json::from_value(serde_json::json!({
            "config": { "name": "s", "retention": "limits", "max_consumers": 0, "max_msgs": 0, "max_bytes": 0,
                "discard": "old", "max_age": 0, "storage": "file", "num_replicas": 1 },
            "created": time(made),
            "state": { "messages": 0, "bytes": 0, "first_seq": first, "last_seq": last, "consumer_count": 1,
                "first_ts": time(0), "last_ts": time(0) },
        }))
        .unwrap()
    }

    /// Delivered and acknowledged up to `place`, by the delivery `number`.
    fn durable(made: u64, place: u64, number: u64) -> Info {
        let at = serde_json::json!({ "consumer_seq": number, "stream_seq": place });
        serde_json::from_value(serde_json::json!({
            "stream_name": "s", "name": "d", "created": time(made), "delivered": at, "ack_floor": at,
            "config": { "deliver_policy": "all", "ack_policy": "explicit" },
            "num_ack_pending": 0, "num_redelivered": 0, "num_waiting": 0, "num_pending": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        assert_eq!(Mark::decode(MARK.encode("s").as_bytes(), "s"), Some(MARK));
        assert_eq!(Mark::decode(MARK.encode("another").as_bytes(), "s"), None);
        for text in
            ["", "s", "s 1 2 3 4", "s 1 2 3 4 5 6", "s 1 2 3 4 x", "s 1 2 -3 4 5", " 1 2 3 4 5"]
        {
            assert_eq!(Mark::decode(text.as_bytes(), "s"), None, "{text:?}");
        }
    }

    #[test]
    fn another_life_since_is_no_loss() {
        // Its durable is another, and has come to a place, be it in another stream of the name.
        let new = stream(1_001, 50, 60);
        assert!(!MARK.is_lost(&new, Some(&durable(2_500, 55, 40)), true));
        assert!(!MARK.is_lost(&stream(1_000, 1, 5), Some(&durable(2_500, 5, 5)), true));
        // One that has not come to any says nothing.
        assert!(MARK.is_lost(&new, Some(&durable(2_500, 0, 0)), true));
    }

    #[test]
    fn acknowledgements_long_after_the_mark_are_of_another_life() {
        let gone = stream(1_000, 13, 12);
        let mut info = durable(2_000, 12, 3);
        let at = |nanos: u128| Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos as u64));
        for (last, lost) in [(3_000, true), (3_000 + OURS, true), (3_001 + OURS, false)] {
            info.ack_floor.last_active = at(last).map(DateTime::from);
            assert_eq!(MARK.is_lost(&gone, Some(&info), true), lost, "{last}");
        }
    }

    #[test]
    fn another_stream_and_one_that_was_cut_are_lost() {
        let at_the_end = durable(2_000, 8, 3);
        for whole in [true, false] {
            assert!(!MARK.is_lost(&stream(1_000, 9, 8), Some(&at_the_end), whole));
            assert!(!MARK.is_lost(&stream(1_000, 1, 20), None, whole));
            assert!(MARK.is_lost(&stream(1_001, 1, 20), None, whole), "made anew");
            assert!(MARK.is_lost(&stream(1_000, 1, 7), Some(&at_the_end), whole), "cut");
        }
    }

    #[test]
    fn a_purge_is_lost_where_the_stream_is_the_consumers() {
        let purged = stream(1_000, 13, 12);
        assert!(MARK.is_lost(&purged, Some(&durable(2_000, 12, 3)), true));
        assert!(MARK.is_lost(&purged, Some(&durable(2_000, 12, 6)), true), "one of four");
        assert!(!MARK.is_lost(&purged, Some(&durable(2_000, 12, 3)), false), "not all is its");
        assert!(!MARK.is_lost(&stream(1_000, 9, 12), Some(&durable(2_000, 12, 3)), true), "there");
        let mixed = Mark { number: 0, ..MARK };
        assert!(!mixed.is_lost(&purged, Some(&durable(2_000, 12, 3)), true));
    }

    #[test]
    fn how_far_deliveries_took_the_durable_is_no_loss() {
        let gone = stream(1_000, 13, 12);
        for acknowledged in [7, 8, 70] {
            assert!(!MARK.is_lost(&gone, Some(&durable(2_000, 12, acknowledged)), true));
        }
        assert!(!MARK.is_lost(&gone, Some(&durable(2_001, 12, 3)), true), "another durable");
        assert!(!MARK.is_lost(&gone, Some(&durable(2_000, 12, 1)), true), "it counts anew");
        assert!(
            !MARK.is_lost(&gone, None, true),
            "it was deleted: the subscription's start counts"
        );
    }
}
