//! The result of a run: as a summary for a person, and as JSON for a program.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use crate::checker::Verdict;
use crate::event::Topic;
use crate::instant::Utc;
use crate::latency::Quantiles;
use crate::pace::Pace;
use crate::run::{Run, Took};
use crate::style::{Style, Tone, counted, short, thousands};

/// All there is to say about a run.
pub(crate) struct Report<'a> {
    /// Where the flights came from.
    pub(crate) source: &'a str,
    pub(crate) run: &'a Run,
    pub(crate) took: &'a [Took],
    pub(crate) verdict: Verdict,
    pub(crate) workers: usize,
    /// How many events each lane handled.
    pub(crate) lanes: &'a [u64],
    /// How often the bus' server was lost and found again.
    pub(crate) reconnects: u64,
    /// What cut the run short.
    pub(crate) trouble: Option<String>,
}

impl Report<'_> {
    /// Whether order and completeness held.
    pub(crate) fn holds(&self) -> bool {
        self.verdict.holds(self.may_repeat()) && self.trouble.is_none()
    }

    /// Whether events may have come again: a server that is lost and found again delivers what it does not know to be
    /// handled.
    fn may_repeat(&self) -> bool {
        self.reconnects > 0
    }

    /// One JSON object. Times are of the last pass; quantiles are null if nothing was handled.
    pub(crate) fn json(&self) -> String {
        let timeline = &self.run.timeline;
        let events = timeline.events.len() * self.run.passes.len();
        let elapsed = self.took.last().map_or(0.0, |took| took.elapsed.as_secs_f64());
        let last = self.run.passes.last();
        let quantiles = last.and_then(|pass| pass.latencies.quantiles());
        let micros = |nanos: fn(Quantiles) -> u64| quantiles.map(|q| nanos(q) as f64 / 1e3);
        let rate = match last.map(|pass| pass.pace) {
            Some(Pace::PerSecond(rate)) => Some(rate),
            _ => None,
        };
        let handled_last = last.map_or(0, |pass| pass.latencies.count());
        let per_second = if elapsed > 0.0 { handled_last as f64 / elapsed } else { 0.0 };
        serde_json::json!({
            "rows": timeline.tally.rows,
            "bad_rows": timeline.tally.bad_rows,
            "events": events,
            "handled": self.verdict.handled,
            "lost": self.verdict.lost,
            "duplicates": self.verdict.duplicates,
            "order_violations": self.verdict.order_violations,
            "strangers": self.verdict.strangers,
            "keys": timeline.tails.len(),
            "keyless": timeline.keyless() * self.run.passes.len(),
            "anomalies": last.map_or(0, |pass| pass.board.anomalies().0),
            "elapsed_s": elapsed,
            "events_per_s": per_second,
            "p50_us": micros(|q| q.p50),
            "p99_us": micros(|q| q.p99),
            "p999_us": micros(|q| q.p999),
            "max_us": micros(|q| q.greatest),
            "latencies": if rate.is_some() { "paced" } else { "under flood" },
            "rate": rate,
            "workers": self.workers,
            "lanes": self.lanes.len(),
            "reconnects": self.reconnects,
            "trouble": self.trouble,
            "ok": self.holds(),
        })
        .to_string()
    }

    /// The summary for a person.
    pub(crate) fn text(&self, style: Style) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut Page { text: &mut text, style });
        text
    }

    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        self.write_input(page)?;
        page.heading("Runs")?;
        for (pass, took) in self.run.passes.iter().zip(self.took) {
            let quantiles = pass.latencies.quantiles();
            page.line(pace_name(pass.pace), speed(pass.latencies.count(), took.elapsed))?;
            page.line("", latency_line(pass.pace, quantiles))?;
        }
        self.write_checks(page)?;
        self.write_anomalies(page)?;
        self.write_busiest(page)?;
        self.write_lanes(page)
    }

    fn write_input(&self, page: &mut Page<'_>) -> fmt::Result {
        let timeline = &self.run.timeline;
        let tally = &timeline.tally;
        page.heading("Flights")?;
        let bad = match tally.bad_rows {
            0 => String::new(),
            bad => format!(", {} skipped", counted(bad, "malformed row", "malformed rows")),
        };
        page.line(
            "source",
            format!("{}: {}{bad}", self.source, counted(tally.rows, "row", "rows")),
        )?;
        if let (Some(first), Some(last)) = (timeline.events.first(), timeline.events.last()) {
            page.line("period", format!("{} to {} UTC", Utc(first.at), Utc(last.at)))?;
        }
        let [departed, arrived, cancelled] =
            Topic::ALL.map(|topic| thousands(timeline.count(topic) as u64));
        let events = counted(timeline.events.len() as u64, "event", "events");
        page.line(
            "events",
            format!("{events}: {departed} departed, {arrived} arrived, {cancelled} cancelled"),
        )?;
        let keyless = counted(timeline.keyless() as u64, "event has", "events have");
        page.line(
            "aircraft",
            format!("{} ({keyless} none)", thousands(timeline.tails.len() as u64)),
        )?;
        page.line(
            "runtime",
            format!(
                "{}, {}",
                counted(self.workers as u64, "worker", "workers"),
                counted(self.lanes.len() as u64, "lane", "lanes")
            ),
        )
    }

    fn write_checks(&self, page: &mut Page<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        page.heading("Checks")?;
        let published = self.run.timeline.events.len() * self.run.passes.len();
        let handled = format!("{} of {}", thousands(verdict.handled), thousands(published as u64));
        page.check(verdict.lost, "nothing lost", "lost", &format!("{handled} events handled"))?;
        if self.may_repeat() {
            let again = counted(verdict.duplicates, "event", "events");
            let detail = format!("{again} handled again: at least once is what is promised");
            page.check(0, "server lost and back", "", &detail)?;
        } else {
            let detail = "each event handled once";
            page.check(verdict.duplicates, "nothing twice", "handled twice", detail)?;
        }
        page.check(
            verdict.order_violations,
            "everything in order",
            "out of order",
            "per topic and aircraft, one at a time",
        )?;
        if verdict.strangers > 0 {
            page.check(verdict.strangers, "", "never published", "in the form they were handled")?;
        }
        for fault in &verdict.faults {
            page.item(fault)?;
        }
        if let Some(trouble) = &self.trouble {
            page.check(1, "", "", trouble)?;
        }
        Ok(())
    }

    fn write_anomalies(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(pass) = self.run.passes.last() else { return Ok(()) };
        let (count, anomalies) = pass.board.anomalies();
        if count == 0 {
            return Ok(());
        }
        page.heading("Anomalies in the data")?;
        let times = counted(count, "time", "times");
        let said = format!("{times} an aircraft departs before its recorded arrival:");
        let said = page.style.paint(Tone::Odd, &said);
        page.item(said)?;
        for anomaly in &anomalies {
            let tail = &self.run.timeline.tails[anomaly.aircraft as usize];
            page.item(format!(
                "{:<8} {} UTC, {} early (line {})",
                shown_name(tail),
                Utc(anomaly.departed),
                counted(anomaly.minutes_early.unsigned_abs(), "minute", "minutes"),
                thousands(anomaly.line.into())
            ))?;
        }
        let more = count.saturating_sub(anomalies.len() as u64);
        if more > 0 { page.item(format!("and {} more", thousands(more))) } else { Ok(()) }
    }

    fn write_busiest(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(pass) = self.run.passes.last() else { return Ok(()) };
        let busiest = pass.board.busiest(5);
        let most = busiest.first().map_or(0, |&(_, _, events)| events);
        if most == 0 {
            return Ok(());
        }
        page.heading("Busiest aircraft")?;
        for (tail, flights, events) in busiest {
            let bar = page.style.bar(events.into(), most.into(), 32);
            page.line(
                &shown_name(tail),
                format!("{events:>5} events, {flights:>4} flights  {bar}"),
            )?;
        }
        Ok(())
    }

    fn write_lanes(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut sorted = self.lanes.to_vec();
        sorted.sort_unstable();
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return Ok(()) };
        page.heading("Load of the lanes")?;
        if page.style.terminal {
            // At most a row of 64 characters: neighbouring lanes share one.
            let shared = self.lanes.len().div_ceil(64);
            let mean = |lanes: &[u64]| lanes.iter().sum::<u64>() / lanes.len() as u64;
            let bars: Vec<u64> = self.lanes.chunks(shared).map(mean).collect();
            let heights = page.style.heights(&bars);
            page.item(heights)?;
        }
        page.item(format!(
            "events a lane: {} least, {} median, {} most",
            thousands(*least),
            thousands(sorted[sorted.len() / 2]),
            thousands(*most)
        ))
    }
}

