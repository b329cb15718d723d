//! The durable consumer on the server: made, looked at, reset, deleted.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, pull};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{self, ErrorCode, stream};
use async_nats::{Request, RequestErrorKind};

use super::link::Link;
use crate::bus::{BrokerError, BrokerErrorKind};

/// How long the server keeps a consumer that nobody pulls from.
const INACTIVE: Duration = Duration::from_secs(30);
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
        self.config.durable_name.as_deref().or(self.config.name.as_deref()).unwrap_or_default()
    }

    /// The name of one that ends with its connection.
    pub(super) fn rename(&mut self, name: &str) {
        self.config.name = Some(name.to_owned());
    }

    /// Where pulls are asked for.
    pub(super) fn pulls(&self, link: &Link) -> String {
        link.api(format_args!("CONSUMER.MSG.NEXT.{}.{}", self.stream, self.name()))
    }

    /// Whether its deliveries are acknowledged there.
    pub(super) fn has_acked_on(&self, subject: &str) -> bool {
        let Some(rest) = subject.strip_prefix("$JS.ACK.") else { return false };
        let own = [self.stream.as_str(), self.name()];
        let tokens: Vec<&str> = rest.split('.').take(4).collect();
        // With a domain and an account before them, or without.
        tokens.starts_with(&own) || tokens.ends_with(&own)
    }

    /// How it is, if it is there.
    pub(super) async fn info(&self, control: &Link) -> Result<Option<Info>, BrokerError> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream, self.name());
        match control.ask(&subject, &()).await {
            Ok(info) => Ok(Some(info)),
            Err(refused) if refused.is(ErrorCode::CONSUMER_NOT_FOUND) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Makes it, or takes the one that is the same.
    pub(super) async fn create(
        &self,
        control: &Link,
        from: DeliverPolicy,
    ) -> Result<Info, BrokerError> {
        let config = pull::Config { deliver_policy: from, ..self.config.clone() };
        let making = control.jetstream.create_consumer_on_stream(config, self.stream.as_str());
        let failed = |kind, error: String| {
            let (name, stream) = (self.name(), &self.stream);
            let text = format!("the consumer {name} of stream {stream} was not made: {error}");
            BrokerError::new(kind, text)
        };
        // Behind the name there may be a filter.
        let own = control.api(format_args!("CONSUMER.CREATE.{}.{}", self.stream, self.name()));
        let is_its = |denied: &str| {
            denied.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match control.signals.permitted(is_its, making).await? {
            Ok(consumer) => {
                Ok(jetstream::consumer::Consumer::<pull::Config>::cached_info(&consumer).clone())
            }
            Err(error) => match error.kind() {
                ConsumerErrorKind::TimedOut => {
                    Err(failed(BrokerErrorKind::Unreachable, error.to_string()))
                }
                _ => Err(failed(BrokerErrorKind::Failed, error.to_string())),
            },
        }
    }

    /// Deletes it. One that is not there is as good.
    pub(super) async fn delete(&self, control: &Link) -> Result<(), BrokerError> {
        let subject = format!("CONSUMER.DELETE.{}.{}", self.stream, self.name());
        match control.ask::<serde_json::Value>(&subject, &()).await {
            Ok(_) => Ok(()),
            Err(refused) if refused.is(ErrorCode::CONSUMER_NOT_FOUND) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Has everything above its floor delivered again. Asked for on the connection that pulls, so that no pull that was sent
    /// before is served after it.
    pub(super) async fn reset(&self, consume: &Link) -> Result<Reset, BrokerError> {
        let subject = consume.api(format_args!("CONSUMER.RESET.{}.{}", self.stream, self.name()));
        let request = Request::new().payload("{}".into()).timeout(Some(RESET));
        let connects = consume.connects();
        let asked = consume.client.send_request(subject.clone(), request);
        let message = match consume.permitted(&subject, asked).await? {
            Ok(message) => message,
            // What does not know it says nothing. Of a connection that was lost meanwhile silence says nothing either: whoever
            // took it for an old server would delete the consumer.
            Err(error)
                if error.kind() == RequestErrorKind::TimedOut
                    && consume.connects() == connects
                    && consume.client.connection_state() == State::Connected =>
            {
                return Ok(Reset::Unknown);
            }
            Err(error) => {
                let text = format!("no answer on \"{subject}\": {error}");
                return Err(BrokerError::new(BrokerErrorKind::Unreachable, text));
            }
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
        let subject = consume.api(format_args!("CONSUMER.INFO.{}.{}", self.stream, self.name()));
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
    let asked = control.ask(&format!("STREAM.INFO.{name}"), &()).await;
    asked.map_err(|refused| {
        let error = BrokerError::from(refused);
        BrokerError::new(error.kind(), format!("stream {name}: {error}"))
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

/// One that is not acknowledged, and gone some time after its last pull.
pub(super) fn ordered(filters: Vec<String>) -> pull::Config {
    let mut config = config(String::new(), filters, AckPolicy::None, Duration::ZERO, 0, 1);
    config.durable_name = None;
    config.memory_storage = true;
    config.inactive_threshold = INACTIVE;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_acknowledgements_are_told_from_anothers() {
        let durable = |stream: &str, name: &str| {
            let config = config(name.into(), vec![], AckPolicy::Explicit, Duration::ZERO, 1, 1);
            Durable { stream: stream.into(), config }
        };
        let orders = durable("STREAM_orders", "billing-orders");
        for own in [
            "$JS.ACK.STREAM_orders.billing-orders.1.7.3.1700000000000000000.0",
            "$JS.ACK._.hash.STREAM_orders.billing-orders.1.7.3.1700000000000000000.0.random",
            "$JS.ACK.hub.hash.STREAM_orders.billing-orders.1.7.3.1700000000000000000.0",
        ] {
            assert!(orders.has_acked_on(own), "{own}");
        }
        for other in [
            "",
            "$JS.ACK.",
            "$JS.ACK.STREAM_orders",
            "$JS.ACK.STREAM_orders.mailing-orders.1.7.3.1700000000000000000.0",
            "$JS.ACK.STREAM_orders.billing-orders-7.1.7.3.1700000000000000000.0",
            "$JS.ACK._.hash.STREAM_other.billing-orders.1.7.3.1700000000000000000.0",
            "$JS.API.CONSUMER.MSG.NEXT.STREAM_orders.billing-orders",
            "STREAM_orders.billing-orders",
        ] {
            assert!(!orders.has_acked_on(other), "{other}");
        }
    }
}
