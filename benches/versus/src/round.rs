//! One round of one arm, judged; and rounds in turns, as ratios.

use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;

use crate::arm::{About, Arm, Feed, LANES, Shape};
use crate::arms::{self, go};
use crate::load::{Draw, Handle, Item, now, streams};
use crate::machine;
use crate::sink::{Sink, Verdict};
use crate::stats::{interval, median};

/// What all arms have to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    pub draw: Draw,
    pub handle: Handle,
    pub burst: usize,
    pub producers: usize,
    pub workers: usize,
    pub lanes: usize,
    pub own_best: bool,
    /// Records in flight at most, as a consumer's acks allow them; `None`: as many as the arm takes.
    pub window: Option<usize>,
    /// Records that are timed; half as many go before them, untimed.
    pub count: usize,
}

/// Unless a job says otherwise.
const WINDOW: usize = 2_048;
/// Records between two looks at how many are in flight.
const STRETCH: usize = 500;

impl Job {
    /// One producer, one worker, burst 1, no-op.
    pub fn new(draw: Draw, count: usize) -> Self {
        let handle = Handle::Nothing;
        let window = Some(WINDOW);
        Self {
            draw,
            handle,
            burst: 1,
            producers: 1,
            workers: 1,
            lanes: LANES,
            own_best: false,
            window,
            count,
        }
    }

    pub fn name(&self) -> String {
        let Self { draw, handle, burst, producers, workers, lanes, own_best, .. } = self;
        let mut name = format!("{}/{}/burst-{burst}/{producers}p", handle.name(), draw.name());
        name += &if *own_best { "/own-best".into() } else { format!("/{workers}w") };
        if *lanes != LANES {
            name += &format!("/{lanes}-lanes");
        }
        if self.window.is_none() {
            name += "/flood";
        }
        name
    }

    pub fn shape(&self) -> Shape {
        let Self { lanes, producers, workers, own_best, burst, .. } = *self;
        Shape { lanes, producers, workers, own_best, burst }
    }
}

/// A job with its records, drawn once for all arms and rounds.
pub struct Load {
    pub job: Job,
    pub streams: Vec<Vec<Item>>,
    /// Records of each stream that go before the timed ones.
    pub warm: usize,
}

impl Load {
    pub fn new(job: Job) -> Self {
        let warm = job.count / 2 / job.producers;
        let streams = streams(job.draw, job.producers, job.burst, job.count + warm * job.producers);
        Self { job, streams, warm }
    }

    fn timed(&self) -> usize {
        self.streams.iter().map(|stream| stream.len() - self.warm).sum()
    }
}

