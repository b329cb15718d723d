//! Every option of a NATS bus, in one table that code, text, the environment, the URL, the documentation and
//! validation all come from.

use std::path::PathBuf;
use std::time::Duration;

use super::auth::{Auth, Credentials};
use super::choice::{AckMode, Discard, Retention, Storage, Strategy};
use super::choice::{Choice, File, Subject};
use super::tls::Files;
use super::topic::Topics;
use crate::bus::BusError;
use crate::config::nearest;
use crate::error::ConfigError;
use crate::option::{Count, Flag, Kind, Name, Or, Size, Span};
use crate::runtime::Runtime;

/// Builds a bus over NATS.
///
/// Options are set by calls, by name as text ([`set`](Self::set)), in the query of the servers' URL, and in the
/// environment ([`with_vars`](Self::with_vars)), under one set of names: see [`help`](Self::help).
///
/// ```no_run
/// use std::time::Duration;
/// use keylane::nats::{AckMode, NatsBus};
/// use keylane::{Record, Runtime};
///
/// let runtime = Runtime::builder().build()?;
/// let bus = NatsBus::builder(&runtime, "tls://a.example:4222,b.example?window=4000")
///     .creds_file("/run/secrets/orders.creds")
///     .ack_mode(AckMode::Floor)
///     .ping_interval(Duration::from_secs(2))
///     .connect()
///     .wait()?;
/// bus.publish("orders", Record::new("order-42", "paid")).wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `connect`"]
pub struct NatsBuilder {
    pub(super) runtime: Runtime,
    pub(super) options: NatsOptions,
    /// The first thing that was wrong; `connect` says it.
    pub(super) refused: Option<BusError>,
}

/// A row of the table.
struct Row {
    name: &'static str,
    allowed: &'static str,
    set: fn(&mut NatsOptions, &str) -> Option<()>,
    get: fn(&NatsOptions) -> String,
    fits: fn(&NatsOptions) -> bool,
}

