//! Streams and consumers: made, changed, checked or left alone, as the bus is told, and never other than they must be.
//!
//! What a server took is read back: some drop settings that they do not know without a word.

use async_nats::jetstream::consumer::{self, AckPolicy};
use async_nats::jetstream::{ErrorCode, stream};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

use super::choice::{Discard, Retention, Storage, Strategy};
use super::link::{Link, Refused};
use super::options::NatsOptions;
use super::topic::Topic;
use crate::bus::{BrokerError, BrokerErrorKind};

/// For how long a stream that is made knows a message again, at least.
const DUPLICATES: Duration = Duration::from_secs(120);

/// Makes sure of a topic's stream, as the options say, and says how it is.
pub(super) async fn ensure(
    control: &Link,
    options: &NatsOptions,
    topic: &Topic,
) -> Result<stream::Info, BrokerError> {
    let wanted = Wanted::new(options, topic);
    let info = match (look(control, topic).await?, options.topology) {
        (Some(info), Strategy::Skip) => return read(topic, info),
        (Some(info), Strategy::CreateOrUpdate) => grow(control, &wanted, topic, info).await?,
        (Some(info), _) => info,
        (None, Strategy::CreateOnly | Strategy::CreateOrUpdate) => {
            create(control, &wanted, topic).await?
        }
        (None, Strategy::ValidateOnly | Strategy::Skip) => {
            return Err(BrokerError::new(
                BrokerErrorKind::MissingTopic,
                format!(
                    "topic \"{}\" has no stream: make \"{}\", or set `topology` to `create_or_update`",
                    topic.name, topic.stream
                ),
            ));
        }
    };
    wanted.check(&info["config"])?;
    for note in notes(&info["config"]).into_iter().chain(wanted.forgets_early(&info["config"])) {
        control.signals.note(&topic.stream, &note);
    }
    read(topic, info)
}

async fn look(control: &Link, topic: &Topic) -> Result<Option<Value>, BrokerError> {
    match control.ask(&format!("STREAM.INFO.{}", topic.stream), &()).await {
        Ok(info) => Ok(Some(info)),
        Err(refused) if refused.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
        Err(refused) => Err(refused.into()),
    }
}

async fn create(control: &Link, wanted: &Wanted<'_>, topic: &Topic) -> Result<Value, BrokerError> {
    match control.create(&topic.stream, &wanted.new_config()).await {
        Ok(info) => Ok(info),
        // Somebody else has made it meanwhile: it counts as found.
        Err(refused) if refused.is(ErrorCode::STREAM_NAME_EXIST) => {
            look(control, topic).await?.ok_or_else(|| refused.into())
        }
        Err(refused) if refused.is(ErrorCode::STREAM_SUBJECT_OVERLAP) => {
            Err(overlap(control, topic).await)
        }
        Err(refused) => Err(failed(topic, "made", refused)),
    }
}

/// Changes a stream that is there where that takes nothing away.
async fn grow(
    control: &Link,
    wanted: &Wanted<'_>,
    topic: &Topic,
    info: Value,
) -> Result<Value, BrokerError> {
    let Some(grown) = wanted.grown(&info["config"]) else { return Ok(info) };
    match control.ask(&format!("STREAM.UPDATE.{}", topic.stream), &grown).await {
        Ok(info) => Ok(info),
        Err(refused) if refused.is(ErrorCode::STREAM_SUBJECT_OVERLAP) => {
            Err(overlap(control, topic).await)
        }
        Err(refused) => Err(failed(topic, "changed", refused)),
    }
}

/// Another stream has the topic's subjects already.
async fn overlap(control: &Link, topic: &Topic) -> BrokerError {
    let mut others = BTreeSet::new();
    for subject in topic.filters(None) {
        let asked = control.ask::<Value>("STREAM.NAMES", &json!({ "subject": subject })).await;
        let names = asked.ok().and_then(|answer| answer["streams"].as_array().cloned());
        others.extend(names.unwrap_or_default().iter().filter_map(Value::as_str).map(quoted));
    }
    let others = Vec::from_iter(others).join(", ");
    BrokerError::new(
        BrokerErrorKind::Mismatch,
        format!(
            "stream \"{}\" cannot have the subjects of topic \"{}\": {others} has them. Name that stream in the topic's \
             options, or take the subjects from it",
            topic.stream, topic.name
        ),
    )
}

