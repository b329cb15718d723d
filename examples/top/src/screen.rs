//! The view on a terminal of any size.

use std::time::Duration;

use keylane_top::view::{Lane, Source, View};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use crate::app::App;
use crate::keys::{Row, bound_name};

/// From this width on there is a second column.
const WIDE: u16 = 100;
/// The second column's width.
const SIDE: u16 = 44;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    let [head, body, message, help] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Min(0),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header(app, head.width)), head);
    frame.render_widget(Paragraph::new(said(app)), message);
    let keys = "↑↓ choose  p park  s skip  r resume  space pause  q quit";
    frame.render_widget(Paragraph::new(keys).style(Style::new().fg(Color::DarkGray)), help);
    let Some(view) = &app.view else {
        let text = format!("waiting for {} …", app.address);
        return frame.render_widget(Paragraph::new(text), body);
    };
    let [heat, body] =
        Layout::vertical([Constraint::Length(heat_height(view, body)), Constraint::Min(0)])
            .areas(body);
    draw_heat(frame, app, view, heat);
    if area.width >= WIDE && body.height >= 8 {
        let [keys, _, side] = Layout::horizontal([
            Constraint::Min(0),
            Constraint::Length(1),
            Constraint::Length(SIDE),
        ])
        .areas(body);
        draw_keys(frame, app, keys);
        draw_side(frame, app, view, side);
        return;
    }
    let foot = u16::from(body.height >= 5);
    let [keys, foot] = Layout::vertical([Constraint::Min(0), Constraint::Length(foot)]).areas(body);
    draw_keys(frame, app, keys);
    let bounds = bounds(view);
    let line = if bounds.is_empty() { workers_line(view) } else { format!("used up: {bounds}") };
    frame.render_widget(Paragraph::new(line), foot);
}

fn header(app: &App, width: u16) -> Vec<Line<'static>> {
    let mut first = vec![Span::styled("keylane", Style::new().add_modifier(Modifier::BOLD))];
    first.push(Span::raw(format!(" {}", app.address)));
    let Some(view) = &app.view else { return vec![Line::from(first)] };
    first.push(Span::raw(format!("  {}", view.phase)));
    if app.paused {
        first.push(Span::styled("  paused", Style::new().fg(Color::Yellow)));
    }
    let outcome = |name: &str| view.outcomes.get(name).copied().unwrap_or(0);
    let rates = format!(
        "{}/s handled  {} in flight  {} done",
        short(app.rates.done()),
        view.in_flight,
        short(outcome("done") as f64)
    );
    let latency = |part| app.rates.latency(part).map_or("-".to_owned(), time);
    let mut third =
        format!("p50 {}  p99 {}  p99.9 {}", latency(0.5), latency(0.99), latency(0.999));
    if width >= 70 {
        for (name, shown) in [
            ("retries", "retries"),
            ("dead_lettered", "dead"),
            ("parked", "followed"),
            ("skipped", "skipped"),
            ("panics", "panics"),
        ] {
            third.push_str(&format!("  {shown} {}", short(outcome(name) as f64)));
        }
    }
    vec![Line::from(first), Line::raw(rates), Line::raw(third)]
}

fn said(app: &App) -> Line<'static> {
    let warning = Style::new().fg(Color::Black).bg(Color::Yellow);
    if let Some((deed, target)) = &app.confirm {
        return Line::styled(format!("{} y/n", deed.question(target)), warning);
    }
    if let Some(trouble) = &app.trouble {
        let text = format!("no connection, trying again: {trouble}");
        return Line::styled(text, Style::new().fg(Color::White).bg(Color::Red));
    }
    match &app.message {
        Some((text, true)) => Line::styled(text.clone(), Style::new().fg(Color::Red)),
        Some((text, false)) => Line::styled(text.clone(), Style::new().fg(Color::Green)),
        None => Line::raw(""),
    }
}

/// Rows for the lanes, a cell each where that leaves room for the keys; with a title and an empty line.
fn heat_height(view: &View, area: Rect) -> u16 {
    let rows = view.lanes.len().div_ceil(usize::from(area.width.max(1)));
    let most = usize::from(area.height.saturating_sub(2)) * 2 / 5;
    rows.clamp(1, most.max(1)) as u16 + 1
}