/// A row for each option: what it is; its name, the setter's parameter and how that becomes the field, the field's
/// type; the default, as a value and as text; its kind and, in words, what is allowed.
macro_rules! options {
    ($($(#[doc = $about:literal])+
       $name:ident($given:ident: $param:ty => $convert:expr): $type:ty = $value:expr, $default:literal;
       $kind:expr, $allowed:literal;)+) => {
        /// What a bus over NATS is told. Made by [`NatsBuilder`].
        #[derive(Clone, Debug)]
        pub(super) struct NatsOptions {
            /// The servers' URLs, without any secret.
            pub(super) servers: Vec<String>,
            pub(super) credentials: Credentials,
            pub(super) topics: Topics,
            /// Deliveries that a subscription's buffer takes, other than as many as can be on their way: for tests.
            pub(super) buffer: Option<usize>,
            $($(#[doc = $about])+
            pub(super) $name: $type,)+
        }

        impl Default for NatsOptions {
            fn default() -> Self {
                Self {
                    servers: Vec::new(),
                    credentials: Credentials::default(),
                    topics: Topics::default(),
                    buffer: None,
                    $($name: $value,)+
                }
            }
        }

        /// # Options
        /// They take any value of the type: [`connect`](Self::connect) checks all of them together, and refuses with
        /// [`BusError::Config`](crate::BusError::Config), which names the option, what was given and what is allowed.
        impl NatsBuilder {
            $($(#[doc = $about])+
            ///
            #[doc = concat!("Allowed: ", $allowed, ". Default: `", $default, "`.")]
            pub fn $name(mut self, $given: $param) -> Self {
                self.options.$name = $convert;
                self
            })+

            /// The table of options as Markdown, for a service's own help text.
            ///
            /// ```
            /// assert!(keylane::nats::NatsBuilder::help().contains("| `ack_mode` | `each` |"));
            /// ```
            pub fn help() -> &'static str {
                concat!(
                    "| option | default | allowed | what it is |\n|---|---|---|---|\n",
                    $("| `", stringify!($name), "` | `", $default, "` | ", $allowed, " |", $($about,)+ " |\n",)+
                )
            }
        }

        static OPTIONS: &[Row] = &[$(Row {
            name: stringify!($name),
            allowed: $allowed,
            set: |options, text| {
                options.$name = $kind.parse(text)?;
                Some(())
            },
            get: |options| $kind.write(&options.$name),
            fits: |options| $kind.fits(&options.$name),
        },)+];
    };
}

options! {
    /// What the bus is called in the server's lists of connections.
    name(name: impl Into<String> => name.into()): String = "keylane".to_owned(), "keylane";
        Name(64), "a name of 1 to 64 visible ASCII characters";
    /// What the subjects of replies to us begin with.
    inbox_prefix(subject: impl Into<String> => subject.into()): String = "_INBOX".to_owned(), "_INBOX";
        Subject, "a subject without wildcards";
    /// The JetStream domain, where it is not the server's own.
    domain(domain: impl Into<String> => Some(domain.into())): Option<String> = None, "none";
        Or("none", Name(64)), "`none` or a name of 1 to 64 visible ASCII characters";
    /// What the subjects of JetStream requests begin with, for an account that imports them under another name.
    api_prefix(subject: impl Into<String> => Some(subject.into())): Option<String> = None, "none";
        Or("none", Subject), "`none` or a subject without wildcards";

    /// How long a connection may be silent before it is asked; after three unanswered times it is given up. A message has to
    /// come whole within these three: over a slow link with large messages they want to be longer.
    ping_interval(interval: Duration => interval): Duration = Duration::from_millis(1_500), "1500ms";
        Span(Duration::from_millis(100), MINUTE), "a duration from 100ms to 1m such as 1500ms";
    /// How long one server may take to accept a connection.
    connect_timeout(timeout: Duration => timeout): Duration = Duration::from_secs(5), "5s";
        Span(Duration::from_millis(100), MINUTE), "a duration from 100ms to 1m such as 5s";
    /// How long a request about streams and consumers may take.
    request_timeout(timeout: Duration => timeout): Duration = Duration::from_secs(5), "5s";
        Span(Duration::from_millis(100), MINUTE), "a duration from 100ms to 1m such as 5s";
    /// The pause after every server of the list has failed once; it doubles from then on.
    reconnect_first(pause: Duration => pause): Duration = Duration::from_millis(20), "20ms";
        Span(Duration::from_millis(1), MINUTE), "a duration from 1ms to 1m such as 20ms";
    /// The longest pause between two attempts to connect again, of which there is no end.
    reconnect_most(pause: Duration => pause): Duration = Duration::from_secs(2), "2s";
        Span(Duration::from_millis(1), MINUTE), "a duration from 1ms to 1m such as 2s";

    /// Whether servers are spoken to over TLS only; `tls://` says the same. A server may ask for it itself.
    tls(required: bool => required): bool = false, "false"; Flag, "`true` or `false`";
    /// Whether TLS begins before the server says anything, as `handshake_first` of a server wants it.
    tls_first(first: bool => first): bool = false, "false"; Flag, "`true` or `false`";
    /// The certificates that sign servers, instead of the system's.
    ca_file(path: impl Into<PathBuf> => Some(path.into())): Option<PathBuf> = None, "none";
        Or("none", File), "`none` or the path of a PEM file";
    /// The certificate that is shown to servers, and those that sign it.
    client_cert(path: impl Into<PathBuf> => Some(path.into())): Option<PathBuf> = None, "none";
        Or("none", File), "`none` or the path of a PEM file";
    /// The private key of that certificate.
    client_key(path: impl Into<PathBuf> => Some(path.into())): Option<PathBuf> = None, "none";
        Or("none", File), "`none` or the path of a PEM file";

    /// What is done about the stream of a topic.
    topology(strategy: Strategy => strategy): Strategy = Strategy::CreateOrUpdate, "create_or_update";
        Choice(Strategy::ALL), "`create_only`, `create_or_update`, `validate_only` or `skip`";
    /// Copies of a stream in a cluster; `unset` is as it is, and 1 where it is made.
    replicas(copies: impl Into<Option<usize>> => copies.into()): Option<usize> = None, "unset";
        Or("unset", Count(1, 5)), "`unset` or a number from 1 to 5";
    /// Where a stream is stored; `unset` is as it is, and in files where it is made.
    storage(storage: impl Into<Option<Storage>> => storage.into()): Option<Storage> = None, "unset";
        Or("unset", Choice(Storage::ALL)), "`unset`, `file` or `memory`";
    /// What a stream keeps; `unset` is as it is, and `limits` where it is made.
    retention(kept: impl Into<Option<Retention>> => kept.into()): Option<Retention> = None, "unset";
        Or("unset", Choice(Retention::ALL)), "`unset`, `limits`, `interest` or `work_queue`";
    /// What a full stream gives up; `unset` is as it is, and `old` where it is made.
    discard(given_up: impl Into<Option<Discard>> => given_up.into()): Option<Discard> = None, "unset";
        Or("unset", Choice(Discard::ALL)), "`unset`, `old` or `new`";
    /// How long a stream keeps a message at most, `0` is for ever; `unset` is as it is.
    max_age(age: impl Into<Option<Duration>> => age.into()): Option<Duration> = None, "unset";
        Or("unset", Span(Duration::ZERO, Duration::from_secs(315_360_000))),
        "`unset` or a duration from 0 to 87600h such as 24h";
    /// How many bytes a stream keeps at most, `0` is any number; `unset` is as it is.
    max_bytes(bytes: impl Into<Option<usize>> => bytes.into()): Option<usize> = None, "unset";
        Or("unset", Size(0, 1 << 50)), "`unset` or a number of bytes up to 2^50 such as 4GiB";
    /// How many messages a stream keeps at most, `0` is any number; `unset` is as it is.
    max_messages(messages: impl Into<Option<usize>> => messages.into()): Option<usize> = None, "unset";
        Or("unset", Count(0, 1 << 50)), "`unset` or a number up to 2^50";
    /// For how long a stream knows a message again: longer than `publish_patience`. `unset` is as it is, and where it is
    /// made 2 min, or twice `publish_patience` if that is more.
    duplicate_window(window: impl Into<Option<Duration>> => window.into()): Option<Duration> = None, "unset";
        Or("unset", Span(Duration::from_millis(100), Duration::from_secs(86_400))),
        "`unset` or a duration from 100ms to 24h such as 2m";

    /// How the server learns what is handled.
    ack_mode(mode: AckMode => mode): AckMode = AckMode::Each, "each";
        Choice(AckMode::ALL), "`each`, `floor` or `checkpoint`";
    /// After how long the server takes an unacknowledged delivery for lost.
    /// `unset` is 2 min, and 5 s on interest streams of servers before 2.14, where a recovery waits for as long.
    ack_wait(wait: impl Into<Option<Duration>> => wait.into()): Option<Duration> = None, "unset";
        Or("unset", Span(Duration::from_secs(1), Duration::from_secs(3_600))),
        "`unset` or a duration from 1s to 1h such as 2m";
    /// Deliveries of a source that may be unacknowledged (the server's `max_ack_pending`).
    window(deliveries: usize => deliveries): usize = 10_000, "10000"; Count(1, 65_536), "a number from 1 to 65536";
    /// How often a checkpoint is written.
    checkpoint_interval(interval: Duration => interval): Duration = Duration::from_millis(100), "100ms";
        Span(Duration::from_millis(10), MINUTE), "a duration from 10ms to 1m such as 100ms";

    /// Publishes that may be on their way to the server.
    publish_window(publishes: usize => publishes): usize = 1_000, "1000"; Count(1, 65_536), "a number from 1 to 65536";
    /// Bytes of keys, headers and payloads that may be on their way. A larger record goes alone.
    publish_bytes(bytes: usize => bytes): usize = 32 << 20, "32MiB";
        Size(64 << 10, 1 << 40), "a number of bytes from 64KiB to 1024GiB such as 32MiB";
    /// Publishes that may wait for their turn, or behind another of their key, for at most the runtime's `wait`.
    publish_queue(publishes: usize => publishes): usize = 10_000, "10000"; Count(0, 500_000), "a number up to 500000";
    /// Bytes that may wait so.
    publish_queue_bytes(bytes: usize => bytes): usize = 64 << 20, "64MiB";
        Size(0, 1 << 40), "a number of bytes up to 1024GiB such as 64MiB";
    /// For how long a record with an id is sent again whose outcome is unknown. Shorter than its stream's
    /// `duplicate_window`, by which the server knows it again.
    publish_patience(patience: Duration => patience): Duration = Duration::from_secs(30), "30s";
        Span(Duration::from_millis(10), Duration::from_secs(600)), "a duration from 10ms to 10m such as 30s";
    /// After how long without an answer the outcome of a publish counts as unknown.
    publish_timeout(timeout: Duration => timeout): Duration = Duration::from_secs(5), "5s";
        Span(Duration::from_millis(10), Duration::from_secs(3_600)), "a duration from 10ms to 1h such as 5s";
}

const MINUTE: Duration = Duration::from_secs(60);

/// Options that say who we are. All but the last two hold a secret, or belong to one.
pub(super) const CREDENTIALS: [&str; 6] =
    ["password", "token", "nkey_seed", "creds", "user", "creds_file"];

impl NatsOptions {
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        OPTIONS.iter().map(|row| row.name)
    }

    /// Sets an option by its name and its value as text.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        if self.credentials.set(name, value) {
            return Ok(());
        }
        let row = OPTIONS.iter().find(|row| row.name == name).ok_or_else(|| unknown(name, name))?;
        let before = self.clone();
        (row.set)(self, value).ok_or_else(|| ConfigError::invalid(row.name, value, row.allowed))?;
        if !(row.fits)(self) {
            *self = before;
            return Err(ConfigError::out_of_range(row.name, value, row.allowed));
        }
        Ok(())
    }

    /// An option's value as text; none of a secret.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        OPTIONS.iter().find(|row| row.name == name).map(|row| (row.get)(self))
    }

    /// Checks every option, and those that bound each other. Gives who we are to the servers.
    pub(super) fn validate(&self) -> Result<Auth, ConfigError> {
        if let Some(row) = OPTIONS.iter().find(|row| !(row.fits)(self)) {
            return Err(ConfigError::out_of_range(row.name, &(row.get)(self), row.allowed));
        }
        if self.domain.is_some() && self.api_prefix.is_some() {
            return Err(ConfigError::out_of_range(
                "api_prefix",
                "given",
                "left out beside `domain`",
            ));
        }
        if self.reconnect_first > self.reconnect_most {
            let given = self.get("reconnect_most").unwrap_or_default();
            let allowed = "at least `reconnect_first`";
            return Err(ConfigError::out_of_range("reconnect_most", &given, allowed));
        }
        if self.duplicate_window.is_some_and(|window| window <= self.publish_patience) {
            let given = self.get("duplicate_window").unwrap_or_default();
            let allowed = "longer than `publish_patience`: raise it, or lower `publish_patience`";
            return Err(ConfigError::out_of_range("duplicate_window", &given, allowed));
        }
        let auth = self.credentials.auth()?;
        // What cannot be read is said now, and not by a server that was told nothing.
        auth.answer(&[])?;
        Ok(auth)
    }

    /// The subjects of JetStream requests begin with this.
    pub(super) fn api(&self) -> String {
        match (&self.api_prefix, &self.domain) {
            (Some(prefix), _) => prefix.clone(),
            (None, Some(domain)) => format!("$JS.{domain}.API"),
            (None, None) => "$JS.API".to_owned(),
        }
    }

    pub(super) fn tls_files(&self) -> Files<'_> {
        Files {
            ca: self.ca_file.as_ref(),
            cert: self.client_cert.as_ref(),
            key: self.client_key.as_ref(),
        }
    }
}

