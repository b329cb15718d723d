//! Events of aircraft: what a flight becomes, in time order, and how an event travels.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;

use crate::flights::{self, Flight, ReadError, Tally};

/// What happened, and the topic that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Departed,
    Arrived,
    Cancelled,
}

impl Topic {
    pub(crate) const ALL: [Self; 3] = [Self::Departed, Self::Arrived, Self::Cancelled];

    /// The topic's name on the bus.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Departed => "flights.departed",
            Self::Arrived => "flights.arrived",
            Self::Cancelled => "flights.cancelled",
        }
    }

    /// The name of the subscription that handles it.
    pub(crate) const fn subscription(self) -> &'static str {
        match self {
            Self::Departed => "board-departed",
            Self::Arrived => "board-arrived",
            Self::Cancelled => "board-cancelled",
        }
    }
}

/// The number of an aircraft in [`Timeline::tails`].
pub(crate) type Aircraft = u32;

/// One event, as the timeline keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// Seconds since 1970, in UTC.
    pub(crate) at: i64,
    /// How long an arrival had been in the air; 0 for other topics.
    pub(crate) air_minutes: u32,
    aircraft: Aircraft,
    /// The row's line in the file (the last number there is, if it is past that).
    pub(crate) line: u32,
    pub(crate) topic: Topic,
}

const NO_AIRCRAFT: Aircraft = Aircraft::MAX;

impl Event {
    /// `None`: a keyless event.
    pub(crate) fn aircraft(&self) -> Option<Aircraft> {
        (self.aircraft != NO_AIRCRAFT).then_some(self.aircraft)
    }
}

/// All events of a file in time order, ties in file order.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) events: Vec<Event>,
    /// The aircraft's tail numbers.
    pub(crate) tails: Vec<Box<str>>,
    pub(crate) tally: Tally,
}

impl Timeline {
    /// Reads a file of flights.
    pub(crate) fn read(input: impl Read) -> Result<Self, ReadError> {
        let mut events = Vec::new();
        let mut aircraft = Names::default();
        let tally = flights::read(input, |flight| {
            // Ids of two passes over the events have to fit 32 bits and one.
            if events.len() >= u32::MAX as usize - 2 {
                return Err(ReadError::TooMany);
            }
            let aircraft = flight.tail.map_or(NO_AIRCRAFT, |tail| aircraft.number(tail));
            add_events(&flight, aircraft, &mut events);
            Ok(())
        })?;
        events.shrink_to_fit();
        // Stable: events of one instant stay as the file has them.
        events.sort_by_key(|event| event.at);
        Ok(Self { events, tails: aircraft.names, tally })
    }

    /// The record key of an event.
    pub(crate) fn key(&self, event: &Event) -> Option<&str> {
        event.aircraft().map(|aircraft| &*self.tails[aircraft as usize])
    }

    /// How many places [`slot`](Self::slot) has.
    pub(crate) fn slots(&self) -> usize {
        self.tails.len() * Topic::ALL.len()
    }

    /// The place of an event's (topic, aircraft) in a table of all; `None` if it is keyless.
    pub(crate) fn slot(&self, event: &Event) -> Option<usize> {
        event.aircraft().map(|aircraft| aircraft as usize * Topic::ALL.len() + event.topic as usize)
    }

    /// How many events a topic has.
    pub(crate) fn count(&self, topic: Topic) -> usize {
        self.events.iter().filter(|event| event.topic == topic).count()
    }

    /// How many events no aircraft has.
    pub(crate) fn keyless(&self) -> usize {
        self.events.iter().filter(|event| event.aircraft().is_none()).count()
    }
}

fn add_events(flight: &Flight<'_>, aircraft: Aircraft, events: &mut Vec<Event>) {
    let line = u32::try_from(flight.line).unwrap_or(u32::MAX);
    let mut add =
        |topic, at, air_minutes| events.push(Event { at, air_minutes, aircraft, line, topic });
    let Some(departed) = flight.departed else {
        return add(Topic::Cancelled, flight.scheduled, 0);
    };
    add(Topic::Departed, departed, 0);
    if let Some(air_minutes) = flight.air_minutes {
        add(Topic::Arrived, departed + i64::from(air_minutes) * 60, air_minutes);
    }
}

/// Names by number and numbers by name.
#[derive(Default)]
struct Names {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, Aircraft>,
}

