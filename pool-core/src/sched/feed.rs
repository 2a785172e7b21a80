//! How much work a worker gets: an idle one what there is, at once; a busy one some more when it has answered, by the observed
//! duration of the functions.

use super::{Action, FunctionStats, Phase, Scheduler, TaskState, WorkerPhase};
use crate::ids::{TaskKey, WorkerKey};
use crate::limits::{AHEAD_ALONE_NS, AHEAD_NS, FRAME_BYTES, ONE_AHEAD_NS, SLOTS};

/// What a task takes in a message beside its arguments, at most.
const RECORD_BYTES: u64 = 32;

impl Scheduler {
    /// Gives waiting tasks to idle workers.
    pub(super) fn feed_idle(&mut self, now: u64, out: &mut Vec<Action>) {
        while !self.queue.is_empty()
            && let Some(worker) = self.idle.pop()
        {
            self.feed(worker, now, out);
            if self.workers[worker.index()].leases.is_empty() {
                // the queue held only cancelled tasks
                self.idle.push(worker);
            }
        }
    }

    /// Gives a worker that has answered something its next tasks, or marks it as idle.
    pub(super) fn refill(&mut self, key: WorkerKey, now: u64, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(key.index()) else { return };
        let held = worker.leases.len();
        if held == 0 {
            self.after_lease_ended(key, now, out);
            self.feed_idle(now, out);
        } else if held <= 1 || (held <= SLOTS / 4 * 3 && worker.load_ns <= AHEAD_NS / 4 * 3) {
            self.feed(key, now, out);
        }
    }

    /// A worker without tasks becomes idle, or leaves if it has done its share.
    pub(super) fn after_lease_ended(&mut self, key: WorkerKey, now: u64, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(key.index()) else { return };
        if !worker.leases.is_empty() || worker.phase != WorkerPhase::Ready {
            return;
        }
        if self.is_worn(worker) {
            self.retire(key, now, out);
        } else if !self.idle.contains(&key) {
            self.workers[key.index()].idle_since = now;
            self.idle.push(key);
        }
    }

    /// Sends one message of tasks to a worker, as far as it may have more.
    fn feed(&mut self, key: WorkerKey, now: u64, out: &mut Vec<Action>) {
        if self.phase >= Phase::Stopping {
            return;
        }
        let worker = &self.workers[key.index()];
        if worker.phase != WorkerPhase::Ready || !worker.may_send() {
            return;
        }
        if worker.leases.is_empty() {
            self.workers[key.index()].last_progress = now;
        }
        // of much work, not what the others could begin at the same time
        let share = self.queue.len().div_ceil(self.workers.len());
        let (mut bytes, mut count) = (0, 0);
        while (count < share || self.workers[key.index()].load_ns <= AHEAD_ALONE_NS)
            && let Some(task) = self.next_queued()
        {
            let next = &self.tasks[task.index()];
            let (function, items) = (next.function, next.items);
            let big = next.is_big();
            // a big one comes behind its record, in pieces
            let size = RECORD_BYTES + if big { 0 } else { next.size() };
            let expected = self.expected_ns(function);
            if !self.may_have(key, big, expected)
                || (bytes > 0 && bytes + size > FRAME_BYTES as u64)
            {
                break;
            }
            self.queue.pop_front();
            self.tasks[task.index()].set_state(TaskState::Leased(key));
            let worker = &mut self.workers[key.index()];
            let lease = worker.hold(task, expected, big, items);
            out.push(Action::Lease { worker: key, task, lease });
            bytes += size;
            count += 1;
        }
        if bytes > 0 {
            self.workers[key.index()].has_sent(bytes);
            out.push(Action::Flush { worker: key });
        }
    }

    /// The first task that waits; cancelled ones before it are forgotten.
    #[inline]
    fn next_queued(&mut self) -> Option<TaskKey> {
        while let Some(task) = self.queue.front() {
            if self.tasks[task.index()].state() != TaskState::Dropped {
                return Some(task);
            }
            self.tasks.remove(task.index());
            self.queue.pop_front();
            self.dropped -= 1;
        }
        None
    }

    #[inline]
    fn may_have(&self, key: WorkerKey, big: bool, expected_ns: u64) -> bool {
        let worker = &self.workers[key.index()];
        if self.is_worn(worker) {
            return false;
        }
        match worker.leases.len() {
            0 => true,
            // a big one travels alone: the shared area has room for one
            _ if big || worker.leases[0].big => false,
            1 if worker.load_ns + expected_ns <= 2 * ONE_AHEAD_NS => true,
            held => held < SLOTS && worker.load_ns + expected_ns <= AHEAD_NS,
        }
    }

    #[inline]
    fn expected_ns(&mut self, function: u32) -> u64 {
        let function = function as usize;
        if function >= self.functions.len() {
            self.functions.resize(function + 1, FunctionStats::default());
        }
        self.functions[function].expected_ns()
    }
}
