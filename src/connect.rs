//! Connecting to a bus by its URL.

use crate::bus::memory;
use crate::bus::{Bus, BusError};
use crate::runtime::Runtime;
use std::future::Future;

impl Bus {
    /// Connects to what `url` names: `memory:` is the embedded bus.
    ///
    /// # Errors
    /// The result's: [`BusError::UnknownUrl`] for any other kind of URL, [`BusError::Thread`] if the system gives no
    /// thread.
    ///
    /// ```
    /// use keylane::{Bus, BusError, Runtime};
    ///
    /// let runtime = Runtime::builder().workers(1).build()?;
    /// let refused = Bus::connect(&runtime, "carrier-pigeon://coop").wait().unwrap_err();
    /// assert!(matches!(refused, BusError::UnknownUrl(scheme) if scheme == "carrier-pigeon"));
    /// # runtime.stop_now();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(runtime: &Runtime, url: &str) -> Connecting {
        Connecting(Some(connect(runtime, url)))
    }
}

/// A connect under way: a future, and something a plain thread can wait for.
///
/// # Cancel safety
/// Dropped, it closes what it has connected.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled or waited for"]
pub struct Connecting(Option<Result<Bus, BusError>>);

impl Connecting {
    /// Waits on a plain thread.
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn wait(self) -> Result<Bus, BusError> {
        self.0.unwrap_or(Err(BusError::Closed))
    }
}

impl Future for Connecting {
    type Output = Result<Bus, BusError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        match self.0.take() {
            Some(result) => std::task::Poll::Ready(result),
            None => std::task::Poll::Pending,
        }
    }
}

fn connect(runtime: &Runtime, url: &str) -> Result<Bus, BusError> {
    match url.split_once(':') {
        Some(("memory", "" | "//")) => Ok(memory::MemoryBus::new(runtime)?.bus()),
        // Only the scheme is named: the rest may hold a secret.
        Some((scheme, _)) => Err(BusError::UnknownUrl(scheme.chars().take(32).collect())),
        None => Err(BusError::UnknownUrl(String::new())),
    }
}
