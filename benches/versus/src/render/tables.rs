//! Which tables there are.

use serde_json::Value;

use super::Recorded;
use super::markdown::Table;
use crate::round::has_lanes;

/// Rounds below which a figure is not settled, and says so.
const SETTLED: u64 = 9;

/// Everything between the marks. `drawn` are the plots' paths and titles.
pub fn all(recorded: &Recorded, source: &str, drawn: &[(String, &str)]) -> String {
    let mut text = format!(
        "<!-- made by `cargo bench --bench versus -- --render`; edits are lost -->\n\n{}\n\n",
        run(recorded, source)
    );
    for (path, title) in drawn {
        text += &format!("![{title}]({path})\n\n");
    }
    text += &arms(recorded);
    for (handler, title) in [("noop", "no-op handler"), ("1us", "handler that works 1 µs")] {
        for draw in ["uniform", "zipf"] {
            let prefix = format!("{handler}/{draw}/");
            for (ratio, spread, way) in
                [("ratio", "spread", "submit"), ("batch_ratio", "batch_spread", "submit_batch")]
            {
                let title = format!(
                    "**{title}, {draw} keys: keylane's `{way}` ÷ peer** (bold: the whole interval is below 1)"
                );
                text += &ratios(recorded, &prefix, ratio, spread, &title);
            }
        }
    }
    text += &blocking(recorded, "/2w", "the same two threads for all");
    text += &blocking(recorded, "/own-best", "each arm as it likes it best");
    for of in ["slowest", "own"] {
        text += &latency(recorded, of);
    }
    text += &limits(recorded);
    text.trim_end().to_owned()
}

fn run(recorded: &Recorded, source: &str) -> String {
    let Some(run) = recorded.of("run").next() else { return String::new() };
    let word = |name: &str| run[name].as_str().unwrap_or("?").to_owned();
    format!(
        "Recorded {} at commit `{}`: {} with {} cores, Linux {}, {}, {}. Every line: `{source}`.",
        word("date"),
        word("commit"),
        word("cpu"),
        run["cores"],
        word("kernel"),
        word("rustc"),
        word("go"),
    )
}

/// Who takes part, and how fast each is where nothing but dispatch is asked for.
fn arms(recorded: &Recorded) -> String {
    let mut table = Table::new(&["arm", "handler threads", "uniform, M/s", "Zipf, M/s", "form"]);
    let of = |draw: &str| {
        let job = format!("noop/{draw}/burst-1/1p/1w");
        recorded.of("throughput").filter(move |line| line["job"] == job.as_str())
    };
    for line in of("uniform") {
        let zipf = of("zipf").find(|other| other["arm"] == line["arm"]);
        let cells = match line["not_run"].as_str() {
            Some(why) => [String::new(), String::new(), String::new(), format!("not run: {why}")],
            None => [
                line["threads"].to_string(),
                mega(line),
                zipf.map_or(String::new(), mega),
                text(&line["form"]),
            ],
        };
        let mut row = vec![called(&text(&line["arm"]))];
        row.extend(cells);
        table.row(&row);
    }
    table.titled("**Who takes part** (burst 1, one producer, one worker, 2,048 in flight; † one queue a worker, no lanes: what is slow or full there holds up all that the worker does)")
}

/// Records a second, in millions; or that it does not count.
fn mega(line: &Value) -> String {
    if line["disqualified"] == true {
        return format!("breaks order or loses ({})", line["violations"]);
    }
    line["msgs_per_s"].as_f64().map_or(String::new(), |rate| format!("{:.2}", rate / 1e6))
}

