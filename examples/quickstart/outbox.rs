//! Publishing through a broker that may go away: many events under way, but one of a kind and aircraft, so that what
//! has to be published again is still published in its order.

use std::collections::{HashSet, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

use keylane::{Bus, PublishError, Publishing, Record};

use crate::event::Topic;

/// Events under way at most.
const MOST: usize = 1_000;
/// For how long an event is published again; shorter than a stream knows its id, which is two minutes.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two tries, should a refusal come at once.
const PAUSE: Duration = Duration::from_millis(20);

/// Events on their way to the bus, in the order of their publishing.
#[derive(Default)]
pub(crate) struct Outbox {
    under_way: VecDeque<Sent>,
    /// Which aircraft have an event under way.
    aircraft: HashSet<(Topic, Box<str>)>,
}

struct Sent {
    topic: Topic,
    key: Option<Box<str>>,
    /// The topic's name on the bus.
    to: Box<str>,
    publishing: Publishing,
}

impl Outbox {
    /// Publishes an event; it is on the bus once [`flush`](Self::flush) has returned.
    ///
    /// # Errors
    /// An earlier event, or this one, could not be published.
    pub(crate) fn publish(
        &mut self,
        bus: &Bus,
        topic: Topic,
        key: Option<&str>,
        to: &str,
        record: Record,
    ) -> Result<(), PublishError> {
        let key = key.map(Box::<str>::from);
        if let Some(key) = &key {
            let aircraft = (topic, key.clone());
            while self.aircraft.contains(&aircraft) {
                self.settle_oldest(bus)?;
            }
            self.aircraft.insert(aircraft);
        }
        if self.under_way.len() >= MOST {
            self.settle_oldest(bus)?;
        }
        let publishing = bus.publish(to, record);
        self.under_way.push_back(Sent { topic, key, to: to.into(), publishing });
        Ok(())
    }

    /// Waits until everything is on the bus.
    ///
    /// # Errors
    /// An event could not be published.
    pub(crate) fn flush(&mut self, bus: &Bus) -> Result<(), PublishError> {
        while !self.under_way.is_empty() {
            self.settle_oldest(bus)?;
        }
        Ok(())
    }

    /// Waits for the oldest event, and publishes it again for as long as that may help: its id says to the broker
    /// whether it has it already.
    fn settle_oldest(&mut self, bus: &Bus) -> Result<(), PublishError> {
        let Some(Sent { topic, key, to, mut publishing }) = self.under_way.pop_front() else {
            return Ok(());
        };
        let begun = Instant::now();
        while let Err(error) = publishing.wait() {
            if !error.is_retryable() || begun.elapsed() > PATIENCE {
                return Err(error);
            }
            thread::sleep(PAUSE);
            publishing = bus.publish(&to, error.into_record());
        }
        if let Some(key) = key {
            self.aircraft.remove(&(topic, key));
        }
        Ok(())
    }
}
