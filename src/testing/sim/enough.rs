//! What a seed must have, whatever its dice say: records, keys, keys that share a lane, kinds of fault.

use std::collections::BTreeMap;

use super::random::{Random, mix};
use super::script::{Action, FED, Item, KEYLESS, KEYS, PARTITIONS, Play, RECORDS, Script, Via};
use super::world::World;

/// Keys that they have, at least.
const LEAST_KEYS: usize = 20;
/// Kinds of fault, at least.
const LEAST_KINDS: usize = 3;

/// The whole script of a seed.
pub(super) fn script(seed: u64) -> Script {
    let mut script = Script::generate(seed);
    top_up(&mut script.actions, &mut Random::new(mix(seed) ^ 0x70b0));
    script
}

/// Adds what the dice have left out, at places that the dice decide: a record for each key that is missing, and
/// faults that come wherever they stand. Most scripts need nothing, and stay as they are.
fn top_up(actions: &mut Vec<Action>, random: &mut Random) {
    let mut used = [false; KEYS as usize];
    for key in actions.iter().flat_map(items).map(|item| item.key).filter(|&key| key != KEYLESS) {
        used[key as usize] = true;
    }
    let missing: Vec<u32> = (0..KEYS).filter(|&key| !used[key as usize]).collect();
    let enough = LEAST_KEYS.saturating_sub(used.len() - missing.len());
    for key in missing.into_iter().take(enough) {
        let item = Item { key, plays: [Play::Ok; 3] };
        let action = if random.percent(50) {
            Action::Publish { partition: random.below(PARTITIONS as u64) as usize, item }
        } else {
            Action::Submit { to: random.below(FED[0] as u64) as usize, via: Via::Try, item }
        };
        insert(actions, random, action);
    }
    let sure = [
        Action::Jump { ms: random.pick(&[1, 30, 1_000]) },
        Action::HoldMonitor { steps: random.within(5, 120) as u32 },
        Action::HoldWorker {
            worker: random.below(2) as usize,
            steps: random.within(5, 120) as u32,
        },
    ];
    let same =
        |one: &Action, two: &Action| std::mem::discriminant(one) == std::mem::discriminant(two);
    // What others meet, and whether they come at all, is known only once they have.
    let crashes = usize::from(actions.iter().any(|action| same(action, &Action::Crash)));
    let there = |actions: &[Action]| {
        sure.iter().filter(|own| actions.iter().any(|action| same(action, own))).count()
    };
    for action in &sure {
        if there(actions) + crashes >= LEAST_KINDS {
            break;
        }
        if !actions.iter().any(|own| same(own, action)) {
            insert(actions, random, action.clone());
        }
    }
}

fn insert(actions: &mut Vec<Action>, random: &mut Random, action: Action) {
    let place = random.below(actions.len() as u64 + 1) as usize;
    actions.insert(place, action);
}

/// The records that an action makes for certain.
fn items(action: &Action) -> &[Item] {
    match action {
        Action::Submit { item, .. } | Action::Publish { item, .. } => std::slice::from_ref(item),
        Action::Batch { items, .. } => items,
        _ => &[],
    }
}

/// What a simulation has had while its script was played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Had {
    /// Records that were handled or given up for good.
    pub records: usize,
    /// Their keys.
    pub keys: usize,
    /// Of these, the most that shared a lane within one subscription.
    pub sharing: usize,
    /// Kinds of fault that came.
    pub kinds: usize,
}

impl Had {
    /// Of this world, at its end.
    pub(super) fn of(world: &World) -> Self {
        let (judge, scripted) = (world.judge.borrow(), world.scripted.get());
        let ended = |record: usize| record < scripted && judge.known[record].terminal;
        let (mut keys, mut lanes) = (0_u32, BTreeMap::<(u32, u32), u32>::new());
        let keyed = judge.deliveries.iter().filter(|delivery| delivery.key != KEYLESS);
        for delivery in keyed.filter(|delivery| ended(delivery.record as usize)) {
            keys |= 1 << delivery.key;
            *lanes.entry((delivery.generation, delivery.lane)).or_default() |= 1 << delivery.key;
        }
        Self {
            records: (0..scripted).filter(|&record| ended(record)).count(),
            keys: keys.count_ones() as usize,
            sharing: lanes.values().map(|keys| keys.count_ones() as usize).max().unwrap_or(0),
            kinds: world.coverage.borrow().kinds(),
        }
    }

    /// What it should have had more of.
    pub fn lacks(&self) -> Vec<String> {
        let all = [
            ("records", self.records, RECORDS as usize),
            ("keys", self.keys, LEAST_KEYS),
            ("keys that share a lane", self.sharing, 2),
            ("kinds of fault", self.kinds, LEAST_KINDS),
        ];
        let lacks = all.into_iter().filter(|(_, had, least)| had < least);
        lacks.map(|(what, had, least)| format!("{had} {what}, at least {least}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_no_more() {
        let item = |key| Item { key, plays: [Play::Ok; 3] };
        let publish = |key| Action::Publish { partition: 0, item: item(key) };
        let mut actions: Vec<Action> = (3..9).map(publish).collect();
        actions.push(Action::Within { to: 0, item: item(11) });
        actions.push(Action::HoldMonitor { steps: 5 });
        let mut again = actions.clone();
        top_up(&mut actions, &mut Random::new(7));
        // Six keys were there, and one kind of fault that comes for certain.
        assert_eq!(actions.len(), again.len() + 14 + 2);
        let mut keys: Vec<u32> = actions.iter().flat_map(items).map(|item| item.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, (0..20).collect::<Vec<_>>());
        top_up(&mut again, &mut Random::new(7));
        assert_eq!(actions, again, "the same dice, the same script");
        let enough = actions.clone();
        top_up(&mut actions, &mut Random::new(8));
        assert_eq!(actions, enough, "nothing was missing");
    }

    #[test]
    fn too_little_is_said() {
        let enough = Had { records: 200, keys: 20, sharing: 2, kinds: 3 };
        assert!(enough.lacks().is_empty());
        let too_few = Had { records: 199, keys: 19, sharing: 1, kinds: 2 };
        assert_eq!(too_few.lacks().len(), 4);
    }
}
