//! Confirmed publishing over 10,000 keys, with as many on their way at once as a window says.

use std::time::{Duration, Instant};

use async_nats::{Client, jetstream};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use keylane::Record;
use tokio::sync::oneshot;

use crate::Failed;
use crate::load::{Form, Load};
use crate::ours::Bus;
use crate::rounds::{Arm, Group, Measured};
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

/// How much is published: with as many on their way as the window says, until either bound.
#[derive(Clone, Copy)]
struct Amount {
    window: usize,
    length: Duration,
    most: u64,
}

/// Confirmed ones, judged: the sequences of a key ascend in the order in which it was published.
struct Confirmed {
    last: Vec<(u32, u64)>,
    count: u64,
    wrong: u64,
}

impl Confirmed {
    fn new(load: &Load) -> Self {
        Self { last: vec![(0, 0); load.keys as usize], count: 0, wrong: 0 }
    }

    /// Publishes until that is over, and waits for the rest.
    async fn run<F, E>(
        &mut self,
        load: &Load,
        amount: Amount,
        mut send: impl AsyncFnMut(u32, Vec<u8>) -> Result<F, Failed>,
    ) -> Result<Measured, Failed>
    where
        F: Future<Output = Result<u64, E>>,
        E: Into<Failed>,
    {
        let (begun, mut at) = (Instant::now(), 0_u64);
        let mut waiting = FuturesUnordered::new();
        let mut numbers = vec![0_u32; load.keys as usize];
        while begun.elapsed() < amount.length && at < amount.most {
            // The clock is read once for as many as there is room for.
            while waiting.len() < amount.window && at < amount.most {
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
        let measured = Measured { handled: self.count, time: begun.elapsed() };
        if self.wrong > 0 {
            return Err(format!("{} stored out of the order of their key", self.wrong).into());
        }
        Ok(measured)
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

async fn raw(client: Client, amount: Amount) -> Result<Measured, Failed> {
    let load = load();
    let js = jetstream::new(client);
    let mut confirmed = Confirmed::new(&load);
    let send = async |key: u32, payload: Vec<u8>| {
        let sent = js.publish(load.subject(key), payload.into()).await?;
        let sent = sent.into_future();
        Ok(async move { sent.await.map(|stored| stored.sequence) })
    };
    let measured = confirmed.run(&load, amount, send).await?;
    empty(&js).await?;
    Ok(measured)
}

/// The client on the thread that publishes: nothing is handed from thread to thread.
fn together(url: &str, amount: Amount) -> Result<Measured, Failed> {
    on_tokio(async { raw(async_nats::connect(url).await?, amount).await })?
}

/// The client on a thread of its own, as in every program with more than one thread.
fn apart(url: &str, amount: Amount) -> Result<Measured, Failed> {
    let (connected, client) = oneshot::channel();
    let (over, end) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let own = scope.spawn(move || {
            on_tokio(async {
                // Not taken if the other side has given up.
                let _ = connected.send(async_nats::connect(url).await);
                let _ = end.await;
            })
        });
        let measured = on_tokio(async { raw(client.await??, amount).await })?;
        drop(over);
        own.join().map_err(|_| "the client's thread panicked")??;
        measured
    })
}

fn ours(url: &str, amount: Amount) -> Result<Measured, Failed> {
    let load = load();
    let bus = Bus::open(url, &load, |builder| builder.publish_window(amount.window))?;
    let measured = on_tokio(async {
        let mut confirmed = Confirmed::new(&load);
        let send = async |key: u32, payload: Vec<u8>| {
            let key = load.key(key);
            let sent = bus.bus.publish(load.topic, Record::new(key.as_bytes(), payload));
            Ok(async move { sent.await.map(|stored| stored.offset) })
        };
        confirmed.run(&load, amount, send).await
    })??;
    bus.close()?;
    on_tokio(async { empty(&context(url).await?).await })??;
    Ok(measured)
}

async fn empty(js: &jetstream::Context) -> Result<(), Failed> {
    js.get_stream(load().stream).await?.purge().await?;
    Ok(())
}

type Publish = fn(&str, Amount) -> Result<Measured, Failed>;

const ARMS: [(&str, Publish); 3] =
    [("raw", together), ("raw, two threads", apart), ("keylane", ours)];

pub fn groups(url: &str) -> Vec<Group<'_>> {
    let group = |window: usize| {
        let arm = |(name, publish): (&'static str, Publish)| Arm {
            name,
            run: Box::new(move |_, length| publish(url, Amount { window, length, most: u64::MAX })),
        };
        // What the way between two threads costs shows where everybody waits for it.
        let arms = ARMS.into_iter().filter(|arm| window == 1 || arm.0 != "raw, two threads");
        let mut goals = vec![("keylane", "raw", 0.95)];
        if window == 1 {
            goals.push(("keylane", "raw, two threads", 0.95));
        }
        Group { name: format!("publish {window}"), arms: arms.map(arm).collect(), goals }
    };
    WINDOWS.map(group).into()
}

/// What is counted: the arm and its window.
pub const COUNTED: [(&str, &str, usize); 4] = [
    ("publish raw, window 1", "raw", 1),
    ("publish keylane, window 1", "keylane", 1),
    ("publish raw, window 1,000", "raw", 1_000),
    ("publish keylane, window 1,000", "keylane", 1_000),
];

/// Publishes so many by an arm that is counted.
pub fn counted(url: &str, name: &str, most: u64) -> Result<(), Failed> {
    let (_, arm, window) =
        COUNTED.into_iter().find(|counted| counted.0 == name).ok_or("no such arm")?;
    let (_, publish) = ARMS.into_iter().find(|other| other.0 == arm).ok_or("no such arm")?;
    let measured = publish(url, Amount { window, length: Duration::from_secs(300), most })?;
    // Else the count would be that of fewer.
    if measured.handled == most { Ok(()) } else { Err("not all was published in time".into()) }
}
