//! The quickstart example through a real server, as a user runs it, and with that server killed on the way.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/example.rs"]
mod example;

use std::future::Future;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use broker::Server;
use futures_util::TryStreamExt;
use serde_json::Value;

/// January's events, counted by other means.
const EVENTS: u64 = 53_402;
const LONG: Duration = Duration::from_secs(60);

fn start(args: &[&str]) -> Child {
    Command::new(example::example("quickstart"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn holds(output: &Output) -> Value {
    let json = json(output);
    assert_eq!(output.status.code(), Some(0), "{json}");
    for (field, value) in [
        ("events", EVENTS),
        ("handled", EVENTS),
        ("lost", 0),
        ("order_violations", 0),
        ("strangers", 0),
    ] {
        assert_eq!(json[field], value, "{field}: {json}");
    }
    json
}

fn on_tokio<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The streams of runs that are on the server, and how many messages they hold together.
fn stored(url: &str) -> (usize, u64) {
    on_tokio(async {
        let context = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
        let streams: Vec<_> = context.streams().try_collect().await.unwrap();
        let ours =
            streams.iter().filter(|stream| stream.config.name.starts_with("STREAM_flights_"));
        ours.fold((0, 0), |(count, sum), stream| (count + 1, sum + stream.state.messages))
    })
}

#[test]
fn january_goes_through_a_server_and_leaves_nothing_there() {
    let Some(server) = Server::start(&["--nodes", "1"]) else { return };
    // Twice on one server: a run's topics are its own.
    for pace in [&["--rate", "30000"][..], &[]] {
        let args = [&["--json", "--bus", server.url()], pace].concat();
        let json = holds(&start(&args).wait_with_output().unwrap());
        assert_eq!((&json["duplicates"], &json["reconnects"]), (&0.into(), &0.into()), "{json}");
        assert_eq!(stored(server.url()), (0, 0));
    }
}

#[test]
fn a_server_killed_on_the_way_costs_no_event_and_no_order() {
    let Some(server) = Server::start(&["--nodes", "1"]) else { return };
    let run = start(&["--json", "--rate", "10000", "--keep", "--bus", server.url()]);
    let begun = Instant::now();
    while stored(server.url()).1 < EVENTS / 10 {
        assert!(begun.elapsed() < LONG, "nothing is published");
        std::thread::yield_now();
    }
    server.kill(1);
    server.restart(1);
    let at_restart = stored(server.url()).1;
    let json = holds(&run.wait_with_output().unwrap());
    // It was on the way, and it was seen.
    assert!((EVENTS / 10..EVENTS).contains(&at_restart), "{at_restart}");
    assert!(json["reconnects"].as_u64() > Some(0), "{json}");
    // What was published again is stored once.
    assert_eq!(stored(server.url()), (3, EVENTS));
}

#[test]
fn a_server_that_is_not_there_is_told_in_words() {
    let output = start(&["--bus", "nats://canary:canary@127.0.0.1:9"]).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("127.0.0.1:9") && !said.contains("canary"), "{said}");
}
