//! Every option of a runtime, in one table that code, text, the environment, serde, the
//! documentation and validation all come from.

use std::ffi::OsString;
use std::time::Duration;

use crate::error::ConfigError;
use crate::hash::LaneHash;
use crate::option::{Cores, Count, Flag, Kind, Mapping, Name, Or, Seed, Shape, Size, Span};
use crate::pinning::Pinning;

/// What precedes an option's name, in capitals, in the environment.
const PREFIX: &str = "KEYLANE_";
/// What follows it in the names of a bus' options, which are read by that bus' builder.
const BUSES: &str = "NATS_";
/// Slots of all lanes together: 4 GiB of address space at 64 bytes each.
const MAX_SLOTS: usize = 1 << 26;

/// A row of the table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    allowed: &'static str,
    #[cfg_attr(not(feature = "serde"), expect(dead_code, reason = "text needs no shapes"))]
    shape: Shape,
    set: fn(&mut Config, &str) -> Result<(), Refusal>,
    get: fn(&Config) -> String,
    fits: fn(&Config) -> bool,
}

/// Why a text was not taken.
enum Refusal {
    Unreadable,
    OutOfRange,
}

/// A row for each option: what it is; its name, the setter's parameter and the field's type; the
/// default, as a value and as text; its kind and, in words, what is allowed.
macro_rules! options {
    ($($(#[doc = $about:literal])+
       $name:ident($param:ty): $type:ty = $value:expr, $default:literal;
       $kind:expr, $allowed:literal;)+) => {
        /// The options of a runtime.
        ///
        /// Each is set by its name: in code, as text ([`Config::set`]), in the environment
        /// ([`Config::from_env`]: `lanes` is `KEYLANE_LANES`) and, with the feature `serde`, in any
        /// self-describing format such as TOML and JSON. Names that are not in this table are refused.
        ///
        #[doc = options!(@table $($name, $default, $allowed, ($($about),+);)+)]
        ///
        /// `lanes` × `slots` is at most 67108864 as well.
        ///
        /// ```
        /// use keylane::Config;
        /// use std::time::Duration;
        ///
        /// let mut config = Config::default().lanes(64).workers(4).wait(Duration::from_millis(100));
        /// config.set("quantum", "128")?;
        /// config.validate()?;
        /// assert_eq!(config.quantum, 128);
        ///
        /// let refused = config.set("quantun", "128").unwrap_err();
        /// assert!(refused.to_string().contains("did you mean `quantum`?"));
        /// # Ok::<(), keylane::ConfigError>(())
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Config {
            $($(#[doc = $about])+
            ///
            #[doc = concat!("Allowed: ", $allowed, ". Default: `", $default, "`.")]
            pub $name: $type,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $value,)+ }
            }
        }

        /// # Setters
        /// They take any value of the type: [`Config::validate`], which building a runtime calls,
        /// checks all of them together.
        impl Config {
            $($(#[doc = $about])+
            ///
            #[doc = concat!("Allowed: ", $allowed, ". Default: `", $default, "`.")]
            #[must_use]
            #[allow(clippy::useless_conversion, reason = "not all of them convert to their own type")]
            pub fn $name(mut self, $name: $param) -> Self {
                self.$name = $name.into();
                self
            })+

            /// The table of options as Markdown, for a service's own help text.
            ///
            /// ```
            /// assert!(keylane::Config::help().contains("| `lanes` | `256` |"));
            /// ```
            pub fn help() -> &'static str {
                options!(@table $($name, $default, $allowed, ($($about),+);)+)
            }
        }

        static OPTIONS: &[Row] = &[$(Row {
            name: stringify!($name),
            allowed: $allowed,
            shape: shape(&$kind),
            set: |config, text| assign(&$kind, &mut config.$name, text),
            get: |config| $kind.write(&config.$name),
            fits: |config| $kind.fits(&config.$name),
        },)+];
    };
    (@table $($name:ident, $default:literal, $allowed:literal, ($($about:literal),+);)+) => {
        concat!(
            "| option | default | allowed | what it is |\n|---|---|---|---|\n",
            $("| `", stringify!($name), "` | `", $default, "` | ", $allowed, " |", $($about,)+ " |\n",)+
        )
    };
}

