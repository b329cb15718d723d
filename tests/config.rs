//! Every way to set an option knows the same names, ranges and defaults.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::ffi::OsString;
use std::time::Duration;

use keylane::{Config, ConfigError, LaneHash, Pinning};
use proptest::prelude::*;

/// A row of the documentation: name, default, allowed.
fn documented() -> Vec<[String; 3]> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    Config::help()
        .lines()
        .skip(2)
        .map(|line| {
            let cells = cells(line);
            assert!(cells.len() == 6 && cells[4].ends_with('.'), "{line}");
            [cells[1].trim_matches('`').into(), cells[2].trim_matches('`').into(), cells[3].clone()]
        })
        .collect()
}

/// A value of each option that is in range and not the default.
const OTHER: [(&str, &str); 22] = [
    ("lanes", "64"),
    ("slots", "500"),
    ("wait", "2s"),
    ("workers", "3"),
    ("spares", "0"),
    ("steal", "false"),
    ("pinning", "0,2,3"),
    ("quantum", "32"),
    ("spin", "50us"),
    ("heartbeat", "100ms"),
    ("overrun", "5ms"),
    ("blocking_threads", "8"),
    ("blocking_idle", "1m"),
    ("key_waiting", "10"),
    ("lane_waiting", "100"),
    ("source_window", "1000"),
    ("source_bytes", "5KiB"),
    ("parked_keys", "5"),
    ("hash", "fnv1a32"),
    ("seed", "18446744073709551615"),
    ("thread_name", "billing"),
    ("stack_size", "512KiB"),
];

fn built() -> Config {
    Config::default()
        .lanes(64)
        .slots(500)
        .wait(Duration::from_secs(2))
        .workers(3)
        .spares(0)
        .steal(false)
        .pinning(Pinning::Cores(vec![0, 2, 3]))
        .quantum(32)
        .spin(Duration::from_micros(50))
        .heartbeat(Duration::from_millis(100))
        .overrun(Duration::from_millis(5))
        .blocking_threads(8)
        .blocking_idle(Duration::from_secs(60))
        .key_waiting(10)
        .lane_waiting(100)
        .source_window(1_000)
        .source_bytes(5 << 10)
        .parked_keys(5)
        .hash(LaneHash::Fnv1a32)
        .seed(u64::MAX)
        .thread_name("billing")
        .stack_size(512 << 10)
}

/// Derived from the fields themselves, so that an option left out of a test shows.
fn fields() -> Vec<String> {
    let shown = format!("{:#?}", Config::default());
    shown
        .lines()
        .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
        .map(|line| line.trim().split(':').next().unwrap().to_owned())
        .filter(|name| name.starts_with(char::is_alphabetic))
        .collect()
}

#[test]
fn every_road_knows_the_same_names() {
    let names: Vec<&str> = Config::names().collect();
    assert_eq!(fields(), names);
    assert_eq!(documented().iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), names);
    assert_eq!(OTHER.map(|(name, _)| name).to_vec(), names);
}

#[test]
fn every_road_leads_to_the_same_configuration() {
    let expected = built();
    expected.validate().unwrap();

    let mut by_name = Config::default();
    for (name, text) in OTHER {
        assert_ne!(by_name.get(name).as_deref(), Some(text), "{name}: that is the default");
        by_name.set(name, text).unwrap();
        assert_eq!(by_name.get(name).as_deref(), Some(text), "{name}");
    }
    assert_eq!(by_name, expected);

    let vars = OTHER.map(|(name, text)| (format!("KEYLANE_{}", name.to_uppercase()), text));
    assert_eq!(Config::default().with_vars(vars), Ok(expected));
}

#[test]
fn the_documented_default_is_the_default() {
    let config = Config::default();
    config.validate().unwrap();
    for [name, default, _] in documented() {
        assert_eq!(config.get(&name), Some(default.clone()), "{name}");
        let mut again = built();
        again.set(&name, &default).unwrap();
        assert_eq!(again.get(&name), Some(default), "{name}");
    }
    assert_eq!((config.lanes, config.slots, config.wait.as_millis()), (256, 1_000, 500));
}

/// The value one below or above, in the smallest unit of a number with one.
fn step(text: &str, up: bool) -> Option<String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().unwrap();
    let (factor, unit) = match &text[digits..] {
        "h" => (3_600_000_000_000, "ns"),
        "s" => (1_000_000_000, "ns"),
        "ms" => (1_000_000, "ns"),
        "us" => (1_000, "ns"),
        "GiB" => (1 << 30, ""),
        "KiB" => (1 << 10, ""),
        "" => (1, ""),
        unit => panic!("{unit}"),
    };
    let stepped = if up { number * factor + 1 } else { (number * factor).checked_sub(1)? };
    Some(format!("{stepped}{unit}"))
}