fn pace_name(pace: Pace) -> &'static str {
    match pace {
        Pace::FlatOut => "flat out",
        Pace::PerSecond(_) => "paced",
    }
}

/// A tail number as the file has it, which may be anything, in a word that a terminal can take.
fn shown_name(tail: &str) -> String {
    tail.chars().take(12).flat_map(char::escape_debug).collect()
}

/// How many events went through in which time.
fn speed(events: u64, elapsed: Duration) -> String {
    let rate = if elapsed.is_zero() { 0.0 } else { events as f64 / elapsed.as_secs_f64() };
    format!("{} events/s ({} in {})", thousands(rate as u64), thousands(events), short(elapsed))
}

/// Latencies in one line, and what they mean at this pace.
pub(crate) fn latency_line(pace: Pace, quantiles: Option<Quantiles>) -> String {
    let Some(quantiles) = quantiles else { return "nothing handled".to_owned() };
    let shown = |nanos| short(Duration::from_nanos(nanos));
    let meaning = match pace {
        Pace::FlatOut => "under flood: the wait in the queue counts",
        Pace::PerSecond(_) => "from when each was due",
    };
    format!(
        "p50 {}, p99 {}, p99.9 {} to handled ({meaning})",
        shown(quantiles.p50),
        shown(quantiles.p99),
        shown(quantiles.p999)
    )
}