fn failed(topic: &Topic, what: &str, refused: Refused) -> BrokerError {
    let error = BrokerError::from(refused);
    let text = format!(
        "stream \"{}\" of topic \"{}\" cannot be {what}: {error}",
        topic.stream, topic.name
    );
    BrokerError::new(error.kind(), text)
}

fn read(topic: &Topic, info: Value) -> Result<stream::Info, BrokerError> {
    serde_json::from_value(info).map_err(|error| {
        let text =
            format!("what the server says of stream \"{}\" cannot be read: {error}", topic.stream);
        BrokerError::new(BrokerErrorKind::Failed, text)
    })
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A setting of a stream that an option asks for.
struct Setting {
    /// As the server calls it.
    field: &'static str,
    option: &'static str,
    value: Value,
    /// How much of something the server's value is; none where it is no quantity, and cannot be changed.
    amount: Option<fn(&Value) -> i64>,
}

/// What the options ask of a topic's stream. What they leave unset may be as it is.
struct Wanted<'a> {
    topic: &'a Topic,
    subjects: Vec<String>,
    settings: Vec<Setting>,
    /// For how long a record with an id is sent again.
    patience: Duration,
}

impl<'a> Wanted<'a> {
    fn new(options: &NatsOptions, topic: &'a Topic) -> Self {
        let mut settings = Vec::new();
        let mut add = |field, option, value: Option<Value>, amount| {
            settings.extend(value.map(|value| Setting { field, option, value, amount }));
        };
        let nanos =
            |duration: Duration| json!(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX));
        // The server's words for "any number" are below zero.
        let most = |number: usize| if number == 0 { json!(-1) } else { json!(number) };
        add("retention", "retention", options.retention.map(retention), None);
        add("storage", "storage", options.storage.map(storage), None);
        add("num_replicas", "replicas", options.replicas.map(|copies| json!(copies)), Some(plain));
        add("discard", "discard", options.discard.map(discard), Some(strictness));
        add("max_age", "max_age", options.max_age.map(nanos), Some(limit));
        add("max_bytes", "max_bytes", options.max_bytes.map(most), Some(limit));
        add("max_msgs", "max_messages", options.max_messages.map(most), Some(limit));
        let window = options.duplicate_window.map(nanos);
        add("duplicate_window", "duplicate_window", window, Some(plain));
        let patience = options.publish_patience;
        Self { topic, subjects: topic.filters(None), settings, patience }
    }

    /// The configuration of a stream that is not there yet.
    fn new_config(&self) -> Value {
        let mut config = Map::new();
        config.insert("name".into(), json!(self.topic.stream));
        config.insert("subjects".into(), json!(self.subjects));
        // What the server takes for granted differs from version to version.
        for (field, value) in [
            ("retention", json!("limits")),
            ("storage", json!("file")),
            ("discard", json!("old")),
            ("num_replicas", json!(1)),
        ] {
            config.insert(field.into(), value);
        }
        for setting in &self.settings {
            config.insert(setting.field.into(), setting.value.clone());
        }
        // Whatever is sent again must be known again. No stream remembers longer than it keeps.
        let window = DUPLICATES.max(2 * self.patience).as_nanos();
        let window = i64::try_from(window).unwrap_or(i64::MAX);
        let window = window.min(config.get("max_age").map_or(i64::MAX, limit));
        config.entry("duplicate_window").or_insert(json!(window));
        Value::Object(config)
    }

    /// The configuration of a stream that is there with what is missing added; none if nothing is to be added.
    /// Settings that nobody here knows stay as they are.
    fn grown(&self, config: &Value) -> Option<Value> {
        let mut grown = config.clone();
        let missing = self.missing(config);
        if !missing.is_empty() {
            let mut subjects = config["subjects"].as_array().cloned().unwrap_or_default();
            subjects.extend(missing.iter().map(|subject| json!(subject)));
            grown["subjects"] = Value::Array(subjects);
        }
        for setting in &self.settings {
            let more =
                |amount: fn(&Value) -> i64| amount(&setting.value) > amount(&config[setting.field]);
            if setting.amount.is_some_and(more) {
                grown[setting.field] = setting.value.clone();
            }
        }
        (grown != *config).then_some(grown)
    }

    /// Whether the stream is as it must be; every difference in words, with what to do.
    fn check(&self, config: &Value) -> Result<(), BrokerError> {
        let mut wrong = Vec::new();
        for subject in self.missing(config) {
            wrong.push(format!("it lacks the subject \"{subject}\": add it"));
        }
        for setting in &self.settings {
            let got = &config[setting.field];
            let amounts = setting.amount.map(|amount| (amount(got), amount(&setting.value)));
            let (option, wanted) = (setting.option, shown(setting.field, &setting.value));
            let got = shown(setting.field, got);
            match amounts {
                Some((got, wanted)) if got == wanted => continue,
                None if config[setting.field] == setting.value => continue,
                _ if config[setting.field].is_null() => wrong.push(format!(
                    "its {} is not set and `{option}` asks for {wanted}: a server that has dropped the setting is too old \
                     for it; take a newer one, or leave `{option}` unset",
                    setting.field
                )),
                Some((more, less)) if more > less => wrong.push(format!(
                    "its {} is {got} and `{option}` asks for {wanted}, which would take something away: change the \
                     stream by hand, or leave `{option}` unset",
                    setting.field
                )),
                Some(_) => wrong.push(format!(
                    "its {} is {got} and `{option}` asks for {wanted}: change the stream, or leave `{option}` unset",
                    setting.field
                )),
                None => wrong.push(format!(
                    "its {} is {got} and `{option}` asks for {wanted}, which no server changes: make another stream, or \
                     leave `{option}` unset",
                    setting.field
                )),
            }
        }
        // Who asks for ids of every record counts on it.
        if self.topic.options.assign_ids {
            wrong.extend(self.forgets_early(config));
        }
        let (stream, topic) = (&self.topic.stream, &self.topic.name);
        refuse(&format!("stream \"{stream}\" is not as topic \"{topic}\" needs it"), &wrong)
    }

    /// Whether the stream forgets an id while its record may still be sent again, which would be stored twice then.
    fn forgets_early(&self, config: &Value) -> Option<String> {
        let nanos = config["duplicate_window"].as_u64().filter(|nanos| *nanos > 0)?;
        let (window, patience) = (Duration::from_nanos(nanos), self.patience);
        (window <= patience).then(|| {
            format!(
                "its duplicate_window is {window:?} and `publish_patience` is {patience:?}, so that a record that is sent \
                 again may be stored twice: set `duplicate_window` to more than that (its max_age is to be no shorter), \
                 or `publish_patience` to less than {window:?}"
            )
        })
    }

    /// The topic's subjects that none of the stream's covers.
    fn missing(&self, config: &Value) -> Vec<&String> {
        let there = config["subjects"].as_array().map_or(&[][..], Vec::as_slice);
        let covered = |subject: &&String| {
            there.iter().filter_map(Value::as_str).any(|there| covers(there, subject))
        };
        self.subjects.iter().filter(|subject| !covered(subject)).collect()
    }
}

