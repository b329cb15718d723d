//! Confirmed publishing over 10,000 keys, with as many on their way at once as a window says.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use keylane::Record;

use crate::Failed;
use crate::load::{Form, Load};
use crate::ours::Bus;
use crate::rounds::{Arm, Group};
use crate::server::{context, on_tokio};

pub const WINDOWS: [usize; 4] = [1, 64, 1_000, 4_000];

/// Where the publishes go.
pub fn load() -> Load {
    Load {
        stream: "PUB",
        filter: "pub.>",
        topic: "pub",
        form: Form::Keyed,
        keys: 10_000,
        messages: 0,
        size: 128,
        whole: false,
    }
}

/// Confirmed ones, judged: the sequences of a key ascend in the order in which it was published.
struct Confirmed {
    last: Vec<(u32, u64)>,
    count: u64,
    wrong: u64,
    window: usize,
}

impl Confirmed {
    fn new(load: &Load, window: usize) -> Self {
        Self { last: vec![(0, 0); load.keys as usize], count: 0, wrong: 0, window }
    }

    /// Publishes until the slice is over, and waits for the rest. How many were confirmed a second.
    async fn run<F, E>(
        &mut self,
        load: &Load,
        length: Duration,
        mut send: impl AsyncFnMut(u32, Vec<u8>) -> Result<F, Failed>,
    ) -> Result<f64, Failed>
    where
        F: Future<Output = Result<u64, E>>,
        E: Into<Failed>,
    {
        let (begun, mut at) = (Instant::now(), 0_u64);
        let mut waiting = FuturesUnordered::new();
        let mut numbers = vec![0_u32; load.keys as usize];
        while begun.elapsed() < length {
            // The clock is read once for as many as there is room for.
            while waiting.len() < self.window {
                let key = load.key_of(at);
                at += 1;
                numbers[key as usize] += 1;
                let number = numbers[key as usize];
                let sent = send(key, load.payload(key, number)).await?;
                waiting.push(async move { (key, number, sent.await) });
            }
            if let Some((key, number, sequence)) = waiting.next().await {
                self.note(key, number, sequence.map_err(Into::into)?);
            }
        }
        while let Some((key, number, sequence)) = waiting.next().await {
            self.note(key, number, sequence.map_err(Into::into)?);
        }
        let rate = self.count as f64 / begun.elapsed().as_secs_f64();
        if self.wrong > 0 {
            return Err(format!("{} stored out of the order of their key", self.wrong).into());
        }
        Ok(rate)
    }

    fn note(&mut self, key: u32, number: u32, sequence: u64) {
        let last = &mut self.last[key as usize];
        if (number > last.0) != (sequence > last.1) {
            self.wrong += 1;
        }
        *last = (number, sequence).max(*last);
        self.count += 1;
    }
}

async fn raw(url: &str, window: usize, length: Duration) -> Result<f64, Failed> {
    let load = load();
    let client = async_nats::connect(url).await?;
    let js = jetstream::new(client);
    let mut confirmed = Confirmed::new(&load, window);
    let send = async |key: u32, payload: Vec<u8>| {
        let sent = js.publish(load.subject(key), payload.into()).await?;
        let sent = sent.into_future();
        Ok(async move { sent.await.map(|stored| stored.sequence) })
    };
    let rate = confirmed.run(&load, length, send).await?;
    empty(&js).await?;
    Ok(rate)
}

fn ours(url: &str, window: usize, length: Duration) -> Result<f64, Failed> {
    let load = load();
    let bus = Bus::open(url, &load, |builder| builder.publish_window(window))?;
    let rate = on_tokio(async {
        let mut confirmed = Confirmed::new(&load, window);
        let send = async |key: u32, payload: Vec<u8>| {
            let key = load.key(key);
            let sent = bus.bus.publish(load.topic, Record::new(key.as_bytes(), payload));
            Ok(async move { sent.await.map(|stored| stored.offset) })
        };
        confirmed.run(&load, length, send).await
    })??;
    bus.close()?;
    on_tokio(async { empty(&context(url).await?).await })??;
    Ok(rate)
}

async fn empty(js: &jetstream::Context) -> Result<(), Failed> {
    js.get_stream(load().stream).await?.purge().await?;
    Ok(())
}

pub fn groups(url: &str) -> Vec<Group<'_>> {
    let group = |window: usize| Group {
        name: format!("publish {window}"),
        arms: vec![
            Arm {
                name: "raw",
                run: Box::new(move |_, length| on_tokio(raw(url, window, length))?),
            },
            Arm { name: "keylane", run: Box::new(move |_, length| ours(url, window, length)) },
        ],
        goals: vec![("keylane", "raw", 0.95)],
    };
    WINDOWS.map(group).into()
}
