//! Newtype ids, so that a task is never taken for a worker.

use std::fmt;

/// The number of a task within its pool, counted from 1 in order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub(crate) u64);

impl TaskId {
    /// The number itself.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The seat of a worker in its pool, counted from 0. A worker that dies is replaced in its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerIndex(pub(crate) u32);

impl WorkerIndex {
    /// Stands for a [`Process`](crate::Process), which has no seat.
    pub const PROCESS: WorkerIndex = WorkerIndex(u32::MAX);

    /// The number itself.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for WorkerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the scheduler keeps a task. Reused after the task has settled: pair it with the [`TaskId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TaskKey(pub(crate) u32);

impl TaskKey {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One worker process, from the request to start it until it is gone. Reused afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkerKey(pub(crate) u32);

impl WorkerKey {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A place in a worker's status page together with the use of it: a reply that quotes an old use is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}
