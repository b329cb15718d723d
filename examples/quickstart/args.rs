//! The command line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
A month of real flights through one keylane runtime: every aircraft's events in order.

Usage: cargo run --release --example quickstart -- [OPTIONS]

  --file FILE            flights to run, CSV or gzipped CSV with the columns of nycflights13
                         (default: January 2013, bundled)
  --workers N            worker threads (default: the runtime's)
  --lanes N              lanes (default: the runtime's)
  --rate EVENTS_PER_S    publish at this rate, latencies counted from the intended times
                         (default: as fast as it goes; on a terminal, 5 s paced first)
  --bus URL              the bus: memory: (default), or nats://HOST with the feature `nats`
  --keep                 leave this run's streams on the server
  --json                 print the result as one JSON object
  --help                 print this

Exit status: 0 when every event was handled once and in order, 1 when not or when the run was cut
short, 2 when the command line, the file or the bus cannot be used. A server that is lost and found
again on the way may deliver events again: they are counted, and do not fail the run.
";

/// What to run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Args {
    /// The file, if not the bundled month.
    pub(crate) file: Option<PathBuf>,
    pub(crate) workers: Option<NonZeroUsize>,
    pub(crate) lanes: Option<NonZeroUsize>,
    /// Events per second; finite and above zero.
    pub(crate) rate: Option<f64>,
    /// The bus, if not the one in memory.
    pub(crate) bus: Option<String>,
    pub(crate) keep: bool,
    pub(crate) json: bool,
    pub(crate) help: bool,
}

/// Why a command line was refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ArgsError {
    Unknown(String),
    NoValue(&'static str),
    UnwantedValue(&'static str),
    Twice(&'static str),
    Value { option: &'static str, given: String, expected: &'static str },
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(given) => write!(f, "unknown argument {given:?}; see --help"),
            Self::NoValue(option) => write!(f, "{option} needs a value; see --help"),
            Self::UnwantedValue(option) => write!(f, "{option} takes no value"),
            Self::Twice(option) => write!(f, "{option} is given twice"),
            Self::Value { option, given, expected } => {
                write!(f, "{option} is {given:?}, but must be {expected}")
            }
        }
    }
}

impl std::error::Error for ArgsError {}

const OPTIONS: [&str; 9] =
    ["--file", "--workers", "--lanes", "--rate", "--bus", "--keep", "--json", "--help", "-h"];

impl Args {
    /// Reads the arguments that follow the program's name; `--option value` and `--option=value`.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut arguments = arguments.into_iter();
        let mut args = Self::default();
        let mut given = Vec::new();
        while let Some(argument) = arguments.next() {
            let (name, inline) = split(&argument);
            let Some(option) = OPTIONS.into_iter().find(|option| name == *option) else {
                return Err(ArgsError::Unknown(argument.to_string_lossy().into_owned()));
            };
            if given.contains(&option) {
                return Err(ArgsError::Twice(option));
            }
            given.push(option);
            if let Some(flag) = args.flag(option) {
                if inline.is_some() {
                    return Err(ArgsError::UnwantedValue(option));
                }
                *flag = true;
                continue;
            }
            let value = inline.or_else(|| arguments.next()).ok_or(ArgsError::NoValue(option))?;
            match option {
                "--file" => args.file = Some(file(option, value)?),
                "--workers" => args.workers = Some(count(option, &value)?),
                "--lanes" => args.lanes = Some(count(option, &value)?),
                "--bus" => args.bus = Some(url(option, value)?),
                _ => args.rate = Some(rate(option, &value)?),
            }
        }
        Ok(args)
    }

    /// What an option without a value sets.
    fn flag(&mut self, option: &str) -> Option<&mut bool> {
        match option {
            "--json" => Some(&mut self.json),
            "--keep" => Some(&mut self.keep),
            "--help" | "-h" => Some(&mut self.help),
            _ => None,
        }
    }
}

