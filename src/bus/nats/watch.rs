//! Whether a stream has lost what its consumer was not sent yet, noticed while that runs.
//!
//! The server passes over what is gone without a word. Where every record of the stream is the consumer's, a place that is
//! passed over is a hole in the stream, and the server is asked what it was: a record that somebody has deleted, or the
//! stream's beginning, which has come this far. While nothing is asked for, nobody is sent anything that would show it:
//! then it is asked once in a while.
//!
//! A delivery that went to somebody else is missing before the next one. Where there is none the server is asked how many it
//! has delivered.

use std::time::Duration;

use async_nats::datetime::DateTime;

use super::arrival::Numbers;
use crate::clock::Time;

/// How often it is asked while nothing is asked for.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two questions about holes: those that come faster are not waited for.
const APART: Duration = Duration::from_millis(100);
/// What the server says so much later than it has answered was said behind the deliveries of its answer: in a cluster these
/// wait until a majority has them, and what it says of a pull does not.
const BEHIND: Duration = Duration::from_secs(3);

/// What is watched of one consumer.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether all of the stream is the consumer's, and nothing goes of it but by retention, a purge, or by hand.
    whole: bool,
    /// Whether something came that is not the consumer's: what is missing may be such, too, from here on.
    mixed: bool,
    /// The place behind what was sent last, once something was.
    next: Option<u64>,
    /// The first place of a hole that is to be asked about.
    hole: Option<u64>,
    /// Whether what came behind it waits for the answer.
    waits: bool,
    /// The question that is under way.
    asked: Option<Asked>,
    /// When it was asked last, and when about a hole.
    at: Time,
    hole_at: Option<Time>,
    /// The first place that is lost: for a barrier, which has somewhere else to begin.
    lost: Option<u64>,
    /// The number of the delivery that would come next, if the server has said that it has none.
    rests: Option<u64>,
    /// What the server has delivered.
    told: Option<Told>,
}

/// What the server was asked about.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// The hole that begins at this place.
    Hole(u64),
    /// What was all taken, since nothing is asked for.
    Idle,
    /// How much was delivered.
    Delivered,
    /// Something of before a barrier, which is of no use any more.
    Before,
}

/// The number of the last delivery as the server has told it, and when.
#[derive(Clone, Copy, Debug)]
struct Told {
    last: u64,
    /// The number of the delivery that would come next then. Where one has come since, its number tells.
    next: u64,
    at: Time,
    /// Whether the server has said since that it has nothing to send: all that it had sent before has come.
    behind: bool,
}

/// The server's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// When the stream was made.
    pub(super) made: DateTime,
    /// Its first place.
    pub(super) first: u64,
    /// Whether all of it is still the consumer's.
    pub(super) whole: bool,
    /// The number of the consumer's last delivery, if it is there.
    pub(super) delivered: Option<u64>,
}

impl Watch {
    /// A barrier is over: deliveries go on at this place.
    pub(super) fn begin(&mut self, whole: bool, next: Option<u64>) {
        let (mixed, at, hole_at) = (self.mixed, self.at, self.hole_at);
        let (whole, asked) = (whole && !mixed, self.asked.map(|_| Asked::Before));
        *self = Self { whole, mixed, next, asked, at, hole_at, ..Self::default() };
    }

    /// Not all of the stream is the consumer's any more, or never was.
    #[cold]
    pub(super) fn end(&mut self) {
        self.begin(false, self.next);
    }

    /// Something came that is not the consumer's.
    #[cold]
    pub(super) fn mix(&mut self) {
        if !self.mixed {
            self.mixed = true;
            self.end();
        }
    }

    /// Whether all of the stream is the consumer's.
    pub(super) fn is_whole(&self) -> bool {
        self.whole && !self.mixed
    }

    /// Whether what is missing may have been somebody else's.
    pub(super) fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// What was sent from this place on is thrown away, and has to come again.
    pub(super) fn back_to(&mut self, place: u64) {
        self.next = self.next.map(|next| next.min(place));
    }

    /// The place behind what was sent last, if nothing before it is in question.
    pub(super) fn sent(&self) -> Option<u64> {
        let in_question = self.hole.is_some() || matches!(self.asked, Some(Asked::Hole(_)));
        self.next.filter(|_| !in_question)
    }

