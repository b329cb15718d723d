//! Parts of the steady path, each by itself on one thread, for instruction counts.
//!
//! Each part is run with 1,024 and with 3,072 units inside a call of `keylane_part`, so that callgrind can write
//! down each call by itself; the names are printed in that order. The difference of two calls is what 2,048 units
//! cost: ci/instructions.sh. Each part checks what it did.
//!
//! `keylane_push` and `keylane_pop` are the fast push into a lane that is awake and the drain of a lane that is not
//! empty, as functions of their own: ci/locked.sh reads their machine code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use std::hint::black_box;

use keylane::internals::{Lanes, Parker, Registry, Router, Token};
use keylane::{Envelope, LaneHash, Record};
use keylane_bench_support::gated::{Marks, handle};
use keylane_bench_support::lanes::{Message, Own, message};

const FEW: u64 = 1_024;
const MANY: u64 = 3 * FEW;
const LANES: u32 = 256;

const EVENT: &[u8] = br#"{"event_id":"0192b5c0-7e1f-7c3a-9b1e-2f6d8a4c5e70","aggregate_id":"order-000042","event_type":"OrderPlaced","event_version":1,"timestamp":"2025-10-13T10:00:00.123Z","trace_id":"4bf92f3577b34da6","correlation_id":"c-17","tenant_id":7,"payload":{"amount":9,"lines":[1,2,3]}}"#;

fn main() {
    harness();
    hashes();
    tables();
    bells();
    rings();
    envelopes();
}

/// One call is one part.
#[inline(never)]
#[unsafe(no_mangle)]
fn keylane_part(units: u64, run: &mut dyn FnMut(u64)) {
    run(units);
}

/// The part called `name`, with few and with many units; `run` does as many as it is told.
fn part(name: &str, mut run: impl FnMut(u64)) {
    for units in [FEW, MANY] {
        keylane_part(units, &mut run);
        println!("{name} {units}");
    }
}

/// What the loops cost that are around what is measured, and the handler's own work.
fn harness() {
    let key = keys(16);
    part("loop", |units| {
        for _ in 0..units {
            black_box(black_box(&*key).len());
        }
    });
    let keys: Vec<String> = (0..MANY).map(|key| format!("order-{key:06}")).collect();
    part("load", |units| {
        for key in &keys[..units as usize] {
            black_box((key, [7_u8; 64]));
        }
    });
    let record = Record::new("order-000042", [7; 64]);
    let marks = Marks::holding(u64::MAX);
    part("handler", |units| {
        for _ in 0..units {
            handle(black_box(&record), &marks);
        }
    });
}

fn keys(len: usize) -> Vec<u8> {
    (0..len).map(|place| b'a' + (place % 26) as u8).collect()
}

/// From a key to its lane.
fn hashes() {
    let router = Router::new(LaneHash::Rapid, Some(7), LANES);
    let salt = router.salt(1);
    for (name, len) in [("hash-8", 8), ("hash-16", 16), ("hash-36", 36), ("hash-64", 64)] {
        let key = keys(len);
        assert_eq!(router.route_salted(&salt, &key), router.route(1, &key));
        part(name, |units| {
            for _ in 0..units {
                black_box(router.route_salted(&salt, black_box(&key)).lane);
            }
        });
    }
}

/// The look for a newer table, when there is none.
fn tables() {
    let registry = Registry::new(7_u64, 1);
    let mut snapshot = registry.start(0);
    part("registry", |units| {
        for _ in 0..units {
            assert!(!registry.refresh(black_box(&mut snapshot)));
        }
    });
    registry.stop(snapshot);
}

fn lanes(lanes: u32, slots: usize) -> Lanes<Message, (), ()> {
    // Nobody sleeps in this parker: the bell is never asked to wake.
    Lanes::new(lanes, slots, 1, vec![Parker::new().unparker()], 64)
}

/// The ring of a worker's bell that is awake; its look at the bell, with the lanes' tokens taken; and both with a
/// lane that was at rest and is put to rest again.
fn bells() {
    let own: Vec<_> = (0..MANY / u64::from(LANES)).map(|_| lanes(LANES, 1)).collect();
    let each = |units: u64| &own[..(units / u64::from(LANES)) as usize];
    let mut tokens: Vec<Vec<Token>> = own.iter().map(all_tokens).collect();
    // Part and counterpart in turns: what was rung is taken before it is rung again.
    for units in [FEW, MANY] {
        keylane_part(units, &mut |units| {
            for (lanes, tokens) in each(units).iter().zip(&mut tokens) {
                for token in tokens.drain(..) {
                    lanes.bell(0).ring(token.lane(), token);
                }
            }
        });
        println!("bell-ring {units}");
        keylane_part(units, &mut |units| {
            for (lanes, tokens) in each(units).iter().zip(&mut tokens) {
                let bell = lanes.bell(0);
                bell.collect(|lane| tokens.extend(bell.take(lane)));
            }
        });
        println!("bell-take {units}");
        assert!(tokens.iter().all(|tokens| tokens.len() == LANES as usize), "none is lost");
    }
    for (lanes, tokens) in own.iter().zip(tokens) {
        tokens.into_iter().for_each(|token| lanes.get(token.lane()).rest(token, false).unwrap());
    }
    let mut own = Own::new(LANES);
    part("idle-flip", |units| {
        for unit in 0..units {
            assert!(own.flip(unit as u32 % LANES));
        }
    });
}

/// Every lane's token, with room for all.
fn all_tokens(lanes: &Lanes<Message, (), ()>) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(LANES as usize);
    (0..LANES).for_each(|lane| lanes.wake(lane));
    let bell = lanes.bell(0);
    bell.collect(|lane| tokens.extend(bell.take(lane)));
    for token in &mut tokens {
        lanes.get(token.lane()).ring().take_wake(token);
    }
    tokens
}

/// The fast push: into a lane that is awake and has room.
#[inline(never)]
#[unsafe(no_mangle)]
fn keylane_push(lanes: &Lanes<Message, (), ()>, message: Message) -> bool {
    lanes.push(0, message).is_ok()
}

/// The drain of a lane that is not empty: one message.
#[inline(never)]
#[unsafe(no_mangle)]
fn keylane_pop(lanes: &Lanes<Message, (), ()>, token: &mut Token) -> Option<Message> {
    lanes.get(0).ring().drain(token).pop()
}

/// Push and pop of one lane.
fn rings() {
    let own = lanes(1, MANY as usize + 1);
    // From here on the lane is awake: its token is here.
    own.wake(0);
    let mut tokens = Vec::new();
    own.bell(0).collect(|lane| tokens.extend(own.bell(0).take(lane)));
    let mut token = tokens.pop().expect("the lane's token");
    own.get(0).ring().take_wake(&mut token);
    for units in [FEW, MANY] {
        keylane_part(units, &mut |units| {
            for unit in 0..units {
                assert!(keylane_push(&own, message(unit)));
            }
        });
        println!("push {units}");
        keylane_part(units, &mut |units| {
            for unit in 0..units {
                assert!(keylane_pop(&own, &mut token).is_some_and(|message| message[0] == unit));
            }
        });
        println!("pop {units}");
        assert!(keylane_pop(&own, &mut token).is_none());
    }
    own.get(0).rest(token, false).unwrap();
}

/// An event of the wire format, whose strings stand as they are in its bytes.
fn envelopes() {
    assert_eq!(Envelope::decode(EVENT).unwrap().key(), "order-000042");
    part("envelope", |units| {
        for _ in 0..units {
            black_box(Envelope::decode(black_box(EVENT)).is_ok());
        }
    });
}
