//! What tests of a whole runtime share: doors that hold handlers up, waiting without sleeping, seeds.
#![allow(dead_code)] // each test file uses its part

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use keylane::testing::VirtualClock;
use keylane::{Builder, Handled, Notice, Record, Runtime};
use parking_lot::{Condvar, Mutex};

/// Longer than any of these tests may take: a wait that comes to it has hung.
pub const HANG: Duration = Duration::from_secs(60);
/// A wait that nobody is to see the end of.
pub const LONG: Duration = Duration::from_secs(3_600);

/// A door that handlers wait at, and a count of those that came.
#[derive(Clone, Default)]
pub struct Door(Arc<(Mutex<(bool, usize)>, Condvar)>);

impl Door {
    /// A closed door.
    pub fn new() -> Self {
        Self::default()
    }

    /// Comes to the door and waits until it is open.
    pub fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        state.1 += 1;
        changed.notify_all();
        while !state.0 {
            changed.wait(&mut state);
        }
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.0.0.lock().0 = true;
        self.0.1.notify_all();
    }

    pub fn is_open(&self) -> bool {
        self.0.0.lock().0
    }

    /// How many came.
    pub fn came(&self) -> usize {
        self.0.0.lock().1
    }

    /// Waits until `count` have come.
    pub fn wait_for(&self, count: usize) {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        while state.1 < count {
            assert!(!changed.wait_for(&mut state, HANG).timed_out(), "{count} never came");
        }
    }
}

/// A flag that async handlers wait for, and whose wakers it calls.
#[derive(Clone, Default)]
pub struct Flag(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Flag {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raise(&self) {
        let wakers = {
            let mut state = self.0.lock();
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let own = self.0.clone();
        std::future::poll_fn(move |cx| {
            let mut state = own.lock();
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        })
    }
}

/// Waits, without sleeping, until `done` says so.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < HANG, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Drives a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    let begun = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        std::thread::park_timeout(HANG);
        assert!(begun.elapsed() < HANG, "the future hangs");
    }
}

/// A waker that counts its calls.
#[derive(Default)]
pub struct Calls(AtomicUsize);

impl Calls {
    pub fn new() -> (Arc<Self>, Waker) {
        let calls = Arc::new(Self::default());
        (calls.clone(), Waker::from(calls))
    }

    pub fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Polls once.
pub fn poll_once<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Numbers that a seed repeats.
pub struct Random(u64);

impl Random {
    /// From `KL_SEED`, else another one each run; printed, so that a failure can be repeated.
    pub fn new() -> Self {
        let seed = match std::env::var("KL_SEED") {
            Ok(seed) => seed.parse().expect("a number"),
            Err(_) => {
                use std::hash::{BuildHasher, Hasher};
                std::hash::RandomState::new().build_hasher().finish()
            }
        };
        println!("KL_SEED={seed}");
        Self::of(seed)
    }

    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A runtime with one lane of `slots` slots and one worker: what is held up holds up everything. Notices are
/// dropped. Under a virtual clock nothing is due within the next seconds.
pub fn narrow(slots: usize) -> Builder {
    Runtime::builder()
        .config(
            keylane::Config::default()
                .spares(0)
                .heartbeat(Duration::from_secs(10))
                .overrun(Duration::from_secs(60)),
        )
        .lanes(1)
        .slots(slots)
        .workers(1)
        .pinning(keylane::Pinning::Off)
        .on_notice(|_: &Notice| ())
}

/// A record with a number as its payload.
pub fn numbered(key: &str, number: u64) -> Record {
    Record::new(key, number.to_le_bytes())
}

/// The number of such a record.
pub fn number(record: &Record) -> u64 {
    u64::from_le_bytes(record.payload().try_into().expect("eight bytes"))
}

/// Numbers in the order in which they were handled.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u64>>>);

impl Log {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&self, number: u64) {
        self.0.lock().push(number);
    }

    pub fn numbers(&self) -> Vec<u64> {
        self.0.lock().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// A handler that writes down what it handles.
    pub fn handler(&self) -> impl Fn(&Record) -> Handled + Send + Sync + 'static {
        let log = self.clone();
        move |record| {
            log.push(number(record));
            Ok(())
        }
    }

    /// A handler that passes the door first.
    pub fn behind(&self, door: &Door) -> impl Fn(&Record) -> Handled + Send + Sync + 'static {
        let (log, door) = (self.clone(), door.clone());
        move |record| {
            if !door.is_open() {
                door.pass();
            }
            log.push(number(record));
            Ok(())
        }
    }
}

/// Numbers of records, in order.
pub fn numbers<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<u64> {
    records.into_iter().map(number).collect()
}

/// Moves the clock on in small steps until `done`.
pub fn tick_until(clock: &VirtualClock, what: &str, mut done: impl FnMut() -> bool) {
    until(what, || {
        clock.advance(Duration::from_millis(1));
        done()
    });
}
