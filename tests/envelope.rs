//! The envelope's promises one by one; agreement with the Go side is checked in `envelope_golden` and
//! `envelope_differential`.

// The lint's exemption of tests does not reach the functions around them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use keylane::{DecodeError, Decoder, Envelope, EnvelopeError, KeyNotFound, Timestamp, extract_key};
use std::borrow::Cow;
use std::collections::HashSet;
use std::error::Error;

fn sample() -> Envelope<'static> {
    Envelope::new("order-42", "OrderPlaced", 1, r#"{"amount":9.5}"#)
        .with_event_id("e-1")
        .with_timestamp(Timestamp::from_unix(1_754_627_696, 123_456_789).with_offset_minutes(480))
}

fn encoded(envelope: &Envelope<'_>) -> String {
    String::from_utf8(envelope.to_vec().unwrap()).unwrap()
}

#[test]
fn required_fields_are_asked_for_in_the_formats_order() {
    let mut envelope = Envelope::new("?", "t", 0, "").with_event_id(" ").with_trace_id("kept");
    envelope.aggregate_id = "".into();
    envelope.event_type = "\t".into();
    let mut next = |fix: fn(&mut Envelope<'_>)| {
        let error = envelope.validate().unwrap_err();
        assert_eq!(envelope.to_vec().as_ref(), Err(&error));
        fix(&mut envelope);
        error.to_string()
    };
    assert_eq!(next(|e| e.event_id = "e".into()), "event_id is required");
    assert_eq!(next(|e| e.aggregate_id = "a b".into()), "aggregate_id is required");
    assert_eq!(next(|e| e.event_type = "t".into()), "event_type is required");
    assert_eq!(next(|e| e.event_version = -1), "event_version must be positive");
    assert_eq!(next(|e| e.event_version = 1), "event_version must be positive");
    assert_eq!(next(|e| e.payload = b"1".into()), "payload is required");
    assert_eq!(
        next(|e| e.aggregate_id = "a".repeat(257).into()),
        "invalid aggregate_id: aggregate_id contains invalid character:  "
    );
    assert_eq!(
        next(|e| e.aggregate_id = "a".repeat(256).into()),
        "invalid aggregate_id: aggregate_id too long (max 256 characters)"
    );
    assert_eq!(envelope.validate(), Ok(()));
}

#[test]
fn ids_hold_the_formats_characters_and_no_other() {
    for c in (0..=0x2ff).filter_map(char::from_u32).chain(['订', '🦀', '\u{2028}']) {
        let envelope = Envelope::new(format!("a{c}b"), "t", 1, "1");
        let allowed = c.is_ascii_alphanumeric() || [':', '_', '-', '.', '/'].contains(&c);
        let expected = if allowed { Ok(()) } else { Err(EnvelopeError::AggregateIdCharacter(c)) };
        assert_eq!(envelope.validate(), expected, "{c:?}");
    }
}

