//! What happens in a pool, told as it happens.

use std::time::Duration;

use crate::error::{ExitCause, TaskError, TaskInfo};
use crate::ids::WorkerIndex;

/// Something that has happened in a pool: see [`PoolBuilder::on_event`](crate::PoolBuilder::on_event).
///
/// A chunk of a map is one task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolEvent {
    /// A task was taken in.
    TaskSubmitted {
        /// The task.
        task: TaskInfo,
    },
    /// A worker has got the task, and begins it as soon as those before it are done, which is a matter of at most some milliseconds.
    TaskStarted {
        /// The task.
        task: TaskInfo,
        /// The worker's seat.
        worker: WorkerIndex,
        /// Its process: this one, for a thread.
        pid: u32,
    },
    /// The task's worker was lost or its time was up, and it waits to be started again.
    TaskRetried {
        /// The task.
        task: TaskInfo,
    },
    /// The task has ended, and its handle is told next: after the callbacks of the call, if it has any. Exactly once for each that was submitted.
    TaskFinished {
        /// The task.
        task: TaskInfo,
        /// Why it has no result; `None` if it has one.
        error: Option<TaskError>,
        /// How long it has run, by its worker's account; `None` if it was not answered.
        elapsed: Option<Duration>,
    },
    /// A worker was started. It runs the initializer next.
    WorkerStarted {
        /// The worker's seat.
        worker: WorkerIndex,
        /// Its process: this one, for a thread.
        pid: u32,
    },
    /// A worker could not apply all of its [`Sandbox`](crate::Sandbox), and runs all the same, because that is [`best_effort`](crate::Sandbox::best_effort).
    SandboxIncomplete {
        /// The worker's seat.
        worker: WorkerIndex,
        /// Its process.
        pid: u32,
        /// What it could not apply, and why.
        missing: Vec<String>,
    },
    /// A worker takes tasks from now on.
    WorkerReady {
        /// The worker's seat.
        worker: WorkerIndex,
        /// Its process: this one, for a thread.
        pid: u32,
    },
    /// A worker has left because it was asked to: the pool shrinks, ends, or has replaced it.
    WorkerLeft {
        /// The worker's seat.
        worker: WorkerIndex,
        /// Its process: this one, for a thread.
        pid: u32,
    },
    /// A worker has ended by itself, or was killed.
    WorkerLost {
        /// The worker's seat.
        worker: WorkerIndex,
        /// Its process.
        pid: u32,
        /// How it ended.
        cause: ExitCause,
    },
    /// The observer is too slow: so many events before this one were dropped.
    Missed {
        /// How many.
        events: u64,
    },
}
