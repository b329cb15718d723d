//! The window against a model that is too slow to be wrong, under every order of replies, losses and retries.

use super::*;
use proptest::prelude::*;

const ROOM: Room = Room {
    records: 4,
    bytes: 1_000,
    reply: Duration::from_nanos(50),
    patience: Duration::from_nanos(400),
};

#[derive(Clone, Debug)]
enum Step {
    Admit(u8, u16),
    Send,
    /// The reply to one of those under way.
    Reply(prop::sample::Index, Reply),
    /// A reply that comes late, to any sending there ever was.
    Late(prop::sample::Index),
    Clogged,
    Pass(u16),
    Reconnect,
    Cancel(prop::sample::Index),
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Stored,
    Refused,
    Again,
    Later,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reply = prop_oneof![
        4 => Just(Reply::Stored), 1 => Just(Reply::Refused), 2 => Just(Reply::Again), 2 => Just(Reply::Later)
    ];
    let step = prop_oneof![
        6 => (0u8..5, 1u16..600).prop_map(|(key, bytes)| Step::Admit(key, bytes)),
        8 => Just(Step::Send),
        6 => (any::<prop::sample::Index>(), reply).prop_map(|(at, reply)| Step::Reply(at, reply)),
        2 => any::<prop::sample::Index>().prop_map(Step::Late),
        1 => Just(Step::Clogged),
        2 => (1u16..60).prop_map(Step::Pass),
        1 => Just(Step::Reconnect),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
    ];
    proptest::collection::vec(step, 1..200)
}

/// One publish as the model sees it.
#[derive(Clone, Copy, Debug)]
struct Publish {
    key: Option<u64>,
    bytes: usize,
    ticket: Ticket,
    sent: bool,
    over: bool,
}

#[derive(Default)]
struct Model {
    all: Vec<Publish>,
    /// What the server has stored, in order, each once: it absorbs what it has.
    stored: Vec<usize>,
    sendings: Vec<Sending>,
}

impl Model {
    fn of(&self, ticket: Ticket) -> usize {
        self.all.iter().position(|publish| publish.ticket == ticket).unwrap()
    }

    fn under_way(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|&n| self.all[n].sent && !self.all[n].over).collect()
    }

    fn store(&mut self, n: usize) {
        if !self.stored.contains(&n) {
            self.stored.push(n);
        }
    }

    /// What must hold after every step.
    fn check(&self, window: &Window<usize>) {
        let under_way = self.under_way();
        let bytes: usize = under_way.iter().map(|&n| self.all[n].bytes).sum();
        assert_eq!((window.under_way(), window.bytes), (under_way.len(), bytes));
        assert_eq!(window.len(), self.all.iter().filter(|publish| !publish.over).count());
        assert!(under_way.len() <= ROOM.records);
        assert!(bytes <= ROOM.bytes || under_way.len() == 1);
        for (at, &n) in under_way.iter().enumerate() {
            let key = self.all[n].key;
            assert!(
                key.is_none() || under_way[..at].iter().all(|&m| self.all[m].key != key),
                "two of a key"
            );
            let earlier = self.all[..n].iter().filter(|p| p.key == key && key.is_some());
            assert!(earlier.clone().all(|p| p.over), "one of a key overtook");
        }
        for (at, &n) in self.stored.iter().enumerate() {
            let key = self.all[n].key;
            let after = self.stored[at..].iter().filter(|&&m| self.all[m].key == key);
            assert!(key.is_none() || after.clone().all(|&m| m >= n), "stored out of order");
        }
    }
}

fn finish(window: &mut Window<usize>, model: &mut Model, ticket: Ticket) {
    let n = model.of(ticket);
    assert_eq!(window.finish(ticket), Some(n));
    assert_eq!(window.finish(ticket), None, "finished twice");
    model.all[n].over = true;
}

