//! Whether a consumer recovers, why, and how often it had to lately.

use std::collections::VecDeque;
use std::time::Duration;

use super::plan::Plan;
use crate::bus::{BusEvent, BusHealth, ReasonKind};
use crate::clock::Time;

/// Between two tries of a recovery, at first and at most.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_MOST: Duration = Duration::from_secs(1);
/// Barriers since nobody leads the consumer that follow each other sooner than this are put off ever longer.
const CALM: Duration = Duration::from_secs(5);
/// So many barriers for what somebody else did with the consumer, within so long, say that there is somebody else.
const FOREIGN: usize = 3;
const FOREIGN_WITHIN: Duration = Duration::from_secs(60);

/// Why there is a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The consumer begins: what its predecessor held comes first.
    Begun,
    /// The connection is another.
    Reconnected,
    /// The server said nothing for too long.
    Silence,
    /// Deliveries are missing that the connection cannot have lost: somebody else has them, unless the client has
    /// dropped some meanwhile.
    Foreign,
    /// The client had no room for deliveries, and dropped them.
    Dropped,
    /// Somebody has reset the consumer, or its server has forgotten.
    Restarted,
    /// Somebody has deleted it: so does another that begins with it where consumers cannot be reset.
    Deleted,
    /// Its stream is another.
    Gone,
    /// What it was not sent yet is gone from the stream.
    Truncated,
    /// Nobody answers for it.
    NoResponders,
}

impl Why {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Begun => "the consumer begins",
            Self::Reconnected => "the connection was cut",
            Self::Silence => "the server was silent",
            Self::Foreign => "deliveries are missing",
            Self::Dropped => "the client had no room for deliveries",
            Self::Restarted => "the consumer's numbers began anew",
            Self::Deleted => "the consumer was deleted",
            Self::Gone => "the stream was made anew",
            Self::Truncated => "records are gone that were not delivered",
            Self::NoResponders => "nobody leads the consumer",
        }
    }
}

/// Whether a recovery is under way, and what has led to the last ones.
#[derive(Debug)]
pub(super) struct Recovery {
    under_way: Option<Why>,
    since: Time,
    /// Whether its beginning was said.
    said: bool,
    /// When it is tried next, and how long after that again.
    due: Time,
    pause: Duration,
    /// The connection that deliveries are followed on.
    connects: Option<u64>,
    /// What the client had dropped when they began to be followed.
    drops: u64,
    /// A connection whose server has not answered a reset though it was there.
    resetless: Option<u64>,
    /// The last barriers for what somebody else did.
    foreign: VecDeque<Time>,
    /// When nobody led the consumer last, and how long the barrier was put off for that.
    leaderless: Option<(Time, Duration)>,
}

impl Recovery {
    /// Nothing is delivered before the first one.
    pub(super) fn new(now: Time) -> Self {
        Self {
            under_way: Some(Why::Begun),
            since: now,
            said: false,
            due: now,
            pause: AGAIN_FIRST,
            connects: None,
            drops: 0,
            resetless: None,
            foreign: VecDeque::new(),
            leaderless: None,
        }
    }

