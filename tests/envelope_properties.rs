//! Properties of the envelope's codec over random input; serde_json is the model of what JSON is.

// The lint's exemption of tests does not reach the functions around them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use keylane::{Decoder, Envelope, EnvelopeError, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_encoded_is_decoded(envelope in envelopes()) {
        let bytes = envelope.to_vec().unwrap();
        let decoded = Envelope::decode(&bytes).unwrap();
        prop_assert_eq!(&decoded, &envelope);
        prop_assert_eq!(decoded.to_vec().unwrap(), bytes.clone());
        // Any JSON reader finds the same strings in it.
        let model: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(model["event_type"].as_str(), Some(&*envelope.event_type));
        prop_assert_eq!(model["trace_id"].as_str().unwrap_or_default(), &*envelope.trace_id);
        let payload: serde_json::Value = serde_json::from_slice(&envelope.payload).unwrap();
        prop_assert_eq!(&model["payload"], &payload);
    }

    #[test]
    fn a_payload_is_accepted_if_and_only_if_it_is_json(payload in almost_json()) {
        let ours = Envelope::new("a", "t", 1, &payload).to_vec();
        let model = serde_json::from_slice::<serde_json::Value>(&payload);
        match ours {
            Ok(_) => prop_assert!(model.is_ok_and(|value| !value.is_null())),
            Err(EnvelopeError::PayloadRequired) => {
                prop_assert!(payload.is_empty() || model.is_ok_and(|value| value.is_null()));
            }
            // The model resolves surrogates, which JSON's grammar does not ask for.
            Err(error) => prop_assert!(model.is_err(), "{error}"),
        }
    }

    #[test]
    fn decoding_any_bytes_ends_without_a_panic(bytes in vec(any::<u8>(), 0..300)) {
        exercise(&bytes);
    }

    #[test]
    fn decoding_almost_an_envelope_ends_without_a_panic(
        envelope in envelopes(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = envelope.to_vec().unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        exercise(&bytes);
        exercise(&bytes[..length.index(bytes.len())]);
    }

    #[test]
    fn exactly_the_nesting_limit_is_accepted(
        kinds in vec(any::<bool>(), 0..200),
        limit in 0_usize..200,
    ) {
        let open: String = kinds.iter().map(|&o| if o { "{\"k\":" } else { "[" }).collect();
        let close: String = kinds.iter().rev().map(|&o| if o { '}' } else { ']' }).collect();
        let bytes = format!(
            r#"{{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1,"payload":{open}1{close}}}"#
        );
        let decoded = Decoder::new().nesting_limit(limit).decode(bytes.as_bytes());
        prop_assert_eq!(decoded.is_ok(), kinds.len() <= limit);
        // Brackets that do not match are found at any depth.
        if let (true, Some(at)) = (kinds.len() <= limit, close.char_indices().nth(kinds.len() / 2)) {
            let from = bytes.len() - 1 - close.len() + at.0;
            let mut wrong = bytes.into_bytes();
            wrong[from] = if at.1 == '}' { b']' } else { b'}' };
            prop_assert!(Decoder::new().nesting_limit(limit).decode(&wrong).is_err());
        }
    }
}

/// Decodes, and if that succeeds sees that encoding loses nothing.
fn exercise(bytes: &[u8]) {
    let _ = Decoder::new().base64_payload(true).decode(bytes);
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    if let Ok(again) = envelope.to_vec() {
        assert_eq!(Envelope::decode(&again).as_ref(), Ok(&envelope));
    }
}

prop_compose! {
    fn envelopes()(
        ids in ("[A-Za-z0-9:_./-]{1,256}", "[!-~]{1,40}"),
        texts in ("\\PC{0,10}[a-z]", any::<String>(), any::<String>()),
        numbers in (1..=i64::MAX, any::<i64>()),
        timestamp in timestamps(),
        payload in json(),
    ) -> Envelope<'static> {
        Envelope::new(ids.0, texts.0, numbers.0, payload)
            .with_event_id(ids.1)
            .with_timestamp(timestamp)
            .with_trace_id(texts.1)
            .with_correlation_id(texts.2)
            .with_tenant_id(numbers.1)
    }
}

prop_compose! {
    fn timestamps()(
        seconds in -62_167_219_200_i64 + 86_400..253_402_300_800 - 86_400,
        nanos in prop_oneof![Just(0), 0_u32..1_000_000_000],
        offset in prop_oneof![Just(0), -1439_i16..1440],
    ) -> Timestamp {
        Timestamp::from_unix(seconds, nanos).with_offset_minutes(offset)
    }
}

/// JSON other than `null`, in the form in which serde_json writes it.
fn json() -> impl Strategy<Value = String> {
    use serde_json::Value;
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    scalar
        .prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Value::from),
                vec((any::<String>(), inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
        .prop_map(|value| value.to_string())
}

/// Tokens of JSON in any order, which is sometimes JSON.
fn almost_json() -> impl Strategy<Value = Vec<u8>> {
    const TOKENS: [&str; 30] = [
        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"a\":", "null", "true", "false", "0", "-",
        "1", "25", ".", "e", "E+", "1.5e3", " ", "\n", "\\n", "\\u00e9", "\\", "\t", "\u{7f}", "é",
        "{\"a\":", "[1",
    ];
    let tokens = prop::sample::select(&TOKENS[..]);
    prop_oneof![
        vec(tokens, 0..8).prop_map(|tokens| tokens.concat().into_bytes()),
        json().prop_map(String::into_bytes),
        (json(), any::<prop::sample::Index>(), prop::sample::select(&TOKENS[..])).prop_map(
            |(text, at, token)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, token.bytes());
                bytes
            }
        ),
    ]
}
