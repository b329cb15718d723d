//! The keys that are shown: those that hold others up, those that are parked, those that are busiest.

use std::collections::HashMap;
use std::time::Duration;

use keylane_top::view::View;
use serde_json::Value;

/// Rows that are kept.
const MOST: usize = 500;
/// Snapshots show so many bytes of a key that is not parked.
const CUT: usize = 64;

/// What tells a row from others.
pub type Identity = (String, Option<Vec<u8>>);

/// A key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub id: Identity,
    pub lane: Option<u32>,
    /// Why it is busy.
    pub why: Option<String>,
    /// How many records have followed it to the dead letters, if it is parked, and why it is.
    pub parked: Option<(u64, String)>,
    pub waiting: usize,
    pub held_for: Duration,
    pub attempt: u32,
    /// Its part of all attempts.
    pub share: f64,
}

impl Row {
    /// The key as a person may read it.
    pub fn key(&self) -> String {
        match &self.id.1 {
            None => "(no key)".into(),
            Some(key) if self.is_cut() => format!("{}…", key.escape_ascii()),
            Some(key) => key.escape_ascii().to_string(),
        }
    }

    /// Whether there may be more of the key than is known.
    pub fn is_cut(&self) -> bool {
        self.parked.is_none() && self.id.1.as_ref().is_some_and(|key| key.len() >= CUT)
    }

    /// What is the matter with it.
    pub fn state(&self) -> String {
        let parked = self.parked.as_ref().map(|(followed, error)| match &self.why {
            Some(_) => format!("parked, {followed} followed"),
            None => format!("parked, {followed} followed: {error}"),
        });
        let parts: Vec<_> = parked.into_iter().chain(self.why.clone()).collect();
        if parts.is_empty() { "free".into() } else { parts.join("; ") }
    }

    /// What stands first: what holds others up, then what is parked, then what fails, then what is busiest.
    fn rank(&self) -> (u8, usize, f64) {
        let group = match self {
            Self { waiting: 1.., .. } => 0,
            Self { parked: Some(_), .. } => 1,
            Self { attempt: 2.., .. } => 2,
            _ => 3,
        };
        (group, self.waiting, self.share)
    }
}

/// The rows of a snapshot.
pub fn rows(view: &View) -> Vec<Row> {
    let mut rows: HashMap<Identity, Row> = HashMap::new();
    for busy in &view.busy {
        let row = entry(&mut rows, &busy.subscription, busy.key.as_ref());
        if row.why.is_none() || busy.waiting >= row.waiting {
            row.lane = Some(busy.lane);
            row.why = Some(why(&busy.why, busy.bound.as_ref()));
            (row.waiting, row.held_for) = (busy.waiting, busy.held_for);
            row.attempt = busy.attempt;
        }
    }
    for subscription in &view.subscriptions {
        for parked in &subscription.parked {
            let row = entry(&mut rows, &subscription.name, Some(&parked.key));
            row.parked = Some((parked.followed, parked.error.clone()));
        }
    }
    for busiest in &view.busiest {
        let row = entry(&mut rows, &busiest.subscription, busiest.key.as_ref());
        row.share = busiest.share;
        row.lane = row.lane.or(Some(busiest.lane));
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by(|a, b| {
        let ((a_group, a_waiting, a_share), (b_group, b_waiting, b_share)) = (a.rank(), b.rank());
        (a_group.cmp(&b_group))
            .then(b_waiting.cmp(&a_waiting))
            .then(b_share.total_cmp(&a_share))
            .then_with(|| a.id.cmp(&b.id))
    });
    rows.truncate(MOST);
    rows
}

fn entry<'a>(
    rows: &'a mut HashMap<Identity, Row>,
    subscription: &str,
    key: Option<&Vec<u8>>,
) -> &'a mut Row {
    let id = (subscription.to_owned(), key.cloned());
    rows.entry(id.clone()).or_insert_with(|| Row { id, ..Row::default() })
}

