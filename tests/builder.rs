//! Building a runtime: options refused by name and range, threads as the caller wants them, notices.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "testing")]

#[path = "support/lifecycle.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use keylane::{
    BuildError, Builder, Config, ConfigError, HandlerError, Notice, Pinning, Record, Runtime,
    SubscribeError, Subscription,
};
use parking_lot::Mutex;
use support::*;

fn refused(builder: Builder) -> String {
    match builder.build() {
        Err(BuildError::Config(error @ ConfigError::OutOfRange { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn zero_and_absurd_sizes_are_refused_by_name_and_range() {
    let config = Config::default;
    let configured = |config| Runtime::builder().config(config);
    for (builder, option, allowed) in [
        (Runtime::builder().lanes(0), "lanes", "1 to 65536"),
        (Runtime::builder().lanes(usize::MAX), "lanes", "1 to 65536"),
        (Runtime::builder().slots(0), "slots", "1 to 1048576"),
        (Runtime::builder().slots(usize::MAX), "slots", "1 to 1048576"),
        (Runtime::builder().lanes(65_536).slots(1_048_576), "slots", "67108864"),
        (Runtime::builder().wait(Duration::MAX), "wait", "0 to 1h"),
        (Runtime::builder().workers(0), "workers", "1 to 1024"),
        (Runtime::builder().workers(usize::MAX), "workers", "1 to 1024"),
        (Runtime::builder().stack_size(0), "stack_size", "64KiB to 1GiB"),
        (Runtime::builder().stack_size(usize::MAX), "stack_size", "64KiB to 1GiB"),
        (Runtime::builder().thread_name(""), "thread_name", "1 to 12"),
        (Runtime::builder().thread_name("nul\0"), "thread_name", "1 to 12"),
        (Runtime::builder().thread_name("much too long a name"), "thread_name", "1 to 12"),
        (Runtime::builder().pinning(Pinning::Cores(Vec::new())), "pinning", "list"),
        (Runtime::builder().pinning(Pinning::Cores(vec![0, 0])), "pinning", "different"),
        (Runtime::builder().pinning(Pinning::Cores((0..5_000).collect())), "pinning", "1024"),
        (configured(config().spares(usize::MAX)), "spares", "0 to 64"),
        (configured(config().quantum(0)), "quantum", "1 to 65536"),
        (configured(config().heartbeat(Duration::ZERO)), "heartbeat", "10ms to 10s"),
        (configured(config().overrun(Duration::ZERO)), "overrun", "100us to 60s"),
        (configured(config().blocking_threads(0)), "blocking_threads", "1 to 4096"),
        (configured(config().blocking_idle(Duration::MAX)), "blocking_idle", "0 to 1h"),
        (configured(config().key_waiting(0)), "key_waiting", "1 to"),
        (configured(config().lane_waiting(0)), "lane_waiting", "1 to"),
        (configured(config().source_window(0)), "source_window", "1 to"),
        (configured(config().parked_keys(usize::MAX)), "parked_keys", "0 to"),
        (configured(config().spin(Duration::from_secs(1))), "spin", "1ms"),
    ] {
        let error = refused(builder);
        assert!(error.contains(&format!("`{option}`")), "{error}");
        assert!(error.contains(allowed), "{error}");
    }
}

#[test]
fn what_is_not_configured_takes_its_default() {
    let runtime = Runtime::builder().on_notice(|_| ()).build().unwrap();
    assert_eq!(runtime.config(), &Config::default());
    assert_eq!(runtime.snapshot().lanes.len(), 256);
    assert!(runtime.close(HANG).unwrap().drained);
    let nothing: [(String, String); 0] = [];
    assert_eq!(Config::default().with_vars(nothing), Ok(Config::default()));
    // What is configured is kept beside it.
    let config = Config::default().slots(7);
    let runtime = Runtime::builder().config(config).lanes(3).on_notice(|_| ()).build().unwrap();
    assert_eq!(runtime.config(), &Config::default().slots(7).lanes(3));
    assert!(runtime.close(HANG).unwrap().drained);
}

#[test]
fn the_least_of_everything_works() {
    let config = Config::default()
        .spares(0)
        .quantum(1)
        .key_waiting(1)
        .lane_waiting(1)
        .blocking_threads(1)
        .blocking_idle(Duration::ZERO)
        .parked_keys(0);
    let runtime = Runtime::builder()
        .config(config)
        .lanes(1)
        .slots(1)
        .workers(1)
        .wait(HANG)
        .stack_size(64 << 10)
        .on_notice(|_| ())
        .build()
        .unwrap();
    let log = Log::new();
    let sync = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
    let seen = log.clone();
    let blocking = runtime
        .subscribe_blocking(Subscription::new("b"), move |record| {
            seen.push(number(&record));
            Ok(())
        })
        .unwrap();
    for n in 0..200 {
        sync.submit(numbered("k", n)).unwrap();
        blocking.submit(numbered("k", 200 + n)).unwrap();
    }
    assert!(runtime.close(HANG).unwrap().drained);
    let mut all = log.numbers();
    all.sort_unstable();
    assert_eq!(all, (0..400).collect::<Vec<_>>());
}

#[test]
fn a_configuration_comes_from_the_environment() {
    let vars = [("LANES", "3"), ("SLOTS", "5"), ("WAIT", "0"), ("WORKERS", "1")];
    let vars = vars.map(|(name, value)| (format!("KEYLANE_{name}"), value));
    let config = Config::default().with_vars(vars);
    assert!(Config::default().with_vars([("KEYLANE_LANEZ", "3")]).is_err());
    let runtime = Runtime::builder().config(config.unwrap()).on_notice(|_| ()).build().unwrap();
    assert_eq!(runtime.snapshot().lanes.len(), 3);
    assert_eq!(runtime.config().get("slots").as_deref(), Some("5"));
    runtime.close(HANG).unwrap();
}

#[cfg(feature = "serde")]
#[test]
fn a_configuration_comes_from_a_file() {
    let text = "lanes = 3\nslots = 5\nwait = \"10ms\"\nworkers = 1\npinning = \"off\"\n";
    let config: Config = toml::from_str(text).unwrap();
    let runtime = Runtime::builder().config(config).on_notice(|_| ()).build().unwrap();
    assert_eq!(runtime.snapshot().lanes.len(), 3);
    runtime.close(HANG).unwrap();
    let error = toml::from_str::<Config>("lanez = 3").unwrap_err().to_string();
    assert!(error.contains("lanez"), "{error}");
    let refused = toml::from_str::<Config>("lanes = 0").map(|c| c.validate());
    assert!(!matches!(refused, Ok(Ok(()))));
}

#[test]
fn threads_have_the_callers_name_and_hooks() {
    let (started, stopped) =
        (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(Mutex::new(BTreeSet::new())));
    let (starts, stops) = (started.clone(), stopped.clone());
    let runtime = narrow(10)
        .workers(2)
        .thread_name("mine")
        .on_thread_start(move |name| {
            assert_eq!(std::thread::current().name(), Some(name));
            starts.lock().insert(name.to_owned());
        })
        .on_thread_stop(move |name| {
            stops.lock().insert(name.to_owned());
        })
        .build()
        .unwrap();
    let subscriber = runtime.subscribe_blocking(Subscription::new("s"), |_| Ok(())).unwrap();
    subscriber.submit_tracked(numbered("k", 0)).unwrap().wait().unwrap();
    runtime.close(HANG).unwrap();
    let expected = ["mine-blk", "mine-close", "mine-mon", "mine-w0", "mine-w1"].map(String::from);
    // One that nobody waits for may begin after the end.
    until("all threads have begun", || *started.lock() == BTreeSet::from(expected.clone()));
    until("all threads have ended", || *stopped.lock() == BTreeSet::from(expected.clone()));
}

#[test]
fn panics_in_hooks_and_notices_end_there() {
    let runtime = narrow(10)
        .pinning(Pinning::Cores(vec![1_000]))
        .on_thread_start(|_| panic!("start"))
        .on_thread_stop(|_| panic!("stop"))
        .on_notice(|_| panic!("notice"))
        .build()
        .unwrap();
    let subscriber = runtime
        .subscribe(Subscription::new("s"), |record: &Record| match number(record) {
            0 => Ok(()),
            _ => Err(HandlerError::fatal("stops, and says so")),
        })
        .unwrap();
    subscriber.submit(numbered("k", 0)).unwrap();
    let receipt = subscriber.submit_tracked(numbered("k", 1)).unwrap();
    assert!(receipt.wait().unwrap().failure().is_some());
    assert_eq!(runtime.close(HANG).unwrap().records.len(), 1);
}

#[test]
fn pinning_that_cannot_be_done_is_said_and_no_failure() {
    for pinning in [Pinning::Off, Pinning::Auto, Pinning::Cores(vec![1_000, 1_001])] {
        let absurd = matches!(pinning, Pinning::Cores(_));
        let said = Arc::new(AtomicUsize::new(0));
        let count = said.clone();
        let runtime = narrow(10)
            .workers(2)
            .pinning(pinning)
            .on_notice(move |notice| {
                if let Notice::NotPinned { reason } = notice {
                    assert!(!reason.is_empty());
                    count.fetch_add(1, SeqCst);
                }
            })
            .build()
            .unwrap();
        let log = Log::new();
        let subscriber = runtime.subscribe(Subscription::new("s"), log.handler()).unwrap();
        subscriber.submit(numbered("k", 0)).unwrap();
        assert!(runtime.close(HANG).unwrap().drained);
        assert!(!absurd || said.load(SeqCst) > 0, "it is said");
    }
}

#[test]
fn names_of_subscriptions() {
    let runtime = narrow(10).build().unwrap();
    let subscribe = |name: &str| runtime.subscribe(Subscription::new(name), |_: &Record| Ok(()));
    for name in ["", &"x".repeat(256)] {
        assert_eq!(subscribe(name).unwrap_err(), SubscribeError::InvalidName);
    }
    for name in ["x", &"x".repeat(255), "a name\nwith anything ☂", "\0"] {
        assert_eq!(subscribe(name).unwrap().name(), name);
    }
    assert_eq!(runtime.snapshot().subscriptions.len(), 4);
}

#[test]
fn a_policy_without_a_dead_letter_is_refused() {
    let runtime = narrow(10).build().unwrap();
    let nothing = |_: &Record| Ok(());
    let park = Subscription::new("s").park_key();
    assert_eq!(runtime.subscribe(park, nothing).unwrap_err(), SubscribeError::NoDeadLetter);
    let topic = Subscription::new("s").dead_letter("orders.dead");
    let refused = runtime.subscribe(topic, nothing).unwrap_err();
    assert_eq!(refused, SubscribeError::NoDeadLetter);
    assert!(refused.to_string().contains("sink"), "{refused}");
}

#[test]
fn a_runtime_is_clone_send_and_sync() {
    fn check<T: Clone + Send + Sync>() {}
    check::<Runtime>();
    check::<keylane::Subscriber>();
}
