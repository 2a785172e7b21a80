//! The shell around the scheduler: it tells the scheduler what has happened and does what the scheduler wants. It may run on a caller's
//! thread, on a thread that waits for a result, or on the pool's own thread; one lock orders them all.
//!
//! It never waits for a worker, never runs user code with the lock held, and never encodes or decodes a user's value.

mod attend;
mod confinement;
mod core;
mod courier;
mod functions;
#[cfg(test)]
mod fuzz;
mod observer;
mod patience;
mod perform;
mod replies;
mod service;
mod settings;
mod slots;
mod starting;
mod task;
mod threads;
mod time_limits;
mod timings;

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak, mpsc};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

pub(crate) use self::core::{Core, Effects};
pub(crate) use self::slots::SlotRef;
pub(crate) use self::task::{Extras, Finish, Payload, Request, ns};
use crate::backend::process::spawner::Recipe;
use crate::backend::process::tagging::{Finishing, Tagger};
use crate::error::{PoolError, SubmitError};
use crate::handle::deadline;
use crate::ids::TaskKey;
use crate::limits::KILL_WAIT;
use crate::output::Output;
use crate::primitives::unpoisoned;
use crate::sched::{Event, Phase};
use crate::sys::clock;
use crate::sys::poll::{Doorbell, Watch};
use crate::task::job::Outcome;
use crate::trace;
pub(crate) use courier::Courier;
use observer::Observer;
pub(crate) use settings::{EventHook, Hook, Settings, Workers};
use slots::PoolRef;
pub use timings::Times;

/// A pool, as its handles, its threads and its user share it.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    core: Mutex<Core>,
    /// There is room for more tasks, or there will never be.
    space: Condvar,
    space_waiters: AtomicUsize,
    /// The pool's phase has changed, or a worker has become ready.
    phase: Condvar,
    watch: Arc<Watch>,
    bell: Arc<Doorbell>,
    pool_ref: Arc<PoolRef>,
    /// Tells the observer, if there is one.
    herald: Arc<Courier>,
    service_threads: OnceLock<Vec<ThreadId>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Writes what is left of the workers' output.
    finishing: OnceLock<Finishing>,
    owner: u32,
    /// What this program may use of the machine.
    cpus: usize,
}

impl Shared {
    /// Starts the pool's threads and its workers. Returns when every seat has had a worker that became ready, or, after the start
    /// timeout, when at least one has.
    pub(crate) fn start(settings: Settings) -> Result<Arc<Shared>, PoolError> {
        let watch = Watch::new().map_err(PoolError::os("cannot create an epoll instance"))?;
        let bell = Doorbell::new().map_err(PoolError::os("cannot create an eventfd"))?;
        watch
            .add(std::os::fd::AsFd::as_fd(&bell), service::BELL)
            .map_err(PoolError::os("cannot watch an eventfd"))?;
        let (spawner, requests) = mpsc::channel();
        let (settings, watch) = (Arc::new(settings), Arc::new(watch));
        let courier = Arc::new(Courier::new(format!("{}-callbacks", settings.name)));
        let herald = Arc::new(Courier::new(format!("{}-events", settings.name)));
        let tagged = |recipe: &Recipe| [recipe.stdout, recipe.stderr].contains(&Output::Tagged);
        let tagger = match settings.recipe().is_some_and(tagged) {
            true => Some(Tagger::start(&settings.name)?),
            false => None,
        };
        let is_observed = settings.on_event.0.is_some() || trace::is_on();
        let observer =
            is_observed.then(|| Observer::new(Arc::clone(&herald), settings::observe(&settings)));
        let shared = Arc::new_cyclic(|shared| {
            let pool_ref = PoolRef::new(Weak::clone(shared), courier, settings.max_result);
            let pool_ref = Arc::new(pool_ref);
            let mut core = Core::new(
                Arc::clone(&settings),
                Arc::clone(&watch),
                Arc::clone(&pool_ref),
                spawner,
            );
            (core.tagger, core.observer) = (tagger, observer);
            Shared {
                core: Mutex::new(core),
                settings,
                pool_ref,
                space: Condvar::new(),
                space_waiters: AtomicUsize::new(0),
                phase: Condvar::new(),
                watch,
                bell: Arc::new(bell),
                herald,
                service_threads: OnceLock::new(),
                threads: Mutex::new(Vec::new()),
                finishing: OnceLock::new(),
                owner: std::process::id(),
                cpus: std::thread::available_parallelism().map_or(1, NonZero::get),
            }
        });
        shared.start_threads(requests)?;
        shared.event(Event::Tick);
        shared.wait_until_up()?;
        Ok(shared)
    }

