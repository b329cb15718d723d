//! Keeping the mark of a durable consumer: written beside it once it has begun, once in a while, and at its end; read by
//! the next start. Nothing waits for it but that start and the end, and none fails without it.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream;

use super::choice::AckMode;
use super::consumer::Consumer;
use super::floors::Floors;
use super::mark::{Mark, nanos};
use super::pull::Deliveries;
use crate::bus::{BrokerError, BusEvent};
use crate::reply::reply;

/// How often it is written while there is news.
const EVERY: Duration = Duration::from_secs(5);
/// How soon it is looked again whether there is a place to write.
const SOON: Duration = Duration::from_millis(100);
/// How long the last one may take.
const LAST: Duration = Duration::from_secs(2);

impl<D: Deliveries> Consumer<D> {
    /// The place that the last life had come to, if that is lost and the durable does not show it.
    pub(super) async fn lost_meanwhile(
        &mut self,
        stream: &stream::Info,
        info: Option<&Info>,
    ) -> Option<u64> {
        if !self.marks.looked {
            match Floors::peek(&self.shared.links.control, &self.mark_key()).await {
                Ok(text) => {
                    let name = &stream.config.name;
                    self.marks.found = text.and_then(|text| Mark::decode(&text, name));
                    self.marks.looked = true;
                }
                Err(error) => self.say_unmarked(&error),
            }
        }
        let whole = self.plan.has_whole(&stream.config);
        let mark = self.marks.found.filter(|mark| mark.is_lost(stream, info, whole))?;
        self.plan.made_anew |= mark.is_of_another(stream);
        Some(mark.place)
    }

    /// The barrier is over: from here on a mark is kept.
    pub(super) fn begin_marks(&mut self) {
        (self.marks.found, self.marks.looked) = (None, true);
        // They may be counted anew.
        self.marks.newest = 0;
        self.marks.made = self.plan.made.map(nanos);
        self.marks.due = self.now;
    }

    /// Has the mark follow, if it is time and there is news. Never waits.
    pub(super) fn mark(&mut self) {
        if self.now < self.marks.due || self.recovery.is_under_way() {
            return;
        }
        self.marks.due = self.now.after(EVERY);
        self.hear_mark();
        if self.marks.writing.is_some() {
            return;
        }
        match self.mark_now() {
            Some(mark) if Some(mark) != self.marks.written => {
                let (answer, reply) = reply();
                let write = self.write_mark(mark);
                self.shared.links.control.io.spawn(async move { answer.give(write.await) });
                self.marks.writing = Some((mark, reply));
            }
            Some(_) => {}
            None => self.marks.due = self.now.after(SOON),
        }
    }

    /// Writes the last one, and waits for that.
    pub(super) async fn end_marks(&mut self) {
        let last = async {
            if let Some((mark, reply)) = self.marks.writing.take() {
                self.marked(mark, reply.await);
            }
            let mark = self.mark_now().filter(|mark| Some(*mark) != self.marks.written);
            // Where it could not be kept before nobody waits for it.
            if let Some(mark) = mark.filter(|_| !self.marks.said) {
                let written = self.write_mark(mark).await;
                self.marked(mark, Some(written));
            }
        };
        let _ = tokio::time::timeout(LAST, last).await;
    }

    fn mark_key(&self) -> String {
        format!("mark.{}", self.plan.kept_as)
    }

    /// Where the consumer stands, if it is anywhere. During a barrier nobody knows.
    fn mark_now(&mut self) -> Option<Mark> {
        if self.plan.acks == AckMode::Checkpoint || self.recovery.is_under_way() {
            return None;
        }
        let made = self.marks.made?;
        let ledger = self.source.ledger();
        let base = Some(self.marks.behind).filter(|behind| *behind > 0);
        let place = ledger.frontier().or(base)?;
        // As many deliveries at most are of places from there on.
        let open = ledger.newest().map_or(0, |newest| (newest + 1).saturating_sub(place));
        // What came again by itself has a number more than places.
        let next = match self.marks.newest {
            0 => self.sequence.next().saturating_sub(self.kept.len() as u64),
            newest => newest + 1,
        };
        let number = if self.watch.is_whole() { next.saturating_sub(open) } else { 0 };
        Some(Mark { made, durable: self.marks.durable, place, number, at: 0 })
    }

    fn write_mark(
        &self,
        mark: Mark,
    ) -> impl Future<Output = Result<Floors, BrokerError>> + Send + 'static {
        let (shared, key) = (self.shared.clone(), self.mark_key());
        let text = Mark { at: nanos(self.shared.runtime.clock().system_time().into()), ..mark }
            .encode(&self.plan.durable.stream);
        let (floors, replicas) =
            (self.marks.floors.clone(), self.plan.durable.config.num_replicas.max(1));
        async move {
            let floors = match floors {
                Some(floors) => floors,
                None => Floors::open(&shared.links.control, replicas).await?,
            };
            floors.put(&key, text).await?;
            Ok(floors)
        }
    }

    /// Hears what became of the write that is under way.
    fn hear_mark(&mut self) {
        let Some((mark, reply)) = &mut self.marks.writing else { return };
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(answer) = std::pin::Pin::new(reply).poll(&mut cx) {
            let mark = *mark;
            self.marks.writing = None;
            self.marked(mark, answer);
        }
    }

    fn marked(&mut self, mark: Mark, answer: Option<Result<Floors, BrokerError>>) {
        match answer {
            Some(Ok(floors)) => {
                (self.marks.floors, self.marks.written) = (Some(floors), Some(mark));
                self.marks.said = false;
            }
            Some(Err(error)) => self.say_unmarked(&error),
            None => {}
        }
    }

    #[cold]
    fn say_unmarked(&mut self, error: &BrokerError) {
        if !std::mem::replace(&mut self.marks.said, true) {
            let text = format!("a later start may not notice that its place is lost: {error}");
            log::warn!("{}: {text}", self.plan.label());
            self.shared.health.say(BusEvent::Noted { about: self.plan.label(), text });
        }
    }
}
