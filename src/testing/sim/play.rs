//! What handlers and dead letters do, as the script says.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::coverage::Fault;
use super::judge::Ended;
use super::script::{KEYLESS, Kind, Play, Policy, Post};
use super::verdict::Invariant;
use super::world::{World, alive, key_name};
use crate::clock::Time;
use crate::error::HandlerError;
use crate::handler::{Handled, Handler};
use crate::record::Record;
use crate::retry::Retry;
use crate::subscription::{DeadLetter, Letter, Sending, Subscription};

/// What a scripted panic throws.
struct Scripted;

/// The handler of this version, for the runtime of this life.
pub(super) fn handler(life: u32, kind: Kind, version: u32) -> Handler {
    match kind {
        Kind::Sync => Handler::sync(move |record| run(life, version, Kind::Sync, record)),
        Kind::Blocking => {
            Handler::blocking(move |record| run(life, version, Kind::Blocking, &record))
        }
        Kind::Async => Handler::future(move |record| {
            let begun = begin(life, version, Kind::Async, &record);
            let (number, play) = begun.map_or((0, Play::Ok), |(_, number, play)| (number, play));
            Playing { life, number, play, timed: None, over: false }
        }),
    }
}

/// The policy as the runtime takes it.
pub(super) fn policy(life: u32, name: &str, policy: &Policy) -> Subscription {
    use super::script::After;
    let retry = Retry::fixed(Duration::from_micros(policy.pause.into())).attempts(policy.attempts);
    let own = Subscription::new(name).retry(retry).dead_letter_to(Letters { life });
    let own = match policy.after {
        After::Stop => own.stop(),
        After::Skip => own.skip(),
        After::DeadLetter => own,
        After::Park => own.park_key(),
    };
    match policy.deadline {
        0 => own,
        ms => own.deadline(Duration::from_millis(ms.into())),
    }
}

/// An attempt begins.
fn begin(life: u32, version: u32, kind: Kind, record: &Record) -> Option<(Rc<World>, u32, Play)> {
    let world = alive(life)?;
    let number = record.epoch() as u32;
    let known = world
        .judge
        .borrow()
        .deliveries
        .get(number as usize)
        .map(|d| (d.record, d.generation, d.key));
    let Some((id, generation, key)) = known else {
        world.judge.borrow_mut().convict(Invariant::I22, "an unknown record starts".to_owned());
        return None;
    };
    world.note(1, u64::from(number) << 8 | u64::from(record.attempt()), || {
        format!("start of delivery {number} (record {id}), attempt {}", record.attempt())
    });
    let whole = world.is_whole(id, record);
    let parked = is_parked(&world, generation, key);
    let mut judge = world.judge.borrow_mut();
    judge
        .demand(whole, Invariant::I22, || format!("delivery {number} starts with another content"));
    let plays = judge.known[id as usize].plays;
    let play = judge.known[id as usize].item.plays.get(plays).copied().unwrap_or(Play::Ok);
    judge.started(number, version, record.attempt(), kind == Kind::Blocking, parked);
    drop(judge);
    let play = if world.healed.get() { Play::Ok } else { play };
    Some((world, number, play))
}

/// Whether the subscription lists the key as parked.
pub(super) fn is_parked(world: &World, generation: u32, key: u32) -> bool {
    let subscribed = world.subscribed.borrow();
    let own = subscribed.iter().flatten().find(|subscribed| subscribed.generation == generation);
    key != KEYLESS
        && own.is_some_and(|own| {
            own.subscriber.parked().iter().any(|parked| parked.key == key_name(key))
        })
}

fn run(life: u32, version: u32, kind: Kind, record: &Record) -> Handled {
    let Some((world, number, play)) = begin(life, version, kind, record) else { return Ok(()) };
    let steps = match play {
        Play::Slow(steps) => steps,
        Play::Pending(_) | Play::PendingError(_) | Play::PendingPanic(_) => 4,
        Play::Never => 40,
        Play::Ok | Play::Error | Play::Fatal | Play::Panic => 0,
    };
    (world.submit_within)(&world);
    for _ in 0..steps {
        if !(world.nest)(&world) {
            break;
        }
    }
    end(life, number, kind, play, false)
}

/// An attempt ends as its play says.
fn end(life: u32, number: u32, kind: Kind, play: Play, waited: bool) -> Handled {
    let Some(world) = alive(life) else { return Ok(()) };
    let (how, said) = match play {
        Play::Error | Play::PendingError(_) => {
            (Ended::Failed, Err(HandlerError::retryable("not now")))
        }
        Play::Fatal => (Ended::Fatal, Err(HandlerError::fatal("never"))),
        Play::Panic | Play::PendingPanic(_) => (Ended::Panicked, Ok(())),
        Play::Ok | Play::Slow(_) | Play::Pending(_) | Play::Never => (Ended::Done, Ok(())),
    };
    world.note(2, u64::from(number) << 8 | how as u64, || {
        format!("end of delivery {number}: {how:?}")
    });
    match how {
        Ended::Panicked => world.fails(Fault::Panic, kind, waited),
        Ended::Failed => world.fails(Fault::Error, kind, waited),
        _ => {}
    }
    world.judge.borrow_mut().ended(number, how);
    if how == Ended::Panicked {
        // Without the hook that prints.
        resume_unwind(Box::new(Scripted));
    }
    said
}

