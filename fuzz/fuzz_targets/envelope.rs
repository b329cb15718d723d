//! Any bytes as an envelope: no panic, errors that hold no payload, and nothing lost on the way back.
#![no_main]

use keylane::{Decoder, Envelope, EnvelopeError, extract_key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Decoder::new().base64_payload(true).nesting_limit(70).decode(bytes);
    let decoded = Envelope::decode(bytes);
    let key = extract_key(decoded.as_ref().ok(), [("aggregate-id", bytes)], Some(bytes), None);
    let Ok(envelope) = &decoded else { return };
    assert_eq!(key, Ok(envelope.key()));
    // What is encoded is what was decoded; re-encoding changes nothing more.
    let Ok(encoded) = envelope.to_vec() else { return };
    let again = Envelope::decode(&encoded);
    assert_eq!(again.as_ref(), Ok(envelope));
    // What is written is JSON, so it can be a payload itself, unless that is one level too many.
    let outer = Envelope::new(envelope.key(), "outer", 1, &encoded).to_vec();
    assert!(matches!(outer, Ok(_) | Err(EnvelopeError::PayloadTooDeep { .. })));
});
