//! A whole runtime under everything at once: producers, handlers of every kind, swaps, removals, restarts of
//! sources and closes, from a seed. Judged by exact accounting and by the oracle.
//!
//! Scoped threads are joined one by one: the thread sanitizer (`ci/san.sh`) sees a join, and not how std's scope waits.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "testing", feature = "internals"))]

#[path = "support/lifecycle.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use keylane::internals::{DeliverError, SourceOptions, Stored, Undelivered};
use keylane::testing::{Ended, Oracle};
use keylane::{
    Config, Handled, Handler, HandlerError, Outcome, Position, Record, RecordRef, Refusal, Retry,
    Runtime, Subscription,
};
use parking_lot::Mutex;
use support::*;

/// How often a record was handled, by its number.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Counts {
    fn count(&self, number: u64) {
        *self.0.lock().entry(number).or_default() += 1;
    }
}

fn runtime(random: &mut Random) -> Runtime {
    let config = Config::default().spares(random.below(3)).key_waiting(1 + random.below(20));
    Runtime::builder()
        .config(config)
        .lanes(1 + random.below(5))
        .slots(1 + random.below(20))
        .workers(1 + random.below(3))
        .wait(HANG)
        .on_notice(|_| ())
        .build()
        .unwrap()
}

/// Handles a record: now and then it fails, panics or takes its time.
fn handle(oracle: &Oracle, handled: &Counts, record: &Record) -> Handled {
    let attempt = oracle.start(record.key().unwrap(), number(record));
    // Decided by the record, so that a retry ends well.
    match (number(record).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60, record.attempt()) {
        (0, 1) => return Err(HandlerError::retryable("the first time never works")),
        (1, 1) => panic!("the first time never works"),
        (2, _) => thread::yield_now(),
        _ => {}
    }
    handled.count(number(record));
    attempt.end(Ended::Done);
    Ok(())
}

