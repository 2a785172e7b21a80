//! A counter in shared memory, incremented by four processes under its lock, and one that needs no lock.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::Instant;

use pool_core::{Poisoned, Pool, RawValue, Value};

const TIMES: u64 = 100_000;

fn count(counter: Value<u64>, unlocked: RawValue<u64>) {
    for _ in 0..TIMES {
        // the lock of a process that was killed is had all the same: a count can't be half changed
        *counter.lock().unwrap_or_else(Poisoned::into_inner) += 1;
        unlocked.fetch_add(1);
    }
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // worker processes stay inside this call
    let pool = Pool::new(4)?;
    let (counter, unlocked) = (Value::new(0)?, RawValue::new(0)?);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..4)
        .map(|_| pool.apply_async(count, (counter.clone(), unlocked.clone())))
        .collect::<Result<_, _>>()?;
    for task in tasks {
        task.get()?;
    }
    assert_eq!(counter.get(), 4 * TIMES);
    assert_eq!(unlocked.get(), 4 * TIMES);
    println!("counted to {} in {:.3} s", counter.get(), begun.elapsed().as_secs_f64());
    Ok(())
}
