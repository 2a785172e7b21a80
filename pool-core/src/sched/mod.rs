//! The scheduler: which task goes to which worker, what happens when something ends. Pure: state plus [`Event`] in, [`Action`]s
//! out. It has no thread, does no I/O and never reads a clock: the time comes with each event, in nanoseconds.
//!
//! ```text
//! pool     Running ─close─▶ Draining ─all done─▶ Stopping ─all gone─▶ Stopped      (terminate, break: straight to Stopping)
//! worker   Starting ─▶ Ready ─▶ Retiring ─▶ gone         (Condemned: killed, to be gone soon)
//! task     Queued ─▶ Leased ─▶ settled once              (back to Queued if its worker died before it was started)
//! ```

mod ends;
mod excuse;
mod feed;
#[cfg(test)]
mod growth_tests;
mod queries;
mod queue;
mod seats;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod simulate;
mod stop;
mod task;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeSet, VecDeque};

use slab::Slab;

use crate::error::{ExitCause, PoolError};
use crate::ids::{Lease, TaskKey, WorkerKey};
use queue::Queue;
use task::{FunctionStats, Task, TaskState};
pub(crate) use task::{Spec, Verdict};
use worker::Seat;
pub(crate) use worker::{Worker, WorkerPhase};

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The process has been started: from now on it may take only so long until it is ready.
    Spawned { worker: WorkerKey },
    /// The worker has said hello and run the initializer.
    Ready { worker: WorkerKey },
    /// The process could not be started; the text says why.
    SpawnFailed { worker: WorkerKey, error: &'a str },
    /// The worker, or the program, can't be used at all.
    Refused { reason: PoolError },
    /// All replies that were there have been told, each by [`Scheduler::reply`].
    RepliesRead { worker: WorkerKey },
    /// The answer to [`Action::TakeBack`].
    TakenBack { worker: WorkerKey, lease: Lease, taken: Taken, why: Why },
    /// The task has run for longer than it may, and can't finish any more.
    Expired { worker: WorkerKey, lease: Lease },
    /// The worker has broken the protocol.
    Violated { worker: WorkerKey },
    /// The process has ended and everything that it had answered has been told. `started` are the leases that it had begun.
    Gone { worker: WorkerKey, started: &'a [Lease], cause: ExitCause },
    /// The worker takes more memory than it may: another one takes its seat when it has done what it has begun.
    Outgrown { worker: WorkerKey },
    /// From now on there are to be so many workers.
    Resize { workers: u32 },
    /// The user wants this task to end.
    Cancel { task: TaskKey },
    /// The user wishes that a task comes to an end: it is cancelled if it has not been started, and only told so otherwise.
    Ask { task: TaskKey },
    /// No more tasks will come.
    Close,
    /// Stop everything; children get `grace_ns` from SIGTERM to SIGKILL.
    Terminate { grace_ns: u64 },
    /// Time has passed.
    Tick,
}

/// What the shell has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process.
    Spawn { worker: WorkerKey, seat: u32 },
    /// Add a task to the worker's next message.
    Lease { worker: WorkerKey, task: TaskKey, lease: Lease },
    /// Send the worker's message.
    Flush { worker: WorkerKey },
    /// Try to take a task back, and report with [`Event::TakenBack`].
    TakeBack { worker: WorkerKey, lease: Lease, why: Why },
    /// Ask the worker to leave.
    Retire { worker: WorkerKey },
    /// SIGTERM to its group.
    Terminate { worker: WorkerKey },
    /// SIGKILL to its group.
    Kill { worker: WorkerKey },
    /// The task waits to be started again: to be told to observers.
    Retried { task: TaskKey },
    /// Tell the task's handle, unless a [reply](Reply::Settles) has: exactly once per task.
    Settle { task: TaskKey, function: u32, verdict: Verdict },
}

/// What a reply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The end of this task, whose handle is to be told.
    Settles { task: TaskKey, function: u32 },
    /// The end of a task whose handle was told before.
    Late,
    /// Nobody gave the worker this task.
    Unknown,
}

/// Why a task is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Others may have time for it.
    Stalled,
    /// The user does not want it any more.
    Cancelled,
    /// The user does not want it any more, but it may go on if it runs.
    Asked,
}

/// How taking back went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It will not be started.
    Revoked,
    /// It is running, and can't finish any more: the worker has to be killed. Only for [`Why::Cancelled`].
    Condemned,
    /// Neither: it runs or has finished.
    No,
}

/// Where the pool stands. Never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    Draining,
    Stopping,
    Stopped,
}

