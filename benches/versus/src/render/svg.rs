//! The plots, written by hand.

use std::fmt::Write;

use serde_json::Value;

use super::Recorded;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 120.0;
const ROW: f64 = 22.0;
const COLOURS: [&str; 4] = ["#1b6ca8", "#d1495b", "#3c8d5a", "#c98a1b"];

/// Name, title and content of each plot.
pub fn all(recorded: &Recorded) -> Vec<(&'static str, &'static str, String)> {
    let titles = [
        ("versus-uniform.svg", "Records a second, no-op handler, uniform keys, burst 1"),
        ("versus-zipf.svg", "Records a second, no-op handler, Zipf keys, burst 1"),
        ("versus-latency.svg", "Latency at half of the slowest arm's capacity: p50, p99, p99.9"),
        ("versus-curves.svg", "Records a second over lanes"),
    ];
    let [uniform, zipf, latency, curves] = titles;
    vec![
        (uniform.0, uniform.1, throughput(recorded, "uniform", uniform.1)),
        (zipf.0, zipf.1, throughput(recorded, "zipf", zipf.1)),
        (latency.0, latency.1, quantiles(recorded, latency.1)),
        (curves.0, curves.1, lanes(recorded, curves.1)),
    ]
}

struct Svg(String);

impl Svg {
    fn new(height: f64, title: &str) -> Self {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"24\" font-size=\"15\" fill=\"#222\">{}</text>",
            escape(title)
        );
        Self(svg)
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222\">{}</text>",
            escape(text)
        );
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, colour: &str) {
        let width = width.max(1.0);
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"{colour}\"/>"
        );
    }

    fn dot(&mut self, x: f64, y: f64, colour: &str) {
        let _ = writeln!(self.0, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
    }

    fn line(&mut self, points: &[(f64, f64)], colour: &str, dashed: bool) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash = if dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        let _ = writeln!(
            self.0,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        );
    }

    fn end(mut self) -> String {
        self.0 += "</svg>\n";
        self.0
    }
}

/// A bar for each arm, the fastest first.
fn throughput(recorded: &Recorded, draw: &str, title: &str) -> String {
    let job = format!("noop/{draw}/burst-1/1p/1w");
    let mut arms: Vec<(String, f64)> = recorded
        .of("throughput")
        .filter(|line| line["job"] == job.as_str() && line["disqualified"] != true)
        .filter_map(|line| Some((name(line), line["msgs_per_s"].as_f64()? / 1e6)))
        .collect();
    arms.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let most = arms.iter().map(|(_, rate)| *rate).fold(0.0, f64::max).max(1e-9);
    let mut svg = Svg::new(56.0 + ROW * arms.len() as f64, title);
    for (place, (arm, rate)) in arms.iter().enumerate() {
        let y = 44.0 + ROW * place as f64;
        let colour = if arm.starts_with("keylane") { COLOURS[0] } else { "#9aa5b1" };
        svg.text(LEFT - 10.0, y + 11.0, "end", arm);
        let width = (WIDTH - LEFT - RIGHT) * rate / most;
        svg.bar(LEFT, y, width, colour);
        svg.text(LEFT + width + 8.0, y + 11.0, "start", &format!("{rate:.2} M/s"));
    }
    svg.end()
}

