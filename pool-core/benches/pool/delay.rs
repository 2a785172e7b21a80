//! How long a caller waits.

use pool_core::{Pool, WorkerInfo};

use crate::bare::Bare;
use crate::common::{self, Figures, Placement, STRETCH, WORKERS, plus_one, timed};

/// `apply` back to back, beside bytes that go to another process and back over a bare socket and over bare pipes.
pub(crate) fn round_trip(calls: usize, placement: Placement) -> anyhow::Result<Figures> {
    let there = placement.before_the_start()?;
    let pool = Pool::new(WORKERS)?;
    let mut bare = Bare::start()?;
    let mut call = || Ok(pool.apply(plus_one, (1,)).map(|x| assert_eq!(x, 2))?);
    timed(STRETCH, &mut || bare.over_socket(), &mut Vec::new())?;
    timed(STRETCH, &mut || bare.over_pipe(), &mut Vec::new())?;
    timed(STRETCH, &mut call, &mut Vec::new())?;
    let workers = pool.workers().iter().map(WorkerInfo::pid).collect::<Vec<_>>();
    placement.after_the_start(there, workers.into_iter().chain(bare.threads()))?;
    let (mut sockets, mut pipes, mut applies) = (Vec::new(), Vec::new(), Vec::new());
    while applies.len() < calls {
        timed(STRETCH, &mut || bare.over_socket(), &mut sockets)?;
        timed(STRETCH, &mut || bare.over_pipe(), &mut pipes)?;
        timed(STRETCH, &mut call, &mut applies)?;
    }
    bare.end()?;
    let mut figures = Figures::default();
    figures.add_percentiles("", &mut applies);
    figures.add_percentiles("socket_", &mut sockets);
    figures.add_percentiles("pipe_", &mut pipes);
    figures.add_quantiles(&mut applies);
    Ok(figures)
}

/// `apply` when everybody has slept for a while, on two cores.
pub(crate) fn round_trip_idle(calls: usize) -> anyhow::Result<Figures> {
    let there = Placement::Apart.before_the_start()?;
    let pool = Pool::new(WORKERS)?;
    let mut bare = Bare::start()?;
    pool.apply(plus_one, (1,))?;
    bare.over_pipe()?;
    let workers = pool.workers().iter().map(WorkerInfo::pid).collect::<Vec<_>>();
    Placement::Apart.after_the_start(there, workers.into_iter().chain(bare.threads()))?;
    let call = |kind| match kind {
        0 => Ok(pool.apply(plus_one, (1,)).map(drop)?),
        1 => bare.over_pipe(),
        _ => bare.over_socket(),
    };
    let mut call = call;
    let figures = common::after_idling(calls, &mut call, &["", "pipe_", "socket_"])?;
    bare.end()?;
    Ok(figures)
}

/// Short tasks among a few long ones.
pub(crate) fn mixed(tasks: usize, workers: usize) -> anyhow::Result<Figures> {
    let pool = Pool::new(workers)?;
    common::mixed(
        tasks,
        workers,
        |rounds| Ok(pool.apply_async(common::mixed_task, (rounds,))?),
        |handle| Ok(handle.get()?),
    )
}