/// What the user has decided.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// At most so many. Changed by [`Event::Resize`].
    pub(crate) workers: u32,
    /// So many are there in any case; more if there is work for them. `None`: all.
    pub(crate) min_workers: Option<u32>,
    /// How long the others wait for work before they leave.
    pub(crate) idle_timeout_ns: Option<u64>,
    pub(crate) max_tasks_per_child: Option<u64>,
    pub(crate) max_age_ns: Option<u64>,
    pub(crate) start_timeout_ns: u64,
    /// How many workers a task may cost before it is not tried again.
    pub(crate) crash_limit: u32,
    /// How many workers may end by themselves within a time.
    pub(crate) max_restarts: Option<(u32, u64)>,
}

impl Config {
    /// How many workers there are in any case.
    fn least(&self) -> usize {
        self.min_workers.map_or(self.workers, |least| least.min(self.workers)) as usize
    }
}

/// How many of what, since the pool was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) submitted: u64,
    pub(crate) settled: u64,
    pub(crate) retried: u64,
    pub(crate) workers_started: u64,
    pub(crate) workers_lost: u64,
}

/// Fewer cancelled tasks are not worth looking through the queue.
const SWEEP: usize = 64;

/// The state. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Scheduler {
    config: Config,
    phase: Phase,
    tasks: Slab<Task>,
    /// In order of execution. Holds cancelled tasks until their turn comes.
    queue: Queue,
    /// Tasks that are tried again after a pause.
    delayed: BTreeSet<(u64, TaskKey)>,
    /// Cancelled tasks in the queue.
    dropped: usize,
    unfinished: usize,
    workers: Slab<Worker>,
    /// Ready workers without a task, the last used on top: its caches are warm.
    idle: Vec<WorkerKey>,
    seats: Vec<Seat>,
    /// Seats that have a worker.
    occupied: usize,
    functions: Vec<FunctionStats>,
    start_failures: u32,
    /// When the first of these happened.
    failing_since: u64,
    ever_ready: bool,
    broken: Option<PoolError>,
    /// When workers have ended by themselves, as far as that counts.
    losses: VecDeque<u64>,
    counts: Counts,
    /// The time, ready or busy, of workers that are gone.
    worked_ns: u64,
}

impl Scheduler {
    /// A running pool without workers yet: the first event starts them.
    pub(crate) fn new(config: Config) -> Scheduler {
        let seats = (0..config.workers).map(|_| Seat::default()).collect();
        Scheduler {
            config,
            phase: Phase::Running,
            tasks: Slab::new(),
            queue: Queue::default(),
            delayed: BTreeSet::new(),
            dropped: 0,
            unfinished: 0,
            workers: Slab::new(),
            idle: Vec::new(),
            seats,
            occupied: 0,
            functions: Vec::new(),
            start_failures: 0,
            failing_since: 0,
            ever_ready: false,
            broken: None,
            losses: VecDeque::new(),
            counts: Counts::default(),
            worked_ns: 0,
        }
    }

    /// Takes a task in. The caller has looked at [`Scheduler::phase`]: only a running pool takes tasks.
    #[inline]
    pub(crate) fn submit(&mut self, spec: Spec, now: u64, out: &mut Vec<Action>) -> TaskKey {
        debug_assert_eq!(self.phase, Phase::Running, "checked by the caller");
        let key = TaskKey(self.tasks.insert(Task::new(spec)) as u32);
        self.unfinished += 1;
        self.counts.submitted += 1;
        self.queue.push_back(spec.priority, key);
        self.feed_idle(now, out);
        if !self.queue.is_empty() && self.wants_workers() {
            self.fill_seats(now, out);
        }
        key
    }

    /// Changes the state by an event; what is to be done is appended to `out`.
    pub(crate) fn handle(&mut self, event: Event<'_>, now: u64, out: &mut Vec<Action>) {
        match event {
            Event::Spawned { worker } => self.on_spawned(worker, now),
            Event::Ready { worker } => self.on_ready(worker, now, out),
            Event::SpawnFailed { worker, error } => self.on_start_failed(worker, error, now),
            Event::Refused { reason } => self.on_refused(reason, now, out),
            Event::RepliesRead { worker } => self.refill(worker, now, out),
            Event::TakenBack { worker, lease, taken, why } => {
                self.on_taken_back(worker, lease, taken, why, now, out);
            }
            Event::Expired { worker, lease } => self.on_expired(worker, lease, out),
            Event::Violated { worker } => self.condemn(worker, out),
            Event::Outgrown { worker } => self.wear_out(worker, now, out),
            Event::Resize { workers } => self.on_resize(workers, now, out),
            Event::Gone { worker, started, cause } => {
                self.on_gone(worker, started, cause, now, out)
            }
            Event::Cancel { task } => self.on_cancel(task, Why::Cancelled, out),
            Event::Ask { task } => self.on_cancel(task, Why::Asked, out),
            Event::Close => self.phase = self.phase.max(Phase::Draining),
            Event::Terminate { grace_ns } => self.stop(&Verdict::Terminated, grace_ns, now, out),
            Event::Tick => self.on_tick(now, out),
        }
        self.settle_phase(now, out);
    }

