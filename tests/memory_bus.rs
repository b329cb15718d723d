//! The memory bus beyond the contract that all buses share: restarts, progress, faults.
#![cfg(feature = "testing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keylane::memory::MemoryBus;
use keylane::testing::{VirtualClock, settle};
use keylane::{HandlerError, Record, Retry, Runtime, Subscription};

type Seen = Arc<Mutex<Vec<(Vec<u8>, u64)>>>;

fn runtime(clock: &VirtualClock) -> Runtime {
    Runtime::builder().workers(2).lanes(1).clock(clock.clone()).build().unwrap()
}

fn note(seen: &Seen, record: &Record) {
    let position = record.position().unwrap();
    seen.lock().unwrap().push((record.payload().to_vec(), position.offset));
}

#[test]
fn what_is_not_committed_is_delivered_again_after_a_crash() {
    let clock = VirtualClock::new();
    let runtime = runtime(&clock);
    let bus = MemoryBus::new(&runtime).unwrap();
    let seen = Seen::default();
    let noted = seen.clone();
    let policy = Subscription::new("s").retry(Retry::fixed(Duration::from_secs(1)).forever());
    bus.subscribe("t", policy, move |record: &Record| {
        note(&noted, record);
        // The second of three fails, so the frontier stays at it.
        if record.payload() == b"b" && record.epoch() == noted.lock().unwrap().len() as u64 {
            return Ok(());
        }
        if record.payload() == b"b" { Err(HandlerError::retryable("later")) } else { Ok(()) }
    })
    .wait()
    .unwrap();
    for (key, payload) in [("1", "a"), ("2", "b"), ("3", "c")] {
        bus.publish("t", Record::new(key, payload)).wait().unwrap();
    }
    settle(&runtime);
    clock.advance(Duration::from_millis(5));
    settle(&runtime);
    let progress = &bus.progress("s")[0];
    assert_eq!((progress.frontier, progress.end, progress.unfinished), (1, 3, 1));
    let first = progress.epoch;
    bus.crash_consumer("s").unwrap();
    settle(&runtime);
    assert!(bus.progress("s")[0].epoch > first);
    let payloads: Vec<_> = seen.lock().unwrap().iter().map(|seen| seen.0.clone()).collect();
    assert_eq!(payloads, [b"a", b"b", b"c", b"b", b"c"].map(|p| p.to_vec()));
    bus.restart_consumer("s").unwrap();
    settle(&runtime);
    runtime.stop_now();
}
