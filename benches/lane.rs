//! Lanes on one thread, which is producer and worker in turn: what push, bell, token and rest cost without any other
//! core. Against a row of `ArrayQueue`s that the consumer has to scan.
//!
//! Load: messages of 56 bytes, lane after lane; "64 in" puts 64 in before the consumer looks.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keylane_bench_support::lanes::{Laned, Own, Scanned, check, message, run};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const COUNT: u64 = 1_024;

fn lane(c: &mut Criterion) {
    let mut group = c.benchmark_group("lane/push+visit");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function("nothing", |b| {
        b.iter(|| (0..COUNT).map(|number| black_box(message(number))[0]).sum::<u64>());
    });
    // (lanes, messages to a lane in a row, messages before the consumer looks)
    for (lanes, burst, every) in [(1, 1, 1), (1, 64, 64), (64, 1, 1), (64, 1, 64), (256, 1, 64)] {
        let (mut own, mut other) = (Own::new(lanes), Scanned::new(lanes));
        check(&mut own, lanes);
        check(&mut other, lanes);
        let shape = format!("{lanes} lanes, burst {burst}, {every} in");
        group.bench_function(BenchmarkId::new("own", &shape), |b| {
            b.iter(|| run(&mut own, lanes, burst, every, COUNT));
        });
        group.bench_function(BenchmarkId::new("array_queues", &shape), |b| {
            b.iter(|| run(&mut other, lanes, burst, every, COUNT));
        });
    }
    group.finish();

    let mut own = Own::new(256);
    let mut group = c.benchmark_group("lane/idle");
    group.bench_function("flip", |b| {
        assert!(own.flip(3));
        b.iter(|| own.flip(black_box(3)));
    });
    group.bench_function("look at the bell of 256", |b| {
        b.iter(|| own.take_all(|_, _| unreachable!("nothing was put in")));
    });
    group.finish();
}

criterion_group!(benches, lane);
criterion_main!(benches);
