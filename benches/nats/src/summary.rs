//! From the rounds of a record to what they say: medians, ranges, verdicts. Made anew whenever they are shown, so that a
//! record of a run that was cut says as much as it holds.

use serde_json::{Value, json};

use crate::stats::{Ratio, quantile};

/// Fewer rounds than this say nothing of a goal.
const ENOUGH: usize = 15;

/// A record's lines with those of the rounds behind them in short.
pub fn of(lines: &[Value]) -> Vec<Value> {
    let mut runs: Vec<Vec<&Value>> = vec![Vec::new()];
    for line in lines {
        if line["table"] == "run" {
            runs.push(Vec::new());
        }
        if let Some(run) = runs.last_mut() {
            run.push(line);
        }
    }
    let mut out = Vec::new();
    for run in runs {
        let mut done: Vec<[&Value; 2]> = Vec::new();
        for line in &run {
            out.push((*line).clone());
        }
        for line in &run {
            let group = [&line["group"], &line["share"]];
            let made: fn(&[&Value]) -> Vec<Value> = match line["table"].as_str() {
                Some("round") => rates,
                Some("latency round") => latencies,
                _ => continue,
            };
            if done.contains(&group) {
                continue;
            }
            done.push(group);
            let same = |other: &&&Value| {
                other["table"] == line["table"] && [&other["group"], &other["share"]] == group
            };
            let rounds: Vec<&Value> = run.iter().filter(same).copied().collect();
            out.extend(made(&rounds));
        }
    }
    out
}

/// The rounds that count, and how many slices were thrown away.
fn kept<'a>(rounds: &[&'a Value]) -> (Vec<&'a Value>, u64) {
    let discarded = |round: &&Value| {
        round["discarded"].as_u64().unwrap_or(0) + u64::from(round["stolen"] == true)
    };
    let all = rounds.iter().map(discarded).sum();
    (rounds.iter().filter(|round| round["stolen"] != true).copied().collect(), all)
}

fn verdict(rounds: usize, of: &'static str) -> &'static str {
    if rounds < ENOUGH { "too few rounds" } else { of }
}

fn rates(rounds: &[&Value]) -> Vec<Value> {
    let (kept, discarded) = kept(rounds);
    let Some(first) = kept.first() else { return Vec::new() };
    let of = |arm: &Value| -> Vec<f64> {
        let rate = |round: &&Value| {
            let place = round["arms"].as_array()?.iter().position(|other| other == arm)?;
            round["per_s"][place].as_f64()
        };
        kept.iter().filter_map(rate).collect()
    };
    let mut out = Vec::new();
    for arm in first["arms"].as_array().into_iter().flatten() {
        let rates = of(arm);
        let [low, median, high] = [0.1, 0.5, 0.9].map(|part| quantile(&rates, part).round());
        out.push(json!({
            "table": "rate", "group": first["group"], "arm": arm, "rounds": rates.len(),
            "per_s": median, "low": low, "high": high,
        }));
    }
    for goal in first["goals"].as_array().into_iter().flatten() {
        let pairs: Vec<_> = of(&goal[0]).into_iter().zip(of(&goal[1])).collect();
        if pairs.is_empty() {
            continue; // nothing of that name ran
        }
        let ratio = Ratio::of(&pairs.iter().map(|(ours, rival)| ours / rival).collect::<Vec<_>>());
        let least = goal[2].as_f64().unwrap_or(f64::NAN);
        out.push(json!({
            "table": "ratio", "group": first["group"], "ours": goal[0], "rival": goal[1], "goal": goal[2],
            "rounds": pairs.len(), "discarded": discarded, "median": ratio.median, "low": ratio.low,
            "high": ratio.high, "verdict": verdict(pairs.len(), ratio.verdict(least)),
        }));
    }
    out
}

/// What each arm's figures are called.
const PARTS: [&str; 7] =
    ["p50_us", "p99_us", "p999_us", "to_store_us", "from_store_us", "runtime_us", "runtime_p99_us"];

fn latencies(rounds: &[&Value]) -> Vec<Value> {
    let (kept, discarded) = kept(rounds);
    let Some(first) = kept.first() else { return Vec::new() };
    let share = &first["share"];
    let of = |arm: &str, part: &str| -> Vec<f64> {
        kept.iter().filter_map(|round| round[arm][part].as_f64()).collect()
    };
    let mut out = Vec::new();
    for arm in ["raw each", "keylane Each"] {
        let mut line =
            json!({ "table": "latency", "share": share, "arm": arm, "rounds": kept.len() });
        for part in PARTS {
            let values = of(arm, part);
            if !values.is_empty() {
                line[part] = json!(quantile(&values, 0.5));
            }
        }
        out.push(line);
    }
    let added = |what: &str, values: &[f64], goal: Option<f64>| {
        let range = Ratio::of(values);
        let said = goal.map(|most| verdict(values.len(), range.at_most(most)));
        json!({
            "table": "added", "what": what, "share": share, "rounds": values.len(), "goal_us": goal,
            "discarded": discarded, "median_us": range.median, "low_us": range.low,
            "high_us": range.high, "verdict": said,
        })
    };
    out.push(added("runtime", &of("keylane Each", "runtime_us"), first["goal_us"].as_f64()));
    let pairs = of("keylane Each", "p50_us").into_iter().zip(of("raw each", "p50_us"));
    out.push(added("bus", &pairs.map(|(ours, raw)| ours - raw).collect::<Vec<_>>(), None));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ours: f64, stolen: bool) -> Value {
        json!({
            "table": "round", "group": "g", "arms": ["raw", "ours"], "per_s": [100.0, ours],
            "goals": [["ours", "raw", 0.95], ["ours", "absent", 1.0]], "discarded": 1, "stolen": stolen,
        })
    }

    #[test]
    fn the_rounds_of_a_run_are_its_ratio() {
        let mut lines = vec![json!({ "table": "run" }), round(1.0, false)];
        lines.push(json!({ "table": "run" }));
        lines.extend((0..15).map(|_| round(97.0, false)));
        lines.push(round(9_999.0, true));
        let out = of(&lines);
        let ratios: Vec<_> = out.iter().filter(|line| line["table"] == "ratio").collect();
        assert_eq!(ratios.len(), 2, "one a run; a rival that did not run has none");
        assert_eq!(ratios[0]["verdict"], "too few rounds");
        let last = ratios[1];
        assert_eq!((&last["median"], &last["verdict"]), (&json!(0.97), &json!("met")));
        assert_eq!((&last["rounds"], &last["discarded"]), (&json!(15), &json!(17)));
    }

    #[test]
    fn what_the_runtime_adds_is_told_from_what_the_bus_adds() {
        let round = json!({
            "table": "latency round", "share": 0.5, "goal_us": 5.0, "discarded": 0, "stolen": false,
            "raw each": { "p50_us": 40.0 }, "keylane Each": { "p50_us": 55.0, "runtime_us": 6.0 },
        });
        let lines = vec![round; 15];
        let out = of(&lines);
        let added: Vec<_> = out.iter().filter(|line| line["table"] == "added").collect();
        assert_eq!(
            (&added[0]["what"], &added[0]["verdict"]),
            (&json!("runtime"), &json!("missed"))
        );
        assert_eq!((&added[1]["what"], &added[1]["median_us"]), (&json!("bus"), &json!(15.0)));
        assert_eq!(added[1]["verdict"], Value::Null, "no goal, no verdict");
    }
}
