//! Where a consumer begins, and whether the place that it is to go on at is still there.

use std::time::UNIX_EPOCH;

use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use async_nats::jetstream::stream::{self, RetentionPolicy};

use super::plan::Plan;
use crate::subscription::{OnLost, Start};

impl Plan {
    /// Where a consumer begins that has no stored position.
    pub(super) fn start(&self, stream: &stream::Info) -> DeliverPolicy {
        match self.start {
            Start::Earliest => DeliverPolicy::All,
            Start::Latest => self.end(stream),
            Start::Position(position) => self.from(position),
            Start::At(time) => {
                let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
                match i128::try_from(since).map(async_nats::datetime::from_nanos) {
                    Ok(Ok(start_time)) => DeliverPolicy::ByStartTime { start_time },
                    // Later than any record will ever be.
                    _ => DeliverPolicy::New,
                }
            }
        }
    }

    /// Behind the last record, by its number: a consumer that begins at what is new cannot be made anew there, since
    /// until it is acknowledged to it does not tell where that was.
    fn end(&self, stream: &stream::Info) -> DeliverPolicy {
        match self.retention {
            // Begins nowhere else than at its first record, which the server says.
            RetentionPolicy::WorkQueue => DeliverPolicy::New,
            _ => self.from(stream.state.last_sequence.saturating_add(1)),
        }
    }

    /// The place that a consumer without a stored position begins at, where that is known.
    pub(super) fn place(&self) -> Option<u64> {
        match self.start {
            Start::Position(position) => Some(position),
            _ => None,
        }
    }

    /// A consumer was made: one that is made in its place begins there too, whatever was published since.
    pub(super) fn began(&mut self, info: &Info) {
        self.start = Start::Position(info.delivered.stream_sequence.saturating_add(1));
    }

    /// Where a consumer begins that goes on at `position`.
    pub(super) fn from(&self, position: u64) -> DeliverPolicy {
        match self.retention {
            // What is finished is there no more.
            RetentionPolicy::WorkQueue => DeliverPolicy::All,
            _ => DeliverPolicy::ByStartSequence { start_sequence: position.max(1) },
        }
    }

    /// Where it starts anew whose place is there no more; `None`: nowhere.
    pub(super) fn after_loss(&self, stream: &stream::Info) -> Option<Start> {
        match (self.on_lost, self.retention) {
            (OnLost::Stop, _) => None,
            (OnLost::Earliest, _) => Some(Start::Earliest),
            // Has no such place: see `end`.
            (OnLost::Latest, RetentionPolicy::WorkQueue) => Some(Start::Latest),
            (OnLost::Latest, _) => {
                Some(Start::Position(stream.state.last_sequence.saturating_add(1)))
            }
        }
    }

    /// Looks whether the stream is another than it was.
    pub(super) fn look_at(&mut self, stream: &stream::Info) {
        let before = self.made.replace(stream.created);
        self.made_anew |= before.is_some_and(|before| before != stream.created);
    }

    /// What is lost of a stream for one that goes on at `next`, in words.
    ///
    /// That something is missing at the stream's beginning is said only where that would have been ours: where the consumer
    /// [has the `whole` of it](Self::has_whole).
    pub(super) fn lost(&self, next: u64, stream: &stream::Info, whole: bool) -> Option<String> {
        let (first, last) = (stream.state.first_sequence, stream.state.last_sequence);
        let name = &stream.config.name;
        if self.made_anew {
            return Some(format!(
                "the position {next} is not in stream {name} any more: it was made anew"
            ));
        }
        if next > last.saturating_add(1) {
            return Some(format!(
                "the position {next} is not in stream {name} any more, which ends at {last}: it was made anew, or cut"
            ));
        }
        let gone = whole && next > 0 && next < first;
        gone.then(|| self.gone(next, first))
    }

    /// Whether every record of the stream is the consumer's to handle, and goes of it for no other reason than retention or
    /// somebody's hand: not since it was acknowledged, nor since a newer one has taken its place. What comes from elsewhere,
    /// out of other streams or by another subject, may be anything.
    ///
    /// A consumer that asks for more than its topic's own counts as having the whole, as long as nothing else has come.
    pub(super) fn has_whole(&self, stream: &stream::Config) -> bool {
        let config = &self.durable.config;
        let ours = |subject: &String| {
            config.filter_subject == *subject || config.filter_subjects.contains(subject)
        };
        let replaces = stream.max_messages_per_subject > 0 || stream.allow_rollup;
        let elsewhere = stream.mirror.is_some()
            || stream.sources.as_ref().is_some_and(|sources| !sources.is_empty())
            || stream.subject_transform.is_some();
        let all = !stream.subjects.is_empty() && stream.subjects.iter().all(ours);
        all && self.retention == RetentionPolicy::Limits && !replaces && !elsewhere
    }

    /// That the records from `next` on are gone of a stream that begins at `first`, in words.
    pub(super) fn gone(&self, next: u64, first: u64) -> String {
        format!(
            "records {next} to {} of stream {} are gone, and some of them may not have been handled: the stream begins at {first}",
            first.saturating_sub(1),
            self.durable.stream
        )
    }
}

/// The last record of the stream that a consumer counts as handled. Old servers do not say where it began until it is
/// first acknowledged to.
pub(super) fn floor(info: &Info) -> u64 {
    let begun = match info.config.deliver_policy {
        // Nothing was delivered: it stands where it began.
        _ if info.delivered.consumer_sequence == 0 => info.delivered.stream_sequence,
        DeliverPolicy::ByStartSequence { start_sequence } => start_sequence.saturating_sub(1),
        _ => 0,
    };
    info.ack_floor.stream_sequence.max(begun)
}
