//! Whether the lines of a quick run say what they must.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::round::everybody;

/// Rounds that a line has, at least, unless others had the processor in some.
const ROUNDS: u64 = 5;

const JOBS: [&str; 2] = ["noop/uniform/burst-1/1p/1w", "noop/zipf/burst-1/1p/1w"];

/// Every arm has a line for every job, and every line is complete. Says which have fewer rounds than they should,
/// since others had the processor.
pub fn check(path: &Path) -> Result<usize, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut seen = HashSet::new();
    for (number, text) in text.lines().enumerate() {
        let complaint = |what: String| format!("line {}: {what}: {text}", number + 1);
        let line: Value =
            serde_json::from_str(text).map_err(|error| complaint(error.to_string()))?;
        let (arm, job) = line_of(&line).map_err(complaint)?;
        if let Some(rounds) = line["rounds"].as_u64().filter(|rounds| *rounds < ROUNDS) {
            let stolen = &line["discarded"];
            println!("{arm} {job}: {rounds} rounds, others had the processor in {stolen} more");
        }
        if !seen.insert((arm, job)) {
            return Err(complaint("twice the same arm and job".into()));
        }
    }
    let arms = ["keylane", "keylane-batch"]
        .into_iter()
        .chain(everybody().into_iter().map(|who| who.name()));
    for arm in arms {
        for job in JOBS {
            if !seen.contains(&(arm.to_owned(), job.to_owned())) {
                return Err(format!("no line for {arm} and {job}"));
            }
        }
    }
    Ok(seen.len())
}

/// The arm and the job of a line that is complete.
fn line_of(line: &Value) -> Result<(String, String), String> {
    let word = |name: &str| line[name].as_str().map(str::to_owned).ok_or(format!("no `{name}`"));
    let named = (word("arm")?, word("job")?);
    if line.get("not_run").is_some() {
        word("not_run")?;
        return Ok(named);
    }
    let number = |value: &Value, name: &str| {
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or(format!("`{name}` is not a positive number"))
    };
    number(&line["msgs_per_s"], "msgs_per_s")?;
    let count = |name: &str| line[name].as_u64().ok_or(format!("no `{name}`"));
    let (rounds, discarded) = (count("rounds")?, count("discarded")?);
    if rounds < ROUNDS && (rounds == 0 || rounds + discarded < ROUNDS) {
        return Err(format!("{rounds} rounds and {discarded} discarded: at least {ROUNDS}"));
    }
    let violations = line["violations"].as_u64().ok_or("no `violations`")?;
    let ours = named.0.starts_with("keylane");
    if violations > 0 {
        if ours {
            return Err(format!("{violations} violations of our own"));
        }
        return match line["disqualified"] == true && line["ratio"].is_null() {
            true => Ok(named),
            false => Err("violations, and yet it takes part".into()),
        };
    }
    let ratio = number(&line["ratio"], "ratio")?;
    let (low, high) =
        (number(&line["spread"][0], "spread")?, number(&line["spread"][1], "spread")?);
    if ours && ratio != 1.0 {
        return Err("our ratio to ourselves is not 1".into());
    }
    if low > ratio || ratio > high {
        return Err("the ratio is outside its spread".into());
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_that_lack_something_are_refused() {
        let good = json!({
            "arm": "kanal", "job": JOBS[0], "msgs_per_s": 1e6, "ratio": 1.5, "spread": [1.2, 1.9], "violations": 0,
            "rounds": 5, "discarded": 0
        });
        assert!(line_of(&good).is_ok());
        assert!(line_of(&json!({ "arm": "kanal", "job": JOBS[0], "not_run": "why" })).is_ok());
        let all =
            ["arm", "job", "msgs_per_s", "ratio", "spread", "violations", "rounds", "discarded"];
        for name in all {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(name);
            assert!(line_of(&bad).is_err(), "without {name}");
        }
        let with = |name: &str, value: Value| {
            let mut line = good.clone();
            line[name] = value;
            line_of(&line)
        };
        assert!(with("spread", json!([1.6, 1.9])).is_err());
        assert!(with("violations", json!(3)).is_err());
        assert!(with("msgs_per_s", json!(0)).is_err());
        assert!(with("rounds", json!(4)).is_err(), "too few, and nobody stole any");
        let mut stolen = good.clone();
        (stolen["rounds"], stolen["discarded"]) = (json!(4), json!(1));
        assert!(line_of(&stolen).is_ok());
        let ours = with("arm", json!("keylane"));
        assert!(ours.is_err(), "keylane's own ratio is 1");
    }
}
