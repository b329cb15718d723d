//! What the handlers do: they keep a board of every aircraft, which is right only because its
//! events come in order.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{Aircraft, Message, Timeline, Topic};

/// How many anomalies are kept to be shown; all are counted.
const ANOMALIES_KEPT: usize = 5;

const NEVER: i64 = i64::MIN;

/// One pass's board.
pub(crate) struct Board {
    timeline: Arc<Timeline>,
    aircraft: Box<[State]>,
    anomaly_count: AtomicU64,
    anomalies: Mutex<Vec<Anomaly>>,
}

/// One aircraft's line on the board. Arrivals alone write `arrived`, and one at a time: it is
/// atomic only because the compiler cannot know that.
struct State {
    events: AtomicU32,
    flights: AtomicU32,
    arrived: AtomicI64,
}

/// The data says that an aircraft departed before it had arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Anomaly {
    pub(crate) aircraft: Aircraft,
    /// When it departed, in seconds since 1970.
    pub(crate) departed: i64,
    /// How long before its recorded arrival that was.
    pub(crate) minutes_early: i64,
    /// The row of the flight that departed too early.
    pub(crate) line: u32,
}

impl Board {
    pub(crate) fn new(timeline: Arc<Timeline>) -> Self {
        let state = || State {
            events: AtomicU32::new(0),
            flights: AtomicU32::new(0),
            arrived: AtomicI64::new(NEVER),
        };
        Self {
            aircraft: timeline.tails.iter().map(|_| state()).collect(),
            timeline,
            anomaly_count: AtomicU64::new(0),
            anomalies: Mutex::new(Vec::new()),
        }
    }

    /// Puts an event on the board.
    ///
    /// Flights of one aircraft come by the order of their arrivals, so that a flight that began
    /// before the one before it ended shows right here.
    pub(crate) fn apply(&self, message: &Message) {
        let index = message.id % (self.timeline.events.len() as u64).max(1);
        let Some(event) = self.timeline.events.get(index as usize) else { return };
        let Some(aircraft) = event.aircraft() else { return };
        let state = &self.aircraft[aircraft as usize];
        state.events.fetch_add(1, Relaxed);
        match message.topic {
            Topic::Departed => {
                state.flights.fetch_add(1, Relaxed);
            }
            Topic::Arrived => {
                let departed = message.at - i64::from(message.air_minutes) * 60;
                let before = state.arrived.swap(message.at, Relaxed);
                if departed < before {
                    let minutes_early = (before - departed) / 60;
                    self.note(Anomaly { aircraft, departed, minutes_early, line: event.line });
                }
            }
            Topic::Cancelled => {}
        }
    }

    #[cold]
    fn note(&self, anomaly: Anomaly) {
        self.anomaly_count.fetch_add(1, Relaxed);
        // The earliest are kept, so that every run shows the same.
        let mut kept = self.anomalies.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.partition_point(|other| {
            (other.departed, other.line) <= (anomaly.departed, anomaly.line)
        });
        kept.insert(place, anomaly);
        kept.truncate(ANOMALIES_KEPT);
    }

    /// How many anomalies there were, and the earliest of them.
    pub(crate) fn anomalies(&self) -> (u64, Vec<Anomaly>) {
        let kept = self.anomalies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.anomaly_count.load(Relaxed), kept)
    }

    /// The aircraft with the most events, busiest first: tail number, flights, events.
    pub(crate) fn busiest(&self, limit: usize) -> Vec<(&str, u32, u32)> {
        let mut all: Vec<_> = self
            .aircraft
            .iter()
            .zip(&self.timeline.tails)
            .map(|(state, tail)| (&**tail, state.flights.load(Relaxed), state.events.load(Relaxed)))
            .collect();
        all.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(b.0)));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(rows: &str) -> Board {
        let text = format!("dep_time,dep_delay,air_time,tailnum,minute,time_hour\n{rows}");
        let timeline = Arc::new(Timeline::read(text.as_bytes()).unwrap());
        let board = Board::new(Arc::clone(&timeline));
        for (id, event) in timeline.events.iter().enumerate() {
            board.apply(&Message {
                topic: event.topic,
                id: id as u64,
                sequence: 0,
                at: event.at,
                air_minutes: event.air_minutes,
                due: 0,
            });
        }
        board
    }

    #[test]
    fn departing_before_arriving_is_an_anomaly() {
        let board = board(
            "900,0,60,N1,0,2013-01-01T10:00:00Z\n\
             900,0,60,N1,0,2013-01-01T11:00:00Z\n\
             900,0,60,N1,45,2013-01-01T11:00:00Z\n\
             900,0,60,N2,45,2013-01-01T11:00:00Z\n\
             900,0,60,NA,50,2013-01-01T11:00:00Z\n",
        );
        // Departing in the minute of the arrival is quick, but no anomaly; another aircraft's is none.
        let (count, anomalies) = board.anomalies();
        let departed = crate::instant::parse("2013-01-01T11:45:00Z").unwrap();
        assert_eq!(count, 1);
        assert_eq!(anomalies, [Anomaly { aircraft: 0, departed, minutes_early: 15, line: 4 }]);
        assert_eq!(board.busiest(9), [("N1", 3, 6), ("N2", 1, 2)]);
        assert_eq!(board.busiest(1).len(), 1);
    }

    #[test]
    fn the_earliest_anomalies_are_kept() {
        let mut rows = String::new();
        for minute in (0..40).rev() {
            rows.push_str(&format!("900,0,600,N1,{minute},2013-01-01T10:00:00Z\n"));
        }
        let (count, anomalies) = board(&rows).anomalies();
        assert_eq!(count, 39);
        let early: Vec<_> = anomalies.iter().map(|anomaly| anomaly.departed / 60 % 60).collect();
        assert_eq!(early, [1, 2, 3, 4, 5]);
    }
}
