//! Figures as JSON lines.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use keylane_bench_support::machine::{self, said};
use serde_json::{Value, json};

use crate::Failed;

/// Prints lines, and keeps them in a file.
pub struct Recorder {
    file: Option<File>,
    lines: Vec<Value>,
}

impl Recorder {
    /// One that only prints, or also appends to a file.
    pub fn new(path: Option<&Path>) -> Result<Self, Failed> {
        let lines = Vec::new();
        let Some(path) = path else { return Ok(Self { file: None, lines }) };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = Some(File::options().append(true).create(true).open(path)?);
        Ok(Self { file, lines })
    }

    pub fn put(&mut self, line: &Value) {
        println!("{line}");
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{line}")
        {
            eprintln!("a line is not recorded: {error}");
        }
        self.lines.push(line.clone());
    }

    /// Prints in short what the lines since the last time say.
    pub fn sum_up(&mut self) {
        for line in &crate::summary::of(&self.lines)[self.lines.len()..] {
            println!("{line}");
        }
        self.lines.clear();
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
pub fn describe(arguments: &str, server: &str) -> Value {
    json!({
        "table": "run",
        "date": said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "commit": said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        "command": format!("cargo run --release -p keylane-nats-bench -- {arguments}").trim(),
        "cpu": machine::cpu(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "load": machine::load(),
        "rustc": said("rustc", &["--version"]),
        "server": server,
        "kernel": machine::kernel(),
    })
}
