//! The tail's word: the position after the newest claimed one, and five flags.
//!
//! | bit | set by | cleared by | while set |
//! |---|---|---|---|
//! | EMPTY | the consumer, with IDLE | the next claim | nothing is in it, and `pos` is where it begins anew |
//! | IDLE | the consumer, putting its token to rest | the producer or waker that takes the token out | nobody drains |
//! | WAIT | a producer that found the ring full, before it sleeps | the consumer, before it wakes them | no rest while there is room |
//! | CLOSED | `close` | never | pushes are refused |
//! | WAKE | `wake`: the lane has work beside its ring | the consumer, before it looks for that work | no rest |

use crate::sync::weak;
use crate::token::Token;

pub(super) const IDLE: u64 = 1;
pub(super) const WAIT: u64 = 2;
pub(super) const CLOSED: u64 = 4;
pub(super) const WAKE: u64 = 8;
pub(super) const EMPTY: u64 = 16;
pub(super) const SHIFT: u32 = 5;

/// The flags that a push leaves as they are; IDLE and EMPTY it clears, and over CLOSED there is none.
#[inline(always)]
pub(super) fn kept_by_claim() -> u64 {
    if weak!("ring_drops_wait") {
        WAKE
    } else if weak!("ring_drops_wake") {
        WAIT
    } else {
        WAIT | WAKE
    }
}

/// The flags under which a token does not rest.
#[inline(always)]
pub(super) fn against_rest() -> u64 {
    if weak!("ring_ignores_wait") {
        WAKE
    } else if weak!("ring_ignores_wake") {
        WAIT
    } else {
        WAIT | WAKE
    }
}

/// Why a lane's token cannot rest.
#[derive(Debug)]
pub struct Restless {
    /// The token, back.
    pub token: Token,
    /// Producers wait for room: wake them (`Ring::clear_wait`).
    pub wait: bool,
    /// There is work beside the ring (`Ring::take_wake`).
    pub wake: bool,
}
