//! Random envelopes and broken documents through our codec and the Go side's, which must agree but for
//! the differences that the `envelope` module lists. `KL_SEED` repeats a run.

// The lint's exemption of tests does not reach the functions around them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use keylane::{DecodeError, Envelope, EnvelopeError, Timestamp};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const ROUNDS: usize = 60;
const CASES_A_ROUND: usize = 500;

#[test]
fn both_sides_encode_and_decode_alike() {
    let Some(mut go) = GoSide::start() else {
        // Past the capture of a test's output, so that a skipped check is seen.
        let _ = writeln!(std::io::stderr(), "envelope_differential: not run: go is not installed");
        return;
    };
    let seed = seed();
    println!("KL_SEED={seed}");
    let mut random = Random(seed);
    let mut seen = Seen::default();
    for _ in 0..ROUNDS {
        let envelopes: Vec<_> = (0..CASES_A_ROUND).map(|_| random.envelope()).collect();
        let answers = go.ask(envelopes.iter().map(|e| format!("E {}", fields(e))).collect());
        for (envelope, answer) in envelopes.iter().zip(&answers) {
            compare_encoding(envelope, answer, &mut seen);
        }
        let documents: Vec<_> =
            envelopes.iter().map(|envelope| random.document(envelope)).collect();
        let answers = go.ask(documents.iter().map(|d| format!("D {}", hex(d))).collect());
        for (document, answer) in documents.iter().zip(&answers) {
            compare_decoding(document, answer, &mut seen);
        }
    }
    println!("{seen:?}");
    // The comparison means nothing if the generator leaves one of these ways untried.
    let least = ROUNDS * CASES_A_ROUND / 20;
    assert!(seen.encoded > least && seen.not_encoded > least, "{seen:?}");
    assert!(seen.decoded > least && seen.malformed > least && seen.invalid > least, "{seen:?}");
    assert!(seen.listed > 0, "{seen:?}");
}

#[derive(Default, Debug)]
struct Seen {
    encoded: usize,
    not_encoded: usize,
    decoded: usize,
    malformed: usize,
    invalid: usize,
    /// Differences that the module's table lists.
    listed: usize,
}

fn compare_encoding(envelope: &Envelope<'_>, answer: &str, seen: &mut Seen) {
    let case = || format!("{envelope:?} {:?}", String::from_utf8_lossy(&envelope.payload));
    let (kind, theirs) = parse(answer);
    match (envelope.to_vec(), (kind, theirs.as_str())) {
        (Ok(document), ("ok", theirs)) => {
            assert_eq!(hex(&document), theirs, "{}", case());
            seen.encoded += 1;
        }
        (Err(ours), ("ok", _)) => {
            let listed = matches!(
                ours,
                EnvelopeError::Untrimmed { .. } | EnvelopeError::PayloadNotJson { .. }
            ) || ours == EnvelopeError::PayloadRequired
                && envelope.payload.trim_ascii() == b"null";
            assert!(listed, "only we refuse: {ours}: {}", case());
            seen.listed += 1;
        }
        (Err(ours), ("error", theirs)) => {
            let ours = ours.to_string();
            // Where several things are wrong, ours may come first only if it is one of the listed ones.
            let same = match ours.strip_prefix("timestamp: ") {
                Some(reason) => theirs.ends_with(reason),
                None => ours == theirs || envelope.validate().is_ok(),
            };
            assert!(same, "{ours:?} is not {theirs:?}: {}", case());
            seen.not_encoded += 1;
        }
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}: {}", case()),
    }
}

fn compare_decoding(document: &[u8], answer: &str, seen: &mut Seen) {
    let case = || String::from_utf8_lossy(document).into_owned();
    let (kind, theirs) = parse(answer);
    match (Envelope::decode(document), (kind, theirs.as_str())) {
        (Ok(ours), ("ok", theirs)) => {
            assert_eq!(fields(&ours), theirs, "{}", case());
            seen.decoded += 1;
        }
        (Err(ours), ("ok", _)) => {
            assert!(is_listed(&ours, document), "only we refuse: {ours}: {}", case());
            seen.listed += 1;
        }
        (Err(ours @ DecodeError::Invalid(_)), ("error", theirs)) => {
            assert_eq!(ours.to_string(), theirs, "{}", case());
            seen.invalid += 1;
        }
        (Err(ours), ("error", theirs)) => {
            // What only we refuse is refused before the fields are looked at.
            let same = theirs == "failed to unmarshal envelope" || is_listed(&ours, document);
            assert!(same, "{ours} is not {theirs:?}: {}", case());
            seen.malformed += 1;
        }
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}: {}", case()),
    }
}

