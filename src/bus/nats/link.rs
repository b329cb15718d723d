//! The bus' connections: one for consuming and acknowledging, one for publishing, one for control, each on a thread of
//! its own, so that none waits behind another.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ContextBuilder};
use async_nats::{AuthError, ConnectOptions, Event, Request, RequestErrorKind, ServerAddr};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::auth::Auth;
use super::events::Signals;
use super::io::Io;
use super::options::NatsOptions;
use super::refusal::{refusal, silent, without_room};
use super::version::Version;
use crate::bus::{BrokerError, BrokerErrorKind, BusError, BusHealth};
use crate::error::ConfigError;
use crate::retry::jittered;
use crate::spawner::Spawner;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// The connection that consumes and acknowledges.
const CONSUME: &str = "consume";
/// What a connection's commands may wait in, before its thread takes them.
const COMMANDS: usize = 8_192;
/// The least that a subscription's buffer takes.
const DELIVERIES: usize = 65_536;
/// After so long without an answer a question is put once more.
const AGAIN: Duration = Duration::from_secs(1);
/// The pauses before a stream that a cluster has no room for is asked for again.
const PEERS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// A connection and the thread that drives it. What it does later is done on that thread.
pub(super) struct Link {
    pub(super) io: Io,
    pub(super) client: async_nats::Client,
    /// With the bus' domain or API prefix.
    pub(super) jetstream: jetstream::Context,
    pub(super) signals: Arc<Signals>,
    api: String,
    request_timeout: Duration,
}

/// All connections of a bus.
pub(super) struct Links {
    pub(super) consume: Link,
    pub(super) publish: Link,
    pub(super) control: Link,
}

impl Links {
    /// Begins to connect, all of them at once.
    pub(super) fn open(
        spawner: &Spawner,
        options: &NatsOptions,
        health: &BusHealth,
    ) -> Result<Opening, BusError> {
        let plan = Plan::new(options)?;
        let open = |role, thread| OpeningLink::new(spawner, &plan, health, role, thread);
        Ok(Opening {
            consume: open(CONSUME, "nats-con")?,
            publish: open("publish", "nats-pub")?,
            control: open("control", "nats-ctl")?,
        })
    }

    /// Has the bus' health say of each connection that is there that it is: a report of it may have been dropped.
    pub(super) fn look(&self) {
        for link in [&self.consume, &self.publish, &self.control] {
            if link.client.connection_state() == State::Connected {
                link.signals.is_there();
            }
        }
    }

    /// Makes one more connection, whose events go where those of the others go.
    pub(super) async fn another(
        spawner: &Spawner,
        options: &NatsOptions,
        health: &BusHealth,
        role: &'static str,
        thread: &str,
    ) -> Result<Link, BusError> {
        OpeningLink::new(spawner, &Plan::new(options)?, health, role, thread)?.link().await
    }

    /// How often connections were made anew.
    pub(super) fn reconnects(&self) -> u64 {
        [&self.consume, &self.publish, &self.control]
            .map(|link| link.connects().saturating_sub(1))
            .iter()
            .sum()
    }
}

/// Connections under way.
pub(super) struct Opening {
    consume: OpeningLink,
    publish: OpeningLink,
    control: OpeningLink,
}

impl Opening {
    /// Has `done` called on one of the threads, with all connections or the error of one.
    pub(super) fn then(self, done: impl FnOnce(Result<Links, BusError>) + Send + 'static) {
        let handle = self.control.io.handle();
        drop(handle.spawn(async move { done(self.links().await) }));
    }

    async fn links(self) -> Result<Links, BusError> {
        Ok(Links {
            consume: self.consume.link().await?,
            publish: self.publish.link().await?,
            control: self.control.link().await?,
        })
    }
}

/// How all connections of a bus are made.
struct Plan {
    servers: Vec<ServerAddr>,
    auth: Auth,
    tls: tokio_rustls::rustls::ClientConfig,
    options: NatsOptions,
}