/// Three dots for each arm, on a logarithmic scale.
fn quantiles(recorded: &Recorded, title: &str) -> String {
    let lines: Vec<&Value> = recorded
        .of("latency")
        .filter(|line| line["of"] == "slowest" && line["share"] == 0.5 && line["violations"] == 0)
        .collect();
    let names = ["p50_ns", "p99_ns", "p999_ns"];
    let values = lines.iter().flat_map(|line| names.map(|name| line[name].as_f64().unwrap_or(1.0)));
    let (low, high) = values.fold((f64::INFINITY, 1.0_f64), |(low, high), value| {
        (low.min(value.max(1.0)), high.max(value))
    });
    let (low, high) = (low.min(high).log10().floor(), high.log10().ceil());
    let x = |value: f64| {
        LEFT + (WIDTH - LEFT - RIGHT) * (value.max(1.0).log10() - low) / (high - low).max(1.0)
    };
    let height = 90.0 + ROW * lines.len() as f64;
    let mut svg = Svg::new(height, title);
    for power in low as i32..=high as i32 {
        let at = x(10_f64.powi(power));
        svg.line(&[(at, 40.0), (at, height - 44.0)], "#e3e6ea", false);
        let label = match power {
            ..3 => format!("{} ns", 10_i64.pow(power.max(0) as u32)),
            3..6 => format!("{} µs", 10_i64.pow(power as u32 - 3)),
            _ => format!("{} ms", 10_i64.pow(power as u32 - 6)),
        };
        svg.text(at, height - 30.0, "middle", &label);
    }
    for (place, line) in lines.iter().enumerate() {
        let y = 52.0 + ROW * place as f64;
        svg.text(LEFT - 10.0, y + 4.0, "end", &name(line));
        let at = names.map(|name| x(line[name].as_f64().unwrap_or(1.0)));
        svg.line(&[(at[0], y), (at[2], y)], "#c5ccd3", false);
        for (dot, colour) in at.into_iter().zip(COLOURS) {
            svg.dot(dot, y, colour);
        }
    }
    for (place, label) in ["p50", "p99", "p99.9"].into_iter().enumerate() {
        let at = LEFT + 80.0 * place as f64;
        svg.dot(at, height - 12.0, COLOURS[place]);
        svg.text(at + 8.0, height - 8.0, "start", label);
    }
    svg.end()
}

/// A line for each number of workers and producers; dashed in batches.
fn lanes(recorded: &Recorded, title: &str) -> String {
    let height = 420.0;
    let mut svg = Svg::new(height, title);
    let points: Vec<(&Value, f64)> = recorded
        .of("curves")
        .filter_map(|line| Some((line, line["mega_per_s"]["median"].as_f64()?)))
        .collect();
    let most = points.iter().map(|(_, rate)| *rate).fold(0.0, f64::max).max(1e-9);
    let (left, top, bottom) = (70.0, 44.0, height - 80.0);
    let x = |lanes: f64| left + (WIDTH - left - 40.0) * (lanes / 16.0).log2() / 8.0;
    let y = |rate: f64| bottom - (bottom - top) * rate / most;
    for part in 0..=4 {
        let rate = most * f64::from(part) / 4.0;
        svg.line(&[(left, y(rate)), (WIDTH - 40.0, y(rate))], "#e3e6ea", false);
        svg.text(left - 8.0, y(rate) + 4.0, "end", &format!("{rate:.1} M/s"));
    }
    for lanes in [16, 64, 256, 1_024, 4_096] {
        svg.text(x(f64::from(lanes)), bottom + 18.0, "middle", &format!("{lanes} lanes"));
    }
    for (place, (workers, producers)) in [(1, 1), (1, 2), (2, 1), (2, 2)].into_iter().enumerate() {
        for arm in ["keylane", "keylane-batch"] {
            let of = points.iter().filter(|(line, _)| {
                line["arm"] == arm && line["workers"] == workers && line["producers"] == producers
            });
            let line: Vec<(f64, f64)> = of
                .map(|(line, rate)| (x(line["lanes"].as_f64().unwrap_or(16.0)), y(*rate)))
                .collect();
            svg.line(&line, COLOURS[place], arm != "keylane");
        }
        let at = left + 190.0 * place as f64;
        svg.line(&[(at, height - 34.0), (at + 24.0, height - 34.0)], COLOURS[place], false);
        svg.text(
            at + 30.0,
            height - 30.0,
            "start",
            &format!("{workers} workers, {producers} producers"),
        );
    }
    svg.text(left, height - 10.0, "start", "solid: submit; dashed: submit_batch of 500");
    svg.end()
}

fn name(line: &Value) -> String {
    line["arm"].as_str().unwrap_or("").to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
