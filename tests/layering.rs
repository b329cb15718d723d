//! The shape of the crate, checked on its text: a file uses files of lower layers or, without a cycle, of
//! its own; `unsafe`, threads, atomics and clocks stay where they belong; no file outgrows its concept.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read is a failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Every file of `src` and its layer. `name` is a file, `name/` every file of a folder that has no row of
/// its own. A new file gets a row here; that it is hard to choose one says that the file does two things.
const LAYERS: &[(u8, &str)] = &[
    (0, "sync error clock sabotage"),
    (1, "ring/ queue token parker wait_list block pool record hash option machine pinning config"),
    (
        1,
        "metrics progress age counts latency busiest span status window finished held delivery armor position ledger envelope/ context unwind",
    ),
    (
        1,
        "timer outcome outage receipt reply retry subscription handler notice spawner blocking bound inspect work",
    ),
    (2, "registry table gate bell"),
    (3, "lane peal"),
    (4, "busy core attempt ending tally letters command visit worker monitor stage"),
    (
        5,
        "submit batch undelivered source subscriber close shutdown holder source_snapshot snapshot runtime builder export",
    ),
    (
        6,
        "bus bus/letter bus/error bus/event bus/group bus/health bus/keyed bus/pending bus/publishing bus/topics",
    ),
    (7, "bus/memory bus/memory/ bus/nats bus/nats/"),
    (8, "connect testing/"),
    (9, "lib"),
];

/// Files that may say `unsafe`.
const UNSAFE: &[&str] = &["ring/", "token", "bus/kafka/raw"];

/// Paths that only some files may use: everyone else goes through `crate::sync` and `crate::clock`, so that
/// the model checker and the virtual clock see it all.
const RESERVED: &[(&[&str], &[&str])] = &[
    (&["std", "sync"], &["sync", "metrics", "testing/"]),
    (&["core", "sync"], &["sync", "metrics"]),
    (&["std", "thread"], &["sync", "testing/"]),
    (&["parking_lot"], &["sync"]),
    (&["loom"], &["sync"]),
    (&["crossbeam_utils", "sync"], &["sync"]),
    (&["crossbeam_utils", "thread"], &["sync"]),
    (&["Instant", "now"], &["clock"]),
    (&["SystemTime", "now"], &["clock"]),
];

/// What a file may use of that all the same, because no model needs to see it.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    // Set once, before anybody shares it.
    ("lane", &["std", "sync", "OnceLock"]),
    ("pool", &["std", "sync", "LazyLock"]),
    // Numbers with one writer, or that order nothing.
    ("block", &["std", "sync", "atomic"]),
    ("record", &["std", "sync", "atomic"]),
    // The time that an envelope is made at: it decides nothing.
    ("envelope/time", &["SystemTime", "now"]),
    // Numbers tokens apart in debug builds.
    ("token", &["std", "sync", "atomic"]),
    ("token", &["std", "thread", "panicking"]),
];

/// Lines of a file, its tests aside.
const MAX_LINES: usize = 450;

#[test]
fn files_use_lower_layers_only() {
    report(&check(&sources()));
}

/// A row for a file that is not there misleads its readers.
#[test]

fn every_row_names_a_file() {
    let files: Vec<String> = sources().into_iter().map(|(name, _)| name).collect();
    let stale: Vec<String> = LAYERS
        .iter()
        .flat_map(|(_, rows)| rows.split_whitespace())
        .filter(|row| !files.iter().any(|name| matches(row, name)))
        .map(|row| format!("LAYERS has a row for `{row}`, which is no file of src"))
        .collect();
    report(&stale);
}

