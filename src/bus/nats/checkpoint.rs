//! Progress that the bus keeps itself: the frontier, what is finished above it and which keys are parked, in one value of a
//! key-value bucket that one owner alone can write.
//!
//! Whoever begins writes its name into the value: the revision of that write is the token that fences what older owners
//! do. Each later write replaces the revision that the owner wrote last, so that an owner who has lost the value learns it
//! with its next write.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::floors::Floors;
use super::link::Link;
use crate::bus::{BrokerError, BrokerErrorKind};
use crate::clock::Time;
use crate::position::Stored;
use crate::reply::{Reply, reply};

/// The longest text, in bytes: well below what any server takes as one value.
const LIMIT: usize = 256 << 10;
/// How often a claim is tried while others claim, too.
const CLAIMS: usize = 16;
/// How often a write is tried that may be refused for one of our own, and the pause after the first time.
const WRITES: usize = 4;
const AGAIN: Duration = Duration::from_millis(20);

/// An owned checkpoint.
pub(super) struct Checkpoint {
    floors: Floors,
    key: String,
    owner: String,
    /// The revision of the claim.
    token: u64,
    /// The revision that the owner wrote last.
    revision: u64,
    /// A write under way, and the frontier in it.
    writing: Option<(Reply<Result<Written, BrokerError>>, u64)>,
    /// The frontier that was written last.
    written: Option<u64>,
    /// Whether keys were parked or resumed since.
    parked: bool,
    due: Time,
    every: Duration,
    /// What became of the last write that was heard of, until somebody asks.
    heard: Option<Result<(), String>>,
}

/// What became of a write.
enum Written {
    At(u64),
    /// Somebody else has claimed it.
    Lost,
    /// Nobody has it: it was removed.
    Gone,
}

/// What a claim found.
pub(super) enum Found {
    /// Nobody was here before.
    Nothing,
    Stored(Stored),
    /// What stands there cannot be read: everything is handled again.
    Unreadable(String),
}

impl Checkpoint {
    /// Whether a position stands under `key`.
    pub(super) async fn is_kept(floors: &Floors, key: &str) -> Result<bool, BrokerError> {
        Ok(floors.get(key).await?.is_some_and(|(value, _)| !text_of(&value).is_empty()))
    }

    /// Claims the value under `key`.
    pub(super) async fn claim(
        floors: Floors,
        key: String,
        every: Duration,
    ) -> Result<(Self, Found), BrokerError> {
        let owner = uuid::Uuid::now_v7().simple().to_string();
        for _ in 0..CLAIMS {
            let before = floors.get(&key).await?;
            let (text, revision) = match &before {
                Some((value, revision)) => (text_of(value), *revision),
                None => ("", 0),
            };
            let value = format!("{owner} {text}");
            let Some(token) = floors.replace(&key, value, revision).await? else { continue };
            let found = match (before.is_some() && !text.is_empty(), Stored::decode(text)) {
                (false, _) => Found::Nothing,
                (true, Ok(stored)) => Found::Stored(stored),
                (true, Err(error)) => Found::Unreadable(error.to_string()),
            };
            let claimed = Self {
                floors,
                key,
                owner,
                token,
                revision: token,
                writing: None,
                written: None,
                parked: false,
                due: Time::ZERO,
                every,
                heard: None,
            };
            return Ok((claimed, found));
        }
        let text = format!("the position {key} is claimed by others again and again");
        Err(BrokerError::new(BrokerErrorKind::Failed, text))
    }

    /// The token that this owner's handlers see.
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    /// What has been written: everything below is handled, come what may.
    pub(super) fn written(&self) -> Option<u64> {
        self.written
    }

    /// Writes where the source stands, if it is time and there is news. Never waits.
    ///
    /// # Errors
    /// [`BrokerErrorKind::Fenced`] if somebody else owns it now, [`BrokerErrorKind::LostPosition`] if it was removed,
    /// [`BrokerErrorKind::NotPermitted`] if it may not be written. Another write that failed is made again.
    pub(super) fn turn(
        &mut self,
        control: &Link,
        now: Time,
        frontier: Option<u64>,
        parked: bool,
        stored: impl FnOnce() -> Option<Stored>,
    ) -> Result<(), BrokerError> {
        self.hear()?;
        self.parked |= parked;
        let news = frontier.is_some() && (self.parked || frontier != self.written);
        if !news || now < self.due || self.writing.is_some() {
            return Ok(());
        }
        let Some(stored) = stored() else { return Ok(()) };
        self.due = now.after(self.every);
        self.parked = false;
        let frontier = stored.frontier();
        let (answer, reply) = reply();
        let write = self.write(stored);
        control.io.spawn(async move { answer.give(write.await) });
        self.writing = Some((reply, frontier));
        Ok(())
    }

