//! What cases are made of: handlers that take notes, a gate that holds them, a judge, and checks.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread::{self};

use super::fixture::Failed;
use super::stage::{Signal, Stage};
use crate::handler::Handled;
use crate::record::{Position, Record, RecordRef};
use crate::sync::{Arc, Mutex};
use crate::testing::{Ended, Oracle, Verdict};

/// Checks that two things are the same.
pub(super) fn equal<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Result<(), Failed> {
    if got == wanted {
        return Ok(());
    }
    Err(Failed::Broken(format!("{what}: {got:?} instead of {wanted:?}")))
}

/// Checks something.
pub(super) fn ensure(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(Failed::Broken(format!("not so: {what}"))) }
}

/// The error of what must not succeed.
pub(super) fn refused<T, E>(what: &str, result: Result<T, E>) -> Result<E, Failed> {
    result.err().ok_or_else(|| Failed::Broken(format!("was not refused: {what}")))
}

/// A record as a handler saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) key: Option<Vec<u8>>,
    /// `None` is null.
    pub(super) payload: Option<Vec<u8>>,
    pub(super) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) position: Option<Position>,
    pub(super) attempt: u32,
}

impl Note {
    pub(super) fn of(record: &Record) -> Self {
        let headers =
            record.headers().map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec)));
        // Those of one name have an order, and some protocols keep no other.
        let mut headers: Vec<_> = headers.collect();
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            key: record.key().map(<[u8]>::to_vec),
            payload: (!record.is_null()).then(|| record.payload().to_vec()),
            headers,
            position: record.position(),
            attempt: record.attempt(),
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(self.payload.as_deref().unwrap_or_default()).into_owned()
    }
}

/// The notes of handlers.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    notes: Arc<Mutex<Vec<Note>>>,
    signal: Signal,
}

impl Notes {
    pub(super) fn new(stage: &Stage) -> Self {
        Self { notes: Arc::default(), signal: stage.signal.clone() }
    }

    pub(super) fn take(&self, record: &Record) {
        self.notes.lock().push(Note::of(record));
        self.signal.ring();
    }

    pub(super) fn all(&self) -> Vec<Note> {
        self.notes.lock().clone()
    }

    pub(super) fn len(&self) -> usize {
        self.notes.lock().len()
    }

    /// The payloads, in the order of the notes.
    pub(super) fn texts(&self) -> Vec<String> {
        self.notes.lock().iter().map(Note::text).collect()
    }

    /// The payloads of one key's records.
    pub(super) fn texts_of(&self, key: &str) -> Vec<String> {
        let notes = self.notes.lock();
        let own = notes.iter().filter(|note| note.key.as_deref() == Some(key.as_bytes()));
        own.map(Note::text).collect()
    }

    /// A handler that takes notes and succeeds.
    pub(super) fn taker(&self) -> impl Fn(&Record) -> Handled + Send + Sync + 'static {
        let notes = self.clone();
        move |record: &Record| {
            notes.take(record);
            Ok(())
        }
    }
}

/// Holds async handlers until it is open.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    pub(super) fn open(&self) {
        let wakers = {
            let mut gate = self.0.lock();
            gate.0 = true;
            std::mem::take(&mut gate.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A future that ends once it is open.
    pub(super) fn pass(&self) -> Passing {
        Passing(self.clone())
    }
}

/// Gates of single keys; those that have none pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Gates(Arc<Mutex<HashMap<Vec<u8>, Gate>>>);

impl Gates {
    /// Shuts a gate for a key.
    pub(super) fn shut(&self, key: &str) -> Gate {
        let gate = Gate::default();
        self.0.lock().insert(key.into(), gate.clone());
        gate
    }

    /// Takes all gates away; who waits at one waits on.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// What [`Judge::gated`] asks.
    pub(super) fn of_key(&self) -> impl Fn(&[u8]) -> Option<Gate> + Send + Sync + 'static {
        let gates = self.clone();
        move |key| gates.0.lock().get(key).cloned()
    }
}

pub(super) struct Passing(Gate);

