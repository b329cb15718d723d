//! Loops on the client alone: what a user would write who needs no keys.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::{self, AckKind};
use async_nats::{Client, ConnectOptions, Message, Subject};
use futures_util::StreamExt;

use crate::Failed;
use crate::load::{Load, Tally};

/// Records asked for at once, and deliveries that may be unacknowledged: as the bus does it.
const BATCH: usize = 2_000;
pub const WINDOW: i64 = 10_000;

/// How a loop acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    None,
    /// Every 500, all before it.
    All,
    Each,
    /// Each, with an answer waited for before the next is taken.
    One,
}

impl Acks {
    fn policy(self) -> AckPolicy {
        match self {
            Self::None => AckPolicy::None,
            Self::All => AckPolicy::All,
            Self::Each | Self::One => AckPolicy::Explicit,
        }
    }
}

/// Makes a consumer like the bus' own.
pub async fn consumer(
    js: &jetstream::Context,
    load: &Load,
    name: &str,
    acks: Acks,
) -> Result<Consumer<Config>, Failed> {
    let none = acks == Acks::None;
    let config = Config {
        durable_name: (!none).then(|| name.to_owned()),
        name: Some(name.to_owned()),
        ack_policy: acks.policy(),
        ack_wait: if none { Duration::ZERO } else { Duration::from_secs(120) },
        max_ack_pending: if none { 0 } else { WINDOW },
        max_deliver: -1,
        memory_storage: none,
        num_replicas: 1,
        inactive_threshold: if none { Duration::from_secs(30) } else { Duration::ZERO },
        filter_subject: load.consumed(),
        ..Config::default()
    };
    Ok(js.create_consumer_on_stream(config, load.stream).await?)
}

pub async fn client(url: &str) -> Result<Client, Failed> {
    Ok(ConnectOptions::new().subscription_capacity(65_536).connect(url).await?)
}

/// Pulls of its own over the client: `handle` is called with each, in turn, until it says that it is over.
pub async fn pull(
    url: &str,
    load: &Load,
    name: &str,
    acks: Acks,
    handle: &(dyn Fn(&Message) -> bool + Sync),
) -> Result<(), Failed> {
    let client = client(url).await?;
    let js = jetstream::new(client.clone());
    consumer(&js, load, name, acks).await?;
    let inbox = client.new_inbox();
    let mut arrivals = client.subscribe(format!("{inbox}.*")).await?;
    let next = Subject::from(format!("$JS.API.CONSUMER.MSG.NEXT.{}.{name}", load.stream));
    let (mut expected, mut pulls, mut unacked) = (0_usize, 0_u64, 0);
    let batch = if acks == Acks::One { 1 } else { BATCH };
    let mut over = false;
    while !over {
        if expected <= batch / 2 {
            pulls += 1;
            let count = batch - expected;
            let request = format!(r#"{{"batch":{count},"expires":4000000000}}"#);
            let to = format!("{inbox}.{pulls}");
            client.publish_with_reply(next.clone(), to, request.into()).await?;
            expected += count;
        }
        let message = arrivals.next().await.ok_or("the connection ended")?;
        if message.status.is_some() {
            let left = message.headers.as_ref().and_then(|headers| {
                headers.get("Nats-Pending-Messages")?.as_str().parse::<usize>().ok()
            });
            expected = expected.saturating_sub(left.unwrap_or(0));
            over = handle(&message);
            continue;
        }
        expected = expected.saturating_sub(1);
        over = handle(&message);
        let Some(reply) = message.reply else { continue };
        match acks {
            Acks::None => {}
            Acks::Each => client.publish(reply, "+ACK".into()).await?,
            Acks::All => {
                unacked += 1;
                if unacked == 500 {
                    unacked = 0;
                    client.publish(reply, "+ACK".into()).await?;
                }
            }
            Acks::One => {
                client.request(reply, "+ACK".into()).await?;
            }
        }
    }
    js.delete_consumer_from_stream(name, load.stream).await?;
    Ok(())
}

/// The same, noted in a tally.
pub async fn tallied(
    url: &str,
    load: &Load,
    name: &str,
    acks: Acks,
    tally: &Tally,
) -> Result<(), Failed> {
    let handle = |message: &Message| {
        if message.status.is_none() {
            tally.note(&message.payload);
        }
        tally.is_over()
    };
    pull(url, load, name, acks, &handle).await
}

/// The client's own endless stream, each acknowledged.
pub async fn messages(url: &str, load: &Load, name: &str, tally: &Tally) -> Result<(), Failed> {
    let js = jetstream::new(client(url).await?);
    let consumer = consumer(&js, load, name, Acks::Each).await?;
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).messages().await?;
    while !tally.is_over() {
        let Ok(message) = tokio::time::timeout(Duration::from_millis(50), messages.next()).await
        else {
            continue;
        };
        let message = message.ok_or("the stream ended")??;
        tally.note(&message.payload);
        message.ack_with(AckKind::Ack).await.map_err(|error| error.to_string())?;
    }
    js.delete_consumer_from_stream(name, load.stream).await?;
    Ok(())
}
