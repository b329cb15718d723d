//! A topic on NATS: its stream, its subjects, its durable consumers, and where a record's key stands.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use super::key_token;
use super::topic_options::{Form, TopicOptions};
use crate::bus::InvalidTopic;
use crate::error::ConfigError;
use crate::hash::fnv1a32;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, Mutex};

/// The longest subject, in bytes: a server reads control lines of 4,096 bytes by default, and more stands in one.
pub(super) const MAX_SUBJECT: usize = 3_500;
/// Topics that are remembered once they were named; more are looked at anew each time.
const REMEMBERED: usize = 4_096;
/// The longest name of a durable consumer that is not cut.
const MAX_DURABLE: usize = 200;

/// A topic and how it lies on the server. One that is only subscribed to may have wildcards.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    /// The stream that holds it.
    pub(super) stream: String,
    pub(super) options: TopicOptions,
    /// Whether its stream is known to be there.
    pub(super) ensured: Arc<AtomicBool>,
}

/// The options of topics, by name or by pattern: the longest pattern that fits counts.
#[derive(Debug, Default)]
pub(super) struct Topics {
    told: Vec<(String, TopicOptions)>,
    known: Mutex<HashMap<Box<str>, Arc<Topic>>>,
}

impl Clone for Topics {
    fn clone(&self) -> Self {
        Self { told: self.told.clone(), known: Mutex::default() }
    }
}

impl Topics {
    /// Says how the topic, or the topics of a pattern, lie on the server.
    pub(super) fn tell(&mut self, name: &str, options: TopicOptions) -> Result<(), TopicRefused> {
        Topic::check(name)?;
        options.validate()?;
        self.told.retain(|(told, _)| told != name);
        self.told.push((name.to_owned(), options));
        // The exact name first, then the more exact pattern.
        self.told.sort_by_key(|(name, _)| (has_wildcards(name), std::cmp::Reverse(name.len())));
        Ok(())
    }

    /// The topic of this name.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Topic>, InvalidTopic> {
        if let Some(topic) = self.known.lock().get(name) {
            return Ok(topic.clone());
        }
        let told = self.told.iter().find(|(told, _)| told == name || covers(told, name));
        let options = told.map(|(_, options)| options.clone()).unwrap_or_default();
        let topic = Arc::new(Topic::with(name, options)?);
        let mut known = self.known.lock();
        if known.len() < REMEMBERED {
            known.insert(name.into(), topic.clone());
        }
        Ok(topic)
    }
}

/// Why a topic's options were refused.
#[derive(Debug)]
pub(super) enum TopicRefused {
    Name(InvalidTopic),
    Options(ConfigError),
}

impl From<InvalidTopic> for TopicRefused {
    fn from(error: InvalidTopic) -> Self {
        Self::Name(error)
    }
}

impl From<ConfigError> for TopicRefused {
    fn from(error: ConfigError) -> Self {
        Self::Options(error)
    }
}

impl Topic {
    pub(super) fn with(name: &str, options: TopicOptions) -> Result<Self, InvalidTopic> {
        Self::check(name)?;
        let stream = match &options.stream {
            Some(stream) => stream.clone(),
            // As the Go system names it; it knows no wildcards, which no stream's name may have.
            None => format!("STREAM_{}", name.replace('.', "_"))
                .replace('*', "any")
                .replace('>', "all")
                .replace(['/', '\\'], "_"),
        };
        Ok(Self { name: name.into(), stream, options, ensured: Arc::default() })
    }

    /// Checks a topic's name: what every bus asks, and what makes it a subject.
    fn check(name: &str) -> Result<(), InvalidTopic> {
        InvalidTopic::check(name)?;
        let rule = if name.split('.').any(str::is_empty) {
            "on NATS no dot stands first, last or beside another"
        } else if name.starts_with('$') {
            "on NATS what begins with `$` belongs to the server"
        } else if name.split_once('>').is_some_and(|(before, after)| {
            !after.is_empty() || !(before.is_empty() || before.ends_with('.'))
        }) || name.split('.').any(|token| token.len() > 1 && token.contains('*'))
        {
            "on NATS `*` stands for one part between dots, and `>` for all that follow"
        } else {
            return Ok(());
        };
        Err(InvalidTopic::breaking(rule, name))
    }

