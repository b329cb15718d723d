//! The ledger and its stored form, against a naive model and against threads.
#![cfg(all(feature = "internals", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/ledger_model.rs"]
mod model;

use std::sync::Arc;
use std::sync::mpsc;
use std::task::Waker;

use keylane::ConfigError;
use keylane::internals::{DecodeError, DeliverError, Finished, Ledger, NotNewest, Status, Stored};
use proptest::prelude::*;

use model::Wakes;

fn ledger(window: usize) -> (Ledger, Arc<Finished>) {
    Ledger::new(window, None, Waker::noop().clone()).unwrap()
}

fn waking(window: usize) -> (Ledger, Arc<Finished>, Arc<Wakes>) {
    let wakes = Arc::new(Wakes::default());
    let (ledger, finished) = Ledger::new(window, None, Arc::clone(&wakes).into()).unwrap();
    (ledger, finished, wakes)
}

fn advance(ledger: &mut Ledger) -> Vec<u64> {
    let mut reported = Vec::new();
    ledger.advance(|position| reported.push(position));
    reported
}

/// A stored form with every run and key given, made as a ledger makes it.
fn stored(frontier: u64, finished: &[u64], parked: &[&[u8]]) -> Stored {
    let start = Stored::new(frontier);
    let (mut ledger, bits) =
        Ledger::new(Ledger::MAX_WINDOW, Some(&start), Waker::noop().clone()).unwrap();
    if finished.first() != Some(&frontier) {
        ledger.deliver(frontier).unwrap();
    }
    for &position in finished {
        bits.finish(ledger.deliver(position).unwrap());
    }
    advance(&mut ledger);
    let mut stored = ledger.stored().unwrap();
    parked.iter().for_each(|key| stored.park(*key));
    stored
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_naive_model(
        window in prop::sample::select(vec![1_usize, 2, 3, 62, 63, 64, 65, 125, 126, 127, 200]),
        start in prop::option::of(prop_oneof![0_u64..50, u64::MAX - 200..=u64::MAX]),
        data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        model::run(window, start, &data);
    }

    #[test]
    fn text_never_panics(text in "(kl[0-9]{0,3}\\.)?[A-Za-z0-9_=.é-]{0,60}") {
        let _ = Stored::decode(&text);
    }

    #[test]
    fn stored_form_survives_any_gaps_and_any_limit(
        frontier in prop_oneof![0_u64..10, any::<u64>().prop_map(|p| p >> 1)],
        gaps in prop::collection::vec(prop_oneof![4 => 0_u64..3, 1 => 0_u64..1 << 50], 0..300),
        parked in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        limit in 0_usize..1_200,
    ) {
        let mut position = frontier;
        let finished: Vec<u64> = gaps.iter().map(|gap| { position += gap + 1; position }).collect();
        let keys: Vec<&[u8]> = parked.iter().map(Vec::as_slice).collect();
        let whole = stored(frontier, &finished, &keys);
        let text = whole.encode(Stored::MAX_TEXT).text;
        prop_assert_eq!(Stored::decode(&text), Ok(whole.clone()));

        let short = whole.encode(limit);
        prop_assert!(short.text.len() <= limit && short.text.is_ascii());
        if let Ok(kept) = Stored::decode(&short.text) {
            let left = finished.iter().take_while(|&&p| kept.is_finished(p)).count();
            prop_assert_eq!((finished.len() - left) as u64, short.finished_dropped);
            prop_assert!(finished[left..].iter().all(|&p| !kept.is_finished(p)));
            prop_assert_eq!(keys.len() - kept.parked().len(), short.parked_dropped);
        } else {
            prop_assert!(short.text.is_empty());
            prop_assert_eq!(short.finished_dropped, finished.len() as u64);
            prop_assert_eq!(short.parked_dropped, keys.len());
        }
    }
}

#[test]
fn windows_out_of_range_are_refused() {
    for window in [0, Ledger::MAX_WINDOW + 1, usize::MAX] {
        let refused = Ledger::new(window, None, Waker::noop().clone()).unwrap_err();
        assert!(matches!(refused, ConfigError::OutOfRange { option: "ledger_window", .. }));
    }
}

#[test]
fn gaps_never_hold_the_frontier() {
    let (mut ledger, finished) = ledger(8);
    assert_eq!(ledger.frontier(), None);
    let slots = [5, 9, 1_000_000].map(|position| ledger.deliver(position).unwrap());
    assert_eq!(ledger.frontier(), Some(5));
    finished.finish(slots[0]);
    assert_eq!(advance(&mut ledger), [5]);
    assert_eq!(ledger.frontier(), Some(9));
    finished.finish(slots[2]);
    assert_eq!(advance(&mut ledger), [1_000_000]);
    assert_eq!(ledger.frontier(), Some(9));
    finished.finish(slots[1]);
    assert_eq!(advance(&mut ledger), [9]);
    assert_eq!(ledger.frontier(), Some(1_000_001));
    assert_eq!(ledger.newest(), Some(1_000_000));
    assert!(advance(&mut ledger).is_empty());
}

