//! The failure policy: retries and their times, what comes after the last attempt, deadlines, records without
//! a key. Under a virtual clock: nothing here waits for time.
#![cfg(all(feature = "internals", feature = "testing", not(keylane_loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dispatch.rs"]
mod dispatch;

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use dispatch::{Holds, Log, Shape, all_done, each_shape, ended, name_of, submit, until};
use keylane::testing::{VirtualClock, settle};
use keylane::{
    Clock, DeadLetter, Failure, Handled, Handler, HandlerError, Keyless, Letter, Notice, Outcome,
    Record, RecordRef, Refusal, Retry, Runtime, Sending, SubscribeError, Subscriber, Subscription,
    Time, Why,
};
use parking_lot::Mutex;

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);

fn runtime(shape: Shape, clock: &VirtualClock) -> Runtime {
    Runtime::builder().config(shape.config()).clock(clock.clone()).build().unwrap()
}

/// A sync handler that logs each attempt and lets records whose name begins with `x` fail.
fn failing(log: &Log) -> impl Fn(&Record) -> Handled + Send + Sync + 'static {
    let log = log.clone();
    move |record| {
        log.add(name_of(record));
        if name_of(record).starts_with('x') { Err(HandlerError::retryable("no")) } else { Ok(()) }
    }
}

fn failure(error: &str, attempts: u32) -> Failure {
    Failure { error: error.into(), attempts }
}

/// How long the only busy key waits for its next attempt.
fn backoff(runtime: &Runtime) -> Duration {
    match &runtime.snapshot().busy[..] {
        [busy] => match &busy.why {
            Why::Retry { after, .. } => *after,
            why => panic!("{why:?}"),
        },
        busy => panic!("{busy:?}"),
    }
}

// convict: whole_lane_waits
#[test]
fn each_attempt_comes_when_its_backoff_is_over_and_not_before() {
    each_shape(|shape| {
        let (clock, log) = (VirtualClock::new(), Log::default());
        let runtime = runtime(shape, &clock);
        let retry = Retry::exponential(8 * SECOND, 30 * SECOND).attempts(5);
        let orders =
            runtime.subscribe(Subscription::new("o").retry(retry).skip(), failing(&log)).unwrap();
        let keys = shape.keys_of(0, 2);
        let x = submit(&orders, &keys[0], "x");
        let next = submit(&orders, &keys[0], "next");
        for (attempt, most) in [8, 16, 30, 30].into_iter().enumerate() {
            all_done([&submit(&orders, &keys[1], "b")]); // its neighbour has no backoff
            settle(&runtime);
            assert_eq!(log.of("x").len(), attempt + 1);
            let pause = backoff(&runtime);
            let most = most * SECOND;
            assert!((most / 2..=most).contains(&pause), "{pause:?} of {most:?}");
            settle(&runtime);
            clock.advance(pause - NANO);
            settle(&runtime);
            assert_eq!(log.of("x").len(), attempt + 1, "too early");
            clock.advance(NANO);
            settle(&runtime);
        }
        assert_eq!(ended(&x), Outcome::Skipped(failure("no", 5)));
        all_done([&next]);
        assert_eq!(log.all(), ["x", "b", "x", "b", "x", "b", "x", "b", "x", "next"]);
        assert_eq!(runtime.snapshot().outcomes.retries, 4);
    });
}

#[test]
fn what_is_not_retryable_is_not_tried_again() {
    let runtime = Shape { workers: 1, lanes: 1 }.runtime();
    dispatch::quiet_panics();
    let retry = Retry::fixed(Duration::ZERO).only_if(|error| {
        assert!(error.to_string() != "odd", "planned: the predicate panics");
        error.to_string() != "no"
    });
    let orders = runtime
        .subscribe(Subscription::new("o").retry(retry).skip(), |record: &Record| {
            Err(match &*name_of(record) {
                "fatal" => HandlerError::fatal("yes"),
                text => HandlerError::retryable(text),
            })
        })
        .unwrap();
    for (name, error, attempts) in
        [("fatal", "yes", 1), ("no", "no", 1), ("odd", "odd", 1), ("yes", "yes", 5)]
    {
        let outcome = ended(&submit(&orders, "k", name));
        assert_eq!(outcome, Outcome::Skipped(failure(error, attempts)));
    }
}

