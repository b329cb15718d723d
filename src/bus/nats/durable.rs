//! The durable consumer on the server: made, looked at, reset, deleted.

use std::time::Duration;

use async_nats::Request;
use async_nats::jetstream::consumer::{
    AckPolicy, Config, DeliverPolicy, Info, IntoConsumerConfig, pull,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode, stream};

use super::link::Link;
use crate::bus::{BrokerError, BrokerErrorKind};

/// How long the server has to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it has to answer a reset, which not every version knows.
const RESET: Duration = Duration::from_secs(2);

/// A durable consumer of a stream.
#[derive(Clone, Debug)]
pub(super) struct Durable {
    pub(super) stream: String,
    pub(super) config: pull::Config,
}

/// Where a consumer stands after a reset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// Everything above its floor comes again, numbered from 1.
    Done,
    /// The server does not know how.
    Unknown,
    /// There is no such consumer.
    Missing,
}

impl Durable {
    pub(super) fn name(&self) -> &str {
        self.config.durable_name.as_deref().unwrap_or_default()
    }

    /// Where pulls are asked for.
    pub(super) fn pulls(&self, link: &Link) -> String {
        format!("{}.CONSUMER.MSG.NEXT.{}.{}", link.api, self.stream, self.name())
    }

    /// How it is, if it is there.
    pub(super) async fn info(&self, control: &Link) -> Result<Option<Info>, BrokerError> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream, self.name());
        match call::<Info>(control, subject).await? {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            Err(error) => Err(self.said(&error)),
        }
    }

    /// Makes it, or takes the one that is the same.
    pub(super) async fn create(
        &self,
        control: &Link,
        from: DeliverPolicy,
    ) -> Result<Info, BrokerError> {
        let config = pull::Config { deliver_policy: from, ..self.config.clone() };
        let made =
            bounded(control.jetstream.create_consumer_on_stream(config, self.stream.as_str()));
        match made.await? {
            Ok(consumer) => {
                Ok(jetstream::consumer::Consumer::<pull::Config>::cached_info(&consumer).clone())
            }
            Err(error) => Err(BrokerError::new(
                BrokerErrorKind::Failed,
                format!(
                    "the consumer {} of stream {} was not made: {error}",
                    self.name(),
                    self.stream
                ),
            )),
        }
    }

    /// Deletes it. One that is not there is as good.
    pub(super) async fn delete(&self, control: &Link) -> Result<(), BrokerError> {
        let subject = format!("CONSUMER.DELETE.{}.{}", self.stream, self.name());
        match call::<serde_json::Value>(control, subject).await? {
            Ok(_) => Ok(()),
            Err(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(()),
            Err(error) => Err(self.said(&error)),
        }
    }

    /// Has everything above its floor delivered again. Asked for on the connection that pulls, so that no pull that was sent
    /// before is served after it.
    pub(super) async fn reset(&self, consume: &Link) -> Result<Reset, BrokerError> {
        let subject = format!("{}.CONSUMER.RESET.{}.{}", consume.api, self.stream, self.name());
        let request = Request::new().payload("{}".into()).timeout(Some(RESET));
        let Ok(message) = consume.client.send_request(subject, request).await else {
            return Ok(Reset::Unknown);
        };
        match serde_json::from_slice::<Response<serde_json::Value>>(&message.payload) {
            Ok(Response::Ok(_)) => Ok(Reset::Done),
            Ok(Response::Err { error }) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                Ok(Reset::Missing)
            }
            Ok(Response::Err { error }) => Err(self.said(&error)),
            Err(_) => Ok(Reset::Unknown),
        }
    }

    /// A round trip on the connection that acknowledges: the server has read whatever was sent before.
    pub(super) async fn sync(&self, consume: &Link) -> bool {
        let subject = format!("{}.CONSUMER.INFO.{}.{}", consume.api, self.stream, self.name());
        let request = Request::new().timeout(Some(RESET));
        consume.client.send_request(subject, request).await.is_ok()
    }

    fn said(&self, error: &jetstream::Error) -> BrokerError {
        let text = format!("consumer {} of stream {}: {error}", self.name(), self.stream);
        BrokerError::new(BrokerErrorKind::Failed, text)
    }
}

/// A stream, as it is now.
pub(super) async fn stream_info(control: &Link, name: &str) -> Result<stream::Info, BrokerError> {
    match call::<stream::Info>(control, format!("STREAM.INFO.{name}")).await? {
        Ok(info) => Ok(info),
        Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Err(BrokerError::new(
            BrokerErrorKind::MissingTopic,
            format!("there is no stream {name}"),
        )),
        Err(error) => {
            Err(BrokerError::new(BrokerErrorKind::Failed, format!("stream {name}: {error}")))
        }
    }
}

/// What the server answers to a request of its API that says all in its subject.
async fn call<T: serde::de::DeserializeOwned>(
    link: &Link,
    subject: String,
) -> Result<Result<T, jetstream::Error>, BrokerError> {
    let unreachable = |why: String| {
        let text =
            format!("no answer to {subject}: {why}; is JetStream on, and may this user ask it?");
        BrokerError::new(BrokerErrorKind::Unreachable, text)
    };
    let request = Request::new().timeout(Some(ANSWER));
    let asked = link.client.send_request(format!("{}.{subject}", link.api), request).await;
    let answer = asked.map_err(|error| unreachable(error.to_string()))?;
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Ok(answer)) => Ok(Ok(answer)),
        Ok(Response::Err { error }) => Ok(Err(error)),
        Err(error) => Err(unreachable(error.to_string())),
    }
}

async fn bounded<F: Future>(future: F) -> Result<F::Output, BrokerError> {
    tokio::time::timeout(ANSWER, future).await.map_err(|_| {
        BrokerError::new(BrokerErrorKind::Unreachable, "the server has not answered within 5 s")
    })
}

/// The configuration of a durable consumer that keeps order: what is not acknowledged waits for us, not for a timer.
pub(super) fn config(
    name: String,
    filters: Vec<String>,
    acks: AckPolicy,
    ack_wait: Duration,
    window: usize,
    replicas: usize,
) -> pull::Config {
    let mut config = pull::Config {
        durable_name: Some(name),
        ack_policy: acks,
        ack_wait,
        max_deliver: -1,
        max_ack_pending: i64::try_from(window).unwrap_or(i64::MAX),
        num_replicas: replicas,
        ..pull::Config::default()
    };
    match <[String; 1]>::try_from(filters) {
        Ok([filter]) => config.filter_subject = filter,
        Err(filters) => config.filter_subjects = filters,
    }
    config
}

/// What of a consumer is not as it must be, in words.
pub(super) fn mismatch(wanted: &pull::Config, got: &Config) -> Option<String> {
    let wanted = wanted.clone().into_consumer_config();
    let mut wrong = Vec::new();
    let mut check = |what: &str, fits: bool, is: String, must: String| {
        if !fits {
            wrong.push(format!("{what} is {is} and must be {must}"));
        }
    };
    macro_rules! same {
        ($($field:ident),+) => {$(
            check(stringify!($field), wanted.$field == got.$field, format!("{:?}", got.$field), format!("{:?}", wanted.$field));
        )+};
    }
    same!(
        ack_policy,
        ack_wait,
        max_deliver,
        max_ack_pending,
        filter_subject,
        filter_subjects,
        backoff,
        deliver_subject
    );
    (!wrong.is_empty()).then(|| wrong.join("; "))
}
