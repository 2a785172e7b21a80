//! What the shell may ask the scheduler.

use super::{Counts, Phase, Scheduler, TaskState, Worker, WorkerPhase};
use crate::error::PoolError;
use crate::ids::{Lease, TaskKey, WorkerKey};

impl Scheduler {
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Why the pool can't go on, if so.
    pub(crate) fn broken(&self) -> Option<&PoolError> {
        self.broken.as_ref()
    }

    /// Tasks that have not been settled.
    #[inline]
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Whether no task waits for a worker.
    #[inline]
    pub(crate) fn is_starved(&self) -> bool {
        self.queue.is_empty()
    }

    /// The time that all workers together have been ready or busy.
    pub(crate) fn worker_time(&self, now: u64) -> u64 {
        let workers = self.workers.iter().map(|(_, worker)| worker.time(now));
        workers.fold(self.worked_ns, u64::saturating_add)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn queued(&self) -> usize {
        let waits = |key: &TaskKey| self.tasks[key.index()].state() == TaskState::Queued;
        self.queue.iter().filter(waits).count() + self.delayed.len()
    }

    pub(crate) fn worker(&self, worker: WorkerKey) -> Option<&Worker> {
        self.workers.get(worker.index())
    }

    /// Workers in the order of their seats, with one that is leaving behind its successor.
    pub(crate) fn workers(&self) -> Vec<(WorkerKey, &Worker)> {
        let mut workers: Vec<_> =
            self.workers.iter().map(|(key, worker)| (WorkerKey(key as u32), worker)).collect();
        workers.sort_by_key(|(_, worker)| (worker.seat, worker.phase));
        workers
    }

    /// Whether the worker was given this lease and has not answered it.
    #[cfg(test)]
    pub(crate) fn holds(&self, worker: WorkerKey, lease: Lease) -> bool {
        let worker = self.workers.get(worker.index());
        worker.is_some_and(|worker| worker.leases.iter().any(|held| held.lease == lease))
    }

    /// Where a task is and what it is called there, if a worker has it.
    pub(crate) fn lease_of(&self, task: TaskKey) -> Option<(WorkerKey, Lease)> {
        match self.tasks.get(task.index())?.state() {
            TaskState::Leased(worker) => {
                let held = self.workers[worker.index()].leases.iter().find(|h| h.task == task)?;
                Some((worker, held.lease))
            }
            TaskState::Queued | TaskState::Delayed | TaskState::Dropped => None,
        }
    }

    /// Whether every seat that is to be filled at once has had a worker that became ready.
    pub(crate) fn all_seated(&self) -> bool {
        self.seats.iter().take(self.config.least()).all(|seat| seat.was_ready)
    }

    /// How many workers there may be.
    pub(crate) fn size(&self) -> u32 {
        self.config.workers
    }

    /// How many workers have a task.
    pub(crate) fn busy(&self) -> usize {
        self.workers.iter().filter(|(_, worker)| worker.is_busy()).count()
    }

    /// How long a task is expected to take, by what was observed of its function.
    pub(crate) fn expected(&self, task: TaskKey) -> Option<u64> {
        let function = self.tasks.get(task.index())?.function;
        self.functions.get(function as usize).map(|stats| stats.expected_ns())
    }

    /// The number of its function.
    #[inline]
    pub(crate) fn function(&self, task: TaskKey) -> Option<u32> {
        self.tasks.get(task.index()).map(|task| task.function)
    }

    /// Whether any worker is ready now.
    pub(crate) fn any_ready(&self) -> bool {
        self.workers.iter().any(|(_, worker)| worker.phase == WorkerPhase::Ready)
    }

    /// Workers that hold several tasks and have not been heard of for a while. They may have answered without telling: the shell
    /// looks before the tick.
    pub(crate) fn stalled(&self, now: u64) -> Vec<WorkerKey> {
        let stalled = self.workers.iter().filter(|(_, worker)| worker.is_stalled(now));
        stalled.map(|(key, _)| WorkerKey(key as u32)).collect()
    }

    /// When a [`Event::Tick`] is due.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        let workers = self.workers.iter().filter_map(|(_, worker)| worker.next_tick()).min();
        let delayed = self.delayed.first().map(|&(due, _)| due);
        [workers, self.next_start(), self.next_age(), delayed].into_iter().flatten().min()
    }
}