    /// Whether it is a pattern of topics, which can be subscribed to and not published to.
    pub(super) fn is_pattern(&self) -> bool {
        has_wildcards(&self.name)
    }

    /// The partitions that are consumed each by itself; one without a number where they cannot be told apart.
    pub(super) fn partitions(&self) -> Vec<Option<u32>> {
        if self.has_partitions() {
            (0..self.options.partitions).map(Some).collect()
        } else {
            vec![None]
        }
    }

    /// The subjects of the stream that are this topic, those of the given partition alone if there is one.
    pub(super) fn filters(&self, partition: Option<u32>) -> Vec<String> {
        let name = &self.name;
        // A pattern that ends in `>` covers what stands behind its topics' names too.
        if name.ends_with('>') {
            return vec![name.to_string()];
        }
        let partition = partition.map_or_else(|| "*".to_owned(), |partition| partition.to_string());
        vec![match self.options.form {
            Form::Plain => name.to_string(),
            Form::Partitioned => format!("{name}.{partition}"),
            Form::Keyed => format!("{name}.{partition}.*"),
        }]
    }

    /// Whether records may be of both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let others = other.filters(None);
        self.filters(None).iter().any(|own| others.iter().any(|other| overlap(own, other)))
    }

    /// Whether a set of partitions can be told from the others by their subjects.
    pub(super) fn has_partitions(&self) -> bool {
        self.options.form != Form::Plain && !self.name.ends_with('>')
    }

    /// The partition of a key; `spread` stands in for the hash of a key that is not there.
    pub(super) fn partition(&self, key: Option<&[u8]>, spread: u32) -> u32 {
        if self.options.form == Form::Plain {
            return 0;
        }
        key.map_or(spread, fnv1a32) % self.options.partitions.max(1)
    }

    /// The subject that a record of this key is published under.
    pub(super) fn subject(&self, key: Option<&[u8]>) -> String {
        self.subject_in(self.partition(key, 0), key)
    }

    /// The subject of a key in a partition.
    pub(super) fn subject_in(&self, partition: u32, key: Option<&[u8]>) -> String {
        let mut subject = String::with_capacity(self.name.len() + key.map_or(0, <[u8]>::len) + 6);
        subject.push_str(&self.name);
        if self.options.form != Form::Plain {
            // Writing to a string does not fail.
            let _ = write!(subject, ".{partition}");
        }
        if self.options.form == Form::Keyed {
            subject.push('.');
            key_token::encode(key, &mut subject);
        }
        subject
    }

    /// The key that stands in a subject of this topic.
    pub(super) fn key_in<'a>(&self, subject: &'a str) -> Option<Cow<'a, [u8]>> {
        if self.options.form != Form::Keyed {
            return None;
        }
        let (before, token) = subject.rsplit_once('.')?;
        self.number(before.rsplit_once('.')?.1)?;
        key_token::decode(token)
    }

    /// The partition that stands in a subject of this topic; 0 if it has none.
    pub(super) fn partition_in(&self, subject: &str) -> u32 {
        let mut tokens = subject.rsplit('.');
        let token = match self.options.form {
            Form::Plain => None,
            Form::Partitioned => tokens.next(),
            Form::Keyed => tokens.nth(1),
        };
        token.and_then(|token| self.number(token)).unwrap_or(0)
    }

    fn number(&self, token: &str) -> Option<u32> {
        token.parse().ok().filter(|&partition| partition < self.options.partitions)
    }

    /// The durable consumer of a group: `{group}-{topic}`, and `-{partition}`. A dot is written `_`. If any other
    /// character has to be replaced, or the name could be read in two ways, a hash says which it is; so no two names
    /// of groups and topics share a durable, and none looks like one of the Go system, `{…}-unified_{topic}`.
    pub(super) fn durable(&self, group: &str, partition: Option<u32>) -> String {
        let clear = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        let plain = |text: &str| {
            text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_', "_")
        };
        let mut name = format!("{}-{}", plain(group), plain(&self.name));
        let foreign = name.contains("-unified_");
        if !clear(group) || !clear(&self.name) || foreign || name.len() > MAX_DURABLE {
            // ASCII alone, so every place is one between characters.
            name.truncate(MAX_DURABLE);
            name = name.replace("-unified_", "-unified-");
            let whole = [group.as_bytes(), &[0], self.name.as_bytes()].concat();
            let _ = write!(name, "-h{:08x}", fnv1a32(&whole));
        }
        if let Some(partition) = partition {
            let _ = write!(name, "-{partition}");
        }
        name
    }
}

