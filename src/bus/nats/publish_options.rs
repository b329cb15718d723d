//! How much may be published and not confirmed.

use std::time::Duration;

use super::window::{MOST, Room};
use crate::error::ConfigError;

/// How much may be published and not confirmed, and for how long.
///
/// ```
/// use std::time::Duration;
/// use keylane::nats::PublishOptions;
///
/// let options = PublishOptions::default().window(4_000).reply_timeout(Duration::from_secs(2));
/// assert!(options.validate().is_ok());
/// assert!(PublishOptions::default().window(0).validate().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishOptions {
    pub(super) window: usize,
    pub(super) window_bytes: usize,
    pub(super) queue: usize,
    pub(super) queue_bytes: usize,
    pub(super) reply_timeout: Duration,
    pub(super) patience: Duration,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            window: 1_000,
            window_bytes: 32 << 20,
            queue: 10_000,
            queue_bytes: 64 << 20,
            reply_timeout: Duration::from_secs(5),
            patience: Duration::from_secs(30),
        }
    }
}

impl PublishOptions {
    /// The most records sent and not confirmed: 1 to 100,000, by default 1,000.
    #[must_use]
    pub fn window(mut self, records: usize) -> Self {
        self.window = records;
        self
    }

    /// The most bytes sent and not confirmed, of keys, headers and payloads: by default 32 MiB. A larger record goes
    /// alone.
    #[must_use]
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// The most records that wait for room in the window, or behind others of their key: 0 to 500,000, by default
    /// 10,000. They wait for at most the runtime's wait timeout; what finds this full too is given back at once.
    #[must_use]
    pub fn queue(mut self, records: usize) -> Self {
        self.queue = records;
        self
    }

    /// The most bytes that wait: by default 64 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// After how long without an answer the outcome of a sending is unknown: 10 ms to 1 min, by default 5 s. A record
    /// with an id is then sent again.
    #[must_use]
    pub fn reply_timeout(mut self, timeout: Duration) -> Self {
        self.reply_timeout = timeout;
        self
    }

    /// For how long a record is sent again before it is given up: 10 ms to 10 min, by default 30 s. It must be shorter than the time for
    /// which its stream tells duplicates, by default 2 min.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for the first that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |option, given: String, ok: bool, allowed| {
            if ok { Ok(()) } else { Err(ConfigError::out_of_range(option, &given, allowed)) }
        };
        let (ms, min) = (Duration::from_millis, Duration::from_secs(60));
        let of = |number: usize| number.to_string();
        let time = |time: Duration| format!("{time:?}");
        check(
            "publish.window",
            of(self.window),
            (1..=100_000).contains(&self.window),
            "1 to 100000",
        )?;
        check("publish.window_bytes", of(self.window_bytes), self.window_bytes > 0, "1 or more")?;
        check("publish.queue", of(self.queue), self.queue <= 500_000, "0 to 500000")?;
        let (reply, patience) = (self.reply_timeout, self.patience);
        let fits = (ms(10)..=min).contains(&reply);
        check("publish.reply_timeout", time(reply), fits, "10 ms to 1 min")?;
        let fits = (ms(10)..=10 * min).contains(&patience);
        check("publish.patience", time(patience), fits, "10 ms to 10 min")
    }

    pub(super) fn room(&self) -> Room {
        Room {
            records: self.window,
            bytes: self.window_bytes,
            reply: self.reply_timeout,
            patience: self.patience,
        }
    }

    /// Records, and bytes, that may be there in all.
    pub(super) fn most(&self) -> (usize, usize) {
        let records = self.window.saturating_add(self.queue).min(MOST / 2);
        (records, self.window_bytes.saturating_add(self.queue_bytes))
    }
}