fn report(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// Name (`bus/memory`; a folder's `mod.rs` has the folder's) and text of every file of `src`.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                let name = name.to_str().unwrap().replace('\\', "/");
                let name = name.strip_suffix("/mod").unwrap_or(&name).to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Everything that is wrong with these files.
fn check(sources: &[(String, String)]) -> Vec<String> {
    // Unit tests in a file of their own may use what they like, as those within a file do.
    let sources: Vec<_> =
        sources.iter().filter(|(name, _)| name != "tests" && !name.ends_with("/tests")).collect();
    let names: BTreeSet<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
    let mut violations = Vec::new();
    let mut same_layer: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();

    for (name, text) in sources {
        let file = file_of(name);
        let Some(layer) = layer_of(name) else {
            violations.push(format!("{file} has no layer: add it to LAYERS in tests/layering.rs"));
            continue;
        };
        let tokens = tokens(text);
        if !allowed(UNSAFE, name) {
            for token in tokens.iter().filter(|token| token.text == "unsafe") {
                violations.push(format!("{file}:{}: `unsafe` is not allowed here", token.line));
            }
        }
        let (tokens, test_lines) = without_tests(tokens);
        let lines = text.lines().count() - test_lines;
        if lines > MAX_LINES {
            violations
                .push(format!("{file} has {lines} lines, more than {MAX_LINES}: two concepts?"));
        }

        for path in paths(&tokens) {
            if let Some((reserved, _)) = RESERVED
                .iter()
                .find(|(reserved, users)| uses(&path, reserved) && !allowed(users, name))
                .filter(|_| {
                    !EXCEPTIONS.iter().any(|(file, except)| file == name && uses(&path, except))
                })
            {
                violations.push(format!(
                    "{file}:{}: `{}` is reserved; use crate::sync or crate::clock",
                    path.line,
                    reserved.join("::")
                ));
            }
            let Some(used) = resolve(name, &path, &names).filter(|used| used != name) else {
                continue;
            };
            let Some(used_layer) = layer_of(used) else { continue };
            if used_layer > layer {
                violations.push(format!(
                    "{file}:{}: layer {layer} uses `{used}` of layer {used_layer}",
                    path.line
                ));
            } else if used_layer == layer && !(path.public && is_child(used, name)) {
                same_layer.entry(name).or_default().insert(used);
            }
        }
    }
    // One line may use the same thing twice.
    violations.dedup();
    violations.extend(cycle(&same_layer));
    violations
}

/// Where the file `name` is, for people.
fn file_of(name: &str) -> String {
    let folder = format!("src/{name}/mod.rs");
    let in_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder).exists();
    if in_folder { folder } else { format!("src/{name}.rs") }
}

fn layer_of(name: &str) -> Option<u8> {
    let row = |row: &str| {
        LAYERS
            .iter()
            .find(|(_, rows)| rows.split_whitespace().any(|name| name == row))
            .map(|(layer, _)| *layer)
    };
    row(name).or_else(|| row(&format!("{name}/"))).or_else(|| {
        let ends = name.rmatch_indices('/').map(|(at, _)| at + 1);
        ends.map(|end| &name[..end]).find_map(row)
    })
}

/// Whether the row `pattern` covers the file `name`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('/') {
        Some(folder) => name == folder || name.starts_with(pattern),
        None => name == pattern,
    }
}

fn allowed(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

fn is_child(name: &str, of: &str) -> bool {
    name.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'))
}

/// One cycle among files of one layer, if there is any.
fn cycle(graph: &BTreeMap<&str, BTreeSet<&str>>) -> Option<String> {
    fn visit<'a>(
        node: &'a str,
        graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(from) = way.iter().position(|seen| *seen == node) {
            return Some(format!("a cycle within a layer: {} -> {node}", way[from..].join(" -> ")));
        }
        if !done.insert(node) {
            return None;
        }
        way.push(node);
        let found =
            graph.get(node).into_iter().flatten().find_map(|next| visit(next, graph, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| visit(node, graph, &mut Vec::new(), &mut done))
}

/// A path as it stands in the code, `use` lists taken apart.
#[derive(Debug)]
struct Uses {
    segments: Vec<String>,
    /// Modules within the file around it.
    inside: Vec<String>,
    /// Part of a `pub use`.
    public: bool,
    line: usize,
}

/// Whether `path` begins with `reserved`; of one that starts with a type also whether it ends so.
fn uses(path: &Uses, reserved: &[&str]) -> bool {
    let is = |part: &[String]| part.iter().map(String::as_str).eq(reserved.iter().copied());
    let length = reserved.len();
    path.segments.len() >= length
        && (is(&path.segments[..length])
            || reserved[0].starts_with(char::is_uppercase)
                && is(&path.segments[path.segments.len() - length..]))
}

/// The file that a path leads into.
fn resolve<'a>(name: &str, path: &Uses, names: &BTreeSet<&'a str>) -> Option<&'a str> {
    let mut base: Vec<&str> = if name == "lib" { Vec::new() } else { name.split('/').collect() };
    base.extend(path.inside.iter().map(String::as_str));
    let mut rest = path.segments.iter().map(String::as_str).peekable();
    let anchored = matches!(rest.peek(), Some(&("crate" | "super" | "self")));
    match rest.peek() {
        Some(&"crate") => {
            base.clear();
            rest.next();
        }
        Some(&"self") => {
            rest.next();
        }
        _ => {}
    }
    while rest.next_if_eq(&"super").is_some() {
        base.pop();
    }
    let here = base.len();
    base.extend(rest);
    for length in (0..=base.len()).rev() {
        let candidate = if length == 0 { "lib".to_owned() } else { base[..length].join("/") };
        // A plain `name::` is a file only if it is a child of this module.
        if !anchored && length <= here {
            return None;
        }
        if let Some(found) = names.get(candidate.as_str()) {
            return Some(found);
        }
    }
    None
}