#[test]
fn optional_fields_are_left_out_when_empty() {
    let least = encoded(&sample());
    for name in ["trace_id", "correlation_id", "tenant_id"] {
        assert!(!least.contains(name), "{least}");
    }
    let all = sample().with_trace_id("t").with_correlation_id("c").with_tenant_id(7);
    let text = encoded(&all);
    assert!(text.contains(r#","trace_id":"t","correlation_id":"c","tenant_id":7,"payload":"#));
    assert_eq!(Envelope::decode(text.as_bytes()).unwrap(), all);
}

#[test]
fn a_new_envelope_has_an_id_that_sorts_by_time_and_the_time() {
    let before = Timestamp::now();
    let ids: Vec<_> =
        (0..10_000).map(|_| Envelope::new("a", "t", 1, "1").event_id.into_owned()).collect();
    assert!(ids.is_sorted());
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    let id = uuid::Uuid::parse_str(&ids[0]).unwrap();
    assert_eq!((id.get_version_num(), id.to_string()), (7, ids[0].clone()));
    let time = Envelope::new("a", "t", 1, "1").timestamp;
    assert!(before <= time && time <= Timestamp::now());
    assert_eq!(time.offset_minutes(), 0);
}

#[test]
fn the_payload_is_raw_json_byte_for_byte() {
    let payload = " { \"a\" : [ 1.50 , \"<\\u00e9>\" ] }\n";
    let envelope = Envelope::new("a", "t", 1, payload);
    let bytes = envelope.to_vec().unwrap();
    assert!(encoded(&envelope).ends_with(&format!(r#","payload":{payload}}}"#)));
    // Only the white space around it is lost.
    assert_eq!(&*Envelope::decode(&bytes).unwrap().payload, payload.trim().as_bytes());
}

#[test]
fn a_large_payload_and_any_text_survive() {
    let payload = format!("[\"{}\"]", "日本🦀<>&é".repeat(20_000));
    let any: String = (0..=0x10_ffff).step_by(7).filter_map(char::from_u32).collect();
    let mut envelope = sample().with_trace_id(any.as_str());
    envelope.payload = Cow::Borrowed(payload.as_bytes());
    let bytes = envelope.to_vec().unwrap();
    assert_eq!(Envelope::decode(&bytes).unwrap(), envelope);
}

#[test]
fn encoding_refuses_what_no_reader_could_use() {
    let with = |payload: &'static str| Envelope::new("a", "t", 1, payload).to_vec();
    for payload in
        ["{", "1 2", "[1]]", "nul", " ", "// x\n1", "'a'", "01", "\"\t\"", "\"\\n\t\"", "[1,]"]
    {
        assert!(matches!(with(payload), Err(EnvelopeError::PayloadNotJson { .. })), "{payload}");
    }
    assert!(matches!(
        Envelope::new("a", "t", 1, b"\"\xff\"").to_vec(),
        Err(EnvelopeError::PayloadNotJson { at: 1, expected: "UTF-8" })
    ));
    assert_eq!(with(" null "), Err(EnvelopeError::PayloadRequired));
    let untrimmed = Envelope::new(" a", "t", 1, "1");
    assert_eq!(untrimmed.key(), "a");
    assert_eq!(untrimmed.to_vec(), Err(EnvelopeError::Untrimmed { field: "aggregate_id" }));
    let untrimmed = sample().with_event_id("e ");
    assert_eq!(untrimmed.to_vec(), Err(EnvelopeError::Untrimmed { field: "event_id" }));
    let mut out = b"kept".to_vec();
    assert!(untrimmed.encode(&mut out).is_err());
    assert_eq!(out, b"kept");
}

#[test]
fn times_without_a_form_on_the_wire_are_refused() {
    let with = |seconds, offset| {
        let time = Timestamp::from_unix(seconds, 0).with_offset_minutes(offset);
        sample().with_timestamp(time).to_vec().map(drop)
    };
    assert_eq!(with(253_402_300_799, 0), Ok(()));
    assert_eq!(with(253_402_300_799, 1), Err(EnvelopeError::TimestampYear));
    assert_eq!(with(253_402_300_800, -1), Ok(()));
    assert_eq!(with(-62_167_219_200, -1), Err(EnvelopeError::TimestampYear));
    assert_eq!(with(i64::MAX, i16::MAX), Err(EnvelopeError::TimestampYear));
    assert_eq!(with(i64::MIN, i16::MIN), Err(EnvelopeError::TimestampYear));
    assert_eq!(with(0, 24 * 60 - 1), Ok(()));
    assert_eq!(with(0, 24 * 60), Err(EnvelopeError::TimestampOffset));
    assert_eq!(with(0, i16::MIN), Err(EnvelopeError::TimestampOffset));
}

#[test]
fn nesting_is_bounded_by_an_option_and_takes_no_stack() {
    let nested = |levels: usize| {
        let payload = "[{\"a\":".repeat(levels / 2) + "1" + &"}]".repeat(levels / 2);
        format!(
            r#"{{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1,"x":{payload},"payload":{payload}}}"#
        )
    };
    assert!(Envelope::decode(nested(2_000).as_bytes()).is_ok());
    let deep = nested(2_002);
    assert_eq!(Envelope::decode(deep.as_bytes()), Err(DecodeError::TooDeep { limit: 2_000 }));
    assert!(Decoder::new().nesting_limit(2_002).decode(deep.as_bytes()).is_ok());
    let deeper = nested(400_000);
    assert!(Decoder::new().nesting_limit(400_000).decode(deeper.as_bytes()).is_ok());
    assert!(Envelope::decode("[".repeat(400_000).as_bytes()).is_err());
    let flat = nested(0);
    assert!(Decoder::new().nesting_limit(0).decode(flat.as_bytes()).is_ok());
    let payload = "[".repeat(2_001) + &"]".repeat(2_001);
    let error = Envelope::new("a", "t", 1, payload).to_vec();
    assert_eq!(error, Err(EnvelopeError::PayloadTooDeep { limit: 2_000 }));
}

#[test]
fn decoding_borrows_unless_there_is_an_escape() {
    let plain = br#"{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1,"trace_id":"x","payload":"\n"}"#;
    let envelope = Envelope::decode(plain).unwrap();
    for text in
        [&envelope.event_id, &envelope.aggregate_id, &envelope.event_type, &envelope.trace_id]
    {
        assert!(matches!(text, Cow::Borrowed(_)));
    }
    assert!(matches!(envelope.payload, Cow::Borrowed(br#""\n""#)));
    let owned: Envelope<'static> = envelope.clone().into_owned();
    assert_eq!(owned, envelope);
    let escaped = br#"{"event_id":"\u0065","aggregate_id":"a","event_type":"t","event_version":1,"payload":1}"#;
    assert_eq!(Envelope::decode(escaped).unwrap().event_id, "e");
}

#[test]
fn errors_say_where_and_never_show_the_payload() {
    let secret = "hunter2";
    let bytes = format!(r#"{{"event_id":"e","payload":{{"password":"{secret}",}}}}"#);
    let error = Envelope::decode(bytes.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "failed to unmarshal envelope: expected a string at byte 48");
    assert!(!format!("{error:?}").contains(secret));
    let envelope = Envelope::new("a", "t", 1, format!("{{{secret}"));
    let error = envelope.to_vec().unwrap_err();
    assert_eq!(
        error.to_string(),
        "payload must be exactly one JSON value: expected a string at its byte 1"
    );
    assert!(!format!("{envelope:?} {error:?}").contains(secret));
    let error = Envelope::decode(b"null").unwrap_err();
    assert_eq!(error.to_string(), "invalid envelope: event_id is required");
    let none: Option<&dyn Error> = error.source();
    assert!(none.is_none(), "the text is whole, so a chain of causes would repeat it");
}

#[test]
fn bytes_that_are_not_utf8_are_an_error_outside_the_payload() {
    let with = |part: &[u8], payload: &[u8]| {
        let head = br#"{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1,"#;
        [&head[..], part, br#""payload":"#, payload, b"}"].concat()
    };
    assert!(Envelope::decode(&with(b"", b"\"\xff\"")).is_ok());
    for part in [
        &b"\"trace_id\":\"\xff\","[..],
        b"\"trace_id\":\"\\n\xff\",",
        b"\"\xff\":1,",
        b"\"x\":{\"\xff\":1},",
        b"\"x\":\"\xff\",",
    ] {
        let bytes = with(part, b"1");
        assert!(matches!(Envelope::decode(&bytes), Err(DecodeError::NotUtf8 { .. })), "{part:?}");
    }
}

#[test]
fn the_first_versions_base64_payload_is_read_on_request() {
    let old = br#"{"aggregate_id":"a","event_type":"t","event_version":1,"timestamp":"2025-10-13T10:00:00Z","payload":"YWdncmVnYXRlIGFnZ3JlZ2F0ZS0wIG1lc3NhZ2UgMQ=="}"#;
    let decoder = Decoder::new().base64_payload(true);
    let envelope = decoder.decode(old).unwrap();
    assert_eq!(&*envelope.payload, b"aggregate aggregate-0 message 1");
    assert_eq!((envelope.key(), &*envelope.event_id), ("a", ""));
    assert_eq!(
        Envelope::decode(old),
        Err(DecodeError::Invalid(EnvelopeError::EventIdRequired)),
        "without the option"
    );
    // The newer version's payloads of other kinds pass, and it must have its event id.
    let newer = sample().to_vec().unwrap();
    assert_eq!(decoder.decode(&newer).unwrap(), sample());
    let no_id = br#"{"aggregate_id":"a","event_type":"t","event_version":1,"payload":{}}"#;
    assert_eq!(decoder.decode(no_id), Err(DecodeError::Invalid(EnvelopeError::EventIdRequired)));
    let blank = br#"{"event_id":" ","aggregate_id":"a","event_type":"t","event_version":1,"payload":"Zg=="}"#;
    assert_eq!(
        decoder.decode(blank),
        Err(DecodeError::Invalid(EnvelopeError::EventIdRequired)),
        "only a missing id is tolerated"
    );
    let escaped =
        br#"{"aggregate_id":"a","event_type":"t","event_version":1,"payload":"\/\/\/\/"}"#;
    assert_eq!(&*decoder.decode(escaped).unwrap().payload, b"\xff\xff\xff");
    let broken = br#"{"aggregate_id":"a","event_type":"t","event_version":1,"payload":"!"}"#;
    assert!(matches!(decoder.decode(broken), Err(DecodeError::Malformed { at: 65, .. })));
    let empty = br#"{"aggregate_id":"a","event_type":"t","event_version":1,"payload":""}"#;
    assert_eq!(decoder.decode(empty), Err(DecodeError::Invalid(EnvelopeError::PayloadRequired)));
}

#[test]
fn the_key_comes_from_the_first_place_that_holds_a_valid_one() {
    let envelope = Envelope::new(" from-envelope ", "t", 1, "1");
    let headers = [("X-Aggregate-ID", &b"from-header"[..])];
    let key = |envelope, headers: &[(&'static str, &'static [u8])], record_key, subject| {
        extract_key(envelope, headers.iter().copied(), record_key, subject).map(str::to_string)
    };
    let (record, subject) = (Some(&b" from-key "[..]), Some("a.b.from-subject"));
    assert_eq!(key(Some(&envelope), &headers, record, subject).unwrap(), "from-envelope");
    assert_eq!(key(None, &headers, record, subject).unwrap(), "from-header");
    assert_eq!(key(None, &[], record, subject).unwrap(), "from-key");
    assert_eq!(key(None, &[], None, subject).unwrap(), "from-subject");
    assert_eq!(key(None, &[], None, None), Err(KeyNotFound));
    assert_eq!(KeyNotFound.to_string(), "aggregate_id not found in any source");

    // What is not valid is passed over.
    let invalid = Envelope::new("not valid", "t", 1, "1");
    let bad = [("X-Aggregate-ID", &b"not valid"[..])];
    assert_eq!(key(Some(&invalid), &bad, record, subject).unwrap(), "from-key");
    assert_eq!(key(None, &bad, Some(b"\xff"), subject).unwrap(), "from-subject");
    assert_eq!(key(None, &[], Some(b" "), Some("a.b. c .*..>.")).unwrap(), "c");
    assert_eq!(key(None, &[], None, Some("*.>")), Err(KeyNotFound));
}

#[test]
fn a_key_header_has_four_spellings_in_order() {
    let spellings = ["X-Aggregate-ID", "x-aggregate-id", "Aggregate-ID", "aggregate-id"];
    let values = [&b"k0"[..], b" k1\t", b"k2", b"k3"];
    for first in 0..4 {
        // The least important comes first, so that only its rank can decide.
        let headers = (first..4).rev().map(|at| (spellings[at], values[at]));
        let expected = format!("k{first}");
        assert_eq!(extract_key(None, headers, None, None), Ok(&*expected));
    }
    assert_eq!(extract_key(None, [("AGGREGATE-ID", &b"k"[..])], None, None), Err(KeyNotFound));
    let twice = [("aggregate-id", &b"k1"[..]), ("aggregate-id", b"k2")];
    assert_eq!(extract_key(None, twice, None, None), Ok("k2"));
    let invalid = [("X-Aggregate-ID", &b"\xff"[..]), ("x-aggregate-id", b"")];
    let headers = invalid.into_iter().chain([("Aggregate-ID", &b"k2"[..])]);
    assert_eq!(extract_key(None, headers, None, None), Ok("k2"));
}