/// The error for a name as `given`, of which `name` is what is compared to the options' names.
pub(super) fn unknown(given: &str, name: &str) -> ConfigError {
    ConfigError::unknown(given, nearest(name, NatsOptions::names().chain(CREDENTIALS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_as_documented_and_can_be_set() {
        let defaults = NatsOptions::default();
        assert!(defaults.validate().is_ok());
        for name in NatsOptions::names() {
            let text = defaults.get(name).unwrap();
            let row = format!("| `{name}` | `{text}` |");
            assert!(NatsBuilder::help().contains(&row), "{row} is not in the table");
            let mut options = NatsOptions::default();
            options.set(name, &text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(options.get(name), Some(text));
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_and_nothing_set() {
        for (name, wrong) in [
            ("name", "two words"),
            ("name", ""),
            ("inbox_prefix", "a..b"),
            ("inbox_prefix", "a.>"),
            ("domain", ""),
            ("api_prefix", "*"),
            ("ping_interval", "1"),
            ("ping_interval", "1h"),
            ("replicas", "6"),
            ("storage", "tape"),
            ("ack_mode", "Each"),
            ("window", "0"),
            ("window", "+1"),
            ("checkpoint_interval", "1h"),
            ("tls", "yes"),
            ("ca_file", ""),
        ] {
            let mut options = NatsOptions::default();
            let error = options.set(name, wrong).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("`{name}`")), "{text}");
            assert_eq!(options.get(name), NatsOptions::default().get(name), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_near_one() {
        let error = |name| NatsOptions::default().set(name, "1").unwrap_err().to_string();
        assert_eq!(error("windo"), "no option is called \"windo\"; did you mean `window`?");
        assert_eq!(error("nonsense"), "no option is called \"nonsense\"");
        assert!(error("passwor").contains("`password`"));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let refused = |set: &[(&str, &str)]| {
            let mut options = NatsOptions::default();
            for (name, value) in set {
                options.set(name, value).unwrap();
            }
            options.validate().map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused(&[("domain", "hub"), ("api_prefix", "x")]).contains("beside `domain`"));
        let told = refused(&[("reconnect_first", "3s")]);
        assert!(told.contains("`reconnect_most` is 2s"), "{told}");
        let told = refused(&[("duplicate_window", "30s")]);
        assert!(told.contains("longer than `publish_patience`"), "{told}");
        let told = refused(&[("nkey_seed", "SUcanary")]);
        assert!(told.contains("nkey_seed") && !told.contains("canary"), "{told}");
    }

    #[test]
    fn the_api_is_where_the_options_say() {
        let api = |name, value| {
            let mut options = NatsOptions::default();
            options.set(name, value).unwrap();
            options.api()
        };
        assert_eq!(api("domain", "hub"), "$JS.hub.API");
        assert_eq!(api("api_prefix", "from.hub"), "from.hub");
        assert_eq!(api("domain", "none"), "$JS.API");
    }
}
