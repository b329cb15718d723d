//! Figures as JSON lines.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Failed;

/// Prints lines, and keeps them in a file.
pub struct Recorder(Option<File>);

impl Recorder {
    /// One that only prints, or also appends to a file.
    pub fn new(path: Option<&Path>) -> Result<Self, Failed> {
        let Some(path) = path else { return Ok(Self(None)) };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(Self(Some(File::options().append(true).create(true).open(path)?)))
    }

    pub fn put(&mut self, line: &Value) {
        println!("{line}");
        if let Some(file) = &mut self.0
            && let Err(error) = writeln!(file, "{line}")
        {
            eprintln!("a line is not recorded: {error}");
        }
    }
}

/// Where records are kept.
pub fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

/// Today's record.
pub fn today() -> PathBuf {
    let date = said("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(|| "undated".to_owned());
    results().join(format!("{date}.jsonl"))
}

/// What the figures are of.
pub fn describe(arguments: &str) -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    json!({
        "table": "run",
        "date": said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "commit": said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        "command": format!("cargo run --release -p keylane-nats-bench -- {arguments}").trim(),
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "load": load,
        "rustc": said("rustc", &["--version"]),
        "server": std::env::var("KL_NATS_VERSION").unwrap_or_else(|_| "nats-server 2.15.1".to_owned()),
    })
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
