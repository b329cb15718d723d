//! A connection that speaks the protocol by hand: for what no client library would send.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A wait that comes to this has hung.
pub const HANG: Duration = Duration::from_secs(60);

pub struct Wire {
    reader: BufReader<TcpStream>,
    /// What its inboxes begin with: nobody else hears its answers.
    own: String,
    asked: u64,
}

impl Wire {
    pub fn new(url: &str) -> Self {
        let address = url.split(',').next().unwrap().trim_start_matches("nats://");
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        static WIRES: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only numbers that differ.
        let own = format!("_I.{}", WIRES.fetch_add(1, Ordering::Relaxed));
        let mut wire = Self { reader: BufReader::new(stream), own, asked: 0 };
        wire.line(); // INFO
        let connect = r#"CONNECT {"verbose":false,"headers":true,"no_responders":true}"#;
        wire.send(format!("{connect}\r\nSUB {}.> 1\r\n", wire.own).as_bytes());
        wire
    }

    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    fn inbox(&mut self) -> String {
        self.asked += 1;
        format!("{}.{}", self.own, self.asked)
    }

    /// The next message: its subject, where it is answered, and its payload; `None` after five seconds without one.
    pub fn message(&mut self) -> Option<(String, String, Vec<u8>)> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).is_err() {
                return None;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.first().copied() {
                Some("PING") => self.send(b"PONG\r\n"),
                Some(kind @ ("MSG" | "HMSG")) => {
                    let own = usize::from(kind == "HMSG");
                    let total: usize = words.last().unwrap().parse().unwrap();
                    let head: usize =
                        if own == 1 { words[words.len() - 2].parse().unwrap() } else { 0 };
                    let reply = if words.len() == 5 + own { words[3] } else { "" }.to_owned();
                    let subject = words[1].to_owned();
                    let mut body = vec![0; total + 2];
                    self.reader.read_exact(&mut body).unwrap();
                    body.truncate(total);
                    return Some((subject, reply, body.split_off(head)));
                }
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// Says something on a subject.
    pub fn say(&mut self, subject: &str, payload: &[u8]) {
        self.send(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
        self.send(payload);
        self.send(b"\r\n");
    }

    /// Asks for deliveries of a consumer, and takes them: where each is acknowledged, and its payload.
    pub fn pull(&mut self, stream: &str, consumer: &str, count: usize) -> Vec<(String, Vec<u8>)> {
        let inbox = self.inbox();
        let pull = format!(r#"{{"batch":{count},"expires":2000000000}}"#);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        self.send(format!("PUB {subject} {inbox} {}\r\n{pull}\r\n", pull.len()).as_bytes());
        let mut came = Vec::new();
        while came.len() < count {
            match self.message() {
                Some((_, reply, payload)) if reply.starts_with("$JS.ACK.") => {
                    came.push((reply, payload))
                }
                _ => break,
            }
        }
        came
    }

    /// A request to the JetStream API; its answer.
    pub fn request(&mut self, subject: &str, payload: &str) -> Value {
        let inbox = self.inbox();
        let subject = format!("$JS.API.{subject}");
        self.send(format!("PUB {subject} {inbox} {}\r\n{payload}\r\n", payload.len()).as_bytes());
        self.answer(&inbox)
    }

    /// Publishes with this block of headers, as it is; the place that the record has in its stream.
    pub fn publish(&mut self, subject: &str, headers: &[u8], payload: &str) -> u64 {
        let inbox = self.inbox();
        let mut bytes = match headers {
            [] => format!("PUB {subject} {inbox} {}\r\n", payload.len()).into_bytes(),
            _ => format!(
                "HPUB {subject} {inbox} {} {}\r\n",
                headers.len(),
                headers.len() + payload.len()
            )
            .into_bytes(),
        };
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(payload.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes);
        let answer = self.answer(&inbox);
        answer["seq"].as_u64().unwrap_or_else(|| panic!("not stored: {answer}"))
    }

    /// Publishes a record of a key: `KEY NUMBER`.
    pub fn record(&mut self, subject: &str, key: &str, number: u64) -> u64 {
        let headers = format!("NATS/1.0\r\nX-Aggregate-ID: {key}\r\n\r\n");
        self.publish(subject, headers.as_bytes(), &format!("{key} {number}"))
    }

    fn answer(&mut self, inbox: &str) -> Value {
        loop {
            let (subject, _, payload) = self.message().expect("an answer");
            if subject == inbox {
                return serde_json::from_slice(&payload).expect("answers are JSON");
            }
        }
    }

    /// What the server says of a consumer, once it holds.
    pub fn wait_consumer(
        &mut self,
        stream: &str,
        consumer: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + HANG;
        loop {
            let info = self.request(&format!("CONSUMER.INFO.{stream}.{consumer}"), "");
            if holds(&info) {
                return info;
            }
            assert!(Instant::now() < deadline, "{what}: {info}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
