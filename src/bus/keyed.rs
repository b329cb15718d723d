//! The key of a record from a broker: its own, else its headers', else its envelope's.

use crate::envelope::{Envelope, extract_key};
use crate::record::Record;

/// Where a record's key may be written beside the record's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyIn {
    /// In headers: the subscription is to raw records.
    Headers,
    /// In headers, and in the envelope that it holds.
    Envelope,
}

/// The record under its key. A key that is empty is none.
///
/// An envelope is decoded here only if its key is needed, and then kept with the record; whoever handles it
/// compares it to the key.
pub(crate) fn keyed(record: Record, key_in: KeyIn) -> Record {
    if record.key().is_some_and(|key| !key.is_empty()) {
        return record;
    }
    if key_in == KeyIn::Headers && record.headers().next().is_none() {
        return record;
    }
    let headers = record
        .headers()
        .filter_map(|header| Some((std::str::from_utf8(header.name).ok()?, header.value?)));
    if let Ok(key) = extract_key(None, headers, None, None) {
        let key = key.to_owned();
        return record.with_key(key.as_bytes(), None);
    }
    if key_in == KeyIn::Headers {
        return record;
    }
    match Envelope::decode(record.payload()) {
        Ok(envelope) => {
            let envelope = envelope.into_owned();
            let key = envelope.key().to_owned();
            record.with_key(key.as_bytes(), Some(envelope))
        }
        // It has no order. Whoever handles it says what is wrong.
        Err(_) => record,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &str) -> Vec<u8> {
        Envelope::new(key, "Placed", 1, "{}").to_vec().unwrap()
    }

    #[test]
    fn its_own_key_counts_before_a_header_and_a_header_before_the_envelope() {
        let key = |record: Record| keyed(record, KeyIn::Envelope).key().map(<[u8]>::to_vec);
        let header = |record: Record| record.with_header("aggregate-id", " by-header ");
        assert_eq!(key(header(Record::new("own", event("by-body")))).unwrap(), b"own");
        assert_eq!(key(header(Record::keyless(event("by-body")))).unwrap(), b"by-header");
        assert_eq!(key(Record::keyless(event("by-body"))).unwrap(), b"by-body");
        assert_eq!(key(Record::new("", event("by-body"))).unwrap(), b"by-body");
        assert_eq!(key(Record::keyless("no envelope")), None);
        let raw = |record: Record| keyed(record, KeyIn::Headers).key().map(<[u8]>::to_vec);
        assert_eq!(raw(header(Record::keyless(event("by-body")))).unwrap(), b"by-header");
        assert_eq!(raw(Record::keyless(event("by-body"))), None);
    }

    #[test]
    fn what_was_decoded_for_its_key_is_kept_and_nothing_else_changes() {
        for payload in
            [event("order-1"), Envelope::new("order-1", "P", 1, "9".repeat(500)).to_vec().unwrap()]
        {
            for record in
                [Record::keyless(&payload), Record::from_bytes(None, payload.clone().into())]
            {
                let record = keyed(record.with_header("h", "v").with_timestamp(7), KeyIn::Envelope);
                assert_eq!(record.decoded().unwrap().key(), "order-1");
                assert_eq!((record.key(), record.payload()), (Some(&b"order-1"[..]), &payload[..]));
                assert_eq!((record.header("h"), record.timestamp()), (Some(&b"v"[..]), Some(7)));
            }
        }
    }
}