fn has_wildcards(name: &str) -> bool {
    name.split('.').any(|token| token == "*" || token == ">")
}

/// Whether a pattern covers a topic.
fn covers(pattern: &str, topic: &str) -> bool {
    let mut tokens = topic.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether there is a subject that two patterns cover.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn topic(name: &str, options: TopicOptions) -> Topic {
        Topic::with(name, options).unwrap()
    }

    #[test]
    fn each_form_has_its_subjects_and_filters() {
        let key = Some(&b"order-42"[..]);
        let plain = topic("orders.eu", TopicOptions::plain());
        assert_eq!(
            (plain.subject(key).as_str(), plain.stream.as_str()),
            ("orders.eu", "STREAM_orders_eu")
        );
        assert_eq!(
            (plain.filters(None), plain.key_in("orders.eu")),
            (vec!["orders.eu".into()], None)
        );
        let parts = topic("orders", TopicOptions::partitioned(16).stream("ORDERS"));
        let p = fnv1a32(b"order-42") % 16;
        assert_eq!((parts.subject(key), parts.stream.as_str()), (format!("orders.{p}"), "ORDERS"));
        assert_eq!(
            (parts.filters(None), parts.filters(Some(3))),
            (vec!["orders.*".into()], vec!["orders.3".into()])
        );
        let keyed = topic("orders", TopicOptions::keyed(16));
        let subject = keyed.subject(key);
        assert_eq!(subject, format!("orders.{p}.order-42"));
        assert_eq!((keyed.key_in(&subject).as_deref(), keyed.partition_in(&subject)), (key, p));
        assert_eq!(keyed.subject(None), "orders.0.=");
        assert_eq!(keyed.key_in("orders.0.="), None);
        assert_eq!(keyed.key_in("orders.99.k"), None, "no partition of this topic");
    }

    #[test]
    fn patterns_are_subscribed_to_and_tell_how_their_topics_lie() {
        let mut topics = Topics::default();
        topics.tell("orders.>", TopicOptions::keyed(4).stream("ORDERS")).unwrap();
        topics.tell("orders.eu", TopicOptions::plain()).unwrap();
        assert_eq!(topics.find("orders.us.x").unwrap().stream, "ORDERS");
        assert_eq!(topics.find("orders.eu").unwrap().stream, "STREAM_orders_eu");
        assert_eq!(topics.find("orders").unwrap().stream, "STREAM_orders");
        let all = topics.find("orders.>").unwrap();
        assert!(all.is_pattern() && !all.has_partitions());
        assert_eq!(
            (all.filters(None), all.key_in("orders.us.3.k").as_deref()),
            (vec!["orders.>".into()], Some(&b"k"[..]))
        );
        assert_eq!(topic("orders.*", TopicOptions::keyed(4)).filters(Some(2)), ["orders.*.2.*"]);
        assert!(topics.tell("x", TopicOptions::keyed(0)).is_err());
        assert!(topics.tell("x", TopicOptions::plain().stream("a.b")).is_err());
    }

    #[test]
    fn topics_that_share_records_are_found() {
        let plain = |name: &str| topic(name, TopicOptions::plain());
        for (one, other, wanted) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "*.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "*.*", true),
            (">", "x", true),
            ("a.>", "a", false),
            ("a.*", "a.b.c", false),
            ("a.b", "a.c", false),
            ("a.*.c", "a.b.d", false),
        ] {
            assert_eq!(plain(one).overlaps(&plain(other)), wanted, "{one} {other}");
            assert_eq!(plain(other).overlaps(&plain(one)), wanted, "{other} {one}");
        }
        assert!(topic("a", TopicOptions::keyed(2)).overlaps(&plain("a.x.y")));
        assert!(!topic("a", TopicOptions::keyed(2)).overlaps(&plain("a")));
    }

    #[test]
    fn what_is_no_subject_is_no_topic() {
        for bad in ["", ".a", "a.", "a..b", "a.>.b", "a>", "a.b*", "**", "$JS.API", "a b"] {
            let error = Topic::with(bad, TopicOptions::plain()).unwrap_err();
            assert!(!error.to_string().is_empty(), "{bad}");
        }
        for good in ["a", "a.b", "*", ">", "a.*.b", "a.>", "x/y", "A-b_c"] {
            assert!(Topic::with(good, TopicOptions::plain()).is_ok(), "{good}");
        }
    }

    #[test]
    fn durables_are_named_and_never_shared() {
        let durable =
            |group: &str, name: &str, p| topic(name, TopicOptions::plain()).durable(group, p);
        assert_eq!(durable("billing", "orders.eu", None), "billing-orders_eu");
        assert_eq!(durable("billing", "orders", Some(7)), "billing-orders-7");
        let pairs = [
            ("a", "b.c"),
            ("a", "b_c"),
            ("a", "b-c"),
            ("a-b", "c"),
            ("a.b", "c"),
            ("a_b", "c"),
            ("a", "b"),
            ("a", "b-1"),
            ("a", "b/c"),
            ("a b", "c"),
            ("a", "unified.c"),
            ("a-unified", "c"),
            ("a", "unified_c"),
            ("a-unified_b", "c"),
            ("a", "b.*"),
            ("a", "b.>"),
            ("a", "h12345678"),
            ("a", "b-h12345678"),
            ("é", "c"),
            ("ë", "c"),
        ];
        let mut names = HashSet::new();
        for (group, name) in pairs {
            for partition in [None, Some(0), Some(1)] {
                let name = durable(group, name, partition);
                assert!(
                    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)),
                    "{name}"
                );
                assert!(!name.contains("-unified_"), "{name}");
                assert!(names.insert(name.clone()), "{name} twice");
            }
        }
        assert!(durable(&"g".repeat(300), &"t".repeat(255), Some(4_095)).len() < 255);
    }

    proptest! {
        #[test]
        fn a_key_stays_in_its_partition_and_comes_back(
            key in proptest::collection::vec(any::<u8>(), 1..40), n in 1u32..64,
        ) {
            let topic = topic("a.b", TopicOptions::keyed(n));
            let subject = topic.subject(Some(&key));
            prop_assert_eq!(subject.split('.').count(), 4);
            prop_assert_eq!(topic.partition_in(&subject), fnv1a32(&key) % n);
            prop_assert_eq!(topic.key_in(&subject).map(Cow::into_owned), Some(key));
        }

        #[test]
        fn groups_and_topics_share_no_durable(
            a in "[ab._-]{1,5}", b in "[ab_-]{1,5}", c in "[ab._-]{1,5}", d in "[ab_-]{1,5}",
        ) {
            prop_assume!((&a, &b) != (&c, &d));
            let durable = |group: &str, name: &str| topic(name, TopicOptions::plain()).durable(group, None);
            prop_assert_ne!(durable(&a, &b), durable(&c, &d));
        }

        #[test]
        fn any_name_is_taken_or_refused(name in "[ -~]{0,20}", subject in "[ -~]{0,30}") {
            if let Ok(topic) = Topic::with(&name, TopicOptions::keyed(8)) {
                let _ = (topic.key_in(&subject), topic.partition_in(&subject), topic.durable(&name, Some(1)));
            }
        }
    }
}
