//! Consuming from JetStream, on a real server.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keylane::nats::{AckMode, NatsBus};
use keylane::{Record, Runtime, Subscription};

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn url() -> String {
    std::fs::read_to_string(format!("{}/url", std::env::var("KL_NATS").unwrap()))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn first() {
    for mode in [AckMode::Each, AckMode::Floor, AckMode::Checkpoint] {
        one(mode);
    }
}

fn one(mode: AckMode) {
    let runtime = Runtime::builder().workers(2).build().unwrap();
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bus: NatsBus =
        executor.block_on(NatsBus::builder(&runtime, &url()).ack_mode(mode).connect()).unwrap();
    let topic = format!("orders{}", uuid::Uuid::now_v7().simple());
    let seen: Arc<Mutex<HashMap<Vec<u8>, u64>>> = Arc::default();
    let count = Arc::new(AtomicU64::new(0));
    let (s, c) = (seen.clone(), count.clone());
    let begun = Instant::now();
    let sub = bus
        .subscribe(&topic, Subscription::new("billing"), move |record: &Record| {
            let text = std::str::from_utf8(record.payload()).unwrap();
            let (key, number) = text.split_once(':').unwrap();
            let mut seen = s.lock().unwrap();
            let last = seen.entry(key.as_bytes().to_vec()).or_default();
            assert_eq!(number.parse::<u64>().unwrap(), *last + 1);
            *last += 1;
            c.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .wait()
        .unwrap();
    eprintln!("subscribed in {:?}", begun.elapsed());
    for i in 0..2_000u64 {
        let key = format!("k{}", i % 20);
        bus.publish(&topic, Record::new(&key, format!("{key}:{}", i / 20 + 1))).wait().unwrap();
    }
    eprintln!("published in {:?}", begun.elapsed());
    until("all", || count.load(Ordering::Relaxed) == 2_000);
    eprintln!("all in {:?}", begun.elapsed());
    let report = bus.close(Duration::from_secs(5)).wait().unwrap();
    eprintln!("{report:?} {:?} {:?}", sub.stopped_by(), begun.elapsed());
    runtime.close(Duration::from_secs(5)).unwrap();
}