options! {
    /// Lanes: rings with an order of their own, to which keys are spread by their hash.
    lanes(usize): usize = 256, "256"; Count(1, 65_536), "a number from 1 to 65536";
    /// Slots of each lane: records that wait in its ring.
    slots(usize): usize = 1_000, "1000"; Count(1, 1_048_576), "a number from 1 to 1048576";
    /// How long a submit waits for a slot of a full lane before it gives the record back.
    wait(Duration): Duration = Duration::from_millis(500), "500ms";
        Span(Duration::ZERO, HOUR), "a duration from 0 to 1h such as 500ms";
    /// Threads that run handlers; `auto` is one for each that the machine runs at once.
    workers(impl Into<Option<usize>>): Option<usize> = None, "auto";
        Or("auto", Count(1, 1_024)), "`auto` or a number from 1 to 1024";
    /// Threads that may start in addition, while handlers overrun and nobody is free to take over.
    spares(usize): usize = 4, "4"; Count(0, 64), "a number from 0 to 64";
    /// Whether an idle worker takes whole lanes that wait for a busy one.
    steal(bool): bool = true, "true"; Flag, "`true` or `false`";
    /// The cores that workers are bound to.
    pinning(Pinning): Pinning = Pinning::Auto, "auto";
        Cores, "`off`, `auto` or a list of up to 1024 different cores such as 0,2,4-5";
    /// Records of a lane that a worker handles before other lanes have their turn.
    quantum(usize): usize = 64, "64"; Count(1, 65_536), "a number from 1 to 65536";
    /// How long an idle worker spins before it sleeps; `auto` decides by the machine's cores and quota.
    spin(impl Into<Option<Duration>>): Option<Duration> = None, "auto";
        Or("auto", Span(Duration::ZERO, Duration::from_millis(1))),
        "`auto` or a duration from 0 to 1ms such as 20us";
    /// How often a sleeping worker looks around, should a wake-up ever have been missed.
    heartbeat(Duration): Duration = Duration::from_millis(250), "250ms";
        Span(Duration::from_millis(10), Duration::from_secs(10)),
        "a duration from 10ms to 10s such as 250ms";
    /// How long a handler may run before the other lanes of its worker are taken over.
    overrun(Duration): Duration = Duration::from_millis(1), "1ms";
        Span(Duration::from_micros(100), Duration::from_secs(60)),
        "a duration from 100us to 60s such as 1ms";
    /// Threads that run blocking handlers, at most.
    blocking_threads(usize): usize = 64, "64"; Count(1, 4_096), "a number from 1 to 4096";
    /// How long a thread for blocking handlers stays without work.
    blocking_idle(Duration): Duration = Duration::from_secs(10), "10s";
        Span(Duration::ZERO, HOUR), "a duration from 0 to 1h such as 10s";
    /// Records that wait behind one busy key before its lane stops.
    key_waiting(usize): usize = 1_000, "1000"; Count(1, 1_048_576), "a number from 1 to 1048576";
    /// Records of a lane that are under way or wait behind busy keys before the lane stops.
    lane_waiting(usize): usize = 4_096, "4096"; Count(1, 1_048_576), "a number from 1 to 1048576";
    /// Records of a source that are delivered above its frontier before it is read no further.
    source_window(usize): usize = 65_536, "65536"; Count(1, 4_194_304), "a number from 1 to 4194304";
    /// Bytes of a source's records that are under way before it is read no further.
    source_bytes(usize): usize = 64 << 20, "64MiB";
        Size(1 << 10, 1 << 30), "a number of bytes from 1KiB to 1GiB such as 64MiB";
    /// Keys of a subscription that may be parked before a further failure stops the source.
    parked_keys(usize): usize = 10_000, "10000"; Count(0, 1_000_000), "a number from 0 to 1000000";
    /// How a key is mapped to a lane.
    hash(LaneHash): LaneHash = LaneHash::Rapid, "rapid"; Mapping, "`rapid` or `fnv1a32`";
    /// What the hash of keys starts from; `random` is another for every runtime, a number repeats the mapping.
    seed(impl Into<Option<u64>>): Option<u64> = None, "random";
        Or("random", Seed), "`random` or a number below 2^64";
    /// How threads are called: `-w0` and so on follow.
    thread_name(impl Into<String>): String = "keylane".to_owned(), "keylane";
        Name(12), "a name of 1 to 12 visible ASCII characters";
    /// Stack of each thread.
    stack_size(usize): usize = 2 << 20, "2MiB";
        Size(64 << 10, 1 << 30), "a number of bytes from 64KiB to 1GiB such as 2MiB";
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Config {
    /// Names of all options, in the table's order.
    ///
    /// ```
    /// assert!(keylane::Config::names().any(|name| name == "stack_size"));
    /// ```
    pub fn names() -> impl Iterator<Item = &'static str> {
        OPTIONS.iter().map(|row| row.name)
    }

    /// Sets an option by its name and its value as text: numbers in digits, durations such as
    /// `500ms`, `100us` or `0`.
    ///
    /// # Errors
    /// No option has the name, or the value cannot be read or is out of range; nothing is set then.
    ///
    /// ```
    /// let mut config = keylane::Config::default();
    /// assert!(config.set("lanes", "64").is_ok());
    /// assert!(config.set("lanes", "0").is_err());
    /// assert_eq!(config.lanes, 64);
    /// ```
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let row = OPTIONS.iter().find(|row| row.name == name).ok_or_else(|| unknown(name, name))?;
        (row.set)(self, value).map_err(|refusal| match refusal {
            Refusal::Unreadable => ConfigError::invalid(row.name, value, row.allowed),
            Refusal::OutOfRange => ConfigError::out_of_range(row.name, value, row.allowed),
        })
    }

    /// An option's value as the text that [`Config::set`] takes; `None` if no option has the name.
    ///
    /// ```
    /// assert_eq!(keylane::Config::default().get("wait").as_deref(), Some("500ms"));
    /// ```
    pub fn get(&self, name: &str) -> Option<String> {
        OPTIONS.iter().find(|row| row.name == name).map(|row| (row.get)(self))
    }

    /// The defaults, overridden by the process's environment: `KEYLANE_LANES=64`.
    ///
    /// # Errors
    /// As [`Config::with_vars`].
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::default().with_vars(std::env::vars_os())
    }

    /// Overrides options by those of `vars` whose name begins with `KEYLANE_`, those of a bus (`KEYLANE_NATS_`) aside.
    /// With [`std::env::vars_os`], the environment overrides what a file has set.
    ///
    /// # Errors
    /// A name begins with `KEYLANE_` and is no option's, or a value cannot be read or is out of range.
    ///
    /// ```
    /// use keylane::Config;
    ///
    /// let config = Config::default().lanes(8).with_vars([("KEYLANE_WORKERS", "2"), ("HOME", "/")])?;
    /// assert_eq!((config.lanes, config.workers), (8, Some(2)));
    /// assert!(config.with_vars([("KEYLANE_WORKER", "2")]).is_err());
    /// # Ok::<(), keylane::ConfigError>(())
    /// ```
    pub fn with_vars<K, V>(
        mut self,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        for (name, value) in vars {
            let name = name.into();
            // What is not UTF-8 becomes replacement characters, which no option's name or value has.
            let name = name.to_string_lossy();
            let Some(capitals) = name.strip_prefix(PREFIX) else { continue };
            if capitals.starts_with(BUSES) {
                continue;
            }
            let option = capitals.to_ascii_lowercase();
            if option.to_ascii_uppercase() != capitals || !Self::names().any(|name| name == option)
            {
                return Err(unknown(&name, &option));
            }
            self.set(&option, &value.into().to_string_lossy())?;
        }
        Ok(self)
    }

    /// Checks every option, and those that bound each other.
    ///
    /// # Errors
    /// The first option of the table that is out of its range.
    ///
    /// ```
    /// use keylane::Config;
    ///
    /// assert!(Config::default().validate().is_ok());
    /// let refused = Config::default().lanes(0).validate().unwrap_err();
    /// assert_eq!(refused.to_string(), "option `lanes` is 0, but must be a number from 1 to 65536");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(row) = OPTIONS.iter().find(|row| !(row.fits)(self)) {
            return Err(ConfigError::out_of_range(row.name, &(row.get)(self), row.allowed));
        }
        // Both are in range by now, so that the product cannot overflow.
        if self.lanes * self.slots > MAX_SLOTS {
            let given = format!("{} in each of {} lanes", self.slots, self.lanes);
            return Err(ConfigError::out_of_range(
                "slots",
                &given,
                "67108864 in all lanes at most",
            ));
        }
        Ok(())
    }
}

