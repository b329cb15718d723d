//! The judge of order and completeness. It knows the timeline and what arrives at the handlers, and
//! nothing of the runtime.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{DecodeError, Message, Timeline, Topic};

/// How many faults are kept to be shown; all are counted.
const FAULTS_KEPT: usize = 10;

/// Set in a slot while one of its events is being handled; the rest is the next sequence number.
const BUSY: u64 = 1 << 63;

/// Watches every delivery of a run.
pub(crate) struct Checker {
    timeline: Arc<Timeline>,
    /// Whether an event was handled, by its id.
    handled: Box<[AtomicBool]>,
    /// The next sequence number expected, by (topic, aircraft).
    slots: Box<[AtomicU64]>,
    duplicates: AtomicU64,
    order_violations: AtomicU64,
    strangers: AtomicU64,
    faults: Mutex<Vec<Fault>>,
}

/// Something that must not happen, did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Handled once more.
    Duplicate(Message),
    /// Handled after a later event of its (topic, aircraft).
    Late { message: Message, expected: u64 },
    /// Handled while another event of its (topic, aircraft) was.
    Overlap(Message),
    /// Not a message of this run, or with another topic or key than it was published with.
    Stranger { topic: Topic, key: Option<Vec<u8>>, message: Option<Message> },
    /// Not a message at all.
    Garbage(DecodeError),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = |message: &Message| message.topic.name();
        match self {
            Self::Duplicate(m) => write!(f, "event {} on {} handled again", m.id, topic(m)),
            Self::Late { message: m, expected } => write!(
                f,
                "event {} on {} is number {} of its aircraft, but {} came before",
                m.id,
                topic(m),
                m.sequence,
                expected.saturating_sub(1)
            ),
            Self::Overlap(m) => {
                write!(
                    f,
                    "event {} on {} handled while another of its aircraft was",
                    m.id,
                    topic(m)
                )
            }
            Self::Stranger { topic, key, message } => write!(
                f,
                "a record on {} with key {:?} that was not published so (event {:?})",
                topic.name(),
                key.as_deref().map(String::from_utf8_lossy),
                message.map(|m| m.id)
            ),
            Self::Garbage(error) => write!(f, "a record that is no event: {error}"),
        }
    }
}

/// What the run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Distinct events handled.
    pub(crate) handled: u64,
    /// Events never handled.
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) order_violations: u64,
    /// Records that nobody published in this form.
    pub(crate) strangers: u64,
    /// The first of what went wrong.
    pub(crate) faults: Vec<Fault>,
}

impl Verdict {
    /// Everything handled in order, and once unless events may come again.
    pub(crate) fn holds(&self, may_repeat: bool) -> bool {
        let repeated = self.duplicates > 0 && !may_repeat;
        self.lost == 0 && !repeated && self.order_violations == 0 && self.strangers == 0
    }
}

/// A delivery under way. The slot is free for the key's next event when this is dropped.
pub(crate) struct Visit<'a> {
    slot: Option<(&'a AtomicU64, u64)>,
    /// Whether this is the event's first delivery.
    pub(crate) first: bool,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Some((slot, next)) = self.slot {
            slot.store(next, Relaxed);
        }
    }
}

impl Checker {
    /// A checker of `passes` times the whole timeline.
    pub(crate) fn new(timeline: Arc<Timeline>, passes: usize) -> Self {
        let events = timeline.events.len() * passes;
        Self {
            handled: (0..events).map(|_| AtomicBool::new(false)).collect(),
            slots: (0..timeline.slots()).map(|_| AtomicU64::new(0)).collect(),
            timeline,
            duplicates: AtomicU64::new(0),
            order_violations: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            faults: Mutex::new(Vec::new()),
        }
    }

