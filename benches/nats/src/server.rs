//! The server, and what lies on it: one on loopback, started for this run, with a file store.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, StorageType};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::Failed;
use crate::load::Load;

/// A running server; it ends with this.
pub struct Server {
    pub url: String,
    keeper: Option<Child>,
}

impl Server {
    /// The one of the environment variable `KL_NATS_URL`, or one of its own.
    pub fn start() -> Result<Self, Failed> {
        if let Ok(url) = std::env::var("KL_NATS_URL") {
            return Ok(Self { url, keeper: None });
        }
        let dir = std::env::temp_dir().join(format!("keylane-nats-bench-{}", std::process::id()));
        let mut keeper = Command::new("bash")
            .arg(root().join("ci/nats.sh"))
            .arg("serve")
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut url = String::new();
        let output = keeper.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut url)?;
        if url.trim().is_empty() {
            return Err("ci/nats.sh starts no server".into());
        }
        Ok(Self { url: url.trim().to_owned(), keeper: Some(keeper) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take()); // its end is the server's
            let _ = keeper.wait();
        }
    }
}

/// Where the repository is.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_path_buf()
}

/// A tokio runtime on the thread that calls.
pub fn on_tokio<T>(future: impl Future<Output = T>) -> Result<T, Failed> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// A connection to look and prepare with.
pub async fn context(url: &str) -> Result<jetstream::Context, Failed> {
    Ok(jetstream::new(async_nats::connect(url).await?))
}

/// Makes an empty stream in files, of one replica.
pub async fn stream(js: &jetstream::Context, name: &str, subject: &str) -> Result<(), Failed> {
    let config = Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        storage: StorageType::File,
        num_replicas: 1,
        ..Config::default()
    };
    js.create_stream(config).await?;
    Ok(())
}

/// Makes the load's stream and fills it.
pub async fn fill(url: &str, load: &Load) -> Result<(), Failed> {
    let js = context(url).await?;
    stream(&js, load.stream, load.filter).await?;
    let mut waiting = FuturesUnordered::new();
    let mut numbers = vec![0_u32; load.keys as usize];
    for at in 0..load.messages {
        let key = load.key_of(at);
        numbers[key as usize] += 1;
        let payload = load.payload(key, numbers[key as usize]);
        let subject = load.subject(key);
        let sent = match load.header(key) {
            Some(headers) => js.publish_with_headers(subject, headers, payload.into()).await?,
            None => js.publish(subject, payload.into()).await?,
        };
        waiting.push(sent.into_future());
        if waiting.len() >= 2_000
            && let Some(confirmed) = waiting.next().await
        {
            confirmed?;
        }
    }
    while let Some(confirmed) = waiting.next().await {
        confirmed?;
    }
    Ok(())
}
