//! An example, built as this test is: with its features and in its profile.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of an example. Cargo puts examples beside the tests' folder; whether the one that lies there has our features
/// only cargo knows, and it waits for whoever else builds there: `KL_EXAMPLES=built` says that they were, just before.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in deps");
    let program = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if std::env::var_os("KL_EXAMPLES").is_some_and(|value| value == "built") {
        assert!(program.exists(), "{} was not built", program.display());
        return program;
    }
    let built_as = match profile.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", name, "--profile", built_as])
        .args(["--features", &features().join(",")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.expect("cargo runs").success() && program.exists(), "{}", program.display());
    program
}

fn features() -> Vec<&'static str> {
    [
        ("serde", cfg!(feature = "serde")),
        ("tokio", cfg!(feature = "tokio")),
        ("metrics", cfg!(feature = "metrics")),
        ("tracing", cfg!(feature = "tracing")),
        ("nats", cfg!(feature = "nats")),
        ("testing", cfg!(feature = "testing")),
        ("internals", cfg!(feature = "internals")),
        ("loom", cfg!(feature = "loom")),
    ]
    .into_iter()
    .filter_map(|(name, on)| on.then_some(name))
    .collect()
}
