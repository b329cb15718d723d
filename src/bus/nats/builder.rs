//! Building a bus over NATS.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::link::Links;
use super::nats_bus::{Nats, NatsBus};
use super::options::{CREDENTIALS, NatsBuilder, NatsOptions, unknown};
use super::secret::Secret;
use super::shared::Shared;
use super::topic::TopicRefused;
use super::topic_options::TopicOptions;
use super::url::Address;
use crate::bus::pending::pending;
use crate::bus::{Bus, BusError, BusHealth};
use crate::error::ConfigError;
use crate::reply::{Answer, reply};
use crate::runtime::Runtime;
use crate::sync::Arc;

/// What precedes an option's name, in capitals, in the environment.
const PREFIX: &str = "KEYLANE_NATS_";

pending! {
    /// A connect to NATS under way: a future, and something a plain thread can wait for.
    ///
    /// # Cancel safety
    /// Dropped, what is connected is closed.
    NatsConnecting, NatsBus
}

impl NatsBus {
    /// A builder for a bus over these servers: `nats://[user:password@|token@]host[:port]`, or `tls://` for servers
    /// that are to be reached over TLS only; more of them behind commas. Options may stand in the query:
    /// `nats://a,b?ack_mode=floor&window=1000`. What means something else in a URL is written `%XX`.
    pub fn builder(runtime: &Runtime, servers: &str) -> NatsBuilder {
        NatsBuilder::new(runtime, servers)
    }
}

#[cfg(feature = "internals")]
#[doc(hidden)]
impl NatsBuilder {
    /// Has the client drop deliveries that find so many in a subscription's buffer, for our own tests.
    pub fn buffer(mut self, deliveries: usize) -> Self {
        self.options.buffer = Some(deliveries);
        self
    }
}

impl NatsBuilder {
    pub(super) fn new(runtime: &Runtime, servers: &str) -> Self {
        let mut builder =
            Self { runtime: runtime.clone(), options: NatsOptions::default(), refused: None };
        builder.refused = builder.take(servers).err();
        builder
    }

    /// Takes over what an address says. Secrets do not stand in a query, where they would be logged by whoever logs
    /// URLs.
    fn take(&mut self, servers: &str) -> Result<(), BusError> {
        let address = Address::parse(servers)?;
        self.options.servers = address.servers;
        self.options.tls |= address.tls;
        if let Some(login) = address.login {
            self.options.credentials.login(login);
        }
        for (name, value) in address.query {
            if CREDENTIALS.contains(&name.as_str()) && name != "creds_file" {
                return Err(BusError::InvalidUrl {
                    scheme: "nats",
                    part: "query",
                    allowed: "no secrets: give them before the host, as `user:password@`, in the environment or by \
                              the builder",
                });
            }
            self.options.set(&name, &value).map_err(BusError::Config)?;
        }
        Ok(())
    }

    /// A user and its password.
    pub fn user_and_password(
        mut self,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.options.credentials.user = Some(user.into());
        self.options.credentials.password = Some(Secret::new(password));
        self
    }