fn run(steps: Vec<Step>) {
    let mut window = Window::new(ROOM);
    let mut model = Model::default();
    let mut now = Time::ZERO;
    for step in steps {
        match step {
            Step::Admit(key, bytes) => {
                let (key, bytes) = ((key > 0).then_some(u64::from(key)), usize::from(bytes));
                let deadline = now.after(Duration::from_nanos(100));
                let ticket = window.admit(model.all.len(), key, bytes, deadline);
                model.all.push(Publish { key, bytes, ticket, sent: false, over: false });
            }
            Step::Send => {
                if let Some(sending) = window.next(now) {
                    assert_eq!(Sending::of(sending.token()), sending);
                    let n = model.of(sending.ticket);
                    model.all[n].sent = true;
                    model.sendings.push(sending);
                }
            }
            Step::Clogged => {
                if let Some(sending) = window.next(now) {
                    let n = model.of(sending.ticket);
                    model.all[n].sent = true;
                    window.unsent(sending);
                    let next = window.next(now).unwrap();
                    assert_eq!(next.ticket, sending.ticket, "the unsent goes first");
                    model.sendings.push(next);
                }
            }
            Step::Reply(at, reply) => {
                let under_way = model.under_way();
                let Some(&n) = under_way.get(at.index(under_way.len().max(1))) else { continue };
                let ticket = model.all[n].ticket;
                match reply {
                    Reply::Stored => {
                        model.store(n);
                        finish(&mut window, &mut model, ticket);
                    }
                    Reply::Refused => finish(&mut window, &mut model, ticket),
                    // Stored or not, nobody knows.
                    Reply::Again => window.again(ticket, None),
                    Reply::Later => {
                        model.store(n);
                        window.again(ticket, Some(now.after(Duration::from_nanos(20))));
                    }
                }
            }
            Step::Late(at) => {
                let Some(&sending) = model.sendings.get(at.index(model.sendings.len().max(1)))
                else {
                    continue;
                };
                let publish =
                    model.all.iter().find(|publish| publish.ticket == sending.ticket).unwrap();
                let over = publish.over;
                assert_eq!(window.get(sending.ticket).is_none(), over);
                assert!(!over || !window.is_newest(sending));
            }
            Step::Pass(nanos) => {
                now = now.after(Duration::from_nanos(u64::from(nanos)));
                window.turn(now);
                while let Some(ticket) = window.expired(now) {
                    assert!(!model.all[model.of(ticket)].sent);
                    finish(&mut window, &mut model, ticket);
                }
                while let Some(ticket) = window.stale(now) {
                    assert!(model.all[model.of(ticket)].sent);
                    finish(&mut window, &mut model, ticket);
                }
                while let Some(sending) = window.overdue(now) {
                    window.again(sending.ticket, None);
                }
            }
            Step::Reconnect => {
                for ticket in window.unanswered() {
                    window.again(ticket, None);
                }
            }
            Step::Cancel(at) => {
                let live: Vec<_> = model.all.iter().filter(|publish| !publish.over).collect();
                let Some(publish) = live.get(at.index(live.len().max(1))) else { continue };
                let ticket = publish.ticket;
                finish(&mut window, &mut model, ticket);
            }
        }
        model.check(&window);
    }
    // Nothing is stuck: with every reply there, all of them end.
    let rest = window.len();
    for _ in 0..2 * rest + 2 {
        now = now.after(Duration::from_nanos(30));
        window.turn(now);
        while let Some(sending) = window.next(now) {
            let n = model.of(sending.ticket);
            model.all[n].sent = true;
            model.store(n);
            finish(&mut window, &mut model, sending.ticket);
            model.check(&window);
        }
        for ticket in window.unanswered() {
            window.again(ticket, None);
        }
    }
    assert_eq!((window.len(), window.under_way(), window.bytes, window.lines.len()), (0, 0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn keys_keep_their_order_and_the_window_its_bounds(steps in steps()) {
        run(steps);
    }
}

#[test]
fn finishing_all_gives_everything_back() {
    let mut window = Window::new(ROOM);
    for n in 0..10u64 {
        window.admit(n, Some(n % 3), 1, Time::ZERO);
    }
    window.next(Time::ZERO).unwrap();
    let mut all = window.finish_all();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert_eq!((window.len(), window.under_way()), (0, 0));
}

#[test]
fn queues_stay_short_behind_one_that_waits() {
    let mut window = Window::new(ROOM);
    window.admit(0, None, 1, Time::ZERO.after(Duration::from_secs(1)));
    window.next(Time::ZERO).unwrap(); // never answered
    for n in 1..100_000 {
        window.admit(n, Some(7), 1, Time::ZERO.after(Duration::from_secs(1)));
        let sending = window.next(Time::ZERO).unwrap();
        window.finish(sending.ticket);
    }
    assert!(
        window.sent.len() < 2_000 && window.begun.len() < 2_000 && window.waiting.len() < 2_000
    );
    assert!(window.entries.len() < 4);
}