const fn shape<K: Kind>(_kind: &K) -> Shape {
    K::SHAPE
}

fn assign<K: Kind>(kind: &K, option: &mut K::Value, text: &str) -> Result<(), Refusal> {
    let value = kind.parse(text).ok_or(Refusal::Unreadable)?;
    if !kind.fits(&value) {
        return Err(Refusal::OutOfRange);
    }
    *option = value;
    Ok(())
}

/// The error for a name as `given`, of which `name` is what is compared to the options' names.
fn unknown(given: &str, name: &str) -> ConfigError {
    ConfigError::unknown(given, nearest(name, Config::names()))
}

/// The option that a wrong name was probably meant to be.
pub(crate) fn nearest(
    name: &str,
    options: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    options
        .map(|option| (distance(name, option), option))
        .min()
        .filter(|&(distance, option)| distance <= option.len() / 3 + 1)
        .map(|(_, option)| option)
}

/// Insertions, deletions and replacements between two names; of a long one, its beginning counts.
fn distance(given: &str, option: &str) -> usize {
    let mut row: Vec<usize> = (0..=option.len()).collect();
    for (above, left) in given.bytes().take(32).enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (column, right) in option.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(feature = "serde")]
pub(crate) mod serde_impl {
    use super::{Config, OPTIONS, Shape, unknown};
    use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
    use serde::ser::{Serialize, SerializeMap, Serializer};
    use std::fmt;

