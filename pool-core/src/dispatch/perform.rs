//! Does what the scheduler wants.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Core, Effects, SpawnRequest};
use super::service::reply_token;
use super::task::{Body, Payload};
use crate::backend::Link;
use crate::backend::process::link::{BigInput, Reading};
use crate::error::{ExitCause, TaskError, TaskInfo};
use crate::events::PoolEvent;
use crate::ids::{Lease, TaskKey, WorkerIndex, WorkerKey};
use crate::sched::{Action, Event, Phase, Taken, Verdict, Why};
use crate::sys::cache::prefetch;
use crate::sys::failpoint;
use crate::sys::signal::GroupSignal;
use crate::task::job::Outcome;
use crate::transport::status::Progress;
use crate::transport::tasks::Unsent;
use crate::wire::to_worker::ToWorker;

/// A task is fetched from memory so many leases before its own: among very many, each lies elsewhere.
const FETCHED_AHEAD: usize = 8;

impl Core {
    /// Does all that is to be done, and what follows from it.
    pub(super) fn perform(&mut self, now: u64, effects: &mut Effects) {
        let mut next = 0;
        let mut only_settled = true;
        while let Some(&action) = self.actions.get(next) {
            if let Some(Action::Lease { task, .. }) = self.actions.get(next + FETCHED_AHEAD) {
                self.fetch(*task);
            }
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
                effects.tagger = self.tagger.take();
                effects.hurry = true;
            }
        }
        if !only_settled || self.sched.has_ages() {
            self.wake_in_time(effects);
        }
    }

    /// Has a task fetched from memory that will be needed soon.
    #[inline]
    fn fetch(&self, task: TaskKey) {
        if let Some(body) = self.bodies.get(task.index()) {
            prefetch(body);
        }
    }

    /// The pool's thread is to be woken if it would sleep longer than until the next timer.
    pub(super) fn wake_in_time(&mut self, effects: &mut Effects) {
        // if this is that thread, it is awake, and ringing does nothing
        let due = self.sched.next_tick().unwrap_or(u64::MAX).min(self.next_limit_check);
        if due < self.sleeps_until {
            self.sleeps_until = due;
            effects.hurry = true;
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
            Action::Retire { worker } => self.retire(worker, now),
            Action::Terminate { worker } => self.signal(worker, GroupSignal::Terminate),
            Action::Kill { worker } => self.kill(worker, now, effects),
            Action::Retried { task } => {
                if let Some(body) = self.bodies.get(task.index()).and_then(Option::as_ref) {
                    body.slot().forget_output();
                }
                if let Some(task) = self.task_info(task) {
                    self.tell(|| PoolEvent::TaskRetried { task });
                }
            }
            Action::Settle { task, function, verdict } => {
                self.settle(task, function, verdict, effects);
            }
        }
    }

    fn lease(&mut self, worker: WorkerKey, task: TaskKey, lease: Lease, now: u64) {
        let Some(body) = self.bodies.get(task.index()).and_then(Option::as_ref) else { return };
        let Some(link) = self.links.get_mut(worker.index()).and_then(Option::as_mut) else {
            return;
        };
        failpoint::with("parent.lease", link.pid());
        let Some(function) = self.sched.function(task) else { return };
        link.page().announce(lease, body.id());
        let (awaited, callee) = (body.is_awaited(), self.functions.callee(function));
        if let Some(observer) = &mut self.observer {
            let (worker, pid) = (WorkerIndex(link.seat()), link.pid());
            let task = body.info(function, &self.functions);
            observer.tell(PoolEvent::TaskStarted { task, worker, pid });
        }
        match (link, &body.payload) {
            (Link::Process(link), Payload::Inline(input)) => {
                link.push_task(lease, callee, input, body.attachments());
            }
            (Link::Process(link), Payload::Big(input)) => {
                let input = BigInput::Encoded(Arc::clone(input));
                link.push_big_task(lease, callee, input, body.attachments());
            }
            (Link::Process(link), Payload::Lent(numbers)) => {
                let input = BigInput::Numbers(numbers.clone());
                link.push_big_task(lease, callee, input, body.attachments());
            }
            (Link::Thread(link), Payload::Direct(job)) => link.push_task(lease, Arc::clone(job)),
            (Link::Process(_), Payload::Direct(_)) | (Link::Thread(_), _) => {
                debug_assert!(false, "a pool's tasks are made for its kind of workers");
            }
        }
        if let Some(limit) = body.limits().first() {
            self.next_limit_check = self.next_limit_check.min(now.saturating_add(limit));
        }
        if awaited {
            self.hasten(worker);
        }
    }

    pub(super) fn flush(&mut self, worker: WorkerKey, now: u64) {
        if !self.attended_next {
            self.unpark(worker);
        }
        // it has nothing to wait for when it has done its share, so it is told with the last task
        let is_last = self.settings.finalizer.is_none() && self.sched.has_whole_share(worker);
        match self.link_mut(worker) {
            Some(Link::Process(link)) => {
                if is_last && link.has_pushed_all() {
                    link.push_stop();
                }
                failpoint::with("parent.send", link.pid);
                link.violated |= link.flush() == Err(Unsent::Stuck);
                failpoint::with("parent.sent", link.pid);
                if link.violated {
                    self.sched.handle(Event::Violated { worker }, now, &mut self.actions);
                }
            }
            Some(Link::Thread(link)) => link.flush(),
            None => {}
        }
    }

    fn retire(&mut self, worker: WorkerKey, now: u64) {
        let settings = Arc::clone(&self.settings);
        match self.link_mut(worker) {
            Some(Link::Process(link)) => {
                if let Some((callee, input, attachments)) = &settings.finalizer {
                    link.push_attachments(attachments);
                    link.push(&ToWorker::Finalize { callee: *callee, input });
                    link.finalizing = true;
                }
                failpoint::with("parent.retire", link.pid);
                link.push_stop();
                self.flush(worker, now);
            }
            Some(Link::Thread(link)) => link.stop(),
            None => {}
        }
    }

    /// Has the replies of a worker read by the pool's thread, unless somebody else reads them.
    pub(super) fn unpark(&mut self, worker: WorkerKey) {
        let watch = Arc::clone(&self.watch);
        let Some(link) = self.process_mut(worker).filter(|link| link.reading == Reading::Parked)
        else {
            return;
        };
        if watch.add(link.stream.as_fd(), reply_token(worker)).is_err() {
            // nobody could hear it any more: its end is heard
            link.signal(GroupSignal::Kill);
            return;
        }
        link.reading = Reading::Watched;
        self.listen(worker);
    }

    /// The replies of this worker ring the bell again, unless somebody looks by himself.
    pub(super) fn listen(&mut self, worker: WorkerKey) {
        let many_wait = !self.sched.is_starved();
        if let Some(link) = self.process_mut(worker)
            && let Some(need) = link.bell(many_wait)
            && !link.reader.listen(need)
        {
            // what lies there already rings no bell
            self.read_again(worker);
            self.hurry = true;
        }
    }

    /// The pool's thread reads the worker at its next turn.
    pub(super) fn read_again(&mut self, worker: WorkerKey) {
        if !self.unread.contains(&worker) {
            self.unread.push(worker);
        }
    }

    fn take_back(&self, worker: WorkerKey, lease: Lease, why: Why) -> Taken {
        let Some(link) = self.link(worker) else { return Taken::No };
        failpoint::with("parent.take-back", link.pid());
        if link.page().revoke(lease) {
            return Taken::Revoked;
        }
        match (link, why) {
            (Link::Process(link), Why::Cancelled)
                if link.page.condemn(lease) || link.page.progress(lease) == Progress::Scribbled =>
            {
                Taken::Condemned
            }
            (_, Why::Asked) | (Link::Thread(_), Why::Cancelled) => {
                // nobody ends it, but its task may look
                link.page().wish_end(lease);
                Taken::No
            }
            _ => Taken::No,
        }
    }

    /// A worker that is only being started is signalled when it is there.
    fn signal(&mut self, worker: WorkerKey, signal: GroupSignal) {
        if let Some(Link::Thread(link)) = self.link(worker)
            && let Some(worker) = self.sched.worker(worker)
        {
            // its tasks can only be asked
            worker.leases().for_each(|lease| link.port.page.wish_end(lease));
        }
        match self.link_mut(worker) {
            Some(Link::Process(link)) => {
                link.killed = true;
                failpoint::with("parent.signal", link.pid);
                link.signal(signal);
            }
            Some(Link::Thread(link)) => link.abandon(),
            None => {}
        }
    }

    /// Sends a signal that ends nobody to all workers that are processes.
    pub(crate) fn signal_all(&self, signal: GroupSignal) {
        let links = self.links.iter().flatten();
        links.filter_map(Link::as_process).for_each(|link| link.signal(signal));
    }

    /// A process ends by it, which its pidfd will tell. A thread that has not ended by now is given up: it ends when its task does.
    fn kill(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        self.signal(worker, GroupSignal::Kill);
        if let Some(Link::Thread(link)) = self.link_mut(worker) {
            drop(link.thread.take());
            // not by `event`, which would perform what is being performed from its beginning
            let started = self.before_thread_gone(worker, effects);
            let event = Event::Gone { worker, started: &started, cause: ExitCause::Unknown };
            self.sched.handle(event, now, &mut self.actions);
            self.links[worker.index()] = None;
        }
    }

    /// Tells the handles of tasks that the scheduler has settled, after a panic before they were told.
    pub(super) fn settle_forgotten(&mut self, effects: &mut Effects) {
        let reason = self.sched.broken().map(ToString::to_string).unwrap_or_default();
        for body in self.bodies.iter_mut().filter_map(Option::take) {
            effects.settle(body, Err(Box::new(TaskError::PoolBroken(reason.clone()))));
        }
        self.limited = 0;
    }

    /// The task has ended otherwise than by a reply.
    fn settle(&mut self, task: TaskKey, function: u32, verdict: Verdict, effects: &mut Effects) {
        #[cfg(test)]
        fail_on_own_thread(&verdict);
        let Some(body) = self.bodies.get_mut(task.index()).and_then(Option::take) else {
            return;
        };
        let error = self.error(verdict, body.info(function, &self.functions));
        self.conclude(body, function, Err(Box::new(error)), None, effects);
    }

    /// The task was answered, and has run for so long by its worker's account.
    pub(super) fn settle_replied(
        &mut self,
        (task, function): (TaskKey, u32),
        outcome: Outcome,
        run_ns: u64,
        now: u64,
        effects: &mut Effects,
    ) {
        let Some(body) = self.bodies.get_mut(task.index()).and_then(Option::take) else {
            return;
        };
        let waited = body.submitted_ns().map(|at| now.saturating_sub(at));
        self.timings.observe(waited, run_ns);
        self.conclude(body, function, outcome, Some(run_ns), effects);
    }

    fn conclude(
        &mut self,
        mut body: Body,
        function: u32,
        outcome: Outcome,
        run_ns: Option<u64>,
        effects: &mut Effects,
    ) {
        self.lay_aside(&mut body);
        self.limited -= usize::from(body.limits().any());
        if let Some(observer) = &mut self.observer {
            let task = body.info(function, &self.functions);
            let error = outcome.as_ref().err().map(|error| (**error).clone());
            let elapsed = run_ns.map(Duration::from_nanos);
            observer.tell(PoolEvent::TaskFinished { task, error, elapsed });
        }
        effects.settle(body, outcome);
    }

    /// Why a task has no result.
    fn error(&self, verdict: Verdict, task: TaskInfo) -> TaskError {
        match verdict {
            Verdict::Lost(worker) => self.lost(worker, task),
            Verdict::Quarantined(workers) => TaskError::Quarantined { task, workers },
            Verdict::TimedOut => TaskError::TimedOut,
            Verdict::Cancelled => TaskError::Cancelled,
            Verdict::Terminated => TaskError::Terminated,
            Verdict::Broken => match self.sched.broken() {
                Some(crate::PoolError::InitFailed(text)) => TaskError::InitFailed(text.clone()),
                Some(reason) => TaskError::PoolBroken(reason.reason()),
                None => TaskError::Terminated,
            },
        }
    }

    /// The scheduler has forgotten the worker already; its link has not.
    fn lost(&self, worker: WorkerKey, task: TaskInfo) -> TaskError {
        let link = self.link(worker);
        let process = link.and_then(Link::as_process);
        TaskError::WorkerLost {
            worker: WorkerIndex(link.map_or(0, Link::seat)),
            pid: link.map_or(0, Link::pid),
            cause: process.and_then(|link| link.cause).unwrap_or(ExitCause::Unknown),
            task,
            stderr: process.map(|link| link.last_lines.clone()).unwrap_or_default(),
        }
    }
}

/// Makes the pool's own thread panic when it tells of a lost worker.
#[cfg(test)]
pub(super) static PANICS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(test)]
fn fail_on_own_thread(verdict: &Verdict) {
    let is_own = std::thread::current().name().is_some_and(|name| name.ends_with("-io"));
    if is_own
        && !matches!(verdict, Verdict::Broken)
        && PANICS.swap(false, std::sync::atomic::Ordering::SeqCst)
    {
        panic!("injected by a test");
    }
}
