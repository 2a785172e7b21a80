//! What a pool can tell about itself.

use super::Pool;
use crate::dispatch::Times;
use crate::error::TaskInfo;
use crate::ids::WorkerIndex;
use crate::sched::WorkerPhase;
use crate::transport::status::Progress;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its process is being started or runs the initializer.
    Starting,
    /// It waits for a task.
    Idle,
    /// It has tasks.
    Busy,
    /// It was asked to leave, or was killed.
    Stopping,
}

/// One worker, as it was when [`Pool::workers`] was called.
#[derive(Clone, Debug)]
pub struct WorkerInfo {
    index: WorkerIndex,
    pid: u32,
    state: WorkerState,
    current_task: Option<TaskInfo>,
    tasks_done: u64,
}

impl WorkerInfo {
    /// Its seat: a replacement has the same.
    #[must_use]
    pub fn index(&self) -> WorkerIndex {
        self.index
    }

    /// Its process id; 0 as long as the process is being started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.state
    }

    /// The task that it is running.
    #[must_use]
    pub fn current_task(&self) -> Option<&TaskInfo> {
        self.current_task.as_ref()
    }

    /// How many tasks this process has answered.
    #[must_use]
    pub fn tasks_done(&self) -> u64 {
        self.tasks_done
    }
}

/// Counts of a pool, as they were when [`Pool::stats`] was called.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks taken in. A chunk of a map is one.
    pub submitted: u64,
    /// Tasks that have a result or have failed, whatever the reason.
    pub finished: u64,
    /// Tasks that no worker has got yet.
    pub queued: u64,
    /// Tasks that workers have, running or next.
    pub leased: u64,
    /// Tasks started again because their worker died or their time was up.
    pub retried: u64,
    /// Workers started.
    pub workers_started: u64,
    /// Workers that ended without being asked to, or were killed because of a task.
    pub workers_lost: u64,
    /// How long answered tasks have run, by their workers' account.
    pub run_time: Times,
    /// How long answered tasks have taken besides that, from submission to result: mostly waiting for a worker. Of tasks that were submitted when eight or more were unfinished, one
    /// in eight is observed.
    pub wait_time: Times,
    /// Which part of the time in which workers were ready or busy they have run tasks: from 0 to 1.
    pub utilisation: f64,
}

impl Pool {
    /// The workers, in the order of their seats. Includes those that are starting or leaving.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(2)?;
    /// let pids: Vec<u32> = pool.workers().iter().map(|worker| worker.pid()).collect();
    /// assert_eq!(pids.len(), 2);
    /// assert!(pids.contains(&pool.apply(std::process::id, ())?));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let core = self.shared().lock();
        let describe = |&(key, worker): &(_, &crate::sched::Worker)| {
            let link = core.link(key);
            let running = worker.running_order().find(|(_, lease)| {
                link.is_some_and(|link| {
                    matches!(link.page().progress(*lease), Progress::Started { .. })
                })
            });
            WorkerInfo {
                index: WorkerIndex(worker.seat),
                pid: link.map_or(0, |link| link.pid()),
                state: match worker.phase {
                    WorkerPhase::Starting => WorkerState::Starting,
                    WorkerPhase::Ready if worker.is_busy() => WorkerState::Busy,
                    WorkerPhase::Ready => WorkerState::Idle,
                    WorkerPhase::Retiring | WorkerPhase::Condemned => WorkerState::Stopping,
                },
                current_task: running.and_then(|(task, _)| core.task_info(task)),
                tasks_done: worker.tasks_done,
            }
        };
        core.sched.workers().iter().map(describe).collect()
    }

    /// Counts since the pool was built.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let core = self.shared().lock();
        let counts = core.sched.counts();
        let queued = core.sched.queued() as u64;
        let (run_time, wait_time, utilisation) = core.times();
        Stats {
            run_time,
            wait_time,
            utilisation,
            submitted: counts.submitted,
            finished: counts.settled,
            queued,
            leased: core.sched.unfinished() as u64 - queued,
            retried: counts.retried,
            workers_started: counts.workers_started,
            workers_lost: counts.workers_lost,
        }
    }
}