impl Plan {
    fn new(options: &NatsOptions) -> Result<Self, BusError> {
        let auth = options.validate().map_err(BusError::Config)?;
        let tls = options.tls_files().config().map_err(BusError::Config)?;
        let servers = options.servers.iter().map(|server| server.parse());
        let servers = servers.collect::<Result<Vec<ServerAddr>, _>>().map_err(|_| {
            // What can be known without looking a name up was checked before.
            let given = options.servers.join(",");
            BusError::Config(ConfigError::invalid("servers", &given, "names or addresses of hosts"))
        })?;
        Ok(Self { servers, auth, tls, options: options.clone() })
    }

    /// How long all servers may take to be tried once.
    fn patience(&self) -> Duration {
        let servers = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        self.options.connect_timeout.saturating_mul(servers).saturating_add(Duration::from_secs(1))
    }

    fn client(&self, signals: &Arc<Signals>) -> ConnectOptions {
        let options = &self.options;
        let auth = self.auth.clone();
        let client = match auth {
            Auth::None => ConnectOptions::new(),
            auth => ConnectOptions::with_auth_callback(move |nonce| {
                let told = auth.answer(&nonce).map_err(AuthError::new);
                async move { told }
            }),
        };
        let (first, most) = (options.reconnect_first, options.reconnect_most);
        let servers = self.servers.len();
        let (signals, inbox) = (signals.clone(), options.inbox_prefix.clone());
        let client = client
            .name(&options.name)
            .custom_inbox_prefix(&options.inbox_prefix)
            .ping_interval(options.ping_interval)
            .connection_timeout(options.connect_timeout)
            .request_timeout(Some(options.request_timeout))
            .reconnect_delay_callback(move |attempt| pause(first, most, attempt, servers))
            .subscription_capacity(options.buffer.unwrap_or(DELIVERIES.max(2 * options.window)))
            .client_capacity(COMMANDS)
            .tls_client_config(self.tls.clone())
            .require_tls(options.tls)
            .event_callback(move |event: Event| {
                signals.take(event, &inbox);
                std::future::ready(())
            });
        if options.tls_first { client.tls_first() } else { client }
    }
}

/// The pause before an attempt to connect: none until every server was tried once, then twice as long each round.
fn pause(first: Duration, most: Duration, attempt: usize, servers: usize) -> Duration {
    match attempt.saturating_sub(1) / servers.max(1) {
        0 => Duration::ZERO,
        round => {
            let round = u32::try_from(round).unwrap_or(u32::MAX);
            // Another number at each call: many clients of one server come back at different times.
            jittered(first, most, round, RandomState::new().build_hasher().finish())
        }
    }
}

/// A connection under way, and the thread that will drive it.
struct OpeningLink {
    io: Io,
    reply: oneshot::Receiver<Result<(async_nats::Client, jetstream::Context), BrokerError>>,
    signals: Arc<Signals>,
    api: String,
    request_timeout: Duration,
}

impl OpeningLink {
    fn new(
        spawner: &Spawner,
        plan: &Plan,
        health: &BusHealth,
        role: &'static str,
        thread: &str,
    ) -> Result<Self, BusError> {
        let io = Io::start(spawner, thread).map_err(BusError::Thread)?;
        let signals = Arc::new(Signals::new(role, health.clone()));
        let (answer, reply) = oneshot::channel();
        // All that is published on this one are subjects that the server gave, or that were made of checked names; of an
        // acknowledgement the look at its subject is a tenth.
        let client = plan.client(&signals).skip_subject_validation(role == CONSUME);
        let connect = client.connect(plan.servers.clone());
        let (patience, auth, options) = (plan.patience(), plan.auth.clone(), plan.options.clone());
        io.spawn(async move {
            let connected = match timeout(patience, connect).await {
                // Made here, since a context has a task of its own, on the thread where it is made.
                Ok(Ok(client)) => Ok((client.clone(), context(client, &options))),
                Ok(Err(error)) => Err(refusal(&error, &auth, &options)),
                Err(_) => Err(silent(&options)),
            };
            // Nobody takes it if another connection has failed.
            let _ = answer.send(connected);
        });
        let api = plan.options.api();
        Ok(Self { io, reply, signals, api, request_timeout: plan.options.request_timeout })
    }

