//! `tests/BEHAVIOURS.md` says of every behaviour of the system we replace where it is tested, or why it is
//! not built. This test holds the table to it.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read is a failure")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn numbers() -> impl Iterator<Item = String> {
    let group = |letter: char, range: std::ops::RangeInclusive<u32>| {
        range.map(move |n| format!("{letter}{n}"))
    };
    group('A', 1..=19).chain(group('B', 20..=35)).chain(group('C', 36..=51))
}

#[test]
fn every_behaviour_has_its_test_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("tests/BEHAVIOURS.md")).unwrap();
    let wrong = check(&table, |file| fs::read_to_string(root.join(file)).ok());
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Everything that is wrong with `table`; `read` gives a file's text.
fn check(table: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, answer] = cells[..] else {
            wrong.push(format!("not three cells: {line}"));
            continue;
        };
        if number.starts_with("--") || number == "#" {
            continue;
        }
        if rows.insert(number.to_owned(), answer.to_owned()).is_some() {
            wrong.push(format!("{number} stands there twice"));
        }
    }
    for number in numbers() {
        match rows.remove(&number) {
            None => wrong.push(format!("{number} is missing")),
            Some(answer) => {
                wrong.extend(check_answer(&answer, &read).map(|why| format!("{number}: {why}")))
            }
        }
    }
    wrong.extend(rows.into_keys().map(|number| format!("{number} is no behaviour of the list")));
    wrong
}

/// What is wrong with one row's last cell: `not built: <reason>`, or tests as `` `file::name` ``.
fn check_answer(answer: &str, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(reason) = answer.strip_prefix("not built:") {
        return reason.trim().is_empty().then(|| "not built, without a reason".to_owned());
    }
    let tests: Vec<&str> = answer.split('`').skip(1).step_by(2).collect();
    if tests.is_empty() {
        return Some(format!("names no test: {answer}"));
    }
    tests.into_iter().find_map(|test| {
        let Some((file, name)) = test.split_once("::") else {
            return Some(format!("`{test}` is not of the form `file::name`"));
        };
        let Some(text) = read(file) else {
            return Some(format!("there is no file {file}"));
        };
        let name = name.rsplit("::").next().unwrap_or(name);
        let is_there = text.lines().any(|line| {
            let line = line.trim_start();
            !line.starts_with("//") && line.contains(&format!("fn {name}("))
        });
        (!is_there).then(|| format!("{file} has no `fn {name}`"))
    })
}

#[test]
fn the_checker_convicts() {
    let good: String =
        numbers().map(|n| format!("| {n} | what | `tests/a.rs::works` |\n")).collect();
    let good = format!("# A title\n\n| # | behaviour | test |\n|---|---|---|\n{good}");
    let read = |file: &str| {
        (file == "tests/a.rs").then(|| "#[test]\nfn works() {}\n// fn gone() {}\n".to_owned())
    };
    assert_eq!(check(&good, read), <[String; 0]>::default());

    let convicts = |from: &str, to: &str, expected: &str| {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        let found = check(&bad, read);
        assert!(found.iter().any(|wrong| wrong.contains(expected)), "{expected}: {found:?}");
    };
    convicts("| A7 | what | `tests/a.rs::works` |", "", "A7 is missing");
    convicts("| A7 |", "| B20 |", "A7 is missing");
    convicts(
        "| A7 | what | `tests/a.rs::works` |",
        "| A7 | what | TBD |",
        "A7: names no test: TBD",
    );
    convicts("`tests/a.rs::works`", "`tests/a.rs::gone`", "A1: tests/a.rs has no `fn gone`");
    convicts("`tests/a.rs::works`", "`tests/b.rs::works`", "A1: there is no file tests/b.rs");
    convicts("`tests/a.rs::works`", "`works`", "not of the form");
    convicts("`tests/a.rs::works`", "`tests/a.rs::works`, `tests/a.rs::gone`", "no `fn gone`");
    convicts("`tests/a.rs::works`", "not built:", "without a reason");
    convicts("| C51 |", "| C51 | more |", "not three cells");
    convicts("\n| A1 |", "\n| D52 | x | `tests/a.rs::works` |\n| A1 |", "D52 is no behaviour");

    let reasoned = good.replacen("`tests/a.rs::works`", "not built: there are no globals", 1);
    assert_eq!(check(&reasoned, read), <[String; 0]>::default());
}
