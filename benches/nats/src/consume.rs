//! The groups of arms that consume what is stored.

use std::sync::Arc;

use keylane::nats::AckMode;

use crate::load::{Form, Load, Tally};
use crate::raw::{self, Acks};
use crate::rounds::{Arm, Group, Run, slice};
use crate::server::on_tokio;
use crate::{Failed, ours, peer, socket};

/// The loads, in streams of `messages` records of 128 bytes, and half as many of 1 KiB.
pub fn loads(messages: u64) -> Vec<Load> {
    let load = |stream, filter, topic, form, size, messages| {
        let keys = if form == Form::Plain { 1 } else { 1_000 };
        Load { stream, filter, topic, form, keys, messages, size, whole: false }
    };
    vec![
        load("P128", "p128", "p128", Form::Plain, 128, messages),
        load("K128", "k128.*.*", "k128", Form::Keyed, 128, messages),
        load("P1024", "p1024", "p1024", Form::Plain, 1_024, messages / 2),
        load("K1024", "k1024.*.*", "k1024", Form::Keyed, 1_024, messages / 2),
        load("H128", "h128", "h128", Form::Header("X-Aggregate-ID"), 128, messages / 2),
        load(HANDLERS, "a128.*.*", "a128", Form::Keyed, 128, messages / 8),
        load("R128", "r128", "r128", Form::Header("nats-partition-key"), 128, messages / 2),
    ]
}

/// The stream for handlers that take their time.
pub const HANDLERS: &str = "A128";

fn arm<'a>(
    name: &'static str,
    load: &'a Load,
    run: impl Fn(&str, &Arc<Tally>) -> Result<(), Failed> + Sync + 'a,
) -> Arm<'a> {
    let run: Run<'a> = Box::new(move |consumer, length| {
        let tally = Arc::new(Tally::new(load, load.messages));
        slice(&tally, length, || run(consumer, &tally))
    });
    Arm { name, run }
}

/// An arm by its name: what consumes `load`.
pub fn named<'a>(url: &'a str, load: &'a Load, name: &'static str) -> Option<Arm<'a>> {
    let raw = |acks| {
        arm(name, load, move |consumer, tally| {
            on_tokio(raw::tallied(url, load, consumer, acks, tally))?
        })
    };
    let whole = |acks| {
        arm(name, load, move |consumer, tally| {
            on_tokio(raw::tallied(url, &load.whole(), consumer, acks, tally))?
        })
    };
    let bare = |acks| {
        arm(name, load, move |consumer, tally| {
            let js = on_tokio(async {
                let js = crate::server::context(url).await?;
                raw::consumer(&js, load, consumer, acks).await?;
                Ok::<_, Failed>(js)
            })?;
            drop(js);
            socket::pull(url, load, consumer, acks, tally)
        })
    };
    let bus = |mode| {
        arm(name, load, move |consumer, tally| ours::tallied(url, load, consumer, mode, tally))
    };
    Some(match name {
        "raw none" => raw(Acks::None),
        "raw all" => raw(Acks::All),
        "raw each" => raw(Acks::Each),
        "raw none, whole" => whole(Acks::None),
        "raw all, whole" => whole(Acks::All),
        "raw each, whole" => whole(Acks::Each),
        "one in flight" => raw(Acks::One),
        "messages()" => arm(name, load, move |consumer, tally| {
            on_tokio(raw::messages(url, load, consumer, tally))?
        }),
        "socket none" => bare(Acks::None),
        "socket all" => bare(Acks::All),
        "socket each" => bare(Acks::Each),
        "keylane Each" => bus(AckMode::Each),
        "keylane Floor" => bus(AckMode::Floor),
        "keylane Checkpoint" => bus(AckMode::Checkpoint),
        "ruststream" => arm(name, load, move |consumer, tally| {
            on_tokio(peer::tallied(url, load, consumer, tally))?
        }),
        _ => return None,
    })
}

/// What each mode is compared with: its name in a group's, ours, the raw loop that acknowledges alike, that which asks for
/// the whole stream, and the limit.
const MODES: [(&str, [&str; 4]); 3] = [
    ("each", ["keylane Each", "raw each", "raw each, whole", "socket each"]),
    ("floor", ["keylane Floor", "raw all", "raw all, whole", "socket all"]),
    ("checkpoint", ["keylane Checkpoint", "raw none", "raw none, whole", "socket none"]),
];

/// The groups: for each load and way to acknowledge, what it is compared with.
pub fn groups<'a>(url: &'a str, loads: &'a [Load]) -> Vec<Group<'a>> {
    let find = |stream: &str| loads.iter().find(|load| load.stream == stream);
    let mut groups = Vec::new();
    for load in loads {
        if matches!(load.form, Form::Header(_)) || load.stream == HANDLERS {
            continue;
        }
        for (what, [ours, raw, whole, bare]) in MODES {
            // Of a stream without keys the subjects asked for are the stream's.
            let mut names = match (load.form, load.size) {
                (Form::Plain, _) => vec![bare, raw, ours],
                // A slow filter is slow for every size.
                (_, 128) => vec![whole, raw, ours],
                _ => vec![whole, ours],
            };
            if what == "each" && load.form == Form::Plain {
                names.push("messages()");
            }
            if what == "each" && load.stream == "P128" {
                names.push("one in flight");
            }
            let mut goals = vec![(ours, raw, 0.95), (ours, whole, 0.95)];
            goals.extend([(ours, "messages()", 1.0), (ours, "one in flight", 4.0)]);
            goals.retain(|goal| names.contains(&goal.1));
            let arms = names.iter().filter_map(|name| named(url, load, name)).collect();
            groups.push(Group { name: format!("{} {what}", load.topic), arms, goals });
        }
    }
    if let (Some(ours), Some(theirs)) = (find("H128"), find("R128")) {
        let arms = [
            ("raw each", ours),
            ("keylane Each", ours),
            ("ruststream", theirs),
            ("keylane Floor", ours),
        ];
        let arms = arms.into_iter().filter_map(|(name, load)| named(url, load, name)).collect();
        let goals = vec![
            ("keylane Each", "ruststream", 1.4),
            ("keylane Floor", "ruststream", 2.0),
            ("keylane Each", "raw each", 0.95),
        ];
        groups.push(Group { name: "header".to_owned(), arms, goals });
    }
    groups
}
