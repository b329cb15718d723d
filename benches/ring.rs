//! The lane's ring against `crossbeam_queue::ArrayQueue`, through the trait that both have.
//!
//! First both are held against the same checks; then an empty loop, so that one sees what the loop
//! itself costs; then each operation, one queue after the other. Only the ratio of the two means
//! anything on a machine that does other things too.

use std::collections::VecDeque;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_queue::ArrayQueue;
use keylane::internals::{Queue, Single};
use keylane_bench_support::lanes::{Message, message};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const SLOTS: usize = 1_000;
const BATCH: u64 = 32;

fn check(mut queue: impl Queue<Message>) {
    for lap in 0..3 {
        for number in 0..SLOTS as u64 {
            assert!(queue.push(message(lap * 10_000 + number)).is_ok());
        }
        let refused = queue.push(message(7));
        assert_eq!(refused.err().map(|back| back.into_inner()), Some(message(7)));
        for number in 0..SLOTS as u64 {
            assert_eq!(queue.pop(), Some(message(lap * 10_000 + number)));
        }
        assert_eq!(queue.pop(), None);
    }
}

fn one_by_one(queue: &mut impl Queue<Message>) -> Option<Message> {
    let _ = queue.push(black_box(message(1)));
    queue.pop()
}

fn in_bursts(queue: &mut impl Queue<Message>) -> u64 {
    for number in 0..BATCH {
        let _ = queue.push(black_box(message(number)));
    }
    std::iter::from_fn(|| queue.pop()).map(|message| message[0]).sum()
}

fn ring(c: &mut Criterion) {
    check(Single::new(SLOTS));
    check(ArrayQueue::new(SLOTS));
    let (mut own, mut other) = (Single::new(SLOTS), ArrayQueue::new(SLOTS));

    let mut group = c.benchmark_group("ring/push+pop");
    group.throughput(Throughput::Elements(1));
    group.bench_function("nothing", |b| b.iter(|| black_box(message(1))));
    group.bench_function("own", |b| b.iter(|| one_by_one(&mut own)));
    group.bench_function("array_queue", |b| b.iter(|| one_by_one(&mut other)));
    group.finish();

    let mut group = c.benchmark_group("ring/32 in a burst");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("nothing", |b| {
        b.iter(|| (0..BATCH).map(|number| black_box(message(number))[0]).sum::<u64>());
    });
    group.bench_function("own", |b| b.iter(|| in_bursts(&mut own)));
    // The other has no batches.
    group.bench_function(BenchmarkId::new("own", "one claim"), |b| {
        let mut batch = VecDeque::with_capacity(BATCH as usize);
        b.iter(|| {
            batch.extend((0..BATCH).map(|number| black_box(message(number))));
            let _ = own.ring().push_batch(&mut batch);
            std::iter::from_fn(|| own.pop()).map(|message| message[0]).sum::<u64>()
        });
    });
    group.bench_function("array_queue", |b| b.iter(|| in_bursts(&mut other)));
    group.finish();

    let mut group = c.benchmark_group("ring/empty pop");
    group.bench_function("nothing", |b| b.iter(|| black_box(None::<Message>)));
    group.bench_function("own", |b| b.iter(|| own.pop()));
    group.bench_function("array_queue", |b| b.iter(|| other.pop()));
    group.finish();
}

criterion_group!(benches, ring);
criterion_main!(benches);
