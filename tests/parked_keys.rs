//! Parked keys: the record that failed and all later ones of its key go to the dead letters, in order, until the
//! key is resumed. Other keys go on.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dispatch.rs"]
mod dispatch;

use std::sync::Arc;
use std::time::Duration;

use dispatch::{Holds, Log, Shape, all_done, each_shape, ended, name_of, submit, until};
use keylane::testing::{VirtualClock, settle};
use keylane::{
    Bound, DeadLetter, Failure, HandlerError, Letter, Notice, Outcome, Record, Refusal, Retry,
    Runtime, Sending, Subscriber, Subscription, Why,
};
use parking_lot::Mutex;

/// Logs letters as `letter NAME ATTEMPTS`, pending while the name is held.
struct Sink {
    hold: dispatch::Hold,
    log: Log,
}

impl DeadLetter for Sink {
    fn send(&self, letter: Letter) -> Sending {
        let (hold, log) = (self.hold.clone(), self.log.clone());
        Box::pin(async move {
            let name = name_of(&letter.record);
            hold.pass(&format!("letter {name}")).await;
            log.add(format!("letter {name} {}", letter.attempts));
            Ok(())
        })
    }
}

/// A sync handler that logs, and fails for records whose name begins with `x`.
fn subscribe(runtime: &Runtime, name: &str, holds: &Holds, log: &Log) -> Subscriber {
    let sink = Sink { hold: holds.handle(), log: log.clone() };
    let log = log.clone();
    runtime
        .subscribe(
            Subscription::new(name).dead_letter_to(sink).park_key(),
            move |record: &Record| {
                let name = name_of(record);
                log.add(&name);
                if name.starts_with('x') { Err(HandlerError::fatal("broken")) } else { Ok(()) }
            },
        )
        .unwrap()
}

fn broken() -> Outcome {
    Outcome::DeadLettered(Failure { error: "broken".into(), attempts: 1 })
}

// convict: whole_lane_waits
#[test]
fn later_records_of_a_parked_key_follow_in_order_and_other_keys_go_on() {
    each_shape(|shape| {
        let (runtime, holds, log) = (shape.runtime(), Holds::new(&["letter x"]), Log::default());
        let orders = subscribe(&runtime, "o", &holds, &log);
        let keys = shape.keys_of(0, 2);
        let x = submit(&orders, &keys[0], "x");
        let follow: Vec<_> = (0..20).map(|i| submit(&orders, &keys[0], &format!("a{i}"))).collect();
        all_done([&submit(&orders, &keys[1], "b")]);
        assert_eq!(
            (orders.parked(), x.outcome()),
            (vec![], None),
            "not before the letter is taken"
        );
        holds.open("letter x");
        assert_eq!(ended(&x), broken());
        for receipt in &follow {
            assert_eq!(ended(receipt), Outcome::Parked);
        }
        all_done([&submit(&orders, &keys[1], "b")]);
        let late = submit(&orders, &keys[0], "late");
        assert_eq!(ended(&late), Outcome::Parked);

        let mut letters = vec!["letter x 1".to_owned()];
        letters.extend((0..20).map(|i| format!("letter a{i} 0")));
        letters.push("letter late 0".to_owned());
        assert_eq!(log.of("letter"), letters);
        assert_eq!(
            (log.of("x"), log.of("a")),
            (vec!["x".to_owned()], vec![]),
            "none of them was tried"
        );

        let parked = orders.parked();
        assert_eq!(parked.len(), 1);
        assert_eq!((parked[0].key.as_slice(), &*parked[0].error), (keys[0].as_bytes(), "broken"));
        assert_eq!(parked[0].followed, 21);
        let snapshot = runtime.snapshot();
        assert_eq!(snapshot.subscriptions[0].parked, parked);
        assert_eq!((snapshot.outcomes.dead_lettered, snapshot.outcomes.parked), (1, 21));
    });
}

