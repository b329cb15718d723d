//! One answer that comes later: a future, and something a plain thread can wait for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::clock::{Clock, Time};
use crate::context::in_handler;
use crate::parker::with_current;
use crate::sync::{Arc, Mutex};
use crate::unwind::guard;

/// The receiving end.
#[derive(Debug)]
pub struct Reply<T>(Arc<Mutex<State<T>>>);

/// The answering end. Dropped without an answer, the receiver gets `None`.
#[derive(Debug)]
pub struct Answer<T>(Option<Arc<Mutex<State<T>>>>);

#[derive(Debug)]
struct State<T> {
    answer: Option<Option<T>>,
    waker: Option<Waker>,
}

/// Both ends.
pub fn reply<T>() -> (Answer<T>, Reply<T>) {
    let state = Arc::new(Mutex::new(State { answer: None, waker: None }));
    (Answer(Some(state.clone())), Reply(state))
}

impl<T> Answer<T> {
    /// Answers.
    pub fn give(mut self, answer: T) {
        self.end(Some(answer));
    }

    fn end(&mut self, answer: Option<T>) {
        let Some(state) = self.0.take() else { return };
        let waker = {
            let mut state = state.lock();
            state.answer = Some(answer);
            state.waker.take()
        };
        // A waker is a caller's code.
        let _ = guard(|| waker.into_iter().for_each(Waker::wake));
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl<T> Future for Reply<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        // Cloned before the lock and dropped after it: a waker is a caller's code.
        let waker = cx.waker().clone();
        let mut state = self.0.lock();
        if let Some(answer) = state.answer.take() {
            return Poll::Ready(answer);
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }
}

/// Polls a future on the calling thread until it is ready, or until `deadline`. `None` if it is not: the
/// time is over, or the caller is inside a handler, where a wait could wait for itself.
pub fn block_on<F: Future + Unpin>(
    future: &mut F,
    clock: &dyn Clock,
    deadline: Option<Time>,
) -> Option<F::Output> {
    with_current(|parker| {
        let mut cx = Context::from_waker(parker.waker());
        loop {
            if let Poll::Ready(output) = Pin::new(&mut *future).poll(&mut cx) {
                return Some(output);
            }
            if in_handler() || deadline.is_some_and(|deadline| clock.now() >= deadline) {
                return None;
            }
            parker.park_until(clock, deadline);
        }
    })
}
