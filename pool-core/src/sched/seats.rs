//! How many workers there are: seats are filled, added, closed; workers leave that are worn, or have nothing to do.

use super::worker::{Seat, Worker};
use super::{Action, Phase, Scheduler, Why, WorkerPhase};
use crate::error::PoolError;
use crate::ids::WorkerKey;
use crate::limits::{START_FAILURES, START_PATIENCE_NS};

impl Scheduler {
    /// From now on there are to be so many workers. Those of closed seats leave when they have done what they have begun.
    pub(super) fn on_resize(&mut self, workers: u32, now: u64, out: &mut Vec<Action>) {
        self.config.workers = workers;
        while self.seats.len() < workers as usize {
            self.seats.push(Seat::default());
        }
        for key in self.worker_keys() {
            if self.workers[key.index()].seat >= workers {
                self.wear_out(key, now, out);
            }
        }
    }

    /// This worker gets no further task, gives back what it has not begun, and leaves.
    pub(super) fn wear_out(&mut self, key: WorkerKey, now: u64, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(key.index()) else { return };
        worker.worn = true;
        if worker.phase == WorkerPhase::Starting || worker.leases.is_empty() {
            self.retire(key, now, out);
            return;
        }
        // in reverse, so that they keep their order at the front of the queue
        for held in worker.leases.iter().rev().filter(|held| !held.settled) {
            out.push(Action::TakeBack { worker: key, lease: held.lease, why: Why::Stalled });
        }
    }

    /// Whether a worker is to get no further tasks.
    pub(super) fn is_worn(&self, worker: &Worker) -> bool {
        worker.worn
            || worker.seat >= self.config.workers
            || self.config.max_tasks_per_child.is_some_and(|max| worker.items >= max)
    }

    /// Whether workers leave when they have done their share, so that others follow.
    pub(crate) fn has_shares(&self) -> bool {
        self.config.max_tasks_per_child.is_some()
    }

    /// Whether a worker has been given all that it is to do before it leaves.
    pub(crate) fn has_whole_share(&self, key: WorkerKey) -> bool {
        let whole = |max| self.workers.get(key.index()).is_some_and(|w| w.items >= max);
        self.config.max_tasks_per_child.is_some_and(whole)
    }

    /// Workers that are too old, and those that have been idle for too long.
    pub(super) fn on_ages(&mut self, now: u64, out: &mut Vec<Action>) {
        if let Some(max) = self.config.max_age_ns {
            for key in self.worker_keys() {
                let worker = &self.workers[key.index()];
                if worker.ages() && worker.ready_at.saturating_add(max) <= now {
                    self.wear_out(key, now, out);
                }
            }
        }
        let Some(timeout) = self.config.idle_timeout_ns else { return };
        // the first are those that have been idle for longest
        while self.occupied > self.config.least()
            && let Some(&key) = self.idle.first()
            && self.workers[key.index()].idle_since.saturating_add(timeout) <= now
        {
            self.retire(key, now, out);
        }
    }

    /// Whether there are such workers: then the next time to look changes when nothing else does.
    pub(crate) fn has_ages(&self) -> bool {
        self.config.max_age_ns.is_some() || self.config.idle_timeout_ns.is_some()
    }

    /// When [`on_ages`](Self::on_ages) has something to do.
    pub(super) fn next_age(&self) -> Option<u64> {
        let old = self.config.max_age_ns.and_then(|max| {
            let workers = self.workers.iter().map(|(_, worker)| worker);
            workers.filter(|w| w.ages()).map(|w| w.ready_at.saturating_add(max)).min()
        });
        let idle = self.config.idle_timeout_ns.and_then(|timeout| {
            let spare = self.occupied > self.config.least();
            let key = self.idle.first().filter(|_| spare)?;
            Some(self.workers[key.index()].idle_since.saturating_add(timeout))
        });
        [old, idle].into_iter().flatten().min()
    }

    /// Whether a submission may start a worker.
    pub(crate) fn is_elastic(&self) -> bool {
        self.config.min_workers.is_some()
    }

