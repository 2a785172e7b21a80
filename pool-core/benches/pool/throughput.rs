//! How many tasks a second, and how much of the time is spent on them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pool_core::Pool;

use crate::common::{self, Figures, WORKERS, plus_one, work};

/// Submitted one by one from one thread, then every result is taken.
pub(crate) fn apply_async(tasks: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(WORKERS)?;
    let run = |tasks: u64| -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let handles: Vec<_> =
            (0..tasks).map(|x| pool.apply_async(plus_one, (x,))).collect::<Result<_, _>>()?;
        for (x, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.get()?, x as u64 + 1);
        }
        Ok(begun.elapsed())
    };
    run(tasks as u64 / 10)?;
    Ok(Figures::one("per_s", tasks as f64 / run(tasks as u64)?.as_secs_f64()))
}

/// The same with worker threads: what a task costs but for encoding it and sending it elsewhere. For `scripts/instructions`, which can't follow processes.
pub(crate) fn apply_async_threads(tasks: usize) -> anyhow::Result<Figures> {
    let pool = Pool::builder().threads(1).build()?;
    let handles: Vec<_> =
        (0..tasks as u64).map(|x| pool.apply_async(plus_one, (x,))).collect::<Result<_, _>>()?;
    handles.into_iter().try_for_each(|handle| handle.get().map(drop))?;
    Ok(Figures::one("tasks", tasks as f64))
}

/// Default settings.
pub(crate) fn map(items: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(WORKERS)?;
    measure_map(items, |input| Ok(pool.map(plus_one, input.iter().copied())?))
}

/// One thread's loop over the same items, without any pool.
pub(crate) fn plain_map(items: usize) -> anyhow::Result<Figures> {
    measure_map(items, |input| Ok(black_box(input).iter().map(|&x| plus_one(x)).collect()))
}

fn measure_map(
    items: usize,
    map: impl Fn(&[u64]) -> anyhow::Result<Vec<u64>>,
) -> anyhow::Result<Figures> {
    let input: Vec<u64> = (0..items as u64).collect();
    common::in_a_row(items as u64, || {
        let begun = Instant::now();
        let results = map(&input)?;
        let elapsed = begun.elapsed();
        assert!(results.into_iter().eq(1..=items as u64));
        Ok(elapsed)
    })
}

/// Tasks of known length, submitted one by one; at most so many of one length.
pub(crate) fn efficiency_apply(most: u64) -> anyhow::Result<Figures> {
    let pool = Pool::new(WORKERS)?;
    common::efficiency(most, |tasks, rounds| {
        let handles: Vec<_> =
            (0..tasks).map(|_| pool.apply_async(work, (rounds,))).collect::<Result<_, _>>()?;
        handles.into_iter().try_for_each(|handle| handle.get().map(drop))?;
        Ok(())
    })
}

/// The same as one map, chunked by default.
pub(crate) fn efficiency_map(most: u64) -> anyhow::Result<Figures> {
    let pool = Pool::new(WORKERS)?;
    common::efficiency(most, |tasks, rounds| {
        drop(pool.map(work, std::iter::repeat_n(rounds, tasks as usize))?);
        Ok(())
    })
}
