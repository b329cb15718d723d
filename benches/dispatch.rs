//! From `submit` to handled, through a whole runtime.
//!
//! Load shape: one producer, closed loop, at most 2,048 records in flight, 10,000 keys drawn uniformly over 256 lanes
//! (burst 64: each key 64 times in a row), payloads of 64 bytes; a handler that reads the payload and counts. Timed
//! from making the first record to handling the last. Each way is checked for order and loss before it is timed.
//!
//! Producer and workers share the machine's cores: two workers and a producer on two cores fight for them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keylane_bench_support::bed::{Bed, Way, nothing};
use keylane_bench_support::load::{Handled, Load};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Records that one iteration stands for: enough that waiting for the last is not what is measured.
const RECORDS: u64 = 10_000;

fn dispatch(c: &mut Criterion) {
    let mut group = c.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
    let (mut load, handled) = (Load::new(1), Handled::default());
    group.bench_function("nothing", |b| {
        b.iter_custom(|iterations| nothing(&mut load, &handled, iterations * RECORDS));
    });
    let ways = [
        ("one by one", Way::OneByOne, &[1, 64][..], &[1, 2][..]),
        ("batches of 500", Way::Batches, &[1, 64], &[1, 2]),
        ("async ready", Way::Ready, &[1], &[1]),
        ("tracked", Way::Tracked, &[1], &[1]),
        ("memory bus", Way::Bus, &[1], &[1, 2]),
    ];
    for (name, way, bursts, workers) in ways {
        for &burst in bursts {
            for &workers in workers {
                let shape = format!("{workers} workers, burst {burst}");
                group.bench_function(BenchmarkId::new(name, shape), |b| {
                    let mut bed = Bed::new(way, workers, burst);
                    b.iter_custom(|iterations| bed.time(iterations * RECORDS));
                    bed.close();
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
