//! What the documents repeat from the code, and what they point to.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read is a failure")]

use std::fs;
use std::path::Path;

const DOCUMENTS: &[&str] = &["README.md", "DESIGN.md", "CHANGELOG.md", "CONTRIBUTING.md"];

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

#[test]
fn the_readme_s_options_are_those_of_the_code() {
    let table = keylane::Config::help();
    assert!(read("README.md").contains(table), "README.md needs this table:\n{table}");
}

#[test]
fn the_readme_s_program_is_the_example() {
    let example = read("examples/in_process.rs");
    let program = example.trim_start_matches(|c| c != '\n').trim_start();
    assert!(read("README.md").contains(&format!("```rust\n{program}```\n")));
}

/// Links to files of this repository and to headings of the same page.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in DOCUMENTS {
        let text = read(document);
        let headings: Vec<String> = text.lines().filter_map(heading).collect();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("https://")) {
            let found = match target.strip_prefix('#') {
                Some(anchor) => headings.iter().any(|heading| heading == anchor),
                None => root.join(target).exists(),
            };
            assert!(found, "{document} links to {target}, which is not there");
        }
    }
}

/// Files of `src` and `tests` that a document names in backquotes.
#[test]
fn files_that_are_named_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in DOCUMENTS {
        let text = read(document);
        let named = text.split('`').skip(1).step_by(2).filter(|word| {
            (word.starts_with("src/")
                || word.starts_with("tests/")
                || word.starts_with("examples/"))
                && !word.contains(['*', ' ', '{'])
        });
        for file in named {
            assert!(root.join(file).exists(), "{document} names {file}, which is not there");
        }
    }
}

/// A heading's anchor, as GitHub makes it.
fn heading(line: &str) -> Option<String> {
    let text = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}
