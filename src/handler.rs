//! What runs: sync, async and blocking handlers behind one type.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crossbeam_queue::ArrayQueue;

use crate::error::HandlerError;
use crate::record::{Record, RecordRef};
use crate::span::{About, Span};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, OnceLock, Weak, unless, weak};
use crate::unwind::{Panicked, guard};

/// What a handler says of one record: that it is handled, or why not.
pub type Handled = Result<(), HandlerError>;

/// A handler of one of three kinds.
///
/// | kind | runs | if it is slow |
/// |---|---|---|
/// | sync | on the worker, to its end | its lane waits, and a thread; other lanes are taken over after [`overrun`](crate::Config::overrun) |
/// | async | on the worker until it waits | its key waits, no other |
/// | blocking | on a thread of a pool | its key waits, no other, up to [`blocking_threads`](crate::Config::blocking_threads) at a time |
///
/// ```
/// use std::time::Duration;
/// use keylane::{Handler, Runtime, Subscription, Record};
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let kinds = [
///     ("sync", Handler::sync(|_| Ok(()))),
///     ("async", Handler::future(|_| async { Ok(()) })),
///     ("blocking", Handler::blocking(|_| Ok(()))),
/// ];
/// for (name, handler) in kinds {
///     let subscriber = runtime.subscribe_handler(Subscription::new(name), handler)?;
///     let receipt = subscriber.submit_tracked(Record::new("order-42", "paid"))?;
///     assert!(receipt.wait()?.is_done());
/// }
/// runtime.close(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Handler(pub(crate) Kind);

pub(crate) enum Kind {
    Sync(Box<dyn Fn(&Record) -> Handled + Send + Sync>),
    Async(Box<dyn Starts>),
    Blocking(Arc<dyn Fn(RecordRef) -> Handled + Send + Sync>),
}

impl Handler {
    /// A handler that runs to its end on the worker: for what takes microseconds.
    pub fn sync(handle: impl Fn(&Record) -> Handled + Send + Sync + 'static) -> Self {
        Self(Kind::Sync(Box::new(handle)))
    }

    /// A handler whose future is polled by the workers. A future that is ready at once costs no allocation.
    pub fn future<F, Fut>(handle: F) -> Self
    where
        F: Fn(RecordRef) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Handled> + Send + 'static,
    {
        Self(Kind::Async(Box::new(Futures { handle, spare: ArrayQueue::new(SPARE) })))
    }

    /// A handler that may block its thread: it runs on a pool of its own.
    pub fn blocking(handle: impl Fn(RecordRef) -> Handled + Send + Sync + 'static) -> Self {
        Self(Kind::Blocking(Arc::new(handle)))
    }
}

impl Handler {
    /// The handler as a bus runs it: a record that its bus has refused fails for good, and the handler is not called.
    pub(crate) fn refusing(mut self) -> Self {
        // What is left here in its place is dropped with `self`, and captures nothing.
        let kind = std::mem::replace(&mut self.0, Kind::Sync(Box::new(|_| Ok(()))));
        match kind {
            Kind::Sync(handle) => Self::sync(move |record| match refused(record) {
                None => handle(record),
                Some(refused) => Err(refused),
            }),
            Kind::Async(starts) => Self(Kind::Async(Box::new(Refusing(starts)))),
            Kind::Blocking(handle) => Self::blocking(move |record| match refused(&record) {
                None => handle(record),
                Some(refused) => Err(refused),
            }),
        }
    }
}

/// The failure of a record that its bus has refused.
#[inline]
fn refused(record: &Record) -> Option<HandlerError> {
    record.refusal().map(HandlerError::fatal)
}

/// An async handler that is not started for what its bus has refused.
struct Refusing(Box<dyn Starts>);

impl Starts for Refusing {
    fn start(&self, record: RecordRef, cx: &mut Context<'_>) -> Started {
        match refused(&record) {
            None => self.0.start(record, cx),
            Some(refused) => Started::Ready(Ok(Err(refused))),
        }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Sync(_) => "Handler::sync",
            Kind::Async(_) => "Handler::future",
            Kind::Blocking(_) => "Handler::blocking",
        })
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // What a handler has captured is a caller's, and is dropped by a worker that takes a newer table.
        let kind = std::mem::replace(&mut self.0, Kind::Sync(Box::new(|_| Ok(()))));
        let _ = guard(|| drop(kind));
    }
}