    fn start_threads(
        self: &Arc<Self>,
        requests: mpsc::Receiver<core::SpawnRequest>,
    ) -> Result<(), PoolError> {
        let thread =
            |name: &str| std::thread::Builder::new().name(format!("{}-{name}", self.settings.name));
        let (one, other) = (Arc::clone(self), Arc::clone(self));
        let spawner = thread("spawner")
            .spawn(move || starting::spawn_workers(&one, &requests))
            .map_err(PoolError::os("cannot start a thread"))?;
        self.threads_mut().push(spawner);
        let io = thread("io").spawn(move || service::serve(&other)).map_err(|error| {
            self.lock().close_spawner();
            // it ends by that: nothing is left when the error is told
            for thread in std::mem::take(&mut *self.threads_mut()) {
                let _ = thread.join();
            }
            PoolError::os("cannot start a thread")(error)
        })?;
        let mut threads = self.threads_mut();
        threads.push(io);
        // set before any worker exists, so before a user's waker can run on one of them
        let _ = self.service_threads.set(threads.iter().map(|t| t.thread().id()).collect());
        Ok(())
    }

    fn wait_until_up(self: &Arc<Self>) -> Result<(), PoolError> {
        let deadline = deadline(self.settings.start_timeout);
        let mut core = self.lock();
        loop {
            if let Some(reason) = core.sched.broken() {
                let reason = self.with_hint(reason.clone());
                drop(core);
                self.stop(Duration::ZERO);
                self.reap_threads();
                return Err(reason);
            }
            let late = Instant::now() >= deadline;
            if core.sched.all_seated() || (late && core.sched.any_ready()) {
                return Ok(());
            }
            // without one ready worker, the scheduler's own limits decide when to give up
            let pause = if late { Duration::from_secs(1) } else { deadline - Instant::now() };
            core = unpoisoned(self.phase.wait_timeout(core, pause)).0;
        }
    }

