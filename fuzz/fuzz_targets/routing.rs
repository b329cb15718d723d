//! Any key of any subscription has one hash and one lane, below the number of lanes, for any seed.
#![no_main]

use keylane::LaneHash;
use keylane::internals::{Router, fnv1a32};
use libfuzzer_sys::fuzz_target;

/// Takes `N` bytes off the input; zeros where it has ended.
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let length = N.min(data.len());
    taken[..length].copy_from_slice(&data[..length]);
    *data = &data[length..];
    taken
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let seed = u64::from_le_bytes(take(&mut data));
    let lanes = u32::from_le_bytes(take(&mut data));
    let subscription = u32::from_le_bytes(take(&mut data));
    let split = usize::from(u16::from_le_bytes(take(&mut data))).min(data.len());

    let rapid = Router::new(LaneHash::Rapid, Some(seed), lanes);
    let fnv = Router::new(LaneHash::Fnv1a32, Some(seed), lanes);
    let (first, second) = data.split_at(split);
    for key in [data, first, second] {
        let route = rapid.route(subscription, key);
        assert!(route.lane < lanes.max(1));
        assert_eq!(route.lane, rapid.lane(route.hash));
        assert_eq!(route, Router::new(LaneHash::Rapid, Some(seed), lanes).route(subscription, key));
        assert_eq!(
            route,
            rapid.route(subscription, &key.to_vec()),
            "wherever the key lies in memory"
        );

        let reference = fnv.route(subscription, key);
        assert_eq!(reference.hash, route.hash, "the hash is no matter of the kind");
        assert_eq!(reference.lane, fnv1a32(key) % lanes.max(1));
    }

    // Batches are grouped by lane: a key's lane does not depend on what was routed before it.
    let keys: Vec<&[u8]> = data.split(|&byte| byte == b',').collect();
    let forwards: Vec<u32> = keys.iter().map(|key| rapid.route(subscription, key).lane).collect();
    let mut backwards: Vec<u32> =
        keys.iter().rev().map(|key| rapid.route(subscription, key).lane).collect();
    backwards.reverse();
    assert_eq!(forwards, backwards);
});
