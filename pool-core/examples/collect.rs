//! Collect: submit many tasks, then take their results with `get`, in whatever order suits the program.
//!
//! In Python:
//!
//! ```python
//! handles = [pool.apply_async(count_primes, (n * 1000, 1000)) for n in range(100)]
//! counts = [handle.get() for handle in handles]
//! ```
//!
//! An exception in a task is raised by `get` in Python; here, `get` returns an error that says what happened: see `TaskError`.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use pool_core::{Pool, PoolBuilder, TaskError};

/// How many primes there are among `len` numbers from `start` on.
fn count_primes(start: u64, len: u64) -> usize {
    let is_prime =
        |n: &u64| *n >= 2 && (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (start..start + len).filter(is_prime).count()
}

/// Fails for what is no number. The error arrives as text, with its causes.
fn parse(text: String) -> anyhow::Result<i64> {
    Ok(text.parse()?)
}

/// Worker processes, or threads with `--threads`: the rest of the program is the same.
fn builder(workers: usize) -> PoolBuilder {
    match std::env::args().any(|arg| arg == "--threads") {
        true => Pool::builder().threads(workers),
        false => Pool::builder().processes(workers),
    }
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // worker processes stay inside this call
    let pool = builder(4).build()?;

    // apply_async and get: a handle per task
    let handles: Vec<_> = (0..100)
        .map(|n| pool.apply_async(count_primes, (n * 1000, 1000)))
        .collect::<Result<_, _>>()?;
    let counts: Vec<usize> = handles.into_iter().map(|h| h.get()).collect::<Result<_, _>>()?;
    assert_eq!(counts[0], 168, "primes below 1000");
    assert_eq!(counts.iter().sum::<usize>(), 9592, "primes below 100,000");

    // starmap: the same in one call; results in the order of the input
    assert_eq!(pool.starmap(count_primes, (0..100).map(|n| (n * 1000, 1000)))?, counts);

    // a task that fails costs only itself
    let good = pool.apply_async(parse, ("17".to_owned(),))?;
    let bad = pool.apply_async(parse, ("seventeen".to_owned(),))?;
    assert_eq!(good.get()?, 17);
    let error = bad.get().err();
    assert_eq!(error, Some(TaskError::Failed("invalid digit found in string".to_owned())));

    // get(timeout=..): the task goes on, and the handle stays good
    let nap = || std::thread::sleep(Duration::from_millis(100));
    let mut slow = pool.apply_async(nap, ())?;
    let limit = Duration::from_millis(1);
    assert_eq!(slow.get_timeout(limit), Err(TaskError::NotReady(limit)));
    slow.get()?;

    // in the order of completion: what `as_completed` of concurrent.futures does
    let handles: Vec<_> =
        (0..8).map(|n| pool.apply_async(count_primes, (0, n))).collect::<Result<_, _>>()?;
    let mut sum = 0;
    for ready in pool_core::as_completed(handles) {
        sum += ready.get()?;
    }
    assert_eq!(sum, 1 + 2 + 2 + 3 + 3, "primes below 0, 1, .. 7");

    pool.close();
    pool.join()?;
    println!("{} primes below 100,000, counted by 100 tasks", counts.iter().sum::<usize>());
    Ok(())
}