    async fn link(self) -> Result<Link, BusError> {
        let (client, jetstream) = self.reply.await.map_err(|_| BusError::Closed)??;
        let version = Version::parse(&client.server_info().version);
        if version < Version::OLDEST {
            let text = format!(
                "the server's version is {version}, and {} is the oldest that will do",
                Version::OLDEST
            );
            return Err(BrokerError::new(BrokerErrorKind::Unsupported, text).into());
        }
        Ok(Link {
            io: self.io,
            client,
            jetstream,
            signals: self.signals,
            api: self.api,
            request_timeout: self.request_timeout,
        })
    }
}

fn context(client: async_nats::Client, options: &NatsOptions) -> jetstream::Context {
    let context = ContextBuilder::new().api_prefix(options.api());
    context.timeout(options.request_timeout).build(client)
}

/// The first answer to a question that changes nothing, which is put once more after 1, 2, 4 … seconds until the first of
/// them ends: while a cluster chooses who leads what it is about nobody answers, and not later either.
pub(super) async fn insist<F: Future>(mut ask: impl FnMut() -> F) -> F::Output {
    let (mut asked, mut pause) = (FuturesUnordered::new(), AGAIN);
    loop {
        asked.push(ask());
        tokio::select! {
            Some(answer) = asked.next() => return answer,
            () = sleep(pause) => pause *= 2,
        }
    }
}

/// Why a JetStream request was not granted.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// JetStream's own error: its code and its words.
    Api(u64, String),
    /// It could not be asked.
    Broker(BrokerError),
}

impl Link {
    /// How often this connection was made, the first time included.
    pub(super) fn connects(&self) -> u64 {
        // Relaxed: a count, by which nothing else is read.
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// The version of the server that it is connected to, which may be another after a reconnect.
    pub(super) fn version(&self) -> Version {
        Version::parse(&self.client.server_info().version)
    }

    /// The subject of a JetStream request: `STREAM.INFO.orders` with the bus' prefix.
    pub(super) fn api(&self, request: impl fmt::Display) -> String {
        format!("{}.{request}", self.api)
    }

    /// Awaits an operation that publishes or subscribes to `subject`; ends with
    /// [`NotPermitted`](BrokerErrorKind::NotPermitted) if the server forbids it, which it says to the connection and
    /// not to the operation.
    pub(super) async fn permitted<T>(
        &self,
        subject: &str,
        operation: impl Future<Output = T>,
    ) -> Result<T, BrokerError> {
        self.signals.permitted(|denied| denied == subject, operation).await
    }

    /// Makes a JetStream request, which ends within `request_timeout`. `request`: its subject without the prefix.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        request: &str,
        payload: &(impl Serialize + ?Sized + Sync),
    ) -> Result<T, Refused> {
        let subject = self.api(request);
        let failed = |kind, text: String| Err(Refused::Broker(BrokerError::new(kind, text)));
        let payload = match serde_json::to_vec(payload) {
            // Some requests are refused with any payload, and none with an empty one.
            Ok(nothing) if nothing == b"null" => Vec::new(),
            Ok(payload) => payload,
            Err(error) => return failed(BrokerErrorKind::Failed, error.to_string()),
        };
        let payload = Bytes::from(payload);
        let ask = || {
            let timed = Request::new().payload(payload.clone()).timeout(Some(self.request_timeout));
            self.client.send_request(subject.clone(), timed)
        };
        let changes_nothing = request.contains(".INFO.") || request.contains(".MSG.GET.");
        let asked = async { if changes_nothing { insist(ask).await } else { ask().await } };
        let asked = self.permitted(&subject, timeout(self.request_timeout, asked)).await;
        match asked.map_err(Refused::Broker)? {
            Ok(Ok(answer)) => match serde_json::from_slice(&answer.payload) {
                Ok(Response::Ok(answer)) => Ok(answer),
                Ok(Response::Err { error }) => {
                    Err(Refused::Api(error.error_code().0, error.to_string()))
                }
                Err(error) => failed(
                    BrokerErrorKind::Failed,
                    format!("the answer on \"{subject}\" was not understood: {error}"),
                ),
            },
            Ok(Err(error)) => match error.kind() {
                RequestErrorKind::NoResponders => failed(
                    BrokerErrorKind::Unsupported,
                    format!(
                        "nobody answers on \"{subject}\": enable JetStream on the server and for this account, or set \
                         `domain` or `api_prefix` to where it is"
                    ),
                ),
                RequestErrorKind::TimedOut => Err(self.unanswered(&subject)),
                _ => failed(
                    BrokerErrorKind::Failed,
                    format!("the request \"{subject}\" was not understood: {error}"),
                ),
            },
            Err(_) => Err(self.unanswered(&subject)),
        }
    }