impl Names {
    fn number(&mut self, name: &str) -> Aircraft {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        // Fewer names than events, and those fit.
        let number = self.names.len() as Aircraft;
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }
}

/// An event under way: what a handler gets to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: Topic,
    /// The event's number in the timeline, counted on through the passes.
    pub(crate) id: u64,
    /// The event's number within its (topic, aircraft), from 0, written by the publisher.
    pub(crate) sequence: u32,
    pub(crate) at: i64,
    pub(crate) air_minutes: u32,
    /// When it was due to be published: nanoseconds since the run's start.
    pub(crate) due: u64,
}

/// An encoded [`Message`]: its fields one after the other, little-endian.
pub(crate) type Payload = [u8; 33];

/// Why a payload is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Length(usize),
    Topic(u8),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => {
                write!(f, "{length} bytes instead of {}", size_of::<Payload>())
            }
            Self::Topic(number) => write!(f, "no topic has number {number}"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl Message {
    pub(crate) fn encode(&self) -> Payload {
        let mut payload = [0; size_of::<Payload>()];
        let mut rest = &mut payload[..];
        let mut put = |bytes: &[u8]| {
            let (field, after) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            field.copy_from_slice(bytes);
            rest = after;
        };
        put(&[self.topic as u8]);
        put(&self.id.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.at.to_le_bytes());
        put(&self.air_minutes.to_le_bytes());
        put(&self.due.to_le_bytes());
        payload
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let &payload: &Payload =
            payload.try_into().map_err(|_| DecodeError::Length(payload.len()))?;
        let [topic, rest @ ..] = payload;
        let topic = *Topic::ALL.get(usize::from(topic)).ok_or(DecodeError::Topic(topic))?;
        let mut rest = &rest[..];
        Ok(Self {
            topic,
            id: u64::from_le_bytes(take(&mut rest)),
            sequence: u32::from_le_bytes(take(&mut rest)),
            at: i64::from_le_bytes(take(&mut rest)),
            air_minutes: u32::from_le_bytes(take(&mut rest)),
            due: u64::from_le_bytes(take(&mut rest)),
        })
    }
}

/// The next `N` bytes; zeros where there are none, which the length check above rules out.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk::<N>() {
        Some((field, after)) => {
            *rest = after;
            *field
        }
        None => [0; N],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: &str = "dep_time,dep_delay,air_time,tailnum,minute,time_hour\n";

    #[test]
    fn flights_become_events_in_time_order() {
        let text = format!(
            "{HEADER}900,0,60,N1,0,2013-01-01T10:00:00Z\n\
             NA,NA,NA,N2,0,2013-01-01T11:00:00Z\n\
             850,-10,70,NA,0,2013-01-01T10:00:00Z\n\
             900,60,NA,N2,0,2013-01-01T10:00:00Z\n"
        );
        let timeline = Timeline::read(text.as_bytes()).unwrap();
        let shown: Vec<_> = timeline
            .events
            .iter()
            .map(|event| (event.topic, timeline.key(event), event.line, event.air_minutes))
            .collect();
        // Four events share 11:00; the file's order decides among them.
        assert_eq!(
            shown,
            [
                (Topic::Departed, None, 4, 0),
                (Topic::Departed, Some("N1"), 2, 0),
                (Topic::Arrived, Some("N1"), 2, 60),
                (Topic::Cancelled, Some("N2"), 3, 0),
                (Topic::Arrived, None, 4, 70),
                (Topic::Departed, Some("N2"), 5, 0),
            ]
        );
        assert_eq!((timeline.tails.len(), timeline.keyless(), timeline.slots()), (2, 2, 6));
        let mut slots: Vec<_> =
            timeline.events.iter().filter_map(|event| timeline.slot(event)).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 4, "a slot for each (topic, aircraft)");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Message::decode(b""), Err(DecodeError::Length(0)));
        assert_eq!(Message::decode(&[0; 34]), Err(DecodeError::Length(34)));
        assert_eq!(Message::decode(&[3; 33]), Err(DecodeError::Topic(3)));
    }

    proptest! {
        #[test]
        fn messages_survive_the_way(
            topic in 0..3_usize, id: u64, sequence: u32, at: i64, air_minutes: u32, due: u64,
        ) {
            let message = Message { topic: Topic::ALL[topic], id, sequence, at, air_minutes, due };
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }
}
