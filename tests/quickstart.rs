//! The quickstart example: its parts, whose own tests run here, and the bundled month.

#![allow(dead_code, reason = "the parts are the example's; not all of them are used here")]

#[path = "../examples/quickstart/args.rs"]
mod args;
#[path = "../examples/quickstart/board.rs"]
mod board;
#[path = "../examples/quickstart/checker.rs"]
mod checker;
#[path = "../examples/quickstart/csv.rs"]
mod csv;
#[path = "../examples/quickstart/event.rs"]
mod event;
#[path = "../examples/quickstart/flights.rs"]
mod flights;
#[path = "../examples/quickstart/instant.rs"]
mod instant;
#[path = "../examples/quickstart/latency.rs"]
mod latency;
#[path = "../examples/quickstart/pace.rs"]
mod pace;
#[path = "../examples/quickstart/progress.rs"]
mod progress;
#[path = "../examples/quickstart/report.rs"]
mod report;
#[path = "../examples/quickstart/run.rs"]
mod run;
#[path = "../examples/quickstart/style.rs"]
mod style;

use event::{Timeline, Topic};

static JANUARY: &[u8] = include_bytes!("../examples/data/flights-2013-01.csv.gz");

#[test]
fn january_has_the_events_that_were_counted_by_other_means() {
    let timeline = Timeline::read(JANUARY).unwrap();
    assert_eq!((timeline.tally.rows, timeline.tally.bad_rows), (27_004, 0));
    assert_eq!(timeline.events.len(), 53_402);
    assert_eq!(Topic::ALL.map(|topic| timeline.count(topic)), [26_483, 26_398, 521]);
    assert_eq!((timeline.tails.len(), timeline.keyless()), (3_148, 155));
    assert!(timeline.events.is_sorted_by_key(|event| event.at));
    let (first, last) = (timeline.events[0], timeline.events[53_401]);
    assert_eq!((first.at, timeline.key(&first)), (1_357_035_420, Some("N14228")));
    assert_eq!((last.at, timeline.key(&last)), (1_359_707_400, Some("N599JB")));
}
