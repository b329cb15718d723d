//! keylane beside what a user would pick instead. See README.md for what is measured and how.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

mod arm;
mod arms;
mod histogram;
mod load;
mod machine;
mod options;
mod record;
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
    let mut recorder = match Recorder::new(options.record.as_deref(), options.json) {
        Ok(recorder) => recorder,
        Err(error) => {
            eprintln!("cannot record: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.quick {
        throughput::quick(&options, &mut recorder);
    }
    ExitCode::SUCCESS
}
