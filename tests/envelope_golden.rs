//! The golden vectors: what the Go side of the wire format writes, reads and says.
//! `tests/golden` holds the program that made them, `ci/golden.sh` makes them anew.

// The lint's exemption of tests does not reach the functions around them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use keylane::{Envelope, Timestamp};
use serde_json::Value;

#[test]
fn encodes_what_the_go_side_encodes() {
    for vector in &vectors("encode") {
        let name = text(vector, "name");
        let result = envelope(&vector["fields"]).to_vec();
        match (vector["here"].as_str(), vector["document"].as_str()) {
            (None, Some(document)) => {
                let ours = result.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(String::from_utf8_lossy(&ours), document, "{name}");
            }
            (None, None) => {
                let ours = result.expect_err(name).to_string();
                let theirs = text(vector, "error");
                // The encoder's own errors carry the path of types to the field; ours name the field.
                let same = match ours.strip_prefix("timestamp: ") {
                    Some(reason) => theirs.ends_with(reason),
                    None => theirs == ours,
                };
                assert!(same, "{name}: {ours:?} is not {theirs:?}");
            }
            (Some("refused"), Some(_)) => assert!(result.is_err(), "{name}: must be refused"),
            (Some("accepted"), Some(_)) => {
                let document = result.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(Envelope::decode(&document).is_ok(), "{name}");
            }
            other => panic!("{name}: unexpected vector {other:?}"),
        }
    }
}

#[test]
fn decodes_what_the_go_side_decodes() {
    for vector in &vectors("decode") {
        let name = text(vector, "name");
        let document = match vector["document_hex"].as_str() {
            Some(hex) => from_hex(hex),
            None => vector["document"].as_str().unwrap_or_default().as_bytes().to_vec(),
        };
        let result = Envelope::decode(&document);
        if vector["here"].as_str() == Some("refused") {
            assert!(vector["error"].is_null(), "{name}: both refuse, so this is no difference");
            assert!(result.is_err(), "{name}: must be refused");
            continue;
        }
        match (vector["error"].as_str(), result) {
            (None, Ok(ours)) => {
                if vector["fields"].is_object() {
                    assert_eq!(ours, envelope(&vector["fields"]), "{name}");
                    assert_eq!(
                        ours.payload,
                        text(&vector["fields"], "payload").as_bytes(),
                        "{name}"
                    );
                }
            }
            (Some(theirs), Err(ours)) => {
                // The text behind this prefix is each library's own.
                let ours = ours.to_string();
                let malformed = "failed to unmarshal envelope";
                let same =
                    if theirs == malformed { ours.starts_with(malformed) } else { ours == theirs };
                assert!(same, "{name}: {ours:?} is not {theirs:?}");
            }
            (theirs, ours) => panic!("{name}: they say {theirs:?}, we say {ours:?}"),
        }
    }
}

fn vectors(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("golden/vectors.json")).unwrap();
    let vectors = all[kind].as_array().unwrap().clone();
    assert!(vectors.len() > 50, "the vectors are gone");
    vectors
}

fn envelope(fields: &Value) -> Envelope<'_> {
    let number = |name: &str| fields[name].as_i64().unwrap();
    let nanos = u32::try_from(number("nanos")).unwrap();
    let offset = i16::try_from(number("offset_minutes")).unwrap();
    Envelope::new(
        text(fields, "aggregate_id"),
        text(fields, "event_type"),
        number("event_version"),
        text(fields, "payload"),
    )
    .with_event_id(text(fields, "event_id"))
    .with_timestamp(Timestamp::from_unix(number("seconds"), nanos).with_offset_minutes(offset))
    .with_trace_id(text(fields, "trace_id"))
    .with_correlation_id(text(fields, "correlation_id"))
    .with_tenant_id(number("tenant_id"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