    /// Has a stream made. While a node is away, be it since it restarts, a cluster has no place for one with a replica there:
    /// that is asked for again for a while.
    pub(super) async fn create<T: DeserializeOwned>(
        &self,
        stream: &str,
        config: &(impl Serialize + ?Sized + Sync),
    ) -> Result<T, Refused> {
        let request = format!("STREAM.CREATE.{stream}");
        for pause in PEERS {
            match self.ask(&request, config).await {
                Err(refused) if refused.is(jetstream::ErrorCode::CLUSTER_NO_PEERS) => {
                    sleep(pause).await;
                }
                answer => return answer,
            }
        }
        self.ask(&request, config).await
    }

    fn unanswered(&self, subject: &str) -> Refused {
        Refused::Broker(match self.signals.deaf() {
            Some(denial) => BrokerError::new(
                BrokerErrorKind::NotPermitted,
                format!("{denial}, or set `inbox_prefix` to what it may subscribe to"),
            ),
            None => BrokerError::new(
                BrokerErrorKind::Unreachable,
                format!("no answer on \"{subject}\" within {:?}", self.request_timeout),
            ),
        })
    }
}

impl Refused {
    /// JetStream's code of the error, if it is one of its own.
    pub(super) fn code(&self) -> Option<u64> {
        match self {
            Self::Api(code, _) => Some(*code),
            Self::Broker(_) => None,
        }
    }

    pub(super) fn is(&self, error: jetstream::ErrorCode) -> bool {
        self.code() == Some(error.0)
    }
}

impl From<Refused> for BrokerError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Broker(error) => error,
            Refused::Api(code, text) => {
                use jetstream::ErrorCode as Code;
                let kind = match Code(code) {
                    Code::STREAM_NOT_FOUND => BrokerErrorKind::MissingTopic,
                    Code::JETSTREAM_NOT_ENABLED | Code::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                        BrokerErrorKind::Unsupported
                    }
                    _ => BrokerErrorKind::Failed,
                };
                Self::new(kind, without_room(code, &text).unwrap_or(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_round_to_round_and_end_growing() {
        let (first, most) = (Duration::from_millis(20), Duration::from_secs(2));
        for attempt in 0..=3 {
            assert_eq!(
                pause(first, most, attempt, 3),
                Duration::ZERO,
                "{attempt}: the first round"
            );
        }
        let mut different = std::collections::BTreeSet::new();
        for attempt in (4..2_000).chain([usize::MAX]) {
            let pause = pause(first, most, attempt, 3);
            assert!(pause > Duration::ZERO && pause <= most, "{attempt}: {pause:?}");
            different.insert(pause);
        }
        assert!(different.len() > 1_000, "they are spread");
        assert_eq!(pause(first, most, 1, 0), Duration::ZERO);
    }
}
