//! Tables of Markdown.

/// A table under construction; its first column is left-aligned, the others are right-aligned.
pub struct Table {
    lines: Vec<String>,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        let rule: String =
            (0..columns.len()).map(|place| if place == 0 { "---|" } else { "--:|" }).collect();
        Self { lines: vec![format!("| {} |", columns.join(" | ")), format!("|{rule}")] }
    }

    pub fn row(&mut self, cells: &[String]) {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        self.lines.push(format!("| {} |", cells.join(" | ")));
    }

    /// The table, with its title as a paragraph before it; nothing if it has no row.
    pub fn titled(self, title: &str) -> String {
        if self.lines.len() == 2 {
            return String::new();
        }
        format!("{title}\n\n{}\n\n", self.lines.join("\n"))
    }
}