/// A table of all jobs whose name begins with `prefix`: a row a peer, a column a job.
fn ratios(recorded: &Recorded, prefix: &str, ratio: &str, spread: &str, title: &str) -> String {
    let lines = recorded.of("throughput").filter(|line| text(&line["job"]).starts_with(prefix));
    let mut jobs: Vec<String> = Vec::new();
    let mut arms: Vec<String> = Vec::new();
    for line in lines.clone() {
        let (job, arm) = (text(&line["job"]), text(&line["arm"]));
        if !jobs.contains(&job) {
            jobs.push(job);
        }
        if !arm.starts_with("keylane") && !arms.contains(&arm) {
            arms.push(arm);
        }
    }
    let shorts: Vec<String> = jobs
        .iter()
        .map(|job| job[prefix.len()..].replace('/', " ").replace("burst-", "burst "))
        .collect();
    let mut columns = vec!["peer"];
    columns.extend(shorts.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    // Those with lanes first.
    arms.sort_by_key(|arm| !has_lanes(arm));
    for arm in arms {
        let mut row = vec![called(&arm)];
        row.extend(jobs.iter().map(|job| {
            let line = lines
                .clone()
                .find(|line| line["job"] == job.as_str() && line["arm"] == arm.as_str());
            line.map_or(String::new(), |line| cell(line, ratio, spread))
        }));
        table.row(&row);
    }
    table.titled(title)
}

/// ` n=7` behind a figure of so few rounds, so that nobody takes it for settled.
fn few(line: &Value) -> String {
    let rounds = line["rounds"].as_u64().filter(|rounds| *rounds < SETTLED);
    rounds.map_or(String::new(), |rounds| format!(" n={rounds}"))
}

/// A ratio with its interval; bold if all of it is below 1, and that is settled.
fn cell(line: &Value, ratio: &str, spread: &str) -> String {
    if line["disqualified"] == true {
        return "disqualified".into();
    }
    let (Some(median), Some(low), Some(high)) =
        (line[ratio].as_f64(), line[spread][0].as_f64(), line[spread][1].as_f64())
    else {
        return "–".into();
    };
    let (cell, few) = (format!("{median:.2} [{low:.2}–{high:.2}]"), few(line));
    if high < 1.0 && few.is_empty() { format!("**{cell}**") } else { cell + &few }
}

fn blocking(recorded: &Recorded, suffix: &str, title: &str) -> String {
    let mut text_of_both = String::new();
    for draw in ["uniform", "zipf"] {
        let columns = ["arm", "handler threads", "M/s", "submit ÷ it", "submit_batch ÷ it", "form"];
        let mut table = Table::new(&columns);
        let job = format!("block/{draw}/burst-1/1p{suffix}");
        for line in recorded.of("throughput").filter(|line| line["job"] == job.as_str()) {
            let arm = text(&line["arm"]);
            if let Some(why) = line["not_run"].as_str() {
                let none = String::new;
                table.row(&[arm, none(), none(), none(), none(), format!("not run: {why}")]);
                continue;
            }
            let own = arm.starts_with("keylane");
            let ratio = |ratio: &str, spread: &str| {
                if own { String::new() } else { cell(line, ratio, spread) }
            };
            table.row(&[
                called(&arm),
                line["threads"].to_string(),
                mega(line),
                ratio("ratio", "spread"),
                ratio("batch_ratio", "batch_spread"),
                text(&line["form"]),
            ]);
        }
        let title = format!("**1 in 1,000 blocks for 1 ms, {draw} keys: {title}**");
        text_of_both += &table.titled(&title);
    }
    text_of_both
}

fn latency(recorded: &Recorded, of: &str) -> String {
    let columns = ["arm", "10 %", "50 %", "80 %", "max of all"];
    let mut table = Table::new(&columns);
    let lines = recorded.of("latency").filter(|line| line["of"] == of);
    let mut arms: Vec<&Value> = Vec::new();
    for line in lines.clone() {
        if !arms.contains(&&line["arm"]) {
            arms.push(&line["arm"]);
        }
    }
    for arm in arms {
        let mut most = 0.0_f64;
        let mut row = vec![text(arm)];
        row.extend([0.1, 0.5, 0.8].map(|share| {
            let line = lines.clone().find(|line| &line["arm"] == arm && line["share"] == share);
            let Some(line) = line else { return String::new() };
            most = most.max(line["max_ns"].as_f64().unwrap_or(0.0));
            let micros = ["p50_ns", "p99_ns", "p999_ns"].map(|name| micros(&line[name]));
            let rate = line["rate"].as_f64().unwrap_or(0.0) / 1e3;
            let wrong = if line["violations"] == 0 { "" } else { " (breaks order or loses)" };
            format!("{} ({rate:.0} k/s){wrong}", micros.join(" / "))
        }));
        row.push(format!("{:.0}", most / 1e3));
        table.row(&row);
    }
    let whose =
        if of == "slowest" { "the slowest arm's capacity" } else { "each arm's own capacity" };
    let least = lines.filter_map(|line| line["rounds"].as_u64()).min();
    let few = least.map_or(String::new(), |least| few(&serde_json::json!({ "rounds": least })));
    table.titled(&format!(
        "**Latency at shares of {whose}**: p50 / p99 / p99.9 in µs, open loop from the intended time (at rate){few}"
    ))
}

fn limits(recorded: &Recorded) -> String {
    let mut all = String::new();

    let mut table = Table::new(&["lane", "ns", "line transfers"]);
    for line in recorded.of("hop").filter(|line| line.get("lane").is_some()) {
        table.row(&[text(&line["lane"]), figure(line, "ns", 0), figure(line, "floors", 2)]);
    }
    all += &table.titled(
        "**One way, submit → handler, p50, beside half a ping-pong of the same two threads**",
    );

    let mut table = Table::new(&["parked worker, ns", "bare unpark, ns", "ratio"]);
    for line in recorded.of("wake").filter(|line| line.get("ratio").is_some()) {
        let bare = figure(line, "bare_ns", 0);
        table.row(&[figure(line, "ours_ns", 0), bare, figure(line, "ratio", 2)]);
    }
    all += &table.titled("**Wake of a parked worker**");

    let mut table = Table::new(&["handler", "p50, ns", "p99, ns"]);
    for line in recorded.of("successor") {
        table.row(&[text(&line["handler"]), figure(line, "p50_ns", 0), figure(line, "p99_ns", 0)]);
    }
    all += &table.titled("**From the end of a key's record to its successor's start**");

    let mut table = Table::new(&["the bad key", "other keys' p50", "other keys' p99"]);
    for line in recorded.of("isolation") {
        let (p50, p99) = (figure(line, "p50_ratio", 2), figure(line, "p99_ratio", 2));
        table.row(&[text(&line["trouble"]), p50, p99]);
    }
    all += &table.titled("**One bad key: latency of the others, with it ÷ without it**");

    let mut table = Table::new(&["arm", "makespan ÷ ideal", "form"]);
    for line in recorded.of("skew") {
        table.row(&[text(&line["arm"]), figure(line, "over_ideal", 2), text(&line["form"])]);
    }
    all += &table.titled("**Skewed keys (5,890 × 9, 100 × 100, 10 × 1,000 records), 30 at once**");

    let mut table = Table::new(&["a swap every 1,000 records"]);
    for line in recorded.of("swap") {
        table.row(&[format!("time × {}", figure(line, "time_ratio", 3))]);
    }
    all += &table.titled("**What a swap costs**");

    let mut table = Table::new(&["workers, producers, lanes", "submit, M/s", "submit_batch, M/s"]);
    let curves = recorded.of("curves").filter(|line| line["arm"] == "keylane");
    for line in curves {
        let same = |other: &&Value| {
            other["arm"] != line["arm"]
                && ["workers", "producers", "lanes"].iter().all(|name| other[*name] == line[*name])
        };
        let batch = recorded.of("curves").find(same);
        table.row(&[
            format!("{}, {}, {}", line["workers"], line["producers"], line["lanes"]),
            figure(line, "mega_per_s", 2),
            batch.map_or(String::new(), |batch| figure(batch, "mega_per_s", 2)),
        ]);
    }
    all + &table.titled("**Workers, producers, lanes**")
}

/// A figure of a line, with its interval.
fn figure(line: &Value, name: &str, places: usize) -> String {
    let figure = &line[name];
    let (Some(median), Some(low), Some(high)) =
        (figure["median"].as_f64(), figure["spread"][0].as_f64(), figure["spread"][1].as_f64())
    else {
        return "–".into();
    };
    format!("{median:.places$} [{low:.places$}–{high:.places$}]{}", few(line))
}

fn micros(nanos: &Value) -> String {
    nanos.as_f64().map_or("–".into(), |nanos| {
        let micros = nanos / 1e3;
        if micros < 100.0 { format!("{micros:.1}") } else { format!("{micros:.0}") }
    })
}

/// A peer that has no lanes is marked.
fn called(arm: &str) -> String {
    if has_lanes(arm) { arm.to_owned() } else { format!("{arm} †") }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn few_rounds_are_marked_and_settle_nothing() {
        let line = |rounds: u64| json!({ "ratio": 0.5, "spread": [0.4, 0.6], "rounds": rounds });
        assert_eq!(cell(&line(9), "ratio", "spread"), "**0.50 [0.40–0.60]**");
        assert_eq!(cell(&line(7), "ratio", "spread"), "0.50 [0.40–0.60] n=7");
        let line = |rounds: u64| json!({ "ns": { "median": 3.0, "spread": [2.0, 4.0] }, "rounds": rounds });
        assert_eq!(figure(&line(9), "ns", 0), "3 [2–4]");
        assert_eq!(figure(&line(3), "ns", 0), "3 [2–4] n=3");
        let lines = [json!({ "table": "latency", "of": "own", "arm": "kanal", "rounds": 5 })];
        let recorded = Recorded(lines.to_vec());
        assert!(latency(&recorded, "own").contains("(at rate) n=5"));
    }
}
