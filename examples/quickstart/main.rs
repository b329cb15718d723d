//! A month of real flights through one runtime: every aircraft's events in order, different aircraft
//! in parallel, nothing lost, and a checker that knows nothing of the runtime to say so.
//!
//! `job.rs` is all there is of keylane in it, with `server.rs` and `outbox.rs` for a bus over a server; the rest reads flights, judges and reports.

mod args;
mod board;
mod checker;
mod csv;
mod event;
mod flights;
mod instant;
mod job;
mod latency;
mod outbox;
mod pace;
mod progress;
mod report;
mod run;
#[cfg(feature = "nats")]
mod server;
mod style;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use args::Args;
use event::Timeline;
use flights::{ReadError, Tally};
use job::Job;
use pace::Pace;
use report::Report;
use run::Run;
use style::Style;

static JANUARY: &[u8] = include_bytes!("../data/flights-2013-01.csv.gz");

/// How long the paced pass takes on a terminal.
const PACED_SECONDS: f64 = 5.0;

fn main() -> ExitCode {
    match real_main() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(refusal) => {
            eprintln!("quickstart: {refusal}");
            ExitCode::from(2)
        }
    }
}

/// Whether order and completeness held; an error if it did not come to a run.
fn real_main() -> Result<bool, String> {
    let args = Args::parse(std::env::args_os().skip(1)).map_err(in_words)?;
    if args.help {
        print(args::HELP);
        return Ok(true);
    }
    let style = if args.json { Style::default() } else { Style::of_stdout() };
    let (source, timeline) = read(&args)?;
    show_bad_rows(&source, &timeline.tally);
    let paces = paces(&args, style, timeline.events.len());
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = args.workers.map_or(cores, |workers| workers.get());
    let run = Arc::new(Run::new(timeline, &paces, threads));
    let job = Job::start(&args, &run).map_err(in_words)?;

    let published = progress::shown_while(&run, style, || {
        let publish =
            |topic, key: Option<&str>, id, payload: &[u8]| job.publish(topic, key, id, payload);
        run.publish(publish, || job.flush())
    });
    let (took, mut trouble) = match published {
        Ok(took) => (took, None),
        Err(error) => (Vec::new(), Some(format!("publishing failed: {error}"))),
    };
    let reconnects = job.reconnects();
    let load = match job.close(args.keep) {
        Ok(load) => load,
        Err(error) => {
            trouble.get_or_insert(format!("closing failed: {error}"));
            job::Load { workers: 0, lanes: Vec::new() }
        }
    };

    let verdict = run.checker.verdict();
    let report = Report {
        source: &source,
        run: &run,
        took: &took,
        verdict,
        workers: load.workers,
        lanes: &load.lanes,
        reconnects,
        trouble,
    };
    print(&if args.json { report.json() + "\n" } else { report.text(style) });
    Ok(report.holds())
}

fn in_words(error: impl Display) -> String {
    error.to_string()
}

/// The flights' source in words, and their events.
fn read(args: &Args) -> Result<(String, Timeline), String> {
    let Some(path) = &args.file else {
        let timeline = Timeline::read(JANUARY).map_err(in_words)?;
        return Ok(("New York's departures of January 2013".to_owned(), timeline));
    };
    let source = path.display().to_string().escape_debug().to_string();
    let timeline = File::open(path).map_err(ReadError::Io).and_then(Timeline::read);
    match timeline {
        Ok(timeline) => Ok((source, timeline)),
        Err(error) => Err(format!("{source} {error}")),
    }
}

/// Says on standard error which rows were skipped, and why.
fn show_bad_rows(source: &str, tally: &Tally) {
    for row in &tally.bad {
        eprintln!("{source}: skipped {row}");
    }
    let more = tally.bad_rows.saturating_sub(tally.bad.len() as u64);
    if more > 0 {
        eprintln!("{source}: skipped {} more", style::thousands(more));
    }
}

/// As the command line says; for someone watching, a paced pass and a fast one.
fn paces(args: &Args, style: Style, events: usize) -> Vec<Pace> {
    match args.rate {
        Some(rate) => vec![Pace::PerSecond(rate)],
        None if style.terminal && events > 0 => {
            vec![Pace::PerSecond(events as f64 / PACED_SECONDS), Pace::FlatOut]
        }
        None => vec![Pace::FlatOut],
    }
}

/// Prints to standard output. If nobody reads it, the exit status still tells.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
