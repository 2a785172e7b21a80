//! The pool's two threads: one waits for replies, exits and timers, the other starts processes.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;

use super::Shared;
use super::core::{Core, Effects, SpawnRequest, put};
use crate::backend::process::link::{Link, Reading, Started};
use crate::error::PoolError;
use crate::ids::WorkerKey;
use crate::sched::{self, Event, Phase, WorkerPhase};
use crate::sys::clock;
use crate::sys::signal::GroupSignal;
use crate::task::callee::Callee;
use crate::transport::replies::Round;
use crate::transport::status::Progress;
use crate::wire::to_worker::ToWorker;

/// Tokens: the doorbell, and per worker its replies and its end.
pub(super) const BELL: u64 = u64::MAX;

pub(super) fn reply_token(worker: WorkerKey) -> u64 {
    u64::from(worker.0) << 1
}

/// How soon to look again for the start of a task with a time limit.
const LOOK_NS: u64 = 1_000_000;

fn exit_token(worker: WorkerKey) -> u64 {
    u64::from(worker.0) << 1 | 1
}

/// Waits for whatever happens, until all workers are gone.
pub(super) fn serve(shared: &Arc<Shared>) {
    let mut tokens = Vec::new();
    // a mistake of this thread must not leave anybody waiting: all handles are settled, and the children are still reaped
    let mut turn = || catch_unwind(AssertUnwindSafe(|| turn(shared, &mut tokens)));
    while turn().unwrap_or_else(|_| give_up(shared)) {}
}

/// Breaks the pool after a panic of its own thread, which goes on to reap the children.
fn give_up(shared: &Arc<Shared>) -> bool {
    shared.lock().actions.clear();
    let reason = PoolError::Broken("the pool's own thread has panicked".to_owned());
    shared.event(Event::Refused { reason });
    true
}

/// Waits for something to happen, and acts on it; `false` when the work is done.
fn turn(shared: &Arc<Shared>, tokens: &mut Vec<u64>) -> bool {
    shared.bell.arm();
    let Some(timeout) = shared.lock().sleep() else { return false };
    tokens.clear();
    if let Err(error) = shared.watch.wait(timeout, tokens) {
        let reason = PoolError::Broken(format!("waiting for workers failed: {error}"));
        shared.event(Event::Refused { reason });
    }
    shared.bell.disarm(tokens.contains(&BELL));
    let mut core = shared.lock();
    let mut effects = Effects::default();
    let now = clock::now_ns();
    for worker in std::mem::take(&mut core.unread) {
        core.read_link(worker, now, &mut effects);
    }
    // replies first: an exit is judged last
    tokens.sort_unstable_by_key(|token| token & 1);
    for &token in tokens.iter().filter(|&&token| token != BELL) {
        let worker = WorkerKey((token >> 1) as u32);
        if token & 1 == 0 {
            core.on_readable(worker, now, &mut effects);
        } else {
            core.on_exit(worker, now, &mut effects);
        }
    }
    core.on_time(now, &mut effects);
    shared.finish(core, effects);
    true
}

impl Core {
    /// How long to wait at most; `None`: the work is done.
    fn sleep(&mut self) -> Option<Option<u64>> {
        if self.sched.phase() == Phase::Stopped {
            return None;
        }
        if !self.unread.is_empty() {
            return Some(Some(0));
        }
        let due = self.sched.next_tick().unwrap_or(u64::MAX).min(self.next_limit_check);
        self.sleeps_until = due;
        Some((due != u64::MAX).then(|| due.saturating_sub(clock::now_ns())))
    }

    fn on_readable(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        let round = self.read_link(worker, now, effects);
        let watch = Arc::clone(&self.watch);
        if let Some(link) = self.link_mut(worker)
            && round == Round::End
            && link.reading == Reading::Watched
        {
            let _ = watch.remove(link.stream.as_fd());
            link.reading = Reading::Ended;
            // A worker without its socket has no use. Nearly always it is ending already, which a signal does not change any more.
            let leaving =
                self.sched.worker(worker).is_none_or(|w| w.phase == WorkerPhase::Retiring);
            if let Some(link) = self.link_mut(worker).filter(|_| !leaving) {
                link.signal(GroupSignal::Kill);
            }
        }
    }

    fn on_time(&mut self, now: u64, effects: &mut Effects) {
        if self.sched.next_tick().is_some_and(|due| due <= now) {
            for worker in self.sched.stalled(now) {
                self.read_link(worker, now, effects);
            }
            self.event(Event::Tick, now, effects);
        }
        if self.limited == 0 {
            self.next_limit_check = u64::MAX;
        } else if self.next_limit_check <= now {
            self.check_limits(now, effects);
        }
    }