fn refuse(what: &str, wrong: &[String]) -> Result<(), BrokerError> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(BrokerError::new(BrokerErrorKind::Mismatch, format!("{what}: {}", wrong.join("; "))))
}

fn retention(retention: Retention) -> Value {
    json!(match retention {
        Retention::Limits => "limits",
        Retention::Interest => "interest",
        Retention::WorkQueue => "workqueue",
    })
}

fn storage(storage: Storage) -> Value {
    json!(storage.as_str())
}

fn discard(discard: Discard) -> Value {
    json!(discard.as_str())
}

/// A number as it is.
fn plain(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// A number of which none, and none above zero, is without an end.
fn limit(value: &Value) -> i64 {
    value.as_i64().filter(|limit| *limit > 0).unwrap_or(i64::MAX)
}

/// A stream that refuses new messages gives up less than one that deletes old ones.
fn strictness(value: &Value) -> i64 {
    i64::from(value == "new")
}

/// A setting for people.
fn shown(field: &str, value: &Value) -> String {
    match value.as_i64() {
        Some(nanos) if matches!(field, "max_age" | "duplicate_window") && nanos > 0 => {
            format!("{:?}", Duration::from_nanos(nanos.unsigned_abs()))
        }
        Some(number) if number <= 0 => "without an end".to_owned(),
        _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}

/// Whether everything that `subject` matches is matched by `pattern` as well.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// What of a stream's settings can lose records that nobody has handled.
fn notes(config: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    let limits = ["max_age", "max_bytes", "max_msgs", "max_msgs_per_subject"];
    let ends = |field: &&str| config[*field].as_i64().is_some_and(|limit| limit > 0);
    // A full stream that refuses new messages still deletes those that are too old.
    let deletes = |field: &&str| *field == "max_age" || strictness(&config["discard"]) == 0;
    let deleting: Vec<&str> = limits.into_iter().filter(ends).filter(deletes).collect();
    if !deleting.is_empty() {
        notes.push(format!(
            "its {} may delete records that nobody has handled yet: size it for the longest outage of a consumer",
            deleting.join(", ")
        ));
    }
    if config["storage"] == "memory" {
        notes.push("it is in memory: a restart of its server loses it".to_owned());
    }
    if config["retention"] == "interest" {
        notes.push("what is published while no consumer exists is not kept".to_owned());
    }
    notes
}

/// Checks that a consumer is as it was asked for. Some of it decides whether order is kept: nothing may be delivered
/// to somebody else, or be given up, behind our back.
pub(super) fn check_consumer(
    wanted: &consumer::Config,
    got: &consumer::Config,
) -> Result<(), BrokerError> {
    let mut wrong = Vec::new();
    let mut differs = |what: &str, wanted: String, got: String| {
        if wanted != got {
            wrong.push(format!("its {what} is {got} and must be {wanted}"));
        }
    };
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    differs("ack_policy", text(&wanted.ack_policy), text(&got.ack_policy));
    differs("filter", filters(wanted), filters(got));
    // Without acknowledgements the rest means nothing.
    if wanted.ack_policy != AckPolicy::None {
        let deliveries = |config: &consumer::Config| match config.max_deliver {
            ..=0 => "without an end".to_owned(),
            most => most.to_string(),
        };
        differs("max_deliver", deliveries(wanted), deliveries(got));
        differs("backoff", text(&wanted.backoff), text(&got.backoff));
        differs("ack_wait", text(&wanted.ack_wait), text(&got.ack_wait));
        differs("max_ack_pending", text(&wanted.max_ack_pending), text(&got.max_ack_pending));
    }
    let name = got.durable_name.as_ref().or(got.name.as_ref()).cloned().unwrap_or_default();
    let what = format!(
        "consumer \"{name}\" is not as it must be, so that order would be lost; stop whoever else configures it and \
         delete it, or choose another group"
    );
    refuse(&what, &wrong)
}

/// The filters of a consumer, in one form for each set of them.
fn filters(config: &consumer::Config) -> String {
    let one = Some(&config.filter_subject).filter(|subject| !subject.is_empty());
    let all: BTreeSet<_> = config.filter_subjects.iter().chain(one).collect();
    if all.is_empty() {
        "\">\"".to_owned()
    } else {
        Vec::from_iter(all.into_iter().map(|subject| quoted(subject))).join(" ")
    }
}

#[cfg(test)]
mod tests;
