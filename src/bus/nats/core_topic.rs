//! Topics of core NATS: at most once. What is lost on the way is counted where that can be known, and said where it can
//! only be guessed; nothing is dropped silently here.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use async_nats::{Message, Subscriber as Subscription};
use futures_util::{FutureExt, StreamExt};
use tokio::task::unconstrained;
use tokio::time::{sleep, timeout};

use super::core_counts::CoreCounters;
use super::core_sequence::Seen;
use super::desk::{Command, Desk};
use super::headers;
use super::link::{Link, Links};
use super::shared::{Member, Shared};
use super::topic::Topic;
use super::topic_options::WhenFull;
use crate::bus::keyed::{KeyIn, keyed};
use crate::bus::{BrokerError, BrokerErrorKind, BusError, BusEvent, BusReport};
use crate::clock::Time;
use crate::record::{Position, Record};
use crate::reply::Answer;
use crate::submit::{Refusal, SubmitError};
use crate::subscriber::Subscriber;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// Messages taken before what was commanded is looked at.
const TURN: usize = 256;
/// How often the loop looks around with nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// How long the server may take to say that it has the subscription.
const ROUND_TRIP: Duration = Duration::from_secs(2);
/// How long a close waits for handlers that do not end in time.
const GRACE: Duration = Duration::from_millis(100);
/// How often that is asked, one message each.
const ROUND_TRIPS: u64 = 2;

impl Shared {
    /// Subscribes to a topic of core NATS, on a connection of its own: so what that drops is of this topic. `place`: which
    /// of the subscription's it is.
    pub(super) async fn begin_core(
        self: &Arc<Self>,
        topic: Arc<Topic>,
        place: u32,
        subscriber: &Subscriber,
        key_in: KeyIn,
        counters: Arc<CoreCounters>,
    ) -> Result<(), BusError> {
        let policy = &subscriber.entry.policy;
        let (name, group) = (policy.name().to_owned(), policy.group_name().to_owned());
        let spawner = &self.runtime.core().spawner;
        let link =
            Links::another(spawner, &self.options, &self.health, "core", "nats-core").await?;
        let (messages, others) = subscribe(&link, &topic, group).await?;
        let desk = Arc::<Desk>::default();
        self.join(Member { name, desk: desk.clone() });
        let consumer = CoreConsumer {
            shared: self.clone(),
            topic,
            place,
            key_in,
            subscriber: subscriber.clone(),
            desk,
            messages,
            connects: link.connects(),
            others,
            link,
            counters,
            seen: Seen::default(),
            said: 0,
            closing: None,
            stopped: false,
        };
        // It runs beside the connections of the bus; its own thread ends with it.
        let io = consumer.link.io.handle();
        drop(io.spawn(consumer.run()));
        Ok(())
    }
}

/// Subscribes, and waits until the server has it or says that it forbids it. With how many messages came meanwhile that
/// are none of the subscription's.
async fn subscribe(
    link: &Link,
    topic: &Topic,
    group: String,
) -> Result<(Subscription, u64), BrokerError> {
    let failed = |text: String| BrokerError::new(BrokerErrorKind::Failed, text);
    // All partitions are one subject with a wildcard.
    let subject = topic.filters(None).swap_remove(0);
    link.permitted(&subject, async {
        let messages = link.client.queue_subscribe(subject.clone(), group).await;
        let messages = messages.map_err(|error| failed(error.to_string()))?;
        // Nobody is there, which is the answer: by the first the server has read the subscription, and by the second
        // a refusal, which came before, has been told.
        for _ in 0..ROUND_TRIPS {
            let nobody = link.client.new_inbox();
            let answer = timeout(ROUND_TRIP, link.client.request(nobody, "".into())).await;
            // That nobody is there is an error of the request's, and no answer at all is one of the time's.
            if answer.is_err() {
                return Err(failed(format!("no answer to a subscription to {subject:?}")));
            }
        }
        Ok((messages, ROUND_TRIPS))
    })
    .await?
}

