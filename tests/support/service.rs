//! A service on the bus that notes what it handles, in its order.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keylane::nats::{NatsBuilder, NatsBus};
use keylane::{BusError, BusSubscription, HandlerError, Letter, Record, Runtime, Subscription};
use parking_lot::Mutex;

/// What the service has done; shared by its next life.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    handled: Vec<(String, u64)>,
    letters: Vec<(String, String)>,
    stuck: BTreeSet<String>,
    letters_refused: bool,
}

impl Notes {
    /// Keys whose records fail until they are freed.
    pub fn stick(&self, key: &str) {
        self.0.lock().stuck.insert(key.to_owned());
    }

    pub fn free(&self) {
        self.0.lock().stuck.clear();
    }

    /// Whether letters find nobody who takes them.
    pub fn refuse_letters(&self, refused: bool) {
        self.0.lock().letters_refused = refused;
    }

    pub fn handled(&self) -> Vec<(String, u64)> {
        self.0.lock().handled.clone()
    }

    /// Each letter's payload and error.
    pub fn letters(&self) -> Vec<(String, String)> {
        self.0.lock().letters.clone()
    }

    /// Waits until so many records were handled, each at least once.
    pub fn wait(&self, count: usize, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let handled: BTreeSet<_> = self.0.lock().handled.iter().cloned().collect();
            if handled.len() >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{} of {count} records were handled", handled.len());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn wait_letters(&self, count: usize, within: Duration) {
        let deadline = Instant::now() + within;
        while self.letters().len() < count {
            assert!(Instant::now() < deadline, "{} of {count} letters", self.letters().len());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Every key's records came in their order, each first time; the number of those that came again.
    pub fn assert_order(&self) -> usize {
        let (mut last, mut again) = (BTreeMap::<String, u64>::new(), 0);
        let mut seen = BTreeSet::new();
        for (key, number) in self.handled() {
            if !seen.insert((key.clone(), number)) {
                again += 1;
                continue;
            }
            let before = last.insert(key.clone(), number).unwrap_or(0);
            assert!(before < number, "{key}: {number} after {before}");
        }
        again
    }

    fn handle(&self, record: &Record) -> Result<(), HandlerError> {
        let text = String::from_utf8_lossy(record.payload());
        let (key, number) = text.split_once(' ').expect("the test wrote it");
        let mut noted = self.0.lock();
        if noted.stuck.contains(key) {
            return Err("stuck".into());
        }
        noted.handled.push((key.to_owned(), number.parse().expect("a number")));
        Ok(())
    }

    fn letter(&self, letter: &Letter) -> Result<(), HandlerError> {
        let mut noted = self.0.lock();
        if noted.letters_refused {
            return Err("nobody takes letters".into());
        }
        let payload = String::from_utf8_lossy(letter.record.payload()).into_owned();
        noted.letters.push((payload, letter.error.to_string()));
        Ok(())
    }
}

pub struct Service {
    pub runtime: Runtime,
    pub bus: NatsBus,
    pub subscription: BusSubscription,
}

impl Service {
    pub fn start(
        url: &str,
        topic: &str,
        notes: &Notes,
        set: impl FnOnce(NatsBuilder) -> NatsBuilder,
        policy: impl FnOnce(Subscription) -> Subscription,
    ) -> Result<Self, BusError> {
        let runtime = Runtime::builder().workers(2).build().expect("a runtime");
        let executor = tokio::runtime::Builder::new_current_thread().build().expect("an executor");
        let bus = executor.block_on(set(NatsBus::builder(&runtime, url)).connect())?;
        let (handler, letters) = (notes.clone(), notes.clone());
        let subscription = Subscription::new("service")
            .retry(keylane::Retry::fixed(Duration::from_millis(20)).forever())
            .dead_letter_to(move |letter: &Letter| letters.letter(letter));
        let handle = move |record: &Record| handler.handle(record);
        match bus.subscribe(topic, policy(subscription), handle).wait() {
            Ok(subscription) => Ok(Self { runtime, bus, subscription }),
            Err(error) => {
                let _ = bus.close(Duration::from_secs(5)).wait();
                runtime.stop_now();
                Err(error)
            }
        }
    }

    /// Why it stopped, within a minute.
    pub fn wait_stopped(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(failure) = self.stopped() {
                return failure;
            }
            assert!(Instant::now() < deadline, "it does not stop: {:?}", self.bus.health());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn stopped(&self) -> Option<String> {
        use keylane::{Health, ReasonKind};
        let (Health::Degraded(reasons) | Health::Down(reasons)) = self.bus.health() else {
            return None;
        };
        let stopped = reasons.iter().find(|reason| reason.kind == ReasonKind::SourceStopped);
        stopped.map(|reason| reason.text.to_string())
    }

    pub fn close(self) {
        self.bus.close(Duration::from_secs(10)).wait().expect("the bus closes");
        self.runtime.close(Duration::from_secs(10)).expect("the runtime closes");
    }

    /// Ends it at once, as a crash would, as far as a thread can.
    pub fn crash(self) {
        self.runtime.stop_now();
        // A process that is gone asks for nothing more: its loops have ended.
        let _ = self.bus.close(Duration::ZERO).wait();
    }
}