/// No pause is no spin: the key's neighbours have their turns in between.
// convict: whole_lane_waits
#[test]
fn a_record_that_is_tried_again_at_once_lets_others_through() {
    each_shape(|shape| {
        let clock = VirtualClock::new();
        let runtime = runtime(shape, &clock);
        let keys = shape.keys_of(0, 2);
        let let_go = Arc::new(AtomicBool::new(false));
        let go = let_go.clone();
        let retry = Retry::fixed(Duration::ZERO).forever();
        let orders = runtime
            .subscribe(Subscription::new("o").retry(retry), move |record: &Record| {
                let fails = name_of(record) == "x" && !go.load(Ordering::Relaxed);
                if fails { Err(HandlerError::retryable("again")) } else { Ok(()) }
            })
            .unwrap();
        let x = submit(&orders, &keys[0], "x");
        let others: Vec<_> = (0..200).map(|_| submit(&orders, &keys[1], "b")).collect();
        all_done(&others);
        assert_eq!(x.outcome(), None);
        let_go.store(true, Ordering::Relaxed);
        all_done([&x]);
    });
}

// convict: whole_lane_waits
#[test]
fn a_record_that_waits_to_be_tried_again_gets_the_newest_handler() {
    each_shape(|shape| {
        let (clock, log) = (VirtualClock::new(), Log::default());
        let runtime = runtime(shape, &clock);
        let policy = Subscription::new("o").retry(Retry::fixed(SECOND));
        let orders = runtime.subscribe(policy, failing(&log)).unwrap();
        let keys = shape.keys_of(0, 2);
        let x = submit(&orders, &keys[0], "x");
        settle(&runtime);
        let logged = log.clone();
        let newest = Handler::future(move |record: RecordRef| {
            logged.add(format!("newest {} {}", name_of(&record), record.attempt()));
            async { Ok(()) }
        });
        orders.swap(newest).wait().unwrap();
        all_done([&submit(&orders, &keys[1], "b")]);
        assert_eq!(log.all(), ["x", "newest b 1"]);
        clock.advance(SECOND);
        all_done([&x]);
        assert_eq!(log.all(), ["x", "newest b 1", "newest x 2"]);
    });
}

/// Dead letters that a test answers one by one.
#[derive(Clone, Default)]
struct Post(Arc<Mutex<Vec<Letter>>>, Arc<Mutex<Vec<Handled>>>);

impl Post {
    /// The answers to the sends, in order; after them every letter is taken.
    fn answering(answers: Vec<Handled>) -> Self {
        Self(Arc::default(), Arc::new(Mutex::new(answers)))
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().iter().map(|letter| name_of(&letter.record)).collect()
    }
}