// convict: whole_lane_waits
#[test]
fn a_resumed_key_is_handled_again_from_its_next_record_on() {
    each_shape(|shape| {
        let (runtime, log) = (shape.runtime(), Log::default());
        let holds = Holds::new(&["letter a1"]);
        let orders = subscribe(&runtime, "o", &holds, &log);
        let keys = shape.keys_of(0, 2);
        assert_eq!(ended(&submit(&orders, &keys[0], "x")), broken());
        // One is on its way to the dead letters and two wait behind it when the key is resumed.
        let a: Vec<_> = (1..4).map(|i| submit(&orders, &keys[0], &format!("a{i}"))).collect();
        all_done([&submit(&orders, &keys[1], "b")]);
        orders.resume(keys[0].as_bytes());
        until("it is resumed", || orders.parked().is_empty());
        holds.open("letter a1");
        assert_eq!(ended(&a[0]), Outcome::Parked);
        all_done(&a[1..]);
        assert_eq!(log.all(), ["x", "letter x 1", "b", "letter a1 0", "a2", "a3"]);
        settle(&runtime);
        assert_eq!(runtime.snapshot().lanes[0].keys, 0, "nothing is left of it");
        // It may be parked again, and resuming what is not parked changes nothing.
        orders.resume(keys[1].as_bytes());
        assert_eq!(ended(&submit(&orders, &keys[0], "x2")), broken());
        assert_eq!(ended(&submit(&orders, &keys[0], "a4")), Outcome::Parked);
        all_done([&submit(&orders, &keys[1], "b")]);
    });
}

// convict: whole_lane_waits
#[test]
fn a_key_can_be_parked_by_hand() {
    each_shape(|shape| {
        let (runtime, log, holds) = (shape.runtime(), Log::default(), Holds::new(&[]));
        let orders = subscribe(&runtime, "o", &holds, &log);
        let keys = shape.keys_of(0, 2);
        assert!(orders.park(keys[0].as_bytes()));
        until("it is parked", || orders.parked().len() == 1);
        assert_eq!(ended(&submit(&orders, &keys[0], "a1")), Outcome::Parked);
        all_done([&submit(&orders, &keys[1], "b")]);
        orders.resume(keys[0].as_bytes());
        until("it is resumed", || orders.parked().is_empty());
        all_done([&submit(&orders, &keys[0], "a2")]);
        assert_eq!(log.all(), ["letter a1 0", "b", "a2"]);

        let none = runtime.subscribe(Subscription::new("none"), |_: &Record| Ok(())).unwrap();
        assert!(!none.park(b"k"), "there is nowhere for its records to go");
        all_done([&submit(&none, "k", "v")]);
    });
}

// convict: whole_lane_waits
#[test]
fn a_record_that_keeps_a_key_waiting_can_be_skipped() {
    each_shape(|shape| {
        let (clock, log) = (VirtualClock::new(), Log::default());
        let runtime =
            Runtime::builder().config(shape.config()).clock(clock.clone()).build().unwrap();
        let logged = log.clone();
        let policy = Subscription::new("o").retry(Retry::fixed(Duration::from_secs(60)).forever());
        let orders = runtime
            .subscribe(policy, move |record: &Record| {
                let name = name_of(record);
                logged.add(&name);
                if name == "x" { Err("broken".into()) } else { Ok(()) }
            })
            .unwrap();
        let keys = shape.keys_of(0, 2);
        let x = submit(&orders, &keys[0], "x");
        let next = submit(&orders, &keys[0], "next");
        all_done([&submit(&orders, &keys[1], "b")]);
        orders.skip(keys[1].as_bytes()); // nothing waits there
        orders.skip(keys[0].as_bytes());
        let failure = Failure { error: "broken".into(), attempts: 1 };
        assert_eq!(ended(&x), Outcome::Skipped(failure));
        all_done([&next]);
        clock.advance(Duration::from_secs(60));
        settle(&runtime);
        assert_eq!(log.of("x"), ["x"], "it is not tried again");

        // So can a letter that nobody takes; an attempt under way is not interrupted.
        let holds = Holds::new(&["letter x", "run"]);
        let letters = subscribe(&runtime, "letters", &holds, &log);
        let keys = shape.keys_of(1, 2);
        let x = submit(&letters, &keys[0], "x");
        until("it is sent", || {
            runtime.snapshot().busy.iter().any(|busy| busy.why == Why::DeadLetter { sends: 1 })
        });
        let next = submit(&letters, &keys[0], "next");
        letters.skip(keys[0].as_bytes());
        assert!(matches!(ended(&x), Outcome::Skipped(_)));
        all_done([&next]);
        assert!(letters.parked().is_empty());
    });
}