/// The loop of one subscription.
struct CoreConsumer {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    /// Which of the subscription's topics that is.
    place: u32,
    key_in: KeyIn,
    subscriber: Subscriber,
    desk: Arc<Desk>,
    messages: Subscription,
    link: Link,
    /// How often the connection had been made when it was last looked at.
    connects: u64,
    /// Messages of the connection that are none of the subscription's.
    others: u64,
    counters: Arc<CoreCounters>,
    seen: Seen,
    /// What is missing and was said to be.
    said: u64,
    closing: Option<(Time, Vec<Answer<BusReport>>)>,
    /// The runtime takes nothing more of it.
    stopped: bool,
}

impl CoreConsumer {
    async fn run(mut self) {
        let wakers = &self.shared.runtime.core().tasks;
        let waker = self.desk.waker();
        wakers.lock().push(waker.clone());
        loop {
            self.hear();
            if self.is_over() {
                break;
            }
            let (some, all) = self.turn().await;
            self.look(all);
            if some {
                tokio::task::yield_now().await;
                continue;
            }
            let desk = self.desk.clone();
            tokio::select! {
                biased;
                message = self.messages.next() => match message {
                    Some(message) => self.take(message).await,
                    None => self.stopped = true,
                },
                () = desk.nudged() => {}
                () = sleep(IDLE) => {}
            }
        }
        self.shared.runtime.core().tasks.lock().retain(|other| !other.will_wake(&waker));
        self.end().await;
    }

    fn hear(&mut self) {
        for command in self.desk.take() {
            match command {
                Command::Close(until, answer) => {
                    let (at, answers) = self.closing.get_or_insert((until, Vec::new()));
                    *at = until.min(*at);
                    answers.push(answer);
                }
                // There is nothing to begin anew: what is not here is gone.
                Command::Restart(_, answer) => answer.give(Ok(())),
                Command::Looked(_) => {}
            }
        }
    }

    /// Takes what waits, up to a turn's worth: whether there was something, and whether that was all.
    async fn turn(&mut self) -> (bool, bool) {
        for taken in 0..TURN {
            match self.waiting() {
                Some(Some(message)) => self.take(message).await,
                Some(None) => self.stopped = true,
                None => return (taken > 0, true),
            }
            // A record may have waited for its lane, and a close come meanwhile.
            if self.stopped || self.closing.is_some() {
                break;
            }
        }
        (true, false)
    }

    /// The next message, if it waits in the client's buffer, or `None` as the last of all.
    fn waiting(&mut self) -> Option<Option<Message>> {
        // Not put off by the executor: with nothing there the numbers agree.
        unconstrained(self.messages.next()).now_or_never()
    }

    fn is_over(&self) -> bool {
        let removed = self.subscriber.entry.state.is_removed();
        let ends = self.shared.is_abandoned() || self.shared.runtime.core().exits();
        self.stopped || removed || ends || self.closing.is_some()
    }

    /// Counts what was lost before it came here. `all`: nothing waits in the client's buffer.
    fn look(&mut self, all: bool) {
        let connects = self.link.connects();
        if connects > self.connects {
            self.connects = connects;
            self.counters.gaps_possible.add(1);
            self.say_gap("the connection was cut", None);
        }
        let missing = self.counters.missing.get();
        if missing > self.said {
            self.say_gap("numbers of publishers are missing", Some(missing - self.said));
            self.said = missing;
        }
        if all {
            self.counters.dropped_by_client.set(self.not_received());
        }
    }

    /// Messages of the subscription that reached the connection and not this loop.
    fn not_received(&self) -> u64 {
        // Relaxed: a count. The connection is driven on this thread.
        let came = self.link.client.statistics().in_messages.load(Ordering::Relaxed);
        came.saturating_sub(self.others).saturating_sub(self.counters.received.get())
    }

    fn say_gap(&self, why: &str, missed: Option<u64>) {
        let (source, why) = (self.topic.name.to_string(), why.to_owned());
        self.shared.health.say(BusEvent::GapPossible { source, why, missed });
    }

