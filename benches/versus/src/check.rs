//! Whether the lines of a quick run say what they must.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::round::everybody;

const JOBS: [&str; 2] = ["noop/uniform/burst-1/1p/1w", "noop/zipf/burst-1/1p/1w"];

/// Every arm has a line for every job, and every line is complete.
pub fn check(path: &Path) -> Result<usize, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut seen = HashSet::new();
    for (number, text) in text.lines().enumerate() {
        let complaint = |what: String| format!("line {}: {what}: {text}", number + 1);
        let line: Value =
            serde_json::from_str(text).map_err(|error| complaint(error.to_string()))?;
        let (arm, job) = line_of(&line).map_err(complaint)?;
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
            "arm": "kanal", "job": JOBS[0], "msgs_per_s": 1e6, "ratio": 1.5, "spread": [1.2, 1.9], "violations": 0
        });
        assert!(line_of(&good).is_ok());
        assert!(line_of(&json!({ "arm": "kanal", "job": JOBS[0], "not_run": "why" })).is_ok());
        for name in ["arm", "job", "msgs_per_s", "ratio", "spread", "violations"] {
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
        let ours = with("arm", json!("keylane"));
        assert!(ours.is_err(), "keylane's own ratio is 1");
    }
}
