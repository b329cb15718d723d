//! The ordering oracle convicts consumers that are wrong on purpose, each of the right thing, passes
//! one that is right, and agrees with a checker that is slow and plain.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Barrier;
use std::sync::mpsc;
use std::thread;

use keylane::testing::ViolationKind::*;
use keylane::testing::{Attempt, Ended, Oracle, Verdict, ViolationKind};

const KINDS: [ViolationKind; 8] =
    [Order, Gap, Overlap, Loss, Duplicate, Regress, EarlyCommit, Phantom];

fn kinds(verdict: &Verdict) -> Vec<ViolationKind> {
    KINDS.into_iter().filter(|&kind| verdict.count(kind) > 0).collect()
}

/// One key, records 1 to 5 published.
fn five() -> Oracle {
    let oracle = Oracle::new();
    (1..=5).for_each(|seq| oracle.published("k", seq));
    oracle
}

fn handle(oracle: &Oracle, seqs: impl IntoIterator<Item = u64>) {
    for seq in seqs {
        oracle.start("k", seq).end(Ended::Done);
    }
}

// ---- literal sequences ----

#[test]
fn accepts_a_replay_from_an_uncommitted_point() {
    let oracle = five();
    handle(&oracle, [1, 2]);
    oracle.restarted();
    handle(&oracle, [1, 2, 3, 4, 5]);
    let verdict = oracle.verdict();
    verdict.assert_clean();
    assert_eq!((verdict.published, verdict.handled, verdict.attempts), (5, 5, 7));
    assert_eq!((verdict.replayed, verdict.duplicates, verdict.restarts), (2, 0, 1));
}

#[test]
fn without_a_restart_the_same_replay_is_duplicates_up_to_a_bound() {
    for (allowed, clean) in [(0, false), (1, false), (2, true)] {
        let oracle = five().allow_duplicates(allowed);
        handle(&oracle, [1, 2, 1, 2, 3, 4, 5]);
        let verdict = oracle.verdict();
        assert_eq!((verdict.is_clean(), verdict.duplicates), (clean, 2));
        assert_eq!(verdict.count(Duplicate), 2 - allowed);
    }
}

#[test]
fn rejects_a_gap() {
    let oracle = five();
    handle(&oracle, [1, 3, 2]);
    let verdict = oracle.verdict();
    assert_eq!(kinds(&verdict), [Order, Gap, Loss]);
    assert_eq!((verdict.violations[0].kind, &*verdict.violations[0].seqs), (Gap, &[2, 3][..]));
    assert_eq!((verdict.violations[1].kind, &*verdict.violations[1].seqs), (Order, &[2, 3][..]));
    assert_eq!((verdict.violations[2].kind, &*verdict.violations[2].seqs), (Loss, &[4, 5][..]));
    assert_eq!((verdict.order, verdict.lost), (2, 2));
}

#[test]
fn rejects_a_regress_behind_a_committed_point() {
    for restart in [false, true] {
        let oracle = five();
        handle(&oracle, 1..=5);
        oracle.committed("k", 5);
        if restart {
            oracle.restarted();
        }
        handle(&oracle, [4, 3]);
        assert_eq!(kinds(&oracle.verdict()), [Regress], "restart: {restart}");
        assert_eq!(oracle.verdict().order, 2);
    }
}

#[test]
fn rejects_a_regress_whatever_is_committed() {
    let oracle = five();
    handle(&oracle, [1, 2, 3, 4, 5, 4, 3]);
    assert_eq!(kinds(&oracle.verdict()), [Duplicate]);

    let oracle = five();
    handle(&oracle, 1..=5);
    oracle.restarted();
    handle(&oracle, [4, 3]);
    assert_eq!(kinds(&oracle.verdict()), [Order]);
}

#[test]
fn a_record_committed_by_itself_is_not_replayed() {
    let oracle = five();
    handle(&oracle, 1..=5);
    oracle.committed("k", 1);
    oracle.acked("k", 4);
    oracle.restarted();
    handle(&oracle, [2, 3, 5]);
    oracle.verdict().assert_clean();
    oracle.restarted();
    handle(&oracle, [4]);
    assert_eq!(kinds(&oracle.verdict()), [Regress]);
}

#[test]
fn a_replayed_record_that_fails_is_retried_in_place() {
    let oracle = five().strict_replays();
    handle(&oracle, 1..=5);
    oracle.restarted();
    handle(&oracle, [1]);
    oracle.start("k", 2).end(Ended::Failed);
    handle(&oracle, 2..=5);
    let verdict = oracle.verdict();
    verdict.assert_clean();
    assert_eq!((verdict.replayed, verdict.retries), (5, 1));

    oracle.restarted();
    oracle.start("k", 1).end(Ended::Failed);
    handle(&oracle, [2]); // goes on without it
    assert_eq!(kinds(&oracle.verdict()), [Gap]);
    handle(&oracle, [1]);
    assert_eq!(kinds(&oracle.verdict()), [Order, Gap]);
}

