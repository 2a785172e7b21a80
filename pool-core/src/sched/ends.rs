//! What happens when a task ends, by a reply or otherwise, and when a worker does.

use super::{Action, Phase, Reply, Scheduler, Taken, Task, TaskState, Verdict, Why, WorkerPhase};
use crate::error::ExitCause;
use crate::ids::{Lease, TaskKey, WorkerKey};

impl Scheduler {
    /// Takes a reply in. [`Event::RepliesRead`](super::Event::RepliesRead) has to follow when all that are there have been told: what the worker does next is decided then.
    #[inline]
    pub(crate) fn reply(
        &mut self,
        key: WorkerKey,
        lease: Lease,
        elapsed_ns: u64,
        now: u64,
    ) -> Reply {
        let Some(worker) = self.workers.get_mut(key.index()) else { return Reply::Late };
        let Some(held) = worker.answered(lease) else { return Reply::Unknown };
        worker.last_progress = now;
        self.seats[worker.seat as usize].failures = 0;
        if held.settled {
            return Reply::Late;
        }
        let task = self.tasks.remove(held.task.index());
        // a worker that lies about the time only makes its own batches larger or smaller
        self.functions[task.function as usize].observe(elapsed_ns);
        self.count_settled();
        Reply::Settles { task: held.task, function: task.function }
    }

    pub(super) fn on_taken_back(
        &mut self,
        key: WorkerKey,
        lease: Lease,
        taken: Taken,
        why: Why,
        now: u64,
        out: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get_mut(key.index()) else { return };
        match taken {
            Taken::No => {}
            Taken::Revoked => {
                let Some(held) = worker.take_held(lease) else { return };
                if why != Why::Stalled {
                    self.settle(held.task, Verdict::Cancelled, out);
                } else {
                    self.requeue(held.task);
                }
                self.after_lease_ended(key, now, out);
                self.feed_idle(now, out);
            }
            Taken::Condemned => self.settle_started(key, lease, Verdict::Cancelled, out),
        }
    }

    pub(super) fn on_expired(&mut self, key: WorkerKey, lease: Lease, out: &mut Vec<Action>) {
        self.settle_started(key, lease, Verdict::TimedOut, out);
    }

    /// The task that a worker is running ends with its worker.
    fn settle_started(
        &mut self,
        key: WorkerKey,
        lease: Lease,
        verdict: Verdict,
        out: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get_mut(key.index()) else { return };
        let Some(held) = worker.leases.iter_mut().find(|h| h.lease == lease && !h.settled) else {
            return;
        };
        let task = held.task;
        if verdict == Verdict::TimedOut && self.tasks[task.index()].retries() > 0 {
            // tried again when the worker is gone
            held.expired = true;
            self.condemn(key, out);
            return;
        }
        held.settled = true;
        self.settle(task, verdict, out);
        self.condemn(key, out);
    }

    pub(super) fn on_gone(
        &mut self,
        key: WorkerKey,
        started: &[Lease],
        cause: ExitCause,
        now: u64,
        out: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get_mut(key.index()) else { return };
        if worker.dismissed {
            // it was not wanted any more before it was there
            let seat = worker.seat as usize;
            self.workers.remove(key.index());
            self.vacate(seat, key);
            return;
        }
        if !worker.was_ready {
            let error = if worker.late {
                "was not ready within the start timeout".to_owned()
            } else {
                cause.to_string()
            };
            return self.on_start_failed(key, &error, now);
        }
        self.worked_ns = self.worked_ns.saturating_add(worker.time(now));
        let leaving = worker.phase == WorkerPhase::Retiring || self.phase >= Phase::Stopping;
        let by_itself = worker.phase == WorkerPhase::Ready && !leaving;
        self.counts.workers_lost += u64::from(!leaving);
        let (seat, useless) = (worker.seat as usize, worker.tasks_done == 0 && started.is_empty());
        // in reverse, so that what goes back to the front of the queue keeps its order
        for held in std::mem::take(&mut worker.leases).into_iter().rev().filter(|h| !h.settled) {
            if started.contains(&held.lease) {
                self.after_loss(held.task, key, held.expired, now, out);
            } else {
                self.requeue(held.task);
            }
        }
        self.workers.remove(key.index());
        self.idle.retain(|&idle| idle != key);
        if self.vacate(seat, key) && useless {
            // it ended by itself, or was killed, before it did anything: not again at once
            self.seats[seat].back_off(now);
        }
        if by_itself {
            self.count_loss(now);
        }
        self.feed_idle(now, out);
    }

    /// A task whose worker is gone while running it is tried again, if that was asked for.
    fn after_loss(
        &mut self,
        key: TaskKey,
        worker: WorkerKey,
        expired: bool,
        now: u64,
        out: &mut Vec<Action>,
    ) {
        let task = &mut self.tasks[key.index()];
        task.rare().crashes += u32::from(!expired);
        let crashes = task.rare().crashes;
        if task.retries() == 0 {
            self.settle(key, Verdict::Lost(worker), out);
        } else if crashes >= self.config.crash_limit {
            self.settle(key, Verdict::Quarantined(crashes), out);
        } else {
            task.retry();
            self.counts.retried += 1;
            out.push(Action::Retried { task: key });
            match task.rare().pause_ns() {
                0 => self.requeue(key),
                pause => {
                    let due = now.saturating_add(pause);
                    task.set_state(TaskState::Delayed);
                    task.rare().due = due;
                    self.delayed.insert((due, key));
                }
            }
        }
    }

    pub(super) fn on_cancel(&mut self, key: TaskKey, why: Why, out: &mut Vec<Action>) {
        let Some(state) = self.tasks.get(key.index()).map(Task::state) else { return };
        match state {
            TaskState::Dropped => {}
            TaskState::Queued => {
                let task = &mut self.tasks[key.index()];
                task.set_state(TaskState::Dropped);
                let function = task.function;
                self.dropped += 1;
                self.settled(key, function, Verdict::Cancelled, out);
                self.sweep_queue();
            }
            TaskState::Delayed => {
                let due = self.tasks[key.index()].due();
                self.delayed.remove(&(due, key));
                self.settle(key, Verdict::Cancelled, out);
            }
            TaskState::Leased(worker) if self.is_condemned(worker) => {
                // its worker is being killed: it will not be started again
                self.workers[worker.index()].settle_held(key);
                self.settle(key, Verdict::Cancelled, out);
            }
            TaskState::Leased(_) => {
                if let Some((worker, lease)) = self.lease_of(key) {
                    out.push(Action::TakeBack { worker, lease, why });
                }
            }
        }
    }
}
