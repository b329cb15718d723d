//! The example service on a real server: ended by SIGTERM under load and started again.
#![cfg(all(feature = "nats", feature = "serde", feature = "metrics", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/example.rs"]
mod example;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use broker::Server;
use keylane::{Envelope, NatsBus, Record, Runtime, Subscription};

const LONG: Duration = Duration::from_secs(30);
const KEYS: u64 = 40;
/// Every eighth account once pays above the limit.
const BAD: u64 = 8;
const ROUNDS: u64 = 25;
const TOO_MUCH: u64 = 1_000_000;
/// The round in which it does.
const BAD_ROUND: u64 = 2;

/// A service in a process of its own.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(settings: &Path) -> Self {
        let mut child = Command::new(example::example("service"))
            .arg(settings)
            .env("KEYLANE_WORKERS", "2")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().strip_prefix("ready on http://").unwrap_or_else(|| panic!("{line:?}"));
        Self { child, address: address.to_owned() }
    }

    /// The status line and the body of a request.
    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// A metric's value; 0 if it is not there.
    fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.find(|(found, _)| *found == name).map_or(0.0, |(_, value)| value.parse().unwrap())
    }

    /// SIGTERM; the exit status.
    fn end(mut self) -> Option<i32> {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "{what}");
        thread::yield_now();
    }
}

fn id(key: u64, round: u64) -> String {
    format!("{key:02}-{round:02}")
}

/// Whether this one, or one before it of its account, cannot be booked.
fn is_bad(key: u64, round: u64) -> bool {
    key.is_multiple_of(BAD) && round >= BAD_ROUND
}

