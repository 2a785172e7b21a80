//! Workers that are threads of this process: how they are started, what they do, and how what they have done is told to the scheduler.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use super::core::{Core, Effects, put};
use super::{Hook, Shared, Workers};
use crate::backend::Link;
use crate::backend::process::spawner::cpu_of;
use crate::backend::thread::{Done, Port, ThreadLink, ToThread};
use crate::error::{ExitCause, PoolError, TaskError};
use crate::events::PoolEvent;
use crate::ids::{Lease, WorkerIndex, WorkerKey};
use crate::limits::TELL_NS;
use crate::sched::{Event, Reply, WorkerPhase};
use crate::sys::clock;
use crate::sys::process;
use crate::task::entry::Output;
use crate::task::job::{JobCell, Value, caught};
use crate::task::panics;
use crate::trace;
use crate::worker::context;

impl Shared {
    pub(super) fn start_thread(self: &Arc<Self>, worker: WorkerKey, seat: u32) -> io::Result<()> {
        let (mut link, port, mailbox) = ThreadLink::new(seat);
        let shared = Arc::clone(self);
        // the thread finds its link there: it waits for the lock until this function lets it go
        let mut core = self.lock();
        if core.sched.worker(worker).is_none_or(|w| w.phase != WorkerPhase::Starting) {
            return Err(io::Error::other("was not needed any more"));
        }
        let name = format!("{}-{seat}", self.settings.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            WorkerThread { shared, worker, port }.run(seat, &mailbox);
        })?;
        link.thread = Some(thread);
        put(&mut core.links, worker.index(), Link::Thread(link));
        let (index, pid) = (WorkerIndex(seat), std::process::id());
        core.tell(|| PoolEvent::WorkerStarted { worker: index, pid });
        let mut effects = Effects::default();
        core.event(Event::Spawned { worker }, clock::now_ns(), &mut effects);
        self.finish(core, effects);
        Ok(())
    }
}

thread_local! {
    /// The pool that this thread works for, by its address.
    static WORKS_FOR: Cell<usize> = const { Cell::new(0) };
}

impl Shared {
    /// Whether this thread is one of the pool's workers.
    pub(super) fn is_worked_for_by_this_thread(&self) -> bool {
        WORKS_FOR.get() == std::ptr::from_ref(self) as usize
    }
}

/// What a worker thread knows of its pool.
struct WorkerThread {
    shared: Arc<Shared>,
    worker: WorkerKey,
    port: Arc<Port>,
}

impl WorkerThread {
    fn run(&self, seat: u32, mailbox: &Receiver<ToThread>) {
        panics::keep();
        WORKS_FOR.set(Arc::as_ptr(&self.shared) as usize);
        context::enter(seat, self.port.page.clone());
        if let Workers::Threads { shared: Some(object) } = &self.shared.settings.workers {
            context::set_shared(context::SharedObject::Direct(Arc::clone(object)));
        }
        match self.initialize(seat) {
            Ok(()) => {
                self.tell(|core, now, effects| {
                    effects.phase_changed = true;
                    let (worker, pid) = (WorkerIndex(seat), std::process::id());
                    core.tell(|| PoolEvent::WorkerReady { worker, pid });
                    core.event(Event::Ready { worker: self.worker }, now, effects);
                });
                while let Ok(ToThread::Tasks(batch)) = mailbox.recv() {
                    self.work(batch);
                }
                self.finalize();
                context::leave();
            }
            Err(error) => {
                let text = match error {
                    TaskError::Failed(text) => text,
                    other => other.to_string(),
                };
                self.tell(|core, now, effects| {
                    core.refuse(PoolError::InitFailed(text), now, effects);
                });
            }
        }
        self.leave();
    }

    fn initialize(&self, seat: u32) -> Result<(), TaskError> {
        let settings = &self.shared.settings;
        let bound = cpu_of(&settings.cpus, seat).map_or(Ok(()), process::pin_to);
        bound
            .and_then(|()| settings.niceness.map_or(Ok(()), process::set_niceness))
            .map_err(|error| TaskError::Failed(format!("cannot set up the thread: {error}")))?;
        settings.initializer.as_ref().map_or(Ok(()), |hook| call(hook).map(drop))
    }

    fn finalize(&self) {
        let hook = self.shared.settings.finalizer.as_ref();
        if let Some(hook) = hook.filter(|_| !self.port.is_abandoned()) {
            let outcome = call(hook).map(|bytes| Value::Encoded(bytes.into())).map_err(Box::new);
            self.tell(|core, _, _| core.finalized.push(outcome));
        }
    }