impl DeadLetter for Post {
    fn send(&self, letter: Letter) -> Sending {
        self.0.lock().push(letter);
        let mut answers = self.1.lock();
        let answer = if answers.is_empty() { Ok(()) } else { answers.remove(0) };
        // Pending once, as what goes over a wire is.
        let mut answer = Some(answer);
        let mut waited = false;
        Box::pin(poll_fn(move |cx| {
            if !waited {
                waited = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(answer.take().unwrap())
        }))
    }
}

// convict: whole_lane_waits
#[test]
fn a_dead_letter_says_all_and_goes_before_the_keys_next_record() {
    each_shape(|shape| {
        let (clock, log) = (VirtualClock::new(), Log::default());
        let runtime = runtime(shape, &clock);
        let logged = log.clone();
        let policy = Subscription::new("o").retry(Retry::fixed(SECOND).attempts(3)).dead_letter_to(
            move |letter: &Letter| {
                logged.add(format!(
                    "{} {:?} {:?} {} {:?} {}",
                    letter.subscription,
                    letter.record.key().map(String::from_utf8_lossy),
                    letter.record.header("h").map(String::from_utf8_lossy),
                    name_of(&letter.record),
                    letter.error,
                    letter.attempts
                ));
                Ok(())
            },
        );
        let orders = runtime.subscribe(policy, failing(&log)).unwrap();
        let keys = shape.keys_of(0, 2);
        let record = Record::new(&keys[0], "x").with_header("h", "v");
        let x = orders.submit_tracked(record).unwrap();
        let next = submit(&orders, &keys[0], "next");
        for _ in 1..3 {
            all_done([&submit(&orders, &keys[1], "b")]);
            settle(&runtime);
            clock.advance(SECOND);
            settle(&runtime);
        }
        assert_eq!(ended(&x), Outcome::DeadLettered(failure("no", 3)));
        all_done([&next]);
        let letter = format!(r#"o Some({:?}) Some("v") x "no" 3"#, keys[0]);
        assert_eq!(log.all(), ["x", "b", "x", "b", "x", &letter, "next"]);
    });
}

// convict: whole_lane_waits
#[test]
fn a_dead_letter_that_is_not_taken_is_sent_again_and_holds_its_key() {
    each_shape(|shape| {
        let (clock, log) = (VirtualClock::new(), Log::default());
        let runtime = runtime(shape, &clock);
        let post = Post::answering(vec![Err("full".into()), Err("full".into())]);
        let policy = Subscription::new("o").dead_letter_to(post.clone());
        let orders = runtime.subscribe(policy, failing(&log)).unwrap();
        let keys = shape.keys_of(0, 2);
        let x = submit(&orders, &keys[0], "x");
        let next = submit(&orders, &keys[0], "next");
        for sends in 1..=2 {
            all_done([&submit(&orders, &keys[1], "b")]); // and no other
            settle(&runtime);
            assert_eq!((post.names().len(), x.outcome()), (sends, None));
            let why = runtime.snapshot().busy[0].why.clone();
            assert_eq!(why, Why::DeadLetter { sends: sends as u32 });
            settle(&runtime);
            clock.advance(SECOND);
        }
        assert_eq!(ended(&x), Outcome::DeadLettered(failure("no", 1)));
        all_done([&next]);
        assert_eq!(post.names(), ["x", "x", "x"]);
        assert_eq!(log.all(), ["x", "b", "b", "next"]);
    });
}

#[test]
fn a_dead_letter_that_can_never_be_taken_stops_the_subscription() {
    each_shape(|shape| {
        let (runtime, log) = (shape.runtime(), Log::default());
        let post = Post::answering(vec![Err(HandlerError::fatal("no such topic"))]);
        let policy = Subscription::new("o").dead_letter_to(post);
        let orders = runtime.subscribe(policy, failing(&log)).unwrap();
        let x = submit(&orders, "k", "x");
        let failure =
            failure("no (dead letter refused: no such topic; the record is one with key \"k\")", 1);
        assert_eq!(ended(&x), Outcome::Stopped(failure.clone()));
        assert_eq!(orders.stopped_by(), Some(failure));
        let refused = orders.submit(Record::new("k", "later")).unwrap_err();
        assert_eq!((refused.refusal(), refused.is_retryable()), (Refusal::Stopped, false));
        assert_eq!(name_of(&refused.into_record()), "later");
    });
}

#[test]
fn a_policy_that_needs_a_dead_letter_and_has_none_is_refused() {
    let runtime = Shape { workers: 1, lanes: 1 }.runtime();
    for policy in [Subscription::new("o").park_key(), Subscription::new("o").dead_letter("topic")] {
        let refused = runtime.subscribe(policy, |_: &Record| Ok(())).unwrap_err();
        assert_eq!(refused, SubscribeError::NoDeadLetter);
    }
}

// convict: whole_lane_waits
#[test]
fn a_failure_stops_the_subscription_and_gives_every_record_back() {
    each_shape(|shape| {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = notices.clone();
        let builder = Runtime::builder().config(shape.config());
        let runtime =
            builder.on_notice(move |notice| heard.lock().push(notice.clone())).build().unwrap();
        let (holds, log) = (Holds::new(&["gate", "other"]), Log::default());
        let (hold, logged) = (holds.handle(), log.clone());
        let orders: Subscriber = runtime
            .subscribe_async(Subscription::new("o"), move |record: RecordRef| {
                let (hold, name) = (hold.clone(), name_of(&record));
                logged.add(&name);
                if name == "gate" {
                    hold.block("gate");
                }
                async move {
                    hold.pass(&name).await;
                    if name == "x" { Err("no".into()) } else { Ok(()) }
                }
            })
            .unwrap();
        let others = runtime.subscribe(Subscription::new("p"), |_: &Record| Ok(())).unwrap();
        let keys = shape.keys_of(0, 4);
        let other = submit(&orders, &keys[0], "other");
        let behind = submit(&orders, &keys[0], "behind");
        let gate = submit(&orders, &keys[1], "gate");
        until("the lane is kept", || log.has("gate"));
        let x = submit(&orders, &keys[2], "x");
        let queued = [submit(&orders, &keys[2], "q1"), submit(&orders, &keys[3], "q2")];
        holds.open("gate");

        all_done([&gate]);
        assert_eq!(ended(&x), Outcome::Stopped(failure("no", 1)));
        for receipt in queued.iter().chain([&behind]) {
            assert_eq!(ended(receipt), Outcome::Stopped(failure("no", 1)), "of what stopped it");
        }
        assert_eq!(runtime.snapshot().outcomes.stopped, 4);
        let refused = orders.submit_tracked(Record::new(&keys[2], "later")).unwrap_err();
        assert_eq!(name_of(&refused.into_record()), "later");
        all_done([&submit(&others, &shape.keys_of(1, 1)[0], "another subscription goes on")]);
        holds.open("other"); // an attempt under way ends as it ends
        all_done([&other]);
        let mut names: Vec<_> = orders.remove().wait().unwrap().iter().map(name_of).collect();
        names.sort_unstable();
        assert_eq!(names, ["behind", "q1", "q2", "x"]);
        assert_eq!(log.all(), ["other", "gate", "x"]);
        let stopped =
            Notice::Stopped { subscription: "o".into(), partition: None, error: "no".into() };
        assert_eq!(notices.lock().iter().filter(|notice| **notice == stopped).count(), 1);
    });
}

/// Says when it is dropped.
struct Dropped(Log, String);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add(format!("{} dropped", self.1));
    }
}