    /// Judges one delivery as its handler starts; `Ok` holds until the handler ends.
    ///
    /// Every access is relaxed on purpose. One atomic alone has one order of changes, so no
    /// duplicate escapes; and what one event of a key wrote is seen by the key's next one only if the
    /// runtime makes it so. If it did not, that would show here as an order violation, and be one.
    pub(crate) fn enter(
        &self,
        topic: Topic,
        key: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<(Message, Visit<'_>), Fault> {
        let message = Message::decode(payload)
            .map_err(|error| self.note(&self.strangers, Fault::Garbage(error)))?;
        let Some(slot) = self.recognise(topic, key, &message) else {
            let key = key.map(<[u8]>::to_vec);
            let fault = Fault::Stranger { topic, key, message: Some(message) };
            return Err(self.note(&self.strangers, fault));
        };
        // `recognise` found the id within the run.
        let first = !self.handled[message.id as usize].swap(true, Relaxed);
        if !first {
            self.note(&self.duplicates, Fault::Duplicate(message));
        }
        let slot = slot.map(|slot| (slot, self.check_order(slot, &message, first)));
        Ok((message, Visit { slot, first }))
    }

    /// The slot of a message that was published just so; `None`: it was not.
    fn recognise(
        &self,
        topic: Topic,
        key: Option<&[u8]>,
        message: &Message,
    ) -> Option<Option<&AtomicU64>> {
        let id = usize::try_from(message.id).ok().filter(|id| *id < self.handled.len())?;
        let event = &self.timeline.events[id % self.timeline.events.len()];
        let genuine = message.topic == topic
            && event.topic == topic
            && event.at == message.at
            && self.timeline.key(event).map(str::as_bytes) == key;
        genuine.then(|| self.timeline.slot(event).map(|slot| &self.slots[slot]))
    }

    /// Marks the slot busy; its next expected sequence number comes back.
    fn check_order(&self, slot: &AtomicU64, message: &Message, first: bool) -> u64 {
        let before = slot.fetch_or(BUSY, Relaxed);
        let expected = before & !BUSY;
        let sequence = u64::from(message.sequence);
        if before & BUSY != 0 {
            self.note(&self.order_violations, Fault::Overlap(*message));
        } else if first && sequence < expected {
            // One that skips ahead is no fault yet: it is when what it overtook comes late, or never.
            self.note(&self.order_violations, Fault::Late { message: *message, expected });
        }
        expected.max(sequence + 1)
    }

    #[cold]
    fn note(&self, counter: &AtomicU64, fault: Fault) -> Fault {
        counter.fetch_add(1, Relaxed);
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS_KEPT {
            faults.push(fault.clone());
        }
        fault
    }

    /// What became of the events, once no handler runs any more.
    pub(crate) fn verdict(&self) -> Verdict {
        let handled = self.handled.iter().filter(|handled| handled.load(Relaxed)).count();
        Verdict {
            handled: handled as u64,
            lost: (self.handled.len() - handled) as u64,
            duplicates: self.duplicates.load(Relaxed),
            order_violations: self.order_violations.load(Relaxed),
            strangers: self.strangers.load(Relaxed),
            faults: self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five events: N1 departs twice and arrives twice, and one departure of nobody.
    fn timeline() -> Arc<Timeline> {
        let text = "dep_time,dep_delay,air_time,tailnum,minute,time_hour\n\
            900,0,60,N1,0,2013-01-01T10:00:00Z\n\
            900,0,60,N1,0,2013-01-01T12:00:00Z\n\
            900,0,NA,NA,0,2013-01-01T14:00:00Z\n";
        Arc::new(Timeline::read(text.as_bytes()).unwrap())
    }

    /// The deliveries of an orderly run.
    fn deliveries(timeline: &Timeline) -> Vec<(Topic, Option<Vec<u8>>, Message)> {
        let mut next = vec![0; timeline.slots()];
        let mut deliveries = Vec::new();
        for (id, event) in timeline.events.iter().enumerate() {
            let sequence = timeline.slot(event).map_or(0, |slot| {
                next[slot] += 1;
                next[slot] - 1
            });
            let message = Message {
                topic: event.topic,
                id: id as u64,
                sequence,
                at: event.at,
                air_minutes: event.air_minutes,
                due: 0,
            };
            let key = timeline.key(event).map(|key| key.as_bytes().to_vec());
            deliveries.push((event.topic, key, message));
        }
        deliveries
    }

    /// Handles the deliveries named, one after the other.
    fn judge(order: &[usize]) -> Verdict {
        let timeline = timeline();
        let checker = Checker::new(Arc::clone(&timeline), 1);
        let deliveries = deliveries(&timeline);
        for &index in order {
            let (topic, key, message) = &deliveries[index];
            drop(checker.enter(*topic, key.as_deref(), &message.encode()));
        }
        checker.verdict()
    }

    fn counts(verdict: &Verdict) -> [u64; 5] {
        let v = verdict;
        [v.handled, v.lost, v.duplicates, v.order_violations, v.strangers]
    }

    #[test]
    fn an_orderly_run_holds_in_any_order_across_keys_and_topics() {
        // 0 departed, 1 arrived, 2 departed, 3 arrived, all of N1; 4 keyless.
        for order in [[0, 1, 2, 3, 4], [4, 1, 3, 0, 2], [0, 2, 1, 4, 3]] {
            let verdict = judge(&order);
            assert_eq!(counts(&verdict), [5, 0, 0, 0, 0], "{order:?}");
            assert!(verdict.holds(false) && verdict.faults.is_empty());
        }
    }

    #[test]
    fn losses_duplicates_and_disorder_are_convicted() {
        let reordered = judge(&[2, 0, 1, 3, 4]);
        assert_eq!(counts(&reordered), [5, 0, 0, 1, 0]);
        assert!(reordered.faults[0].to_string().contains("is number 0 of its aircraft"));
        assert_eq!(counts(&judge(&[0, 1, 3, 4])), [4, 1, 0, 0, 0]);
        // Delivered again after a restart, say: a duplicate, and no disorder.
        assert_eq!(counts(&judge(&[0, 1, 2, 0, 2, 3, 4])), [5, 0, 2, 0, 0]);
        assert_eq!(counts(&judge(&[0, 1, 2, 3, 4, 4])), [5, 0, 1, 0, 0]);
        for order in [&[2, 0, 1, 3, 4][..], &[0, 1, 3, 4], &[0, 1, 2, 3, 4, 4]] {
            assert!(!judge(order).holds(false));
        }
        assert!(judge(&[0, 1, 2, 3, 4, 4]).holds(true));
        for order in [&[2, 0, 1, 3, 4][..], &[0, 1, 3, 4, 4]] {
            assert!(!judge(order).holds(true));
        }
    }

    #[test]
    fn two_events_of_a_key_at_once_are_convicted() {
        let timeline = timeline();
        let checker = Checker::new(Arc::clone(&timeline), 1);
        let deliveries = deliveries(&timeline);
        let enter = |index: usize| {
            let (topic, key, message) = &deliveries[index];
            checker.enter(*topic, key.as_deref(), &message.encode())
        };
        let running = enter(0);
        drop(enter(1)); // Another topic: free to overlap.
        drop(enter(2));
        drop(running);
        let verdict = checker.verdict();
        assert_eq!(verdict.order_violations, 1);
        assert!(matches!(verdict.faults[0], Fault::Overlap(message) if message.id == 2));
    }

    #[test]
    fn records_nobody_published_are_convicted() {
        let timeline = timeline();
        let checker = Checker::new(Arc::clone(&timeline), 1);
        let (topic, key, message) = deliveries(&timeline).swap_remove(0);
        let payload = message.encode();
        let enter = |topic, key: Option<&[u8]>, payload: &[u8]| {
            assert!(checker.enter(topic, key, payload).is_err());
        };
        enter(topic, Some(b"N2"), &payload);
        enter(topic, None, &payload);
        enter(Topic::Arrived, key.as_deref(), &payload);
        enter(topic, key.as_deref(), &payload[1..]);
        enter(topic, key.as_deref(), &Message { id: 5, ..message }.encode());
        enter(topic, key.as_deref(), &Message { id: u64::MAX, ..message }.encode());
        enter(topic, key.as_deref(), &Message { at: 0, ..message }.encode());
        let verdict = checker.verdict();
        assert_eq!(counts(&verdict), [0, 5, 0, 0, 7]);
        assert!(!verdict.holds(false));
    }

    #[test]
    fn faults_kept_are_bounded() {
        let verdict = judge(&[0; 1_000]);
        assert_eq!((verdict.duplicates, verdict.faults.len()), (999, FAULTS_KEPT));
    }

    #[test]
    fn sequences_go_on_through_the_passes() {
        let timeline = timeline();
        let checker = Checker::new(Arc::clone(&timeline), 2);
        for (topic, key, message) in deliveries(&timeline) {
            drop(checker.enter(topic, key.as_deref(), &message.encode()));
        }
        // The publisher of the second pass begins to count again: that is late, not new.
        let (topic, key, message) = deliveries(&timeline).swap_remove(0);
        let again = Message { id: message.id + 5, ..message };
        drop(checker.enter(topic, key.as_deref(), &again.encode()));
        let going_on = Message { id: message.id + 7, sequence: 3, ..deliveries(&timeline)[2].2 };
        drop(checker.enter(topic, key.as_deref(), &going_on.encode()));
        assert_eq!(counts(&checker.verdict()), [7, 3, 0, 1, 0]);
        // A number given twice does not pass either.
        let repeated = Message { id: message.id + 8, ..deliveries(&timeline)[3].2 };
        drop(checker.enter(Topic::Arrived, key.as_deref(), &repeated.encode()));
        assert_eq!(counts(&checker.verdict()), [8, 2, 0, 2, 0]);
    }
}