#[test]
fn a_strict_replay_leaves_out_what_was_committed_and_nothing_else() {
    for (strict, acked, clean) in
        [(false, false, true), (true, false, false), (true, true, true), (false, true, true)]
    {
        let mut oracle = five();
        if strict {
            oracle = oracle.strict_replays();
        }
        handle(&oracle, [1, 2, 3]);
        if acked {
            oracle.acked("k", 2);
        }
        oracle.restarted();
        handle(&oracle, [1, 3, 4, 5]);
        let verdict = oracle.verdict();
        assert_eq!(verdict.is_clean(), clean, "strict {strict}, acked {acked}: {verdict}");
        assert!(clean || kinds(&verdict) == [Gap]);
    }
    // It may start anywhere: the last commit's answer may have been lost.
    let oracle = five().strict_replays();
    handle(&oracle, [1, 2, 3]);
    oracle.restarted();
    handle(&oracle, [3, 4, 5]);
    oracle.verdict().assert_clean();
}

#[test]
fn a_failed_record_is_retried_in_place_and_holds_its_key() {
    let oracle = five();
    for outcome in [Ended::Failed, Ended::Failed, Ended::Done] {
        oracle.start("k", 1).end(outcome);
    }
    oracle.start("k", 2).end(Ended::Failed);
    oracle.start("k", 3).end(Ended::Done);
    oracle.start("k", 2).end(Ended::Done);
    handle(&oracle, [4, 5]);
    let verdict = oracle.verdict();
    assert_eq!(kinds(&verdict), [Order, Gap]);
    assert_eq!((verdict.retries, verdict.order, verdict.duplicates), (3, 2, 0));
}

#[test]
fn a_retry_of_an_attempt_that_still_runs_overlaps() {
    let oracle = five();
    let running = oracle.start("k", 1);
    oracle.start("k", 1).end(Ended::Done);
    running.end(Ended::Failed);
    handle(&oracle, 2..=5);
    assert_eq!(kinds(&oracle.verdict()), [Overlap]);
    assert_eq!(oracle.verdict().violations[0].seqs, [1]);
}

#[test]
fn dead_letters_and_skips_finish_a_record_in_order() {
    let oracle = five();
    oracle.start("k", 1).end(Ended::Failed);
    oracle.dead_lettered("k", 1); // after its last attempt
    oracle.start("k", 2).end(Ended::DeadLettered); // as the attempt's end
    oracle.dead_lettered("k", 3); // its key is parked
    oracle.skipped("k", 4);
    handle(&oracle, [5]);
    let verdict = oracle.verdict();
    verdict.assert_clean();
    assert_eq!((verdict.handled, verdict.dead_lettered, verdict.skipped), (5, 3, 1));

    let oracle = five();
    oracle.dead_lettered("k", 2);
    assert_eq!(kinds(&oracle.verdict()), [Gap, Loss]);
}

#[test]
fn an_attempt_that_a_restart_wrote_off_counts_for_nothing() {
    let oracle = five();
    let before = oracle.start("k", 1);
    oracle.restarted();
    before.end(Ended::Done); // nobody will know
    assert_eq!(oracle.verdict().handled, 0);
    handle(&oracle, 1..=5);
    oracle.verdict().assert_clean();
    assert_eq!(oracle.verdict().retries, 1);
}

#[test]
fn a_panicking_handler_has_failed() {
    let oracle = five();
    let attempt = oracle.start("k", 1);
    let handler = move || {
        let _attempt = attempt;
        panic!("on purpose");
    };
    assert!(thread::spawn(handler).join().is_err());
    handle(&oracle, 1..=5);
    oracle.verdict().assert_clean();
}

#[test]
fn a_publish_may_be_told_late_be_in_doubt_or_be_taken_back() {
    let oracle = Oracle::new();
    handle(&oracle, [1, 2]);
    assert_eq!(kinds(&oracle.verdict()), [Phantom]);
    oracle.published("k", 2);
    oracle.published("k", 1);
    oracle.perhaps_published("k", 3);
    oracle.published("k", 4);
    handle(&oracle, [4]);
    oracle.published("k", 5);
    oracle.returned("k", 5);
    oracle.verdict().assert_clean();
    assert_eq!(oracle.verdict().published, 3);

    handle(&oracle, [5]);
    assert_eq!(kinds(&oracle.verdict()), [Phantom]);

    let oracle = Oracle::new();
    handle(&oracle, [2]);
    oracle.published("k", 2);
    oracle.published("k", 1); // it was there, and 2 went first
    assert_eq!(kinds(&oracle.verdict()), [Gap, Loss]);
}

