//! What the command line says.

use std::path::PathBuf;

use crate::machine::said;
use crate::render::results;

/// Shown with a complaint.
pub const USAGE: &str = "usage: cargo bench --bench versus -- [OPTION…]
  --quick            no-op, uniform and Zipf, one producer: under a minute
  --json             lines of JSON instead of words
  --rounds N         turns of each peer with keylane (9; quick: 5)
  --arms NAME,…      these peers alone
  --only PART,…      throughput, blocking, latency, hop, wake, curves, skew, isolation, successor, swap
  --record FILE      where lines go (full runs: benches/versus/results/DATE.jsonl)
  --render [FILE]    measures nothing: tables and plots of PERFORMANCE.md from FILE, or from the newest record
  --check FILE       measures nothing: whether FILE is what `--quick --json` must print";

/// What is to be done.
#[derive(Debug, Default)]
pub struct Options {
    pub quick: bool,
    pub json: bool,
    pub rounds: Option<usize>,
    pub only: Option<Vec<String>>,
    pub arms: Option<Vec<String>>,
    pub record: Option<PathBuf>,
    /// Render, and from which file.
    pub render: Option<Option<PathBuf>>,
    pub check: Option<PathBuf>,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut value = |name: &str| arguments.next().ok_or(format!("{name} needs a value"));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--rounds" => {
                    let rounds = value("--rounds")?.parse().ok().filter(|rounds| *rounds > 0);
                    options.rounds = Some(rounds.ok_or("--rounds needs a number from 1")?);
                }
                "--only" => {
                    let parts: Vec<String> =
                        value("--only")?.split(',').map(str::to_owned).collect();
                    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str()))
                    {
                        return Err(format!("no part is called {unknown}"));
                    }
                    options.only = Some(parts);
                }
                "--arms" => {
                    options.arms = Some(value("--arms")?.split(',').map(str::to_owned).collect());
                }
                "--record" => options.record = Some(value("--record")?.into()),
                "--check" => options.check = Some(value("--check")?.into()),
                "--render" => {
                    let file = arguments.next_if(|file| !file.starts_with("--"));
                    options.render = Some(file.map(PathBuf::from));
                }
                // What cargo adds.
                "--bench" => {}
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }

    /// Where lines are recorded: a whole run's under its date.
    pub fn record_to(&self) -> Option<PathBuf> {
        let whole = !self.quick && self.only.is_none() && self.arms.is_none();
        self.record.clone().or_else(|| {
            let date = whole.then(|| said("date", &["-u", "+%Y-%m-%d"])).flatten()?;
            Some(results().join(format!("{date}.jsonl")))
        })
    }

    /// Whether a part of the full run is wanted.
    pub fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|wanted| wanted == part))
    }
}

const PARTS: [&str; 10] = [
    "throughput",
    "blocking",
    "latency",
    "hop",
    "wake",
    "curves",
    "skew",
    "isolation",
    "successor",
    "swap",
];
