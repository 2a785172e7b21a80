//! Does what the scheduler wants.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Outcome;
use super::core::{Core, Effects, Payload, SpawnRequest};
use super::service::reply_token;
use crate::backend::process::link::Reading;
use crate::error::{ExitCause, TaskError, TaskInfo};
use crate::ids::{Lease, TaskKey, WorkerIndex, WorkerKey};
use crate::sched::{Action, Event, Phase, Taken, Verdict, Why};
use crate::sys::signal::GroupSignal;
use crate::transport::status::Progress;
use crate::transport::tasks::Unsent;
use crate::wire::to_worker::ToWorker;

impl Core {
    /// Does all that is to be done, and what follows from it.
    pub(super) fn perform(&mut self, now: u64, effects: &mut Effects) {
        let mut next = 0;
        let mut only_settled = true;
        while let Some(&action) = self.actions.get(next) {
            next += 1;
            only_settled &= matches!(action, Action::Settle { .. });
            self.act(action, now, effects);
        }
        self.actions.clear();
        if self.sched.phase() != self.phase {
            self.phase = self.sched.phase();
            effects.phase_changed = true;
            if self.phase == Phase::Stopped {
                // both threads of the pool end by this
                self.spawner = None;
                effects.hurry = true;
            }
        }
        if !only_settled {
            // if this is that thread, it is awake, and ringing does nothing
            let due = self.sched.next_tick().unwrap_or(u64::MAX).min(self.next_limit_check);
            if due < self.sleeps_until {
                self.sleeps_until = due;
                effects.hurry = true;
            }
        }
    }

    fn act(&mut self, action: Action, now: u64, effects: &mut Effects) {
        match action {
            Action::Spawn { worker, seat } => {
                if let Some(spawner) = &self.spawner {
                    // the receiver lives until this sender is dropped
                    let _ = spawner.send(SpawnRequest { worker, seat });
                }
            }
            Action::Lease { worker, task, lease } => self.lease(worker, task, lease, now),
            Action::Flush { worker } => self.flush(worker, now),
            Action::TakeBack { worker, lease, why } => {
                let taken = self.take_back(worker, lease, why);
                let event = Event::TakenBack { worker, lease, taken, why };
                self.sched.handle(event, now, &mut self.actions);
            }
            Action::Retire { worker } => {
                if let Some(link) = self.link_mut(worker) {
                    link.push(&ToWorker::Stop);
                    self.flush(worker, now);
                }
            }
            Action::Terminate { worker } => self.signal(worker, GroupSignal::Terminate),
            Action::Kill { worker } => self.signal(worker, GroupSignal::Kill),
            Action::Settle { task, verdict } => self.settle(task, verdict, effects),
        }
    }

    fn lease(&mut self, worker: WorkerKey, task: TaskKey, lease: Lease, now: u64) {
        let Some(body) = self.bodies.get(task.index()).and_then(Option::as_ref) else { return };
        let Some(link) = self.links.get_mut(worker.index()).and_then(Option::as_mut) else {
            return;
        };
        let attachments = &body.attachments;
        match &body.payload {
            Payload::Inline(input) => link.push_task(lease, body.callee, input, attachments),
            Payload::Big(input) => {
                link.push_big_task(lease, body.callee, input.clone(), attachments);
            }
        }
        if let Some(limit) = body.limit_ns {
            self.next_limit_check = self.next_limit_check.min(now.saturating_add(limit));
        }
    }

    pub(super) fn flush(&mut self, worker: WorkerKey, now: u64) {
        if !self.attended_next {
            self.unpark(worker);
        }
        let Some(link) = self.link_mut(worker) else { return };
        if link.flush() == Err(Unsent::Stuck) {
            link.violated = true;
            self.sched.handle(Event::Violated { worker }, now, &mut self.actions);
        }
    }

    /// Has the replies of a worker read by the pool's thread, unless somebody else reads them.
    pub(super) fn unpark(&mut self, worker: WorkerKey) {
        let watch = Arc::clone(&self.watch);
        if let Some(link) = self.link_mut(worker)
            && link.reading == Reading::Parked
            && watch.add(link.stream.as_fd(), reply_token(worker)).is_ok()
        {
            link.reading = Reading::Watched;
        }
    }

    fn take_back(&self, worker: WorkerKey, lease: Lease, why: Why) -> Taken {
        let Some(link) = self.link(worker) else { return Taken::No };
        if link.page.revoke(lease) {
            Taken::Revoked
        } else if why == Why::Cancelled
            && (link.page.condemn(lease) || link.page.progress(lease) == Progress::Scribbled)
        {
            Taken::Condemned
        } else {
            Taken::No
        }
    }

    /// A worker whose process is only being started is signalled when it is there.
    fn signal(&mut self, worker: WorkerKey, signal: GroupSignal) {
        if let Some(link) = self.link_mut(worker) {
            link.killed = true;
            link.signal(signal);
        }
    }

    fn settle(&mut self, task: TaskKey, verdict: Verdict, effects: &mut Effects) {
        let Some(body) = self.bodies.get_mut(task.index()).and_then(Option::take) else {
            return;
        };
        self.limited -= usize::from(body.limit_ns.is_some());
        let outcome: Outcome = match verdict {
            Verdict::Replied => self.reply.take().unwrap_or(Err(TaskError::Terminated)),
            Verdict::Lost(worker) => Err(self.lost(worker, body.info())),
            Verdict::TimedOut => Err(TaskError::TimedOut),
            Verdict::Cancelled => Err(TaskError::Cancelled),
            Verdict::Terminated => Err(TaskError::Terminated),
            Verdict::Broken => Err(match self.sched.broken() {
                Some(crate::PoolError::InitFailed(text)) => TaskError::InitFailed(text.clone()),
                Some(reason) => TaskError::PoolBroken(reason.to_string()),
                None => TaskError::Terminated,
            }),
        };
        effects.settled.push((body.slot, outcome));
        effects.garbage.push(body.payload);
        if !body.attachments.is_empty() {
            effects.released.push(body.attachments);
        }
    }

    /// The scheduler has forgotten the worker already; its link has not.
    fn lost(&self, worker: WorkerKey, task: TaskInfo) -> TaskError {
        let (seat, pid, cause) = match self.link(worker) {
            Some(link) => (link.seat, link.pid, link.cause.unwrap_or(ExitCause::Unknown)),
            None => (0, 0, ExitCause::Unknown),
        };
        TaskError::WorkerLost { worker: WorkerIndex(seat), pid, cause, task }
    }
}
