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

/// The example itself, run as a user runs it.
#[allow(clippy::unwrap_used, reason = "clippy takes only the tests themselves for tests")]
mod program {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};
    use std::sync::OnceLock;

    const HEADER: &str = "dep_time,dep_delay,air_time,tailnum,minute,time_hour\n";

    /// Cargo puts examples beside the tests' folder, and builds them with all tests but not with
    /// this one alone.
    fn program() -> &'static Path {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        PROGRAM.get_or_init(|| {
            let test = std::env::current_exe().unwrap();
            let profile = test.parent().and_then(Path::parent).unwrap();
            let name = format!("quickstart{}", std::env::consts::EXE_SUFFIX);
            let program = profile.join("examples").join(name);
            if !program.exists() {
                let profile = match profile.file_name().and_then(|name| name.to_str()) {
                    None | Some("debug") => "dev",
                    Some(name) => name,
                };
                let cargo = Command::new(env!("CARGO"))
                    .args(["build", "--example", "quickstart", "--profile", profile])
                    .current_dir(env!("CARGO_MANIFEST_DIR"))
                    .status();
                assert!(cargo.unwrap().success() && program.exists(), "{}", program.display());
            }
            program
        })
    }

    fn run(args: &[&str]) -> Output {
        Command::new(program()).args(args).output().unwrap()
    }

    fn json(output: &Output) -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs on a file with these contents.
    fn run_on(name: &str, contents: &[u8], args: &[&str]) -> Output {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, contents).unwrap();
        run(&[&["--file", path.to_str().unwrap()], args].concat())
    }

    #[test]
    fn january_goes_through_whole_and_in_order() {
        for args in [&["--json"][..], &["--json", "--workers", "1", "--lanes", "1"]] {
            let output = run(args);
            let json = json(&output);
            assert_eq!(output.status.code(), Some(0), "{json}");
            let expected = [
                ("rows", 27_004),
                ("bad_rows", 0),
                ("events", 53_402),
                ("handled", 53_402),
                ("lost", 0),
                ("duplicates", 0),
                ("order_violations", 0),
                ("keys", 3_148),
                ("anomalies", 6),
            ];
            for (field, value) in expected {
                assert_eq!(json[field], value, "{field} with {args:?}");
            }
            for field in ["elapsed_s", "p50_us", "p99_us"] {
                assert!(json[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {json}");
            }
        }
    }

    #[test]
    fn workers_and_lanes_are_as_asked() {
        let json = json(&run(&["--json", "--workers=3", "--lanes=7"]));
        assert_eq!((&json["workers"], &json["lanes"]), (&3.into(), &7.into()));
    }

    #[test]
    fn malformed_rows_are_shown_and_do_not_fail_the_run() {
        let rows = format!(
            "{HEADER}900,0,60,N1,0,2013-01-01T10:00:00Z\nnonsense\n\
             900,late,60,N1,0,2013-01-01T10:00:00Z\nNA,NA,NA,NA,0,2013-01-01T10:00:00Z\n"
        );
        let output = run_on("malformed.csv", rows.as_bytes(), &["--json"]);
        let json = json(&output);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!((&json["rows"], &json["bad_rows"]), (&2.into(), &2.into()));
        assert_eq!((&json["events"], &json["keys"]), (&3.into(), &1.into()));
        let shown = String::from_utf8(output.stderr).unwrap();
        assert!(shown.contains("line 3: 1 columns, but the header has 6"), "{shown}");
        assert!(shown.contains("line 4: dep_delay is \"late\""), "{shown}");
    }

    #[test]
    fn a_rate_is_kept() {
        let mut rows = HEADER.to_owned();
        for minute in 0..50 {
            rows.push_str(&format!("900,0,NA,N{minute},{minute},2013-01-01T10:00:00Z\n"));
        }
        let json = json(&run_on("paced.csv", rows.as_bytes(), &["--json", "--rate", "500"]));
        // The last of 50 events is due 98 ms after the first.
        assert!(json["elapsed_s"].as_f64().is_some_and(|elapsed| elapsed >= 0.098), "{json}");
        assert_eq!((&json["latencies"], &json["lost"]), (&"paced".into(), &0.into()));
    }

    #[test]
    fn without_a_terminal_the_summary_is_plain_and_says_what_the_latencies_are() {
        let output = run(&[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(!text.contains(['\u{1b}', '\r']), "{text}");
        for part in ["27,004 rows", "under flood", "53,402 of 53,402", "N730MQ"] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_file_without_flights_is_a_run_without_events() {
        let output = run_on("header.csv", HEADER.as_bytes(), &["--json"]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(json(&output)["events"], 0);
    }

    #[test]
    fn what_cannot_be_run_is_refused_in_words() {
        let refused = |output: Output, part: &str| {
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(part) && output.stdout.is_empty(), "{said}");
        };
        refused(run(&["--speed", "9"]), "unknown argument \"--speed\"");
        refused(run(&["--workers", "0"]), "--workers is \"0\"");
        refused(run(&["--workers", "99999999999"]), "workers");
        refused(run(&["--file", "no-such-file.csv"]), "no-such-file.csv cannot be read");
        refused(run_on("other.csv", b"a,b\n1,2\n", &[]), "has no column dep_time");
        refused(run_on("empty.csv", b"", &[]), "is empty");
        refused(run_on("broken.gz", b"\x1f\x8bnot really", &[]), "cannot be read");
    }

    #[test]
    fn help_is_no_failure() {
        let output = run(&["--help"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains("--rate EVENTS_PER_S"));
    }
}