fn publish(bus: &NatsBus, rounds: std::ops::Range<u64>) {
    for round in rounds {
        for key in 0..KEYS {
            let bad = key.is_multiple_of(BAD) && round == BAD_ROUND;
            let amount = if bad { TOO_MUCH } else { 1 };
            let payload = format!(r#"{{"amount":{amount}}}"#);
            let event = Envelope::new(format!("account-{key}"), "PaymentMade", 1, payload);
            bus.publish_envelope("payments", &event.with_event_id(id(key, round))).wait().unwrap();
        }
    }
}

/// The events of the dead letters, with their attempts, as they come.
fn letters(bus: &NatsBus) -> Receiver<(String, String)> {
    let (sender, letters) = sync_channel(10_000);
    let handler = move |record: &Record| {
        let event = Envelope::decode(record.payload())?;
        let attempts = String::from_utf8_lossy(record.header("X-Attempts").unwrap_or_default());
        sender.send((event.event_id.into_owned(), attempts.into_owned()))?;
        Ok(())
    };
    bus.subscribe("payments.dead", Subscription::new("looking"), handler).wait().unwrap();
    letters
}

/// What the journal has, in its order.
fn booked(journal: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Checks that the events of each account stand in their order, first occurrences counted, and gives all of them.
fn in_order(events: &[String]) -> HashSet<String> {
    let mut last = HashMap::<&str, &str>::new();
    let mut seen = HashSet::new();
    for event in events.iter().filter(|event| seen.insert((*event).clone())) {
        let (key, round) = event.split_once('-').unwrap();
        assert!(last.insert(key, round).is_none_or(|before| before < round), "{event} is late");
    }
    seen
}

/// A folder of its own, and in it a file of settings.
fn settings(server: &Server, mode: &str) -> (PathBuf, PathBuf) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("service-{mode}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let (file, journal) = (dir.join("service.toml"), dir.join("journal"));
    // The one that comes with the example, in a place of its own.
    let own = |line: &str| match line.split(' ').next() {
        Some("journal") => format!("journal = {journal:?}"),
        Some("listen") => "listen = \"127.0.0.1:0\"".to_owned(),
        Some("[runtime]") => "[runtime]\nworkers = 1".to_owned(),
        Some("servers") => format!("servers = {:?}", server.url()),
        Some("ack_mode") => format!("ack_mode = {mode:?}"),
        _ => line.to_owned(),
    };
    let given = include_str!("../examples/service.toml");
    let text = given.lines().map(own).collect::<Vec<_>>().join("\n");
    std::fs::write(&file, text).unwrap();
    (file, journal)
}

fn ended_under_load_and_started_again(mode: &str) {
    let Some(server) = Server::start(&["--nodes", "1"]) else { return };
    let (settings, journal) = settings(&server, mode);
    let runtime = Runtime::builder().workers(1).build().unwrap();
    let bus = NatsBus::builder(&runtime, server.url()).connect().wait().unwrap();

    let first = Service::start(&settings);
    let healthy = ("HTTP/1.1 200 OK".to_owned(), "healthy\n".to_owned());
    wait("it is healthy", || first.get("/health") == healthy);
    assert!(first.get("/").0.contains("404"));
    publish(&bus, 0..BAD_ROUND + 1);
    let parked = "keylane_parked_keys{subscription=\"bookkeeping\"}";
    wait("accounts are parked", || first.metric(parked) == (KEYS / BAD) as f64);
    assert!(first.metric("keylane_handled_total{subscription=\"bookkeeping\"}") > 0.0);

    let publisher = thread::spawn({
        let bus = bus.clone();
        move || publish(&bus, BAD_ROUND + 1..ROUNDS)
    });
    // Under load: some of it is booked, and more is to come.
    let before = booked(&journal).len();
    wait("it goes on", || booked(&journal).len() > before + KEYS as usize);
    let unpublished = !publisher.is_finished();
    assert_eq!(first.end(), Some(0));
    let at_end = booked(&journal);
    publisher.join().unwrap();
    let all = KEYS * ROUNDS;
    assert!(unpublished && (at_end.len() as u64) < all, "it was under load");

    let second = Service::start(&settings);
    let letters = letters(&bus);
    let mut dead: Vec<(String, String)> = Vec::new();
    wait("everything is booked or a dead letter", || {
        dead.extend(letters.try_iter());
        let mut seen: HashSet<_> = booked(&journal).into_iter().collect();
        seen.extend(dead.iter().map(|(id, _)| id.clone()));
        seen.len() as u64 == all
    });
    assert_eq!(second.end(), Some(0));

    // A service that ends in an orderly way leaves nothing to be done twice.
    let booked = booked(&journal);
    let ids: Vec<_> = dead.iter().map(|(id, _)| id.clone()).collect();
    let (once, dead_once) = (in_order(&booked), in_order(&ids));
    assert_eq!((once.len() + dead_once.len()) as u64, all);
    assert_eq!((once.len(), dead_once.len()), (booked.len(), dead.len()));
    for (id, attempts) in &dead {
        let (key, round) = id.split_once('-').unwrap();
        let (key, round) = (key.parse().unwrap(), round.parse().unwrap());
        assert!(is_bad(key, round), "{id} could be booked");
        assert_eq!(attempts, if round == BAD_ROUND { "3" } else { "0" }, "{id}");
    }
    for key in (0..KEYS).step_by(BAD as usize) {
        assert!(dead_once.contains(&id(key, BAD_ROUND)));
        // Parked keys outlive the process where it keeps its progress itself.
        let followed = (BAD_ROUND + 1..ROUNDS).all(|round| dead_once.contains(&id(key, round)));
        assert!(followed || mode != "checkpoint", "account {key} was not parked any more");
    }
    bus.close(LONG).wait().unwrap();
    runtime.close(LONG).unwrap();
}

#[test]
fn it_is_ended_under_load_and_started_again_acknowledging_each() {
    ended_under_load_and_started_again("each");
}

#[test]
fn it_is_ended_under_load_and_started_again_acknowledging_floors() {
    ended_under_load_and_started_again("floor");
}

#[test]
fn it_is_ended_under_load_and_started_again_with_checkpoints() {
    ended_under_load_and_started_again("checkpoint");
}

#[test]
fn a_file_that_cannot_be_is_told_in_words() {
    let file =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refused-{}.toml", std::process::id()));
    for (text, told) in [
        ("topik = \"payments\"", "topik"),
        ("[nats]\nack_mod = \"floor\"", "did you mean `ack_mode`?"),
        ("[runtime]\nworkers = 0", "workers"),
        ("[nats]\nservers = \"nats://127.0.0.1:9\"", "127.0.0.1:9"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(example::example("service")).arg(&file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}