/// All paths of at least two segments, and those of `use`.
fn paths(tokens: &[Token]) -> Vec<Uses> {
    let mut found = Vec::new();
    let mut inside: Vec<(String, usize)> = Vec::new();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let text = token.text.as_str();
        let next = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text.as_str());
        match text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inside.last().is_some_and(|(_, outer)| *outer == depth) {
                    inside.pop();
                }
            }
            "mod" if next(2) == "{" => inside.push((next(1).to_owned(), depth)),
            // `pub(in crate::x)` names a scope, not a dependency.
            "in" if at > 0 && tokens[at - 1].text == "(" && next(1) == "crate" => {
                while tokens.get(at).is_some_and(|token| token.text != ")") {
                    at += 1;
                }
                continue;
            }
            "use" | "::" => {}
            _ if !is_name(text) => {}
            _ => {
                let before =
                    |back: usize| at.checked_sub(back).map_or("", |at| tokens[at].text.as_str());
                // `::name` goes on with a path, unless nothing that could be one stands before it.
                let rooted = before(1) == "::"
                    && (before(2) == "use" || !is_name(before(2)) && before(2) != ">");
                let goes_on = before(1) == "::" && !rooted;
                if goes_on || matches!(before(1), "." | "fn" | "mod") {
                    at += 1;
                    continue;
                }
                let in_use = before(1) == "use" || rooted && before(2) == "use";
                if in_use || next(1) == "::" {
                    let public = in_use && is_public(&tokens[..at - if rooted { 2 } else { 1 }]);
                    let inside: Vec<String> = inside.iter().map(|(name, _)| name.clone()).collect();
                    at = tree(tokens, at, &[], &mut |segments, line| {
                        found.push(Uses { segments, inside: inside.clone(), public, line });
                    });
                    continue;
                }
            }
        }
        at += 1;
    }
    found
}

/// Whether a `use` is preceded by `pub` or `pub(...)`.
fn is_public(before: &[Token]) -> bool {
    let mut before = before.iter().rev().map(|token| token.text.as_str());
    match before.next() {
        Some("pub") => true,
        Some(")") => before.find(|text| *text == "(").and_then(|_| before.next()) == Some("pub"),
        _ => false,
    }
}

