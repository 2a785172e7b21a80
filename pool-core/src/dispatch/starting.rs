//! The thread of the pool that starts workers.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use super::core::{Core, Effects, SpawnRequest, put};
use super::service::{ENDS, exit_token, reply_token};
use super::{Shared, Workers};
use crate::backend::Link;
use crate::backend::process::fork_server::{ForkServer, NoServer, NotForked};
use crate::backend::process::last_lines::LastLines;
use crate::backend::process::link::{ProcessLink, Started};
use crate::backend::process::spawner::{Recipe, StartMethod};
use crate::events::PoolEvent;
use crate::ids::{WorkerIndex, WorkerKey};
use crate::limits::KILL_WAIT;
use crate::sched::{self, Event, WorkerPhase};
use crate::sys::signal::GroupSignal;
use crate::sys::{clock, failpoint};
use crate::task::callee::Callee;
use crate::wire::to_worker::ToWorker;

/// Starts the workers that the scheduler asks for, until there are no more to come. Lives as long as the pool: see
/// [`spawner`](crate::backend::process::spawner).
pub(super) fn spawn_workers(shared: &Arc<Shared>, requests: &mpsc::Receiver<SpawnRequest>) {
    // lives as long as the pool, and ends what its workers leave behind
    let mut forks = None;
    for request in requests {
        let start = || start(shared, request, &mut forks);
        let started = catch_unwind(AssertUnwindSafe(start))
            .unwrap_or_else(|_| Err("starting it panicked".to_owned()));
        if let Err(error) = started {
            let error = format!("could not be started: {error}");
            shared.event(Event::SpawnFailed { worker: request.worker, error: &error });
            shared.phase.notify_all();
        }
        // its start is limited in time, and so is the pause before the next attempt: that is the other thread's
        shared.bell.ring();
    }
    // kills what has outlived its workers
    drop(forks);
    // the last of them was forgotten with the lock held, as the word that there is nothing more to start was given before that
    drop(shared.lock());
    if let Some(groups) = shared.settings.recipe().and_then(|recipe| recipe.groups.as_ref()) {
        groups.finish(KILL_WAIT);
    }
}

fn start(
    shared: &Arc<Shared>,
    request: SpawnRequest,
    forks: &mut Option<ForkServer>,
) -> Result<(), String> {
    let SpawnRequest { worker, seat } = request;
    let wanted =
        |core: &Core| core.sched.worker(worker).is_some_and(|w| w.phase == WorkerPhase::Starting);
    if !wanted(&shared.lock()) {
        return Err("was not needed any more".to_owned());
    }
    failpoint::at("parent.spawn");
    match &shared.settings.workers {
        Workers::Processes(recipe) => {
            let started = match shared.settings.start_method {
                StartMethod::Spawn => recipe.start(seat).map_err(|error| error.to_string()),
                StartMethod::ForkServer => fork(shared, recipe, seat, forks),
            };
            shared.adopt(worker, started?)
        }
        Workers::Threads { .. } => {
            shared.start_thread(worker, seat).map_err(|error| error.to_string())
        }
    }
}

/// Has a worker forked, by a new fork server if there is none.
fn fork(
    shared: &Shared,
    recipe: &Recipe,
    seat: u32,
    forks: &mut Option<ForkServer>,
) -> Result<Started, String> {
    if !forks.as_ref().is_some_and(ForkServer::is_alive) {
        *forks = None;
        let settings = &shared.settings;
        let started = ForkServer::start(recipe, settings.preload.as_ref(), settings.start_timeout);
        let server = started.map_err(|no| match no {
            NoServer::Failed(text) => text,
            NoServer::Refused(reason) => {
                let text = reason.to_string();
                shared.event(Event::Refused { reason });
                text
            }
        })?;
        let unwatched = |error| format!("its fork server could not be watched: {error}");
        shared.watch.add(server.ends().as_fd(), ENDS).map_err(unwatched)?;
        shared.lock().ends.push(Arc::clone(server.ends()));
        *forks = Some(server);
    }
    let forked = forks.as_ref().map(|server| server.fork(recipe, seat));
    match forked {
        Some(Ok(started)) => Ok(started),
        Some(Err(NotForked::ThisTime(error))) => Err(error.to_string()),
        Some(Err(NotForked::Useless(error))) => {
            // with it end its workers, whose ends it could not tell any more
            *forks = None;
            Err(error.to_string())
        }
        None => Err("there is no fork server".to_owned()),
    }
}

impl Shared {
    /// A process has been started: it is watched, and told what to do first.
    fn adopt(&self, worker: WorkerKey, started: Started) -> Result<(), String> {
        failpoint::with("parent.spawned", started.pid);
        let mut core = self.lock();
        let (mut link, printed) = ProcessLink::new(started, self.settings.max_result);
        if let (Some(printed), Some(tagger)) = (printed, &core.tagger) {
            link.tagged_stderr = LastLines::of(printed.stderr.as_ref());
            let name = format!("{}-{}", self.settings.name, link.seat);
            link.tag = Some(tagger.add(name, printed));
        }
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
        failpoint::with("parent.initialize", link.pid);
        let condemned = |w: &sched::Worker| w.phase == WorkerPhase::Condemned;
        let unwanted = core.sched.worker(worker).is_none_or(condemned);
        if unwanted || link.flush().is_err() {
            link.signal(GroupSignal::Kill);
        }
        core.oom_kills.on_start(link.home.as_ref(), clock::now_ns());
        let (index, pid) = (WorkerIndex(link.seat), link.pid);
        core.tell(|| PoolEvent::WorkerStarted { worker: index, pid });
        put(&mut core.links, worker.index(), Link::Process(Box::new(link)));
        let mut effects = Effects::default();
        core.event(Event::Spawned { worker }, clock::now_ns(), &mut effects);
        self.finish(core, effects);
        Ok(())
    }
}
