//! Bytes as operations on one ring, held against a `VecDeque`.
#![no_main]

use std::collections::VecDeque;

use keylane::PushError;
use keylane::internals::{Restless, Token, rings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&slots, ops)) = bytes.split_first() else { return };
    let slots = slots as usize % 17 + 1;
    let (_, lanes) = rings::<Box<u64>>(1, slots);
    let ring = &lanes[0];

    let mut model = VecDeque::new();
    let (mut waits, mut woken, mut closed) = (false, false, false);
    let mut token: Option<Token> = None;
    let mut next = 0;

    for &op in ops {
        match op % 16 {
            0..=3 => {
                let refused = match ring.push(Box::new(next)) {
                    Ok(out) => {
                        assert!(!closed && model.len() < slots);
                        assert!(out.is_some() != token.is_some(), "one token, out or at rest");
                        token = token.or(out);
                        model.push_back(next);
                        None
                    }
                    Err(PushError::Full(back)) => {
                        assert!(!closed && model.len() == slots);
                        Some(back)
                    }
                    Err(PushError::Closed(back)) => {
                        assert!(closed);
                        Some(back)
                    }
                };
                assert!(refused.is_none_or(|back| *back == next));
                next += 1;
            }
            4 | 5 => {
                let count = op as u64 / 16 + 1;
                let mut batch: VecDeque<_> = (next..next + count).map(Box::new).collect();
                let room = slots - model.len();
                match ring.push_batch(&mut batch) {
                    Ok((taken, out)) => {
                        assert!(!closed && taken == room.min(count as usize));
                        assert!(out.is_some() != token.is_some(), "one token, out or at rest");
                        token = token.or(out);
                        model.extend(next..next + taken as u64);
                        assert!(batch.iter().map(|m| **m).eq(next + taken as u64..next + count));
                    }
                    Err(PushError::Full(())) => assert!(!closed && room == 0),
                    Err(PushError::Closed(())) => assert!(closed),
                }
                next += count;
            }
            6..=8 => {
                if let Some(token) = &mut token {
                    assert_eq!(ring.pop(token).map(|message| *message), model.pop_front());
                }
            }
            9 => {
                if let Some(token) = &mut token {
                    assert_eq!(ring.drain(token).peek().map(|message| &**message), model.front());
                }
            }
            10 | 11 => {
                let blocked = op % 16 == 11;
                if let Some(held) = token.take() {
                    // Over a full ring, those who wait for room may wait on.
                    let wait_on = blocked && model.len() == slots;
                    let may = (!waits || wait_on) && !woken && (blocked || model.is_empty());
                    match if blocked { ring.rest_blocked(held) } else { ring.rest(held) } {
                        Ok(()) => assert!(may),
                        Err(Restless { token: back, wait, wake }) => {
                            assert!(!may && (wait, wake) == (waits, woken));
                            token = Some(back);
                        }
                    }
                }
            }
            12 => {
                let out = ring.wake();
                assert!(out.is_some() != token.is_some(), "one token, out or at rest");
                token = token.or(out);
                woken = true;
            }
            13 => {
                if let Some(token) = &mut token {
                    assert_eq!(ring.take_wake(token), std::mem::take(&mut woken));
                }
            }
            14 => {
                assert_eq!(ring.set_wait(), !closed);
                waits = true;
            }
            // Closing is for good: rare, so that most inputs do more.
            _ if op == 255 => {
                ring.close();
                closed = true;
            }
            _ => {
                ring.clear_wait();
                waits = false;
            }
        }
        assert_eq!(ring.len(), model.len());
        assert_eq!((ring.has_wait(), ring.is_closed()), (waits, closed));
        assert_eq!(ring.is_at_rest(), token.is_none() && !woken && model.is_empty());
    }
    // The token's place is the ring, and the ring ends here.
    std::mem::forget(token);
});
