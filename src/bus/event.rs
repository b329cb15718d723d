//! What can happen to a bus.

/// Something that happened to a bus. Sources are called as in [`Reason::about`](crate::Reason::about).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum BusEvent {
    /// A connection was made for the first time.
    Connected {
        /// What the connection is for.
        connection: String,
    },
    /// A connection was lost.
    Disconnected {
        /// What the connection is for.
        connection: String,
        /// Why.
        error: String,
    },
    /// A connection is there again.
    Reconnected {
        /// What the connection is for.
        connection: String,
    },
    /// The broker refused something on a connection, or to make a lost one again, or said that it would end.
    Refused {
        /// What the connection is for.
        connection: String,
        /// Why.
        error: String,
    },
    /// Something that is worth knowing, and no failure: a topic may lose records by how it is configured.
    Noted {
        /// What it is about.
        about: String,
        /// What is to be known.
        text: String,
    },
    /// A source reads nothing new until it knows what it may have lost, or has been handed over.
    BarrierBegun {
        /// The source.
        source: String,
        /// Why.
        why: String,
    },
    /// A source goes on.
    BarrierEnded {
        /// The source.
        source: String,
        /// Why the barrier had begun.
        why: String,
    },
    /// A failure stopped a source.
    SourceStopped {
        /// The source.
        source: String,
        /// The failure.
        error: String,
    },
    /// Dead letters of a subscription are not taken. Said once; they are sent again until they are.
    LetterOutage {
        /// The subscription.
        subscription: String,
        /// What was said of the first that was not taken.
        error: String,
    },
    /// Dead letters of a subscription are taken again.
    LetterRecovered {
        /// The subscription.
        subscription: String,
    },
    /// The place at which a source was to go on is there no more.
    PositionLost {
        /// The source.
        source: String,
        /// What is lost, and where it goes on if it does.
        error: String,
    },
    /// Of a topic that is delivered at most once, something may have been missed.
    GapPossible {
        /// The source.
        source: String,
        /// Why.
        why: String,
        /// How much was missed, where that can be told.
        missed: Option<u64>,
    },
    /// Somebody else takes deliveries of a source's consumer, or deletes it, again and again.
    SharedConsumer {
        /// The source.
        source: String,
    },
    /// Somebody else has taken a source over.
    Fenced {
        /// The source.
        source: String,
    },
    /// What is finished of a source cannot be committed. Said once; it is tried again until it can.
    Uncommitted {
        /// The source.
        source: String,
        /// Why.
        error: String,
    },
    /// The client dropped deliveries, since they were not taken fast enough.
    SlowConsumer {
        /// The source.
        source: String,
        /// Deliveries dropped.
        dropped: u64,
    },
}