/// Reads the path or `use` tree that starts at `at`; returns where it ends.
fn tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    emit: &mut dyn FnMut(Vec<String>, usize),
) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match tokens.get(at).map(|token| token.text.as_str()) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    if tokens[at].text == "," {
                        at += 1;
                    } else {
                        let end = tree(tokens, at, &path, emit);
                        at = end.max(at + 1);
                    }
                }
                return at + 1;
            }
            Some("*") => at += 1,
            Some(text) if is_name(text) => {
                path.push(text.to_owned());
                at += 1;
            }
            _ => break,
        }
        if tokens.get(at).is_some_and(|token| token.text == "::") {
            at += 1;
        } else {
            break;
        }
    }
    emit(path, line);
    if tokens.get(at).is_some_and(|token| token.text == "as") {
        at += 2;
    }
    at
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// Names, `::` and single signs; no comments, no literals, no white space.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    let mut line = 1;
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let start = at;
        match chars[at] {
            '/' if get(at + 1) == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            '/' if get(at + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (get(at), get(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 || at >= chars.len() {
                        break;
                    }
                }
            }
            '"' => at = end_of_string(&chars, at),
            // A lifetime, unless a quote follows the one character, or a backslash.
            '\'' if get(at + 1) == '\\' => {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            }
            '\'' if get(at + 2) == '\'' => at += 3,
            '\'' => {
                at += 1;
                while get(at).is_alphanumeric() || get(at) == '_' {
                    at += 1;
                }
            }
            c if c.is_alphabetic() || c == '_' => {
                while get(at).is_alphanumeric() || get(at) == '_' {
                    at += 1;
                }
                let name: String = chars[start..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                if matches!(name.as_str(), "r" | "br" | "cr") && get(at + hashes) == '"' {
                    at += hashes + 1;
                    while at < chars.len()
                        && !(chars[at] == '"' && (1..=hashes).all(|ahead| get(at + ahead) == '#'))
                    {
                        at += 1;
                    }
                    at += hashes + 1;
                } else if matches!(name.as_str(), "b" | "c") && get(at) == '"' {
                    at = end_of_string(&chars, at);
                } else if name == "r" && hashes == 1 {
                    // A raw identifier: the name itself follows.
                    at += 1;
                } else {
                    found.push(Token { text: name, line });
                }
            }
            ':' if get(at + 1) == ':' => {
                found.push(Token { text: "::".to_owned(), line });
                at += 2;
            }
            c => {
                if !c.is_whitespace() {
                    found.push(Token { text: c.to_string(), line });
                }
                at += 1;
            }
        }
        at = at.min(chars.len());
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// The place after the string whose opening quote is at `at`.
fn end_of_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The tokens without items under `#[cfg(test)]` or `#[cfg(all(test, ...))]`, and how many lines those take.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, usize) {
    let mut kept = Vec::new();
    let mut lines = 0;
    let mut at = 0;
    while at < tokens.len() {
        let starts = |texts: &[&str]| {
            texts.iter().enumerate().all(|(ahead, text)| {
                tokens.get(at + ahead).is_some_and(|token| token.text == *text)
            })
        };
        if !(starts(&["#", "[", "cfg", "(", "test", ")", "]"])
            || starts(&["#", "[", "cfg", "(", "all", "(", "test", ","]))
        {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let first = tokens[at].line;
        // To the end of the item: the first `;` or `}` outside of all brackets.
        let mut depth = 0usize;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                "}" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                ";" if depth == 0 => break,
                _ => {}
            }
        }
        lines += tokens[at - 1].line - first + 1;
    }
    (kept, lines)
}

mod checker {
    use super::*;

    fn violations(sources: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> =
            sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        check(&sources)
    }

    /// Fails unless `text` as the file `name`, among some others, is told off with `expected`.
    #[track_caller]
    fn convicts(name: &str, text: &str, expected: &str) {
        let found = violations(&others(name, text));
        assert!(found.len() == 1 && found[0].contains(expected), "{text}\n{found:?}");
    }

    #[track_caller]
    fn accepts(name: &str, text: &str) {
        let found = violations(&others(name, text));
        assert!(found.is_empty(), "{text}\n{found:?}");
    }

