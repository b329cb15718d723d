//! What a delivery costs the client: instructions, counted by callgrind, and allocations. Each as the difference of two
//! runs of different lengths, whatever starting costs.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Failed;
use crate::load::Load;
use crate::record::Recorder;

const ARMS: [&str; 8] = [
    "socket each",
    "raw none",
    "raw all",
    "raw each",
    "messages()",
    "keylane Checkpoint",
    "keylane Floor",
    "keylane Each",
];
const FEW: u64 = 15_000;
const MANY: u64 = 45_000;
/// About how long all of it takes.
pub const LENGTH: Duration = Duration::from_secs(300);

/// The child: one arm over so many records. Prints its allocations.
pub fn child(url: &str, loads: &[Load], arguments: &[String]) -> Result<(), Failed> {
    let [stream, arm, messages] = arguments else {
        return Err("--count STREAM ARM MESSAGES".into());
    };
    let messages = messages.parse()?;
    let before = keylane_bench_support::allocator::calls();
    if stream == crate::publish::load().stream {
        crate::publish::counted(url, arm, messages)?;
    } else {
        let load = loads.iter().find(|load| load.stream == stream).ok_or("no such stream")?;
        let load = Load { messages, ..load.clone() };
        let mut names = ARMS.into_iter().chain(["ruststream"]);
        let name = names.find(|name| name == arm).ok_or("no such arm")?;
        let mut arm = crate::consume::named(url, &load, name).ok_or("no such arm")?;
        (arm.run)(&format!("c{}", std::process::id()), Duration::from_secs(300))?;
    }
    println!("{}", keylane_bench_support::allocator::calls() - before);
    Ok(())
}

pub fn run(url: &str, recorder: &mut Recorder) -> Result<(), Failed> {
    let published = crate::publish::COUNTED.map(|counted| counted.0);
    for stream in ["P128", "K128", "H128", "R128", crate::publish::load().stream] {
        let arms: &[&str] = match stream {
            "PUB" => &published,
            "P128" => &ARMS,
            "K128" => &ARMS[1..],
            "H128" => &["raw each", "keylane Floor", "keylane Each"],
            _ => &["ruststream"],
        };
        for arm in arms {
            let [instructions, allocations] = one(url, stream, arm)?;
            recorder.put(&json!({
                "table": "count", "stream": stream, "arm": arm, "instructions": instructions,
                "allocations": allocations,
            }));
        }
    }
    Ok(())
}

fn one(url: &str, stream: &str, arm: &str) -> Result<[Value; 2], Failed> {
    let own = std::env::current_exe()?;
    // Of what waits for the server each time fewer are enough.
    let parts = if stream == crate::publish::load().stream { 5 } else { 1 };
    let [fewer, more] = [FEW / parts, MANY / parts];
    let each = |few: u64, many: u64| (many as f64 - few as f64) / (more - fewer) as f64;
    let count = |messages: u64| -> Result<u64, Failed> {
        let mut command = Command::new(&own);
        command.args(["--count", stream, arm, &messages.to_string()]).env("KL_NATS_URL", url);
        let output = command.output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.trim().parse().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?)
    };
    let allocations = json!((each(count(fewer)?, count(more)?) * 100.0).round() / 100.0);
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Ok([json!("not run: there is no valgrind"), allocations]);
    }
    let instructions = |messages: u64| -> Result<u64, Failed> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(&own);
        command.args(["--count", stream, arm, &messages.to_string()]).env("KL_NATS_URL", url);
        let said = command.output()?.stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        let line = said.lines().find(|line| line.contains("Collected :"));
        let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        Ok(number.ok_or(said)?)
    };
    let instructions = each(instructions(fewer)?, instructions(more)?).round();
    Ok([json!(instructions), allocations])
}