    pub(super) fn begin(&mut self, why: Why, now: Time) {
        if self.under_way.is_some() {
            return;
        }
        (self.under_way, self.due, self.pause) = (Some(why), now, AGAIN_FIRST);
        self.since = now;
        if why == Why::NoResponders {
            // Who answers for the stream may be there while nobody serves a pull.
            let put_off = match self.leaderless {
                Some((then, before)) if now.since(then) < CALM => {
                    (before * 2).clamp(AGAIN_FIRST, AGAIN_MOST)
                }
                _ => Duration::ZERO,
            };
            self.leaderless = Some((now, put_off));
            self.due = now.after(put_off);
        }
        if matches!(why, Why::Foreign | Why::Deleted) {
            self.foreign.push_back(now);
            while self.foreign.front().is_some_and(|then| now.since(*then) > FOREIGN_WITHIN) {
                self.foreign.pop_front();
            }
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// For how long it has been under way.
    pub(super) fn lasts(&self, now: Time) -> Duration {
        now.since(self.since)
    }

    /// Whether there were so many that there is somebody else. One that is under way is left out as soon as it is known to
    /// be ours: a single loss of our own beside two of somebody else's stops nothing.
    pub(super) fn is_shared(&self, connects: u64, drops: u64) -> bool {
        let ours = usize::from(self.is_ours(connects, drops));
        self.foreign.len() >= FOREIGN + ours
    }

    /// Whether what is missing may have been lost here: what the client has dropped, or a cut has lost before it was seen,
    /// nobody else has.
    fn is_ours(&self, connects: u64, drops: u64) -> bool {
        let lost = self.has_dropped(drops) || self.has_reconnected(connects);
        self.under_way == Some(Why::Foreign) && lost
    }

    /// Whether the connection is another than the one that deliveries were followed on.
    pub(super) fn has_reconnected(&self, connects: u64) -> bool {
        self.connects.is_some_and(|before| before != connects)
    }

    /// Whether the client has dropped deliveries of those that are followed.
    pub(super) fn has_dropped(&self, drops: u64) -> bool {
        self.connects.is_some() && self.drops != drops
    }

    pub(super) fn due_in(&self, now: Time) -> Option<Duration> {
        self.under_way.map(|_| self.due.since(now))
    }

    /// Says that it has begun, once.
    pub(super) fn say_begun(&mut self, health: &BusHealth, plan: &Plan) -> &'static str {
        let why = self.under_way.map_or("", Why::text);
        if !self.said {
            self.said = true;
            let source = plan.label();
            health.raise(ReasonKind::Barrier, &source, why);
            health.say(BusEvent::BarrierBegun { source, why: why.to_owned() });
        }
        why
    }

    pub(super) fn knows_no_reset(&self, connects: u64) -> bool {
        self.resetless == Some(connects)
    }

    pub(super) fn no_reset(&mut self, connects: u64) {
        self.resetless = Some(connects);
    }

    pub(super) fn put_off(&mut self, now: Time) {
        self.due = now.after(self.pause);
        self.pause = (self.pause * 2).min(AGAIN_MOST);
    }

    /// It is over, on this connection, of which the client has dropped so many deliveries.
    pub(super) fn done(&mut self, connects: u64, drops: u64) {
        if self.is_ours(connects, drops) {
            self.foreign.pop_back();
        }
        self.drops = drops;
        (self.under_way, self.said) = (None, false);
        self.connects = Some(connects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one recovery began for, at which second, and the connection's number and the client's drops meanwhile.
    type Begun = (Why, u64, u64, u64);

    /// Which of these, from 0 on, stops the source, asked as the consumer asks: when it has begun, and before it is over.
    fn stops_at(all: impl IntoIterator<Item = Begun>) -> Option<usize> {
        let mut recovery = Recovery::new(Time::ZERO);
        recovery.done(0, 0);
        all.into_iter().position(|(why, second, connects, drops)| {
            recovery.begin(why, Time::ZERO.after(Duration::from_secs(second)));
            let stops = recovery.is_shared(connects, drops);
            recovery.done(connects, drops);
            stops
        })
    }

    fn foreign<const N: usize>(seconds: [u64; N]) -> [Begun; N] {
        seconds.map(|second| (Why::Foreign, second, 0, 0))
    }

    #[test]
    fn three_within_a_minute_are_somebody_elses() {
        assert_eq!(stops_at(foreign([1, 2])), None);
        assert_eq!(stops_at(foreign([1, 2, 3])), Some(2));
        assert_eq!(stops_at(foreign([1, 30, 61])), Some(2), "a minute to the second");
    }

    #[test]
    fn three_in_more_than_a_minute_are_not() {
        assert_eq!(stops_at(foreign([1, 30, 62])), None, "61 s");
        assert_eq!(stops_at(foreign([1, 41, 81, 121, 161])), None, "never three in one minute");
        assert_eq!(stops_at(foreign([1, 41, 81, 90])), Some(3), "the minute goes with them");
    }

    #[test]
    fn who_deletes_the_consumer_is_somebody_else() {
        let deleted = |second| (Why::Deleted, second, second, second);
        assert_eq!(stops_at([1, 2].map(deleted)), None);
        assert_eq!(stops_at([1, 2, 3].map(deleted)), Some(2), "no cut explains it");
        assert_eq!(stops_at([1, 41, 81, 121].map(deleted)), None, "never three in one minute");
    }

    #[test]
    fn other_causes_do_not_count() {
        let others = [
            Why::Begun,
            Why::Reconnected,
            Why::Silence,
            Why::Dropped,
            Why::Restarted,
            Why::Gone,
            Why::Truncated,
            Why::NoResponders,
        ];
        for why in others {
            assert_eq!(stops_at((1..10).map(|second| (why, second, 0, 0))), None, "{why:?}");
            let mixed = [(Why::Foreign, 1, 0, 0), (why, 2, 0, 0), (Why::Foreign, 3, 0, 0)];
            assert_eq!(stops_at(mixed), None, "{why:?} between two");
        }
    }

    #[test]
    fn what_a_cut_or_the_client_has_lost_is_not_somebody_elses() {
        let cut = (1..20).map(|count| (Why::Foreign, count, count, 0));
        assert_eq!(stops_at(cut), None, "the connection was cut");
        let dropped = (1..20).map(|count| (Why::Foreign, count, 0, count));
        assert_eq!(stops_at(dropped), None, "the client dropped them");
    }

    #[test]
    fn one_of_ours_beside_two_of_somebody_elses_stops_nothing() {
        for (connects, drops) in [(1, 0), (0, 1)] {
            let [first, second] = foreign([1, 2]);
            let ours = (Why::Foreign, 3, connects, drops);
            assert_eq!(stops_at([first, second, ours]), None, "the third is ours");
            let last = (Why::Foreign, 4, connects, drops);
            assert_eq!(stops_at([first, second, ours, last]), Some(3), "taken back, not forgotten");
        }
    }

    #[test]
    fn while_nobody_leads_barriers_come_less_and_less_often() {
        let mut recovery = Recovery::new(Time::ZERO);
        recovery.done(0, 0);
        let mut now = Time::ZERO;
        let mut put_off = |now: &mut Time| {
            recovery.begin(Why::NoResponders, *now);
            let due = recovery.due_in(*now).unwrap();
            *now = now.after(due);
            recovery.done(0, 0);
            due.as_millis()
        };
        let all: Vec<_> = (0..8).map(|_| put_off(&mut now)).collect();
        assert_eq!(all, [0, 50, 100, 200, 400, 800, 1_000, 1_000]);
        now = now.after(CALM);
        assert_eq!(put_off(&mut now), 0, "the first after a while is at once");
    }

    #[test]
    fn one_under_way_is_counted_once() {
        let mut recovery = Recovery::new(Time::ZERO);
        recovery.done(0, 0);
        (0..10).for_each(|_| recovery.begin(Why::Foreign, Time::ZERO));
        assert!(!recovery.is_shared(0, 0));
    }
}
