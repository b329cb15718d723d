//! Dead letters: what is in them, that the original waits for them, and parked keys.

use std::time::Duration;

use super::fixture::{Failed, Shape};
use super::stage::cases;
use super::stage::{Stage, Stager};
use super::tools::{Note, Notes, ensure, equal};
use crate::bus::BusSubscription;
use crate::error::HandlerError;
use crate::handler::Handled;
use crate::record::Record;
use crate::retry::Retry;
use crate::subscription::Subscription;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};

cases![
    dead_letters_hold_the_record_as_it_was,
    dead_letters_say_why,
    the_original_waits_for_its_dead_letter,
    a_parked_key_follows_in_order_until_resumed,
    a_key_can_be_parked_and_skipped_by_hand,
];

/// A subscription that fails what its payload says, the notes of its handler, and of the dead letters.
struct Letters {
    stage: Stage,
    topic: String,
    dead: String,
    subscription: BusSubscription,
    handled: Notes,
    letters: Notes,
    mended: Arc<AtomicBool>,
}

impl Letters {
    fn new(
        stage: Stage,
        policy: impl FnOnce(Subscription) -> Subscription,
        error: &'static str,
    ) -> Result<Self, Failed> {
        let (topic, dead) = (stage.name("topic"), stage.name("dead"));
        let (handled, letters) = (Notes::new(&stage), Notes::new(&stage));
        let (mended, taken) = (Arc::new(AtomicBool::new(false)), handled.clone());
        let works = mended.clone();
        let handler = move |record: &Record| -> Handled {
            taken.take(record);
            // Relaxed would do: the case changes it while nothing is under way. Pairs with `mend`.
            if record.payload().starts_with(b"bad") && !works.load(Ordering::Acquire) {
                return Err(HandlerError::retryable(error));
            }
            Ok(())
        };
        let policy = policy(stage.policy("s").dead_letter(&*dead));
        let subscribed = stage.bus.subscribe(&topic, policy, handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        Ok(Self { stage, topic, dead, subscription, handled, letters, mended })
    }

    /// Reads the dead letters, as anybody would: from the topic's beginning.
    fn read(&self) -> Result<(), Failed> {
        let policy = self.stage.policy("reader");
        let subscribed = self.stage.bus.subscribe(&self.dead, policy, self.letters.taker());
        self.stage.finish("the subscribe", subscribed)??;
        Ok(())
    }

    fn publish(&self, key: &str, texts: &[&str]) -> Result<(), Failed> {
        texts.iter().try_for_each(|text| {
            self.stage.publish(&self.topic, Record::new(key, text)).map(|_| ())
        })
    }

    /// Two keys that share a lane.
    fn keys(&self) -> [String; 2] {
        let mut keys = self.stage.keys(&self.subscription, 2).into_iter();
        [(); 2].map(|()| keys.next().unwrap_or_default())
    }

    fn mend(&self) {
        // Release pairs with the acquire in the handler.
        self.mended.store(true, Ordering::Release);
    }

    /// The text of a header of a letter.
    fn header(note: &Note, name: &str) -> Option<String> {
        let found = note.headers.iter().rev().find(|header| header.0 == name.as_bytes())?;
        Some(String::from_utf8_lossy(found.1.as_deref()?).into_owned())
    }
}

fn dead_letters_hold_the_record_as_it_was(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, dead, letters) = (stage.name("topic"), stage.name("dead"), Notes::new(&stage));
    let policy = stage.policy("s").dead_letter(&*dead);
    let handler = |_: &Record| -> Handled { Err("no".into()) };
    stage.finish("the subscribe", stage.bus.subscribe(&topic, policy, handler))??;
    let name: &[u8] = if stager.fixture().takes_any_header_name() { &[255, 0] } else { b"c" };
    let records = [
        Record::new([0, 255], [1, 2, 0, 254])
            .with_header("b", "2")
            .with_header("a", "")
            .with_null_header("a")
            .with_header(name, [0, 255]),
        Record::null("null"),
        Record::new("empty", ""),
        Record::keyless("keyless"),
    ];
    let mut sent: Vec<_> = records.iter().map(Note::of).collect();
    for record in records {
        stage.publish(&topic, record)?;
    }
    // Kept though nobody reads them, and read from the beginning.
    stage.until("all are dead", || stage.runtime.snapshot().outcomes.dead_lettered == 4)?;
    let reader = stage.bus.subscribe(&dead, stage.policy("reader"), letters.taker());
    stage.finish("the subscribe", reader)??;
    stage.until("all letters are read", || letters.len() == 4)?;
    let content = |note: &Note, headers: usize| {
        (note.key.clone(), note.payload.clone(), note.headers[..headers].to_vec())
    };
    sent.sort_by(|a, b| a.key.cmp(&b.key));
    let mut got = letters.all();
    got.sort_by(|a, b| a.key.cmp(&b.key));
    for (sent, got) in sent.iter().zip(&got) {
        let own = sent.headers.len();
        ensure(got.headers.len() > own, "the letter has headers more than the record")?;
        equal("a letter", content(got, own), content(sent, own))?;
    }
    Ok(())
}

