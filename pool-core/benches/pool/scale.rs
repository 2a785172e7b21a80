//! What grows with the number of workers, tasks and items, and what does not.

use std::time::Instant;

use pool_core::{Pool, WorkerState};

use crate::Start;
use crate::common::{self, Figures, WORKERS, plus_one};
use crate::lifetimes::long_sleep;

/// Resident memory of this process.
fn rss_kib() -> anyhow::Result<u64> {
    common::kib_of("/proc/self/status", "VmRSS:")
}

/// What each unfinished task takes in this process, its handle included.
pub(crate) fn outstanding(tasks: usize) -> anyhow::Result<Figures> {
    let pool = Pool::builder().processes(WORKERS).max_pending(tasks + WORKERS).build()?;
    for _ in 0..WORKERS {
        drop(pool.apply_async(long_sleep, ())?);
    }
    while pool.workers().iter().any(|w| w.current_task().is_none()) {
        std::thread::yield_now();
    }
    let before = rss_kib()?;
    let begun = Instant::now();
    let mut handles = Vec::with_capacity(tasks);
    for x in 0..tasks as u64 {
        handles.push(pool.apply_async(plus_one, (x,))?);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let grown = rss_kib()?.saturating_sub(before) as f64 * 1024.0;
    let mut figures = Figures::one("bytes", grown / tasks as f64);
    figures.add("submitted_per_s", tasks as f64 / elapsed);
    pool.terminate();
    Ok(figures)
}

/// From now on, the highest resident memory of this process counts from what it has at this moment; gives that.
fn forget_peak() -> anyhow::Result<u64> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    peak_kib()
}

/// The highest resident memory of this process since then.
fn peak_kib() -> anyhow::Result<u64> {
    common::kib_of("/proc/self/status", "VmHWM:")
}

/// Everything that depends on the number of workers.
pub(crate) fn workers(start: Start, workers: usize) -> anyhow::Result<Figures> {
    const TASKS: u64 = 200_000;
    let before = rss_kib()?;
    let begun = Instant::now();
    let pool = start.builder().processes(workers).build()?;
    let run = |tasks: u64| -> anyhow::Result<f64> {
        let begun = Instant::now();
        let handles: Vec<_> =
            (0..tasks).map(|x| pool.apply_async(plus_one, (x,))).collect::<Result<_, _>>()?;
        handles.into_iter().try_for_each(|handle| handle.get().map(drop))?;
        Ok(begun.elapsed().as_secs_f64())
    };
    run(workers as u64)?;
    let mut figures = Figures::one("start_ms", begun.elapsed().as_secs_f64() * 1e3);
    let parent = rss_kib()?.saturating_sub(before);
    figures.add("parent_kib_each", parent as f64 / workers as f64);
    run(TASKS / 10)?;
    figures.add("per_s", TASKS as f64 / run(TASKS)?);
    let mut calls = Vec::new();
    common::timed(1_000, &mut || Ok(pool.apply(plus_one, (1,)).map(drop)?), &mut calls)?;
    figures.add_percentiles("call_", &mut calls);
    while pool.workers().iter().any(|w| w.state() != WorkerState::Idle) {
        std::thread::yield_now();
    }
    let sizes: Vec<u64> =
        pool.workers().iter().map(|w| common::pss_kib(w.pid())).collect::<Result<_, _>>()?;
    figures.add("worker_kib", common::median(sizes)? as f64);
    let begun = Instant::now();
    pool.terminate();
    pool.join()?;
    figures.add("terminate_ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(figures)
}

/// Items in one chunk of an iterator.
const CHUNK: usize = 16_384;

/// An iterator over so many items that they fit nowhere, in chunks; and what the process has grown by meanwhile.
pub(crate) fn imap(items: u64) -> anyhow::Result<Figures> {
    let pool = Pool::new(WORKERS)?;
    let mut sum = 0u64;
    let mut take = |items: u64| -> anyhow::Result<()> {
        for result in pool.task(plus_one).chunk_size(CHUNK).imap(0..items) {
            sum = sum.wrapping_add(result?);
        }
        Ok(())
    };
    take(items / 100)?;
    let before = rss_kib()?;
    let begun = Instant::now();
    take(items)?;
    let elapsed = begun.elapsed().as_secs_f64();
    let grown = rss_kib()?.saturating_sub(before);
    let of = |n: u64| n * (n + 1) / 2;
    assert_eq!(sum, of(items) + of(items / 100));
    let mut figures = Figures::one("per_s", items as f64 / elapsed);
    figures.add("grown_kib", grown as f64);
    let few = items / 500;
    let begun = Instant::now();
    pool.imap(plus_one, 0..few).try_for_each(|result| result.map(drop))?;
    figures.add("default_per_s", few as f64 / begun.elapsed().as_secs_f64());
    Ok(figures)
}

/// By how much the highest resident memory of this process grows while it iterates over ever more items, in chunks and with default settings: not with their number.
pub(crate) fn long_imap(items: u64) -> anyhow::Result<Figures> {
    let pool = Pool::new(WORKERS)?;
    let mut figures = Figures::default();
    let take = |chunk: Option<usize>, items: u64| -> anyhow::Result<f64> {
        let task = pool.task(plus_one);
        let task = if let Some(chunk) = chunk { task.chunk_size(chunk) } else { task };
        let (mut sum, begun) = (0u64, Instant::now());
        for result in task.imap(0..items) {
            sum = sum.wrapping_add(result?);
        }
        let elapsed = begun.elapsed().as_secs_f64();
        assert_eq!(sum, items * (items + 1) / 2);
        Ok(elapsed)
    };
    for (name, chunk) in [("chunks", Some(CHUNK)), ("default", None)] {
        take(chunk, items.min(100_000))?;
        for items in [items / 100, items / 10, items] {
            let before = forget_peak()?;
            let elapsed = take(chunk, items)?;
            let gained = peak_kib()?.saturating_sub(before);
            figures.add(format!("{name}_gained_kib_{items}"), gained as f64);
            figures.add(format!("{name}_per_s_{items}"), items as f64 / elapsed);
        }
    }
    Ok(figures)
}
