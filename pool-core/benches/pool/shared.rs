//! Shared objects, beside what CPython's `multiprocessing` has of the same name.

use std::time::{Duration, Instant};

use crate::common::Figures;
use pool_core::{Array, Event, Lock, Poisoned, Pool, Queue, SharedBytes};

fn per_s(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// Nobody else wants the lock.
pub(crate) fn lock(times: usize) -> anyhow::Result<Figures> {
    let lock = Lock::new()?;
    let run = |times: usize| {
        let begun = Instant::now();
        for _ in 0..times {
            drop(lock.lock().unwrap_or_else(Poisoned::into_inner));
        }
        begun.elapsed()
    };
    run(times / 10);
    Ok(Figures::one("ns", run(times).as_secs_f64() * 1e9 / times as f64))
}

fn take_turns(lock: Lock, go: Event, times: usize) {
    go.wait();
    for _ in 0..times {
        drop(lock.lock().unwrap_or_else(Poisoned::into_inner));
    }
}

/// Two processes want the same lock all the time.
pub(crate) fn lock_contended(times: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(2)?;
    let (lock, go) = (Lock::new()?, Event::new()?);
    let tasks: Vec<_> = (0..2)
        .map(|_| pool.apply_async(take_turns, (lock.clone(), go.clone(), times / 2)))
        .collect::<Result<_, _>>()?;
    let begun = Instant::now();
    go.set();
    for task in tasks {
        task.get()?;
    }
    Ok(Figures::one("per_s", per_s(times, begun.elapsed())))
}

fn fill_queue(queue: Queue<u64>, go: Event, times: usize) -> anyhow::Result<()> {
    go.wait();
    for x in 0..times as u64 {
        queue.put(x)?;
    }
    Ok(())
}

/// A worker puts, this process gets.
pub(crate) fn queue(items: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(1)?;
    let (queue, go) = (Queue::bounded(10_000)?, Event::new()?);
    let producer = pool.apply_async(fill_queue, (queue.clone(), go.clone(), items))?;
    let begun = Instant::now();
    go.set();
    for x in 0..items as u64 {
        assert_eq!(queue.get()?, x);
    }
    let elapsed = begun.elapsed();
    producer.get()?;
    Ok(Figures::one("per_s", per_s(items, elapsed)))
}

fn double(array: Array<f64>, start: usize, end: usize) {
    for i in start..end {
        let mut array = array.lock().unwrap_or_else(Poisoned::into_inner);
        array[i] = 2.0 * i as f64;
    }
}

/// Two workers set one element after the other, each under the lock of the array, as an assignment to an element does in Python.
pub(crate) fn array_fill(elements: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(2)?;
    let array = Array::<f64>::zeroed(elements)?;
    let half = elements / 2;
    let begun = Instant::now();
    pool.task(double)
        .chunk_size(1)
        .starmap([(array.clone(), 0, half), (array.clone(), half, elements)])?;
    let elapsed = begun.elapsed();
    assert!(array.to_vec().iter().enumerate().all(|(i, x)| *x == 2.0 * i as f64));
    Ok(Figures::one("per_s", per_s(elements, elapsed)))
}

/// A task gets a block of a gigabyte and looks at its first byte. The peer gets an array, when its worker is started: it can't be passed later.
pub(crate) fn pass_gigabyte(times: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(1)?;
    let block = SharedBytes::from(vec![1; 1 << 30]);
    let first = |block: SharedBytes| block[0];
    assert_eq!(pool.apply(first, (block.clone(),))?, 1);
    let begun = Instant::now();
    for _ in 0..times {
        assert_eq!(pool.apply(first, (block.clone(),))?, 1);
    }
    Ok(Figures::one("us", begun.elapsed().as_secs_f64() * 1e6 / times as f64))
}
