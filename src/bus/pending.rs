//! What a bus does later: futures that a plain thread can wait for too.

use super::error::BusError;
use super::{Bus, BusReport, BusSubscription};
use crate::reply::Reply;

macro_rules! pending {
    ($(#[$about:meta])* $name:ident, $output:ty) => {
        $(#[$about])*
        #[derive(Debug)]
        #[must_use = "a future does nothing unless it is polled or waited for"]
        pub struct $name {
            state: $crate::bus::pending::State<$output>,
            runtime: $crate::runtime::Runtime,
        }

        impl $name {
            #[allow(dead_code, reason = "not every one of them is ever ready, or late")]
            pub(crate) fn ready(
                runtime: &$crate::runtime::Runtime,
                result: Result<$output, $crate::bus::BusError>,
            ) -> Self {
                let state = $crate::bus::pending::State::Ready(Some(result));
                Self { state, runtime: runtime.clone() }
            }

            #[allow(dead_code, reason = "not every one of them is ever ready, or late")]
            pub(crate) fn later(
                runtime: &$crate::runtime::Runtime,
                reply: $crate::reply::Reply<Result<$output, $crate::bus::BusError>>,
            ) -> Self {
                let state = $crate::bus::pending::State::Later(reply);
                Self { state, runtime: runtime.clone() }
            }

            /// Waits on a plain thread.
            ///
            /// # Errors
            /// See [`BusError`](crate::BusError); inside a handler
            /// [`WouldDeadlock`](crate::BusError::WouldDeadlock) unless it is ready.
            pub fn wait(mut self) -> Result<$output, $crate::bus::BusError> {
                let clock = self.runtime.clock().clone();
                $crate::reply::block_on(&mut self, &*clock, None)
                    .unwrap_or(Err($crate::bus::BusError::WouldDeadlock))
            }
        }

        impl std::future::Future for $name {
            type Output = Result<$output, $crate::bus::BusError>;

            fn poll(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Self::Output> {
                use $crate::bus::pending::State;
                match &mut self.state {
                    State::Ready(result) => match result.take() {
                        Some(result) => std::task::Poll::Ready(result),
                        None => std::task::Poll::Pending,
                    },
                    State::Later(reply) => std::pin::Pin::new(reply)
                        .poll(cx)
                        .map(|answer| answer.unwrap_or(Err($crate::bus::BusError::Closed))),
                }
            }
        }
    };
}

#[cfg(feature = "nats")]
pub(crate) use pending;

/// What one of them waits for.
#[derive(Debug)]
pub(crate) enum State<T> {
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

pending! {
    /// A connect under way: a future, and something a plain thread can wait for.
    ///
    /// # Cancel safety
    /// Dropped, it closes what it has connected.
    Connecting, Bus
}
