//! What the parts of a task's way cost, each by itself: encoding, the ring in shared memory, the cell for the outcome, the table of tasks, the scheduler; and the shared lock and
//! queue. The pool as a whole is measured by `scripts/bench`.
//!
//! `cargo bench -p pool-core --features parts --bench parts`; a word behind `--` selects those with that word in their names, `--test` runs each once. The feature
//! lets this bench at the library's inside, and is for nothing else.
#![expect(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pool_core::parts::{self, Lane, Schedule, TaskTable};
use pool_core::{Lock, Queue};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Both directions of a value.
fn both_ways<T: Serialize + DeserializeOwned + 'static>(
    criterion: &mut Criterion,
    name: &str,
    value: &T,
) {
    let mut group = criterion.benchmark_group("codec");
    let mut bytes = Vec::new();
    parts::encode(value, &mut bytes);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut out = Vec::with_capacity(bytes.len());
    group.bench_function(format!("encode {name}"), |bencher| {
        bencher.iter(|| {
            out.clear();
            parts::encode(black_box(value), &mut out);
            black_box(&out).len()
        });
    });
    group.bench_function(format!("decode {name}"), |bencher| {
        bencher.iter(|| parts::decode::<T>(black_box(&bytes)));
    });
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    both_ways(criterion, "a number", &(7u64,));
    let record = (7u64, "a name of some length".to_owned(), Some(1.5), vec![1u32, 2, 3]);
    both_ways(criterion, "a record", &record);
    both_ways(criterion, "1024 numbers", &vec![7u64; 1024]);
    both_ways(criterion, "64 KiB of bytes", &vec![7u8; 64 << 10]);
    both_ways(criterion, "100 strings", &vec!["a name of some length".to_owned(); 100]);
}

fn lane(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane");
    let mut lane = Lane::new();
    for size in [64, 4 << 10, 64 << 10] {
        let message = vec![7u8; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("push and pop {size} bytes"), |bencher| {
            bencher.iter(|| {
                assert!(lane.push(black_box(&message)));
                assert_eq!(lane.pop(), size);
            });
        });
    }
    const MANY: u64 = 32;
    group.throughput(Throughput::Elements(MANY));
    group.bench_function("push 32 of 64 bytes, pop them at once", |bencher| {
        bencher.iter(|| {
            assert!((0..MANY).all(|_| lane.push(black_box(&[7; 64]))));
            assert_eq!(lane.pop(), 64 * MANY as usize);
        });
    });
    group.finish();
}

fn slot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slot");
    group.bench_function("settle and get, nobody waits", |bencher| {
        bencher.iter(|| assert_eq!(parts::settle_and_get(black_box(7)), Some(7)));
    });
    group.bench_function("settle, wait and take", |bencher| {
        bencher.iter(|| assert_eq!(parts::settle_and_take(black_box(7)), Some(7)));
    });
    group.finish();
}

fn task_table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("task table");
    let mut table = TaskTable::new();
    group.bench_function("announce, start, finish", |bencher| {
        bencher.iter(|| assert!(table.pass()));
    });
    group.bench_function("announce, take back", |bencher| {
        bencher.iter(|| assert!(table.take_back()));
    });
    group.finish();
}

fn scheduler(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    for workers in [2, 200] {
        group.bench_function(format!("submit and reply, {workers} idle workers"), |bencher| {
            let mut schedule = Schedule::new(workers);
            bencher.iter(|| {
                schedule.submit();
                assert!(schedule.answer());
            });
        });
    }
    for waiting in [1_000, 1_000_000] {
        group.bench_function(format!("submit and reply, {waiting} tasks wait"), |bencher| {
            let mut schedule = Schedule::new(2);
            (0..waiting).for_each(|_| schedule.submit());
            bencher.iter(|| {
                schedule.submit();
                assert!(schedule.answer());
            });
        });
    }
    const MANY: u64 = 1_000;
    group.throughput(Throughput::Elements(MANY));
    group.bench_function("submit 1000, then their replies", |bencher| {
        let many = |schedule: &mut Schedule| {
            (0..MANY).for_each(|_| schedule.submit());
            assert!((0..MANY).all(|_| schedule.answer()));
        };
        bencher.iter_batched_ref(|| Schedule::new(2), many, BatchSize::SmallInput);
    });
    group.finish();
}

fn shared(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shared");
    let lock = Lock::new().unwrap();
    group.bench_function("Lock, taken and let go", |bencher| {
        bencher.iter(|| drop(lock.lock().unwrap()));
    });
    let queue = Queue::<u64>::bounded(1_000).unwrap();
    group.bench_function("Queue, put and get a number", |bencher| {
        bencher.iter(|| {
            queue.put(black_box(7)).unwrap();
            queue.get().unwrap()
        });
    });
    let texts = Queue::<String>::bounded(1_000).unwrap();
    let text = "a name of some length".repeat(10);
    group.bench_function("Queue, put and get 210 bytes of text", |bencher| {
        bencher.iter(|| {
            texts.put(black_box(text.clone())).unwrap();
            texts.get().unwrap()
        });
    });
    group.finish();
}

criterion_group!(all, codec, lane, slot, task_table, scheduler, shared);
criterion_main!(all);