/// Lines under headings.
struct Page<'a> {
    text: &'a mut String,
    style: Style,
}

impl Page<'_> {
    fn heading(&mut self, heading: &str) -> fmt::Result {
        if !self.text.is_empty() {
            writeln!(self.text)?;
        }
        writeln!(self.text, "{}", self.style.paint(Tone::Title, heading))
    }

    fn line(&mut self, name: &str, value: impl Display) -> fmt::Result {
        let name = self.style.paint(Tone::Faint, &format!("{name:<9}"));
        writeln!(self.text, "  {name} {value}")
    }

    fn item(&mut self, value: impl Display) -> fmt::Result {
        writeln!(self.text, "  {value}")
    }

    /// A check that holds if `count` is zero.
    fn check(&mut self, count: u64, holds: &str, fails: &str, detail: &str) -> fmt::Result {
        let mark = self.style.mark(count == 0);
        let said = match (count, fails) {
            (0, _) => holds.to_owned(),
            (_, "") => return writeln!(self.text, "  {mark} {detail}"),
            _ => format!("{} {fails}", thousands(count)),
        };
        let said = format!("{said:<20}");
        let said = if count == 0 { said } else { self.style.paint(Tone::Bad, &said) };
        writeln!(self.text, "  {mark} {said} {}", self.style.paint(Tone::Faint, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timeline;
    use std::convert::Infallible;

    const ROWS: &str = "dep_time,dep_delay,air_time,tailnum,minute,time_hour\n\
        900,0,60,N1,0,2013-01-01T10:00:00Z\n\
        oops\n\
        900,0,60,N1,30,2013-01-01T10:00:00Z\n\
        NA,NA,NA,NA,0,2013-01-01T11:00:00Z\n";

    /// A run whose bus calls the handler at once; `skip` events get lost.
    fn with_report<T>(rows: &str, skip: usize, look: impl FnOnce(&Report<'_>) -> T) -> T {
        let run = Run::new(Timeline::read(rows.as_bytes()).unwrap(), &[Pace::FlatOut], 1);
        let mut seen = 0;
        let publish = |topic, key: Option<&str>, _, payload: &[u8]| {
            seen += 1;
            if seen > skip {
                run.handle(topic, key.map(str::as_bytes), payload).unwrap();
            }
            Ok::<_, Infallible>(())
        };
        // Patience is for real buses: here what is lost never comes.
        let took = if skip == 0 {
            run.publish(publish, || Ok(())).unwrap()
        } else {
            run.publish_pass(0, &mut vec![0; run.timeline.slots()], publish).unwrap();
            vec![Took::default()]
        };
        look(&Report {
            source: "test",
            run: &run,
            took: &took,
            verdict: run.checker.verdict(),
            workers: 2,
            lanes: &[3, 0, 2],
            reconnects: 0,
            trouble: None,
        })
    }

    fn json(report: &Report<'_>) -> serde_json::Value {
        serde_json::from_str(&report.json()).unwrap()
    }

    #[test]
    fn json_holds_what_programs_look_for() {
        let json = with_report(ROWS, 0, json);
        let expected = [
            ("rows", 3),
            ("bad_rows", 1),
            ("events", 5),
            ("handled", 5),
            ("lost", 0),
            ("duplicates", 0),
            ("order_violations", 0),
            ("keys", 1),
            ("keyless", 1),
            ("anomalies", 1),
            ("workers", 2),
            ("lanes", 3),
        ];
        for (field, value) in expected {
            assert_eq!(json[field], value, "{field}");
        }
        for field in ["elapsed_s", "p50_us", "p99_us", "p999_us"] {
            assert!(json[field].as_f64().is_some_and(|value| value >= 0.0), "{field}");
        }
        assert_eq!((&json["latencies"], &json["ok"]), (&"under flood".into(), &true.into()));
    }

    #[test]
    fn losses_show_everywhere() {
        with_report(ROWS, 2, |report| {
            let json = json(report);
            assert_eq!((json["lost"].as_u64(), json["handled"].as_u64()), (Some(2), Some(3)));
            assert_eq!(json["ok"], false);
            assert!(!report.holds());
            assert!(report.text(Style::default()).contains("FAIL 2 lost"));
        });
    }

    #[test]
    fn what_came_again_is_told_and_forgiven_only_after_a_reconnect() {
        with_report(ROWS, 0, |report| {
            let verdict = Verdict { duplicates: 2, ..report.verdict.clone() };
            let once = Report { verdict: verdict.clone(), trouble: None, ..*report };
            assert!(!once.holds() && once.text(Style::default()).contains("FAIL 2 handled twice"));
            let lost_and_back = Report { verdict, reconnects: 1, trouble: None, ..*report };
            assert!(lost_and_back.holds());
            assert_eq!(json(&lost_and_back)["duplicates"], 2);
            let text = lost_and_back.text(Style::default());
            assert!(text.contains("ok   server lost and back 2 events handled again"), "{text}");
        });
    }

    #[test]
    fn trouble_spoils_a_run_that_is_otherwise_fine() {
        with_report(ROWS, 0, |report| {
            assert!(report.holds());
            let trouble = Some("the bus closed".to_owned());
            let report = Report { trouble, verdict: report.verdict.clone(), ..*report };
            assert!(!report.holds());
            assert!(report.text(Style::default()).contains("FAIL the bus closed"));
        });
    }

    #[test]
    fn the_plain_summary_is_ascii_but_for_units_and_says_what_matters() {
        let text = with_report(ROWS, 0, |report| report.text(Style::default()));
        for part in [
            "3 rows, 1 malformed row skipped",
            "5 events: 2 departed, 2 arrived, 1 cancelled",
            "2013-01-01 10:00 to 2013-01-01 11:30 UTC",
            "under flood",
            "ok   nothing lost         5 of 5 events handled",
            "N1       2013-01-01 10:30 UTC, 30 minutes early (line 4)",
            "0 least, 2 median, 3 most",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert!(text.replace('µ', "u").is_ascii(), "{text}");
    }

    #[test]
    fn no_events_have_a_report_too() {
        let header = ROWS.lines().next().unwrap();
        with_report(header, 0, |report| {
            let json = json(report);
            assert_eq!((&json["events"], &json["p50_us"]), (&0.into(), &serde_json::Value::Null));
            assert!(report.holds() && report.text(Style::default()).contains("nothing handled"));
        });
    }
}