fn handler(kind: usize, oracle: &Oracle, handled: &Counts) -> Handler {
    let (oracle, handled) = (oracle.clone(), handled.clone());
    match kind % 3 {
        0 => Handler::sync(move |record| handle(&oracle, &handled, record)),
        1 => Handler::future(move |record: RecordRef| {
            let (oracle, handled) = (oracle.clone(), handled.clone());
            async move {
                let mut polls = number(&record) % 3;
                std::future::poll_fn(|cx| {
                    if polls == 0 {
                        return Poll::Ready(());
                    }
                    polls -= 1;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
                handle(&oracle, &handled, &record)
            }
        }),
        _ => Handler::blocking(move |record| handle(&oracle, &handled, &record)),
    }
}

/// Producers, swaps and a close at any moment: every record is handled once, refused, or given back.
fn one_life(random: &mut Random) {
    let runtime = runtime(random);
    let (oracle, handled) = (Oracle::new(), Counts::default());
    let policy = Subscription::new("s").retry(Retry::fixed(Duration::ZERO).attempts(3));
    let subscriber =
        runtime.subscribe_handler(policy, handler(random.below(3), &oracle, &handled)).unwrap();
    let back = Mutex::new(Vec::new());
    let sent = AtomicU64::new(0);
    let per_producer = 150;
    let ends = random.below(4);
    let seeds: Vec<u64> = (0..3).map(|_| random.next()).collect();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (producer, seed) in (0..).zip(seeds) {
            let (oracle, subscriber, back, sent) = (&oracle, &subscriber, &back, &sent);
            threads.push(scope.spawn(move || {
                let mut random = Random::of(seed);
                let mut seq = 0;
                while seq < per_producer {
                    let key = format!("key-{producer}-{}", random.below(3));
                    let mut next = || {
                        seq += 1;
                        sent.fetch_add(1, SeqCst);
                        let number = producer << 32 | seq;
                        oracle.perhaps_published(&key, number);
                        numbered(&key, number)
                    };
                    let refused = match random.below(5) {
                        0 => {
                            subscriber.submit(next()).err().map(|e| (e.refusal(), e.into_record()))
                        }
                        1 => subscriber
                            .try_submit(next())
                            .err()
                            .map(|e| (e.refusal(), e.into_record())),
                        2 => block_on(subscriber.submit_async(next()))
                            .err()
                            .map(|e| (e.refusal(), e.into_record())),
                        3 => {
                            let mut batch: Vec<_> = (0..random.below(9)).map(|_| next()).collect();
                            let result = subscriber.submit_batch(&mut batch);
                            assert_eq!(result.is_ok(), batch.is_empty());
                            for record in batch {
                                oracle.returned(&key, number(&record));
                                back.lock().push(number(&record));
                            }
                            None
                        }
                        _ => match subscriber.submit_tracked(next()) {
                            Ok(receipt) => {
                                let outcome = receipt.wait().unwrap();
                                let ended = matches!(outcome, Outcome::Done | Outcome::Abandoned);
                                assert!(ended, "{outcome:?}");
                                None
                            }
                            Err(error) => Some((error.refusal(), error.into_record())),
                        },
                    };
                    if let Some((why, record)) = refused {
                        assert!(matches!(why, Refusal::Full | Refusal::Closed | Refusal::Stopped));
                        oracle.returned(&key, number(&record));
                        back.lock().push(number(&record));
                    }
                }
            }));
        }
        let (subscriber, oracle, handled) = (&subscriber, &oracle, &handled);
        let swaps: Vec<usize> = (0..random.below(6)).map(|_| random.below(6)).collect();
        threads.push(scope.spawn(move || {
            for kind in swaps {
                let swap = subscriber.swap(handler(kind, oracle, handled));
                if kind < 3 {
                    let _ = swap.wait();
                }
            }
        }));
        let moment = random.below(400) as u64;
        until("the moment has come", || sent.load(SeqCst) >= moment);
        let returned: Vec<Record> = match ends {
            0 => subscriber.remove().wait().unwrap(),
            1 => subscriber.close(Duration::ZERO).wait().unwrap(),
            2 => {
                runtime.stop_now();
                Vec::new()
            }
            _ => Vec::new(),
        };
        back.lock().extend(numbers(&returned));
        let timeout = if random.below(2) == 0 { HANG } else { Duration::ZERO };
        let report = runtime.close(timeout).unwrap();
        back.lock().extend(report.records.iter().map(|(_, record)| number(record)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    // What was behind a handler that had not returned is here once it has; nothing is missing for good.
    let mut back = back.into_inner();
    until("every record is handled or back", || {
        let late = runtime.close(HANG).unwrap();
        back.extend(late.records.iter().map(|(_, record)| number(record)));
        let mut all = handled.0.lock().clone();
        back.iter().for_each(|number| *all.entry(*number).or_default() += 1);
        all.len() as u64 == sent.load(SeqCst)
    });
    // One that was under way when all stopped may come back though it was handled, but nothing else.
    let times = handled.0.lock();
    assert!(times.values().all(|&times| times == 1), "handled once each");
    back.sort_unstable();
    assert!(back.windows(2).all(|pair| pair[0] < pair[1]), "given back once each");
    drop(times);
    let verdict = oracle.verdict();
    if let Some(violation) = verdict.violations.first() {
        panic!("{violation}");
    }
}

#[test]
fn random_lives() {
    let mut random = Random::new();
    for _ in 0..40 {
        one_life(&mut random);
    }
}

/// A consume loop that restarts its sources and subscriptions: every offset is handled, in the order of its
/// key, and the frontier comes to the end.
fn one_partition(random: &mut Random) {
    let runtime = runtime(random);
    let (oracle, handled) = (Oracle::new(), Counts::default());
    let total = 400;
    let key = |offset: u64| format!("key-{}", offset % 5);
    (0..total).for_each(|offset| oracle.published(key(offset), offset));
    let policy = || Subscription::new("s").retry(Retry::fixed(Duration::ZERO).attempts(3));
    let mut subscriber =
        runtime.subscribe_handler(policy(), handler(random.below(3), &oracle, &handled)).unwrap();
    let mut stored: Option<Stored> = None;
    let mut lives = 0;
    loop {
        let called = Arc::new(AtomicBool::new(false));
        struct Sets(Arc<AtomicBool>, thread::Thread);
        impl std::task::Wake for Sets {
            fn wake(self: Arc<Self>) {
                self.0.store(true, SeqCst);
                self.1.unpark();
            }
        }
        let waker = Arc::new(Sets(called.clone(), thread::current())).into();
        let window = Some(1 + random.below(50));
        let mut source = subscriber
            .source(SourceOptions { name: "orders/0".into(), window, resume: stored.take(), waker })
            .unwrap();
        let mut next = source.ledger().frontier().unwrap_or(0);
        let mut life = 1 + random.below(300);
        let mut swaps = Vec::new();
        while life > 0 && source.ledger().frontier().unwrap_or(0) < total {
            life -= 1;
            source.ledger().advance(|_| ());
            if random.below(30) == 0 {
                swaps.push(subscriber.swap(handler(random.below(3), &oracle, &handled)));
            }
            let record = || {
                let position = Position { partition: 0, offset: next };
                numbered(&key(next), next).with_position(position).with_epoch(lives)
            };
            let waits = if next == total {
                true
            } else {
                match source.deliver(record()) {
                    Ok(()) | Err(Undelivered::Ledger(DeliverError::AlreadyFinished, _)) => {
                        next += 1;
                        false
                    }
                    Err(Undelivered::Ledger(DeliverError::WindowFull, _)) => true,
                    Err(Undelivered::Full(_)) => {
                        while !called.swap(false, SeqCst) {
                            thread::park_timeout(HANG);
                        }
                        false
                    }
                    Err(other) => panic!("{other:?}"),
                }
            };
            if waits && source.ledger().prepare_wait() && source.ledger().unfinished() > 0 {
                while !called.swap(false, SeqCst) {
                    thread::park_timeout(HANG);
                }
            }
        }
        source.ledger().advance(|_| ());
        stored = source.ledger().stored();
        let frontier = source.ledger().frontier().unwrap_or(0);
        // A restart: of the source alone, or of the subscription too. Nothing of the old assignment may run
        // beside the new one.
        if random.below(3) == 0 {
            assert!(subscriber.remove().wait().unwrap().is_empty(), "the records are the source's");
            subscriber = runtime
                .subscribe_handler(policy(), handler(random.below(3), &oracle, &handled))
                .unwrap();
            drop(source);
        } else {
            drop(source);
            swaps.push(subscriber.swap(handler(random.below(3), &oracle, &handled)));
            swaps.into_iter().for_each(|swap| swap.wait().unwrap());
        }
        oracle.restarted();
        lives += 1;
        if frontier == total {
            break;
        }
    }
    let report = runtime.close(HANG).unwrap();
    assert!(report.records.is_empty());
    assert_eq!(handled.0.lock().len() as u64, total, "after {lives} lives");
    oracle.verdict().assert_clean();
}

#[test]
fn random_partitions() {
    let mut random = Random::new();
    for _ in 0..30 {
        one_partition(&mut random);
    }
}

/// Subscribers come and go on many threads, each accounting for its own records.
#[test]
fn random_subscriptions() {
    let mut random = Random::new();
    for _ in 0..10 {
        let runtime = runtime(&mut random);
        let seeds: Vec<u64> = (0..3).map(|_| random.next()).collect();
        thread::scope(|scope| {
            let spawn = |(owner, seed): (usize, u64)| {
                let runtime = &runtime;
                scope.spawn(move || {
                    let mut random = Random::of(seed);
                    for life in 0..20 {
                        let (oracle, handled) = (Oracle::new(), Counts::default());
                        let name = format!("s-{owner}");
                        let policy =
                            Subscription::new(name).retry(Retry::fixed(Duration::ZERO).attempts(3));
                        let subscriber = runtime
                            .subscribe_handler(policy, handler(random.below(3), &oracle, &handled))
                            .unwrap();
                        let count = random.below(60) as u64;
                        let mut batch: Vec<_> = (1..=count)
                            .map(|n| {
                                let key = format!("key-{}", n % 4);
                                oracle.perhaps_published(&key, n);
                                numbered(&key, n)
                            })
                            .collect();
                        subscriber.submit_batch(&mut batch).unwrap();
                        let back = match random.below(3) {
                            0 => subscriber.remove().wait().unwrap(),
                            1 => block_on(subscriber.remove()).unwrap(),
                            _ => {
                                let back = subscriber.close(HANG).wait().unwrap();
                                assert!(back.is_empty(), "all of it was handled");
                                back
                            }
                        };
                        let mut all: Vec<u64> = handled.0.lock().keys().copied().collect();
                        all.extend(numbers(&back));
                        all.sort_unstable();
                        assert_eq!(all, (1..=count).collect::<Vec<_>>(), "life {life}");
                        if let Some(violation) = oracle.verdict().violations.first() {
                            panic!("{violation}");
                        }
                    }
                })
            };
            let threads: Vec<_> = seeds.into_iter().enumerate().map(spawn).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let report = runtime.close(HANG).unwrap();
        assert!(report.drained, "{report:?}");
        assert!(runtime.snapshot().subscriptions.is_empty());
    }
}
