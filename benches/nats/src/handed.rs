//! When the consume loop handed each record to the runtime: which one it is stands in its payload.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keylane::internals::PUT;

/// More than are ever between the loop and their handlers.
const PLACES: usize = 1 << 18;

static ORIGIN: OnceLock<Instant> = OnceLock::new();
static TIMES: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];

/// From here on every record that is handed over is noted, at the cost of a look at the clock.
pub fn begin() {
    ORIGIN.get_or_init(Instant::now);
    // Set by an earlier call: it is the same.
    let _ = PUT.set(note);
}

/// The record's number, from 1; 0 is none.
fn place(payload: &[u8]) -> Option<&'static AtomicU64> {
    let number = u64::from_le_bytes(*payload.get(16..)?.first_chunk()?);
    let at = usize::try_from(number.checked_sub(1)?).ok()?;
    Some(&TIMES[at % PLACES])
}

fn note(payload: &[u8]) {
    let (Some(place), Some(origin)) = (place(payload), ORIGIN.get()) else { return };
    let nanos = u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // Passed on by the record's own way to its handler.
    place.store(nanos, Ordering::Relaxed);
}

/// When this record was handed over, if that was noted.
pub fn take(payload: &[u8]) -> Option<Instant> {
    let nanos = place(payload)?.swap(0, Ordering::Relaxed);
    (nanos > 0).then(|| ORIGIN.get().map(|origin| *origin + Duration::from_nanos(nanos)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_has_its_own_time() {
        begin();
        let payload = |number: u64| [[0; 16].as_slice(), &number.to_le_bytes(), &[0; 8]].concat();
        let before = Instant::now();
        note(&payload(7));
        assert!(take(&payload(8)).is_none());
        assert!(take(&payload(7)).is_some_and(|handed| handed >= before));
        assert!(take(&payload(7)).is_none(), "it was taken");
        note(&payload(0));
        assert!(take(&payload(0)).is_none() && take(b"short").is_none());
    }
}
