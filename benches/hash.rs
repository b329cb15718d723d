//! From a key to its lane: both mappings, over key lengths that services use.
//!
//! 1,024 different keys in turn, so that neither branches nor lines of one key are learned by heart; one thread. The
//! empty loop goes over the same keys.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keylane::LaneHash;
use keylane::internals::Router;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const KEYS: usize = 1_024;
const LANES: u32 = 256;

fn keys(len: usize) -> Vec<Vec<u8>> {
    (0..KEYS).map(|key| format!("{key:0len$}").into_bytes()).collect()
}

/// Every lane is one, the same key has the same, and even keys that only count use most of them.
fn check(router: &Router, keys: &[Vec<u8>]) {
    let mut used = vec![0; LANES as usize];
    for key in keys {
        let route = router.route(1, key);
        assert_eq!(route, router.route(1, key));
        used[route.lane as usize] += 1;
    }
    assert!(used.iter().filter(|&&count| count > 0).count() > 200, "of 256 lanes");
}

fn hash(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash/route");
    group.throughput(Throughput::Elements(KEYS as u64));
    for len in [8, 16, 36, 128] {
        let keys = keys(len);
        group.bench_function(BenchmarkId::new("nothing", len), |b| {
            b.iter(|| keys.iter().map(|key| u64::from(black_box(key)[0])).sum::<u64>());
        });
        for kind in [LaneHash::Rapid, LaneHash::Fnv1a32] {
            let router = Router::new(kind, Some(7), LANES);
            check(&router, &keys);
            group.bench_function(BenchmarkId::new(kind.to_string(), len), |b| {
                b.iter(|| {
                    let lane = |key| u64::from(router.route(1, black_box(key)).lane);
                    keys.iter().map(|key| lane(key)).sum::<u64>()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, hash);
criterion_main!(benches);
