//! Sets of tokens under the model checker: who takes one, what he sees, and who is woken for it.
//!
//! ```text
//! RUSTFLAGS="--cfg keylane_loom" cargo test --profile loom --features loom --test loom_token
//! ```
//!
//! `// convict: NAME` above a test: run with `KEYLANE_WEAK=NAME`, it must fail.
#![cfg(keylane_loom)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/model.rs"]
mod model;

use keylane::internals::{Family, Parker, Restless, Ring, Token, TokenCell, TokenSet, rings};
use loom::sync::Arc;
use loom::thread;

use model::{Reached, check_within};

/// The tokens of `lanes` lanes.
fn tokens(lanes: u32) -> (Family, Vec<Token>) {
    let (family, rings) = rings::<u32>(lanes, 1);
    (family, rings.iter().map(|ring| ring.wake().expect("at rest")).collect())
}

/// A set with the token of lane 0 in it, and that lane's private state.
fn one_lane() -> Arc<(TokenSet, TokenCell<u32>)> {
    let (family, mut tokens) = tokens(1);
    let set = TokenSet::new(family, 0, 1, 1);
    set.put(0, tokens.pop().unwrap());
    Arc::new((set, TokenCell::new(family, 0, 0)))
}

/// Two threads that take the token, use its lane's state, and put it back.
fn two_takers(both: &'static Reached, one: &'static Reached) -> impl Fn() + Send + Sync + 'static {
    move || {
        let lane = one_lane();
        let take = |lane: &(TokenSet, TokenCell<u32>)| match lane.0.take(0) {
            Some(mut token) => {
                lane.1.with(&mut token, |uses| *uses += 1);
                lane.0.put(0, token);
                1
            }
            None => 0,
        };
        let there = lane.clone();
        let thief = thread::spawn(move || take(&there));
        let taken = take(&lane) + thief.join().unwrap();
        both.here_if(taken == 2);
        one.here_if(taken == 1);
        let mut token = lane.0.take_any(0).expect("put back");
        assert_eq!(lane.1.with(&mut token, |uses| *uses), taken);
        std::mem::forget(token);
    }
}

// convict: token_take
#[test]
fn token_take_a_taker_sees_what_the_last_holder_did() {
    static BOTH: Reached = Reached::new("both had the token in turn");
    static ONE: Reached = Reached::new("one came while the other had it");
    check_within(3, two_takers(&BOTH, &ONE));
    BOTH.assert();
    ONE.assert();
}

// convict: token_put
#[test]
fn token_put_hands_on_what_the_giver_did() {
    static BOTH: Reached = Reached::new("both had the token in turn");
    static ONE: Reached = Reached::new("one came while the other had it");
    check_within(3, two_takers(&BOTH, &ONE));
    BOTH.assert();
    ONE.assert();
}

// convict: token_sweep
#[test]
fn token_sweep_the_owner_sees_what_a_thief_did() {
    static SWEPT: Reached = Reached::new("the owner took what a thief had put back");
    static STOLEN: Reached = Reached::new("the thief had the token when the owner looked");
    check_within(3, || {
        let lane = one_lane();
        let there = lane.clone();
        let thief = thread::spawn(move || {
            if let Some(mut token) = there.0.take(0) {
                there.1.with(&mut token, |uses| *uses += 1);
                there.0.put(0, token);
            }
        });
        let mut mine = Vec::new();
        lane.0.take_word(0, |index, token| mine.push((index, token)));
        match mine.pop() {
            Some((index, mut token)) => {
                let before = lane.1.with(&mut token, |uses| std::mem::replace(uses, *uses + 10));
                SWEPT.here_if(before == 1);
                assert!(mine.is_empty() && index == 0);
                lane.0.put(index, token);
            }
            None => STOLEN.here(),
        }
        thief.join().unwrap();
        std::mem::forget(lane.0.take(0).expect("put back"));
        assert!(lane.0.is_empty());
    });
    SWEPT.assert();
    STOLEN.assert();
}

// What counts is the word as the owner's exchange found it, not as he read it before.
// convict: token_load
#[test]
fn token_load_no_token_is_lost_or_doubled_between_the_owners_look_and_his_take() {
    static GROWN: Reached = Reached::new("the owner found both tokens");
    static STOLEN: Reached = Reached::new("the thief got the first token");
    check_within(3, || {
        let (family, mut tokens) = tokens(2);
        let set = Arc::new(TokenSet::new(family, 0, 1, 2));
        let (second, first) = (tokens.pop().unwrap(), tokens.pop().unwrap());
        set.put(0, first);
        let there = set.clone();
        let other = thread::spawn(move || {
            there.put(1, second);
            there.take(0)
        });
        let mut mine = Vec::new();
        set.take_word(0, |_, token| mine.push(token));
        GROWN.here_if(mine.len() == 2);
        let stolen = other.join().unwrap();
        STOLEN.here_if(stolen.is_some());
        mine.extend(stolen);
        set.take_word(0, |_, token| mine.push(token));
        let mut lanes: Vec<u32> = mine.iter().map(Token::lane).collect();
        mine.into_iter().for_each(std::mem::forget);
        lanes.sort_unstable();
        assert_eq!(lanes, [0, 1], "each token is in one place");
    });
    GROWN.assert();
    STOLEN.assert();
}

