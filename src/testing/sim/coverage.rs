//! What the simulations have met: which fault found a record in which state.

use std::fmt;

use super::judge::{Judge, State};
use super::script::Kind;

/// What goes wrong, or is done while things go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Crash,
    Close,
    StopNow,
    Reassign,
    Redeliver,
    /// A handler submits.
    Within,
    Swap,
    Remove,
    /// A subscription is removed once it has drained.
    CloseOne,
    Jump,
    /// Steps are withheld: of a worker, the monitor, the pool, a consume loop.
    HoldWorker,
    HoldMonitor,
    HoldBlocking,
    HoldFeed,
    Skip,
    Park,
    Resume,
    /// A submit that waits is given up.
    GiveUp,
    /// The dead letters take nothing.
    Outage,
    Full,
    Error,
    Panic,
}

const FAULTS: [(Fault, &str); 22] = [
    (Fault::Crash, "crash"),
    (Fault::Close, "close"),
    (Fault::StopNow, "stop_now"),
    (Fault::Reassign, "reassign"),
    (Fault::Redeliver, "redelivery"),
    (Fault::Within, "submit within"),
    (Fault::Swap, "swap"),
    (Fault::Remove, "remove"),
    (Fault::CloseOne, "close of one"),
    (Fault::Jump, "clock jump"),
    (Fault::HoldWorker, "worker withheld"),
    (Fault::HoldMonitor, "monitor withheld"),
    (Fault::HoldBlocking, "pool withheld"),
    (Fault::HoldFeed, "feed withheld"),
    (Fault::Skip, "skip"),
    (Fault::Park, "park"),
    (Fault::Resume, "resume"),
    (Fault::GiveUp, "given-up submit"),
    (Fault::Outage, "letter outage"),
    (Fault::Full, "full lane"),
    (Fault::Error, "error"),
    (Fault::Panic, "panic"),
];

const STATES: [&str; 7] = ["queued", "sync", "future", "blocking", "retry", "letter", "parked"];

/// How often each fault met each state.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    met: [[u64; STATES.len()]; FAULTS.len()],
    /// How often each came while the script was played, whatever it met.
    came: [u64; FAULTS.len()],
}

impl Coverage {
    /// A fault comes.
    pub(super) fn meets(&mut self, fault: Fault, judge: &Judge, parked: bool) {
        let row = &mut self.met[fault as usize];
        let mut seen = [false; STATES.len()];
        seen[6] = parked;
        for &number in &judge.live {
            let delivery = &judge.deliveries[number as usize];
            let state = match delivery.state {
                State::Queued => 0,
                State::Running if delivery.blocking => 3,
                State::Running if delivery.ready.is_some() => 2,
                State::Running => 1,
                State::Retry(_) => 4,
                State::Letter(_) => 5,
                State::Offered | State::Ended | State::Back | State::Refused => continue,
            };
            seen[state] = true;
        }
        for (count, seen) in row.iter_mut().zip(seen) {
            *count += u64::from(seen);
        }
    }

    /// A fault of the script comes.
    pub(super) fn came(&mut self, fault: Fault) {
        self.came[fault as usize] += 1;
    }

    /// Kinds of fault that came. A handler that submits is none.
    pub(super) fn kinds(&self) -> usize {
        let came = FAULTS.iter().zip(&self.came);
        came.filter(|((fault, _), came)| **came > 0 && *fault != Fault::Within).count()
    }

    /// An attempt of this kind fails, `pending` if it had waited.
    pub(super) fn fails(&mut self, fault: Fault, kind: Kind, pending: bool) {
        let state = match kind {
            Kind::Sync => 1,
            Kind::Async if pending => 2,
            Kind::Async => 0,
            Kind::Blocking => 3,
        };
        self.met[fault as usize][state] += 1;
    }

    /// Adds what others have met.
    pub fn add(&mut self, other: &Self) {
        for (row, more) in self.met.iter_mut().zip(&other.met) {
            row.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
        self.came.iter_mut().zip(&other.came).for_each(|(count, more)| *count += more);
    }

    /// The pairs that fell short of one in `seeds / per` simulations.
    pub fn missing(&self, least: u64) -> Vec<String> {
        let mut missing = Vec::new();
        for ((fault, name), row) in FAULTS.iter().zip(&self.met) {
            for (state, (&count, of)) in row.iter().zip(STATES).enumerate() {
                // An attempt fails while it runs; `queued` stands for the first poll of an async one.
                let fails = matches!(fault, Fault::Error | Fault::Panic) && state > 3;
                if count < least && !fails {
                    missing.push(format!("{name} x {of}: {count}, at least {least}"));
                }
            }
        }
        missing
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:17}", "")?;
        STATES.iter().try_for_each(|state| write!(f, "{state:>10}"))?;
        for ((_, name), row) in FAULTS.iter().zip(&self.met) {
            write!(f, "\n{name:17}")?;
            row.iter().try_for_each(|count| write!(f, "{count:>10}"))?;
        }
        Ok(())
    }
}