    /// Ends the tasks whose time is up, counted from when they were started.
    fn check_limits(&mut self, now: u64, effects: &mut Effects) {
        self.next_limit_check = u64::MAX;
        let workers: Vec<_> = self.sched.workers().iter().map(|(key, _)| *key).collect();
        for worker in workers {
            let Some((lease, limit)) = self.first_limited(worker) else { continue };
            let Some(link) = self.link(worker) else { continue };
            let due = match link.page.progress(lease) {
                // the worker's word for its start is taken only as far as it is possible
                Progress::Started { at_ns } => at_ns.min(now).saturating_add(limit),
                Progress::Queued | Progress::Over => now.saturating_add(limit.min(LOOK_NS)),
                Progress::Scribbled => now,
            };
            if due > now {
                self.next_limit_check = self.next_limit_check.min(due);
            } else if link.page.condemn(lease) || link.page.progress(lease) == Progress::Scribbled {
                self.event(Event::Expired { worker, lease }, now, effects);
            } else {
                // it has just finished: the next one is looked at soon
                self.next_limit_check = self.next_limit_check.min(now.saturating_add(LOOK_NS));
            }
        }
    }

    /// The task that a worker is running, or will run first, if it has a time limit.
    fn first_limited(&self, worker: WorkerKey) -> Option<(crate::ids::Lease, u64)> {
        let link = self.link(worker)?;
        let mut order = self.sched.worker(worker)?.running_order();
        order.find_map(|(task, lease)| {
            let limit = self.bodies.get(task.index())?.as_ref()?.limit_ns?;
            (link.page.progress(lease) != Progress::Over).then_some((lease, limit))
        })
    }
}

impl Shared {
    /// A process has been started: it is watched, and told what to do first.
    fn adopt(&self, worker: WorkerKey, started: Started) -> Result<(), String> {
        let mut core = self.lock();
        let mut link = Link::new(started, self.settings.recipe.max_result);
        let watched = self
            .watch
            .add(link.stream.as_fd(), reply_token(worker))
            .and_then(|()| self.watch.add(link.pidfd.as_fd(), exit_token(worker)));
        if let Err(error) = watched {
            // its end could not be seen: it is ended here
            link.signal(GroupSignal::Kill);
            link.pidfd.reap();
            return Err(format!("could not be watched: {error}"));
        }
        match &self.settings.initializer {
            Some((callee, input, attachments)) => {
                link.push_attachments(attachments);
                link.push(&ToWorker::Initialize { callee: *callee, input });
            }
            None => link.push(&ToWorker::Initialize { callee: Callee::BY_NAME, input: &[] }),
        }
        let condemned = |w: &sched::Worker| w.phase == WorkerPhase::Condemned;
        let unwanted = core.sched.worker(worker).is_none_or(condemned);
        if unwanted || link.flush().is_err() {
            link.signal(GroupSignal::Kill);
        }
        core.oom_kills = crate::sys::process::oom_kills();
        put(&mut core.links, worker.index(), link);
        let mut effects = Effects::default();
        core.event(Event::Spawned { worker }, clock::now_ns(), &mut effects);
        self.finish(core, effects);
        // its start is limited in time, which is the other thread's
        self.bell.ring();
        Ok(())
    }
}

/// Starts the processes that the scheduler asks for, until there are no more to come. Lives as long as the pool: see
/// [`spawner`](crate::backend::process::spawner).
pub(super) fn spawn_workers(shared: &Arc<Shared>, requests: &mpsc::Receiver<SpawnRequest>) {
    for SpawnRequest { worker, seat } in requests {
        let wanted = |core: &Core| {
            core.sched.worker(worker).is_some_and(|w| w.phase == WorkerPhase::Starting)
        };
        let started = if wanted(&shared.lock()) {
            let start = || shared.settings.recipe.start(seat).map_err(|error| error.to_string());
            catch_unwind(AssertUnwindSafe(start))
                .unwrap_or_else(|_| Err("starting it panicked".to_owned()))
        } else {
            Err("was not needed any more".to_owned())
        };
        let started = started.and_then(|started| shared.adopt(worker, started));
        match started {
            Ok(()) => {}
            Err(error) => {
                let error = format!("could not be started: {error}");
                shared.event(Event::SpawnFailed { worker, error: &error });
                shared.phase.notify_all();
                // the next attempt is a matter of time, which is that thread's
                shared.bell.ring();
            }
        }
    }
}
