//! The line that moves while events go through.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::instant::Utc;
use crate::pace::Pace;
use crate::run::{Pass, Run};
use crate::style::{Style, Tone, short};

const REDRAW: Duration = Duration::from_millis(100);

/// Calls `work` while another thread redraws the line: the terminal may be slow, and the publisher
/// keeps a schedule.
pub(crate) fn shown_while<T>(run: &Run, style: Style, work: impl FnOnce() -> T) -> T {
    if !style.terminal {
        return work();
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let drawer = scope.spawn(|| {
            while !over.load(Relaxed) {
                draw(&line(run, style));
                // `unpark` ends the wait early.
                thread::park_timeout(REDRAW);
            }
            draw("");
        });
        // Also if `work` panics, or the scope would wait for the drawer for ever.
        let _stop = OnDrop(|| {
            over.store(true, Relaxed);
            drawer.thread().unpark();
        });
        work()
    })
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Replaces the line. A terminal that is gone is no reason to stop.
fn draw(line: &str) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
}

/// Where the pass under way stands.
fn line(run: &Run, style: Style) -> String {
    let started = |pass: &&Pass| pass.published.load(Relaxed) > 0;
    let Some(pass) = run.passes.iter().rev().find(started) else { return String::new() };
    let events = &run.timeline.events;
    let handled = pass.latencies.count();
    let bar = style.bar(handled, events.len() as u64, 24);
    let drawn = (handled * 24).div_ceil((events.len() as u64).max(1)).min(24) as usize;
    let room = " ".repeat(24 - drawn);
    let date = (handled as usize).checked_sub(1).and_then(|last| events.get(last));
    let date = date.map(|event| Utc(event.at).to_string()).unwrap_or_default();
    let name = match pass.pace {
        Pace::FlatOut => "flat out",
        Pace::PerSecond(_) => "paced",
    };
    let name = style.paint(Tone::Faint, &format!("{name:<9}"));
    let latencies = pass.latencies.quantiles().map_or(String::new(), |quantiles| {
        let shown = |nanos| short(Duration::from_nanos(nanos));
        format!("p50 {}, p99 {}", shown(quantiles.p50), shown(quantiles.p99))
    });
    format!("  {name} {bar}{room} {date:<16}  {latencies}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timeline;

    #[test]
    fn the_line_tells_how_far_it_is() {
        let text = "dep_time,dep_delay,air_time,tailnum,minute,time_hour\n\
            900,0,60,N1,0,2013-01-01T10:00:00Z\n";
        let timeline = Timeline::read(text.as_bytes()).unwrap();
        let run = Run::new(timeline, &[Pace::FlatOut], 1);
        assert_eq!(line(&run, Style::default()), "");
        let publish = |topic, key: Option<&str>, _, payload: &[u8]| {
            run.handle(topic, key.map(str::as_bytes), payload)
        };
        run.publish(publish, || Ok(())).unwrap();
        assert!(line(&run, Style::default()).contains(&"#".repeat(24)));
        assert!(line(&run, Style::default()).contains("2013-01-01 11:00"));
        assert!(line(&run, Style::default()).contains("p50"));
    }

    #[test]
    fn without_a_terminal_the_work_is_all_that_happens() {
        let timeline = Timeline::read(&b"dep_time,dep_delay,air_time,tailnum,minute,time_hour"[..]);
        let run = Run::new(timeline.unwrap(), &[], 1);
        assert_eq!(shown_while(&run, Style::default(), || 7), 7);
    }
}
