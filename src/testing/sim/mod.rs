//! A simulator: the runtime's own code on one thread, under a time and an order of steps that a seed decides,
//! with scripted producers, brokers, handlers and faults, and a judge that knows nothing of the runtime's state.
//!
//! Steps are turns of workers and of the monitor, calls of the pool, polls, deliveries, and the script's actions. A
//! handler that is slow lets others make steps meanwhile, so what overlaps on threads overlaps here.

mod act;
mod broker;
mod coverage;
mod enough;
mod feed;
mod heal;
mod judge;
mod model;
mod play;
mod random;
mod rules;
mod schedule;
mod script;
mod shrink;
mod stage;
mod verdict;
mod world;

use std::rc::Rc;

pub use self::coverage::Coverage;
pub use self::enough::Had;
use self::script::Script;
pub use self::shrink::shrink;
pub use self::verdict::{Conviction, Invariant};
use self::world::World;
#[cfg(keylane_sabotage)]
pub use crate::sabotage::{BUGS, Bug, choose};

/// What became of one simulation.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// The seed.
    pub seed: u64,
    /// What was violated, if something was.
    pub conviction: Option<Conviction>,
    /// A hash of all that happened, in order.
    pub trace: u64,
    /// Steps that were made.
    pub steps: u64,
    /// How much there was in it.
    pub had: Had,
    /// What met what.
    pub coverage: Coverage,
    /// What happened, a line each, if that was asked for.
    pub lines: Vec<String>,
}

/// Runs the simulation of a seed; with `traces`, says what happened.
pub fn simulate(seed: u64, traces: bool) -> Simulated {
    play_script(enough::script(seed), traces)
}

/// Runs a script to its end.
fn play_script(script: Script, traces: bool) -> Simulated {
    let seed = script.seed;
    stage::SLEEP.set(Some(schedule::sleep));
    let world = World::new(script, traces, schedule::step, act::submit_within);
    world::enter(Some(world.clone()));
    heal::run(&world);
    act::put_away(&world);
    world::enter(None);
    finish(seed, world)
}

fn finish(seed: u64, world: Rc<World>) -> Simulated {
    let judge = world.judge.borrow();
    Simulated {
        seed,
        conviction: judge.conviction.clone(),
        trace: world.trace.get(),
        steps: world.steps.get(),
        had: Had::of(&world),
        coverage: world.coverage.borrow().clone(),
        lines: world.lines.borrow_mut().take().unwrap_or_default(),
    }
}
