//! From a script that fails to a short one that fails the same way.

use super::script::{Action, Script};
use super::{Simulated, enough, play_script};

/// Plays that a search takes at most.
const PLAYS: usize = 3_000;

/// The shortest script found that violates what the seed's does, and what happens in it. `None` if the seed's
/// violates nothing.
pub fn shrink(seed: u64) -> Option<(String, Simulated)> {
    let mut script = enough::script(seed);
    let mut found = play_script(script.clone(), true);
    let invariant = found.conviction.as_ref()?.invariant;
    let mut plays = 0;
    let mut try_script = |candidate: &Script, found: &mut Simulated| {
        plays += 1;
        let played = play_script(candidate.clone(), true);
        let same = played.conviction.as_ref().is_some_and(|c| c.invariant == invariant);
        if same {
            *found = played;
        }
        (same, plays < PLAYS)
    };
    let mut size = script.actions.len() / 2;
    let mut goes_on = true;
    while size > 0 && goes_on {
        let (mut from, mut shorter) = (0, false);
        while from < script.actions.len() && goes_on {
            let mut candidate = script.clone();
            candidate.actions.drain(from..(from + size).min(script.actions.len()));
            let (same, more) = try_script(&candidate, &mut found);
            goes_on = more;
            if same {
                (script, shorter) = (candidate, true);
            } else {
                from += size;
            }
        }
        if size > 1 || !shorter {
            size /= 2;
        }
    }
    // Records that are left behave as well as they may.
    for index in 0..script.actions.len() {
        let mut candidate = script.clone();
        if !calm(&mut candidate.actions[index]) || candidate == script || !goes_on {
            continue;
        }
        let (same, more) = try_script(&candidate, &mut found);
        goes_on = more;
        if same {
            script = candidate;
        }
    }
    Some((script.to_string(), found))
}

/// Has an action's records succeed at once. False if it has none.
fn calm(action: &mut Action) -> bool {
    use super::script::Play;
    match action {
        Action::Submit { item, .. } | Action::Publish { item, .. } => {
            item.plays = [Play::Ok; 3];
            true
        }
        Action::Batch { items, .. } => {
            items.iter_mut().for_each(|item| item.plays = [Play::Ok; 3]);
            true
        }
        _ => false,
    }
}