#[test]
fn a_full_window_refuses_until_the_frontier_moves() {
    let (mut ledger, finished) = ledger(2);
    let (first, second) = (ledger.deliver(1).unwrap(), ledger.deliver(2).unwrap());
    finished.finish(second);
    advance(&mut ledger);
    assert_eq!(ledger.deliver(3), Err(DeliverError::WindowFull));
    finished.finish(first);
    advance(&mut ledger);
    assert!(ledger.deliver(3).is_ok());
}

#[test]
fn a_resumed_source_skips_what_is_finished_and_keeps_it_stored() {
    let before = stored(10, &[12, 13, 20], &[]);
    let (mut ledger, finished) = Ledger::new(8, Some(&before), Waker::noop().clone()).unwrap();
    assert_eq!(ledger.frontier(), Some(10));
    assert_eq!(ledger.deliver(9), Err(DeliverError::Passed));
    let ten = ledger.deliver(10).unwrap();
    assert_eq!(ledger.deliver(12), Err(DeliverError::AlreadyFinished));
    assert_eq!(ledger.stored(), Some(before));
    finished.finish(ten);
    advance(&mut ledger);
    assert_eq!(ledger.frontier(), Some(13), "12 was skipped, 13 not yet read");
    assert_eq!(ledger.stored().unwrap().finished()[0].first, 13);
    assert_eq!(ledger.deliver(13), Err(DeliverError::AlreadyFinished));
    ledger.deliver(14).unwrap();
    assert_eq!(ledger.deliver(20), Err(DeliverError::AlreadyFinished));
    assert_eq!(ledger.frontier(), Some(14));
}

#[test]
fn a_late_finish_of_an_old_epoch_changes_nothing() {
    let (mut old, old_finished, old_wakes) = waking(8);
    let late = old.deliver(1).unwrap();
    assert!(old.prepare_wait());
    let stored = old.stored().unwrap();
    drop(old);
    let (mut ledger, finished) = Ledger::new(8, Some(&stored), Waker::noop().clone()).unwrap();
    let again = ledger.deliver(1).unwrap();
    old_finished.finish(late);
    assert_eq!(old_wakes.count(), 0);
    assert!(advance(&mut ledger).is_empty());
    assert_eq!(ledger.frontier(), Some(1));
    finished.finish(again);
    assert_eq!(advance(&mut ledger), [1]);
}

#[test]
fn a_rewind_tells_running_finished_and_dropped_apart() {
    let (mut ledger, finished) = ledger(8);
    let slots = [1, 2, 3, 4].map(|position| ledger.deliver(position).unwrap());
    finished.finish(slots[1]);
    advance(&mut ledger);
    assert_eq!(ledger.rewind([slots[2], slots[3]]), Some(1));
    assert_eq!((ledger.unfinished(), ledger.in_flight()), (3, 1));
    assert_eq!(
        [1, 2, 3].map(|position| ledger.status(position)),
        [Status::Unfinished, Status::Finished, Status::Unknown]
    );
    assert_eq!(ledger.deliver(1), Err(DeliverError::InFlight));
    assert_eq!(ledger.deliver(2), Err(DeliverError::AlreadyFinished));
    let three = ledger.deliver(3).unwrap();
    // 4 has gone from the source.
    let five = ledger.deliver(5).unwrap();
    assert_eq!(ledger.deliver(4), Err(DeliverError::OutOfOrder { last: 5 }));
    [slots[0], three].into_iter().for_each(|slot| finished.finish(slot));
    assert_eq!(advance(&mut ledger), [1, 3]);
    assert_eq!(ledger.frontier(), Some(5));
    finished.finish(five);
    assert_eq!(advance(&mut ledger), [5]);
}

#[test]
fn a_position_that_was_never_delivered_is_never_taken_for_finished() {
    let (mut ledger, finished) = ledger(8);
    for position in [1, 2, 8] {
        finished.finish(ledger.deliver(position).unwrap());
    }
    advance(&mut ledger);
    assert_eq!(ledger.deliver(2), Err(DeliverError::AlreadyFinished));
    assert_eq!(ledger.deliver(5), Err(DeliverError::OutOfOrder { last: 8 }));
}

#[test]
fn only_the_newest_delivery_can_be_retracted() {
    let (mut ledger, finished) = ledger(8);
    let (one, three) = (ledger.deliver(1).unwrap(), ledger.deliver(3).unwrap());
    assert_eq!(ledger.retract(one), Err(NotNewest));
    assert_eq!(ledger.retract(three), Ok(()));
    finished.finish(one);
    advance(&mut ledger);
    assert_eq!(ledger.frontier(), Some(3));
    assert!(ledger.deliver(3).is_ok());
}

