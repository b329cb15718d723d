//! What travels through a lane: a record, where it goes and who is told how it ended.

use crate::delivery::Slot;
use crate::outcome::Outcome;
use crate::receipt::Promise;
use crate::record::Record;

/// One record on its way to a handler.
#[derive(Debug)]
pub struct Work {
    /// The record.
    pub record: Record,
    /// The hash of subscription and key: who has the same one waits for it.
    pub hash: u64,
    /// The subscription's place in the table.
    pub subscription: u32,
    /// The subscription's generation: another one at the same place is another subscription.
    pub generation: u32,
    /// Who is told.
    pub completion: Completion,
}

/// Who is told how a record ended. Dropped, it says "not finished".
#[derive(Debug)]
pub enum Completion {
    /// Nobody.
    Untracked,
    /// A receipt.
    Receipt(Promise),
    /// The source that it came from.
    Source(SourceToken),
}

/// A delivery's place in its source: comes back once, when the delivery is finished.
#[derive(Debug)]
pub struct SourceToken {
    /// The source's place in the table.
    pub source: u32,
    /// The source's assignment: another one at the same place is another source.
    pub epoch: u32,
    /// The delivery's place in the source's ledger.
    pub slot: Slot,
}

impl Work {
    /// Ends it without handling it: a receipt is told so, a source's delivery stays unfinished. Returns the
    /// record if it was submitted in process.
    pub fn abandon(self, outcome: Outcome) -> Option<Record> {
        match self.completion {
            Completion::Untracked => Some(self.record),
            Completion::Receipt(promise) => {
                promise.fulfil(outcome);
                Some(self.record)
            }
            Completion::Source(_) => None,
        }
    }
}

// A ring's slot is one cache line: the message has what is left beside its sequence number.
const _: () = assert!(size_of::<Work>() <= 56);