    impl Serialize for Config {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(OPTIONS.len()))?;
            for row in OPTIONS {
                let text = (row.get)(self);
                // Not all formats have unsigned 64-bit numbers: a larger one stays text.
                match (row.shape, text.parse::<i64>(), text.parse::<bool>()) {
                    (Shape::Number, Ok(number), _) => map.serialize_entry(row.name, &number)?,
                    (Shape::Flag, _, Ok(flag)) => map.serialize_entry(row.name, &flag)?,
                    _ => map.serialize_entry(row.name, &text)?,
                }
            }
            map.end()
        }
    }

    /// Options that are not given keep their defaults.
    impl<'de> serde::Deserialize<'de> for Config {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Options)
        }
    }

    struct Options;

    impl<'de> Visitor<'de> for Options {
        type Value = Config;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of options")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Config, A::Error> {
            let mut config = Config::default();
            let mut seen = [false; OPTIONS.len()];
            while let Some(name) = map.next_key_seed(Text)? {
                let Some(index) = OPTIONS.iter().position(|row| row.name == name) else {
                    return Err(A::Error::custom(unknown(&name, &name)));
                };
                if std::mem::replace(&mut seen[index], true) {
                    return Err(A::Error::duplicate_field(OPTIONS[index].name));
                }
                let value = map.next_value_seed(Text)?;
                config.set(&name, &value).map_err(A::Error::custom)?;
            }
            Ok(config)
        }
    }

    /// A string, number or boolean, as text.
    pub(crate) struct Text;

    impl<'de> DeserializeSeed<'de> for Text {
        type Value = String;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string, a whole number or a boolean")
        }

        fn visit_bool<E: Error>(self, flag: bool) -> Result<String, E> {
            Ok(flag.to_string())
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_that_of_edits() {
        assert_eq!(distance("lanes", "lanes"), 0);
        assert_eq!(distance("lane", "lanes"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "spin"), 4);
        assert_eq!(distance(&"x".repeat(1 << 20), "spin"), 32);
    }

    #[test]
    fn enums_and_their_options_say_the_same() {
        let allowed = |name| OPTIONS.iter().find(|row| row.name == name).unwrap().allowed;
        assert_eq!(allowed("hash"), LaneHash::ALLOWED);
        assert_eq!(allowed("pinning"), Pinning::ALLOWED);
    }
}
