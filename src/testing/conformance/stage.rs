//! Where a case plays: a runtime and a bus of its own, and how it waits for what is to happen.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::fixture::{Failed, Fixture, Loss, Opened, Progress, Restart, Shape};
use crate::bus::{Bus, BusSubscription};
use crate::clock::{Clock, SystemClock};
use crate::handler::Handled;
use crate::notice::Notice;
use crate::record::{Position, Record, RecordRef};
use crate::runtime::Runtime;
use crate::subscriber::Subscriber;
use crate::subscription::Subscription;
use crate::sync::{Arc, Mutex};
use crate::testing::{VirtualClock, settle};

/// One promise, and what tries it.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) run: fn(&Stager<'_>) -> Result<(), Failed>,
}

/// Gathers cases under their functions' names.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        pub(super) const CASES: &[super::stage::Case] =
            &[$(super::stage::Case { name: stringify!($case), run: $case }),+];
    };
}
pub(super) use cases;

/// How long a case waits on a virtual clock.
const VIRTUAL: Duration = Duration::from_secs(600);

/// Wakes the case's thread when something has happened.
#[derive(Clone, Debug)]
pub(super) struct Signal(Thread);

impl Signal {
    pub(super) fn new() -> Self {
        Self(thread::current())
    }

    pub(super) fn ring(&self) {
        self.0.unpark();
    }

    /// Waits for a ring, or `most`.
    pub(super) fn wait(&self, most: Duration) {
        thread::park_timeout(most);
    }
}

/// Opens stages for one case.
pub(super) struct Stager<'a> {
    fixture: &'a dyn Fixture,
    case: &'static str,
    patience: Duration,
}

impl<'a> Stager<'a> {
    pub(super) fn new(fixture: &'a dyn Fixture, case: &'static str, patience: Duration) -> Self {
        Self { fixture, case, patience }
    }

    pub(super) fn fixture(&self) -> &dyn Fixture {
        self.fixture
    }

    pub(super) fn open(&self) -> Result<Stage, Failed> {
        self.open_as(Shape::new())
    }

    /// Runs a case with one and two workers, with one lane and several, otherwise as `shape` says.
    pub(super) fn each_shape(
        &self,
        shape: Shape,
        case: impl Fn(Stage) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        [(1, 1), (2, 1), (1, 8), (2, 8)].into_iter().try_for_each(|(workers, lanes)| {
            let shape = Shape { workers, lanes, ..shape };
            self.open_as(shape).and_then(&case).map_err(|failed| match failed {
                Failed::Broken(why) => Failed::Broken(format!("{shape}: {why}")),
                unsupported => unsupported,
            })
        })
    }

    pub(super) fn open_as(&self, shape: Shape) -> Result<Stage, Failed> {
        let clock = self.fixture.has_virtual_time().then(VirtualClock::new);
        let notices = Arc::<Mutex<Vec<Notice>>>::default();
        let taken = notices.clone();
        let builder = Runtime::builder()
            .workers(shape.workers)
            .lanes(shape.lanes)
            .on_notice(move |notice| taken.lock().push(notice.clone()));
        let builder = match &clock {
            Some(clock) => builder.clock(clock.clone()),
            None => builder,
        };
        let runtime = builder.build()?;
        let opened = self.fixture.open(&runtime, &shape).inspect_err(|_| runtime.stop_now())?;
        // Topics of a broker outlive the case: each run has names of its own.
        let run = &uuid::Uuid::now_v7().simple().to_string()[20..];
        let tag = format!("{}-{run}", &self.case[..self.case.len().min(40)]);
        let (bus, signal) = (opened.bus(), Signal::new());
        let patience = self.patience;
        Ok(Stage { runtime, clock, bus, opened, notices, signal, tag, patience })
    }
}

/// A runtime and a bus, for one case.
pub(super) struct Stage {
    pub(super) runtime: Runtime,
    clock: Option<VirtualClock>,
    pub(super) bus: Bus,
    opened: Box<dyn Opened>,
    notices: Arc<Mutex<Vec<Notice>>>,
    pub(super) signal: Signal,
    tag: String,
    patience: Duration,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.runtime.stop_now();
    }
}

impl Stage {
    /// A name of a topic or a subscription that nobody else has.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// A subscription's policy, under a name that nobody else has.
    pub(super) fn policy(&self, name: &str) -> Subscription {
        Subscription::new(self.name(name))
    }

    /// Keys whose records all go through one lane of a subscription.
    pub(super) fn keys(&self, subscription: &BusSubscription, count: usize) -> Vec<String> {
        let keys = (0..).map(|number| format!("key-{number}"));
        keys.filter(|key| lane(subscription.subscriber(), key) == 0).take(count).collect()
    }

    /// Lays a stone into the lane of `key`, or, if that is empty, of serial records without a key: a record
    /// that is pending for as long as the stage is there. What the lane handles has passed a busy key.
    pub(super) fn lay_stone(&self, beside: &BusSubscription, key: &str) -> Result<(), Failed> {
        let (lies, signal) = (Arc::new(Mutex::new(false)), self.signal.clone());
        let told = lies.clone();
        let stones = self.runtime.subscribe_async(self.policy("stone"), move |_: RecordRef| {
            *told.lock() = true;
            signal.ring();
            std::future::pending::<Handled>()
        })?;
        let wanted = lane(beside.subscriber(), key);
        let mut keys = (0..).map(|number| format!("stone-{number}"));
        let key = keys.find(|key| lane(&stones, key) == wanted).unwrap_or_default();
        stones.submit(Record::new(key, ""))?;
        self.until("the stone lies", || *lies.lock())
    }