    pub(super) fn wants_workers(&self) -> bool {
        let room = self.occupied < self.config.workers as usize;
        room && match self.phase {
            Phase::Running => true,
            Phase::Draining => self.unfinished > 0,
            Phase::Stopping | Phase::Stopped => false,
        }
    }

    /// How many more workers there should be, seats and pauses aside.
    fn wanted(&self) -> usize {
        let least = self.config.least().saturating_sub(self.occupied);
        if self.queue.is_empty() {
            return least;
        }
        let starting = |worker: &Worker| worker.phase == WorkerPhase::Starting;
        let coming = self.workers.iter().filter(|(_, worker)| starting(worker)).count();
        least.max(self.queue.len().saturating_sub(coming + self.idle.len()))
    }

    pub(super) fn fill_seats(&mut self, now: u64, out: &mut Vec<Action>) {
        let room = (self.config.workers as usize).saturating_sub(self.occupied);
        let mut wanted = self.wanted().min(room);
        for (index, seat) in self.seats.iter_mut().take(self.config.workers as usize).enumerate() {
            if wanted > 0 && seat.worker.is_none() && seat.not_before <= now {
                let worker = WorkerKey(self.workers.insert(Worker::new(index as u32)) as u32);
                seat.worker = Some(worker);
                self.occupied += 1;
                self.counts.workers_started += 1;
                wanted -= 1;
                out.push(Action::Spawn { worker, seat: index as u32 });
            }
        }
    }

    /// When a seat may be filled that is to be.
    pub(super) fn next_start(&self) -> Option<u64> {
        if !self.wants_workers() || self.wanted() == 0 {
            return None;
        }
        let seats = self.seats.iter().take(self.config.workers as usize);
        seats.filter(|seat| seat.worker.is_none()).map(|seat| seat.not_before).min()
    }

    /// The worker does not sit there any more.
    pub(super) fn vacate(&mut self, index: usize, key: WorkerKey) -> bool {
        let seat = &mut self.seats[index];
        let sat = seat.worker == Some(key);
        if sat {
            seat.worker = None;
            self.occupied -= 1;
        }
        sat
    }

    pub(super) fn on_start_failed(&mut self, key: WorkerKey, error: &str, now: u64) {
        let Some(worker) = self.workers.try_remove(key.index()) else { return };
        if worker.dismissed {
            // it was not wanted any more before it was there
            self.vacate(worker.seat as usize, key);
            return;
        }
        if self.start_failures == 0 {
            self.failing_since = now;
        }
        self.start_failures += 1;
        let seat = worker.seat as usize;
        self.vacate(seat, key);
        self.seats[seat].back_off(now);
        let times = self.start_failures;
        let limit = START_FAILURES.max(2 * self.config.workers);
        let patient = self.ever_ready && now < self.failing_since + START_PATIENCE_NS;
        if times >= limit && !patient && !self.any_ready() && self.phase < Phase::Stopping {
            // a worker that exits in good order has nearly always run a program that does not know what it is
            let hint = if error.starts_with("exited") {
                "; call pool_core::init() first in main, or put pool_core::test_support!() into the test crate, and don't exit in an initializer"
            } else if error.ends_with("within the start timeout") {
                "; if its initializer takes that long, raise start_timeout"
            } else {
                ""
            };
            self.broken = Some(PoolError::StartFailed(format!(
                "workers ended before they were ready {times} times in a row (the last one {error}){hint}"
            )));
        }
    }

    /// A worker has ended by itself. Too many of them in too short a time break the pool.
    pub(super) fn count_loss(&mut self, now: u64) {
        let Some((max, within_ns)) = self.config.max_restarts else { return };
        self.losses.push_back(now);
        while self.losses.front().is_some_and(|&at| at.saturating_add(within_ns) < now) {
            self.losses.pop_front();
        }
        if self.losses.len() > max as usize && self.broken.is_none() {
            let within = std::time::Duration::from_nanos(within_ns);
            self.broken = Some(PoolError::Broken(format!(
                "{} workers ended by themselves within {within:?}, max_restarts allows {max}",
                self.losses.len()
            )));
        }
    }
}
