//! Restarts: nothing is lost, what is repeated is bounded and in order, and the past changes nothing.

use super::fixture::{Failed, Progress, Restart, Shape};
use super::stage::cases;
use super::stage::{Stage, Stager};
use super::tools::{Gate, Gates, Judge, Notes, ensure, equal};
use crate::record::Record;

cases![
    a_crash_loses_nothing_and_repeats_little,
    a_crash_repeats_what_was_not_committed,
    a_graceful_restart_repeats_nothing,
    late_completions_change_nothing,
    deliveries_that_were_held_come_in_order,
];

/// xorshift64: where and when a crash comes.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Rounds of publishing with one key held, then a crash, then the rest.
fn a_crash_loses_nothing_and_repeats_little(stager: &Stager<'_>) -> Result<(), Failed> {
    [0x9e37_79b9, 0x85eb_ca6b, 0xc2b2_ae35].into_iter().try_for_each(|seed| {
        stager.each_shape(Shape { partitions: 2, ..Shape::new() }, |stage| {
            crashes(stage, seed).map_err(|failed| match failed {
                Failed::Broken(why) => Failed::Broken(format!("seed {seed:#x}: {why}")),
                unsupported => unsupported,
            })
        })
    })
}

fn crashes(stage: Stage, seed: u64) -> Result<(), Failed> {
    const KEYS: usize = 8;
    const ROUNDS: u64 = 6;
    let mut random = Random(seed);
    let (topic, judge, gates) = (stage.name("topic"), Judge::new(&stage), Gates::default());
    let handler = judge.gated(gates.of_key());
    let subscribed = stage.bus.subscribe_async(&topic, stage.policy("s"), handler);
    let subscription = stage.finish("the subscribe", subscribed)??;
    let keys = stage.keys(&subscription, KEYS);
    let (mut numbers, mut bound, mut published) = ([0; KEYS], 0, 0);
    for _ in 0..ROUNDS {
        let held = random.below(KEYS as u64) as usize;
        let gate = gates.shut(&keys[held]);
        let mut waiting = 0;
        for _ in 0..5 + random.below(40) {
            let key = random.below(KEYS as u64) as usize;
            numbers[key] += 1;
            waiting += u64::from(key == held);
            published += 1;
            judge.publish(&stage, &topic, &keys[key], numbers[key])?;
        }
        stage.until("all keys but the held one are done", || {
            let verdict = judge.oracle.verdict();
            verdict.handled == published - waiting
        })?;
        if random.below(2) == 0 {
            stage.pass(std::time::Duration::from_millis(200));
        }
        // What is above the frontier may be repeated, and nothing else.
        let progress = stage.progress(&subscription)?;
        let above = |own: &Progress| own.end.saturating_sub(own.committed);
        bound += progress.iter().map(above).sum::<u64>().saturating_sub(waiting);
        judge.oracle.restarted();
        stage.restart(&subscription, Restart::Crash)?;
        gates.clear();
        gate.open();
        // What comes again of a key comes before what follows: once that is handled, nothing more comes again, and the next
        // crash may be told.
        for (key, number) in keys.iter().zip(&mut numbers) {
            *number += 1;
            published += 1;
            judge.publish(&stage, &topic, key, *number)?;
        }
        judge.concludes(&stage)?;
    }
    stage.until_committed(&subscription)?;
    let verdict = judge.verdict(&stage)?;
    equal("restarts", verdict.restarts, ROUNDS)?;
    ensure(
        verdict.replayed <= bound,
        &format!("at most {bound} are repeated, not {}", verdict.replayed),
    )
}

