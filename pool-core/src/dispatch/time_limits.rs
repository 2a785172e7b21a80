//! Time limits of tasks, counted from when they were started. At the soft one the task is told, at the hard one its worker is killed.

use super::core::{Core, Effects};
use crate::backend::Link;
use crate::ids::{Lease, WorkerKey};
use crate::sched::Event;
use crate::transport::status::Progress;

/// How soon to look again for the start of a task with a time limit.
pub(super) const LOOK_NS: u64 = 1_000_000;

/// The limits of one task, from its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimeLimits {
    pub(super) soft_ns: Option<u64>,
    pub(super) hard_ns: Option<u64>,
}

impl TimeLimits {
    /// The time until the first of them.
    pub(super) fn first(self) -> Option<u64> {
        [self.soft_ns, self.hard_ns].into_iter().flatten().min()
    }

    pub(super) fn any(self) -> bool {
        self.first().is_some()
    }
}

impl Core {
    /// Acts on the limits that are over, and finds out when to look again.
    pub(super) fn check_limits(&mut self, now: u64, effects: &mut Effects) {
        self.next_limit_check = u64::MAX;
        let workers: Vec<_> = self.sched.workers().iter().map(|(key, _)| *key).collect();
        for worker in workers {
            self.check_still(worker, now, effects);
            if let Some((lease, limits)) = self.first_limited(worker) {
                let look = self.check_limit(worker, lease, limits, now, effects);
                self.next_limit_check = self.next_limit_check.min(look);
            }
        }
    }

    /// When to look at this task again.
    fn check_limit(
        &mut self,
        worker: WorkerKey,
        lease: Lease,
        limits: TimeLimits,
        now: u64,
        effects: &mut Effects,
    ) -> u64 {
        let Some(link) = self.link(worker) else { return u64::MAX };
        let page = link.page();
        let started = match page.progress(lease) {
            // the worker's word for its start is taken only as far as it is possible
            Progress::Started { at_ns } => at_ns.min(now),
            Progress::Scribbled => 0,
            Progress::Queued | Progress::Over => {
                let soon = limits.first().unwrap_or(LOOK_NS).min(LOOK_NS);
                return now.saturating_add(soon);
            }
        };
        let excused = self.excused_since(started);
        let due = |limit: u64| started.saturating_add(limit).saturating_add(excused);
        let soft = limits.soft_ns.map(due).filter(|_| !page.is_end_wished(lease));
        if soft.is_some_and(|due| due <= now) {
            page.wish_end(lease);
        }
        let soft = soft.filter(|&due| due > now).unwrap_or(u64::MAX);
        let Some(hard) = limits.hard_ns.map(due) else { return soft };
        if hard > now {
            return soft.min(hard);
        }
        if let Link::Process(link) = link
            && !link.page.condemn(lease)
            && link.page.progress(lease) != Progress::Scribbled
        {
            // it has just finished: the next one is looked at soon
            return now.saturating_add(LOOK_NS);
        }
        self.keep_output(worker, lease);
        self.event(Event::Expired { worker, lease }, now, effects);
        u64::MAX
    }

    /// The task that a worker is running, or will run first, if it has a time limit.
    fn first_limited(&self, worker: WorkerKey) -> Option<(Lease, TimeLimits)> {
        let page = self.link(worker)?.page();
        let mut order = self.sched.worker(worker)?.running_order();
        order.find_map(|(task, lease)| {
            let limits = self.bodies.get(task.index())?.as_ref()?.limits();
            (limits.any() && page.progress(lease) != Progress::Over).then_some((lease, limits))
        })
    }
}