#[test]
fn an_attempt_under_way_is_not_skipped() {
    let shape = Shape { workers: 1, lanes: 1 };
    let (runtime, holds) = (shape.runtime(), Holds::new(&["a"]));
    let hold = holds.handle();
    let orders = runtime
        .subscribe_async(Subscription::new("o"), move |record: keylane::RecordRef| {
            let hold = hold.clone();
            async move {
                hold.pass(&name_of(&record)).await;
                Ok(())
            }
        })
        .unwrap();
    let a = submit(&orders, "k", "a");
    until("it runs", || runtime.snapshot().busy.len() == 1);
    orders.skip(b"k");
    settle(&runtime);
    assert_eq!(a.outcome(), None);
    holds.open("a");
    all_done([&a]);
}

/// The bound of `parked_keys`: past it the subscription (of a bus: the source) stops.
// convict: whole_lane_waits
#[test]
fn past_the_bound_of_parked_keys_a_failure_stops() {
    each_shape(|shape| {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = notices.clone();
        let runtime = Runtime::builder()
            .config(shape.config().parked_keys(2))
            .on_notice(move |notice| heard.lock().push(notice.clone()))
            .build()
            .unwrap();
        let (holds, log) = (Holds::new(&[]), Log::default());
        let orders = subscribe(&runtime, "o", &holds, &log);
        let keys = shape.keys_of(0, 4);
        for key in &keys[..2] {
            assert_eq!(ended(&submit(&orders, key, "x")), broken());
        }
        all_done([&submit(&orders, &keys[3], "b")]);
        let [used_up] = &runtime.snapshot().bounds[..] else { panic!("one bound is used up") };
        assert_eq!(
            (used_up.bound, used_up.subscription.as_deref()),
            (Bound::ParkedKeys, Some("o"))
        );
        let failure =
            Failure { error: "broken (and as many keys are parked as may be)".into(), attempts: 1 };
        assert_eq!(ended(&submit(&orders, &keys[2], "x3")), Outcome::Stopped(failure.clone()));
        assert_eq!(orders.stopped_by(), Some(failure));
        let refused = orders.submit(Record::new(&keys[3], "b")).unwrap_err();
        assert_eq!(refused.refusal(), Refusal::Stopped);
        assert_eq!(orders.parked().len(), 2, "they are listed still");
        let stopped = |notice: &Notice| matches!(notice, Notice::Stopped { .. });
        until("it is said", || notices.lock().iter().any(stopped));
        let records = orders.remove().wait().unwrap();
        assert_eq!(records.iter().map(name_of).collect::<Vec<_>>(), ["x3"]);
    });
}

/// Several subscriptions park more keys in one lane than its gate counts on: wakes still reach all of them.
// convict: whole_lane_waits
#[test]
fn many_parked_keys_of_several_subscriptions_leave_room_for_others() {
    each_shape(|shape| {
        let config = shape.config().parked_keys(64).lane_waiting(64);
        let runtime = Runtime::builder().config(config).build().unwrap();
        let (holds, log) = (Holds::new(&["a"]), Log::default());
        for (nth, name) in (0..).zip(["o", "p", "q"]) {
            let orders = subscribe(&runtime, name, &holds, &log);
            for key in shape.keys_of(nth, 64) {
                assert_eq!(ended(&submit(&orders, &key, "x")), broken());
            }
        }
        let hold = holds.handle();
        let waits = runtime
            .subscribe_async(Subscription::new("waits"), move |record: keylane::RecordRef| {
                let hold = hold.clone();
                async move {
                    hold.pass(&name_of(&record)).await;
                    Ok(())
                }
            })
            .unwrap();
        let a = submit(&waits, &shape.keys_of(3, 1)[0], "a");
        settle(&runtime);
        assert_eq!(a.outcome(), None);
        holds.open("a");
        all_done([&a]);
    });
}

#[test]
fn a_record_without_a_key_is_dead_lettered_alone() {
    let runtime = Shape { workers: 1, lanes: 1 }.runtime();
    let (holds, log) = (Holds::new(&[]), Log::default());
    let orders = subscribe(&runtime, "o", &holds, &log);
    let x = orders.submit_tracked(Record::keyless("x")).unwrap();
    assert_eq!(ended(&x), broken());
    all_done([&orders.submit_tracked(Record::keyless("a")).unwrap()]);
    assert!(orders.parked().is_empty());
}