fn draw_heat(frame: &mut Frame<'_>, app: &App, view: &View, area: Rect) {
    let cells = usize::from(area.width) * usize::from(area.height.saturating_sub(1));
    let a_cell = view.lanes.len().div_ceil(cells.max(1)).max(1);
    let each = if a_cell == 1 { String::new() } else { format!(", {a_cell} a cell") };
    let title =
        format!("{} lanes{each}  · idle ░ busy ▒ 1+ ▓ 10+ █ 100+ waiting", view.lanes.len());
    let mut lines = vec![Line::styled(title, Style::new().fg(Color::Cyan))];
    let cells: Vec<_> = (0..)
        .step_by(a_cell)
        .zip(view.lanes.chunks(a_cell))
        .map(|(first, lanes)| {
            let works = (first..first + lanes.len()).any(|lane| app.rates.is_at_work(lane));
            heat(lanes, works)
        })
        .collect();
    lines.extend(cells.chunks(usize::from(area.width.max(1))).map(|row| Line::from(row.to_vec())));
    frame.render_widget(Paragraph::new(lines), area);
}

/// Some lanes as one character: the fullest counts.
fn heat(lanes: &[Lane], works: bool) -> Span<'static> {
    let waiting = lanes.iter().map(|lane| lane.depth + lane.held.saturating_sub(lane.keys)).max();
    let (glyph, color) = match waiting.unwrap_or(0) {
        0 if !works => ("·", Color::DarkGray),
        0 => ("░", Color::Green),
        1..=9 => ("▒", Color::LightGreen),
        10..=99 => ("▓", Color::Yellow),
        _ => ("█", Color::Red),
    };
    Span::styled(glyph, Style::new().fg(color))
}

fn draw_keys(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let area = titled(
        frame,
        area,
        &format!("keys that wait, are parked, or are busiest: {}", app.rows.len()),
    );
    let room = usize::from(area.height);
    let first = app.place().saturating_sub(room.saturating_sub(1));
    let shown = app.rows.iter().enumerate().skip(first).take(room);
    let lines = shown.map(|(place, row)| key_line(row, place == app.place(), area.width));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn key_line(row: &Row, chosen: bool, width: u16) -> Line<'static> {
    let mark = if chosen { "▶" } else { " " };
    let share =
        if row.share >= 0.001 { format!("{:.1}%", row.share * 100.0) } else { String::new() };
    let waiting = if row.waiting > 0 { format!("{} wait", row.waiting) } else { String::new() };
    let (key_width, name_width) = if width >= 70 { (20, 10) } else { (12, 8) };
    let mut text = format!(
        "{mark} {:key_width$} {:name_width$} {share:>6} {waiting:>9} ",
        cut(&row.key(), key_width),
        cut(&row.id.0, name_width),
    );
    if row.waiting > 0 {
        text.push_str(&format!("{} ", time(row.held_for)));
    }
    text.push_str(&row.state());
    let color = match row {
        Row { waiting: 1.., .. } => Color::Red,
        Row { parked: Some(_), .. } => Color::Magenta,
        Row { why: Some(_), .. } => Color::Yellow,
        _ => Color::Reset,
    };
    let style = Style::new().fg(color);
    Line::styled(text, if chosen { style.add_modifier(Modifier::REVERSED) } else { style })
}