    /// Waits until `met`. On a virtual clock, time goes on whenever nothing else does.
    pub(super) fn until(&self, what: &str, mut met: impl FnMut() -> bool) -> Result<(), Failed> {
        let real = SystemClock::new();
        let give_up = real.now().after(self.patience);
        let late = self.clock.as_ref().map(|clock| clock.now().after(VIRTUAL));
        loop {
            if self.clock.is_some() {
                settle(&self.runtime);
            }
            if met() {
                return Ok(());
            }
            if real.now() >= give_up {
                return Err(Failed::Broken(format!("did not happen: {what}")));
            }
            let went_on = match (&self.clock, late) {
                (Some(clock), Some(late)) => clock.now() < late && clock.advance_to_next(),
                _ => false,
            };
            if !went_on {
                // Somebody else's thread has the turn: a broker, a blocking handler.
                self.signal.wait(Duration::from_millis(5));
            }
        }
    }

    /// Lets `time` pass, for what must not happen meanwhile.
    pub(super) fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => {
                let until = clock.now().after(time);
                settle(&self.runtime);
                // Step by step, so that what is due meanwhile is done at its time.
                while clock.next_deadline().is_some_and(|next| next <= until) {
                    clock.advance_to_next();
                    settle(&self.runtime);
                }
                clock.advance_to(until);
                settle(&self.runtime);
            }
            None => {
                let (real, end) = (SystemClock::new(), SystemClock::new().now().after(time));
                while real.now() < end {
                    self.signal.wait(end.since(real.now()));
                }
            }
        }
    }

    /// Waits for a future.
    pub(super) fn finish<T>(
        &self,
        what: &str,
        mut future: impl Future<Output = T> + Unpin,
    ) -> Result<T, Failed> {
        let mut output = poll(&mut future);
        if output.is_none() {
            self.until(what, || {
                output = poll(&mut future);
                output.is_some()
            })?;
        }
        output.ok_or_else(|| Failed::Broken(format!("did not happen: {what}")))
    }

    /// Publishes, confirmed.
    pub(super) fn publish(&self, topic: &str, record: Record) -> Result<Position, Failed> {
        Ok(self.finish("the publish", self.bus.publish(topic, record))??)
    }

    pub(super) fn restart(
        &self,
        subscription: &BusSubscription,
        how: Restart,
    ) -> Result<(), Failed> {
        self.opened.restart(subscription, how)
    }

    pub(super) fn progress(&self, of: &BusSubscription) -> Result<Vec<Progress>, Failed> {
        self.opened.progress(of)
    }

    pub(super) fn committed(&self, of: &BusSubscription, partition: u32) -> Result<u64, Failed> {
        let progress = self.progress(of)?;
        let own = progress.iter().find(|progress| progress.partition == partition);
        own.map(|progress| progress.committed)
            .ok_or_else(|| Failed::Broken(format!("no progress of partition {partition}")))
    }

    /// Waits until everything that was published is committed as finished.
    pub(super) fn until_committed(&self, of: &BusSubscription) -> Result<(), Failed> {
        self.progress(of)?;
        let met = self.until("everything is committed", || {
            self.progress(of)
                .is_ok_and(|all| all.iter().all(|progress| progress.committed == progress.end))
        });
        met.map_err(|failed| {
            let (progress, seen) = (self.progress(of), self.runtime.snapshot());
            let what = format!("{failed}: {progress:?}, busy {:?}, {:?}", seen.busy, seen.outcomes);
            Failed::Broken(what)
        })
    }

    pub(super) fn break_topic(&self, topic: &str, broken: bool) -> Result<(), Failed> {
        self.opened.break_topic(topic, broken)
    }

    pub(super) fn hold_topic(&self, topic: &str, held: bool) -> Result<(), Failed> {
        self.opened.hold_topic(topic, held)
    }

    pub(super) fn publish_foreign(&self, topic: &str, record: Record) -> Result<(), Failed> {
        self.opened.publish_foreign(topic, record)
    }

    pub(super) fn lose(&self, topic: &str, loss: Loss) -> Result<(), Failed> {
        self.opened.lose(topic, loss)
    }

    pub(super) fn keeps_parked(&self) -> bool {
        self.opened.keeps_parked()
    }

    pub(super) fn unsubscribe(&self, subscription: &BusSubscription) -> Result<(), Failed> {
        self.opened.unsubscribe(subscription)
    }

    /// How many notices are such.
    pub(super) fn notices(&self, wanted: impl Fn(&Notice) -> bool) -> usize {
        self.notices.lock().iter().filter(|notice| wanted(notice)).count()
    }

    /// The partitions that failures stopped, and what the last attempts said.
    pub(super) fn stopped(&self) -> Vec<(Option<u32>, String)> {
        let notices = self.notices.lock();
        let stopped = notices.iter().filter_map(|notice| match notice {
            Notice::Stopped { partition, error, .. } => Some((*partition, error.to_string())),
            _ => None,
        });
        stopped.collect()
    }
}

/// The lane that a subscription has a key in.
fn lane(subscriber: &Subscriber, key: &str) -> u32 {
    subscriber.core.router.route(subscriber.entry.generation, key.as_bytes()).lane
}

/// The output of a future that is ready.
pub(super) fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