// convict: whole_lane_waits
#[test]
fn an_async_attempt_past_its_deadline_is_dropped_and_counts_as_failed() {
    each_shape(|shape| {
        let (clock, log) = (VirtualClock::new(), Log::default());
        let runtime = runtime(shape, &clock);
        let policy = Subscription::new("o")
            .retry(Retry::fixed(Duration::ZERO).attempts(2))
            .deadline(3 * SECOND)
            .skip();
        let logged = log.clone();
        let orders = runtime
            .subscribe_async(policy, move |record: RecordRef| {
                let (name, log) = (name_of(&record), logged.clone());
                log.add(&name);
                async move {
                    if name == "x" {
                        let _dropped = Dropped(log, name);
                        pending::<()>().await;
                    }
                    Ok(())
                }
            })
            .unwrap();
        let keys = shape.keys_of(0, 2);
        let x = submit(&orders, &keys[0], "x");
        let next = submit(&orders, &keys[0], "next");
        for attempt in 1..=2 {
            all_done([&submit(&orders, &keys[1], "b")]);
            settle(&runtime);
            clock.advance(3 * SECOND - NANO);
            settle(&runtime);
            assert_eq!(log.of("x").len(), 2 * attempt - 1, "{:?}", log.all());
            clock.advance(NANO);
            settle(&runtime);
        }
        assert_eq!(ended(&x), Outcome::Skipped(failure("the attempt did not end within 3s", 2)));
        all_done([&next]);
        assert_eq!(log.all(), ["x", "b", "x dropped", "x", "b", "x dropped", "next"]);
    });
}

