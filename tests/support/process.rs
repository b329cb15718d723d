//! Consumers in processes of their own, which can be killed and stopped: the test's binary, started again as one of them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keylane::nats::AckMode;
use parking_lot::Mutex;

use super::history::{Event, History};
use super::subject::{Handler, Ours, Place, Subject};

/// What the process is to do, in its environment.
const ROLE: &str = "KL_ROLE";

/// A consumer in a process of its own. It ends with this, and with the test's process.
pub struct Process {
    number: u32,
    child: Child,
    reader: Option<JoinHandle<()>>,
    history: History,
    /// Why its source stopped, if it did.
    stopped: Arc<Mutex<Option<String>>>,
}

/// A line with which a process says why its source stopped begins with this.
const STOPPED: &str = "@X ";

/// How a process' handlers work.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long each takes.
    pub each: Duration,
    /// Records from this number on are never done.
    pub held_from: u64,
}

impl Pace {
    pub const QUICK: Self = Self { each: Duration::ZERO, held_from: u64::MAX };
}

impl Process {
    /// Starts `entry`, a test of this binary that calls [`play`], as process `number` of the history, from 1.
    pub fn start(
        entry: &str,
        number: u32,
        mode: AckMode,
        pace: Pace,
        place: &Place,
        history: &History,
    ) -> Self {
        let role = [
            format!("{mode:?}"),
            pace.each.as_millis().to_string(),
            pace.held_from.to_string(),
            place.ack_wait.as_millis().to_string(),
            place.window.to_string(),
            place.interval.as_millis().to_string(),
            place.url.clone(),
            place.topic.clone(),
            place.stream.clone(),
            place.durable.clone(),
        ];
        let binary = std::env::current_exe().expect("it runs");
        let mut child = Command::new(binary)
            .args(["--exact", entry, "--nocapture", "--test-threads", "1"])
            .env(ROLE, role.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started again");
        let stdout = child.stdout.take().expect("it is piped");
        let (events, stopped) = (history.clone(), Arc::new(Mutex::new(None)));
        let stops = stopped.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(why) = line.strip_prefix(STOPPED) {
                    *stops.lock() = Some(why.to_owned());
                } else if let Some(event) = Event::of_line(number, &line) {
                    events.add(event);
                }
            }
        });
        Self { number, child, reader: Some(reader), history: history.clone(), stopped }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Why its source stopped, if it did.
    pub fn stopped(&self) -> Option<String> {
        self.stopped.lock().clone()
    }

    /// SIGKILL: returns once it is gone and all that it said is read.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGSTOP: returns once it is obeyed.
    pub fn pause(&self) {
        self.signal("-STOP");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.state().starts_with('T') {
            assert!(Instant::now() < deadline, "it is not stopped: {}", self.state());
            thread::yield_now();
        }
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Ends it in order: says whether it came to its end.
    pub fn close(mut self) -> bool {
        drop(self.child.stdin.take());
        let ended = self.child.wait().is_ok_and(|status| status.success());
        self.end();
        ended
    }

    fn state(&self) -> String {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("State:"));
        line.unwrap_or_default().trim().to_owned()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "kill {signal} {}", self.pid());
    }

    fn end(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
            self.history.died(self.number);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Plays the part that this process was started for, if it was; until its standard input ends.
pub fn play() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let role = role.to_string_lossy().into_owned();
    let mut words = role.split(' ').map(str::to_owned);
    let mut next = || words.next().expect("a role is complete");
    let mode = match next().as_str() {
        "Each" => AckMode::Each,
        "Floor" => AckMode::Floor,
        _ => AckMode::Checkpoint,
    };
    let mut number = || next().parse::<u64>().expect("it is a number");
    let (each, held_from) = (Duration::from_millis(number()), number());
    let (ack_wait, window) = (Duration::from_millis(number()), number() as usize);
    let interval = Duration::from_millis(number());
    let [url, topic, stream, durable] = [next(), next(), next(), next()];
    let place = Place { url, topic, stream, durable, ack_wait, window, interval };
    let work = Arc::new(move |_: &str, seq| {
        if seq >= held_from {
            loop {
                thread::park(); // until the process is killed
            }
        }
        thread::sleep(each);
        true
    });
    let running = Ours(mode).start(&place, Handler { history: History::echoing(), work });
    let (open, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest); // its end is what counts
        drop(open);
    });
    let mut said = false;
    while ended.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
        if !said && let Some(why) = running.stopped() {
            said = true;
            let line = format!("\n{STOPPED}{}\n", why.replace('\n', " "));
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
    }
    if held_from == u64::MAX {
        running.close();
    }
}