    fn others<'a>(name: &'a str, text: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![(name, text)];
        for other in
            ["lib", "sync", "ring", "gate", "bell", "bus", "bus/memory", "worker", "testing/oracle"]
        {
            if other != name {
                all.push((other, ""));
            }
        }
        all
    }

    #[test]
    fn convicts_a_use_of_a_higher_layer() {
        convicts("ring", "use crate::gate::Gate;", "rs:1: layer 1 uses `gate` of layer 2");
        convicts("ring", "\nuse crate::{sync::Arc, worker};", "rs:2: layer 1 uses `worker`");
        convicts(
            "ring",
            "use crate::{\n  sync::{self, Arc},\n  bus::{memory::Bus},\n};",
            "`bus/memory`",
        );
        convicts("ring", "fn f() { crate::gate::f(); }", "uses `gate`");
        convicts("ring", "fn f(x: &[crate::gate::Gate]) {}", "uses `gate`");
        convicts("ring", "pub(crate) use super::gate::*;", "uses `gate`");
        convicts("ring", "mod imp { use super::super::gate::Gate; }", "uses `gate`");
        convicts("bus", "use self::memory::Bus;", "uses `bus/memory`");
        convicts("bus", "pub use memory::Bus;", "uses `bus/memory`");
        convicts("bus", "fn f() { memory::f() }", "uses `bus/memory`");
        convicts(
            "bus/memory",
            "use crate::testing::oracle::Oracle;",
            "`testing/oracle` of layer 8",
        );
        convicts("gate", "use crate::Record;", "uses `lib` of layer 9");
        convicts("gate", "use crate as keylane;", "uses `lib` of layer 9");
    }

    #[test]
    fn accepts_lower_layers_comments_strings_and_tests() {
        accepts("gate", "use crate::{ring::Ring, sync::{Arc, atomic::AtomicU64}};");
        accepts(
            "gate",
            "// use crate::worker::Worker;\n/* crate::worker /* nested */ crate::worker::x */",
        );
        accepts(
            "gate",
            r###"const A: &str = r#"crate::worker::x " unsafe"#; const B: char = '"';"###,
        );
        accepts(
            "gate",
            r#"const A: &[u8] = b"\" unsafe std::thread::spawn"; const B: char = '\'';"#,
        );
        accepts("gate", "fn f<'a>(x: &'a str) -> &'a str { x }");
        accepts("gate", "pub(in crate::worker) fn f() {}");
        accepts("gate", "#[cfg(test)]\nmod tests { use crate::worker::Worker; use std::thread; }");
        accepts(
            "gate",
            "#[cfg(all(test, not(keylane_loom)))]\nmod tests { use crate::worker::W; }",
        );
        accepts("gate", "mod imp { use super::Gate; }");
        accepts("gate", "use std::{error, fmt};\nfn f(e: error::Error) {}");
        accepts("bus/memory", "use super::Bus; use crate::worker::Worker;");
        accepts("lib", "mod ring; pub use ring::Ring; pub use bus::memory::Bus;");
    }

    #[test]
    fn code_after_tests_is_code() {
        convicts(
            "gate",
            "#[cfg(test)]\nmod tests { fn f() { if x { y } } }\nuse crate::worker::Worker;",
            "rs:3: layer 2 uses `worker`",
        );
        convicts(
            "gate",
            "#[cfg(test)]\nuse crate::bus::Bus;\nfn f() { crate::worker::f() }",
            "rs:3: ",
        );
    }

    #[test]
    fn convicts_a_cycle_within_a_layer() {
        let found = violations(&[
            ("gate", "use crate::bell::Bell;"),
            ("bell", "use crate::registry::Registry;"),
            ("registry", "use super::gate::Gate;"),
        ]);
        assert_eq!(found, ["a cycle within a layer: bell -> registry -> gate -> bell"]);
        let found = violations(&[("gate", "use crate::bell::Bell;"), ("bell", "")]);
        assert_eq!(found, <[String; 0]>::default());
    }

    #[test]
    fn a_folder_may_list_what_is_in_it() {
        let found = violations(&[
            ("testing", "mod oracle; pub use oracle::Oracle; pub struct Seed;"),
            ("testing/oracle", "use super::Seed;"),
        ]);
        assert_eq!(found, <[String; 0]>::default());
        let found = violations(&[
            ("testing", "mod oracle; fn f() { oracle::f() }"),
            ("testing/oracle", "use super::Seed;"),
        ]);
        assert!(found.len() == 1 && found[0].contains("cycle"), "{found:?}");
    }

    #[test]
    fn convicts_what_is_reserved() {
        convicts("gate", "unsafe impl Send for Gate {}", "rs:1: `unsafe` is not allowed here");
        accepts("ring", "unsafe impl Send for Ring {}");
        convicts("gate", "use std::sync::Arc;", "`std::sync` is reserved");
        convicts("gate", "use std::{fmt, sync::Arc};", "`std::sync` is reserved");
        convicts("gate", "use ::std::sync::Arc;", "`std::sync` is reserved");
        convicts("gate", "fn f() { std::thread::yield_now() }", "`std::thread` is reserved");
        convicts("gate", "use parking_lot::Mutex;", "`parking_lot` is reserved");
        convicts("gate", "fn f() { let now = Instant::now(); }", "`Instant::now` is reserved");
        convicts(
            "gate",
            "fn f() { std::time::SystemTime::now(); }",
            "`SystemTime::now` is reserved",
        );
        accepts("sync", "use std::{sync::Arc, thread}; use parking_lot::Mutex;");
        accepts("gate", "use std::time::Instant; fn f(i: Instant) {}");
    }

    #[test]
    fn convicts_unknown_and_long_files() {
        convicts("grab_bag", "", "src/grab_bag.rs has no layer: add it to LAYERS");
        convicts("bus/other", "", "src/bus/other.rs has no layer");
        accepts("testing/faults", "");
        convicts("gate", &"fn f() {}\n".repeat(451), "has 451 lines, more than 450");
        let tests = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            "fn f() {}\n".repeat(450),
            "\n".repeat(99)
        );
        accepts("gate", &tests);
    }
}