fn draw_side(frame: &mut Frame<'_>, app: &App, view: &View, area: Rect) {
    let mut lines = Vec::new();
    let heading = |text: String| Line::styled(text, Style::new().fg(Color::Cyan));
    lines.push(heading(workers_line(view)));
    for (number, worker) in view.workers.iter().enumerate() {
        let at = match &worker.running {
            Some(running) => {
                let key = running
                    .key
                    .as_ref()
                    .map_or(String::new(), |key| key.escape_ascii().to_string());
                let late = if running.overruns { " OVERRUNS" } else { "" };
                format!("{} {}{late}", running.subscription, cut(&key, 16))
            }
            None if worker.asleep => "asleep".into(),
            None => "awake".into(),
        };
        let rate = short(app.rates.worker(number));
        lines.push(Line::raw(format!("w{number} {rate:>6}/s {:>3} lanes {at}", worker.waiting)));
    }
    let (threads, calls) = view.blocking;
    lines.push(Line::raw(format!(
        "blocking: {threads} threads, {calls} calls wait; {} spares",
        view.spares
    )));
    lines.push(heading("subscriptions".into()));
    for subscription in &view.subscriptions {
        let rate = app.rates.subscription(&subscription.name);
        let rate = rate.map_or(String::new(), |rate| format!("{}/s", short(rate)));
        let state = match &subscription.stopped_by {
            Some(_) => " STOPPED".to_owned(),
            None => {
                format!(" {} parked, {} running", subscription.parked_keys, subscription.running)
            }
        };
        lines.push(Line::raw(format!("{:12} {rate:>9}{state}", cut(&subscription.name, 12))));
    }
    if !view.sources.is_empty() {
        lines.push(heading("sources".into()));
        lines.extend(view.sources.iter().map(|source| Line::raw(source_line(source))));
    }
    lines.push(heading("bounds used up".into()));
    match bounds(view) {
        none if none.is_empty() => lines.push(Line::raw("none")),
        some => lines.push(Line::styled(some, Style::new().fg(Color::Red))),
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn source_line(source: &Source) -> String {
    let Source { name, subscription, lag, window, window_limit, stopped } = source;
    let state = if *stopped { " STOPPED" } else { "" };
    format!("{} {} lag {lag} {window}/{window_limit}{state}", cut(subscription, 12), cut(name, 14))
}

fn workers_line(view: &View) -> String {
    let running = view.workers.iter().filter(|worker| worker.running.is_some()).count();
    let asleep = view.workers.iter().filter(|w| w.asleep && w.running.is_none()).count();
    format!("{} workers: {running} run, {asleep} asleep", view.workers.len())
}

fn bounds(view: &View) -> String {
    view.bounds.iter().map(bound_name).collect::<Vec<_>>().join(", ")
}

/// A title with the rest of the area below it.
fn titled(frame: &mut Frame<'_>, area: Rect, title: &str) -> Rect {
    let block = Block::new().title(Line::styled(title.to_owned(), Style::new().fg(Color::Cyan)));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// A number in at most five characters.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}G", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

fn time(time: Duration) -> String {
    match time.as_nanos() {
        n if n < 1_000 => format!("{n} ns"),
        n if n < 1_000_000 => format!("{:.0} µs", n as f64 / 1e3),
        n if n < 1_000_000_000 => format!("{:.1} ms", n as f64 / 1e6),
        n => format!("{:.1} s", n as f64 / 1e9),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn app(lanes: usize) -> App {
        let lanes: Vec<_> = (0..lanes)
            .map(|lane| serde_json::json!({"depth": lane % 300, "held": 3, "keys": 1, "handled": lane}))
            .collect();
        let busy: Vec<_> = (0..50)
            .map(|n| {
                serde_json::json!({"subscription": "a-long-name-of-a-subscription", "key": vec![200; n + 1],
                    "why": "Future", "waiting": n, "bound": "KeyWaiting"})
            })
            .collect();
        let worker = serde_json::json!({"running": {"subscription": "s", "key": [255, 0], "overruns": true}});
        let snapshot = serde_json::json!({
            "phase": "Running", "lanes": lanes, "busy": busy, "bounds": ["KeyWaiting", {"bound": "SourceWindow"}],
            "workers": [worker, {}], "subscriptions": [{"name": "s", "stopped_by": {"error": "e"}}],
            "sources": [{"name": "t/0", "lag": 7}]
        });
        let answer = serde_json::json!({"protocol": 1, "at_nanos": 1, "operable": ["s"], "snapshot": snapshot});
        let mut app = App::new("127.0.0.1:1".into());
        app.take(serde_json::from_value(answer).unwrap());
        app
    }

    #[test]
    fn any_size_is_drawn() {
        for lanes in [0, 1, 256, 4_096, 65_536] {
            let mut app = app(lanes);
            for (width, height) in [
                (0, 0),
                (1, 1),
                (5, 3),
                (10, 5),
                (40, 12),
                (80, 24),
                (100, 14),
                (120, 40),
                (300, 90),
            ] {
                let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                for place in [0, 49] {
                    (0..place).for_each(|_| {
                        let down = crossterm::event::KeyCode::Down;
                        assert!(app.press(down.into()).is_none());
                    });
                    terminal.draw(|frame| draw(frame, &app)).unwrap();
                }
            }
        }
        let mut terminal = Terminal::new(TestBackend::new(40, 12)).unwrap();
        terminal.draw(|frame| draw(frame, &App::new("there".into()))).unwrap();
    }

    #[test]
    fn every_lane_has_its_cell_where_there_is_room() {
        for (lanes, width, height, a_cell) in
            [(256, 120, 40, 1), (4_096, 200, 60, 1), (4_096, 80, 24, 9), (256, 40, 12, 4)]
        {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &app(lanes))).unwrap();
            let buffer = terminal.backend().buffer();
            let glyphs = buffer.content().iter().map(|cell| cell.symbol());
            let cells = glyphs.filter(|glyph| ["·", "░", "▒", "▓", "█"].contains(glyph)).count();
            // The legend has each of them once.
            let legend = if width >= 60 { 5 } else { 4 };
            assert!(
                cells >= lanes / a_cell && cells <= lanes / a_cell + 5 + legend,
                "{lanes} {width}x{height}: {cells}"
            );
        }
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 9_999.0, 12_345.0, 1.25e6, 3e9].map(short);
        assert_eq!(shown, ["0", "9999", "12k", "1.2M", "3.0G"]);
        let times = [5, 7_000, 1_500_000, 2_500_000_000].map(|n| time(Duration::from_nanos(n)));
        assert_eq!(times, ["5 ns", "7 µs", "1.5 ms", "2.5 s"]);
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".into(), "ab…".into()));
    }
}
