//! The bus over NATS: topics of this run alone, and their end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keylane::{Bus, NatsBus, Runtime};

use crate::event::Topic;
use crate::job::JobError;

/// How long removing the streams may take.
const REMOVAL: Duration = Duration::from_secs(10);

/// A bus over NATS, and what this run calls its topics there.
pub(crate) struct Server {
    nats: NatsBus,
    url: String,
    run: String,
}

impl Server {
    /// Connects. Options are those of the URL and of the environment (`KEYLANE_NATS_PASSWORD` and so on).
    pub(crate) fn connect(runtime: &Runtime, url: &str) -> Result<Self, JobError> {
        let builder = NatsBus::builder(runtime, url).with_vars(std::env::vars_os())?;
        let nats = builder.connect().wait()?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("{:x}-{:x}", since.as_micros(), std::process::id());
        Ok(Self { nats, url: url.to_owned(), run })
    }

    pub(crate) fn bus(&self) -> Bus {
        self.nats.bus()
    }

    /// What a topic is called in this run.
    pub(crate) fn topic(&self, topic: Topic) -> String {
        format!("{}.{}", topic.name(), self.run)
    }

    /// The stream that holds a topic.
    fn stream(&self, topic: Topic) -> String {
        format!("STREAM_{}", self.topic(topic).replace('.', "_"))
    }

    /// How often a connection was made anew.
    pub(crate) fn reconnects(&self) -> u64 {
        self.nats.reconnects()
    }

    /// Removes the streams of this run, which nobody else reads. What cannot be removed is said, and no failure.
    pub(crate) fn remove_streams(&self) {
        let streams = Topic::ALL.map(|topic| self.stream(topic));
        if let Err(error) = remove(&self.url, &streams) {
            eprintln!(
                "quickstart: the streams {} were left on the server: {error}",
                streams.join(", ")
            );
        }
    }
}

/// With a plain client of its own, since a bus never deletes what it did not only keep for itself.
fn remove(url: &str, streams: &[String]) -> Result<(), JobError> {
    let servers = url.split_once('?').map_or(url, |(servers, _)| servers);
    if servers.starts_with("tls:") {
        return Err("this example removes them over plain connections only".into());
    }
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async {
        let removing = async {
            let client = async_nats::connect(servers).await?;
            let context = async_nats::jetstream::new(client);
            for stream in streams {
                context.delete_stream(stream).await?;
            }
            Ok(())
        };
        tokio::time::timeout(REMOVAL, removing).await?
    })
}
