//! How workers are made to leave: one that is asked, one that is killed, all of them.

use super::{Action, Phase, Scheduler, TaskState, Verdict, WorkerPhase};
use crate::ids::{TaskKey, WorkerKey};
use crate::limits::RETIRE_NS;

impl Scheduler {
    /// Asks a worker to leave; one that is only starting is killed.
    pub(super) fn retire(&mut self, key: WorkerKey, now: u64, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(key.index()) else { return };
        match worker.phase {
            WorkerPhase::Ready => {
                worker.phase = WorkerPhase::Retiring;
                worker.deadline = Some(now + RETIRE_NS);
                let seat = worker.seat as usize;
                self.vacate(seat, key);
                self.idle.retain(|&idle| idle != key);
                out.push(Action::Retire { worker: key });
            }
            WorkerPhase::Starting => {
                worker.dismissed = true;
                self.condemn(key, out);
            }
            WorkerPhase::Retiring | WorkerPhase::Condemned => {}
        }
    }

    /// Kills a worker; its other tasks are looked after when it is gone.
    pub(super) fn condemn(&mut self, key: WorkerKey, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(key.index()) else { return };
        if worker.phase != WorkerPhase::Condemned {
            worker.phase = WorkerPhase::Condemned;
            self.idle.retain(|&idle| idle != key);
            out.push(Action::Kill { worker: key });
        }
    }

    /// Stops everything now.
    pub(super) fn stop(
        &mut self,
        verdict: &Verdict,
        grace_ns: u64,
        now: u64,
        out: &mut Vec<Action>,
    ) {
        if self.phase >= Phase::Stopping && self.tasks.is_empty() && self.idle.is_empty() {
            // only the children are left: a second call may be in more of a hurry
            self.hurry(now.saturating_add(grace_ns), out);
            return;
        }
        self.phase = self.phase.max(Phase::Stopping);
        self.queue.clear();
        self.delayed.clear();
        self.dropped = 0;
        let tasks: Vec<_> = self.tasks.iter().map(|(key, task)| (key, task.state())).collect();
        for (key, state) in tasks {
            let key = TaskKey(key as u32);
            if state == TaskState::Dropped {
                self.tasks.remove(key.index());
            } else {
                self.settle(key, *verdict, out);
            }
        }
        self.idle.clear();
        self.hurry(now.saturating_add(grace_ns), out);
    }

    fn hurry(&mut self, deadline: u64, out: &mut Vec<Action>) {
        for (key, worker) in &mut self.workers {
            worker.leases.iter_mut().for_each(|held| held.settled = true);
            let known = worker.deadline.is_some_and(|known| known <= deadline);
            if worker.phase != WorkerPhase::Condemned {
                out.push(Action::Terminate { worker: WorkerKey(key as u32) });
                worker.phase = WorkerPhase::Condemned;
            }
            if !known {
                worker.deadline = Some(deadline);
            }
        }
    }
}
