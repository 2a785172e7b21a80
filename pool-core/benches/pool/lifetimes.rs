//! Starting workers, ending them, and what an idle one costs.

use std::num::NonZero;
use std::time::{Duration, Instant};

use anyhow::Context;
use pool_core::Pool;

use crate::Start;
use crate::common::{Figures, WORKERS, plus_one};

fn half_a_second(p: u64) -> (u64, bool) {
    std::thread::sleep(Duration::from_millis(500));
    (p, p == 100)
}

pub(crate) fn long_sleep() {
    std::thread::sleep(Duration::from_secs(100));
}

/// From nothing until each worker could have answered once.
pub(crate) fn start(start: Start, workers: usize) -> anyhow::Result<Figures> {
    let begun = Instant::now();
    let pool = start.builder().processes(workers).build()?;
    let handles: Vec<_> =
        (0..workers as u64).map(|x| pool.apply_async(plus_one, (x,))).collect::<Result<_, _>>()?;
    for handle in handles {
        handle.get()?;
    }
    Ok(Figures::one("ms", begun.elapsed().as_secs_f64() * 1e3))
}

/// All workers are in the middle of a long task.
pub(crate) fn terminate(start: Start, workers: usize) -> anyhow::Result<Figures> {
    let pool = start.builder().processes(workers).build()?;
    for _ in 0..workers {
        drop(pool.apply_async(long_sleep, ())?);
    }
    while pool.workers().iter().any(|w| w.current_task().is_none()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    pool.terminate();
    pool.join()?;
    Ok(Figures::one("ms", begun.elapsed().as_secs_f64() * 1e3))
}

/// Each task has a worker process of its own.
pub(crate) fn one_task_each(start: Start, tasks: usize) -> anyhow::Result<Figures> {
    let once = NonZero::new(1).context("1 is not 0")?;
    let pool = start.builder().processes(WORKERS).max_tasks_per_child(once).build()?;
    let run = |tasks: usize| -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let handles: Vec<_> = (0..tasks as u64)
            .map(|x| pool.apply_async(plus_one, (x,)))
            .collect::<Result<_, _>>()?;
        handles.into_iter().try_for_each(|handle| handle.get().map(drop))?;
        Ok(begun.elapsed())
    };
    run(tasks / 10 + 1)?;
    Ok(Figures::one("per_s", tasks as f64 / run(tasks)?.as_secs_f64()))
}

/// 10 workers, tasks of half a second, until number 100 says that it is enough.
pub(crate) fn program_500(tasks: u64) -> anyhow::Result<Figures> {
    let begun = Instant::now();
    let pool = Pool::new(10)?;
    let handles: Vec<_> =
        (0..tasks).map(|p| pool.apply_async(half_a_second, (p,))).collect::<Result<_, _>>()?;
    let mut stopping = None;
    for handle in handles {
        if handle.get()?.1 {
            stopping = Some(Instant::now());
            pool.terminate();
            break;
        }
    }
    pool.join()?;
    let stopping = stopping.context("no task has said that it is enough")?.elapsed();
    let mut figures = Figures::one("s", begun.elapsed().as_secs_f64());
    figures.add("stop_ms", stopping.as_secs_f64() * 1e3);
    Ok(figures)
}
