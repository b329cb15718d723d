//! What a bus does later: futures that a plain thread can wait for too.

use super::error::BusError;
use super::{BusReport, BusSubscription};
use crate::reply::{Reply, block_on};
use crate::runtime::Runtime;
use std::future::Future;

macro_rules! pending {
    ($(#[$about:meta])* $name:ident, $output:ty) => {
        $(#[$about])*
        #[derive(Debug)]
        #[must_use = "a future does nothing unless it is polled or waited for"]
        pub struct $name {
            state: State<$output>,
            runtime: Runtime,
        }

        impl $name {
            #[allow(dead_code, reason = "not every one of them is ever ready, or late")]
            pub(crate) fn ready(runtime: &Runtime, result: Result<$output, BusError>) -> Self {
                Self { state: State::Ready(Some(result)), runtime: runtime.clone() }
            }

            #[allow(dead_code, reason = "not every one of them is ever ready, or late")]
            pub(crate) fn later(
                runtime: &Runtime,
                reply: Reply<Result<$output, BusError>>,
            ) -> Self {
                Self { state: State::Later(reply), runtime: runtime.clone() }
            }

            /// Waits on a plain thread.
            ///
            /// # Errors
            /// See [`BusError`]; inside a handler [`BusError::WouldDeadlock`] unless it is ready.
            pub fn wait(mut self) -> Result<$output, BusError> {
                let clock = self.runtime.clock().clone();
                block_on(&mut self, &*clock, None).unwrap_or(Err(BusError::WouldDeadlock))
            }
        }

        impl Future for $name {
            type Output = Result<$output, BusError>;

            fn poll(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Self::Output> {
                match &mut self.state {
                    State::Ready(result) => match result.take() {
                        Some(result) => std::task::Poll::Ready(result),
                        None => std::task::Poll::Pending,
                    },
                    State::Later(reply) => std::pin::Pin::new(reply)
                        .poll(cx)
                        .map(|answer| answer.unwrap_or(Err(BusError::Closed))),
                }
            }
        }
    };
}

#[derive(Debug)]
enum State<T> {
    Ready(Option<Result<T, BusError>>),
    Later(Reply<Result<T, BusError>>),
}

pending! {
    /// A subscribe under way: a future, and something a plain thread can wait for.
    ///
    /// # Cancel safety
    /// Dropped, it leaves a subscription that was made running.
    Subscribing, BusSubscription
}

pending! {
    /// The end of a bus under way: a future, and something a plain thread can wait for.
    ///
    /// # Cancel safety
    /// Dropped, the close goes on.
    BusClosing, BusReport
}