/// Why a key is busy, in words: `"Sync"`, or `{"Retry":{"after":…,"error":"…"}}`.
fn why(why: &Value, bound: Option<&Value>) -> String {
    let (name, about) = match why {
        Value::String(name) => (name.as_str(), None),
        Value::Object(fields) => match fields.iter().next() {
            Some((name, about)) => (name.as_str(), Some(about)),
            None => ("busy", None),
        },
        _ => ("busy", None),
    };
    let detail = |field: &str| about.and_then(|about| about.get(field));
    let text = match name {
        "Sync" => "a sync handler runs".to_owned(),
        "Future" => "its future is pending".to_owned(),
        "Blocking" => "a blocking handler runs".to_owned(),
        "WaitsForThread" => "it waits for a thread to block".to_owned(),
        "Parked" => "its records wait for the dead letters".to_owned(),
        "DeadLetter" => {
            let sends = detail("sends").and_then(Value::as_u64).unwrap_or(0);
            format!("not taken by the dead letters, {sends} sends")
        }
        "Retry" => {
            let error = detail("error").and_then(Value::as_str).unwrap_or("it failed");
            let after = detail("after")
                .and_then(|after| serde_json::from_value::<Duration>(after.clone()).ok())
                .unwrap_or_default();
            format!("retry in {:.1} s: {error}", after.as_secs_f64())
        }
        other => other.to_owned(),
    };
    match bound {
        Some(bound) => format!("{text}; holds up its lane: {}", bound_name(bound)),
        None => text,
    }
}

/// A bound's name: `"KeyWaiting"`; or an object with the name in `bound`, and what holds it.
pub fn bound_name(bound: &Value) -> String {
    let Value::Object(fields) = bound else {
        return bound.as_str().map_or_else(|| bound.to_string(), str::to_owned);
    };
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    let key = fields.get("key").and_then(|key| serde_json::from_value::<Vec<u8>>(key.clone()).ok());
    let key = key.map(|key| key.escape_ascii().to_string());
    let held = [text("subscription"), text("source"), key.as_deref()];
    let held: Vec<_> = held.into_iter().flatten().collect();
    let name = text("bound").unwrap_or("a bound");
    if held.is_empty() { name.to_owned() } else { format!("{name} ({})", held.join(" ")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(json: &str) -> Vec<(String, String)> {
        let view: View = serde_json::from_str(json).unwrap();
        rows(&view).iter().map(|row| (row.key(), row.state())).collect()
    }

    #[test]
    fn what_holds_others_up_stands_first_and_says_why() {
        let json = r#"{"busiest":[{"subscription":"s","key":[104],"lane":1,"share":0.5},
                {"subscription":"s","key":[98],"lane":2,"share":0.1}],
            "subscriptions":[{"name":"s","parked":[{"key":[112],"error":"no luck","followed":3}]}],
            "busy":[{"subscription":"s","key":[98],"lane":2,"waiting":4,"attempt":2,"new":1,
                "why":{"Retry":{"after":{"secs":1,"nanos":500000000},"error":"down"}},
                "held_for":{"secs":9,"nanos":0},"bound":"KeyWaiting"},
                {"subscription":"s","key":[255],"lane":2,"waiting":0,"why":{"Blocking":{"waits":true}}}]}"#;
        let rows = shown(json);
        let row = |key: &str, state: &str| (key.to_owned(), state.to_owned());
        assert_eq!(rows[0], row("b", "retry in 1.5 s: down; holds up its lane: KeyWaiting"));
        assert_eq!(rows[1], row("p", "parked, 3 followed: no luck"));
        assert_eq!(rows[2], row("h", "free"));
        assert_eq!(rows[3], row("\\xff", "a blocking handler runs"));
        assert_eq!(rows.len(), 4);
    }

    #[test]
    fn unknown_and_missing_fields_are_no_harm() {
        assert!(shown("{}").is_empty());
        let rows = shown(
            r#"{"busy":[{"why":{"New":7},"bound":{"bound":"SourceWindow","source":"a/0","key":[107]}}]}"#,
        );
        assert_eq!(rows[0].0, "(no key)");
        assert_eq!(rows[0].1, "New; holds up its lane: SourceWindow (a/0 k)");
    }
}