/// Whether the table of differences has a row for it.
fn is_listed(ours: &DecodeError, document: &[u8]) -> bool {
    match ours {
        DecodeError::NotUtf8 { .. } => std::str::from_utf8(document).is_err(),
        DecodeError::Malformed { at, expected: "the end" } => document[*at] == 0,
        DecodeError::Malformed { at, expected: "an integer of 64 bits" } => {
            let number = document[*at..].strip_prefix(b"-").unwrap_or(&document[*at..]);
            let digits = number.iter().take_while(|b| b.is_ascii_digit());
            digits.count() >= 19
        }
        DecodeError::Malformed { at, expected: "a number in the range of a float" } => {
            matches!(document[*at..], [b'-', b'0' | b'.', ..])
        }
        _ => false,
    }
}

/// What the Go side said: "ok" and fields or a document, or "error" and its text.
fn parse(answer: &str) -> (&str, String) {
    match answer.split_once(' ').unwrap() {
        ("error", text) => ("error", from_hex(text)),
        (kind, rest) => (kind, rest.to_string()),
    }
}

fn from_hex(hex: &str) -> String {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap()
}

/// The program in tests/golden, answering questions.
struct GoSide {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl GoSide {
    fn start() -> Option<Self> {
        Command::new("go").arg("version").output().ok()?;
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("golden");
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .env("GOFLAGS", "-mod=mod")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"))
            .status()
            .expect("go runs");
        assert!(built.success(), "the Go side does not build");
        let mut process = Command::new(program)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Go side starts");
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Some(Self { process, input, output })
    }

