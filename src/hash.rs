//! From a key to its lane: the 64-bit hash that names a key in its lane's gate, and the reduction of
//! a hash to a lane.
//!
//! Brokers choose partitions by a hash of the same key (NATS' `partition()` is FNV-1a modulo n), so
//! a consumer of one partition sees keys that agree in that hash. Lanes therefore come from another
//! hash, seeded anew by every process, which also keeps outsiders who choose keys from aiming at
//! one lane. Lane numbers live in memory only: nothing stored depends on the seed.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

use crate::error::ConfigError;

/// How a key is mapped to a lane.
///
/// ```
/// use keylane::LaneHash;
///
/// assert_eq!("fnv1a32".parse(), Ok(LaneHash::Fnv1a32));
/// assert_eq!(LaneHash::default().to_string(), "rapid");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LaneHash {
    /// The high bits of a seeded 64-bit rapidhash: even on any keys, and a few nanoseconds long.
    #[default]
    Rapid,
    /// FNV-1a (32 bits) modulo the number of lanes, whatever the seed or the subscription.
    ///
    /// For lane numbers that have to agree with other systems' dashboards and tests. Behind a broker
    /// that partitions by the same hash, only a part of the lanes is used, and whoever chooses keys
    /// can aim at a lane.
    Fnv1a32,
}

impl LaneHash {
    pub(crate) const ALLOWED: &str = "`rapid` or `fnv1a32`";
}

impl fmt::Display for LaneHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rapid => "rapid",
            Self::Fnv1a32 => "fnv1a32",
        })
    }
}

impl FromStr for LaneHash {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "rapid" => Ok(Self::Rapid),
            "fnv1a32" => Ok(Self::Fnv1a32),
            _ => Err(ConfigError::invalid("hash", text, Self::ALLOWED)),
        }
    }
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Names (subscription, key) in the gate. All keys of a lane agree in the *high* bits: a table
    /// within a lane is indexed by the low ones.
    pub hash: u64,
    /// The lane, below the number of lanes.
    pub lane: u32,
}

/// What a subscription's keys are hashed with.
#[derive(Clone, Copy, Debug)]
pub struct Salt(RapidSecrets);

/// The mapping of one runtime, fixed for its life: moving a key to another lane would break its order.
#[derive(Clone, Debug)]
pub struct Router {
    secrets: RapidSecrets,
    seed: u64,
    lanes: u32,
    kind: LaneHash,
}

impl Router {
    /// A mapping onto `lanes` lanes (0 is taken as 1); without a `seed`, onto other ones in every process.
    pub fn new(kind: LaneHash, seed: Option<u64>, lanes: u32) -> Self {
        let seed = seed.unwrap_or_else(random_seed);
        Self { secrets: RapidSecrets::seed(seed), seed, lanes: lanes.max(1), kind }
    }

    /// The seed in use: given again, it repeats the mapping.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What the keys of a subscription are hashed with.
    pub fn salt(&self, subscription: u32) -> Salt {
        // An odd constant spreads small ids over the seed's bits: rapidhash mixes a short key's
        // length into the low ones, and the two must not cancel out.
        let offset = u64::from(subscription).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Salt(RapidSecrets { seed: self.secrets.seed ^ offset, ..self.secrets })
    }

    /// The hash and the lane of a subscription's key.
    pub fn route(&self, subscription: u32, key: &[u8]) -> Route {
        self.route_salted(&self.salt(subscription), key)
    }

    /// As [`route`](Self::route), for a salt made before.
    #[inline]
    pub fn route_salted(&self, salt: &Salt, key: &[u8]) -> Route {
        let hash = salt.hash(key);
        let lane = match self.kind {
            LaneHash::Rapid => self.lane(hash),
            LaneHash::Fnv1a32 => fnv1a32(key) % self.lanes,
        };
        Route { hash, lane }
    }

    /// The hash of a subscription's key. It depends on the seed, never on the kind or on the number of lanes.
    pub fn hash(&self, subscription: u32, key: &[u8]) -> u64 {
        self.salt(subscription).hash(key)
    }

    /// The lane of a well-mixed hash: its high bits, scaled by a multiplication instead of a division.
    #[inline]
    pub fn lane(&self, hash: u64) -> u32 {
        // Below `lanes`, as hash < 2^64: the cast cuts nothing off.
        ((u128::from(hash) * u128::from(self.lanes)) >> 64) as u32
    }
}

impl Salt {
    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_inline::<true, false, false>(key, &self.0)
    }
}

/// FNV-1a, 32 bits.
#[inline]
pub fn fnv1a32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A seed from the operating system's randomness, by way of what std seeds its hash maps with.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
