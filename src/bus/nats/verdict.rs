//! What a stream answers to a publish.

use serde_json::Value;

use super::refusal::without_room;

/// An answer, as far as the publisher acts on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Stored, under this sequence of the stream; or there already.
    Stored(u64),
    /// It could not be stored, and may be soon: why, with what to do.
    NotReady(Box<str>),
    /// Another record of the subject came first: the sequence of the last one, if it is said.
    WrongLast(Option<u64>),
    /// Another publish to the subject is under way.
    Busy,
    /// The stream is full.
    Full,
    TooLarge,
    /// Batches are not to be had here.
    NoBatches(Box<str>),
    /// Refused for another reason.
    Refused(Box<str>),
    /// No answer that we know.
    Unreadable,
}

impl Verdict {
    /// Reads an answer's payload.
    pub(super) fn read(payload: &[u8]) -> Self {
        if let Some(sequence) = quick(payload) {
            return Self::Stored(sequence);
        }
        let Ok(answer) = serde_json::from_slice::<Value>(payload) else { return Self::Unreadable };
        let Some(error) = answer.get("error") else {
            return answer
                .get("seq")
                .and_then(Value::as_u64)
                .map_or(Self::Unreadable, Self::Stored);
        };
        let number = |name| error.get(name).and_then(Value::as_u64).unwrap_or(0);
        let text = error.get("description").and_then(Value::as_str).unwrap_or("no reason given");
        let code = number("err_code");
        if let Some(text) = without_room(code, text) {
            return Self::NotReady(text.into());
        }
        match code {
            // "wrong last sequence: 7"
            10_071 => Self::WrongLast(text.rsplit(' ').next().and_then(|last| last.parse().ok())),
            10_164 => Self::Busy,
            10_054 => Self::TooLarge,
            // Temporarily unavailable; no quorum; raft not ready.
            10_008 | 10_009 | 10_118 => Self::NotReady(nobody(text)),
            10_174 | 10_175 | 10_179 => Self::NoBatches(text.into()),
            10_077 if text.contains("maximum") => Self::Full,
            _ if number("code") == 503 => Self::NotReady(nobody(text)),
            code => Self::Refused(format!("{text} ({code})").into()),
        }
    }
}

fn nobody(text: &str) -> Box<str> {
    format!("no stream was there to store it: {text}").into()
}

/// The sequence in an answer as servers write it: `{"stream":"S","seq":7` and whatever follows.
fn quick(payload: &[u8]) -> Option<u64> {
    let rest = payload.strip_prefix(b"{\"stream\":")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest).strip_prefix(b"\"")?;
    let end = rest.iter().position(|&byte| byte == b'"' || byte == b'\\')?;
    let rest = rest[end..].strip_prefix(b"\",")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest).strip_prefix(b"\"seq\":")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_are_read() {
        let read = |text: &str| Verdict::read(text.as_bytes());
        for stored in [
            r#"{"stream":"S","seq":7}"#,
            r#"{"stream":"S", "seq":7,"domain":"hub"}"#,
            r#"{"stream":"S","seq":7,"duplicate":true}"#,
            r#"{"type":"io.nats.jetstream.api.v1.pub_ack","seq":7,"stream":"S"}"#,
            r#"{"stream":"a\"b","seq":7}"#,
        ] {
            assert_eq!(read(stored), Verdict::Stored(7), "{stored}");
        }
        let error = |code, err_code, text: &str| {
            read(&format!(
                r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"{text}"}},"stream":"S","seq":0}}"#
            ))
        };
        assert_eq!(error(400, 10_071, "wrong last sequence: 12"), Verdict::WrongLast(Some(12)));
        assert_eq!(error(400, 10_164, "wrong last sequence"), Verdict::Busy);
        assert_eq!(error(400, 10_054, "message size exceeds maximum allowed"), Verdict::TooLarge);
        assert_eq!(error(503, 10_077, "maximum messages exceeded"), Verdict::Full);
        assert!(matches!(error(503, 10_023, "insufficient resources"), Verdict::NotReady(_)));
        assert!(matches!(
            error(400, 10_109, "invalid operation on sealed stream"),
            Verdict::Refused(_)
        ));
        for unreadable in ["", "{", "+ACK", r#"{"stream":"S"}"#, r#"{"stream":"S","seq":-1}"#] {
            assert_eq!(read(unreadable), Verdict::Unreadable, "{unreadable}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Verdict::read(&bytes);
        }

        #[test]
        fn quick_reads_what_the_slow_way_reads(stream in "[A-Za-z_-]{1,9}", seq in any::<u64>(), rest in r#"(,"duplicate":true)?"#) {
            let text = format!(r#"{{"stream":"{stream}","seq":{seq}{rest}}}"#);
            prop_assert_eq!(quick(text.as_bytes()), Some(seq));
        }
    }
}