    /// A setting that may be why workers don't start.
    fn with_hint(&self, reason: PoolError) -> PoolError {
        let limit = self.settings.recipe().and_then(|recipe| recipe.memory_limit);
        match (reason, limit) {
            (PoolError::StartFailed(text), Some(limit)) => PoolError::StartFailed(format!(
                "{text}; memory_limit is {limit} bytes of address space: is that enough?"
            )),
            (reason, _) => reason,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        unpoisoned(self.core.lock())
    }

    fn threads_mut(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        unpoisoned(self.threads.lock())
    }

    /// Tells the scheduler and does what follows.
    pub(crate) fn event(&self, event: Event<'_>) {
        let mut core = self.lock();
        let mut effects = Effects::default();
        core.event(event, clock::now_ns(), &mut effects);
        self.finish(core, effects);
    }

    /// Ends a task, unless it has ended. Returns whether it was ended: its handle is told after its callbacks.
    pub(crate) fn cancel(&self, task: TaskKey, slot: &SlotRef) -> bool {
        self.end(task, slot, Event::Cancel { task }) == (true, true)
    }

    /// Ends a task that has not been started, and tells one that runs that it should end. Returns whether it had not ended.
    pub(crate) fn ask_to_end(&self, task: TaskKey, slot: &SlotRef) -> bool {
        self.end(task, slot, Event::Ask { task }).0
    }

    /// Whether the task had not ended before, and whether it has now.
    fn end(&self, task: TaskKey, slot: &SlotRef, event: Event<'_>) -> (bool, bool) {
        let mut core = self.lock();
        if !core.is_task(task, slot) {
            return (false, true);
        }
        let mut effects = Effects::default();
        core.event(event, clock::now_ns(), &mut effects);
        let ended = !core.is_task(task, slot);
        self.finish(core, effects);
        (true, ended)
    }

    /// Lets the lock go, then does what must not be done with it held.
    #[inline]
    pub(crate) fn finish(&self, mut core: MutexGuard<'_, Core>, mut effects: Effects) {
        let room = core.has_room(self.settings.max_pending);
        effects.hurry |= std::mem::take(&mut core.hurry);
        drop(core);
        if effects.hurry {
            self.bell.ring();
        }
        if let Some(tagger) = effects.tagger.take() {
            // the last worker is gone, once
            let _ = self.finishing.set(tagger.finish());
        }
        if effects.phase_changed {
            self.phase.notify_all();
            self.space.notify_all();
        }
        if room && self.space_waiters.load(Ordering::SeqCst) > 0 {
            self.space.notify_all();
        }
        drop(effects);
    }

    /// Takes a task in; waits while `max_pending` tasks are unfinished, or gives `None` if it may not wait.
    pub(crate) fn submit(
        &self,
        request: Request,
        may_wait: bool,
    ) -> Result<Option<SlotRef>, SubmitError> {
        let mut core = self.lock();
        loop {
            core.check_open()?;
            if core.sched.unfinished() < self.settings.max_pending {
                break;
            }
            if !may_wait {
                return Ok(None);
            }
            self.space_waiters.fetch_add(1, Ordering::SeqCst);
            core = unpoisoned(self.space.wait(core));
            self.space_waiters.fetch_sub(1, Ordering::SeqCst);
        }
        let mut effects = Effects::default();
        let slot = core.submit(request, &mut effects);
        self.finish(core, effects);
        Ok(Some(slot))
    }

    /// Calls callbacks.
    pub(crate) fn courier(&self) -> &Arc<Courier> {
        &self.pool_ref.courier
    }

    /// A slot of which the scheduler knows nothing.
    pub(crate) fn lone_slot(&self) -> SlotRef {
        SlotRef::alone(&self.pool_ref)
    }

    /// Settles a slot that the scheduler knows nothing of.
    pub(crate) fn settle(&self, slot: SlotRef, outcome: Outcome, finish: Option<Finish>) {
        match finish {
            // nobody else has it yet
            None => drop(slot.settle(outcome)),
            Some(finish) => {
                self.courier().send(move || task::settle_finished(&slot, outcome, finish));
            }
        }
    }

    /// Waits until all callbacks have been called, events told, and output written.
    pub(crate) fn wait_for_callbacks(&self, deadline: Option<Instant>) -> bool {
        self.courier().wait(deadline)
            && self.herald.wait(deadline)
            && self.finishing.get().is_none_or(|finishing| finishing.wait(deadline))
    }

    /// Whether the pool takes tasks.
    pub(crate) fn check_open(&self) -> Result<(), SubmitError> {
        self.lock().check_open()
    }

    /// Stops everything; returns when all children are gone, or after the grace period and a second.
    pub(crate) fn stop(&self, grace: Duration) {
        if std::process::id() != self.owner {
            // a copy of the parent, made by fork: nothing here is its own
            return;
        }
        let grace_ns = u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX >> 1);
        self.event(Event::Terminate { grace_ns });
        self.bell.ring();
        // a callback, which runs on none of the threads that stopping takes, may wait
        if !self.on_service_thread() && !self.is_worked_for_by_this_thread() {
            self.wait_stopped(Some(deadline(grace.saturating_add(KILL_WAIT))));
        }
    }

    /// Waits until all workers are gone.
    pub(crate) fn wait_stopped(&self, deadline: Option<Instant>) -> bool {
        let mut core = self.lock();
        while core.sched.phase() < Phase::Stopped {
            core = match deadline {
                None => unpoisoned(self.phase.wait(core)),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    unpoisoned(self.phase.wait_timeout(core, left)).0
                }
            };
        }
        true
    }

    /// Keeps the handle of a thread that is ending, until the pool's threads are collected.
    fn keep_thread(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads_mut();
        // of a pool that recycles its threads, those that have ended need not be kept
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Collects the pool's threads. They end by themselves when all workers are gone.
    pub(crate) fn reap_threads(&self) {
        if self.lock().sched.phase() < Phase::Stopped
            || self.on_service_thread()
            || self.is_worked_for_by_this_thread()
        {
            return;
        }
        let threads = std::mem::take(&mut *self.threads_mut());
        for thread in threads {
            // a panic of the pool's own thread has been reported by the panic hook
            let _ = thread.join();
        }
    }

    /// Whether this is one of the pool's own threads: it can't wait for itself.
    pub(crate) fn on_own_thread(&self) -> bool {
        self.on_service_thread()
            || self.is_worked_for_by_this_thread()
            || self.courier().is_this_thread()
            || self.herald.is_this_thread()
    }

    /// Whether this is the thread that reads replies, or the one that starts workers.
    fn on_service_thread(&self) -> bool {
        let current = std::thread::current().id();
        self.service_threads.get().is_some_and(|threads| threads.contains(&current))
    }

    pub(crate) fn is_owner(&self) -> bool {
        std::process::id() == self.owner
    }
}