    /// A token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.options.credentials.token = Some(Secret::new(token));
        self
    }

    /// A user's nkey, by its seed (`SU…`).
    pub fn nkey_seed(mut self, seed: impl Into<String>) -> Self {
        self.options.credentials.nkey_seed = Some(Secret::new(seed));
        self
    }

    /// A user's JWT and seed, as text in the form of a creds file.
    pub fn creds(mut self, creds: impl Into<String>) -> Self {
        self.options.credentials.creds = Some(Secret::new(creds));
        self
    }

    /// A file with a user's JWT and seed. It is read again at every connect, so that renewed credentials count.
    pub fn creds_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.credentials.creds_file = Some(path.into());
        self
    }

    /// How a topic lies on the server.
    pub fn topic(mut self, name: &str, options: TopicOptions) -> Self {
        if let Err(refused) = self.options.topics.tell(name, options) {
            self.refused.get_or_insert(match refused {
                TopicRefused::Name(error) => BusError::InvalidTopic(error),
                TopicRefused::Options(error) => BusError::Config(error),
            });
        }
        self
    }

    /// Sets an option by its name and its value as text: numbers in digits, durations such as `500ms`, sizes such as
    /// `64MiB`. Secrets and `servers` have names here too: `user`, `password`, `token`, `nkey_seed`, `creds`,
    /// `creds_file`.
    ///
    /// # Errors
    /// No option has the name, or the value cannot be read or is out of range; nothing is set then.
    ///
    /// ```
    /// use keylane::{Runtime, nats::NatsBus};
    ///
    /// let runtime = Runtime::builder().workers(1).build()?;
    /// let mut builder = NatsBus::builder(&runtime, "nats://localhost");
    /// assert!(builder.set("ack_mode", "floor").is_ok());
    /// let refused = builder.set("ack_mod", "floor").unwrap_err().to_string();
    /// assert_eq!(refused, "no option is called \"ack_mod\"; did you mean `ack_mode`?");
    /// # runtime.stop_now();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), BusError> {
        if name == "servers" {
            self.refused = None;
            return self.take(value);
        }
        self.options.set(name, value).map_err(BusError::Config)
    }

    /// Overrides options by those of `vars` whose name begins with `KEYLANE_NATS_`: `ack_mode` is
    /// `KEYLANE_NATS_ACK_MODE`, the servers are `KEYLANE_NATS_SERVERS`. With [`std::env::vars_os`], the environment
    /// overrides what code has set before.
    ///
    /// # Errors
    /// A name begins so and is no option's, or a value cannot be read or is out of range.
    ///
    /// ```
    /// use keylane::{Runtime, nats::NatsBus};
    ///
    /// let runtime = Runtime::builder().workers(1).build()?;
    /// let builder = NatsBus::builder(&runtime, "nats://localhost");
    /// let builder = builder.with_vars([("KEYLANE_NATS_PASSWORD", "hunter2"), ("HOME", "/")])?;
    /// assert!(!format!("{builder:?}").contains("hunter2"));
    /// assert!(builder.with_vars([("KEYLANE_NATS_WINDOWS", "2")]).is_err());
    /// # runtime.stop_now();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_vars<K, V>(
        mut self,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, BusError>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        for (name, value) in vars {
            let name = name.into();
            // What is not UTF-8 becomes replacement characters, which no option's name has.
            let name = name.to_string_lossy();
            let Some(capitals) = name.strip_prefix(PREFIX) else { continue };
            let option = capitals.to_ascii_lowercase();
            let known = option == "servers"
                || CREDENTIALS.contains(&option.as_str())
                || NatsOptions::names().any(|name| name == option);
            if !known || option.to_ascii_uppercase() != capitals {
                return Err(BusError::Config(unknown(&name, &option)));
            }
            let value = value.into().into_string().map_err(|_| {
                BusError::Config(ConfigError::invalid("KEYLANE_NATS_*", "not UTF-8", "UTF-8"))
            })?;
            self.set(&option, &value)?;
        }
        Ok(self)
    }

    /// Connects. Begun when this returns, on threads of its own: the result can be awaited in any async runtime, or
    /// waited for on a plain thread.
    ///
    /// The first connect tries each server once and then says what was wrong. Once connected, a lost connection is
    /// tried again without an end, also when a server does not know us any more: credentials are renewed on servers
    /// and in files, and a service that had ended would not see it. Meanwhile everything that waits ends within its
    /// own bound.
    ///
    /// # Errors
    /// The result's: [`BusError::InvalidUrl`] and [`BusError::Config`] for what cannot be; [`BusError::Thread`] if the
    /// system gives no thread; [`BusError::Broker`] if no server takes us:
    /// [`Unreachable`](crate::BrokerErrorKind::Unreachable) or
    /// [`Unauthenticated`](crate::BrokerErrorKind::Unauthenticated), with what to do.
    pub fn connect(self) -> NatsConnecting {
        let runtime = self.runtime.clone();
        let (answer, reply) = reply();
        match self.begin(answer, |bus| bus) {
            Ok(()) => NatsConnecting::later(&runtime, reply),
            Err(error) => NatsConnecting::ready(&runtime, Err(error)),
        }
    }

    /// As [`connect`](Self::connect), for a bus of any kind.
    pub(crate) fn connect_any(self, answer: Answer<Result<Bus, BusError>>) -> Result<(), BusError> {
        self.begin(answer, |bus| bus.bus())
    }

    fn begin<T: Send + 'static>(
        self,
        answer: Answer<Result<T, BusError>>,
        wrap: fn(NatsBus) -> T,
    ) -> Result<(), BusError> {
        let Self { runtime, options, refused } = self;
        if let Some(error) = refused {
            return Err(error);
        }
        let health = BusHealth::new(runtime.clock());
        let opening = Links::open(&runtime.core().spawner, &options, &health)?;
        opening.then(move |links| {
            answer.give(links.map(|links| {
                let shared = Arc::new(Shared::new(runtime, options, links, health));
                let nats = Arc::new(Nats(shared));
                wrap(NatsBus { bus: Bus(nats.clone()), nats })
            }));
        });
        Ok(())
    }
}

impl fmt::Debug for NatsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}