    /// One answer for each question, in order.
    fn ask(&mut self, questions: Vec<String>) -> Vec<String> {
        let count = questions.len();
        let input = &mut self.input;
        std::thread::scope(|scope| {
            // From another thread, so that neither side waits for the other to read.
            scope.spawn(move || {
                input.write_all((questions.join("\n") + "\n").as_bytes()).unwrap();
                input.flush().unwrap();
            });
            let lines = (&mut self.output).lines().take(count);
            let answers: Vec<_> = lines.map(|line| line.unwrap()).collect();
            assert_eq!(answers.len(), count, "the Go side has gone");
            answers
        })
    }
}

impl Drop for GoSide {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn fields(envelope: &Envelope<'_>) -> String {
    format!(
        "{} {} {} {} {} {} {} {} {} {} {}",
        hex(envelope.event_id.as_bytes()),
        hex(envelope.aggregate_id.as_bytes()),
        hex(envelope.event_type.as_bytes()),
        envelope.event_version,
        envelope.timestamp.unix_seconds(),
        envelope.timestamp.subsec_nanos(),
        envelope.timestamp.offset_minutes(),
        hex(envelope.trace_id.as_bytes()),
        hex(envelope.correlation_id.as_bytes()),
        envelope.tenant_id,
        hex(&envelope.payload),
    )
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_string();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn seed() -> u64 {
    match std::env::var("KL_SEED") {
        Ok(seed) => seed.parse().expect("KL_SEED is a number"),
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn text(&mut self) -> String {
        const PARTS: [&str; 32] = [
            "a",
            "Z",
            "9",
            "-",
            "_",
            ".",
            "/",
            ":",
            "order",
            " ",
            "\t",
            "\n",
            "\r",
            "\0",
            "\u{1f}",
            "\u{7f}",
            "\"",
            "\\",
            "<",
            ">",
            "&",
            "'",
            "é",
            "订单",
            "🦀",
            "\u{2028}",
            "\u{2029}",
            "\u{202a}",
            "\u{a0}",
            "\u{85}",
            "\u{fffd}",
            "\u{10ffff}",
        ];
        let length = self.below(8);
        (0..length).map(|_| self.pick(&PARTS)).collect()
    }

    fn id(&mut self) -> String {
        match self.below(12) {
            0 => self.text(),
            1 => format!("{}order-{}", self.pick(&["", " ", "\u{3000}"]), self.below(9)),
            2 => "x".repeat(250 + self.below(10)),
            _ => format!("order-{}/a.b:c_d", self.below(1000)),
        }
    }

    fn integer(&mut self) -> i64 {
        match self.below(12) {
            0 => 0,
            1 => -(self.below(100) as i64),
            2 => self.next() as i64,
            3 => self.pick(&[i64::MAX, i64::MIN]),
            _ => 1 + self.below(1000) as i64,
        }
    }

    fn timestamp(&mut self) -> Timestamp {
        let seconds = match self.below(8) {
            0 => self.pick(&[-62_135_596_800, -62_167_219_200, 253_402_300_799, -1, 0]),
            1 => self.pick(&[-62_167_219_201, 253_402_300_800]),
            // Any second from some hours before year 0 to some hours after year 9999.
            _ => -62_167_300_000 + (self.next() % 315_569_700_000) as i64,
        };
        let nanos = match self.below(4) {
            0 => 0,
            1 => 10_u32.pow(self.below(9) as u32) * self.below(10) as u32,
            _ => self.below(1_000_000_000) as u32,
        };
        let offset = match self.below(8) {
            0..4 => 0,
            4 => self.pick(&[1439, -1439, 1440, -1440, 1500]),
            _ => self.below(2880) as i16 - 1440,
        };
        Timestamp::from_unix(seconds, nanos).with_offset_minutes(offset)
    }

    fn space(&mut self) -> &'static str {
        if self.one_in(3) { self.pick(&[" ", "\n", "\t ", "\r\n"]) } else { "" }
    }

    fn json(&mut self, depth: usize, out: &mut String) {
        const SCALARS: [&str; 26] = [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1",
            "-17",
            "3.25",
            "1e5",
            "-2.5E-7",
            "0e9",
            "12345678901234567890",
            "0.1e38",
            "\"\"",
            "\"x\"",
            "\"\\u00e9\\n\\/\"",
            "\"\\ud83e\\udd80\"",
            "\"\\udd80\"",
            "\"<&>\"",
            "\"日本🦀\"",
            "\"a long text without any escape in it\"",
            "\"a longer text and \\\" one\"",
            "1e400",
            "0.5e39",
            "1E+308",
            "0.000",
        ];
        out.push_str(self.space());
        match self.below(if depth == 0 { 2 } else { 6 }) {
            0..=2 => out.push_str(self.pick(&SCALARS)),
            kind => {
                let object = kind < 5;
                out.push(if object { '{' } else { '[' });
                let count = self.below(4);
                for at in 0..count {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(self.space());
                    if object {
                        out.push_str(self.pick(&[
                            "\"a\"",
                            "\"\"",
                            "\"k\\u0065y\"",
                            "\"payload\"",
                            "\"日\"",
                        ]));
                        out.push_str(self.space());
                        out.push(':');
                    }
                    self.json(depth - 1, out);
                }
                out.push_str(self.space());
                out.push(if object { '}' } else { ']' });
            }
        }
        out.push_str(self.space());
    }

    fn payload(&mut self) -> Vec<u8> {
        let mut text = String::new();
        self.json(4, &mut text);
        let mut bytes = text.into_bytes();
        match self.below(12) {
            0 => self.spoil(&mut bytes),
            1 => bytes.clear(),
            _ => {}
        }
        bytes
    }

    fn envelope(&mut self) -> Envelope<'static> {
        let event_type = if self.one_in(4) { self.text() } else { "OrderPlaced".to_string() };
        let event_id = if self.one_in(8) { self.text() } else { "e-1".to_string() };
        let version = if self.one_in(4) { self.integer() } else { 1 };
        let mut envelope = Envelope::new(self.id(), event_type, version, self.payload())
            .with_event_id(event_id)
            .with_timestamp(self.timestamp());
        if self.one_in(2) {
            envelope = envelope.with_trace_id(self.text()).with_correlation_id(self.text());
        }
        if self.one_in(2) {
            envelope = envelope.with_tenant_id(self.integer());
        }
        envelope
    }

    /// A document that is an envelope, or almost.
    fn document(&mut self, envelope: &Envelope<'_>) -> Vec<u8> {
        let mut document =
            envelope.to_vec().unwrap_or_else(|_| self.written_by_hand().into_bytes());
        match self.below(4) {
            0 => {}
            1 => document = self.written_by_hand().into_bytes(),
            2 => self.spoil(&mut document),
            _ => {
                document = self.written_by_hand().into_bytes();
                self.spoil(&mut document);
            }
        }
        document
    }

    /// Fields in any order, in any case, repeated or of a wrong kind.
    fn written_by_hand(&mut self) -> String {
        const TIMES: [&str; 10] = [
            "\"2025-01-02T03:04:05Z\"",
            "\"2025-01-02T3:04:05.123456789123+05:30\"",
            "\"2025-01-02T03:04:05,5-23:60\"",
            "\"0000-02-29T00:00:00+24:00\"",
            "\"2025-02-30T03:04:05Z\"",
            "\"2025-01-02T03:04:05\"",
            "null",
            "\"2025-01-02T03:04:05.Z\"",
            "\"9999-12-31T23:59:59.5-24:60\"",
            "\"2025-01-02t03:04:05Z\"",
        ];
        const NUMBERS: [&str; 14] = [
            "1",
            "7",
            "0",
            "-3",
            "null",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "18446744073709551617",
            "21000000000000000000",
            "1.0",
            "1e1",
            "\"1\"",
            "01",
        ];
        const TEXTS: [&str; 14] = [
            "\"e\"",
            "\"order-1\"",
            "\" a \"",
            "null",
            "\"\"",
            "\"\\u0061\\n\"",
            "\"\\ud800\\u0041\"",
            "\"\\ud83e\\udd80\"",
            "\"\\n\t\"",
            "\"\\ud800\\ud800\\udc00\"",
            "1",
            "\"\\u003c\"",
            "\"日\"",
            "\"\t\"",
        ];
        const ODD: [&str; 16] = [
            "-01",
            "-.5",
            "-+5",
            "-.5e5",
            "-05e1",
            "-+.5e1",
            "--5",
            "{\"a\":1,null:2}",
            "{null:1}",
            "\"\\n\t\"",
            "[1,]",
            "01",
            "-01e999",
            "1e999",
            "-",
            "{\"a\":1,}",
        ];
        let usual = [
            ("event_id", "\"e\""),
            ("aggregate_id", "\"order-1\""),
            ("event_type", "\"t\""),
            ("event_version", "1"),
            ("payload", "{\"a\":[1,2]}"),
        ];
        let mut parts: Vec<String> =
            usual.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        if self.one_in(6) {
            parts.remove(self.below(usual.len()));
        }
        let extra = self.below(4);
        for _ in 0..extra {
            let name = self.pick(&[
                "event_id",
                "aggregate_id",
                "event_type",
                "event_version",
                "timestamp",
                "timestamp",
                "trace_id",
                "correlation_id",
                "tenant_id",
                "payload",
                "other",
                "event\\u005fid",
                "",
                "payl\toad",
            ]);
            let value = match name {
                _ if self.one_in(12) => self.pick(&ODD).to_string(),
                "event_version" | "tenant_id" => self.pick(&NUMBERS).to_string(),
                "timestamp" => self.pick(&TIMES).to_string(),
                "payload" | "other" if self.one_in(2) => self.pick(&ODD).to_string(),
                "payload" | "other" | "" => {
                    let mut value = String::new();
                    self.json(3, &mut value);
                    value
                }
                _ => self.pick(&TEXTS).to_string(),
            };
            let name = if self.one_in(3) { name.replace('e', "E") } else { name.to_string() };
            let at = self.below(parts.len() + 1);
            let (before, after) = (self.space(), self.space());
            parts.insert(at, format!("{before}\"{name}\"{after}:{value}"));
        }
        format!("{}{{{}}}{}", self.space(), parts.join(","), self.space())
    }

    /// Changes, adds or removes a few bytes.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        const BYTES: &[u8] = b"\"\"\\\\{}[]:,,.-+eE0019ntu \n\t\0\x1f\x80\xe2\xffaZ";
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.insert(at, self.pick(BYTES)),
                1 if at < bytes.len() => bytes[at] = self.pick(BYTES),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ if self.one_in(8) => bytes.truncate(at),
                _ => {}
            }
        }
    }
}