/// How the start of an async attempt went.
pub(crate) enum Started {
    Ready(Result<Handled, Panicked>),
    Pending(Attempt),
}

/// Starts an async attempt, in its span if somebody wants it.
#[inline]
pub(crate) fn start(
    starts: &dyn Starts,
    record: RecordRef,
    cx: &mut Context<'_>,
    about: About,
) -> Started {
    #[cfg(feature = "tracing")]
    if about.is_wanted() {
        return start_within(starts, record, cx, about);
    }
    let _ = about;
    starts.start(record, cx)
}

#[cfg(feature = "tracing")]
#[cold]
fn start_within(
    starts: &dyn Starts,
    record: RecordRef,
    cx: &mut Context<'_>,
    about: About,
) -> Started {
    let span = about.span(&record);
    let mut started = span.in_scope(|| starts.start(record, cx));
    if let Started::Pending(attempt) = &mut started {
        attempt.span = span;
    }
    started
}

/// An async attempt that is waiting for something.
pub(crate) struct Attempt {
    future: Pin<Box<dyn Waits>>,
    /// It is polled and dropped in here.
    span: Span,
}

impl Attempt {
    /// Polls it; a panic is its end. When it is ready the future is gone, and its drop's panic is its end too.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Handled, Panicked>> {
        let Self { future, span } = self;
        match guard(|| span.in_scope(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(handled)) => {
                let cleared = guard(|| span.in_scope(|| future.as_mut().clear()));
                Poll::Ready(cleared.map(|()| handled))
            }
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Dropping a future runs a caller's code. The box is emptied under guard and then goes quietly.
        let (future, span) = (&mut self.future, std::mem::replace(&mut self.span, Span::none()));
        // The end of a span is a caller's code too: it goes with the closure.
        let _ = guard(move || span.in_scope(|| future.as_mut().clear()));
    }
}

pub(crate) trait Starts: Send + Sync {
    fn start(&self, record: RecordRef, cx: &mut Context<'_>) -> Started;
}

trait Waits: Send {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Handled>;
    fn clear(self: Pin<&mut Self>);
}

impl<Fut: Future<Output = Handled> + Send> Waits for Option<Fut> {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Handled> {
        match self.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }

    fn clear(mut self: Pin<&mut Self>) {
        self.set(None);
    }
}

/// Boxes kept for the next start: as many as workers may start at the same time.
const SPARE: usize = 64;

/// An async handler with the boxes of its futures: one that was ready at its first poll leaves its box
/// to the next.
struct Futures<F, Fut> {
    handle: F,
    spare: ArrayQueue<Pin<Box<Option<Fut>>>>,
}

impl<F, Fut> Starts for Futures<F, Fut>
where
    F: Fn(RecordRef) -> Fut + Send + Sync,
    Fut: Future<Output = Handled> + Send + 'static,
{
    fn start(&self, record: RecordRef, cx: &mut Context<'_>) -> Started {
        let future = match guard(|| (self.handle)(record)) {
            Ok(future) => future,
            Err(panicked) => return Started::Ready(Err(panicked)),
        };
        let mut place = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        place.set(Some(future));
        let polled = guard(|| Waits::poll(place.as_mut(), cx));
        if let Ok(Poll::Pending) = polled {
            return Started::Pending(Attempt { future: place, span: Span::none() });
        }
        let cleared = guard(|| place.set(None));
        // A queue that is full lets the box go.
        let _ = self.spare.push(place);
        Started::Ready(match (polled, cleared) {
            (Ok(Poll::Ready(handled)), Ok(())) => Ok(handled),
            (Err(panicked), _) | (_, Err(panicked)) => Err(panicked),
            (Ok(Poll::Pending), _) => unreachable!("returned above"),
        })
    }
}

/// One version of a subscription's handler: swapped in and out as a whole.
#[derive(Debug)]
pub struct Version {
    pub(crate) handler: Handler,
    /// Attempts that outlive a lane visit: pending futures and blocking calls.
    running: AtomicUsize,
    /// The versions before it that may still run.
    earlier: OnceLock<Vec<Weak<Version>>>,
}

impl Version {
    /// A version that nobody runs yet.
    pub fn new(handler: Handler) -> Arc<Self> {
        Arc::new(Self { handler, running: AtomicUsize::new(0), earlier: OnceLock::new() })
    }

