//! Keys spread evenly over lanes, whatever the keys and whoever has selected them before.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![cfg(feature = "internals")]

use std::collections::HashSet;

use keylane::LaneHash;
use keylane::internals::{Router, fnv1a32};
use proptest::prelude::*;

/// Kafka's hash of keys.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().unwrap()).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    for (index, &byte) in rest.iter().enumerate() {
        hash ^= u32::from(byte) << (8 * index);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition that Kafka's clients choose: the hash without its sign bit, modulo the partitions.
fn kafka_partition(key: &[u8]) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % 12
}

/// The partition that NATS' subject mapping chooses.
fn nats_partition(key: &[u8]) -> u32 {
    fnv1a32(key) % 8
}

fn counts(router: &Router, lanes: u32, keys: impl Iterator<Item = String>) -> Vec<u32> {
    let mut counts = vec![0; lanes as usize];
    for key in keys {
        counts[router.route(1, key.as_bytes()).lane as usize] += 1;
    }
    counts
}

/// A mixed number, the same in every run.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn uuid(n: u64) -> String {
    let (a, b) = (mixed(n), mixed(!n));
    let time = (a >> 32, a & 0xffff, (a >> 16) & 0xfff);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        time.0,
        time.1,
        time.2,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

fn tail_number(n: u64) -> String {
    let airline = ["AA", "UA", "DL", "WN"][(n / 1_000 % 4) as usize];
    format!("N{}{airline}{}", n % 1_000, n / 4_000)
}