/// Backoffs and deadlines count from the attempt, not from the beginning of the visit that makes it.
// convict: whole_lane_waits
#[test]
fn times_count_from_the_attempt() {
    each_shape(|shape| {
        let (clock, log, holds) = (VirtualClock::new(), Log::default(), Holds::new(&["gate"]));
        let runtime = runtime(shape, &clock);
        let (hold, logged, time) = (holds.handle(), log.clone(), clock.clone());
        let policy = Subscription::new("o")
            .retry(Retry::fixed(2 * SECOND).attempts(2))
            .deadline(3 * SECOND)
            .skip();
        let orders = runtime
            .subscribe_async(policy, move |record: RecordRef| {
                let name = name_of(&record);
                logged.add(&name);
                hold.block(&name);
                if name == "takes 5 s" {
                    time.advance(5 * SECOND);
                }
                async move {
                    match &*name {
                        "first" | "fails" if record.attempt() == 1 => Err("no".into()),
                        "pending" => pending().await,
                        _ => Ok(()),
                    }
                }
            })
            .unwrap();
        let keys = shape.keys_of(0, 5);
        let gate = submit(&orders, &keys[4], "gate");
        until("the lane is kept", || log.has("gate"));
        // All in one visit, which has read the time for the first of them.
        let names = ["first", "takes 5 s", "fails", "pending"];
        let receipts: Vec<_> =
            names.iter().zip(&keys).map(|(name, key)| submit(&orders, key, name)).collect();
        holds.open("gate");
        all_done([&gate]);
        settle(&runtime);
        // The first one's backoff was over within those 5 s; the others' times have just begun.
        all_done(&receipts[..2]);
        assert_eq!(log.of("fails").len(), 1);
        clock.advance(SECOND - NANO);
        settle(&runtime);
        assert_eq!(log.of("fails").len(), 1, "tried again before half of its backoff");
        clock.advance(SECOND + NANO);
        all_done([&receipts[2]]);
        settle(&runtime);
        assert_eq!(log.of("pending").len(), 1, "dropped before its deadline");
        clock.advance(SECOND);
        settle(&runtime);
        clock.advance(2 * SECOND);
        until("it is dropped and tried again", || log.of("pending").len() == 2);
    });
}

// convict: whole_lane_waits
#[test]
fn a_blocking_attempt_past_its_deadline_is_reported_and_keeps_its_key() {
    each_shape(|shape| {
        let clock = VirtualClock::new();
        let passed = Arc::new(Mutex::new(Vec::new()));
        let heard = passed.clone();
        let runtime = Runtime::builder()
            .config(shape.config().blocking_threads(1))
            .clock(clock.clone())
            .on_notice(move |notice| {
                if let Notice::DeadlinePassed { subscription, key: Some(key) } = notice {
                    heard.lock().push(format!("{subscription} {}", String::from_utf8_lossy(key)));
                }
            })
            .build()
            .unwrap();
        let (holds, log) = (Holds::new(&["a1", "b"]), Log::default());
        let (hold, logged) = (holds.handle(), log.clone());
        let policy =
            Subscription::new("o").retry(Retry::fixed(Duration::ZERO)).deadline(3 * SECOND);
        let orders = runtime
            .subscribe_blocking(policy, move |record: RecordRef| {
                logged.add(name_of(&record));
                hold.block(&name_of(&record));
                Ok(())
            })
            .unwrap();
        let sync = runtime.subscribe(Subscription::new("sync"), |_: &Record| Ok(())).unwrap();
        let keys = shape.keys_of(0, 2);
        let a = [submit(&orders, &keys[0], "a1"), submit(&orders, &keys[0], "a2")];
        until("it runs", || log.has("a1"));
        let b = submit(&orders, &keys[1], "b"); // waits for the only thread: that does not count
        all_done([&submit(&sync, &shape.keys_of(1, 1)[0], "needs no thread")]);
        settle(&runtime);
        clock.advance(3 * SECOND - NANO);
        settle(&runtime);
        assert!(passed.lock().is_empty());
        clock.advance(NANO);
        until("it is reported", || !passed.lock().is_empty());
        clock.advance(10 * SECOND);
        settle(&runtime);
        assert_eq!(log.all(), ["a1"], "one attempt at a time");
        holds.open("a1");
        all_done([&a[0]]);
        until("the other key runs", || log.has("b"));
        settle(&runtime);
        assert_eq!(
            *passed.lock(),
            [format!("o {}", keys[0])],
            "once, and nothing of what had not begun"
        );
        holds.open("b");
        all_done([&a[1], &b]);
        assert_eq!(log.all().len(), 3);
    });
}

