//! A span around every attempt, for the `tracing` crate: with the feature `tracing`, else nothing.

#[cfg(feature = "tracing")]
use crate::record::KeyText;
use crate::record::Record;
use crate::subscription::Subscription;

#[cfg(feature = "tracing")]
pub(crate) use tracing::Span;

/// The span of an attempt: none.
#[cfg(not(feature = "tracing"))]
pub(crate) struct Span;

#[cfg(not(feature = "tracing"))]
impl Span {
    pub(crate) fn none() -> Self {
        Self
    }

    #[inline]
    pub(crate) fn in_scope<R>(&self, run: impl FnOnce() -> R) -> R {
        run()
    }
}

/// Whether somebody may want spans of this subscription. Where nobody wants any of at least this level, which is the
/// common case, that is one load and a branch.
#[inline]
pub(crate) fn is_wanted(policy: &Subscription) -> bool {
    #[cfg(feature = "tracing")]
    {
        use tracing::level_filters::LevelFilter;
        let most = LevelFilter::current();
        most >= LevelFilter::INFO && (policy.span_at_info || most >= LevelFilter::DEBUG)
    }
    #[cfg(not(feature = "tracing"))]
    {
        let _ = policy;
        false
    }
}

/// What the span of an attempt says beside its record.
#[derive(Clone, Copy)]
#[cfg(feature = "tracing")]
pub(crate) struct About<'a> {
    policy: &'a Subscription,
    lane: u32,
    attempt: u32,
}

/// What the span of an attempt says: nothing, so that handing it on costs nothing.
#[derive(Clone, Copy)]
#[cfg(not(feature = "tracing"))]
pub(crate) struct About;

#[cfg(feature = "tracing")]
impl<'a> About<'a> {
    #[inline]
    pub(crate) fn new(policy: &'a Subscription, lane: u32, attempt: u32) -> Self {
        Self { policy, lane, attempt }
    }

    #[inline]
    pub(crate) fn is_wanted(self) -> bool {
        is_wanted(self.policy)
    }

    /// The span of the attempt. It is a subscriber's code.
    #[inline]
    pub(crate) fn span(self, record: &Record) -> Span {
        if is_wanted(self.policy) { self.wanted(record) } else { Span::none() }
    }

    #[cold]
    fn wanted(self, record: &Record) -> Span {
        let Self { policy, lane, attempt } = self;
        // No callsite has two levels.
        macro_rules! span {
            ($level:ident) => {
                tracing::span!(
                    target: "keylane",
                    tracing::Level::$level,
                    "handle",
                    subscription = policy.name(),
                    lane,
                    attempt,
                    key = record.key().map(KeyText).map(tracing::field::display),
                )
            };
        }
        if policy.span_at_info { span!(INFO) } else { span!(DEBUG) }
    }
}

#[cfg(not(feature = "tracing"))]
impl About {
    #[inline]
    pub(crate) fn new(_: &Subscription, _: u32, _: u32) -> Self {
        Self
    }

    #[inline]
    pub(crate) fn span(self, _: &Record) -> Span {
        Span
    }
}

#[cfg(feature = "tracing")]
impl Subscription {
    /// Has the spans of its attempts made at level INFO; unless this is set, at DEBUG.
    ///
    /// A span's target is `keylane`, its name `handle`, its fields `subscription`, `lane`, `attempt` (from 1) and `key`
    /// (escaped as in ASCII byte strings and cut to 64 bytes, with the length of what was cut; absent if the record
    /// has none). A sync handler runs in it, an async one is polled and dropped in it, a blocking one runs in it on
    /// its own thread.
    ///
    /// ```
    /// use keylane::Subscription;
    ///
    /// let billing = Subscription::new("billing").span_at_info();
    /// assert_eq!(billing.name(), "billing");
    /// ```
    #[must_use]
    pub fn span_at_info(mut self) -> Self {
        self.span_at_info = true;
        self
    }
}
