//! Shows a running [`keylane`] runtime to a person, and lets him park, skip and resume its keys.
//!
//! A service starts a [`Server`] beside its runtime; the program `keylane-top` attaches to it. What they say to
//! each other is in [`protocol`]: JSON, one object a line, over loopback TCP.

pub mod protocol;
pub mod serve;
pub mod view;

pub use serve::{ServeError, Server};
