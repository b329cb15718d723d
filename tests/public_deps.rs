//! The crates that our public signatures name are those that ci/public-deps.txt lists.
//!
//! Reads what rustdoc writes as JSON, whose path is in `KL_RUSTDOC_JSON`; `ci/public-deps.sh` makes it.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read is a failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::{env, fs};

use serde_json::Value;

/// Always there, and as stable as the language.
const STD: &[&str] = &["std", "core", "alloc", "proc_macro"];

#[test]
#[ignore = "needs rustdoc's JSON: run ci/public-deps.sh"]
fn public_signatures_name_listed_crates_only() {
    let json = env::var("KL_RUSTDOC_JSON").unwrap();
    let doc: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let list =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ci/public-deps.txt")).unwrap();
    let listed: BTreeSet<&str> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let found = public_crates(&doc);
    for (name, place) in &found {
        println!("{name}: named by {place}");
    }
    let unlisted: Vec<_> =
        found.iter().filter(|(name, _)| !listed.contains(name.as_str())).collect();
    assert!(
        unlisted.is_empty(),
        "crates in public signatures that ci/public-deps.txt lacks: {unlisted:?}"
    );
    let unused: Vec<_> = listed.iter().filter(|name| !found.contains_key(**name)).collect();
    assert!(
        unused.is_empty(),
        "ci/public-deps.txt lists crates that no public signature names: {unused:?}"
    );
}

/// The foreign crates that the documented items name, each with one item that does.
fn public_crates(doc: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (id, item) in doc["index"].as_object().unwrap() {
        let ours = item["crate_id"] == 0;
        // What a foreign crate implements for every type, and what the compiler derives, is not our word.
        let implementation = &item["inner"]["impl"];
        let foreign =
            !implementation["blanket_impl"].is_null() || implementation["is_synthetic"] == true;
        if ours && !foreign {
            let mut ids = BTreeSet::new();
            named(&item["inner"], &mut ids);
            for used in ids {
                let Some(krate) = doc["paths"][&used]["crate_id"].as_u64().filter(|id| *id != 0)
                else {
                    continue;
                };
                let name = doc["external_crates"][krate.to_string()]["name"].as_str().unwrap();
                if !STD.contains(&name) {
                    let place = item["name"].as_str().or(doc["paths"][id]["path"][0].as_str());
                    let place =
                        place.map_or_else(|| format!("an item in {}", item["span"]), str::to_owned);
                    found.entry(name.to_owned()).or_insert(place);
                }
            }
        }
    }
    found
}

/// The ids that paths (`{"path", "id", ..}`) and re-exports (`{"source", "id", ..}`) carry.
fn named(value: &Value, ids: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if (fields.contains_key("path") || fields.contains_key("source"))
                && let Some(id) = fields.get("id").and_then(Value::as_u64)
            {
                ids.insert(id.to_string());
            }
            fields.values().for_each(|value| named(value, ids));
        }
        Value::Array(values) => values.iter().for_each(|value| named(value, ids)),
        _ => {}
    }
}

#[test]
fn finds_crates_behind_signatures_impls_and_reexports() {
    let doc = serde_json::json!({
        "index": {
            "1": {"crate_id": 0, "name": "payload", "inner": {"function": {"sig": {"output":
                {"resolved_path": {"path": "Vec", "id": 100, "args": {"angle_bracketed": {"args":
                    [{"type": {"resolved_path": {"path": "Bytes", "id": 101, "args": null}}}]}}}}}}}},
            "2": {"crate_id": 0, "name": null, "span": null, "inner": {"impl": {"is_synthetic": false,
                "blanket_impl": null, "trait": {"path": "Serialize", "id": 102, "args": null}}}},
            "3": {"crate_id": 0, "name": null, "inner": {"impl": {"is_synthetic": false,
                "blanket_impl": {"generic": "T"}, "trait": {"path": "Downcast", "id": 103}}}},
            "4": {"crate_id": 0, "name": "own", "inner": {"use": {"source": "crate::Own", "id": 1}}},
            "5": {"crate_id": 0, "name": "Guard", "inner": {"use": {"source": "lock::Guard", "id": 104}}},
            "6": {"crate_id": 3, "name": "theirs", "inner": {"use": {"source": "x::Y", "id": 103}}},
        },
        "paths": {
            "1": {"crate_id": 0, "path": ["keylane", "payload"]},
            "100": {"crate_id": 1, "path": ["alloc", "vec", "Vec"]},
            "101": {"crate_id": 2, "path": ["bytes", "Bytes"]},
            "102": {"crate_id": 3, "path": ["serde", "Serialize"]},
            "103": {"crate_id": 4, "path": ["downcast", "Downcast"]},
            "104": {"crate_id": 5, "path": ["lock", "Guard"]},
        },
        "external_crates": {
            "1": {"name": "alloc"}, "2": {"name": "bytes"}, "3": {"name": "serde"},
            "4": {"name": "downcast"}, "5": {"name": "lock"},
        },
    });
    assert_eq!(public_crates(&doc).into_keys().collect::<Vec<_>>(), ["bytes", "lock", "serde"]);
}