#[test]
fn the_documented_range_is_the_range() {
    let mut ranges = 0;
    for [name, _, allowed] in documented() {
        let words: Vec<&str> = allowed.split(' ').collect();
        let Some(at) = words.iter().position(|&word| word == "from") else { continue };
        let (from, to) = (words[at + 1], words[at + 3]);
        let mut config = Config::default();
        config.set(&name, from).unwrap();
        config.set(&name, to).unwrap();
        let before = config.clone();
        for outside in [step(from, false), step(to, true)].into_iter().flatten() {
            let refused = config.set(&name, &outside).unwrap_err();
            let out_of_range = matches!(refused, ConfigError::OutOfRange { .. });
            // A duration of so many nanoseconds from zero upwards needs its unit to be one.
            assert!(out_of_range, "{name} {outside}: {refused}");
            assert!(refused.to_string().contains(&allowed));
        }
        assert_eq!(config, before, "a refused value changes nothing");
        ranges += 1;
    }
    assert_eq!(ranges, 17, "the ranges were found in the text");
}

#[test]
fn what_the_setters_take_unchecked_is_refused_by_validate() {
    let hour = Duration::from_secs(3_600) + Duration::from_nanos(1);
    let bad = |config: Config| match config.validate() {
        Err(ConfigError::OutOfRange { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(bad(Config::default().lanes(0)), "lanes");
    assert_eq!(bad(Config::default().lanes(usize::MAX)), "lanes");
    assert_eq!(bad(Config::default().slots(0)), "slots");
    assert_eq!(bad(Config::default().wait(hour)), "wait");
    assert_eq!(bad(Config::default().wait(Duration::MAX)), "wait");
    assert_eq!(bad(Config::default().workers(0)), "workers");
    assert_eq!(bad(Config::default().spares(65)), "spares");
    assert_eq!(bad(Config::default().pinning(Pinning::Cores(vec![]))), "pinning");
    assert_eq!(bad(Config::default().pinning(Pinning::Cores(vec![1, 1]))), "pinning");
    assert_eq!(bad(Config::default().spin(hour)), "spin");
    assert_eq!(bad(Config::default().heartbeat(Duration::ZERO)), "heartbeat");
    assert_eq!(bad(Config::default().overrun(Duration::ZERO)), "overrun");
    assert_eq!(bad(Config::default().stack_size(0)), "stack_size");
    for name in ["", "has space", "nul\0", "toolongforathread", "é"] {
        assert_eq!(bad(Config::default().thread_name(name)), "thread_name", "{name:?}");
    }
}

#[test]
fn all_lanes_together_are_bounded() {
    assert!(Config::default().lanes(65_536).slots(1_024).validate().is_ok());
    let refused = Config::default().lanes(65_536).slots(1_025).validate().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "option `slots` is 1025 in each of 65536 lanes, but must be 67108864 in all lanes at most"
    );
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let nearest = |name: &str| match Config::default().set(name, "1") {
        Err(ConfigError::Unknown { name: given, nearest }) => {
            assert!(name.starts_with(given.trim_end_matches("...")));
            nearest
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(nearest("lane"), Some("lanes"));
    assert_eq!(nearest("quantun"), Some("quantum"));
    assert_eq!(nearest("blocking-threads"), Some("blocking_threads"));
    assert_eq!(nearest("Lanes"), Some("lanes"));
    assert_eq!(nearest("colour"), None);
    assert_eq!(nearest(""), None);
    assert_eq!(nearest(&"lanes".repeat(1 << 16)), None);
}

#[test]
fn values_that_cannot_be_read_are_refused_in_words() {
    let refused =
        |name: &str, text: &str| Config::default().set(name, text).unwrap_err().to_string();
    assert_eq!(
        refused("wait", "500"),
        "option `wait` is \"500\", but a duration from 0 to 1h such as 500ms is expected"
    );
    assert_eq!(
        refused("steal", "yes"),
        "option `steal` is \"yes\", but `true` or `false` is expected"
    );
    assert!(refused("lanes", "-1").contains("a number from 1 to 65536"));
    assert!(refused("lanes", &"9".repeat(1 << 20)).len() < 200, "an error's text is bounded");
    for (name, text) in [("hash", "md5"), ("pinning", "0,,1"), ("seed", "-1"), ("workers", "AUTO")]
    {
        assert!(refused(name, text).contains(name));
    }
}

#[test]
fn the_environment_is_taken_by_prefix_and_unknown_names_in_it_are_refused() {
    let with = |name: &str, value: &str| Config::default().with_vars([(name, value)]);
    assert_eq!(with("KEYLANE_LANES", "8").unwrap().lanes, 8);
    assert_eq!(with("LANES", "8"), Ok(Config::default()));
    assert_eq!(with("keylane_lanes", "8"), Ok(Config::default()));
    for unknown in ["KEYLANE_", "KEYLANE_LANE", "KEYLANE_lanes", "KEYLANE_Lanes"] {
        assert!(matches!(with(unknown, "8"), Err(ConfigError::Unknown { .. })), "{unknown}");
    }
    let hint = with("KEYLANE_LANE", "8").unwrap_err().to_string();
    assert!(hint.contains("KEYLANE_LANE") && hint.contains("`lanes`"), "{hint}");
    assert!(matches!(with("KEYLANE_LANES", "0"), Err(ConfigError::OutOfRange { .. })));
    assert!(matches!(with("KEYLANE_LANES", "\u{fffd}"), Err(ConfigError::Invalid { .. })));
}

#[cfg(unix)]
#[test]
fn an_environment_that_is_not_utf_8_is_an_error_not_a_panic() {
    use std::os::unix::ffi::OsStringExt;
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let with = |name: &[u8], value: &[u8]| Config::default().with_vars([(raw(name), raw(value))]);
    assert!(matches!(with(b"KEYLANE_\xff", b"1"), Err(ConfigError::Unknown { .. })));
    assert!(matches!(with(b"KEYLANE_LANES", b"1\xff"), Err(ConfigError::Invalid { .. })));
    assert!(matches!(with(b"KEYLANE_THREAD_NAME", b"\xff"), Err(ConfigError::OutOfRange { .. })));
    assert_eq!(with(b"\xff", b"\xff"), Ok(Config::default()));
}

/// The names of options, or anything.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(OTHER.map(|(name, _)| name.to_owned()).to_vec()),
        1 => any::<String>(),
    ]
}

/// A number, often small enough for a range, and often with a unit; a list; or anything.
fn text() -> impl Strategy<Value = String> {
    let units = vec!["", "ns", "us", "ms", "s", "m", "h", "KiB", "MiB", "GiB", ",", "-"];
    let number = prop_oneof![(0..100_u64), any::<u64>()];
    let unit = proptest::sample::select(units);
    let measured = (number, unit).prop_map(|(number, unit)| format!("{number}{unit}"));
    prop_oneof![
        3 => measured.clone(),
        1 => proptest::collection::vec(measured, 0..4).prop_map(|parts| parts.concat()),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_panics_and_what_is_taken_is_given_back(name in name(), text in text()) {
        let mut config = Config::default();
        if config.set(&name, &text).is_ok() {
            let written = config.get(&name).unwrap();
            let mut again = Config::default();
            prop_assert_eq!(again.set(&name, &written), Ok(()));
            prop_assert_eq!(&again, &config);
            // No single option can be set to what `validate` refuses, the common bound aside.
            prop_assert!(config.validate().is_ok() || ["lanes", "slots"].contains(&name.as_str()));
        } else {
            prop_assert_eq!(config, Config::default());
        }
    }
}

#[cfg(feature = "serde")]
mod serde {
    use super::*;

    #[test]
    fn json_and_toml_lead_to_the_same_configuration() {
        let expected = built();
        let json = serde_json::to_string(&expected).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), expected, "{json}");
        let toml = toml::to_string(&expected).unwrap();
        assert_eq!(toml::from_str::<Config>(&toml).unwrap(), expected, "{toml}");
        for line in ["lanes = 64", "steal = false", "wait = \"2s\"", "pinning = \"0,2,3\""] {
            assert!(toml.lines().any(|found| found == line), "{line}: {toml}");
        }
        let names: Vec<&str> = toml.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, Config::names().collect::<Vec<_>>());
    }

    #[test]
    fn strings_numbers_and_booleans_are_taken() {
        let read = |text: &str| toml::from_str::<Config>(text).unwrap();
        assert_eq!(read(""), Config::default());
        let text = "lanes = \"64\"\nworkers = \"auto\"\nwait = 0\nsteal = \"false\"\npinning = 2\nseed = 7";
        let expected = Config::default()
            .lanes(64)
            .wait(Duration::ZERO)
            .steal(false)
            .pinning(Pinning::Cores(vec![2]))
            .seed(7);
        assert_eq!(read(text), expected);
        let digits = Config::default().thread_name("007");
        let json = serde_json::to_string(&digits).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), digits);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |text: &str| serde_json::from_str::<Config>(text).unwrap_err().to_string();
        assert!(refused(r#"{"lane": 1}"#).contains("did you mean `lanes`?"));
        assert!(refused(r#"{"lanes": 0}"#).contains("a number from 1 to 65536"));
        assert!(refused(r#"{"lanes": -1}"#).contains("a number from 1 to 65536"));
        assert!(refused(r#"{"wait": 500}"#).contains("500ms"));
        assert!(refused(r#"{"lanes": 1, "lanes": 2}"#).contains("duplicate"));
        assert!(refused(r#"{"lanes": null}"#).contains("a whole number"));
        assert!(refused(r#"{"lanes": 1.5}"#).contains("a whole number"));
        assert!(refused("[]").contains("a map of options"));
    }
}

/// A service that sets both by its environment reads each with its own builder.
#[test]
fn the_environment_of_a_bus_is_left_to_it() {
    let vars = [("KEYLANE_NATS_WINDOW", "7"), ("KEYLANE_LANES", "8")];
    assert_eq!(Config::default().with_vars(vars).unwrap().lanes, 8);
    let error = Config::default().with_vars([("KEYLANE_NATSWINDOW", "7")]).unwrap_err();
    assert!(error.to_string().contains("KEYLANE_NATSWINDOW"), "{error}");
}
