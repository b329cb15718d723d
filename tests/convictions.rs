//! Tests of order and isolation fail where a whole lane waits for one busy key: each says so by a line
//! `// convict: whole_lane_waits`, and `ci/convict.sh` tries it. This test finds those that do not say so, and
//! those that say so and do not run with one and two workers, one lane and several.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read is a failure")]

use std::fs;
use std::path::Path;

const MARK: &str = "// convict: whole_lane_waits";

/// Files of order and isolation: what is in them is marked, but for those named here, which are about neither.
const FILES: [(&str, &[&str]); 4] = [
    ("isolation", &[]),
    ("order", &[]),
    (
        "parked_keys",
        &[
            "an_attempt_under_way_is_not_skipped",
            "a_record_without_a_key_is_dead_lettered_alone",
            "a_stale_handle_parks_nothing",
            "commands_to_a_young_subscription_keep_their_order",
            "a_removed_subscription_leaves_no_parked_key_behind",
        ],
    ),
    (
        "failures",
        &[
            "what_is_not_retryable_is_not_tried_again",
            "a_dead_letter_that_can_never_be_taken_stops_the_subscription",
            "a_policy_that_needs_a_dead_letter_and_has_none_is_refused",
        ],
    ),
];

/// In any file, tests with such a word in their name are marked.
const WORDS: [&str; 10] = [
    "keep_their_order",
    "keeps_its_order",
    "order_is_kept",
    "producers_order",
    "in_order",
    "ordered",
    "delays",
    "no_other",
    "nobody_else",
    "in_place",
];

/// But for these: they are about another order, other lanes, or the oracle alone.
const OTHERS: [&str; 7] = [
    "a_sink_that_hangs_costs_no_other_lane",
    "a_key_header_has_four_spellings_in_order",
    "ids_hold_the_formats_characters_and_no_other",
    "dead_letters_and_skips_finish_a_record_in_order",
    "a_failed_record_is_retried_in_place_and_holds_its_key",
    "a_replayed_record_that_fails_is_retried_in_place",
    "january_goes_through_whole_and_in_order",
];

/// A test, or a case of the suite of buses.
#[derive(Debug, PartialEq, Eq)]
struct Test {
    name: String,
    marked: bool,
    /// Its text, from its name to the next test's.
    body: String,
}

/// The tests of a file: functions below `#[test]`, and the names in a list that a macro makes tests of.
fn tests(text: &str) -> Vec<Test> {
    let mut found: Vec<Test> = Vec::new();
    let (mut marked, mut is_test, mut listed) = (false, false, false);
    for line in text.lines() {
        let code = line.trim();
        let name = match code.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
            Some((name, _)) if is_test => Some(name),
            _ if listed => code.strip_suffix(',').filter(|name| !name.contains(' ')),
            _ => None,
        };
        if let Some(name) = name {
            found.push(Test { name: name.to_owned(), marked, body: String::new() });
            (marked, is_test) = (false, false);
        }
        match code {
            MARK => marked = true,
            "#[test]" => is_test = true,
            "conforms![" => listed = true,
            "];" => listed = false,
            _ => {}
        }
        if let Some(test) = found.last_mut() {
            test.body += line;
            test.body += "\n";
        }
    }
    found
}

/// What is wrong with a file's marks.
fn check(file: &str, text: &str, cases: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let tests = tests(text);
    let known = FILES.iter().find(|known| known.0 == file).map(|known| known.1);
    for neither in known.into_iter().flatten() {
        if !tests.iter().any(|test| test.name == *neither && !test.marked) {
            wrong.push(format!("{file}: {neither} is not there, or marked"));
        }
    }
    for Test { name, marked, body } in &tests {
        let named = WORDS.iter().any(|word| name.contains(word));
        let is_neither = known.is_some_and(|neither| neither.contains(&&**name));
        let must = known.is_some() || named && !OTHERS.contains(&&**name);
        if must && !is_neither && !marked {
            wrong.push(format!("{file}: {name} has no line `{MARK}`"));
        }
        // A case of the suite has its body there.
        let own = cases
            .split_once(&format!("\nfn {name}("))
            .map_or(&**body, |(_, rest)| rest.split_once("\n}\n").map_or(rest, |(own, _)| own));
        if *marked && !own.contains("each_shape(") {
            wrong.push(format!("{file}: {name} does not run in each shape"));
        }
    }
    wrong
}

fn read(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn tests_of_order_and_isolation_say_what_they_convict() {
    let suite = read("src/testing/conformance");
    let cases: String = suite.into_iter().map(|(_, text)| text).collect();
    let files = read("tests");
    let mut wrong = Vec::new();
    // Models have convictions of their own, and what runs on a broker is tried by faults.
    let own = |file: &str| file.starts_with("loom_") || file.starts_with("nats_");
    for (file, text) in files.iter().filter(|(file, _)| !own(file)) {
        if file != "convictions" {
            wrong.extend(check(file, text, &cases));
        }
    }
    for (file, _) in FILES {
        assert!(files.iter().any(|(known, _)| known == file), "there is no tests/{file}.rs");
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_checker_convicts() {
    let good = "// convict: whole_lane_waits\n#[test]\nfn a_key() {\n    each_shape(|_| ());\n}\n";
    let none: [String; 0] = [];
    assert_eq!(check("isolation", good, ""), none);
    assert_eq!(check("elsewhere", good, ""), none);

    let unmarked = good.replace(MARK, "");
    assert_eq!(check("elsewhere", &unmarked, ""), none);
    assert!(check("isolation", &unmarked, "")[0].contains("a_key has no line"));
    let named = unmarked.replace("a_key", "a_key_keeps_its_order");
    assert!(check("elsewhere", &named, "")[0].contains("a_key_keeps_its_order has no line"));
    let narrow = good.replace("each_shape", "one_shape");
    assert!(check("elsewhere", &narrow, "")[0].contains("a_key does not run in each shape"));
    let renamed = check("parked_keys", good, "");
    assert!(
        renamed.iter().any(|wrong| wrong.contains("a_stale_handle_parks_nothing is not there"))
    );

    // A case's body is in the suite.
    let list = "conforms![\n    // convict: whole_lane_waits\n    a_case,\n    another,\n];\n";
    let cases =
        "\nfn a_case(s: &S) {\n    s.each_shape();\n}\n\nfn another(s: &S) {\n    s.open();\n}\n";
    assert_eq!(check("elsewhere", list, cases), none);
    let other = list.replace("a_case", "another_case").replace("another,", "a_case,");
    assert!(check("elsewhere", &other, cases)[0].contains("does not run in each shape"));
    let late = list.replace("another", "delays_no_other");
    assert!(check("elsewhere", &late, cases)[0].contains("delays_no_other has no line"));
}