    fn on_spawned(&mut self, key: WorkerKey, now: u64) {
        if let Some(worker) = self.workers.get_mut(key.index())
            && worker.phase == WorkerPhase::Starting
        {
            worker.deadline = Some(now.saturating_add(self.config.start_timeout_ns));
        }
    }

    fn on_ready(&mut self, key: WorkerKey, now: u64, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(key.index()) else { return };
        if worker.phase != WorkerPhase::Starting {
            return;
        }
        worker.phase = WorkerPhase::Ready;
        worker.was_ready = true;
        worker.last_progress = now;
        worker.ready_at = now;
        worker.idle_since = now;
        worker.deadline = None;
        self.start_failures = 0;
        self.ever_ready = true;
        self.seats[worker.seat as usize].was_ready = true;
        self.idle.push(key);
        self.feed_idle(now, out);
    }

    fn on_refused(&mut self, reason: PoolError, now: u64, out: &mut Vec<Action>) {
        if self.phase < Phase::Stopping {
            self.broken = Some(reason);
            self.stop(&Verdict::Broken, 0, now, out);
        }
    }

    fn on_tick(&mut self, now: u64, out: &mut Vec<Action>) {
        while let Some(&(due, task)) = self.delayed.first().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, task));
            self.requeue(task);
        }
        self.feed_idle(now, out);
        self.on_ages(now, out);
        let several = self.workers.len() > 1;
        for (key, worker) in &mut self.workers {
            let key = WorkerKey(key as u32);
            if worker.deadline.is_some_and(|deadline| deadline <= now) {
                worker.deadline = None;
                if worker.phase == WorkerPhase::Starting {
                    worker.late = true;
                } else {
                    worker.phase = WorkerPhase::Condemned;
                }
                out.push(Action::Kill { worker: key });
            }
            if !worker.is_stalled(now) {
                continue;
            }
            worker.last_progress = now;
            if several {
                // in reverse, so that they keep their order at the front of the queue; the first one is running
                for held in worker.leases.iter().skip(1).rev().filter(|held| !held.settled) {
                    let lease = held.lease;
                    out.push(Action::TakeBack { worker: key, lease, why: Why::Stalled });
                }
            }
        }
    }

    /// What follows from the new state: the pool's next phase, and processes to be started.
    fn settle_phase(&mut self, now: u64, out: &mut Vec<Action>) {
        if self.broken.is_some() && self.phase < Phase::Stopping {
            self.stop(&Verdict::Broken, 0, now, out);
        }
        if self.phase == Phase::Draining && self.unfinished == 0 {
            self.phase = Phase::Stopping;
            for key in self.worker_keys() {
                self.retire(key, now, out);
            }
        }
        if self.phase == Phase::Stopping && self.workers.is_empty() {
            self.phase = Phase::Stopped;
        }
        if self.wants_workers() {
            self.fill_seats(now, out);
        }
    }

    fn worker_keys(&self) -> Vec<WorkerKey> {
        self.workers.iter().map(|(key, _)| WorkerKey(key as u32)).collect()
    }

    fn is_condemned(&self, key: WorkerKey) -> bool {
        self.workers[key.index()].phase == WorkerPhase::Condemned
    }

    /// Cancelled tasks leave the queue when they are most of it.
    fn sweep_queue(&mut self) {
        if self.dropped < SWEEP || self.dropped <= self.queue.len() / 2 {
            return;
        }
        let tasks = &mut self.tasks;
        self.queue.retain(|key| {
            let stays = tasks[key.index()].state() != TaskState::Dropped;
            if !stays {
                tasks.remove(key.index());
            }
            stays
        });
        self.dropped = 0;
    }

    fn requeue(&mut self, key: TaskKey) {
        let task = &mut self.tasks[key.index()];
        task.set_state(TaskState::Queued);
        self.queue.push_front(task.priority(), key);
    }

    /// Settles a task that is not in the queue, and forgets it.
    fn settle(&mut self, key: TaskKey, verdict: Verdict, out: &mut Vec<Action>) {
        let Task { function, .. } = self.tasks.remove(key.index());
        self.settled(key, function, verdict, out);
    }

    fn settled(&mut self, task: TaskKey, function: u32, verdict: Verdict, out: &mut Vec<Action>) {
        self.count_settled();
        out.push(Action::Settle { task, function, verdict });
    }

    fn count_settled(&mut self) {
        self.unfinished -= 1;
        self.counts.settled += 1;
    }
}
