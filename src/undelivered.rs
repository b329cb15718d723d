//! Why a source's record was not taken.

use std::fmt;

use crate::delivery::DeliverError;
use crate::record::Record;
use crate::submit::Refusal;

/// Why a record was not taken from its source.
#[non_exhaustive]
pub enum Undelivered {
    /// Its lane is full: keep it, read no further, come back when woken.
    Full(Record),
    /// The source holds as many bytes as it may: keep it, read no further until something is finished. Before it
    /// sleeps, the loop asks the ledger's [`prepare_wait_any`](crate::ledger::Ledger::prepare_wait_any).
    Bytes(Record),
    /// The ledger's window is full, or the record is not new: see [`DeliverError`].
    Ledger(DeliverError, Record),
    /// The source, the subscription or the runtime takes no more.
    Stopped(Record),
    /// It has no key where one is needed. It is not in the ledger.
    Key(Refusal, Record),
}

impl fmt::Debug for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full(..)"),
            Self::Bytes(_) => f.write_str("Bytes(..)"),
            Self::Ledger(error, _) => write!(f, "Ledger({error:?}, ..)"),
            Self::Stopped(_) => f.write_str("Stopped(..)"),
            Self::Key(refusal, _) => write!(f, "Key({refusal:?}, ..)"),
        }
    }
}