impl Future for Passing {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut gate = self.0.0.lock();
        if gate.0 {
            return Poll::Ready(());
        }
        gate.1.push(cx.waker().clone());
        Poll::Pending
    }
}

/// Is pending once, so that an async handler gives its thread up.
#[derive(Default)]
pub(super) struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The judge of one subscription: publishes numbered records, and follows what becomes of them.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    pub(super) oracle: Oracle,
    signal: Signal,
}

/// The number in a record's payload, which its publisher wrote.
pub(super) fn number(record: &Record) -> u64 {
    let digits = record.payload().iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

impl Judge {
    pub(super) fn new(stage: &Stage) -> Self {
        Self { oracle: Oracle::new(), signal: stage.signal.clone() }
    }

    /// The judge of another subscription to the same records.
    pub(super) fn scope(&self, name: &str) -> Self {
        Self { oracle: self.oracle.scope(name), signal: self.signal.clone() }
    }

    /// Publishes a numbered record, confirmed.
    pub(super) fn publish(
        &self,
        stage: &Stage,
        topic: &str,
        key: &str,
        number: u64,
    ) -> Result<Position, Failed> {
        self.oracle.published(key, number);
        stage.publish(topic, Record::new(key, number.to_string()))
    }

    fn start(&self, record: &Record) -> crate::testing::Attempt {
        self.oracle.start(record.key().unwrap_or_default(), number(record))
    }

    /// A record was handled, at once.
    pub(super) fn handled(&self, record: &Record) {
        self.start(record).end(Ended::Done);
        self.signal.ring();
    }

    /// A handler that succeeds.
    pub(super) fn sync(&self) -> impl Fn(&Record) -> Handled + Send + Sync + 'static {
        let judge = self.clone();
        move |record: &Record| {
            judge.handled(record);
            Ok(())
        }
    }

    /// An async one that gives its thread up twice.
    pub(super) fn future(
        &self,
    ) -> impl Fn(RecordRef) -> Pin<Box<dyn Future<Output = Handled> + Send>> + Send + Sync + 'static
    {
        let judge = self.clone();
        move |record: RecordRef| {
            let judge = judge.clone();
            Box::pin(async move {
                let attempt = judge.start(&record);
                Yield::default().await;
                Yield::default().await;
                attempt.end(Ended::Done);
                judge.signal.ring();
                Ok(())
            })
        }
    }

    /// A blocking one.
    pub(super) fn blocking(&self) -> impl Fn(RecordRef) -> Handled + Send + Sync + 'static {
        let judge = self.clone();
        move |record: RecordRef| {
            let attempt = judge.start(&record);
            thread::yield_now();
            attempt.end(Ended::Done);
            judge.signal.ring();
            Ok(())
        }
    }

    /// An async one that waits at the gate of the keys that have one.
    pub(super) fn gated(
        &self,
        gate_of: impl Fn(&[u8]) -> Option<Gate> + Send + Sync + 'static,
    ) -> impl Fn(RecordRef) -> Pin<Box<dyn Future<Output = Handled> + Send>> + Send + Sync + 'static
    {
        let judge = self.clone();
        move |record: RecordRef| {
            let gate = gate_of(record.key().unwrap_or_default());
            let judge = judge.clone();
            Box::pin(async move {
                let attempt = judge.start(&record);
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                attempt.end(Ended::Done);
                judge.signal.ring();
                Ok(())
            })
        }
    }

    /// Waits until everything that was published is handled, and judges.
    pub(super) fn verdict(&self, stage: &Stage) -> Result<Verdict, Failed> {
        let met = stage.until("everything that was published is handled", || {
            let verdict = self.oracle.verdict();
            verdict.handled == verdict.published || verdict.order > 0
        });
        let verdict = self.oracle.verdict();
        if !verdict.is_clean() {
            return Err(Failed::Broken(verdict.to_string()));
        }
        met.map(|()| verdict)
    }

    /// As [`verdict`](Self::verdict), where it only has to be clean.
    pub(super) fn concludes(&self, stage: &Stage) -> Result<(), Failed> {
        self.verdict(stage).map(|_| ())
    }
}
