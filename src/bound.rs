//! The bounds behind "a slow key delays nobody else", and what holds one that is used up.

use std::fmt;
use std::time::Duration;

use crate::record::KeyText;

/// A bound that can be used up. Its text is the name of its option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Bound {
    /// `key_waiting`: records waiting behind one key. Its lane stops.
    KeyWaiting,
    /// `lane_waiting`: records in a lane's gate. The lane stops.
    LaneWaiting,
    /// `blocking_threads`: threads for blocking handlers. Further calls wait.
    BlockingThreads,
    /// `source_window`: deliveries of a source above its frontier. It is read no further.
    SourceWindow,
    /// `source_bytes`: bytes of a source's records under way. It is read no further.
    SourceBytes,
    /// `parked_keys`: keys parked in a subscription. A further failure stops it, or its source.
    ParkedKeys,
    /// `spares`: workers beside the configured ones, with all of them held up by handlers. Nothing sync starts.
    Spares,
}

/// A bound that is used up, and what holds it, as far as that can be told.
///
/// ```
/// use keylane::{Bound, Config, Record, RecordRef, Runtime, Subscription};
///
/// let config = Config::default().lanes(1).key_waiting(1);
/// let runtime = Runtime::builder().config(config).workers(1).build()?;
/// let orders = runtime.subscribe_async(Subscription::new("orders"), |_: RecordRef| {
///     std::future::pending() // hangs
/// })?;
/// for _ in 0..3 {
///     orders.submit(Record::new("order-42", "paid"))?;
/// }
/// let used_up = loop {
///     match runtime.snapshot().bounds.into_iter().next() {
///         Some(used_up) => break used_up,
///         None => std::thread::yield_now(),
///     }
/// };
/// assert_eq!(used_up.bound, Bound::KeyWaiting);
/// assert_eq!(used_up.key.as_deref(), Some(&b"order-42"[..]));
/// let text = used_up.to_string();
/// assert!(text.starts_with("`key_waiting` is used up: held by key order-42 of \"orders\" in lane 0"), "{text}");
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct UsedUp {
    /// The bound.
    pub bound: Bound,
    /// The lane that it stops, or that the attempt holding it is in.
    pub lane: Option<u32>,
    /// The subscription that holds it.
    pub subscription: Option<String>,
    /// The source that it stops.
    pub source: Option<String>,
    /// The first 64 bytes of the key that holds it: of a lane, threads and workers the one that has run or waited
    /// longest, of a source's window the oldest unfinished delivery's, if that has been started.
    pub key: Option<Vec<u8>>,
    /// The offset of a source's oldest unfinished delivery.
    pub offset: Option<u64>,
    /// How long the record that holds it has done so.
    pub held_for: Option<Duration>,
}

impl Bound {
    /// The name of its option.
    pub fn option(self) -> &'static str {
        match self {
            Self::KeyWaiting => "key_waiting",
            Self::LaneWaiting => "lane_waiting",
            Self::BlockingThreads => "blocking_threads",
            Self::SourceWindow => "source_window",
            Self::SourceBytes => "source_bytes",
            Self::ParkedKeys => "parked_keys",
            Self::Spares => "spares",
        }
    }
}

impl UsedUp {
    /// Held by nothing that is known yet.
    pub(crate) fn new(bound: Bound) -> Self {
        Self {
            bound,
            lane: None,
            subscription: None,
            source: None,
            key: None,
            offset: None,
            held_for: None,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.option())
    }
}

impl fmt::Display for UsedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is used up: held by ", self.bound)?;
        match &self.key {
            Some(key) => write!(f, "key {}", KeyText(key))?,
            None => f.write_str("records")?,
        }
        if let Some(subscription) = &self.subscription {
            write!(f, " of {subscription:?}")?;
        }
        if let Some(source) = &self.source {
            write!(f, " from {source}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        if let Some(lane) = self.lane {
            write!(f, " in lane {lane}")?;
        }
        match self.held_for {
            Some(held_for) => write!(f, " for {held_for:?}"),
            None => Ok(()),
        }
    }
}
