//! PERFORMANCE.md's section and plots, from a record.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::server::root;
use crate::{Failed, record, summary, svg};

const BEGIN: &str = "<!-- nats:begin -->";
const END: &str = "<!-- nats:end -->";

/// Renders this record, or the newest, into this page, or PERFORMANCE.md. Of what was measured more than once the last
/// counts.
pub fn render(record: Option<PathBuf>, page: Option<PathBuf>) -> Result<(), Failed> {
    let path = match record {
        Some(path) => path,
        None => newest_record()?,
    };
    let text = fs::read_to_string(&path)?;
    // The last line of a run that was cut may be half of one.
    let lines: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let lines = summary::of(&lines);
    let (page, plots, whole) = match page {
        Some(page) => {
            let plots = page.parent().unwrap_or(&page).join("docs/plots");
            (page, plots, format!("{BEGIN}\n{END}\n"))
        }
        None => {
            let page = root().join("PERFORMANCE.md");
            let whole = fs::read_to_string(&page)?;
            (page, root().join("docs/plots"), whole)
        }
    };
    fs::create_dir_all(&plots)?;
    let mut pictures = String::new();
    for (name, title, picture) in svg::all(&lines) {
        fs::write(plots.join(name), picture)?;
        let _ = writeln!(pictures, "![{title}](docs/plots/{name})\n");
    }
    let source = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
    let (before, rest) = whole.split_once(BEGIN).ok_or("the page has no place for it")?;
    let (_, after) = rest.split_once(END).ok_or("the page has no end of its place")?;
    let tables = tables(&lines, &source);
    fs::write(page, format!("{before}{BEGIN}\n{tables}{pictures}{END}{after}"))?;
    Ok(())
}

fn newest_record() -> Result<PathBuf, Failed> {
    let files = fs::read_dir(record::results())?.filter_map(|entry| Some(entry.ok()?.path()));
    let jsonl = files.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
    Ok(jsonl.max().ok_or("there is no record; run the bench first")?)
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
    out += "\nA ratio is the median over the rounds, with its range from the tenth to the ninetieth percent in brackets. Slices from \
            which other machines took more than 1 % of the processor were repeated: *discarded* says how many.\n\n";
    out += "| load and way | ours | beside | rounds | discarded | ratio | goal | |\n|---|---|---|--:|--:|--:|--:|---|\n";
    for line in newest(lines, "ratio", &["group", "ours", "rival"]) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} [{}–{}] | {} | {} |",
            text(&line["group"]),
            text(&line["ours"]),
            text(&line["rival"]),
            line["rounds"],
            slices(&line["discarded"]),
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
    match verdict.as_str() {
        Some("missed") => "**missed**".to_owned(),
        Some(verdict) => verdict.to_owned(),
        None => String::new(),
    }
}

fn slices(discarded: &Value) -> String {
    discarded.as_u64().map_or_else(|| "–".to_owned(), |slices| slices.to_string())
}

/// Every arm beside the first raw loop of its group.
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
        let raw = of.iter().find(|line| text(&line["arm"]).starts_with("raw"));
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
    out += "\nFrom the moment a record was meant to be published to its handler, in an open loop at a part of the capacity \
            (confirmed publishing beside the consumer, of the slower side of the two); medians, in µs. *To the store*: until the \
            server stamped it, the publisher's sleep between its turns included. *From the store*: until its handler began. Of \
            that, *runtime*: from the consume loop's hand-over to the handler; the rest is the server's, \
            the client's and the bus' reading.\n\n\
            | of the capacity | side | p50 | p99 | p99.9 | to the store | from the store | runtime | runtime p99 |\n\
            |--:|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for line in &all {
        let cell = |name: &str| match &line[name] {
            Value::Null => "–".to_owned(),
            value => number(value, 1),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            share(line),
            text(&line["arm"]),
            cell("p50_us"),
            cell("p99_us"),
            cell("p999_us"),
            cell("to_store_us"),
            cell("from_store_us"),
            cell("runtime_us"),
            cell("runtime_p99_us"),
        );
    }
    out += "\nWhat is added to the median: by the runtime, and by the whole bus over the raw loop, µs:\n\n\
            | of the capacity | by | rounds | discarded | added | goal | |\n|--:|---|--:|--:|--:|--:|---|\n";
    for added in newest(lines, "added", &["share", "what"]) {
        let goal =
            added["goal_us"].as_f64().map_or_else(|| "–".to_owned(), |goal| format!("{goal:.1}"));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} [{}–{}] | {goal} | {} |",
            share(added),
            // An older record tells of the bus alone.
            added["what"].as_str().unwrap_or("bus"),
            added["rounds"],
            slices(&added["discarded"]),
            number(&added["median_us"], 1),
            number(&added["low_us"], 1),
            number(&added["high_us"], 1),
            verdict(&added["verdict"]),
        );
    }
    out
}

fn share(line: &Value) -> String {
    format!("{:.0} %", line["share"].as_f64().unwrap_or(0.0) * 100.0)
}

fn counts(lines: &[Value]) -> String {
    let all = newest(lines, "count", &["stream", "arm"]);
    if all.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nInstructions and allocations of the client a delivery or a confirmed publish, all its threads together (callgrind, and a counting \
         allocator; differences of two lengths):\n\n| arm | key in | instructions | allocations |\n|---|---|--:|--:|\n",
    );
    for line in all {
        let key = match line["stream"].as_str() {
            Some("K128" | "PUB") => "subject",
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