    /// Says which version it takes the place of: once, before anybody runs it.
    pub(crate) fn follow(&self, old: &Arc<Self>) {
        let known = old.earlier.get().into_iter().flatten();
        // What nobody holds any more runs no more.
        let alive = known.filter(|version| version.strong_count() > 0).cloned();
        let _ = self.earlier.set(alive.chain([Arc::downgrade(old)]).collect());
    }

    /// Attempts with it, or with a version before it, that run beyond a lane visit.
    pub fn running(&self) -> usize {
        let earlier = self.earlier.get().into_iter().flatten().filter_map(Weak::upgrade);
        self.own() + earlier.map(|version| version.own()).sum::<usize>()
    }

    fn own(&self) -> usize {
        // Acquire pairs with the release in `Running`'s drop: what the attempt did is seen.
        self.running.load(unless(weak!("running_look"), Ordering::Acquire))
    }
}

/// Counts one attempt as running until it is dropped.
#[derive(Debug)]
pub struct Running(Arc<Version>);

impl Running {
    /// One more attempt of `version`.
    pub fn new(version: &Arc<Version>) -> Self {
        version.running.fetch_add(1, Ordering::Relaxed);
        Self(version.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Release pairs with the acquire in `Version::running`.
        self.0.running.fetch_sub(1, unless(weak!("running_drop"), Ordering::Release));
    }
}

#[cfg(all(test, not(keylane_loom)))]
mod tests {
    use super::*;
    use std::task::Waker;

    fn start(handler: &Handler) -> Started {
        let Kind::Async(starts) = &handler.0 else { panic!("async") };
        starts.start(Record::new("k", "v").share(), &mut Context::from_waker(Waker::noop()))
    }

    struct PanicsInDrop;

    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }

    #[test]
    fn a_panic_anywhere_in_an_async_handler_is_its_outcome() {
        let said = |started| match started {
            Started::Ready(Err(panicked)) => panicked.to_string(),
            _ => panic!("ended in a panic"),
        };
        let calling = Handler::future(|_| -> std::future::Ready<Handled> { panic!("calling") });
        assert_eq!(said(start(&calling)), "panicked: calling");
        let polling = Handler::future(|_| async { panic!("polling") });
        assert_eq!(said(start(&polling)), "panicked: polling");
        let dropping = Handler::future(|record| {
            let bomb = PanicsInDrop;
            std::future::poll_fn(move |_| {
                let _ = (&bomb, &record);
                Poll::Ready(Ok(()))
            })
        });
        assert_eq!(said(start(&dropping)), "panicked: in drop");
        let both = Handler::future(|_| {
            let bomb = PanicsInDrop;
            std::future::poll_fn(move |_| -> Poll<Handled> {
                let _ = &bomb;
                panic!("first")
            })
        });
        assert_eq!(said(start(&both)), "panicked: first");
    }

    #[test]
    fn a_cancelled_future_whose_drop_panics_goes_quietly() {
        let handler = Handler::future(|_| {
            let bomb = PanicsInDrop;
            std::future::poll_fn(move |_| {
                let _ = &bomb;
                Poll::<Handled>::Pending
            })
        });
        assert!(matches!(start(&handler), Started::Pending(_)));
    }
}
