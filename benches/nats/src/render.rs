//! PERFORMANCE.md's section and plots, from a record.

use std::fmt::Write;
use std::fs;

use serde_json::Value;

use crate::server::root;
use crate::{Failed, record, svg};

const BEGIN: &str = "<!-- nats:begin -->";
const END: &str = "<!-- nats:end -->";

/// Renders the newest record. Of what was measured more than once the last counts.
pub fn render() -> Result<(), Failed> {
    let files = fs::read_dir(record::results())?.filter_map(|entry| Some(entry.ok()?.path()));
    let jsonl = files.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
    let path = jsonl.max().ok_or("there is no record; run the bench first")?;
    let text = fs::read_to_string(&path)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let plots = root().join("docs/plots");
    fs::create_dir_all(&plots)?;
    let mut pictures = String::new();
    for (name, title, picture) in svg::all(&lines) {
        fs::write(plots.join(name), picture)?;
        let _ = writeln!(pictures, "![{title}](docs/plots/{name})\n");
    }
    let source = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
    let whole = fs::read_to_string(root().join("PERFORMANCE.md"))?;
    let (before, rest) = whole.split_once(BEGIN).ok_or("PERFORMANCE.md has no place for it")?;
    let (_, after) = rest.split_once(END).ok_or("PERFORMANCE.md has no end of its place")?;
    let tables = tables(&lines, &source);
    fs::write(
        root().join("PERFORMANCE.md"),
        format!("{before}{BEGIN}\n{tables}{pictures}{END}{after}"),
    )?;
    Ok(())
}

/// The last line of each kind of measurement, in the order of their first.
pub fn newest<'a>(lines: &'a [Value], table: &str, by: &[&str]) -> Vec<&'a Value> {
    let mut kept: Vec<&Value> = Vec::new();
    for line in lines.iter().filter(|line| line["table"] == table) {
        match kept.iter_mut().find(|other| by.iter().all(|name| other[*name] == line[*name])) {
            Some(other) => *other = line,
            None => kept.push(line),
        }
    }
    kept
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or_else(|| text(value), |value| format!("{value:.digits$}"))
}

fn tables(lines: &[Value], source: &str) -> String {
    let mut out = String::from(
        "<!-- made by `cargo run --release -p keylane-nats-bench -- --render`; edits are lost -->\n",
    );
    let _ = writeln!(out, "Recorded in `{source}`:\n");
    for run in newest(lines, "run", &["command"]) {
        let _ = writeln!(
            out,
            "- `{}` at commit {}, {} cores ({}), {}, {}; load before: {}",
            text(&run["command"]),
            text(&run["commit"]),
            run["cores"],
            text(&run["cpu"]),
            text(&run["rustc"]),
            text(&run["server"]),
            number(&run["load"], 1),
        );
    }
    out += "\nA ratio is the median over the rounds, with its range from the tenth to the ninetieth percent in brackets.\n\n";
    out += "| load and way | ours | beside | rounds | ratio | goal | |\n|---|---|---|--:|--:|--:|---|\n";
    for line in newest(lines, "ratio", &["group", "ours", "rival"]) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} [{}–{}] | {} | {} |",
            text(&line["group"]),
            text(&line["ours"]),
            text(&line["rival"]),
            line["rounds"],
            number(&line["median"], 2),
            number(&line["low"], 2),
            number(&line["high"], 2),
            number(&line["goal"], 2),
            verdict(&line["verdict"]),
        );
    }
    out += &rates(lines);
    out += &latencies(lines);
    out += &counts(lines);
    out
}

fn verdict(verdict: &Value) -> String {
    let verdict = text(verdict);
    if verdict == "missed" { "**missed**".to_owned() } else { verdict }
}

/// Every arm beside the raw loop of its group.
fn rates(lines: &[Value]) -> String {
    let mut out = String::from(
        "\nThe arms' medians, as parts of the raw loop's of their group:\n\n| load and way | arms |\n|---|---|\n",
    );
    let rates = newest(lines, "rate", &["group", "arm"]);
    let mut groups: Vec<&Value> = Vec::new();
    rates.iter().for_each(|line| {
        if !groups.contains(&&line["group"]) {
            groups.push(&line["group"]);
        }
    });
    for group in groups {
        let of: Vec<_> = rates.iter().filter(|line| line["group"] == *group).collect();
        let raw = of.iter().find(|line| {
            matches!(text(&line["arm"]).as_str(), "raw" | "raw none" | "raw all" | "raw each")
        });
        let Some(raw) = raw.and_then(|line| line["per_s"].as_f64()) else { continue };
        let cells: Vec<String> = of
            .iter()
            .map(|line| {
                let part = line["per_s"].as_f64().unwrap_or(f64::NAN) / raw;
                format!("{} {part:.2}", text(&line["arm"]))
            })
            .collect();
        let _ = writeln!(out, "| {} | {} |", text(group), cells.join(" · "));
    }
    out
}

fn latencies(lines: &[Value]) -> String {
    let mut out = String::new();
    let all = newest(lines, "latency", &["share", "arm"]);
    if all.is_empty() {
        return out;
    }
    out += "\nFrom the moment a record was meant to be published to its handler, in an open loop, as parts of the raw loop's own \
            (the publisher sleeps between its turns, which both sides wait for), and what the bus adds to the median:\n\n\
            | of the capacity | p50 | p99 | p99.9 | added to p50, µs | goal | |\n|--:|--:|--:|--:|--:|--:|---|\n";
    for added in newest(lines, "added", &["share"]) {
        let side = |arm: &str| {
            all.iter().find(|line| line["share"] == added["share"] && line["arm"] == arm)
        };
        let (Some(raw), Some(ours)) = (side("raw each"), side("keylane Each")) else { continue };
        let part = |name: &str| match (ours[name].as_f64(), raw[name].as_f64()) {
            (Some(ours), Some(raw)) => format!("{:.2}", ours / raw),
            _ => "–".to_owned(),
        };
        let _ = writeln!(
            out,
            "| {:.0} % | {} | {} | {} | {} [{}–{}] | {} | {} |",
            added["share"].as_f64().unwrap_or(0.0) * 100.0,
            part("p50_us"),
            part("p99_us"),
            part("p999_us"),
            number(&added["median_us"], 1),
            number(&added["low_us"], 1),
            number(&added["high_us"], 1),
            number(&added["goal_us"], 1),
            verdict(&added["verdict"]),
        );
    }
    out
}

fn counts(lines: &[Value]) -> String {
    let all = newest(lines, "count", &["stream", "arm"]);
    if all.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nInstructions and allocations of the client a delivery, all its threads together (callgrind, and a counting \
         allocator; differences of two lengths):\n\n| arm | key in | instructions | allocations |\n|---|---|--:|--:|\n",
    );
    for line in all {
        let key = match line["stream"].as_str() {
            Some("K128") => "subject",
            Some("H128" | "R128") => "header",
            _ => "–",
        };
        let _ = writeln!(
            out,
            "| {} | {key} | {} | {} |",
            text(&line["arm"]),
            number(&line["instructions"], 0),
            number(&line["allocations"], 2),
        );
    }
    out += "\n";
    out
}