/// A handle of a subscription that is gone parks nothing of the one that has its number.
#[test]
fn a_stale_handle_parks_nothing() {
    let runtime = Shape { workers: 1, lanes: 1 }.runtime();
    let (holds, log) = (Holds::new(&[]), Log::default());
    let old = subscribe(&runtime, "old", &holds, &log);
    old.remove().wait().unwrap();
    let new = subscribe(&runtime, "new", &holds, &log);
    old.park(b"k");
    settle(&runtime);
    assert!(new.parked().is_empty());
    all_done([&submit(&new, "k", "v")]);
}

/// A parked key goes with its subscription.
#[test]
fn a_removed_subscription_leaves_no_parked_key_behind() {
    let runtime = Shape { workers: 1, lanes: 1 }.runtime();
    let (holds, log) = (Holds::new(&[]), Log::default());
    let orders = subscribe(&runtime, "o", &holds, &log);
    assert_eq!(ended(&submit(&orders, "k", "x")), broken());
    orders.remove().wait().unwrap();
    settle(&runtime);
    assert_eq!(runtime.snapshot().lanes[0].keys, 0);
    let again = subscribe(&runtime, "o", &holds, &log);
    all_done([&submit(&again, "k", "v")]);
}

/// Runs when it is dropped: a handler that has one does so when the last table with that handler goes.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Has the only worker run `then` between its taking a new table and its next visit: whatever that subscribes is
/// younger than the visit's table, and the commands that it gives are there when the visit begins.
fn before_a_visit(runtime: &Runtime, then: impl FnOnce(&Runtime) + Send + 'static) {
    let holds = Holds::new(&["gate"]);
    let (hold, here) = (holds.handle(), runtime.clone());
    let log = Log::default();
    let (logged, then) = (log.clone(), Mutex::new(Some(then)));
    let on_drop = OnDrop(move || then.lock().take().into_iter().for_each(|then| then(&here)));
    let old = runtime
        .subscribe(Subscription::new("old"), move |_: &Record| {
            let _own = &on_drop;
            logged.add("runs");
            hold.block("gate");
            Ok(())
        })
        .unwrap();
    // With a quantum of one, the second is another visit's.
    let both = [submit(&old, "k", "gate"), submit(&old, "k", "next")];
    until("it runs", || log.has("runs"));
    // From here on only the worker's own table has the handler.
    drop(old.swap(keylane::Handler::sync(|_| Ok(()))));
    drop(old);
    holds.open("gate");
    all_done(&both);
    settle(runtime);
}

/// Parks, resumes and skips of one key take effect in the order in which they were given, though the subscription
/// is younger than the table of the visit that obeys them.
#[test]
fn commands_to_a_young_subscription_keep_their_order() {
    let config = Shape { workers: 1, lanes: 1 }.config().quantum(1);
    let runtime = Runtime::builder().config(config).build().unwrap();
    let made = Arc::new(Mutex::new(Vec::new()));
    let (own, log) = (made.clone(), Log::default());
    let logged = log.clone();
    before_a_visit(&runtime, move |runtime| {
        let orders = subscribe(runtime, "o", &Holds::new(&[]), &logged);
        assert!(orders.park(b"resumed"));
        orders.resume(b"resumed");
        let resumed = submit(&orders, "resumed", "a");
        orders.resume(b"parked");
        assert!(orders.park(b"parked"));
        let parked = submit(&orders, "parked", "b");
        for _ in 0..3 {
            assert!(orders.park(b"again"));
            orders.resume(b"again");
            orders.skip(b"again");
        }
        assert!(orders.park(b"again"));
        // Has the lane release what belongs to nobody: not what is younger than the visit.
        drop(runtime.subscribe(Subscription::new("p"), |_: &Record| Ok(())).unwrap().remove());
        own.lock().push((orders, resumed, parked));
    });
    let (orders, resumed, parked) = made.lock().pop().expect("it was dropped by the worker");
    all_done([&resumed]);
    assert_eq!(ended(&parked), Outcome::Parked);
    settle(&runtime);
    let keys: Vec<_> = orders.parked().into_iter().map(|parked| parked.key).collect();
    assert_eq!(keys, [&b"again"[..], b"parked"]);
    assert_eq!(ended(&submit(&orders, "again", "c")), Outcome::Parked);
    assert_eq!(log.all(), ["a", "letter b 0", "letter c 0"]);
}