fn dead_letters_say_why(stager: &Stager<'_>) -> Result<(), Failed> {
    const ERROR: &str = concat!(
        "line 1\r\nline 2\0 \u{1b}[31m ", // what would break a header or a terminal
        "é012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    );
    // Long enough to be cut, wherever that is.
    let error: &'static str = ERROR.repeat(16).leak();
    let retry = Retry::fixed(Duration::from_millis(5)).attempts(3);
    let case = Letters::new(stager.open()?, |policy| policy.retry(retry), error)?;
    let position = case.stage.publish(&case.topic, Record::new("key", "bad"))?;
    case.read()?;
    case.stage.until("the letter is read", || case.letters.len() == 1)?;
    let letter = &case.letters.all()[0];
    let header = |name| Letters::header(letter, name).unwrap_or_default();
    equal("the topic", header("X-Original-Topic"), case.topic.clone())?;
    equal("the partition", header("X-Original-Partition"), position.partition.to_string())?;
    equal("the offset", header("X-Original-Offset"), position.offset.to_string())?;
    equal("the attempts", header("X-Attempts"), "3".to_owned())?;
    equal("the subscription", header("X-Subscription"), case.stage.name("s"))?;
    let text = header("X-Error-Message");
    ensure(text.starts_with("line 1\\r\\nline 2"), &format!("the error is escaped: {text}"))?;
    ensure(text.len() <= 1_024, &format!("the error is cut: {} bytes", text.len()))?;
    ensure(text.len() > 900 && !text.chars().any(char::is_control), "and it is all there")?;
    equal("attempts", case.handled.len(), 3)
}

fn the_original_waits_for_its_dead_letter(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let case = Letters::new(stage, |policy| policy, "no")?;
        let [a, b] = case.keys();
        case.stage.break_topic(&case.dead, true)?;
        let held = case.stage.publish(&case.topic, Record::new(&a, "bad"))?;
        case.publish(&a, &["after"])?;
        case.publish(&b, &["other"])?;
        case.stage.until("the other key is handled", || case.handled.texts_of(&b).len() == 1)?;
        case.stage.pass(Duration::from_secs(3));
        equal("of the key", case.handled.texts_of(&a), vec!["bad".to_owned()])?;
        let committed = case.stage.committed(&case.subscription, held.partition)?;
        equal("the frontier", committed, held.offset)?;
        case.stage.break_topic(&case.dead, false)?;
        case.stage.until("the key goes on", || case.handled.texts_of(&a).len() == 2)?;
        case.stage.until_committed(&case.subscription)?;
        case.read()?;
        case.stage.until("the letter is read", || case.letters.len() == 1)?;
        equal("the letter", case.letters.texts(), vec!["bad".to_owned()])
    })
}

fn a_parked_key_follows_in_order_until_resumed(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let case = Letters::new(stage, Subscription::park_key, "no")?;
        case.read()?;
        let [a, b] = case.keys();
        case.publish(&a, &["1", "bad 2", "3", "4"])?;
        case.publish(&b, &["1", "2"])?;
        case.stage
            .until("all have an end", || case.letters.len() == 3 && case.handled.len() == 4)?;
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        equal("letters", case.letters.texts_of(&a), texts(&["bad 2", "3", "4"]))?;
        equal("handled", case.handled.texts_of(&a), texts(&["1", "bad 2"]))?;
        equal("of the other key", case.handled.texts_of(&b), texts(&["1", "2"]))?;
        case.stage.until_committed(&case.subscription).or_else(unsupported)?;
        let subscriber = case.subscription.subscriber();
        case.stage.until("both are counted", || {
            subscriber.parked().first().is_some_and(|parked| parked.followed == 2)
        })?;
        let parked = subscriber.parked();
        equal("parked keys", parked.len(), 1)?;
        equal("the parked key", parked[0].key.clone(), a.clone().into_bytes())?;
        equal("why", &*parked[0].error, "no")?;
        case.mend();
        subscriber.resume(a.as_bytes());
        case.publish(&a, &["5", "bad 6"])?;
        case.stage.until("the key goes on", || case.handled.texts_of(&a).len() == 4)?;
        equal("handled", case.handled.texts_of(&a), texts(&["1", "bad 2", "5", "bad 6"]))?;
        ensure(subscriber.parked().is_empty(), "no key is parked")?;
        equal("letters", case.letters.len(), 3)
    })
}

fn a_key_can_be_parked_and_skipped_by_hand(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let forever = Retry::fixed(Duration::from_secs(3_600)).forever();
        let case = Letters::new(stage, |policy| policy.retry(forever), "no")?;
        case.read()?;
        let ([a, b], subscriber) = (case.keys(), case.subscription.subscriber());
        case.publish(&a, &["bad 1", "2"])?;
        case.publish(&b, &["1"])?;
        case.stage.until("the first has failed, and the other key's has not", || {
            case.handled.len() == 2
        })?;
        subscriber.skip(a.as_bytes());
        case.stage.until("the second is handled", || case.handled.texts_of(&a).len() == 2)?;
        ensure(subscriber.park(a.as_bytes()), "the key is parked")?;
        case.stage.until("it is known", || subscriber.parked().len() == 1)?;
        case.publish(&a, &["3"])?;
        case.publish(&b, &["2"])?;
        case.stage.until("it follows", || case.letters.len() == 1)?;
        equal("the letter", case.letters.texts(), vec!["3".to_owned()])?;
        let attempts = Letters::header(&case.letters.all()[0], "X-Attempts");
        equal("attempts", attempts, Some("0".to_owned()))?;
        case.stage.until("the other key goes on", || case.handled.texts_of(&b).len() == 2)?;
        case.stage.until_committed(&case.subscription).or_else(unsupported)
    })
}

/// A check that the fixture cannot make is left out.
fn unsupported(failed: Failed) -> Result<(), Failed> {
    match failed {
        Failed::Unsupported(_) => Ok(()),
        broken => Err(broken),
    }
}
