//! A run: the timeline published once or twice through the bus, watched by the checker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::board::Board;
use crate::checker::{Checker, Fault};
use crate::event::{Message, Timeline, Topic};
use crate::latency::Latencies;
use crate::pace::{Pace, Schedule, Stopwatch};

/// A run gives up on events that stay away when for so long none is handled: longer than a server takes to be back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What the publisher and the handlers share.
pub(crate) struct Run {
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) checker: Checker,
    pub(crate) passes: Vec<Pass>,
    stopwatch: Stopwatch,
}

/// One time through the timeline.
pub(crate) struct Pass {
    pub(crate) pace: Pace,
    pub(crate) board: Board,
    pub(crate) latencies: Latencies,
    /// How many events are published by now.
    pub(crate) published: AtomicU64,
}

/// What a pass took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Took {
    /// From the first publish to the last event handled.
    pub(crate) elapsed: Duration,
    /// Whether every event was handled before patience ended.
    pub(crate) complete: bool,
}

impl Run {
    /// A run of the passes given, with `threads` handling events.
    pub(crate) fn new(timeline: Timeline, paces: &[Pace], threads: usize) -> Self {
        let timeline = Arc::new(timeline);
        let pass = |&pace: &Pace| Pass {
            pace,
            board: Board::new(Arc::clone(&timeline)),
            latencies: Latencies::new(threads),
            published: AtomicU64::new(0),
        };
        Self {
            checker: Checker::new(Arc::clone(&timeline), paces.len()),
            passes: paces.iter().map(pass).collect(),
            timeline,
            stopwatch: Stopwatch::start(),
        }
    }

