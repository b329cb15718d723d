//! The Go pool, in a child process: driven round by round over its standard input, on which it blocks while others
//! run. Without `go` it does not take part.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;

use crate::arm::{About, Shape};
use crate::round::{Load, Measured, Paced};
use crate::sink::Verdict;

/// Goroutines and channels; slots of each.
const WORKERS: usize = 256;
const SLOTS: usize = 1_000;

/// How messages get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Submit many; two messages a key are used again and again, nobody waits for a result.
    Reused,
    /// Submit many; a message, a result channel, headers, a copy of the key and a look at the clock for each.
    Built,
    /// As [`Mode::Built`], and the submitter waits for each result.
    Wait,
    /// Submit many; a new message each, and nothing else: what latency is measured with.
    New,
}

impl Mode {
    /// Those whose throughput is measured.
    pub const ALL: [Self; 3] = [Self::Reused, Self::Built, Self::Wait];

    pub fn name(self) -> &'static str {
        match self {
            Self::Reused => "go-pool-reused",
            Self::Built => "go-pool-built",
            Self::Wait => "go-pool-wait",
            Self::New => "go-pool-new",
        }
    }

    fn word(self) -> &'static str {
        self.name().trim_start_matches("go-pool-")
    }

    pub fn about(self, _: &Shape) -> Result<About, String> {
        child()?;
        let way = match self {
            Self::Reused => "messages reused (2 a key), no result",
            Self::Built => {
                "message, result channel, headers, key and time made for each, results not waited for"
            }
            Self::Wait => "made for each, each result waited for",
            Self::New => "a new message each, no result",
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let form = format!(
            "{WORKERS} goroutines with a channel of {SLOTS} each, GOMAXPROCS {threads}; {way}"
        );
        Ok(About { threads, form })
    }
}

struct Link {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The load that the child has, by its address and length: loads live as long as their rounds.
    loaded: Option<(usize, usize)>,
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn child() -> Result<&'static Mutex<Link>, String> {
    static CHILD: OnceLock<Result<Mutex<Link>, String>> = OnceLock::new();
    CHILD.get_or_init(|| start().map(Mutex::new)).as_ref().map_err(Clone::clone)
}

fn start() -> Result<Link, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let program: PathBuf = program.with_file_name("keylane-versus-go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .env("GOFLAGS", "-mod=readonly")
        .output()
        .map_err(|_| "go is not installed".to_owned())?;
    if !built.status.success() {
        return Err(format!("go build failed: {}", String::from_utf8_lossy(&built.stderr).trim()));
    }
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("the Go child does not start: {error}"))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(input), Some(output)) = (input, output) else {
        return Err("the Go child has no pipes".into());
    };
    Ok(Link { child, input, output: BufReader::new(output), loaded: None })
}

impl Link {
    fn load(&mut self, load: &Load) -> Result<(), String> {
        let identity = (load.streams.as_ptr() as usize, load.streams[0].len());
        if self.loaded == Some(identity) {
            return Ok(());
        }
        let lengths: Vec<String> =
            load.streams.iter().map(|stream| stream.len().to_string()).collect();
        let mut bytes = format!("load {}\n", lengths.join(" ")).into_bytes();
        for item in load.streams.iter().flatten() {
            bytes.extend(item.word().to_le_bytes());
        }
        self.input.write_all(&bytes).map_err(gone)?;
        self.loaded = Some(identity);
        Ok(())
    }

    fn ask(&mut self, mode: Mode, load: &Load, rate: f64) -> Result<Value, String> {
        self.load(load)?;
        let handle = load.job.handle.name();
        let command = format!(
            "run {} {WORKERS} {SLOTS} {handle} {} {}\n",
            mode.word(),
            load.warm,
            rate.round() as u64
        );
        self.input.write_all(command.as_bytes()).map_err(gone)?;
        self.input.flush().map_err(gone)?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(gone)?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|error| format!("the Go child said {line:?}: {error}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }
}

fn gone(error: std::io::Error) -> String {
    format!("the Go child is gone: {error}")
}

fn ask(mode: Mode, load: &Load, rate: f64) -> Result<Value, String> {
    child()?.lock().map_err(|_| "a round before failed".to_owned())?.ask(mode, load, rate)
}

fn verdict(answer: &Value) -> Verdict {
    let field = |name: &str| answer[name].as_u64().unwrap_or(u64::MAX);
    Verdict { disordered: field("disordered"), lost: field("lost") }
}

/// A round of the child's.
pub fn run(mode: Mode, load: &Load) -> Result<Measured, String> {
    let answer = ask(mode, load, 0.0)?;
    let rate = answer["rate"].as_f64().ok_or("the Go child named no rate")?;
    Ok(Measured { rate, verdict: verdict(&answer) })
}

/// A round of the child's at a fixed rate.
pub fn paced(mode: Mode, load: &Load, rate: f64) -> Result<Paced, String> {
    let answer = ask(mode, load, rate)?;
    let field = |name: &str| answer[name].as_u64().unwrap_or(0);
    let [p50, p99, p999, most] = ["p50", "p99", "p999", "max"].map(field);
    Ok(Paced { p50, p99, p999, most, verdict: verdict(&answer) })
}