    /// Follows a delivery. True if it has to wait until it is known what is missing before it.
    pub(super) fn follow(&mut self, numbers: &Numbers, now: Time) -> bool {
        let next = self.next.replace(numbers.stream + 1);
        match next {
            Some(next) if next < numbers.stream && self.whole => self.found(next, now),
            // What comes again is behind.
            Some(next) if next > numbers.stream => {
                self.next = Some(next);
                false
            }
            _ => false,
        }
    }

    #[cold]
    fn found(&mut self, hole: u64, now: Time) -> bool {
        self.hole.get_or_insert(hole);
        self.waits |= self.is_apart(now);
        self.waits
    }

    fn is_apart(&self, now: Time) -> bool {
        self.hole_at.is_none_or(|then| now.since(then) >= APART)
    }

    /// Whether what came last has to wait.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// The first place that is lost, if that has led to a barrier.
    pub(super) fn lost(&self) -> Option<u64> {
        self.lost
    }

    /// The server says that it has nothing to send; `next`: the number of what would come next.
    pub(super) fn rests(&mut self, next: u64, now: Time) {
        self.rests = Some(next);
        if let Some(told) = &mut self.told {
            told.behind |= now.since(told.at) >= BEHIND;
        }
    }

    /// Whether deliveries were sent that do not come, asked once all is taken that has come.
    pub(super) fn is_behind(&mut self, next: u64) -> bool {
        let Some(told) = self.told.take_if(|told| told.behind || told.next != next) else {
            return false;
        };
        told.behind && told.next == next && next <= told.last
    }

    /// Whether the server is to be asked now. `idle`: nothing is asked for; `next`: the number of what would come next.
    pub(super) fn is_due(&self, now: Time, idle: bool, next: u64) -> bool {
        let due = match self.hole {
            Some(_) => self.is_apart(now),
            None => {
                let rests = idle && self.whole || self.rests == Some(next);
                rests && now.since(self.at) >= AGAIN
            }
        };
        self.asked.is_none() && due
    }

    pub(super) fn ask(&mut self, now: Time) {
        let rest = if self.whole { Asked::Idle } else { Asked::Delivered };
        let asked = self.hole.take().map_or(rest, Asked::Hole);
        (self.asked, self.at) = (Some(asked), now);
        if matches!(asked, Asked::Hole(_)) {
            self.hole_at = Some(now);
        }
    }

    /// Takes the answer: the first place that is lost. `taken`: everything that was delivered has come; `next`: the number of
    /// what would come next.
    pub(super) fn answered(
        &mut self,
        look: Look,
        taken: bool,
        next: u64,
        now: Time,
    ) -> Option<u64> {
        let asked = self.asked.take()?;
        if !matches!(asked, Asked::Before) {
            self.told = look.delivered.map(|last| Told { last, next, at: now, behind: false });
        }
        // One that was found since then is asked about anew.
        let newer = self.hole.is_some();
        self.waits &= newer;
        let from = match asked {
            Asked::Hole(hole) => Some(hole),
            Asked::Idle => self.next.filter(|_| taken && !newer),
            Asked::Delivered | Asked::Before => None,
        };
        from.filter(|from| *from < look.first)
    }

    /// The question was not answered: what waits goes on, and a hole is asked about again.
    pub(super) fn unanswered(&mut self) {
        if let Some(Asked::Hole(hole)) = self.asked.take() {
            // A newer one is lost only if this is.
            self.hole = Some(hole);
        }
        self.waits = false;
    }

    /// What is lost from this place on leads to a barrier.
    pub(super) fn lose(&mut self, lost: u64) {
        self.lost = Some(lost);
    }