    /// The handler of all topics.
    ///
    /// # Errors
    /// For a record that was not published in this run: no attempt can make it right.
    pub(crate) fn handle(
        &self,
        topic: Topic,
        key: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<(), NotOurs> {
        let (message, visit) = self.checker.enter(topic, key, payload).map_err(NotOurs)?;
        // The checker lets in only ids of this run.
        let pass = &self.passes[message.id as usize / self.timeline.events.len()];
        if visit.first {
            pass.board.apply(&message);
            pass.latencies.record(message.due, self.stopwatch.now());
        }
        Ok(())
    }

    /// Publishes pass after pass; each waits until the one before it is handled. `flush` returns once all that
    /// `publish` was given is on the bus.
    ///
    /// # Errors
    /// The first error of `publish` or `flush`, which ends the run.
    pub(crate) fn publish<E>(
        &self,
        mut publish: impl FnMut(Topic, Option<&str>, u64, &[u8]) -> Result<(), E>,
        mut flush: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<Took>, E> {
        let mut sequences = vec![0; self.timeline.slots()];
        let mut took = Vec::with_capacity(self.passes.len());
        for number in 0..self.passes.len() {
            let start = self.publish_pass(number, &mut sequences, &mut publish)?;
            flush()?;
            took.push(self.await_handled(&self.passes[number], start));
        }
        Ok(took)
    }

    /// Publishes one pass; when it began comes back. `sequences` goes on from pass to pass.
    pub(crate) fn publish_pass<E>(
        &self,
        number: usize,
        sequences: &mut [u32],
        mut publish: impl FnMut(Topic, Option<&str>, u64, &[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let pass = &self.passes[number];
        let first_id = (number * self.timeline.events.len()) as u64;
        let schedule = Schedule::new(self.stopwatch, pass.pace);
        for (index, event) in self.timeline.events.iter().enumerate() {
            let sequence = self.timeline.slot(event).map_or(0, |slot| {
                sequences[slot] += 1;
                sequences[slot] - 1
            });
            let message = Message {
                topic: event.topic,
                id: first_id + index as u64,
                sequence,
                at: event.at,
                air_minutes: event.air_minutes,
                due: schedule.wait(index),
            };
            publish(event.topic, self.timeline.key(event), message.id, &message.encode())?;
            pass.published.store(index as u64 + 1, Relaxed);
        }
        Ok(schedule.start())
    }

    /// Waits until all of a pass is handled or nothing moves any more. Looks once a millisecond; the
    /// handlers note the time, so the looking does not show in the result.
    fn await_handled(&self, pass: &Pass, start: u64) -> Took {
        let expected = self.timeline.events.len() as u64;
        let (mut handled, mut moved) = (0, self.stopwatch.now());
        loop {
            let before = handled;
            handled = pass.latencies.count();
            let now = self.stopwatch.now();
            if handled != before {
                moved = now;
            }
            let complete = handled >= expected;
            if complete || u128::from(now.saturating_sub(moved)) > PATIENCE.as_nanos() {
                let elapsed = pass.latencies.last().saturating_sub(start);
                return Took { elapsed: Duration::from_nanos(elapsed), complete };
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A record that this run did not publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotOurs(Fault);

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NotOurs {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::mpsc;

    const ROWS: &str = "dep_time,dep_delay,air_time,tailnum,minute,time_hour\n\
        900,0,60,N1,0,2013-01-01T10:00:00Z\n\
        NA,NA,NA,NA,0,2013-01-01T11:00:00Z\n\
        900,0,60,N1,30,2013-01-01T10:00:00Z\n\
        900,0,60,N2,30,2013-01-01T10:00:00Z\n";

    fn run(paces: &[Pace]) -> Run {
        Run::new(Timeline::read(ROWS.as_bytes()).unwrap(), paces, 2)
    }

    #[test]
    fn a_faithful_bus_passes_and_every_pass_has_its_own_board() {
        let run = run(&[Pace::PerSecond(5_000.0), Pace::FlatOut]);
        let (sender, receiver) = mpsc::sync_channel::<(Topic, Option<String>, Vec<u8>)>(2);
        let took = thread::scope(|scope| {
            let run = &run;
            scope.spawn(move || {
                for (topic, key, payload) in receiver {
                    run.handle(topic, key.as_deref().map(str::as_bytes), &payload).unwrap();
                }
            });
            let publish = |topic, key: Option<&str>, _, payload: &[u8]| {
                sender.send((topic, key.map(str::to_owned), payload.to_vec()))
            };
            run.publish(publish, || Ok(())).inspect(|_| drop(sender)).unwrap()
        });
        let verdict = run.checker.verdict();
        assert!(verdict.holds(false), "{verdict:?}");
        assert_eq!(verdict.handled, 14);
        assert!(took[0].complete && took[0].elapsed >= Duration::from_nanos(6 * 200_000));
        for pass in &run.passes {
            assert_eq!(pass.latencies.count(), 7);
            assert_eq!(pass.published.load(Relaxed), 7);
            // N1 departs at 10:30 and arrived at 11:00; nothing carries over to the next pass.
            assert_eq!(pass.board.anomalies().0, 1);
        }
    }

    #[test]
    fn a_bus_that_reorders_repeats_or_corrupts_is_convicted() {
        let run = run(&[Pace::FlatOut]);
        let mut sent: Vec<(Topic, Option<String>, Vec<u8>)> = Vec::new();
        let deliver = |topic, key: &Option<String>, payload: &[u8]| {
            run.handle(topic, key.as_deref().map(str::as_bytes), payload)
        };
        let publish = |topic, key: Option<&str>, _, payload: &[u8]| {
            sent.push((topic, key.map(str::to_owned), payload.to_vec()));
            if sent.len() == 7 {
                for (topic, key, payload) in sent.iter().rev() {
                    deliver(*topic, key, payload).unwrap();
                }
            }
            Ok::<_, Infallible>(())
        };
        run.publish(publish, || Ok(())).unwrap();
        let (topic, key, payload) = &sent[0];
        deliver(*topic, key, payload).unwrap();
        assert!(deliver(*topic, &None, payload).is_err());
        assert!(deliver(*topic, key, b"?").is_err());
        let verdict = run.checker.verdict();
        assert_eq!((verdict.order_violations, verdict.duplicates, verdict.strangers), (2, 1, 2));
        // What came again is not handled again.
        assert_eq!(run.passes[0].latencies.count(), 7);
    }

    #[test]
    fn a_refused_publish_ends_the_run() {
        let run = run(&[Pace::FlatOut]);
        assert_eq!(run.publish(|_, _, _, _| Err("closed"), || Ok(())), Err("closed"));
        assert_eq!(run.checker.verdict().lost, 7);
        let run = self::run(&[Pace::FlatOut]);
        assert_eq!(run.publish(|_, _, _, _| Ok(()), || Err("gone")), Err("gone"));
    }

    #[test]
    fn no_events_are_no_trouble() {
        let header = ROWS.lines().next().unwrap();
        let run = Run::new(Timeline::read(header.as_bytes()).unwrap(), &[Pace::FlatOut], 1);
        let took = run.publish(|_, _, _, _| Ok::<_, Infallible>(()), || Ok(())).unwrap();
        assert!(took[0].complete && run.checker.verdict().holds(false));
        assert!(run.handle(Topic::Departed, None, &[0; 33]).is_err());
    }
}
