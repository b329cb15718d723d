//! Streams as they are wanted, against configurations as servers give them.

use super::super::topic_options::TopicOptions;
use super::*;

fn wanted<'a>(topic: &'a Topic, set: &[(&str, &str)]) -> Wanted<'a> {
    let mut options = NatsOptions::default();
    for (name, value) in set {
        options.set(name, value).unwrap();
    }
    Wanted::new(&options, topic)
}

#[test]
fn a_pattern_covers_what_it_matches_all_of() {
    for (pattern, subject) in [
        ("a.b", "a.b"),
        ("a.*", "a.b"),
        ("a.*", "a.*"),
        ("a.>", "a.b.c"),
        ("a.>", "a.*"),
        (">", "a.>"),
    ] {
        assert!(covers(pattern, subject), "{pattern} {subject}");
    }
    for (pattern, subject) in [
        ("a.b", "a.*"),
        ("a.*", "a.>"),
        ("a.*", "a"),
        ("a.>", "a"),
        ("a.b", "a"),
        ("a", "a.b"),
        ("a.*", "a.b.c"),
    ] {
        assert!(!covers(pattern, subject), "{pattern} {subject}");
    }
}

#[test]
fn what_the_server_dropped_is_told() {
    let topic = Topic::with("orders", TopicOptions::default()).unwrap();
    let set = [("max_age", "1h"), ("duplicate_window", "1m"), ("discard", "new")];
    let wanted = wanted(&topic, &set);
    let mut got = wanted.new_config();
    assert!(wanted.check(&got).is_ok());
    for (field, told) in [
        ("max_age", "its max_age is not set and `max_age` asks for 3600s"),
        ("duplicate_window", "its duplicate_window is not set"),
        ("discard", "its discard is not set and `discard` asks for new"),
        ("subjects", "lacks the subject \"orders\""),
    ] {
        let taken = got.as_object_mut().and_then(|got| got.remove(field)).unwrap();
        let error = wanted.check(&got).unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Mismatch);
        assert!(error.to_string().contains(told), "{error}");
        got[field] = taken;
    }
}

#[test]
fn growing_changes_what_is_less_and_nothing_else() {
    let topic = Topic::with("orders", TopicOptions::default()).unwrap();
    let there = json!({
        "name": "STREAM_orders", "subjects": ["x"], "max_msgs": 100, "max_age": 0, "num_replicas": 3,
        "discard": "new", "storage": "file", "of the future": {"stays": true},
    });
    let set = [("max_messages", "200"), ("max_age", "1h"), ("replicas", "1"), ("discard", "old")];
    let grown = wanted(&topic, &set).grown(&there).unwrap();
    let mut expected = there.clone();
    expected["subjects"] = json!(["x", "orders"]);
    expected["max_msgs"] = json!(200);
    assert_eq!(grown, expected);
    assert_eq!(wanted(&topic, &[("max_messages", "0")]).grown(&grown).unwrap()["max_msgs"], -1);
    assert_eq!(wanted(&topic, &[("storage", "memory")]).grown(&grown), None);
}

#[test]
fn a_stream_that_forgets_ids_early_is_told() {
    let plain = Topic::with("orders", TopicOptions::default()).unwrap();
    let with_ids = Topic::with("orders", TopicOptions::default().assign_ids()).unwrap();
    let set = [("publish_patience", "90s")];
    let made = |set| wanted(&plain, set).new_config()["duplicate_window"].as_u64();
    assert_eq!(made(&[]), Some(120_000_000_000));
    assert_eq!(made(&set), Some(180_000_000_000));
    assert_eq!(made(&[("max_age", "10s")]), Some(10_000_000_000), "no longer than it keeps");
    let mut there = wanted(&plain, &set).new_config();
    assert_eq!(wanted(&with_ids, &set).forgets_early(&there), None);
    assert!(wanted(&with_ids, &set).check(&there).is_ok());
    there["duplicate_window"] = json!(90_000_000_000_u64);
    let told = wanted(&plain, &set).forgets_early(&there).unwrap();
    assert!(told.contains("duplicate_window is 90s and `publish_patience` is 90s"), "{told}");
    assert!(wanted(&plain, &set).check(&there).is_ok(), "not every record has an id");
    let error = wanted(&with_ids, &set).check(&there).unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Mismatch);
    assert!(error.to_string().contains("may be stored twice"), "{error}");
}

#[test]
fn what_can_lose_records_is_noted() {
    let noted = |config: Value| notes(&config).join("|");
    assert_eq!(
        noted(json!({"discard": "old", "max_age": 0, "max_msgs": -1, "storage": "file"})),
        ""
    );
    assert!(noted(json!({"discard": "old", "max_bytes": 5})).contains("its max_bytes may delete"));
    assert_eq!(noted(json!({"discard": "new", "max_bytes": 5})), "");
    assert!(noted(json!({"discard": "new", "max_age": 5})).contains("its max_age may delete"));
    assert!(noted(json!({"storage": "memory", "retention": "interest"})).contains("|"));
}
