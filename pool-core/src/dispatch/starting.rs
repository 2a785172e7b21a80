//! The thread of the pool that starts workers.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use super::core::{Core, Effects, SpawnRequest, put};
use super::service::{ENDS, exit_token, reply_token};
use super::settings::Settings;
use super::{Shared, Workers};
use crate::backend::Link;
use crate::backend::process::fork_server::{ForkServer, NoServer, NotForked, Ordered};
use crate::backend::process::last_lines::LastLines;
use crate::backend::process::link::{ProcessLink, Started};
use crate::backend::process::spawner::{Recipe, StartMethod, Wires};
use crate::events::PoolEvent;
use crate::ids::{WorkerIndex, WorkerKey};
use crate::limits::KILL_WAIT;
use crate::sched::{self, Event, WorkerPhase};
use crate::sys::signal::GroupSignal;
use crate::sys::{clock, failpoint};
use crate::task::callee::Callee;
use crate::wire::to_worker::{self, ToWorker};

/// Starts the workers that the scheduler asks for, until there are no more to come. Lives as long as the pool: see
/// [`spawner`](crate::backend::process::spawner).
pub(super) fn spawn_workers(shared: &Arc<Shared>, requests: &mpsc::Receiver<SpawnRequest>) {
    // lives as long as the pool, and ends what its workers leave behind
    let mut makings = Makings::default();
    let has_shares = shared.lock().sched.has_shares();
    while let Ok(request) = requests.recv() {
        // while the fork server makes one, the next one is being connected
        let (mut next, mut ordered) = (Some(request), None);
        while let Some(request) = next.take() {
            let start = |makings: &mut _| start(shared, request, makings);
            let started = guarded(shared, request, &mut makings, start).flatten();
            if has_shares && let Workers::Processes(recipe) = &shared.settings.workers {
                // another one will follow soon; if this fails now, that one tells why
                makings.wires = wires(shared, recipe, &mut makings).ok();
            }
            let before = std::mem::replace(&mut ordered, started.map(|order| (request, order)));
            await_started(shared, before, &mut makings);
            next = requests.try_recv().ok();
        }
        await_started(shared, ordered, &mut makings);
    }
    // kills what has outlived its workers
    drop(makings);
    // the last of them was forgotten with the lock held, as the word that there is nothing more to start was given before that
    drop(shared.lock());
    if let Some(groups) = shared.settings.recipe().and_then(|recipe| recipe.groups.as_ref()) {
        groups.finish(KILL_WAIT);
    }
}

/// What this thread has for the workers to come.
#[derive(Debug, Default)]
struct Makings {
    forks: Option<ForkServer>,
    wires: Option<Wires>,
}

/// What connects the next worker: it may have been made while there was time.
fn wires(shared: &Shared, recipe: &Recipe, makings: &mut Makings) -> Result<Wires, String> {
    match makings.wires.take() {
        Some(wires) => Ok(wires),
        None => Wires::new(&first_message(&shared.settings), recipe.fast_lane)
            .map_err(|error| error.to_string()),
    }
}

/// Does a part of a start. If that fails, the scheduler is told.
fn guarded<R>(
    shared: &Shared,
    request: SpawnRequest,
    makings: &mut Makings,
    part: impl FnOnce(&mut Makings) -> Result<R, String>,
) -> Option<R> {
    let done = catch_unwind(AssertUnwindSafe(|| part(makings))).unwrap_or_else(|_| {
        // it may have an order whose answer nobody waits for
        makings.forks = None;
        Err("starting it panicked".to_owned())
    });
    let error = match done {
        Ok(done) => return Some(done),
        Err(error) => format!("could not be started: {error}"),
    };
    shared.event(Event::SpawnFailed { worker: request.worker, error: &error });
    shared.phase.notify_all();
    // the pause before the next attempt is the other thread's
    shared.bell.ring();
    None
}

/// Waits for a worker that was ordered, if one was.
fn await_started(shared: &Shared, ordered: Option<(SpawnRequest, Ordered)>, makings: &mut Makings) {
    if let Some((request, ordered)) = ordered {
        let adopt = |makings: &mut Makings| {
            shared.adopt(request.worker, forked(shared, ordered, &mut makings.forks)?)
        };
        guarded(shared, request, makings, adopt);
    }
}

/// Starts a worker, or orders one from the fork server.
fn start(
    shared: &Arc<Shared>,
    request: SpawnRequest,
    makings: &mut Makings,
) -> Result<Option<Ordered>, String> {
    let SpawnRequest { worker, seat } = request;
    let wanted =
        |core: &Core| core.sched.worker(worker).is_some_and(|w| w.phase == WorkerPhase::Starting);
    if !wanted(&shared.lock()) {
        return Err("was not needed any more".to_owned());
    }
    failpoint::at("parent.spawn");
    match &shared.settings.workers {
        Workers::Processes(recipe) => {
            let wires = wires(shared, recipe, makings)?;
            if shared.settings.start_method == StartMethod::ForkServer {
                return order(shared, recipe, seat, wires, &mut makings.forks).map(Some);
            }
            let started = recipe.start(seat, wires).map_err(|error| error.to_string());
            shared.adopt(worker, started?)?;
        }
        Workers::Threads { .. } => {
            shared.start_thread(worker, seat).map_err(|error| error.to_string())?;
        }
    }
    Ok(None)
}

/// Orders a worker, from a new fork server if there is none.
fn order(
    shared: &Shared,
    recipe: &Recipe,
    seat: u32,
    wires: Wires,
    forks: &mut Option<ForkServer>,
) -> Result<Ordered, String> {
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
    let ordered = forks.as_ref().map(|server| server.order(recipe, seat, wires));
    unless_useless(ordered, forks)
}

/// Waits until a worker is there that was ordered.
fn forked(
    shared: &Shared,
    ordered: Ordered,
    forks: &mut Option<ForkServer>,
) -> Result<Started, String> {
    let Some(recipe) = shared.settings.recipe() else { return Err("has no recipe".to_owned()) };
    let started = forks.as_ref().map(|server| server.started(recipe, ordered));
    unless_useless(started, forks)
}

/// A fork server that does not answer as it should is ended.
fn unless_useless<R>(
    answer: Option<Result<R, NotForked>>,
    forks: &mut Option<ForkServer>,
) -> Result<R, String> {
    match answer {
        Some(Ok(done)) => Ok(done),
        Some(Err(NotForked::ThisTime(error))) => Err(error.to_string()),
        Some(Err(NotForked::Useless(error))) => {
            // with it end its workers, whose ends it could not tell any more
            *forks = None;
            Err(error.to_string())
        }
        None => Err("there is no fork server".to_owned()),
    }
}

/// What lies in the task queue of a worker when it starts: without an initializer, the question whether it is ready.
fn first_message(settings: &Settings) -> Vec<u8> {
    let mut message = Vec::new();
    if settings.initializer.is_none() {
        let nothing = ToWorker::Initialize { callee: Callee::BY_NAME, input: &[] };
        to_worker::push(&nothing, &mut message);
    }
    message
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
        if let Some((callee, input, attachments)) = &self.settings.initializer {
            link.push_attachments(attachments);
            link.push(&ToWorker::Initialize { callee: *callee, input });
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
        // its start is limited in time
        core.wake_in_time(&mut effects);
        self.finish(core, effects);
        Ok(())
    }
}
