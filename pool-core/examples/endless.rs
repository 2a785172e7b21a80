//! Endless submission: one thread submits tasks as fast as the pool takes them, another takes the results, until a third has seen
//! enough and terminates the pool. Memory stays flat all the while.
//!
//! In Python, this loop fills the memory, because `apply_async` never waits. Here it waits while `max_pending` tasks are unfinished.
#![expect(clippy::print_stdout, reason = "an example")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use pool_core::{AsyncResult, Pool, PoolBuilder, SubmitError, TaskError};

fn double(i: u64) -> u64 {
    i * 2
}

/// Submits until the pool is closed.
fn submit(pool: &Pool, handles: &mpsc::SyncSender<AsyncResult<u64>>) -> Result<(), SubmitError> {
    for i in 0..50_000_000_000 {
        let handle = pool.apply_async(double, (i,))?;
        // Results that nobody has taken are the program's own memory, so the queue between the two threads is bounded too.
        // The receiver takes until this side hangs up, so sending can't fail.
        let _ = handles.send(handle);
    }
    Ok(())
}

/// Resident memory of this process.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or_else(|| anyhow::anyhow!("no VmRSS in /proc/self/status"))?.parse::<u64>()? * 1024)
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
    let pool = builder(2).max_pending(10_000).build()?;
    let (sender, handles) = mpsc::sync_channel(10_000);
    let taken = AtomicU64::new(0);

    let (submitted, terminated, growth) = std::thread::scope(|scope| {
        let pool = &pool;
        let submitter = scope.spawn(move || submit(pool, &sender));
        let taken = &taken;
        let taker = scope.spawn(move || {
            let mut terminated = 0;
            for (i, handle) in handles.into_iter().enumerate() {
                match handle.get() {
                    Ok(result) => assert_eq!(result, 2 * i as u64, "in the order of submission"),
                    Err(TaskError::Terminated) => terminated += 1,
                    Err(error) => panic!("task {i}: {error}"),
                }
                taken.fetch_add(1, Ordering::Relaxed);
            }
            terminated
        });

        // once the queues are full, memory must not grow any more, however long this goes on
        std::thread::sleep(Duration::from_millis(700));
        let before = resident_bytes();
        std::thread::sleep(Duration::from_millis(1300));
        let after = resident_bytes();
        pool.terminate(); // from a third thread, in the middle of everything
        (submitter.join(), taker.join(), before.and_then(|before| Ok((before, after?))))
    });

    assert_eq!(submitted.ok(), Some(Err(SubmitError::Closed)), "how an endless loop ends");
    let terminated = terminated.map_err(|_| anyhow::anyhow!("the taking thread has panicked"))?;
    let (before, after) = growth?;
    assert!(after < before + (16 << 20), "memory grew from {before} to {after} bytes");
    pool.join()?;
    assert!(pool.workers().is_empty(), "all workers are gone");
    let taken = taken.into_inner();
    assert!(taken - terminated > 1000, "it did something: {taken} tasks, {terminated} terminated");
    println!(
        "{} results in 2 s, {terminated} tasks terminated; resident memory {:.1} MiB, later {:.1} MiB",
        taken - terminated,
        before as f64 / f64::from(1 << 20),
        after as f64 / f64::from(1 << 20),
    );
    Ok(())
}