#[test]
fn one_finish_of_the_oldest_wakes_once() {
    let (mut ledger, finished, wakes) = waking(200);
    let slots: Vec<_> = (0..150).map(|position| ledger.deliver(position).unwrap()).collect();
    finished.finish(slots[0]);
    assert_eq!(wakes.count(), 0, "nobody sleeps");
    assert!(!ledger.prepare_wait(), "there is news");
    assert_eq!(advance(&mut ledger), [0]);
    assert!(ledger.prepare_wait());
    finished.finish(slots[149]);
    assert_eq!(wakes.count(), 0, "does not move the frontier");
    finished.finish(slots[1]);
    finished.finish(slots[2]);
    assert_eq!(wakes.count(), 1);
    assert_eq!(advance(&mut ledger), [1, 2, 149]);
    assert!(ledger.prepare_wait_any());
    finished.finish(slots[148]);
    assert_eq!(wakes.count(), 2);
    assert!(ledger.advance(|_| {}));
    assert!(ledger.prepare_wait_any());
    ledger.cancel_wait();
    slots[3..148].iter().for_each(|&slot| finished.finish(slot));
    assert_eq!(wakes.count(), 2);
}

/// The owner delivers and advances, and sleeps by the protocol, while two threads finish: each
/// position is reported exactly once, and no wake-up is lost (or this hangs).
#[test]
fn every_position_is_reported_exactly_once_under_threads() {
    const COUNT: u64 = 200_000;
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    for window in [1, 63, 64, 1_000] {
        let count = if window == 1 { COUNT / 20 } else { COUNT };
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let (mut ledger, finished) = Ledger::new(window, None, waker).unwrap();
        let mut reports = vec![0_u8; count as usize];
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let (send, receive) = mpsc::channel::<Vec<_>>();
                    let finished = Arc::clone(&finished);
                    scope.spawn(move || {
                        for mut slots in receive {
                            // Out of order.
                            slots.reverse();
                            slots.into_iter().for_each(|slot| finished.finish(slot));
                        }
                    });
                    send
                })
                .collect();
            let mut position = 0;
            while ledger.frontier() != Some(count * 2) {
                let mut batches = [Vec::new(), Vec::new()];
                while position < count && !ledger.is_full() {
                    // Every other position is a gap.
                    let slot = ledger.deliver(position * 2 + 1).unwrap();
                    batches[(position / 3 % 2) as usize].push(slot);
                    position += 1;
                }
                for (worker, batch) in workers.iter().zip(batches) {
                    worker.send(batch).unwrap();
                }
                if ledger.prepare_wait() {
                    std::thread::park();
                }
                ledger.advance(|position| reports[(position / 2) as usize] += 1);
            }
        });
        assert!(reports.iter().all(|&times| times == 1), "window {window}");
        assert_eq!(ledger.unfinished(), 0);
    }
}

#[test]
fn every_changed_character_is_found() {
    let whole = stored(123_456, &[123_460, 123_461, 130_000, 1 << 40], &[b"key\xff", b"other"]);
    let text = whole.encode(Stored::LIMIT).text;
    assert_eq!(Stored::decode(&text), Ok(whole));
    for at in 0..text.len() {
        assert!(Stored::decode(&text[..at]).is_err(), "cut to {at}");
        for other in (0..128_u8).filter(|&other| other != text.as_bytes()[at]) {
            let mut changed = text.clone().into_bytes();
            changed[at] = other;
            let changed = String::from_utf8(changed).unwrap();
            assert!(Stored::decode(&changed).is_err(), "{at} changed to {other}");
        }
    }
    assert!(Stored::decode(&format!("{text}A")).is_err());
}

#[test]
fn a_text_that_is_not_ours_says_so() {
    assert_eq!(Stored::decode(""), Err(DecodeError::Foreign));
    assert_eq!(Stored::decode("{\"offsets\":[1]}"), Err(DecodeError::Foreign));
    assert_eq!(Stored::decode("klingon.1"), Err(DecodeError::Foreign));
    assert_eq!(Stored::decode("kl7.AAAA"), Err(DecodeError::Version { found: 7 }));
    assert_eq!(Stored::decode("kl1."), Err(DecodeError::Broken));
    let long = "k".repeat(Stored::MAX_TEXT + 1);
    assert_eq!(Stored::decode(&long), Err(DecodeError::TooLong { bytes: long.len() }));
    let text = Stored::new(7).encode(Stored::LIMIT).text;
    assert_eq!(Stored::decode_at(&text, 3), Err(DecodeError::Moved { stored: 7, position: 3 }));
}

#[test]
fn runs_give_way_before_parked_keys() {
    let finished: Vec<u64> = (0..40_000).filter(|p| p % 3 != 0).map(|p| p + 100).collect();
    let long = [b'x'; 4_096];
    let whole = stored(100, &finished, &[b"first", &long, b"second"]);
    let encoded = whole.encode(Stored::LIMIT);
    assert!(encoded.text.len() <= Stored::LIMIT);
    assert_eq!(encoded.parked_dropped, 1, "the long key alone is too long");
    assert!(encoded.finished_dropped > 0);
    let kept = Stored::decode(&encoded.text).unwrap();
    assert_eq!(kept.parked(), [b"first".to_vec(), b"second".to_vec()]);
    // About one bit and a half a position.
    assert!(kept.finished().last().unwrap().last > 15_000);
    // A long run costs a few characters, whatever its length.
    let run: Vec<u64> = (1..100_000).collect();
    assert!(stored(0, &run, &[]).encode(Stored::LIMIT).text.len() < 24);
}
