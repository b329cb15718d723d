//! keylane beside what a user would pick instead. See README.md for what is measured and how.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

mod arm;
mod arms;
mod check;
mod histogram;
mod latency;
mod limits;
mod load;
mod machine;
mod options;
mod record;
mod render;
mod round;
mod sink;
mod stats;
mod throughput;

use std::process::ExitCode;

use mimalloc::MiMalloc;

use crate::options::Options;
use crate::record::Recorder;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    if let Some(file) = &options.render {
        return ended(render::render(file.as_deref()));
    }
    if let Some(file) = &options.check {
        return ended(
            check::check(file).map(|lines| println!("{lines} arms and jobs, each complete")),
        );
    }
    let mut recorder = match Recorder::new(options.record_to().as_deref(), options.json) {
        Ok(recorder) => recorder,
        Err(error) => {
            eprintln!("cannot record: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.quick {
        let watch = machine::Watch::begin();
        throughput::quick(&options, &mut recorder);
        let (seconds, others) = watch.end();
        let others = others.map_or("?".to_owned(), |share| format!("{:.0}", share * 100.0));
        eprintln!("quick: {seconds:.1} s, others had {others} % of the processors");
    } else {
        full(&options, &mut recorder);
    }
    ExitCode::SUCCESS
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// What measures one part and puts its lines.
type Part = fn(&Options, &mut Recorder);

/// Everything, or the parts that were asked for.
fn full(options: &Options, recorder: &mut Recorder) {
    let described = machine::describe();
    recorder.put(&described, "");
    if described["load"].as_f64() > Some(0.5) {
        eprintln!(
            "the machine is busy (load {}): these figures are not for the record",
            described["load"]
        );
    }
    let parts: [(&str, Part); 10] = [
        ("throughput", throughput::full),
        ("blocking", throughput::blocking),
        ("latency", latency::full),
        ("hop", limits::hop::full),
        ("wake", limits::wake::full),
        ("curves", limits::curves::full),
        ("skew", limits::skew::full),
        ("isolation", limits::isolation::full),
        ("successor", limits::successor::full),
        ("swap", limits::swap::full),
    ];
    for (name, part) in parts {
        if options.wants(name) {
            let begin = std::time::Instant::now();
            part(options, recorder);
            eprintln!("{name}: {:.0} s", begin.elapsed().as_secs_f64());
        }
    }
}