    /// What is lost is passed over: the stream begins at `first`.
    pub(super) fn pass(&mut self, first: u64) {
        self.next = self.next.max(Some(first));
        self.hole = self.hole.filter(|hole| *hole >= first);
        self.waits &= self.hole.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(stream: u64) -> Numbers {
        Numbers { stream, consumer: 1, delivered: 1, timestamp: 1, pending: 0 }
    }

    fn look(first: u64) -> Look {
        let made = async_nats::datetime::from_nanos(0).unwrap();
        Look { made, first, whole: true, delivered: None }
    }

    fn at(millis: u64) -> Time {
        Time::ZERO.after(Duration::from_millis(millis))
    }

    fn watch(next: u64) -> Watch {
        let mut watch = Watch::default();
        watch.begin(true, Some(next));
        watch
    }

    #[test]
    fn a_hole_is_lost_if_the_stream_begins_behind_it() {
        for (first, lost) in [(8, Some(5)), (6, Some(5)), (5, None), (1, None)] {
            let mut watch = watch(4);
            assert!(!watch.follow(&numbers(4), at(0)) && !watch.is_due(at(9_000), false, 1));
            assert!(watch.follow(&numbers(8), at(9_000)) && watch.waits());
            assert!(watch.is_due(at(9_000), false, 1));
            watch.ask(at(9_000));
            assert!(!watch.is_due(at(9_500), true, 1), "one question at a time");
            assert_eq!(watch.answered(look(first), false, 1, Time::ZERO), lost);
            assert!(!watch.waits());
        }
    }

    #[test]
    fn what_comes_again_is_no_hole_and_hides_none() {
        let mut watch = watch(1);
        for stream in [1, 2, 3, 1, 3, 4] {
            assert!(!watch.follow(&numbers(stream), at(0)), "{stream}");
        }
        assert!(watch.follow(&numbers(6), at(0)));
    }

    #[test]
    fn while_nothing_is_asked_for_what_was_all_taken_tells() {
        let mut watch = watch(4);
        assert!(watch.is_due(at(5_000), true, 1) && !watch.is_due(at(5_000), false, 1));
        watch.ask(at(5_000));
        assert_eq!(watch.answered(look(9), false, 1, Time::ZERO), None, "something is on the way");
        assert!(!watch.is_due(at(9_999), true, 1) && watch.is_due(at(10_000), true, 1));
        watch.ask(at(10_000));
        assert_eq!(watch.answered(look(9), true, 1, Time::ZERO), Some(4));
        watch.pass(9);
        watch.ask(at(15_000));
        assert_eq!(watch.answered(look(9), true, 1, Time::ZERO), None);
    }

    #[test]
    fn an_answer_of_before_a_hole_says_nothing_of_it() {
        let mut watch = watch(4);
        watch.ask(at(5_000));
        assert!(watch.follow(&numbers(8), at(5_000)));
        assert_eq!(watch.answered(look(4), true, 1, Time::ZERO), None);
        assert!(watch.waits() && watch.is_due(at(5_000), false, 1));
        watch.ask(at(5_000));
        assert_eq!(watch.answered(look(7), true, 1, Time::ZERO), Some(4));
    }

    #[test]
    fn holes_that_come_fast_are_not_waited_for_and_asked_about_later() {
        let mut watch = watch(1);
        assert!(watch.follow(&numbers(2), at(1_000)));
        watch.ask(at(1_000));
        assert_eq!(watch.answered(look(1), true, 1, Time::ZERO), None);
        assert!(!watch.follow(&numbers(4), at(1_050)), "the next goes on");
        assert!(!watch.is_due(at(1_099), true, 1) && watch.is_due(at(1_100), true, 1));
        watch.ask(at(1_100));
        assert_eq!(watch.answered(look(4), true, 1, Time::ZERO), Some(3));
        watch.unanswered();
        assert!(!watch.waits());
    }

    #[test]
    fn a_hole_that_is_found_before_the_answer_is_asked_about_too() {
        let mut watch = watch(5);
        assert!(watch.follow(&numbers(6), at(1_000)) && watch.sent().is_none());
        watch.ask(at(1_000));
        assert_eq!(watch.sent(), None);
        assert!(watch.follow(&numbers(9), at(1_050)));
        assert_eq!(watch.answered(look(1), true, 1, Time::ZERO), None, "somebody has deleted 5");
        assert!(watch.waits() && !watch.is_due(at(1_099), false, 1));
        assert!(watch.is_due(at(1_100), false, 1));
        watch.ask(at(1_100));
        assert_eq!(watch.answered(look(9), true, 1, Time::ZERO), Some(7));
        assert!(!watch.waits());
        assert_eq!(watch.sent(), Some(10));
    }

    #[test]
    fn an_answer_that_tells_of_both_holes_tells_once() {
        let mut watch = watch(5);
        assert!(watch.follow(&numbers(6), at(1_000)));
        watch.ask(at(1_000));
        assert!(watch.follow(&numbers(9), at(1_001)));
        assert_eq!(watch.answered(look(9), true, 1, Time::ZERO), Some(5));
        watch.pass(9);
        assert!(!watch.waits() && !watch.is_due(at(9_000), false, 1));
        assert_eq!(watch.sent(), Some(10));
    }

    #[test]
    fn a_hole_whose_question_was_not_answered_is_asked_about_again() {
        let mut watch = watch(5);
        assert!(watch.follow(&numbers(6), at(1_000)));
        watch.ask(at(1_000));
        watch.unanswered();
        assert!(!watch.waits() && watch.is_due(at(1_100), false, 1));
        watch.ask(at(1_100));
        assert_eq!(watch.answered(look(6), true, 1, Time::ZERO), Some(5));
    }

    #[test]
    fn beside_what_is_somebody_elses_nothing_is_told() {
        let mut watch = watch(5);
        assert!(watch.follow(&numbers(8), at(1_000)));
        watch.mix();
        assert!(!watch.waits() && !watch.is_due(at(9_000), true, 1));
        watch.begin(true, Some(9));
        assert!(watch.is_mixed() && !watch.follow(&numbers(20), at(9_000)));
        assert_eq!(watch.sent(), Some(21));
        watch.back_to(12);
        assert_eq!(watch.sent(), Some(12), "what was not handed on comes again");
    }

    fn delivered(last: u64) -> Look {
        Look { delivered: Some(last), ..look(1) }
    }

    /// Asked when it rests at `next`, and told that `last` was the last delivery.
    fn told(next: u64, last: u64) -> Watch {
        let mut watch = Watch::default();
        watch.rests(next, at(4_999));
        assert!(!watch.is_due(at(4_999), false, next) && watch.is_due(at(5_000), false, next));
        assert!(!watch.is_due(at(5_000), false, next + 1), "more has come since");
        watch.ask(at(5_000));
        assert_eq!(watch.answered(delivered(last), true, next, at(5_100)), None);
        watch
    }

    #[test]
    fn what_was_delivered_and_does_not_come_is_missing_once_the_server_rests() {
        let mut watch = told(4, 4);
        assert!(!watch.is_behind(4), "it may be on its way");
        watch.rests(4, at(8_099));
        assert!(!watch.is_behind(4), "that may have been said before");
        watch.rests(4, at(8_100));
        assert!(watch.is_behind(4));
        assert!(!watch.is_behind(4), "said once");
    }

    #[test]
    fn what_has_come_since_is_not_missing() {
        for (next, last) in [(4, 3), (4, 4), (4, 9)] {
            let mut watch = told(next, last);
            watch.rests(last + 1, at(9_000));
            assert!(!watch.is_behind(last + 1), "{next} {last}");
            watch.rests(last + 1, at(9_000));
            assert!(!watch.is_behind(last + 1), "{next} {last}");
        }
    }

    #[test]
    fn where_something_comes_its_number_tells() {
        let mut watch = told(4, 9);
        assert!(!watch.is_behind(5), "one has come");
        watch.rests(5, at(9_000));
        assert!(!watch.is_behind(5), "and the others come behind it, or a gap shows");
    }

    #[test]
    fn an_answer_of_before_a_barrier_says_nothing() {
        let mut watch = told(900, 900);
        watch.begin(false, None);
        watch.rests(1, at(9_000));
        assert!(!watch.is_behind(1), "numbers begin anew");
        watch.ask(at(10_000));
        watch.begin(true, Some(4));
        assert_eq!(watch.answered(delivered(900), true, 1, at(10_001)), None);
        watch.rests(1, at(20_000));
        assert!(!watch.is_behind(1));
        assert!(watch.is_due(at(20_000), false, 1), "it is asked anew");
    }

    #[test]
    fn of_a_stream_that_is_not_whole_nothing_is_asked() {
        let mut watch = Watch::default();
        watch.begin(false, Some(1));
        assert!(!watch.follow(&numbers(9), at(9_000)) && !watch.is_due(at(9_000), true, 1));
    }
}