/// Who takes part.
#[derive(Clone, Copy)]
pub enum Contender {
    Here(&'static dyn Arm),
    Child(go::Mode),
}

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Self::Here(arm) => arm.name(),
            Self::Child(mode) => mode.name(),
        }
    }

    pub fn about(self, shape: &Shape) -> Result<About, String> {
        match self {
            Self::Here(arm) => arm.about(shape),
            Self::Child(mode) => mode.about(shape),
        }
    }

    /// One round: how many records a second, and the judge's word.
    pub fn run(self, load: &Load) -> Result<Measured, String> {
        match self {
            Self::Here(arm) => Ok(run(arm, load)),
            Self::Child(mode) => go::run(mode, load),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub rate: f64,
    pub verdict: Verdict,
}

/// Whether an arm has lanes, so that a lane that is slow or full leaves others alone: keylane, peers with a queue
/// for each lane or key, the Go pool. Others have one queue for all that a worker does.
pub fn has_lanes(arm: &str) -> bool {
    ["keylane", "go-pool", "stealing"].iter().any(|name| arm.starts_with(name))
        || arm.ends_with("-lanes")
}

/// All that keylane is held against.
pub fn everybody() -> Vec<Contender> {
    let rust = arms::peers().into_iter().map(Contender::Here);
    let go = go::Mode::ALL.into_iter().map(Contender::Child);
    rust.chain(go).collect()
}

/// A round of an arm of this process: starts it, warms it, times it to the last completion, judges and ends it.
pub fn run(arm: &dyn Arm, load: &Load) -> Measured {
    let sink = Arc::new(Sink::new(load.job.handle));
    let pool = arm.start(&load.job.shape(), &sink);
    let producers = load.streams.len();
    let warm = (load.warm * producers) as u64;
    let start = Barrier::new(producers);
    let begin = Mutex::new(None);
    let produce = |producer: usize| {
        let mut feed = pool.feed(producer);
        let (before, timed) = load.streams[producer].split_at(load.warm);
        send(&mut *feed, before, 0, load, &sink);
        start.wait();
        sink.wait(warm);
        start.wait();
        if producer == 0 {
            *begin.lock().expect("nobody panics") = Some(Instant::now());
        }
        send(&mut *feed, timed, warm, load, &sink);
    };
    std::thread::scope(|scope| {
        let produce = &produce;
        for producer in 1..producers {
            scope.spawn(move || produce(producer));
        }
        produce(0);
    });
    sink.wait(warm + load.timed() as u64);
    let begin = begin.into_inner().expect("nobody panics").unwrap_or_else(Instant::now);
    let seconds = begin.elapsed().as_secs_f64();
    pool.stop();
    Measured { rate: load.timed() as f64 / seconds, verdict: sink.verdict(&load.streams) }
}

/// A producer's part of a round: in stretches, so that no more than the job's window is in flight.
fn send(feed: &mut dyn Feed, items: &[Item], before: u64, load: &Load, sink: &Sink) {
    let Some(window) = load.job.window else { return feed.all(items) };
    let producers = load.job.producers;
    let mut sent = 0;
    for items in items.chunks(STRETCH) {
        sent += items.len();
        // All producers' records together, as if the others were as far as this one.
        let wanted = (sent * producers).saturating_sub(window);
        if !sink.reach(before + wanted as u64) {
            // So much was lost that the rest would wait for ever: the judge will say so.
            return;
        }
        feed.all(items);
    }
}

/// Latencies of a round at a fixed rate.
#[derive(Debug, Clone, Copy)]
pub struct Paced {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub most: u64,
    pub verdict: Verdict,
}

/// An open loop of one producer: each record has a time to be sent at, whether or not the one before is through,
/// and its latency counts from that time to its handler's start.
pub fn paced(contender: Contender, load: &Load, rate: f64) -> Result<Paced, String> {
    let arm = match contender {
        Contender::Child(mode) => return go::paced(mode, load, rate),
        Contender::Here(arm) => arm,
    };
    let sink = Arc::new(Sink::new(load.job.handle));
    let pool = arm.start(&load.job.shape(), &sink);
    let mut feed = pool.feed(0);
    let interval = 1e9 / rate;
    let begin = now() + 200_000;
    for (sent, &item) in load.streams[0].iter().enumerate() {
        let due = begin + (sent as f64 * interval) as u64;
        while now() < due {
            std::hint::spin_loop();
        }
        feed.one(item, if sent < load.warm { 0 } else { due });
    }
    sink.wait(load.streams[0].len() as u64);
    drop(feed);
    pool.stop();
    let (latency, verdict) = (&sink.latency, sink.verdict(&load.streams));
    let at = |part| latency.quantile(part);
    Ok(Paced { p50: at(0.5), p99: at(0.99), p999: at(0.999), most: latency.most(), verdict })
}

/// What the rounds of an arm in turns with keylane came to.
pub struct Duel {
    pub name: &'static str,
    pub about: About,
    pub rates: Vec<f64>,
    /// keylane ÷ the arm, and keylane in batches ÷ the arm, of each turn.
    pub ratios: Vec<f64>,
    pub batch_ratios: Vec<f64>,
    pub violations: u64,
    /// Turns that were thrown away because another machine had the processor.
    pub discarded: usize,
}

impl Duel {
    pub fn rate(&self) -> f64 {
        median(&self.rates)
    }

    pub fn ratio(&self) -> (f64, [f64; 2]) {
        (median(&self.ratios), interval(&self.ratios))
    }

    pub fn batch_ratio(&self) -> (f64, [f64; 2]) {
        (median(&self.batch_ratios), interval(&self.batch_ratios))
    }
}

/// A job's figures: keylane's own two arms, then the peers, or why one did not run.
pub struct Table {
    pub ours: Duel,
    pub batch: Duel,
    pub peers: Vec<Result<Duel, (&'static str, String)>>,
}

/// Every peer in turns with keylane, `rounds` turns each; which of the three goes first moves on every turn. After
/// `until` no discarded turn is repeated.
pub fn duel(load: &Load, peers: &[Contender], rounds: usize, until: Option<Instant>) -> Table {
    let shape = load.job.shape();
    let own = |arm: &'static dyn Arm| Duel {
        name: arm.name(),
        about: arm.about(&shape).expect("keylane always runs"),
        rates: Vec::new(),
        ratios: Vec::new(),
        batch_ratios: Vec::new(),
        violations: 0,
        discarded: 0,
    };
    let (mut ours, mut batch) = (own(arms::OURS), own(arms::BATCH));
    let peers = peers.iter().map(|&peer| {
        let about = peer.about(&shape).map_err(|why| (peer.name(), why))?;
        one_duel(load, peer, about, (rounds, until), &mut ours, &mut batch)
            .map_err(|why| (peer.name(), why))
    });
    let peers = peers.collect();
    Table { ours, batch, peers }
}

fn one_duel(
    load: &Load,
    peer: Contender,
    about: About,
    (rounds, until): (usize, Option<Instant>),
    ours: &mut Duel,
    batch: &mut Duel,
) -> Result<Duel, String> {
    let mut duel = Duel {
        name: peer.name(),
        about,
        rates: Vec::new(),
        ratios: Vec::new(),
        batch_ratios: Vec::new(),
        violations: 0,
        discarded: 0,
    };
    let three = [Contender::Here(arms::OURS), Contender::Here(arms::BATCH), peer];
    let (turns, discarded) = machine::rounds_until(rounds, until, |turn| -> Result<_, String> {
        let mut rates = [0.0; 3];
        for place in 0..3 {
            let who = (place + turn) % 3;
            let measured = three[who].run(load)?;
            rates[who] = measured.rate;
            let violations = measured.verdict.violations();
            match who {
                0 => ours.violations += violations,
                1 => batch.violations += violations,
                _ => duel.violations += violations,
            }
        }
        Ok(rates)
    });
    duel.discarded = discarded;
    ours.discarded += discarded;
    batch.discarded += discarded;
    for turn in turns {
        let [one, many, peer] = turn?;
        ours.rates.push(one);
        batch.rates.push(many);
        duel.rates.push(peer);
        duel.ratios.push(one / peer);
        duel.batch_ratios.push(many / peer);
    }
    if duel.rates.is_empty() {
        return Err(format!("others had the processor in all {discarded} rounds"));
    }
    Ok(duel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::Pool;
    use crate::record;

    /// What is wrong with an arm.
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        /// Two records of one key change places.
        Swaps,
        Loses,
        Doubles,
    }

    struct Broken(Fault);

    struct Inline(Fault, Arc<Sink>);

    struct Handing<'a> {
        pool: &'a Inline,
        held: Option<Item>,
        seen: usize,
    }

    impl Arm for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }

        fn about(&self, _: &Shape) -> Result<About, String> {
            Ok(About { threads: 0, form: "on the producer's thread".into() })
        }

        fn start(&self, _: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
            Box::new(Inline(self.0, sink.clone()))
        }
    }

    impl Pool for Inline {
        fn feed(&self, _: usize) -> Box<dyn Feed + '_> {
            Box::new(Handing { pool: self, held: None, seen: 0 })
        }

        fn stop(self: Box<Self>) {}
    }

    impl Feed for Handing<'_> {
        fn one(&mut self, item: Item, stamp: u64) {
            let Inline(fault, sink) = self.pool;
            self.seen += 1;
            let handle = |item: Item| sink.handle(&item.payload(stamp));
            if let Some(held) = self.held.take_if(|held| held.number() == item.number()) {
                handle(item);
                return handle(held);
            }
            match fault {
                Fault::Swaps if self.seen > 1_000 && self.held.is_none() => self.held = Some(item),
                Fault::Loses if self.seen == 1_501 => {}
                Fault::Doubles if self.seen == 1_501 => (handle(item), handle(item)).1,
                _ => handle(item),
            }
        }
    }

    fn judged(fault: Fault) -> Verdict {
        let broken = Broken(fault);
        let load = Load::new(Job { burst: 2, ..Job::new(Draw::Uniform, 2_000) });
        run(&broken, &load).verdict
    }

    #[test]
    fn the_judge_sees_what_is_swapped_lost_and_doubled() {
        assert_eq!(judged(Fault::None), Verdict { disordered: 0, lost: 0 });
        assert!(judged(Fault::Swaps).disordered > 0);
        let loses = judged(Fault::Loses);
        assert!(loses.lost > 0, "{loses:?}");
        assert!(judged(Fault::Doubles).violations() > 0);
    }

    #[test]
    fn an_arm_that_breaks_order_is_marked_and_wins_nothing() {
        static BROKEN: Broken = Broken(Fault::Swaps);
        static SOUND: Broken = Broken(Fault::None);
        let load = Load::new(Job { burst: 2, ..Job::new(Draw::Uniform, 2_000) });
        let table = duel(&load, &[Contender::Here(&BROKEN), Contender::Here(&SOUND)], 3, None);
        let lines = record::throughput(&load.job, &table);
        let of = |place: usize| &lines[2 + place];
        assert!(of(0)["violations"].as_u64() > Some(0), "{}", of(0));
        assert!(of(0)["ratio"].is_null() && of(0)["disqualified"] == true, "{}", of(0));
        assert_eq!(of(1)["violations"], 0);
        assert!(of(1)["ratio"].is_number() && of(1).get("disqualified").is_none(), "{}", of(1));
        assert_eq!((&lines[0]["arm"], &lines[0]["ratio"]), (&"keylane".into(), &1.0.into()));
    }

    #[test]
    fn every_arm_keeps_order_with_one_and_two_producers_and_workers() {
        for (producers, workers) in [(1, 1), (2, 2)] {
            let job = Job { producers, workers, ..Job::new(Draw::Zipf, 4_000) };
            let load = Load::new(job);
            for arm in arms::peers().into_iter().chain([arms::OURS, arms::BATCH]) {
                let verdict = run(arm, &load).verdict;
                assert_eq!(verdict.violations(), 0, "{} {}: {verdict:?}", arm.name(), job.name());
            }
        }
    }
}