    async fn take(&mut self, message: Message) {
        self.counters.received.add(1);
        let wire = message.headers.as_ref();
        let mark = wire.and_then(|wire| wire.get(headers::SEQUENCE));
        let mut offset = 0;
        if let Some(mark) = mark {
            let missing = self.seen.missing(&message.subject, mark.as_str());
            self.counters.missing.add(missing);
            offset = mark.as_str().rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
        let partition = self.topic.partition_in(&message.subject);
        let record = headers::record(&self.topic, &message.subject, wire, &message.payload)
            .with_position(Position { partition, offset })
            .with_timestamp(self.timestamp())
            .with_topic_index(self.place);
        let record = keyed(record, self.key_in);
        let refused = match self.subscriber.try_submit(record) {
            Err(SubmitError::Full(record)) => self.wait(record).await,
            other => other.map_err(|refused| (refused.refusal(), refused.into_record())),
        };
        let Err((why, record)) = refused else { return self.counters.taken.add(1) };
        record.recycle_quietly();
        match why {
            Refusal::Full => self.counters.dropped_when_full.add(1),
            Refusal::InvalidKey | Refusal::NoKey => self.counters.refused.add(1),
            Refusal::Closed | Refusal::Stopped => {
                self.counters.refused.add(1);
                self.stopped = true;
            }
        }
    }

    /// Its lane is full: what then is the topic's policy.
    async fn wait(&mut self, record: Record) -> Result<(), (Refusal, Record)> {
        if self.topic.options.when_full == WhenFull::Drop {
            return Err((Refusal::Full, record));
        }
        let mut submitting = self.subscriber.submit_async(record);
        let desk = self.desk.clone();
        loop {
            let closes = self.closing.as_ref().map(|(until, _)| until.since(self.now()));
            tokio::select! {
                biased;
                submitted = &mut submitting => {
                    return submitted.map_err(|refused| (refused.refusal(), refused.into_record()));
                }
                () = desk.nudged() => self.hear(),
                // A close waits for no lane beyond its time.
                () = sleep(closes.unwrap_or_default()), if closes.is_some() => {
                    return submitting.take_record().map_or(Ok(()), |record| Err((Refusal::Full, record)));
                }
            }
        }
    }

    fn now(&self) -> Time {
        self.shared.runtime.clock().now()
    }

    fn timestamp(&self) -> i64 {
        let now = self.shared.runtime.clock().system_time().duration_since(UNIX_EPOCH);
        now.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Takes what waits in the client's buffer as the bus is closed, and no more than that: whether it could be taken in
    /// time.
    async fn rest(&mut self, until: Time) -> bool {
        for _ in 0..self.not_received() {
            let Some(Some(message)) = self.waiting() else { break };
            self.take(message).await;
            if self.stopped || until <= self.now() {
                return false;
            }
        }
        true
    }

    /// Takes nothing new, and lets what came be handled until the bus' close ends.
    async fn end(mut self) {
        let mut drained = true;
        if let Some((until, _)) = self.closing {
            drained = self.rest(until).await;
        }
        // What still waits is dropped, and the subscription at the server with it.
        let all = self.waiting().is_none();
        self.look(all);
        drop(self.messages);
        let late = self.desk.end();
        self.shared.leave(&self.desk);
        let now = self.shared.runtime.clock().now();
        let report = match &self.closing {
            Some((until, _)) => {
                let mut removal = self.subscriber.close(until.since(now));
                // Of a thread of the runtime's it says that waiting could wait for itself. No handler runs on this one,
                // and it calls all the same.
                let left = poll_fn(|cx| match Pin::new(&mut removal).poll(cx) {
                    Poll::Ready(Ok(left)) => Poll::Ready(left),
                    Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
                });
                // A handler that does not end holds nobody for longer.
                match timeout(until.since(now) + GRACE, left).await {
                    Ok(left) => {
                        BusReport { drained: drained && left.is_empty(), unfinished: left.len() }
                    }
                    Err(_) => BusReport::default(),
                }
            }
            None => BusReport { drained: true, unfinished: 0 },
        };
        let late = late.into_iter().filter_map(|command| match command {
            Command::Close(_, answer) => Some(answer),
            Command::Restart(..) | Command::Looked(_) => None,
        });
        let waiting = self.closing.take().into_iter().flat_map(|(_, answers)| answers);
        waiting.chain(late).for_each(|answer| answer.give(report));
    }
}