/// `--name=value` in its two parts. Only text is split: a file's name need not be Unicode, but then
/// it is given as an argument of its own.
fn split(argument: &OsStr) -> (OsString, Option<OsString>) {
    match argument.to_str().and_then(|text| text.split_once('=')) {
        Some((name, value)) => (name.into(), Some(value.into())),
        None => (argument.to_owned(), None),
    }
}

fn file(option: &'static str, value: OsString) -> Result<PathBuf, ArgsError> {
    if value.is_empty() {
        return Err(ArgsError::NoValue(option));
    }
    Ok(value.into())
}

fn url(option: &'static str, value: OsString) -> Result<String, ArgsError> {
    match value.into_string() {
        Ok(url) if url.is_empty() => Err(ArgsError::NoValue(option)),
        Ok(url) => Ok(url),
        // It may hold a password.
        Err(_) => {
            Err(ArgsError::Value { option, given: "not UTF-8".to_owned(), expected: "a URL" })
        }
    }
}

fn count(option: &'static str, value: &OsStr) -> Result<NonZeroUsize, ArgsError> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| ArgsError::Value {
        option,
        given: value.to_string_lossy().into_owned(),
        expected: "a whole number above zero",
    })
}

fn rate(option: &'static str, value: &OsStr) -> Result<f64, ArgsError> {
    // Slower than one event in 1,000 s nobody means, and the schedule stays within 64 bits.
    value
        .to_str()
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|rate| (0.001..=1e9).contains(rate))
        .ok_or_else(|| ArgsError::Value {
            option,
            given: value.to_string_lossy().into_owned(),
            expected: "a number of events per second from 0.001 to 1000000000",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn both_spellings_of_a_value_are_read() {
        let spaced = parse("--file a.csv --workers 3 --lanes 64 --rate 1e4 --bus nats://h --json");
        let inline =
            parse("--file=a.csv --workers=3 --lanes=64 --rate=10000 --bus=nats://h --json");
        assert_eq!(spaced, inline);
        assert_eq!(
            spaced,
            Ok(Args {
                file: Some("a.csv".into()),
                workers: NonZeroUsize::new(3),
                lanes: NonZeroUsize::new(64),
                rate: Some(10_000.0),
                bus: Some("nats://h".to_owned()),
                keep: false,
                json: true,
                help: false,
            })
        );
        assert_eq!(parse(""), Ok(Args::default()));
        assert_eq!(parse("-h").map(|args| args.help), Ok(true));
        assert_eq!(parse("--keep").map(|args| (args.keep, args.json)), Ok((true, false)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        let refused = |line: &str, part: &str| {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(part), "{line}: {message}");
        };
        refused("--colour", "unknown argument \"--colour\"");
        refused("flights.csv", "unknown argument");
        refused("--rate", "--rate needs a value");
        refused("--file=", "--file needs a value");
        refused("--bus=", "--bus needs a value");
        refused("--keep=1", "--keep takes no value");
        refused("--json=yes", "--json takes no value");
        refused("--lanes 1 --lanes 2", "--lanes is given twice");
        for bad in ["0", "-1", "two", "1.5", "99999999999999999999999"] {
            refused(&format!("--workers {bad}"), "a whole number above zero");
        }
        for bad in ["0", "-1", "NaN", "inf", "1e300", "1e-300", "fast"] {
            refused(&format!("--rate {bad}"), "a number of events per second");
        }
    }

    #[cfg(unix)]
    #[test]
    fn arguments_that_are_no_text_are_fine_as_files_and_refused_elsewhere() {
        use std::os::unix::ffi::OsStringExt;
        let raw = || OsString::from_vec(vec![b'a', 0xff]);
        let args = Args::parse([OsString::from("--file"), raw()]).unwrap();
        assert_eq!(args.file, Some(raw().into()));
        assert!(Args::parse([raw()]).is_err());
        assert!(Args::parse(["--lanes".into(), raw()]).is_err());
    }
}
