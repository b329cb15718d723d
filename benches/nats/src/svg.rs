//! The plots, written by hand.

use std::fmt::Write;

use serde_json::Value;

use crate::render::newest;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 110.0;
const ROW: f64 = 22.0;

/// Name, title and content of each plot.
pub fn all(lines: &[Value]) -> Vec<(&'static str, &'static str, String)> {
    let ratios = newest(lines, "ratio", &["group", "ours", "rival"]);
    let counts = newest(lines, "count", &["stream", "arm"]);
    let mut plots = Vec::new();
    if !ratios.is_empty() {
        let title = "NATS: ours over the rival, with the goal as a tick (logarithmic)";
        plots.push(("nats-ratios.svg", title, whiskers(&ratios, title)));
    }
    if !counts.is_empty() {
        let title = "NATS: the client's instructions a delivery, or a confirmed publish";
        plots.push(("nats-instructions.svg", title, bars(&counts, title)));
    }
    plots
}

fn begin(rows: usize, title: &str) -> String {
    let height = 62.0 + ROW * rows as f64;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" fill=\"#222\">{}</text>\n",
        escape(title)
    )
}

fn say(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222\">{text}</text>"
    );
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        from.0, from.1, to.0, to.1
    );
}

/// A dot for each median, a line for its range, a tick for its goal.
fn whiskers(lines: &[&Value], title: &str) -> String {
    let of = |line: &Value, name: &str| line[name].as_f64().unwrap_or(1.0).max(0.01);
    let names = ["low", "high", "goal"];
    let values = || lines.iter().flat_map(|line| names.map(|name| of(line, name).ln()));
    let low = values().fold(0.0, f64::min) - 0.05;
    let high = values().fold(0.0, f64::max) + 0.05;
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (value.ln() - low) / (high - low);
    let mut svg = begin(lines.len(), title);
    let bottom = 50.0 + ROW * lines.len() as f64;
    for value in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0] {
        if (low..=high).contains(&f64::ln(value)) {
            line(&mut svg, (x(value), 38.0), (x(value), bottom - 8.0), "#e3e6ea", 1.0);
            say(&mut svg, x(value), bottom + 6.0, "middle", &value.to_string());
        }
    }
    for (row, ratio) in lines.iter().enumerate() {
        let y = 50.0 + ROW * row as f64;
        let text = |name: &str| ratio[name].as_str().unwrap_or("").to_owned();
        let label = format!("{}: {} / {}", text("group"), text("ours"), text("rival"));
        say(&mut svg, LEFT - 10.0, y + 4.0, "end", &label);
        let colour = match ratio["verdict"].as_str() {
            Some("met") => "#3c8d5a",
            Some("missed") => "#d1495b",
            _ => "#c98a1b",
        };
        line(&mut svg, (x(of(ratio, "low")), y), (x(of(ratio, "high")), y), colour, 2.0);
        let goal = x(of(ratio, "goal"));
        line(&mut svg, (goal, y - 7.0), (goal, y + 7.0), "#222", 1.0);
        let median = x(of(ratio, "median"));
        let _ =
            writeln!(svg, "<circle cx=\"{median:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
        say(
            &mut svg,
            WIDTH - RIGHT + 10.0,
            y + 4.0,
            "start",
            &format!("{:.2}", of(ratio, "median")),
        );
    }
    svg + "</svg>\n"
}

/// A bar for each arm.
fn bars(lines: &[&Value], title: &str) -> String {
    let of = |line: &Value| line["instructions"].as_f64().unwrap_or(0.0);
    let most = lines.iter().map(|line| of(line)).fold(1.0, f64::max);
    let mut svg = begin(lines.len(), title);
    for (row, count) in lines.iter().enumerate() {
        let y = 44.0 + ROW * row as f64;
        let arm = count["arm"].as_str().unwrap_or("");
        let key = match count["stream"].as_str() {
            Some("K128") => ", key in the subject",
            Some("H128" | "R128") => ", key in a header",
            _ => "",
        };
        say(&mut svg, LEFT - 10.0, y + 11.0, "end", &format!("{arm}{key}"));
        let width = (WIDTH - LEFT - RIGHT) * of(count) / most;
        let colour = if arm.contains("keylane") { "#1b6ca8" } else { "#9aa5b1" };
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"{colour}\"/>"
        );
        say(&mut svg, LEFT + width + 8.0, y + 11.0, "start", &format!("{:.0}", of(count)));
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
