//! What holds the bounds that are used up: for a snapshot, and only when one is asked for.

use std::collections::BTreeMap;

use crate::bound::{Bound, UsedUp};
use crate::core::Core;
use crate::inspect::{BusyKey, Why};
use crate::progress::NO_POSITION;
use crate::sync::atomic::Ordering;
use crate::table::Table;

/// The bounds that are used up, and what holds each.
pub(crate) fn used_up(core: &Core, table: &Table, busy: &[BusyKey]) -> Vec<UsedUp> {
    let mut all = keys_and_lanes(busy);
    all.extend(blocking_threads(core, busy));
    all.extend(parked_keys(core, table));
    all.extend(source_bounds(table, busy));
    all.extend(spares(core, busy));
    all
}

fn held_by(key: &BusyKey, bound: Bound) -> UsedUp {
    UsedUp {
        lane: Some(key.lane),
        subscription: Some(key.subscription.clone()),
        key: key.key.clone(),
        held_for: Some(key.held_for),
        ..UsedUp::new(bound)
    }
}

/// Every key that has as many waiting as may be; of every full lane the key that has been busy longest.
fn keys_and_lanes(busy: &[BusyKey]) -> Vec<UsedUp> {
    let of = |bound| busy.iter().filter(move |key| key.bound == Some(bound));
    let keys = of(Bound::KeyWaiting).map(|key| held_by(key, Bound::KeyWaiting));
    let mut lanes = BTreeMap::<u32, &BusyKey>::new();
    for key in of(Bound::LaneWaiting) {
        let longest = lanes.entry(key.lane).or_insert(key);
        if key.held_for > longest.held_for {
            *longest = key;
        }
    }
    keys.chain(lanes.values().map(|key| held_by(key, Bound::LaneWaiting))).collect()
}

/// Held by the call that has run longest.
fn blocking_threads(core: &Core, busy: &[BusyKey]) -> Option<UsedUp> {
    let (running, waiting) = core.blocking.load();
    if running < core.config.blocking_threads || waiting == 0 {
        return None;
    }
    // They are listed in the order in which they began.
    let Some(longest) = core.blocking.running().into_iter().next() else {
        return Some(UsedUp::new(Bound::BlockingThreads));
    };
    let key = busy.iter().find(|key| {
        key.why == Why::Blocking
            && (&*key.subscription, &key.key) == (&*longest.subscription, &longest.key)
    });
    Some(UsedUp {
        lane: key.map(|key| key.lane),
        subscription: Some(longest.subscription.to_string()),
        key: longest.key,
        held_for: key.map(|key| key.held_for),
        ..UsedUp::new(Bound::BlockingThreads)
    })
}

fn parked_keys(core: &Core, table: &Table) -> impl Iterator<Item = UsedUp> {
    let most = core.config.parked_keys;
    let full = table.subscriptions.iter().flatten().filter(move |entry| {
        let parked = entry.state.parked_count();
        parked > 0 && parked >= most
    });
    full.map(|entry| UsedUp {
        subscription: Some(entry.name.to_string()),
        ..UsedUp::new(Bound::ParkedKeys)
    })
}

/// Windows and bytes. Held by each source's oldest unfinished delivery; its key is known once it has been started.
fn source_bounds(table: &Table, busy: &[BusyKey]) -> impl Iterator<Item = UsedUp> {
    let used_up = table.sources.iter().flatten().flat_map(|source| {
        let window = source.state.is_full().then_some(Bound::SourceWindow);
        let bytes = source.state.is_heavy().then_some(Bound::SourceBytes);
        window.into_iter().chain(bytes).map(move |bound| (source, bound))
    });
    used_up.map(|(source, bound)| {
        let key = busy.iter().find(|key| {
            key.source.as_deref() == Some(&*source.name)
                && *key.subscription == *source.subscription
                && source.state.holds_oldest(key.position)
        });
        UsedUp {
            lane: key.map(|key| key.lane),
            subscription: Some(source.subscription.to_string()),
            source: Some(source.name.to_string()),
            key: key.and_then(|key| key.key.clone()),
            offset: Some(source.state.progress().oldest.get()).filter(|&at| at != NO_POSITION),
            held_for: key.map(|key| key.held_for),
            ..UsedUp::new(bound)
        }
    })
}

/// Held by the sync attempt that has run longest, once every worker is in one that overruns.
fn spares(core: &Core, busy: &[BusyKey]) -> Option<UsedUp> {
    let mut running = core.workers.iter().filter(|worker| {
        worker.started.load(Ordering::Acquire) && !worker.ended.load(Ordering::Acquire)
    });
    let all_started = core.spares.get() as usize >= core.config.spares;
    if !all_started || !running.all(|worker| worker.status.is_stuck()) {
        return None;
    }
    let longest = busy.iter().filter(|key| key.why == Why::Sync).max_by_key(|key| key.held_for);
    Some(longest.map_or_else(|| UsedUp::new(Bound::Spares), |key| held_by(key, Bound::Spares)))
}
