//! The ledger against its naive model, and its stored form against any text.
#![no_main]

use keylane::internals::Stored;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/ledger_model.rs"]
mod model;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(stored) = Stored::decode(text) {
            let again = stored.encode(2 * Stored::MAX_TEXT).text;
            assert_eq!(Stored::decode(&again), Ok(stored));
        }
    }
    if let [window, start, operations @ ..] = data {
        // Around one and two words of 63.
        let window = usize::from(window % 130) + 1;
        let start = match start % 4 {
            0 => None,
            1 => Some(u64::MAX - u64::from(*start)),
            _ => Some(u64::from(*start)),
        };
        model::run(window, start, operations);
    }
});
