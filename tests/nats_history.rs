//! The judge of recorded histories, judged.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/history.rs"]
mod history;

use std::collections::HashMap;

use history::{Event, History, What};
use keylane::testing::{Ended, Oracle, ViolationKind};
use proptest::prelude::*;

fn history(published: u64) -> History {
    let history = History::new();
    (1..=published).for_each(|seq| history.published("k", seq));
    history
}

fn handle(history: &History, seq: u64) {
    history.ended(history.started("k", seq, 1), true);
}

#[test]
fn a_history_in_order_is_sound() {
    let history = history(3);
    handle(&history, 1);
    history.healed("a cut");
    history.ended(history.started("k", 2, 1), false); // a retry in place
    handle(&history, 2);
    handle(&history, 3);
    history.judge().assert_sound(0);
    assert_eq!(history.judge().starts, 4);
}

#[test]
fn each_rule_is_broken_by_what_breaks_it() {
    let lost = history(2);
    handle(&lost, 1);
    assert_eq!(lost.judge().lost.len(), 1);

    let disorder = history(2);
    handle(&disorder, 2);
    handle(&disorder, 1);
    let verdict = disorder.judge();
    assert_eq!((verdict.disorder.len(), verdict.duplicates, verdict.is_complete()), (1, 0, true));

    let overlap = history(1);
    let run = overlap.started("k", 1, 1);
    handle(&overlap, 1);
    overlap.ended(run, true);
    assert_eq!((overlap.judge().overlaps.len(), overlap.judge().disorder.len()), (1, 0));

    let phantom = history(1);
    handle(&phantom, 1);
    handle(&phantom, 2);
    assert_eq!(phantom.judge().phantoms.len(), 1);

    let stalled = history(1);
    handle(&stalled, 1);
    stalled.healed("a cut");
    assert!(!stalled.judge().recovered());
}

#[test]
fn duplicates_of_what_is_done_are_counted_and_break_no_order() {
    let history = history(3);
    for seq in [1, 2, 1, 2, 3] {
        handle(&history, seq);
    }
    let verdict = history.judge();
    assert_eq!((verdict.duplicates, verdict.is_ordered()), (2, true));
    assert!(verdict.is_sound(2) && !verdict.is_sound(1));
}

#[test]
fn what_was_removed_or_never_confirmed_need_not_be_handled() {
    let history = history(2);
    history.removed("k", 1);
    history.perhaps_published("k", 3);
    handle(&history, 2);
    history.judge().assert_sound(0);
}

#[test]
fn a_dead_process_runs_nothing_and_a_second_one_is_told_apart() {
    let history = history(2);
    let start = |process, run, seq| {
        let key = "k".to_owned();
        history.add(Event::now(What::Start { process, run, key, seq, attempt: 1 }));
    };
    let end = |process, run| history.add(Event::now(What::End { process, run, done: true }));
    start(1, 0, 1);
    history.died(1);
    start(2, 0, 1);
    end(2, 0);
    start(2, 1, 2);
    start(3, 0, 1);
    end(2, 1);
    let verdict = history.judge();
    assert_eq!((verdict.overlaps.len(), verdict.overlaps_across, verdict.duplicates), (0, 1, 1));
}

#[test]
fn lines_are_read_as_they_were_written() {
    let key = "order-7".to_owned();
    for what in [
        What::Start { process: 4, run: 3, key, seq: 9, attempt: 2 },
        What::End { process: 4, run: 3, done: false },
    ] {
        let event = Event::now(what);
        let line = event.line().unwrap();
        assert_eq!(Event::of_line(4, &line), Some(event.clone()));
        assert_eq!(Event::of_line(4, &format!("test role ... {line}\n")), Some(event));
    }
    for other in ["", "test result: ok", "@S", "@S 1 2", "@X 1 2 3", "@S x y z 1 1"] {
        assert_eq!(Event::of_line(4, other), None, "{other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Where the oracle of the crate knows the same rules, it finds the same, although it looks at events as they
    /// come and this at the whole.
    #[test]
    fn the_oracle_agrees(steps in prop::collection::vec((0..3_u8, 1..7_u64, any::<bool>()), 0..60)) {
        let (history, oracle) = (History::new(), Oracle::new().allow_duplicates(u64::MAX));
        let key = |key: u8| format!("k{key}");
        for k in 0..3 {
            for seq in 1..7 {
                history.published(&key(k), seq);
                oracle.published(key(k), seq);
            }
        }
        let mut running = HashMap::new();
        for (k, seq, done) in steps {
            if let Some((run, attempt)) = running.remove(&(k, seq)) {
                history.ended(run, done);
                keylane::testing::Attempt::end(attempt, if done { Ended::Done } else { Ended::Failed });
            } else {
                let run = history.started(&key(k), seq, 1);
                running.insert((k, seq), (run, oracle.start(key(k), seq)));
            }
        }
        let (verdict, theirs) = (history.judge(), oracle.verdict());
        let found = |kind| theirs.violations.iter().any(|violation| violation.kind == kind);
        prop_assert_eq!(verdict.lost.len() as u64, theirs.lost);
        prop_assert_eq!(verdict.duplicates as u64, theirs.duplicates);
        prop_assert_eq!(!verdict.overlaps.is_empty(), found(ViolationKind::Overlap));
        // The oracle names one thing a start.
        let theirs = found(ViolationKind::Gap)
            || found(ViolationKind::Order)
            || found(ViolationKind::Overlap);
        prop_assert!(verdict.disorder.is_empty() || theirs);
        prop_assert!(!found(ViolationKind::Gap) || !verdict.disorder.is_empty());
        drop(running);
    }
}
