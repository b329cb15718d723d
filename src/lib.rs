//! Every aggregate's events in order, different aggregates in parallel, nothing lost.

mod clock;
pub mod envelope;
mod error;
mod sync;

pub use clock::{Clock, SystemClock, Time};
pub use envelope::{
    DecodeError, Decoder, Envelope, EnvelopeError, IntoPayload, KeyNotFound, Timestamp, extract_key,
};
pub use error::{ConfigError, HandlerError, PushError};
