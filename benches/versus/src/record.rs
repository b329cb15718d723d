//! Figures as JSON lines: printed, and recorded.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::round::{Duel, Job, Table, has_lanes};

/// Where lines go.
pub struct Recorder {
    file: Option<File>,
    json: bool,
}

impl Recorder {
    pub fn new(path: Option<&Path>, json: bool) -> io::Result<Self> {
        let file = match path {
            None => None,
            Some(path) => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                Some(File::create(path)?)
            }
        };
        Ok(Self { file, json })
    }

    /// Says what comes next, to a person.
    pub fn title(&self, words: &str) {
        if !self.json {
            println!("{words}");
        }
    }

    /// Records a line; prints it, or in words what it says.
    pub fn put(&mut self, line: &Value, words: &str) {
        if self.json {
            println!("{line}");
        } else if !words.is_empty() {
            println!("{words}");
        }
        if let Some(file) = &mut self.file {
            writeln!(file, "{line}").expect("the record can be written");
        }
    }
}

/// A job's lines: keylane's own two, then one for each peer.
pub fn throughput(job: &Job, table: &Table) -> Vec<Value> {
    let mut lines = vec![own(job, &table.ours), own(job, &table.batch)];
    lines.extend(table.peers.iter().map(|peer| match peer {
        Ok(duel) => against(job, duel),
        Err((arm, why)) => {
            json!({ "table": "throughput", "arm": arm, "job": job.name(), "not_run": why })
        }
    }));
    lines
}

fn own(job: &Job, duel: &Duel) -> Value {
    if duel.rates.is_empty() {
        let why = "there is no round with a peer that counts";
        return json!({ "table": "throughput", "arm": duel.name, "job": job.name(), "not_run": why });
    }
    let mut line = line(job, duel);
    let rate = duel.rate();
    let [low, high] = crate::stats::interval(&duel.rates);
    line["ratio"] = 1.0.into();
    // Of its own rate, since its ratio to itself has none.
    line["spread"] = json!([round(low / rate), round(high / rate)]);
    line
}

fn against(job: &Job, duel: &Duel) -> Value {
    let mut line = line(job, duel);
    if duel.violations > 0 {
        line["disqualified"] = true.into();
        line["ratio"] = Value::Null;
        line["spread"] = Value::Null;
        return line;
    }
    let ((ratio, spread), (batch, batch_spread)) = (duel.ratio(), duel.batch_ratio());
    line["ratio"] = round(ratio).into();
    line["spread"] = json!(spread.map(round));
    line["batch_ratio"] = round(batch).into();
    line["batch_spread"] = json!(batch_spread.map(round));
    line
}

fn line(job: &Job, duel: &Duel) -> Value {
    json!({
        "table": "throughput",
        "arm": duel.name,
        "job": job.name(),
        "msgs_per_s": duel.rate().round(),
        "violations": duel.violations,
        "rounds": duel.rates.len(),
        "discarded": duel.discarded,
        "threads": duel.about.threads,
        "lanes": has_lanes(duel.name),
        "form": duel.about.form,
    })
}

/// To three places after the point.
pub fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