    /// What became of the last write, told once.
    pub(super) fn heard(&mut self) -> Option<Result<(), String>> {
        self.heard.take()
    }

    /// Hears what became of the write that is under way.
    fn hear(&mut self) -> Result<(), BrokerError> {
        let Some((reply, frontier)) = &mut self.writing else { return Ok(()) };
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(answer) = std::pin::Pin::new(reply).poll(&mut cx) else { return Ok(()) };
        let frontier = *frontier;
        self.writing = None;
        match answer {
            Some(Ok(written)) => {
                self.heard = Some(Ok(()));
                self.take(written, frontier)
            }
            Some(Err(error)) if error.kind() == BrokerErrorKind::NotPermitted => Err(error),
            failed => {
                self.heard = failed.and_then(Result::err).map(|error| Err(error.to_string()));
                // It may be what said that keys were parked.
                self.parked = true;
                Ok(())
            }
        }
    }

    fn take(&mut self, written: Written, frontier: u64) -> Result<(), BrokerError> {
        match written {
            Written::At(revision) => {
                (self.revision, self.written) = (revision, Some(frontier));
                Ok(())
            }
            Written::Lost => {
                let text = format!("the position {} belongs to another process now", self.key);
                Err(BrokerError::new(BrokerErrorKind::Fenced, text))
            }
            Written::Gone => {
                let text = format!("the position {} was removed from its bucket", self.key);
                Err(BrokerError::new(BrokerErrorKind::LostPosition, text))
            }
        }
    }

    /// Writes it, waiting until it is there.
    pub(super) async fn finish(&mut self, stored: Option<Stored>) -> Result<(), BrokerError> {
        if let Some((reply, frontier)) = self.writing.take()
            && let Some(Ok(written)) = reply.await
        {
            self.take(written, frontier)?;
        }
        match stored {
            Some(stored) => {
                let frontier = stored.frontier();
                let written = self.write(stored).await?;
                self.take(written, frontier)
            }
            None => Ok(()),
        }
    }

    /// A write of its own, to be run anywhere.
    fn write(
        &self,
        stored: Stored,
    ) -> impl Future<Output = Result<Written, BrokerError>> + Send + 'static {
        let (floors, key, owner) = (self.floors.clone(), self.key.clone(), self.owner.clone());
        let (token, mut revision) = (self.token, self.revision);
        async move {
            let value = format!("{owner} {}", stored.encode(LIMIT).text);
            let (mut pause, mut refused, mut gone) = (AGAIN, None, true);
            for _ in 0..WRITES {
                refused = match floors.replace(&key, value.clone(), revision).await {
                    Ok(Some(revision)) => return Ok(Written::At(revision)),
                    Ok(None) => None,
                    Err(error) if error.kind() == BrokerErrorKind::NotPermitted => {
                        return Err(error);
                    }
                    Err(error) => Some(error),
                };
                // Refused, or not known: an earlier write of ours may have been stored though nobody said so, or be under way
                // still. Only another owner's, newer than our claim, says that it is lost.
                let found = floors.get(&key).await?.filter(|(value, _)| !value.is_empty());
                // Whoever leads since a moment ago may not know of it yet: it is gone once it is at each look.
                gone &= found.is_none();
                revision = match found {
                    Some((found, at)) if owner_of(&found) == owner => at,
                    Some((_, at)) if at >= token => return Ok(Written::Lost),
                    _ => revision,
                };
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            if gone {
                return Ok(Written::Gone);
            }
            let text =
                format!("the position {key} was changed while it was written, {WRITES} times");
            Err(refused.unwrap_or_else(|| BrokerError::new(BrokerErrorKind::Failed, text)))
        }
    }
}

fn parts(value: &[u8]) -> (&str, &str) {
    let text = std::str::from_utf8(value).unwrap_or("");
    text.split_once(' ').unwrap_or((text, ""))
}

fn owner_of(value: &[u8]) -> &str {
    parts(value).0
}

fn text_of(value: &[u8]) -> &str {
    parts(value).1
}