    /// Runs what came with one message. As with processes, one wake-up of those who wait serves several short tasks.
    fn work(&self, batch: Vec<(Lease, Arc<JobCell>)>) {
        let mut untold_since = None;
        for (lease, job) in batch {
            if self.port.is_abandoned() {
                break;
            }
            let Some((done, now)) = self.execute(lease, &job) else { continue };
            drop(job);
            self.port.put_done(done);
            if now - *untold_since.get_or_insert(now) >= TELL_NS {
                self.tell_done();
                untold_since = None;
            }
        }
        if untold_since.is_some() {
            self.tell_done();
        }
    }

    /// Runs a task, unless it has been taken back. Gives the time at its end too.
    fn execute(&self, lease: Lease, job: &JobCell) -> Option<(Done, u64)> {
        let started = clock::now_ns();
        if !self.port.page.start(lease, started) {
            return None;
        }
        let job = job.take()?;
        context::set_current(Some(lease));
        let outcome = trace::in_task(|| job.run());
        context::set_current(None);
        let now = clock::now_ns();
        self.port.page.finish(lease);
        Some((Done { lease, elapsed_ns: now - started, outcome }, now))
    }

    fn tell_done(&self) {
        self.tell(|core, now, effects| core.read_thread(self.worker, now, effects));
    }

    /// Tells the scheduler something, unless this thread has been given up.
    fn tell(&self, what: impl FnOnce(&mut Core, u64, &mut Effects)) {
        let mut core = self.shared.lock();
        if !core.is_thread(self.worker, &self.port) {
            return;
        }
        let mut effects = Effects::default();
        what(&mut core, clock::now_ns(), &mut effects);
        self.shared.finish(core, effects);
    }

    fn leave(&self) {
        let mut leaving = None;
        self.tell(|core, _, _| leaving = core.take_thread(self.worker));
        if let Some(thread) = leaving {
            // before the pool counts as stopped: who then collects its threads finds this one
            self.shared.keep_thread(thread);
        }
        self.tell(|core, now, effects| core.on_thread_gone(self.worker, now, effects));
    }
}

/// Calls an initializer or a finalizer.
fn call((callee, input, _): &Hook) -> Result<Vec<u8>, TaskError> {
    let mut bytes = Vec::new();
    let mut output = Output::new(&mut bytes, u64::MAX);
    caught(|| callee.entry()(input, &mut output)).map_err(|fault| fault.into_error(u64::MAX))?;
    Ok(bytes)
}

impl Core {
    fn is_thread(&self, worker: WorkerKey, port: &Arc<Port>) -> bool {
        matches!(self.link(worker), Some(Link::Thread(link)) if Arc::ptr_eq(&link.port, port))
    }

    fn take_thread(&mut self, worker: WorkerKey) -> Option<JoinHandle<()>> {
        match self.link_mut(worker) {
            Some(Link::Thread(link)) => link.thread.take(),
            _ => None,
        }
    }

    /// Tells the scheduler what a thread has finished.
    pub(super) fn read_thread(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        let Some(Link::Thread(link)) = self.link(worker) else { return };
        for Done { lease, elapsed_ns, outcome } in link.port.take_done() {
            match self.sched.reply(worker, lease, elapsed_ns, now) {
                Reply::Settles { task, function } => {
                    self.settle_replied((task, function), outcome, elapsed_ns, now, effects);
                }
                Reply::Late | Reply::Unknown => effects.unwanted.push(outcome),
            }
        }
        self.event(Event::RepliesRead { worker }, now, effects);
    }

    /// The thread has ended, or has been given up with what it runs.
    pub(super) fn on_thread_gone(&mut self, worker: WorkerKey, now: u64, effects: &mut Effects) {
        let started = self.before_thread_gone(worker, effects);
        let cause = ExitCause::Unknown;
        self.event(Event::Gone { worker, started: &started, cause }, now, effects);
        self.links[worker.index()] = None;
    }

    /// What it was running, for the scheduler.
    pub(super) fn before_thread_gone(
        &mut self,
        worker: WorkerKey,
        effects: &mut Effects,
    ) -> Vec<Lease> {
        let started = self.started(worker);
        let index = WorkerIndex(self.link(worker).map_or(0, Link::seat));
        let pid = std::process::id();
        self.tell(|| PoolEvent::WorkerLeft { worker: index, pid });
        effects.phase_changed = true;
        started
    }
}
