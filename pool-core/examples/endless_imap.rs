//! `imap` over an endless input: results come as an iterator, and the input is read only a bounded window ahead of it.
//!
//! In Python, `pool.imap(f, itertools.count())` reads its input without end and fills the memory. Here it is the usual way to work
//! through an input that is too large to be held: the lines of a huge file, a network stream, a counter.
#![expect(clippy::print_stdout, reason = "an example")]

use std::cell::Cell;

use pool_core::{Pool, PoolBuilder, TaskError};

/// How many steps a number takes to come down to 1.
fn collatz(n: u64) -> u32 {
    assert!(n > 0, "zero never comes down");
    let step = |n: &u64| Some(if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 });
    std::iter::successors(Some(n), step).take_while(|&n| n != 1).count() as u32
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
    let pool = builder(2).build()?;
    let window = 1000;

    let read = Cell::new(0);
    let numbers = (1u64..).inspect(|_| read.set(read.get() + 1)); // has no end

    // in the order of the input: stop at the first number that takes more than 300 steps
    let mut taken = 0;
    let mut found = None;
    for (n, steps) in (1u64..).zip(pool.task(collatz).window(window).imap(numbers)) {
        taken += 1;
        assert!(read.get() <= taken + window, "never reads more than the window ahead");
        if steps? > 300 {
            found = Some(n);
            break;
        }
    }
    assert_eq!(found, Some(26_623), "the smallest such number");

    // in the order of completion; an item that fails is one result among others, and the iteration goes on
    let mut outcomes: Vec<_> = pool.imap_unordered(collatz, 0u64..).take(5).collect();
    let panicked = |o: &Result<u32, TaskError>| matches!(o, Err(TaskError::Panicked { .. }));
    assert_eq!(outcomes.len(), 5);
    outcomes.retain(|outcome| !panicked(outcome));
    let _steps: Vec<u32> = outcomes.into_iter().collect::<Result<_, _>>()?;

    // what was read ahead and not taken is detached; a terminated pool does not wait for it
    pool.terminate();
    pool.join()?;
    println!(
        "26623 is the first number that takes more than 300 steps; {} numbers were read",
        read.get()
    );
    Ok(())
}
