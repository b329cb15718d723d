//! How a result looks: colours and bars on a terminal, plain ASCII elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

/// What the output can show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// Someone is watching: symbols and bars are drawn.
    pub(crate) terminal: bool,
    colour: bool,
}

/// A tone of text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tone {
    Title,
    Faint,
    Good,
    Bad,
    Odd,
    Bar,
}

impl Style {
    /// What standard output can show. `NO_COLOR` turns colours off, as everywhere.
    pub(crate) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = std::io::stdout().is_terminal() && !dumb;
        Self { terminal, colour: terminal && !set("NO_COLOR") }
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Title => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Odd => "33",
            Tone::Bar => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A check's mark.
    pub(crate) fn mark(self, good: bool) -> String {
        match (self.terminal, good) {
            (true, true) => self.paint(Tone::Good, "✓"),
            (true, false) => self.paint(Tone::Bad, "✗"),
            (false, true) => "ok  ".to_owned(),
            (false, false) => "FAIL".to_owned(),
        }
    }

    /// A bar of `value` out of `most`, `width` characters at its longest.
    pub(crate) fn bar(self, value: u64, most: u64, width: usize) -> String {
        let eighths = (value as f64 / most.max(1) as f64 * (width * 8) as f64).round() as usize;
        let eighths = eighths.clamp(usize::from(value > 0), width * 8);
        if !self.terminal {
            return "#".repeat(eighths.div_ceil(8));
        }
        let mut bar = "█".repeat(eighths / 8);
        bar.extend(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8).copied());
        self.paint(Tone::Bar, &bar)
    }

    /// One character for each value, as high as the value is.
    pub(crate) fn heights(self, values: &[u64]) -> String {
        let most = values.iter().copied().max().unwrap_or(0).max(1);
        let levels: [char; 9] = if self.terminal {
            [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
        } else {
            [' ', '1', '2', '3', '4', '5', '6', '7', '8']
        };
        let height = |&value: &u64| levels[(value as u128 * 8).div_ceil(u128::from(most)) as usize];
        let drawn: String = values.iter().map(height).collect();
        self.paint(Tone::Bar, &drawn)
    }
}

/// `53402` as `53,402`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `number` of a thing, in the singular if it is one.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(number), if number == 1 { one } else { many })
}

/// A duration with three digits or so, in the unit that suits it.
pub(crate) fn short(duration: Duration) -> String {
    let nanos = duration.as_nanos() as f64;
    let (value, unit) = match nanos {
        n if n < 1e3 => return format!("{n} ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { terminal: false, colour: false };
    const FANCY: Style = Style { terminal: true, colour: true };

    #[test]
    fn numbers_read_well() {
        let shown = [0, 7, 999, 1_000, 53_402, u64::MAX].map(thousands);
        assert_eq!(shown, ["0", "7", "999", "1,000", "53,402", "18,446,744,073,709,551,615"]);
        assert_eq!(counted(1, "row", "rows"), "1 row");
        assert_eq!(counted(2_000, "row", "rows"), "2,000 rows");
    }

    #[test]
    fn durations_read_well() {
        let nanos = [0, 999, 1_000, 12_340, 123_400, 1_234_000, 5_000_000_000, 61_000_000_000];
        let shown = nanos.map(|nanos| short(Duration::from_nanos(nanos)));
        assert_eq!(
            shown,
            ["0 ns", "999 ns", "1.00 µs", "12.3 µs", "123 µs", "1.23 ms", "5.00 s", "61.0 s"]
        );
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |value, most| PLAIN.bar(value, most, 8).len();
        assert_eq!([bar(0, 8), bar(4, 8), bar(8, 8), bar(1, 8_000), bar(9, 8)], [0, 4, 8, 1, 8]);
        assert_eq!(bar(0, 0), 0);
        assert_eq!(Style { colour: false, ..FANCY }.bar(5, 16, 4), "█▎");
        assert_eq!(PLAIN.heights(&[0, 1, 50, 100, u64::MAX / 8]), " 1118");
        assert_eq!(PLAIN.heights(&[0, 1, 50, 100]), " 148");
        assert_eq!(PLAIN.heights(&[]), "");
    }

    #[test]
    fn only_a_terminal_gets_escapes() {
        assert_eq!(PLAIN.paint(Tone::Bad, "no"), "no");
        assert_eq!(FANCY.paint(Tone::Bad, "no"), "\u{1b}[1;31mno\u{1b}[0m");
        assert_eq!(PLAIN.mark(false), "FAIL");
    }
}
