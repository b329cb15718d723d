//! PERFORMANCE.md's tables and plots, from a record: nothing is measured here.

mod markdown;
mod svg;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const BEGIN: &str = "<!-- versus:begin -->";
const END: &str = "<!-- versus:end -->";

/// The lines of a record.
pub struct Recorded(Vec<Value>);

impl Recorded {
    fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parsed = lines.map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| format!("{}, line {}: {error}", path.display(), number + 1))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// The lines of one table.
    fn of<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a Value> + Clone {
        self.0.iter().filter(move |line| line["table"] == table)
    }
}

/// Where the repository is.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_path_buf()
}

/// Where records are kept.
pub fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

/// Renders `file`, or the newest record.
pub fn render(file: Option<&Path>) -> Result<(), String> {
    let newest = match file {
        Some(file) => file.to_path_buf(),
        None => newest().ok_or("there is no record; run `cargo bench --bench versus` first")?,
    };
    let recorded = Recorded::read(&newest)?;
    let plots = root().join("docs/plots");
    fs::create_dir_all(&plots).map_err(|error| error.to_string())?;
    let mut drawn = Vec::new();
    for (name, title, picture) in svg::all(&recorded) {
        let path = plots.join(name);
        fs::write(&path, picture).map_err(|error| format!("{}: {error}", path.display()))?;
        drawn.push((format!("docs/plots/{name}"), title));
    }
    let source = newest.strip_prefix(root()).unwrap_or(&newest).display().to_string();
    let text = tables::all(&recorded, &source, &drawn);
    put(&root().join("PERFORMANCE.md"), &text)?;
    println!("PERFORMANCE.md and {} plots, from {}", drawn.len(), newest.display());
    Ok(())
}

/// Records are named by their date.
fn newest() -> Option<PathBuf> {
    let files = fs::read_dir(results()).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl")).max()
}

/// Replaces what is between the marks.
fn put(path: &Path, text: &str) -> Result<(), String> {
    let whole = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let replaced = between(&whole, text)
        .ok_or(format!("{} has no {BEGIN} followed by {END}", path.display()))?;
    fs::write(path, replaced).map_err(|error| format!("{}: {error}", path.display()))
}

fn between(whole: &str, text: &str) -> Option<String> {
    let (before, rest) = whole.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let whole = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = between(&whole, "new").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(between(&once, "new").unwrap(), once);
        assert!(between("no marks", "new").is_none());
    }

    #[test]
    fn a_record_with_every_table_is_rendered_without_holes() {
        let recorded =
            Recorded::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/record.jsonl"));
        let recorded = recorded.unwrap();
        let text = tables::all(&recorded, "a record", &[]);
        for heading in [
            "no-op",
            "1 µs",
            "blocks",
            "Latency",
            "One way",
            "Wake",
            "Skewed",
            "bad key",
            "successor",
            "swap",
        ] {
            assert!(text.contains(heading), "{heading} is missing in\n{text}");
        }
        assert!(!text.contains("NaN") && !text.contains("null"), "{text}");
        let drawn = svg::all(&recorded);
        assert!(
            drawn.iter().all(|(_, _, svg)| svg.starts_with("<svg") && svg.ends_with("</svg>\n"))
        );
        assert!(drawn.iter().all(|(_, _, svg)| !svg.contains("NaN")));
        assert_eq!(drawn.len(), 4);
    }
}