// convict: whole_lane_waits
#[test]
fn a_sync_attempt_past_its_deadline_is_reported_and_keeps_its_key() {
    each_shape(|shape| {
        let clock = VirtualClock::new();
        let passed = Arc::new(AtomicU32::new(0));
        let heard = passed.clone();
        let runtime = Runtime::builder()
            .config(shape.config())
            .clock(clock.clone())
            .on_notice(move |notice| {
                if matches!(notice, Notice::DeadlinePassed { .. }) {
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build()
            .unwrap();
        let (holds, log) = (Holds::new(&["a1"]), Log::default());
        let (hold, logged) = (holds.handle(), log.clone());
        let orders = runtime
            .subscribe(Subscription::new("o").deadline(3 * SECOND), move |record: &Record| {
                logged.add(name_of(record));
                hold.block(&name_of(record));
                Ok(())
            })
            .unwrap();
        let (key, stone) = (&shape.keys_of(0, 1)[0], shape.stone(&runtime, 1));
        let a = [submit(&orders, key, "a1"), submit(&orders, key, "a2")];
        until("it runs", || log.has("a1"));
        until("it is reported", || {
            clock.advance(SECOND);
            std::thread::yield_now();
            passed.load(Ordering::Relaxed) > 0
        });
        assert!(clock.now() >= Time::ZERO.after(3 * SECOND));
        assert_eq!(log.all(), ["a1"]);
        holds.open("a1");
        all_done(&a);
        assert_eq!(passed.load(Ordering::Relaxed), 1);
        stone.lift();
    });
}

/// A clock that the monitor reads late: it fires timers long after their time.
#[derive(Clone, Debug)]
struct LateMonitor {
    clock: VirtualClock,
    most: Arc<AtomicU64>,
}

impl Clock for LateMonitor {
    fn now(&self) -> Time {
        let now = self.clock.now();
        let monitor = std::thread::current().name().is_some_and(|name| name.ends_with("-mon"));
        let most = self.most.load(Ordering::Acquire);
        if monitor { now.min(Time::from_nanos(most)) } else { now }
    }

    fn system_time(&self) -> SystemTime {
        self.clock.system_time()
    }

    fn arm(&self, deadline: Time, waker: &Waker) -> Option<Duration> {
        self.clock.arm(deadline, waker)
    }
}

/// A lane that is visited for another reason tries again what is due; the timer that fires late for it must
/// not take the next one with it.
// convict: whole_lane_waits
#[test]
fn a_late_timer_takes_no_other_with_it() {
    each_shape(|shape| {
        let (clock, log, holds) = (VirtualClock::new(), Log::default(), Holds::new(&["wake"]));
        let late = LateMonitor { clock: clock.clone(), most: Arc::new(AtomicU64::new(0)) };
        let runtime =
            Runtime::builder().config(shape.config()).clock(late.clone()).build().unwrap();
        let (hold, logged) = (holds.handle(), log.clone());
        let policy = Subscription::new("o").retry(Retry::fixed(SECOND).attempts(3)).skip();
        let orders = runtime
            .subscribe_async(policy, move |record: RecordRef| {
                let (hold, name) = (hold.clone(), name_of(&record));
                logged.add(&name);
                async move {
                    hold.pass(&name).await;
                    if name == "x" { Err("no".into()) } else { Ok(()) }
                }
            })
            .unwrap();
        let keys = shape.keys_of(0, 2);
        let wake = submit(&orders, &keys[0], "wake");
        let x = submit(&orders, &keys[1], "x");
        until("the first attempt", || log.has("x"));
        until("it waits", || runtime.snapshot().outcomes.retries == 1);
        clock.advance(SECOND); // the monitor does not see it
        holds.open("wake");
        all_done([&wake]);
        until("the second attempt, for the wake", || runtime.snapshot().outcomes.retries == 2);
        late.most.store(u64::MAX, Ordering::Release);
        settle(&runtime); // the timer of the first backoff has fired
        clock.advance(SECOND);
        assert_eq!(ended(&x), Outcome::Skipped(failure("no", 3)));
    });
}

/// A second is what is promised. The clock stands still, so it is none at all: whatever waited for a time, a
/// backoff or a thread's new start, would never come.
// convict: whole_lane_waits
#[test]
fn handling_goes_on_within_a_second_after_a_panic() {
    dispatch::quiet_panics();
    type Handle = fn(&Record) -> Handled;
    let handle: Handle = |record| {
        if name_of(record) == "x" { panic!("planned") } else { Ok(()) }
    };
    let kinds: [fn(Handle) -> Handler; 4] = [
        Handler::sync,
        |handle| Handler::blocking(move |record| handle(&record)),
        |handle| Handler::future(move |record| std::future::ready(handle(&record))),
        |handle| Handler::future(move |record| async move { handle(&record) }),
    ];
    each_shape(|shape| {
        for kind in kinds {
            let clock = VirtualClock::new();
            // No spare: the thread that the panic went through is the one that goes on.
            let config = shape.config().spares(0).blocking_threads(1);
            let runtime = Runtime::builder().config(config).clock(clock.clone()).build().unwrap();
            let stone = shape.stone(&runtime, 0);
            let orders =
                runtime.subscribe_handler(Subscription::new("o").skip(), kind(handle)).unwrap();
            let keys = shape.keys_of(1, 2);
            for _ in 0..3 {
                let x = submit(&orders, &keys[0], "x");
                let others: Vec<_> = (0..10).map(|i| submit(&orders, &keys[i % 2], "b")).collect();
                assert_eq!(ended(&x), Outcome::Skipped(failure("panicked: planned", 1)));
                all_done(&others);
            }
            assert!(clock.now().since(Time::ZERO) < SECOND);
            stone.lift();
        }
    });
}

// convict: whole_lane_waits
#[test]
fn records_without_a_key_are_spread_serialised_or_refused() {
    each_shape(|shape| {
        let runtime = shape.runtime();
        let (holds, log) = (Holds::new(&["0"]), Log::default());
        let handler = |name: &'static str| {
            let (hold, log) = (holds.handle(), log.clone());
            Handler::future(move |record: RecordRef| {
                let (hold, log, payload) = (hold.clone(), log.clone(), name_of(&record));
                async move {
                    assert_eq!(record.key(), None);
                    hold.pass(&payload).await;
                    log.add(format!("{name} {payload}"));
                    Ok(())
                }
            })
        };
        let subscribe = |name: &'static str, keyless| {
            let policy = Subscription::new(name).keyless(keyless);
            runtime.subscribe_handler(policy, handler(name)).unwrap()
        };
        let submit =
            |to: &Subscriber, i: usize| to.submit_tracked(Record::keyless(i.to_string())).unwrap();
        let (spread, serial) =
            (subscribe("spread", Keyless::Spread), subscribe("serial", Keyless::Serial));
        let spread: Vec<_> = (0..30).map(|i| submit(&spread, i)).collect();
        let serial: Vec<_> = (0..30).map(|i| submit(&serial, i)).collect();
        all_done(&spread[1..]); // though the first one is pending
        assert_eq!(serial[1].outcome(), None);
        holds.open("0");
        all_done(spread.iter().chain(&serial));
        let in_order: Vec<_> = (0..30).map(|i| format!("serial {i}")).collect();
        assert_eq!(log.of("serial"), in_order);

        let reject = subscribe("reject", Keyless::Reject);
        let refused = reject.submit(Record::keyless("mine")).unwrap_err();
        assert_eq!(refused.refusal(), Refusal::NoKey);
        assert_eq!(name_of(&refused.into_record()), "mine");
    });
}
