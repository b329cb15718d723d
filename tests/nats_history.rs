//! The judge of recorded histories, judged.
#![cfg(all(feature = "nats", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/history.rs"]
mod history;