#[test]
fn a_verdict_lists_a_few_violations_counts_them_all_and_says_how() {
    let oracle = Oracle::new();
    for key in 0..500_u32 {
        (0..40).for_each(|seq| oracle.published(key.to_be_bytes(), seq));
    }
    oracle.published("a \"long\" one \u{1}".repeat(50), 1);
    let verdict = oracle.verdict();
    assert_eq!((verdict.count(Loss), verdict.lost, verdict.keys), (501, 20_001, 501));
    assert_eq!(verdict.violations.len(), 100);
    assert!(verdict.violations.iter().all(|v| v.seqs.len() <= 16));
    let text = verdict.to_string();
    assert_eq!(text.lines().count(), 22, "{text}");
    assert!(text.ends_with("and 481 more violations"), "{text}");
    assert!(text.lines().all(|line| line.len() < 400), "{text}");
    assert!(
        text.contains("40 of 40 published did not finish: records 0, 1, 2,")
            && text.contains(" 15 and 24 more; 0 was never started"),
        "{text}"
    );
    // A verdict changes nothing.
    assert_eq!(oracle.verdict().count(Loss), 501);
}

#[test]
fn scopes_are_apart_but_judged_together() {
    let oracle = Oracle::new();
    let (a, b) = (oracle.scope("a"), oracle.scope("b"));
    for scope in [&a, &b] {
        (1..=3).for_each(|seq| scope.published("k", seq));
        handle(scope, [1, 2]);
    }
    oracle.scope("a").restarted();
    handle(&a, [2, 3]);
    handle(&b, [2, 3]);
    let verdict = b.verdict();
    assert_eq!(kinds(&verdict), [Duplicate]);
    assert_eq!((verdict.replayed, verdict.duplicates, verdict.keys), (1, 1, 2));
    assert_eq!(verdict.violations[0].scope, "b");
}

// ---- consumers that are wrong on purpose, and one that is right ----

const KEYS: u64 = 8;
const RECORDS: u64 = 200;

/// Runs a consumer on a log of (key, record), all of it published.
fn consume(consumer: impl FnOnce(&Oracle, &[(u64, u64)])) -> Verdict {
    let oracle = Oracle::new();
    let log: Vec<_> = (1..=RECORDS).flat_map(|seq| (0..KEYS).map(move |key| (key, seq))).collect();
    for &(key, seq) in &log {
        oracle.published(key.to_be_bytes(), seq);
    }
    consumer(&oracle, &log);
    let verdict = oracle.verdict();
    assert_eq!((verdict.published, verdict.keys), (KEYS * RECORDS, KEYS));
    println!("{verdict}");
    verdict
}

fn start(oracle: &Oracle, (key, seq): (u64, u64)) -> Attempt {
    oracle.start(key.to_be_bytes(), seq)
}

fn done(oracle: &Oracle, record: (u64, u64)) {
    start(oracle, record).end(Ended::Done);
}

#[test]
fn passes_a_keyed_pool_of_threads_that_retries_and_dead_letters() {
    let verdict = consume(|oracle, log| {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let (to, from) = mpsc::sync_channel::<(u64, u64)>(4);
                    scope.spawn(move || {
                        for (key, seq) in from {
                            match seq % 10 {
                                3 => start(oracle, (key, seq)).end(Ended::Failed),
                                7 => start(oracle, (key, seq)).end(Ended::DeadLettered),
                                _ => {}
                            }
                            if seq % 10 != 7 {
                                thread::yield_now();
                                done(oracle, (key, seq));
                            }
                            oracle.committed(key.to_be_bytes(), seq);
                        }
                    });
                    to
                })
                .collect();
            for &(key, seq) in log {
                workers[key as usize % workers.len()].send((key, seq)).unwrap();
            }
        });
    });
    verdict.assert_clean();
    assert_eq!((verdict.handled, verdict.lost), (KEYS * RECORDS, 0));
    assert_eq!((verdict.retries, verdict.dead_lettered), (KEYS * 20, KEYS * 20));
}