/// An owner that sleeps over an empty set, and a giver that puts a token at `index` of two words.
fn sleeper(
    index: u32,
    slept: &'static Reached,
    awake: &'static Reached,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (family, mut tokens) = tokens(1);
        // Stride 0: the one lane has a place in either word.
        let set = Arc::new(TokenSet::new(family, 0, 0, 64));
        assert_eq!(set.words(), 2);
        let parker = Parker::new();
        let (there, unparker, token) = (set.clone(), parker.unparker(), tokens.pop().unwrap());
        let giver = thread::spawn(move || {
            if there.put(index, token) {
                unparker.unpark();
            }
        });
        let mut mine = None;
        loop {
            for word in 0..set.words() {
                set.take_word(word, |index, token| mine = Some((index, token)));
            }
            if mine.is_some() {
                awake.here();
                break;
            }
            if set.try_raise() {
                slept.here();
                parker.park(None);
                set.lower();
            }
        }
        let (at, token) = mine.unwrap();
        assert_eq!(at, index);
        std::mem::forget(token);
        giver.join().unwrap();
        assert!(set.is_empty() && !set.is_raised());
    }
}

// convict: token_raise
#[test]
fn token_raise_nobody_sleeps_over_a_token() {
    static SLEPT: Reached = Reached::new("the owner slept");
    static AWAKE: Reached = Reached::new("the owner got the token");
    check_within(3, sleeper(63, &SLEPT, &AWAKE));
    SLEPT.assert();
    AWAKE.assert();
}

#[test]
fn nobody_sleeps_over_a_token_in_the_word_whose_flag_went_up_first() {
    static SLEPT: Reached = Reached::new("the owner slept");
    static AWAKE: Reached = Reached::new("the owner got the token");
    check_within(3, sleeper(0, &SLEPT, &AWAKE));
    SLEPT.assert();
    AWAKE.assert();
}

/// The whole way: push, token into the worker's set, a worker that drains, rests and sleeps.
struct Way {
    rings: Vec<Ring<u32>>,
    set: TokenSet,
    handled: TokenCell<u32>,
}

impl Way {
    fn new() -> Arc<Self> {
        let (family, rings) = rings(1, 1);
        Arc::new(Self {
            rings,
            set: TokenSet::new(family, 0, 1, 1),
            handled: TokenCell::new(family, 0, 0),
        })
    }

    /// Drains the lane and rests it; how many messages that were.
    fn visit(&self, mut token: Token) -> u32 {
        let ring = &self.rings[0];
        let mut count = 0;
        loop {
            while ring.pop(&mut token).is_some() {
                count += 1;
                self.handled.with(&mut token, |handled| *handled += 1);
            }
            match ring.rest(token) {
                Ok(()) => return count,
                Err(Restless { token: back, .. }) => token = back,
            }
            thread::yield_now();
        }
    }
}

#[test]
fn a_message_reaches_a_worker_that_goes_to_sleep() {
    static SLEPT: Reached = Reached::new("the worker slept");
    static TWICE: Reached = Reached::new("the lane was woken twice");
    static FULL: Reached = Reached::new("the ring was full");
    check_within(3, || {
        let way = Way::new();
        let parker = Parker::new();
        let (there, unparker) = (way.clone(), parker.unparker());
        let producer = thread::spawn(move || {
            let mut wakes = 0;
            for message in 0..2 {
                match there.rings[0].push(message) {
                    Ok(Some(token)) => {
                        wakes += 1;
                        if there.set.put(0, token) {
                            unparker.unpark();
                        }
                    }
                    Ok(None) => {}
                    Err(_) => return (FULL.here(), 1).1,
                }
                thread::yield_now();
            }
            TWICE.here_if(wakes == 2);
            2
        });
        let mut handled = 0;
        // The first message is never refused, so there is at least one; the second is looked for below.
        while handled == 0 {
            way.set.take_word(0, |_, token| handled += way.visit(token));
            if handled == 0 && way.set.try_raise() {
                SLEPT.here();
                parker.park(None);
                way.set.lower();
            }
        }
        let accepted = producer.join().unwrap();
        way.set.take_word(0, |_, token| handled += way.visit(token));
        assert_eq!(handled, accepted);
        assert!(way.rings[0].is_at_rest() && way.set.is_empty());
    });
    SLEPT.assert();
    TWICE.assert();
    FULL.assert();
}

#[test]
fn a_thief_and_the_owner_share_a_lane_without_loss() {
    static STOLEN: Reached = Reached::new("the thief handled a message");
    static OWNED: Reached = Reached::new("the owner handled a message");
    check_within(2, || {
        let way = Way::new();
        let there = way.clone();
        let thief = thread::spawn(move || match there.set.take_any(0) {
            Some(token) => there.visit(token),
            None => 0,
        });
        let there = way.clone();
        let producer = thread::spawn(move || {
            let mut accepted = 0;
            for message in 0..2 {
                if let Ok(token) = there.rings[0].push(message) {
                    accepted += 1;
                    if let Some(token) = token {
                        there.set.put(0, token);
                    }
                }
            }
            accepted
        });
        let mut handled = 0;
        way.set.take_word(0, |_, token| handled += way.visit(token));
        OWNED.here_if(handled > 0);
        let accepted = producer.join().unwrap();
        let stolen = thief.join().unwrap();
        STOLEN.here_if(stolen > 0);
        way.set.take_word(0, |_, token| handled += way.visit(token));
        assert_eq!(handled + stolen, accepted);
        assert!(way.rings[0].is_at_rest() && way.set.is_empty());
    });
    STOLEN.assert();
    OWNED.assert();
}
