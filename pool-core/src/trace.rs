//! What happens in pools as events of the `tracing` crate, with the target `pool_core`. Without the feature `tracing`, nothing of it is compiled.

/// Tells the program's subscriber.
#[cfg(feature = "tracing")]
pub(crate) fn tell(pool: &str, event: &crate::PoolEvent) {
    use crate::PoolEvent as E;
    use tracing::{debug, trace, warn};
    match event {
        E::TaskSubmitted { task } => {
            trace!(target: "pool_core", pool, id = task.id.get(), task = task.name, "task submitted");
        }
        E::TaskStarted { task, worker, pid } => {
            trace!(target: "pool_core", pool, id = task.id.get(), task = task.name, worker = worker.get(), pid, "task started");
        }
        E::TaskRetried { task } => {
            warn!(target: "pool_core", pool, id = task.id.get(), task = task.name, "task is tried again");
        }
        E::TaskFinished { task, error: None, elapsed } => {
            trace!(target: "pool_core", pool, id = task.id.get(), task = task.name, ?elapsed, "task finished");
        }
        E::TaskFinished { task, error: Some(error), elapsed } => {
            debug!(target: "pool_core", pool, id = task.id.get(), task = task.name, %error, ?elapsed, "task failed");
        }
        E::WorkerStarted { worker, pid } => {
            debug!(target: "pool_core", pool, worker = worker.get(), pid, "worker started");
        }
        E::WorkerReady { worker, pid } => {
            debug!(target: "pool_core", pool, worker = worker.get(), pid, "worker ready");
        }
        E::WorkerLeft { worker, pid } => {
            debug!(target: "pool_core", pool, worker = worker.get(), pid, "worker left");
        }
        E::WorkerLost { worker, pid, cause } => {
            warn!(target: "pool_core", pool, worker = worker.get(), pid, %cause, "worker lost");
        }
        E::SandboxIncomplete { worker, pid, missing } => {
            warn!(target: "pool_core", pool, worker = worker.get(), pid, ?missing, "sandbox is incomplete");
        }
        E::Missed { events } => {
            warn!(target: "pool_core", pool, events, "too many events, some were dropped");
        }
    }
}

/// Whether anybody listens.
#[cfg(feature = "tracing")]
pub(crate) fn is_on() -> bool {
    tracing::level_filters::LevelFilter::current() > tracing::level_filters::LevelFilter::OFF
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn tell(_: &str, _: &crate::PoolEvent) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn is_on() -> bool {
    false
}

/// Runs a task on this thread in a span named `task`, in which the events of its code lie.
#[cfg(feature = "tracing")]
pub(crate) fn in_task<T>(run: impl FnOnce() -> T) -> T {
    let id = crate::worker::task_id().map(crate::TaskId::get);
    let worker = crate::worker::index().map(crate::WorkerIndex::get);
    tracing::info_span!(target: "pool_core", "task", id, worker).in_scope(run)
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn in_task<T>(run: impl FnOnce() -> T) -> T {
    run()
}
