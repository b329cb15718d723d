//! The service's side, spoken to without a view.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use keylane::{Letter, Record, Runtime, Subscriber, Subscription};
use keylane_top::protocol::MAX_REQUEST;
use keylane_top::view::Answer;
use keylane_top::{ServeError, Server};
use serde_json::Value;

struct View(BufReader<TcpStream>);

impl View {
    fn attach(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(serde_json::from_str(&line).unwrap())
    }

    fn ask(&mut self, request: &str) -> Value {
        self.say(&format!("{request}\n"));
        self.hear().unwrap()
    }
}

fn served(dead_letters: bool) -> (Runtime, Subscriber, Server) {
    let runtime = Runtime::builder().workers(1).lanes(16).on_notice(|_| ()).build().unwrap();
    let policy = Subscription::new("orders");
    let policy =
        if dead_letters { policy.dead_letter_to(|_: &Letter| Ok(())).park_key() } else { policy };
    let orders = runtime.subscribe(policy, |_: &Record| Ok(())).unwrap();
    let server = Server::start("127.0.0.1:0", &runtime, vec![orders.clone()]).unwrap();
    (runtime, orders, server)
}

#[test]
fn snapshots_and_deeds() {
    let (runtime, orders, server) = served(true);
    orders.submit_tracked(Record::new("k", "v")).unwrap().wait().unwrap();
    let mut view = View::attach(&server);
    let answer: Answer = serde_json::from_value(view.ask(r#"{"do":"snapshot"}"#)).unwrap();
    let snapshot = answer.snapshot.unwrap();
    assert_eq!((answer.protocol, answer.operable), (1, vec!["orders".to_owned()]));
    assert_eq!((snapshot.lanes.len(), snapshot.outcomes["done"]), (16, 1));
    assert_eq!(snapshot.subscriptions[0].counts.handled, Some(1));
    assert_eq!(snapshot.phase, "Running");

    let park = r#"{"do":"park","subscription":"orders","key":"6b"}"#;
    assert_eq!(view.ask(park)["done"], "k of orders is parked");
    let begun = Instant::now();
    while orders.parked().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    assert_eq!(orders.parked()[0].key, b"k");
    let resume = r#"{"do":"resume","subscription":"orders","key":"6b"}"#;
    assert_eq!(view.ask(resume)["done"], "k of orders is resumed");
    while !orders.parked().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    let skip = r#"{"do":"skip","subscription":"orders","key":"6b"}"#;
    assert!(view.ask(skip)["done"].is_string());
    for bad in [
        r#"{"do":"park","subscription":"other","key":"6b"}"#,
        r#"{"do":"park","subscription":"orders","key":""}"#,
        r#"{"do":"park","subscription":"orders","key":"6"}"#,
        "snapshot",
        "",
    ] {
        assert!(view.ask(bad)["error"].is_string(), "{bad}");
    }
    runtime.close(Duration::from_secs(5)).unwrap();
    assert_eq!(view.ask(r#"{"do":"snapshot"}"#)["snapshot"]["phase"], "Stopped");
}

#[test]
fn a_subscription_without_dead_letters_is_not_parked() {
    let (runtime, _orders, server) = served(false);
    let mut view = View::attach(&server);
    let answer = view.ask(r#"{"do":"park","subscription":"orders","key":"6b"}"#);
    assert_eq!(answer["error"], "orders has no dead letters to park into");
    runtime.stop_now();
}

#[test]
fn lines_and_views_are_bounded_and_the_end_is_seen() {
    let (runtime, _orders, server) = served(true);
    let mut long = View::attach(&server);
    long.say(&"x".repeat(MAX_REQUEST));
    assert!(long.hear().unwrap()["error"].as_str().unwrap().contains("16384"));
    assert!(long.hear().is_none(), "it is let go");

    let mut views: Vec<_> = (0..8).map(|_| View::attach(&server)).collect();
    for view in &mut views {
        // The one before may still be going.
        let begun = Instant::now();
        while view.ask(r#"{"do":"snapshot"}"#)["error"].is_string() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            *view = View::attach(&server);
        }
    }
    let mut ninth = View::attach(&server);
    assert!(ninth.hear().unwrap()["error"].as_str().unwrap().contains("8 views"));
    drop(server);
    assert!(views[0].hear().is_none(), "the server has ended");
    runtime.stop_now();
}

#[test]
fn loopback_only() {
    let runtime = Runtime::builder().workers(1).build().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7797"] {
        let error = Server::start(address, &runtime, Vec::new()).unwrap_err();
        assert!(matches!(error, ServeError::NotLoopback(_)), "{error}");
        assert!(error.to_string().contains("127.0.0.1"));
    }
    assert!(matches!(Server::start("nothing", &runtime, Vec::new()), Err(ServeError::Io(_))));
    runtime.stop_now();
}
