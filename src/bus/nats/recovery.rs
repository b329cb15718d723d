//! Whether a consumer recovers, why, and how often it had to lately.

use std::collections::VecDeque;
use std::time::Duration;

use super::plan::Plan;
use crate::bus::{BusEvent, BusHealth, ReasonKind};
use crate::clock::Time;

/// Between two tries of a recovery, at first and at most.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_MOST: Duration = Duration::from_secs(1);
/// So many barriers for deliveries that went to somebody else, within so long, say that there is somebody else.
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
    /// Somebody has deleted it.
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
            Self::Gone => "the consumer was deleted",
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
    /// The last barriers for deliveries that went to somebody else.
    foreign: VecDeque<Time>,
}

impl Recovery {
    /// Nothing is delivered before the first one.
    pub(super) fn new() -> Self {
        Self {
            under_way: Some(Why::Begun),
            since: Time::ZERO,
            said: false,
            due: Time::ZERO,
            pause: AGAIN_FIRST,
            connects: None,
            drops: 0,
            resetless: None,
            foreign: VecDeque::new(),
        }
    }

    pub(super) fn begin(&mut self, why: Why, now: Time) {
        if self.under_way.is_some() {
            return;
        }
        (self.under_way, self.due, self.pause) = (Some(why), now, AGAIN_FIRST);
        self.since = now;
        if why == Why::Foreign {
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

    pub(super) fn is_shared(&self) -> bool {
        self.foreign.len() >= FOREIGN
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
        // What the client has dropped, or a cut has lost before it was seen, nobody else has.
        let ours = self.has_dropped(drops) || self.has_reconnected(connects);
        if self.under_way == Some(Why::Foreign) && ours {
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

    /// So many recoveries because deliveries are missing, each after a cut or after drops of ours if `ours` says so.
    fn is_shared_after(count: usize, ours: impl Fn(u64) -> (u64, u64)) -> bool {
        let mut recovery = Recovery::new();
        recovery.done(0, 0);
        for time in 1..=count as u64 {
            recovery.begin(Why::Foreign, Time::ZERO.after(Duration::from_secs(time)));
            if recovery.is_shared() {
                return true;
            }
            let (connects, drops) = ours(time);
            recovery.done(connects, drops);
        }
        false
    }

    #[test]
    fn what_a_cut_or_the_client_has_lost_is_not_somebody_elses() {
        assert!(is_shared_after(FOREIGN, |_| (0, 0)));
        assert!(!is_shared_after(FOREIGN - 1, |_| (0, 0)));
        assert!(!is_shared_after(5 * FOREIGN, |time| (time, 0)), "the connection was cut");
        assert!(!is_shared_after(5 * FOREIGN, |time| (0, time)), "the client dropped them");
    }
}