#[test]
fn passes_a_consumer_that_is_killed_and_starts_again_from_what_it_committed() {
    let verdict = consume(|oracle, log| {
        let mut committed = [0; KEYS as usize];
        // In each life a key gets 30 records on from where it was committed, and commits 20 of them.
        for life in 0.. {
            if committed == [RECORDS; KEYS as usize] {
                break;
            }
            if life > 0 {
                oracle.restarted();
            }
            thread::scope(|scope| {
                for (key, committed) in committed.iter_mut().enumerate() {
                    scope.spawn(move || {
                        let from = *committed;
                        let mine = log.iter().filter(|r| r.0 == key as u64 && r.1 > from);
                        for &(key, seq) in mine.take(30) {
                            let attempt = start(oracle, (key, seq));
                            if seq == from + 30 {
                                std::mem::forget(attempt); // killed within
                                continue;
                            }
                            attempt.end(Ended::Done);
                            if seq <= from + 20 {
                                oracle.committed(key.to_be_bytes(), seq);
                                *committed = seq;
                            }
                        }
                    });
                }
            });
        }
    });
    verdict.assert_clean();
    assert_eq!((verdict.lost, verdict.duplicates, verdict.restarts), (0, 0, 9));
    assert_eq!((verdict.replayed, verdict.retries), (KEYS * 9 * 9, KEYS * 9));
}

#[test]
fn convicts_a_reordering_consumer() {
    // It takes two records of each key at a time, the later one first.
    let verdict = consume(|oracle, log| {
        for batch in log.chunks(2 * KEYS as usize) {
            batch.iter().rev().for_each(|&record| done(oracle, record));
        }
    });
    assert_eq!(kinds(&verdict), [Order, Gap]);
    assert_eq!(verdict.order, KEYS * RECORDS);
    assert_eq!((verdict.lost, verdict.duplicates, verdict.overlaps), (0, 0, 0));
}

#[test]
fn convicts_a_losing_consumer() {
    // It drops what does not fit into its queue, here every hundredth record and the last ones.
    let verdict = consume(|oracle, log| {
        let taken = &log[..log.len() - KEYS as usize];
        taken
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 100 != 99)
            .for_each(|(_, &record)| done(oracle, record));
    });
    let dropped = (KEYS * RECORDS - KEYS) / 100;
    assert_eq!(kinds(&verdict), [Gap, Loss]);
    assert_eq!((verdict.lost, verdict.order), (dropped + KEYS, dropped));
    assert_eq!(verdict.count(Loss), KEYS, "one sentence a key");
}

#[test]
fn convicts_a_consumer_that_loses_only_the_last_record() {
    let verdict = consume(|oracle, log| {
        log[..log.len() - 1].iter().for_each(|&record| done(oracle, record));
    });
    assert_eq!((kinds(&verdict), verdict.lost), (vec![Loss], 1));
    assert_eq!(
        verdict.violations[0].to_string(),
        r#"loss: key "\x00\x00\x00\x00\x00\x00\x00\x07": record 200 of 200 published was never started"#
    );
}

#[test]
fn convicts_a_duplicating_consumer() {
    // It forgets that it handled the last record of a batch.
    let verdict = consume(|oracle, log| {
        for batch in log.chunks(50) {
            batch.iter().for_each(|&record| done(oracle, record));
            done(oracle, batch[batch.len() - 1]);
        }
    });
    assert_eq!(kinds(&verdict), [Duplicate]);
    assert_eq!((verdict.duplicates, verdict.lost, verdict.order), (KEYS * RECORDS / 50, 0, 0));
}

#[test]
fn convicts_an_overlapping_consumer() {
    // Two threads share the keys record by record, each in order; the barrier makes them meet.
    let verdict = consume(|oracle, log| {
        let both = Barrier::new(2);
        thread::scope(|scope| {
            for parity in [1, 0] {
                let both = &both;
                scope.spawn(move || {
                    for &record in log.iter().filter(|record| record.1 % 2 == parity) {
                        if parity == 0 {
                            both.wait(); // the odd one before it runs
                        }
                        let attempt = start(oracle, record);
                        if parity == 1 {
                            both.wait();
                        }
                        both.wait(); // both run
                        if parity == 0 {
                            both.wait(); // the odd one has ended
                        }
                        attempt.end(Ended::Done);
                        if parity == 1 {
                            both.wait();
                        }
                        both.wait(); // both have ended
                    }
                });
            }
        });
    });
    assert_eq!(kinds(&verdict), [Overlap]);
    assert_eq!((verdict.overlaps, verdict.lost), (KEYS * RECORDS / 2, 0));
}

#[test]
fn convicts_a_consumer_that_commits_before_it_handles_and_crashes() {
    let verdict = consume(|oracle, log| {
        for (i, &(key, seq)) in log.iter().enumerate() {
            oracle.committed(key.to_be_bytes(), seq);
            if i == 1_000 {
                oracle.restarted(); // the record at hand is gone
                continue;
            }
            done(oracle, (key, seq));
        }
    });
    assert_eq!(kinds(&verdict), [Gap, Loss, EarlyCommit]);
    assert_eq!((verdict.count(EarlyCommit), verdict.lost), (KEYS * RECORDS, 1));
}