/// Families of keys as services have them; the n-th of each is distinct from all others.
type Family = (&'static str, fn(u64) -> String);
const FAMILIES: [Family; 7] = [
    ("sequential", |n| n.to_string()),
    ("prefixed", |n| format!("order-{n}")),
    ("padded", |n| format!("{n:020}")),
    ("suffixed", |n| format!("{n}:eu-west-1:production:customer-account")),
    ("strides", |n| (n * 4_096).to_string()),
    ("uuid", uuid),
    ("tail numbers", tail_number),
];

const SEEDS: [u64; 4] = [0, 1, 42, u64::MAX];

#[test]
fn keys_selected_by_a_broker_s_hash_still_use_all_lanes() {
    const LANES: u32 = 256;
    type Broker = (&'static str, fn(&[u8]) -> u32, u32);
    let brokers: [Broker; 2] = [("nats", nats_partition, 8), ("kafka", kafka_partition, 12)];
    for (broker, partition, partitions) in brokers {
        for (family, key) in FAMILIES {
            let mut selected = vec![Vec::new(); partitions as usize];
            for key in (0..55 * u64::from(LANES * partitions)).map(key) {
                selected[partition(key.as_bytes()) as usize].push(key);
            }
            for (chosen, keys) in selected.into_iter().enumerate() {
                let seed = SEEDS[chosen % SEEDS.len()];
                let case = format!("{broker} {chosen}, {family}, seed {seed}");
                assert!(keys.len() >= 50 * LANES as usize, "{case}: too few keys");
                let router = Router::new(LaneHash::Rapid, Some(seed), LANES);
                let counts = counts(&router, LANES, keys.into_iter().take(50 * LANES as usize));
                let used = counts.iter().filter(|&&count| count > 0).count();
                assert!(used * 10 >= 9 * LANES as usize, "{case}: {used} lanes");
                // 50 expected with a deviation of 7: this is seven of them.
                assert!(counts.iter().all(|&count| count < 100), "{case}: {counts:?}");
            }
        }
    }
}

/// Why the mapping is not FNV by default; and that the test above can fail.
#[test]
fn fnv_collapses_behind_a_broker_that_partitions_by_it() {
    let router = Router::new(LaneHash::Fnv1a32, None, 256);
    let keys = (0..200_000).map(|n| format!("order-{n}"));
    let keys = keys.filter(|key| nats_partition(key.as_bytes()) == 3);
    let used = counts(&router, 256, keys).iter().filter(|&&count| count > 0).count();
    assert_eq!(used, 32);
}

#[test]
fn keys_of_every_family_spread_evenly() {
    for lanes in [1, 2, 7, 64, 100, 256, 1_000] {
        for (family, key) in FAMILIES {
            for seed in SEEDS {
                let expected = 200.0;
                let router = Router::new(LaneHash::Rapid, Some(seed), lanes);
                let counts = counts(&router, lanes, (0..200 * u64::from(lanes)).map(key));
                let chi: f64 = counts
                    .iter()
                    .map(|&count| (f64::from(count) - expected).powi(2) / expected)
                    .sum();
                // Chi-square's mean is the degrees of freedom, its variance twice that: six
                // deviations, and some more where there are few degrees and the tail is long.
                let freedom = f64::from(lanes - 1);
                let limit = freedom + 6.0 * (2.0 * freedom).sqrt() + 12.0;
                let case = format!("{family}, {lanes} lanes, seed {seed}");
                assert!(chi <= limit, "{case}: {chi:.0} > {limit:.0}");
            }
        }
    }
}

#[test]
fn hashes_of_distinct_keys_and_subscriptions_are_distinct() {
    let router = Router::new(LaneHash::Rapid, Some(7), 256);
    let keys = (0..2_000).map(|n: u32| n.to_string());
    let lengths = (1..200).map(|length| "a".repeat(length));
    let keys: Vec<String> = keys.chain(lengths).collect();
    let mut seen = HashSet::new();
    for subscription in (0..40).chain([1 << 16, 1 << 31, u32::MAX]) {
        for key in &keys {
            let hash = router.hash(subscription, key.as_bytes());
            assert!(seen.insert(hash), "{subscription} {key}");
        }
    }
}

#[test]
fn subscriptions_use_other_lanes_for_the_same_key() {
    let router = Router::new(LaneHash::Rapid, Some(7), 256);
    let lane = |subscription, n: u32| router.route(subscription, n.to_string().as_bytes()).lane;
    for other in 1..10 {
        let same = (0..1_000).filter(|&n| lane(0, n) == lane(other, n)).count();
        assert!(same < 30, "about 4 of 1000 by chance, found {same}");
    }
}

/// Subscription, key, hash and lane of 256, for the seed 42. If these change, `seed` no longer repeats
/// the mapping of earlier versions.
const GOLDEN: [(u32, &[u8], u64, u32); 6] = [
    (0, b"", 0x1d21_990a_c0f5_440f, 29),
    (0, b"a", 0xf93c_fd65_77cb_2855, 249),
    (0, b"order-42", 0xbe48_870d_74e8_0470, 190),
    (1, b"order-42", 0x3740_0061_f9ab_8b07, 55),
    (0, b"6f9619ff-8b86-4d01-b42d-00cf4fc964ff", 0xa411_e1e6_f004_ebdc, 164),
    (u32::MAX, &[0xff; 200], 0x8ac9_502a_b2bc_aa57, 138),
];

#[test]
fn a_seed_fixes_the_mapping_for_good() {
    let router = Router::new(LaneHash::Rapid, Some(42), 256);
    for (subscription, key, hash, lane) in GOLDEN {
        let route = router.route(subscription, key);
        assert_eq!((route.hash, route.lane), (hash, lane), "{subscription} {key:?}");
    }
    assert_eq!(router.seed(), 42);
}

#[test]
fn without_a_seed_every_runtime_has_its_own() {
    let routers: Vec<Router> = (0..8).map(|_| Router::new(LaneHash::Rapid, None, 256)).collect();
    let hashes: HashSet<u64> = routers.iter().map(|router| router.hash(0, b"order-1")).collect();
    assert_eq!(hashes.len(), 8);
    let again = Router::new(LaneHash::Rapid, Some(routers[0].seed()), 256);
    assert_eq!(again.route(3, b"order-1"), routers[0].route(3, b"order-1"));
}

#[test]
fn fnv_is_the_published_function_modulo_the_lanes() {
    let published: [(&[u8], u32); 4] = [
        (b"", 0x811c_9dc5),
        (b"a", 0xe40c_292c),
        (b"foobar", 0xbf9c_f968),
        (b"hello", 0x4f9f_2cab),
    ];
    for (key, hash) in published {
        assert_eq!(fnv1a32(key), hash);
        for lanes in [1, 8, 100, 256] {
            let router = Router::new(LaneHash::Fnv1a32, None, lanes);
            assert_eq!(router.route(0, key).lane, hash % lanes);
            assert_eq!(router.route(9, key).lane, hash % lanes, "whatever the subscription");
        }
    }
}

#[test]
fn the_kind_changes_the_lane_and_never_the_hash() {
    let rapid = Router::new(LaneHash::Rapid, Some(5), 64);
    let fnv = Router::new(LaneHash::Fnv1a32, Some(5), 1_000);
    assert_eq!(rapid.route(2, b"order-1").hash, fnv.route(2, b"order-1").hash);
}

#[test]
fn murmur2_is_kafka_s() {
    let published = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
    ];
    for (key, hash) in published {
        assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_lane_is_always_one_of_the_lanes(
        lanes in any::<u32>(),
        seed in any::<u64>(),
        subscription in any::<u32>(),
        key in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        for kind in [LaneHash::Rapid, LaneHash::Fnv1a32] {
            let router = Router::new(kind, Some(seed), lanes);
            let route = router.route(subscription, &key);
            prop_assert!(route.lane < lanes.max(1));
            prop_assert_eq!(route, router.clone().route(subscription, &key));
            prop_assert_eq!(route.hash, router.hash(subscription, &key));
        }
    }

    #[test]
    fn every_lane_is_a_range_of_hashes(lanes in 1..=65_536_u32, a in any::<u64>(), b in any::<u64>()) {
        let router = Router::new(LaneHash::Rapid, Some(0), lanes);
        prop_assert_eq!((router.lane(0), router.lane(u64::MAX)), (0, lanes - 1));
        prop_assert_eq!(router.lane(a.min(b)), router.lane(a).min(router.lane(b)));
    }
}
