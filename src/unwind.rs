//! Running a caller's code so that its panic is a value.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a panic said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(Box<str>);

impl Panicked {
    #[cold]
    fn new(payload: Box<dyn Any + Send>) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| Box::from(*text))
            .or_else(|| payload.downcast_ref::<String>().map(|text| Box::from(text.as_str())))
            .unwrap_or_else(|| Box::from("a panic without a text"));
        // The payload is a caller's value too: its drop may panic. What that throws is leaked, so that
        // there is an end to it.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(second);
        }
        Self(text)
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// Runs `f`; a panic becomes an error.
///
/// What `f` left half done is the caller's to see: the runtime passes only values that it gives up
/// when this fails.
#[inline]
pub fn guard<R>(f: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(f)).map_err(Panicked::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsInDrop;

    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }

    #[test]
    fn a_panic_is_a_value_even_if_its_payload_panics_too() {
        assert_eq!(guard(|| 1), Ok(1));
        let formatted = 7;
        let said = guard(|| panic!("no. {formatted}")).unwrap_err();
        assert_eq!(said.to_string(), "panicked: no. 7");
        let said = guard(|| std::panic::panic_any(PanicsInDrop)).unwrap_err();
        assert_eq!(said.to_string(), "panicked: a panic without a text");
        assert!(guard(|| drop(PanicsInDrop)).is_err());
    }
}
