//! `cargo bench --bench versus`: builds and runs the workspace member `keylane-versus`, which measures keylane
//! beside its peers. It is no bench of the library's own, so that nobody else builds those peers.

use std::env::{args_os, var_os};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // `cargo test --all-targets` runs benches as well, without this.
    if !args_os().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let cargo = var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--package", "keylane-versus", "--"])
        .args(args_os().skip(1).filter(|argument| argument != "--bench"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}