fn a_crash_repeats_what_was_not_committed(stager: &Stager<'_>) -> Result<(), Failed> {
    if stager.fixture().commits_above_the_frontier() {
        return Err(Failed::Unsupported("what is above the frontier is committed as well"));
    }
    stager.each_shape(Shape::new(), |stage| {
        let (topic, judge, gates) = (stage.name("topic"), Judge::new(&stage), Gates::default());
        let handler = judge.gated(gates.of_key());
        let subscribed = stage.bus.subscribe_async(&topic, stage.policy("s"), handler);
        let subscription = stage.finish("the subscribe", subscribed)??;
        let keys = stage.keys(&subscription, 3);
        let gate = gates.shut(&keys[1]);
        let before = judge.publish(&stage, &topic, &keys[0], 1)?;
        let held = judge.publish(&stage, &topic, &keys[1], 1)?;
        judge.publish(&stage, &topic, &keys[2], 1)?;
        stage.until("what is below the held one is committed", || {
            stage.committed(&subscription, held.partition).is_ok_and(|at| at == held.offset)
        })?;
        equal("the held one is next", held.offset, before.offset + 1)?;
        stage.until("what is above it is handled", || judge.oracle.verdict().handled == 2)?;
        judge.oracle.committed(&keys[0], 1);
        judge.oracle.restarted();
        stage.restart(&subscription, Restart::Crash)?;
        stage.until("what was above the frontier comes again", || {
            judge.oracle.verdict().replayed == 1
        })?;
        gate.open();
        stage.until_committed(&subscription)?;
        equal("repeated", judge.verdict(&stage)?.replayed, 1)
    })
}

fn a_graceful_restart_repeats_nothing(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open_as(Shape { partitions: 2, ..Shape::new() })?;
    let (topic, judge) = (stage.name("topic"), Judge::new(&stage));
    let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), judge.sync());
    let subscription = stage.finish("the subscribe", subscribed)??;
    for round in 0..5 {
        for number in 1..=20 {
            judge.publish(&stage, &topic, &format!("key-{}", number % 7), round * 20 + number)?;
        }
        judge.concludes(&stage)?;
        // A handler ends a little before its record is finished.
        let name = subscription.subscriber().name();
        stage.until("everything is finished", || {
            let sources = stage.runtime.snapshot().sources;
            sources.iter().filter(|own| own.subscription == name).all(|own| own.window == 0)
        })?;
        // No restart is told to the judge: whatever comes again is a duplicate.
        stage.restart(&subscription, Restart::Graceful)?;
    }
    stage.pass(std::time::Duration::from_secs(1));
    let verdict = judge.verdict(&stage)?;
    equal("attempts", verdict.attempts, 100)?;
    stage.until_committed(&subscription)
}

fn late_completions_change_nothing(stager: &Stager<'_>) -> Result<(), Failed> {
    let stage = stager.open()?;
    let (topic, notes) = (stage.name("topic"), Notes::new(&stage));
    let gates = [Gate::default(), Gate::default()];
    let (own, taken) = (gates.clone(), notes.clone());
    // Each life's attempt waits at a gate of its own.
    let handler = move |record: crate::record::RecordRef| {
        let gate = own[taken.len().min(1)].clone();
        taken.take(&record);
        async move {
            gate.pass().await;
            Ok(())
        }
    };
    let subscribed = stage.bus.subscribe_async(&topic, stage.policy("s"), handler);
    let subscription = stage.finish("the subscribe", subscribed)??;
    let position = stage.publish(&topic, Record::new("key", "1"))?;
    stage.until("it is under way", || notes.len() == 1)?;
    stage.restart(&subscription, Restart::Crash)?;
    gates[0].open();
    stage
        .until("the old attempt's end is counted as stale, and the new one is under way", || {
            stage.runtime.snapshot().outcomes.stale == 1 && notes.len() == 2
        })?;
    stage.pass(std::time::Duration::from_secs(1));
    let committed = stage.committed(&subscription, position.partition)?;
    equal("the frontier after the stale end", committed, position.offset)?;
    gates[1].open();
    stage.until_committed(&subscription)?;
    equal("attempts", notes.len(), 2)
}

fn deliveries_that_were_held_come_in_order(stager: &Stager<'_>) -> Result<(), Failed> {
    stager.each_shape(Shape::new(), |stage| {
        let (topic, judge) = (stage.name("topic"), Judge::new(&stage));
        let subscribed = stage.bus.subscribe(&topic, stage.policy("s"), judge.sync());
        let subscription = stage.finish("the subscribe", subscribed)??;
        let key = &stage.keys(&subscription, 1)[0];
        stage.lay_stone(&subscription, key)?;
        judge.publish(&stage, &topic, key, 1)?;
        judge.concludes(&stage)?;
        stage.hold_topic(&topic, true)?;
        for number in 2..=10 {
            judge.publish(&stage, &topic, key, number)?;
        }
        stage.pass(std::time::Duration::from_secs(1));
        equal("handled while they are held", judge.oracle.verdict().attempts, 1)?;
        stage.hold_topic(&topic, false)?;
        judge.concludes(&stage)
    })
}