/// The future of an async attempt.
struct Playing {
    life: u32,
    number: u32,
    play: Play,
    timed: Option<u64>,
    over: bool,
}

impl Future for Playing {
    type Output = Handled;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Handled> {
        let this = &mut *self;
        let Some(world) = alive(this.life) else {
            this.over = true;
            return Poll::Ready(Ok(()));
        };
        if this.timed.is_none() {
            (world.submit_within)(&world);
        }
        let after = match this.play {
            Play::Pending(us) | Play::PendingError(us) | Play::PendingPanic(us) => {
                Some(world.now().after(Duration::from_micros(us.into())))
            }
            Play::Never => Some(Time::from_nanos(u64::MAX)),
            _ => None,
        };
        if let Some(after) = after {
            let due = this.timed.and_then(|id| world.due_of(id));
            if due.is_none_or(|due| due > world.now()) {
                let due = due.unwrap_or(after);
                this.timed = Some(world.wait_until(this.timed, due, cx.waker(), Some(this.number)));
                world.judge.borrow_mut().deliveries[this.number as usize].ready = Some(due);
                return Poll::Pending;
            }
        }
        if let Play::Slow(steps) = this.play {
            for _ in 0..steps {
                if !(world.nest)(&world) {
                    break;
                }
            }
        }
        this.over = true;
        this.timed.into_iter().for_each(|id| world.forget(id));
        let waited = this.timed.is_some();
        Poll::Ready(end(this.life, this.number, Kind::Async, this.play, waited))
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let Some(world) = alive(self.life) else { return };
        let number = self.number;
        world.note(3, number.into(), || format!("the future of delivery {number} is dropped"));
        self.timed.into_iter().for_each(|id| world.forget(id));
        world.judge.borrow_mut().ended(number, Ended::Dropped);
    }
}

/// Where dead letters go.
struct Letters {
    life: u32,
}

impl DeadLetter for Letters {
    fn send(&self, letter: Letter) -> Sending {
        let life = self.life;
        let Some(world) = alive(life) else { return Box::pin(std::future::pending()) };
        let number = letter.record.epoch() as u32;
        let id =
            world.judge.borrow().deliveries.get(number as usize).map_or(u32::MAX, |d| d.record);
        let whole = world.is_whole(id, &letter.record) && !letter.error.is_empty();
        world.note(4, number.into(), || format!("letter of delivery {number}"));
        world.judge.borrow_mut().letter(number, letter.attempts, whole);
        let post = if world.healed.get() { None } else { world.posts.borrow_mut().pop_front() };
        if post == Some(Post::Panic) {
            world.meets(Fault::Outage);
            world.judge.borrow_mut().answered(number, Err(Ended::Panicked), false);
            resume_unwind(Box::new(Scripted));
        }
        Box::pin(Posting { life, number, post, timed: None, over: false })
    }
}

/// A dead letter on its way.
struct Posting {
    life: u32,
    number: u32,
    post: Option<Post>,
    timed: Option<u64>,
    over: bool,
}

impl Future for Posting {
    type Output = Handled;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Handled> {
        let this = &mut *self;
        let Some(world) = alive(this.life) else { return Poll::Pending };
        if let Some(Post::Pending(us)) = this.post {
            let due = this.timed.and_then(|id| world.due_of(id));
            if due.is_none_or(|due| due > world.now()) {
                let due = due.unwrap_or(world.now().after(Duration::from_micros(us.into())));
                this.timed = Some(world.wait_until(this.timed, due, cx.waker(), None));
                return Poll::Pending;
            }
        }
        this.over = true;
        this.timed.into_iter().for_each(|id| world.forget(id));
        let (said, answer) = match this.post {
            Some(Post::Refused) => {
                (Err(Ended::Failed), Err(HandlerError::retryable("no post today")))
            }
            Some(Post::Fatal) => (Err(Ended::Fatal), Err(HandlerError::fatal("no post ever"))),
            _ => (Ok(()), Ok(())),
        };
        if said.is_err() {
            world.meets(Fault::Outage);
        }
        let (generation, key) = {
            let judge = world.judge.borrow();
            let delivery = &judge.deliveries[this.number as usize];
            (delivery.generation, delivery.key)
        };
        let full = {
            let subscribed = world.subscribed.borrow();
            let own = subscribed.iter().flatten().find(|own| own.generation == generation);
            own.is_some_and(|own| own.subscriber.parked().len() >= world.script.setup.parked_keys)
        };
        let full = full && !is_parked(&world, generation, key);
        world.note(5, this.number.into(), || {
            format!("letter of delivery {}: {said:?}", this.number)
        });
        world.judge.borrow_mut().answered(this.number, said, full);
        Poll::Ready(answer)
    }
}

impl Drop for Posting {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let Some(world) = alive(self.life) else { return };
        self.timed.into_iter().for_each(|id| world.forget(id));
        world.note(6, self.number.into(), || {
            format!("the letter of delivery {} is dropped", self.number)
        });
        world.judge.borrow_mut().letter_dropped(self.number);
    }
}
