//! What the lock guards: the scheduler, and for each of its keys the things that it does not know: arguments, handles, processes.

use std::sync::{Arc, mpsc};

use super::Settings;
use super::functions::Functions;
use super::observer::Observer;
use super::slots::{PoolRef, SlotRef, Slots};
use super::task::{Body, Extras, Finish, Payload, Request, settle_finished};
use super::timings::{Times, Timings};
use crate::backend::Link;
use crate::backend::process::exit::OomKills;
use crate::backend::process::fork_server::WorkerEnds;
use crate::backend::process::link::ProcessLink;
use crate::backend::process::tagging::Tagger;
use crate::error::{SubmitError, TaskInfo};
use crate::events::PoolEvent;
use crate::ids::{Lease, TaskKey, WorkerKey};
use crate::limits::{ASIDE_BYTES, LARGE_BYTES};
use crate::output::TaskOutput;
use crate::primitives::unharmed;
use crate::sched::{Action, Event, Phase, Scheduler, Spec};
use crate::small_bytes::SmallBytes;
use crate::sys::poll::Watch;
use crate::sys::{clock, process};
use crate::task::job::{Outcome, Value};
use crate::wire::from_worker::Header;

/// One in so many submissions looks what workers have answered; of those with larger arguments, each.
const LOOK_EVERY: u64 = 32;

/// With fewer unfinished tasks, the waiting of each is observed.
const FEW: usize = 8;

/// A process to be started.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpawnRequest {
    pub(super) worker: WorkerKey,
    pub(super) seat: u32,
}

/// What is done after the lock was let go.
#[derive(Default)]
pub(crate) struct Effects {
    pub(super) settled: Vec<(SlotRef, Outcome)>,
    /// Those whose outcome goes to the callback thread first.
    pub(super) finishing: Vec<(SlotRef, Outcome, Finish)>,
    /// Arguments that nobody needs any more: freeing them takes time.
    pub(super) garbage: Vec<Payload>,
    /// Shared objects that may have lost their last user here: unmapping takes time too.
    #[expect(clippy::vec_box, reason = "as they come: moving what is in them would cost more")]
    pub(super) released: Vec<Box<Extras>>,
    /// Results of tasks that were settled before.
    pub(super) unwanted: Vec<Outcome>,
    /// The pool has stopped: what is left of the output is to be written.
    pub(super) tagger: Option<Tagger>,
    pub(super) phase_changed: bool,
    /// The pool's thread sleeps longer than it should now.
    pub(super) hurry: bool,
}

impl Effects {
    /// Tells a handle, after the callbacks if there are any, and frees what the task had.
    pub(super) fn settle(&mut self, body: Body, outcome: Outcome) {
        let (slot, payload, mut extras) = body.into_parts();
        match extras.as_mut().and_then(|extras| extras.finish.take()) {
            None => self.tell(slot, outcome),
            Some(finish) => {
                // under the lock: who waits for callbacks after the last worker has left waits for this one
                slot.pool_ref().courier.expect();
                self.finishing.push((slot, outcome, finish));
            }
        }
        if !payload.is_small() {
            self.garbage.push(payload);
        }
        self.released.extend(extras);
    }

    fn is_nothing(&self) -> bool {
        self.settled.is_empty()
            && self.finishing.is_empty()
            && self.garbage.is_empty()
            && self.unwanted.is_empty()
    }

    /// At once if that takes no time and calls nobody's code: nobody waits for a result of few bytes, or for an error, of which there are as many as tasks when a pool is
    /// terminated. The others are told without the lock.
    fn tell(&mut self, slot: SlotRef, outcome: Outcome) {
        let untold = match outcome {
            Ok(Value::Encoded(bytes)) if !bytes.is_many() => {
                slot.settle_unwaited(Ok(Value::Encoded(bytes)))
            }
            Err(error) => slot.settle_unwaited(Err(error)),
            other => Err(other),
        };
        if let Err(outcome) = untold {
            self.settled.push((slot, outcome));
        }
    }
}

impl Drop for Effects {
    /// Also when the lock's owner panics: a task that the scheduler has settled is forgotten there, so its handle must be told.
    fn drop(&mut self) {
        if self.is_nothing() {
            return;
        }
        for (slot, outcome) in self.settled.drain(..) {
            // the drop of a result that nobody wants is user code, which may panic
            unharmed(|| {
                let settled = slot.settle(outcome);
                debug_assert!(settled.is_ok(), "the scheduler settles each task once");
                drop(slot);
            });
        }
        for outcome in self.unwanted.drain(..) {
            unharmed(|| drop(outcome));
        }
        for (slot, outcome, finish) in self.finishing.drain(..) {
            let courier = Arc::clone(&slot.pool_ref().courier);
            courier.send_expected(move || settle_finished(&slot, outcome, finish));
        }
        self.garbage.drain(..).for_each(Payload::discard);
    }
}

/// See the module's documentation.
pub(crate) struct Core {
    pub(crate) sched: Scheduler,
    pub(super) settings: Arc<Settings>,
    pub(super) watch: Arc<Watch>,
    pub(super) observer: Option<Observer>,
    pub(super) timings: Timings,
    pub(super) tagger: Option<Tagger>,
    pub(super) links: Vec<Option<Link>>,
    pub(super) bodies: Vec<Option<Body>>,
    /// Large arguments that the pool's thread is to free, and their size.
    pub(super) aside: Vec<Payload>,
    pub(super) aside_bytes: usize,
    /// Scratch, empty between two events.
    pub(super) actions: Vec<Action>,
    pub(super) frames: Vec<(Header, SmallBytes)>,
    pub(super) read_buffer: Vec<u8>,
    /// The first lane to be looked at the next time, if there are many.
    pub(super) next_lane: usize,
    /// Workers that had more to say than one round takes.
    pub(super) unread: Vec<WorkerKey>,
    /// The pool's thread has something to do at once.
    pub(super) hurry: bool,
    /// Where fork servers tell how workers have ended, and workers that have ended of which that was not told yet.
    pub(super) ends: Vec<Arc<WorkerEnds>>,
    pub(super) untold: Vec<WorkerKey>,
    /// What of the sandbox workers could not apply.
    pub(crate) sandbox_gaps: Vec<String>,
    /// What finalizers have given.
    pub(crate) finalized: Vec<Outcome>,
    slots: Slots,
    pub(super) functions: Functions,
    pub(super) spawner: Option<mpsc::Sender<SpawnRequest>>,
    /// Tasks with a time limit, and when to look at those that run.
    pub(super) limited: usize,
    pub(super) next_limit_check: u64,
    /// Until when the pool's thread sleeps, at most.
    pub(super) sleeps_until: u64,
    /// When the pool's thread last looked at the clock, the last pauses of this process, and whether one has just been found.
    pub(super) last_turn: u64,
    /// The last time that was told to the scheduler: good enough for what happens between two looks at the clock.
    seen_ns: u64,
    pub(super) pauses: Vec<(u64, u64)>,
    pub(super) excused: bool,
    pub(super) phase: Phase,
    /// The task that is being submitted will be attended: a parked worker may stay so.
    pub(super) attended_next: bool,
    pub(super) image: Option<[u64; 4]>,
    pub(super) oom_kills: OomKills,
}

impl Core {
    pub(super) fn new(
        settings: Arc<Settings>,
        watch: Arc<Watch>,
        pool_ref: Arc<PoolRef>,
        spawner: mpsc::Sender<SpawnRequest>,
    ) -> Core {
        let is_copy = settings.recipe().is_some_and(|recipe| recipe.executable.is_none());
        Core {
            sched: Scheduler::new(settings.sched.clone()),
            settings,
            watch,
            observer: None,
            timings: Timings::new(),
            tagger: None,
            links: Vec::new(),
            bodies: Vec::new(),
            aside: Vec::new(),
            aside_bytes: 0,
            actions: Vec::new(),
            frames: Vec::new(),
            read_buffer: Vec::new(),
            next_lane: 0,
            unread: Vec::new(),
            hurry: false,
            ends: Vec::new(),
            untold: Vec::new(),
            sandbox_gaps: Vec::new(),
            finalized: Vec::new(),
            slots: Slots::new(pool_ref),
            functions: Functions::default(),
            spawner: Some(spawner),
            limited: 0,
            next_limit_check: u64::MAX,
            sleeps_until: u64::MAX,
            last_turn: clock::now_ns(),
            seen_ns: clock::now_ns(),
            pauses: Vec::new(),
            excused: false,
            phase: Phase::Running,
            attended_next: false,
            image: is_copy.then(|| process::image_id().ok()).flatten(),
            oom_kills: OomKills::default(),
        }
    }

    /// The worker of a handle's task that is running, and what it is called there.
    pub(crate) fn running(&self, key: TaskKey, slot: &SlotRef) -> Option<(&Link, Lease)> {
        if !self.is_task(key, slot) {
            return None;
        }
        let (worker, lease) = self.sched.lease_of(key)?;
        Some((self.link(worker)?, lease))
    }

    /// Tells the scheduler and does what it wants.
    pub(super) fn event(&mut self, event: Event<'_>, now: u64, effects: &mut Effects) {
        self.seen_ns = now;
        self.sched.handle(event, now, &mut self.actions);
        self.perform(now, effects);
    }

    /// How many tasks were submitted.
    pub(super) fn submitted(&self) -> u64 {
        self.slots.next_id() - 1
    }

    /// The pool is open, so this can't fail.
    #[inline]
    pub(super) fn submit(&mut self, request: Request, effects: &mut Effects) -> SlotRef {
        let Request {
            callee,
            name,
            payload,
            extras,
            items,
            retries,
            priority,
            backoff_ns,
            attended,
        } = request;
        let function = self.functions.number(callee, name);
        let limited = extras.as_ref().is_some_and(|extras| extras.limits().any());
        self.limited += usize::from(limited);
        // with several tasks under way, the waiting of one in eight tells enough: looking at the clock costs as much as many a task
        let id = self.slots.next_id();
        let reads = id.is_multiple_of(LOOK_EVERY) || !payload.is_small();
        let looks = reads
            || self.sched.unfinished() < FEW
            || id.is_multiple_of(8)
            || self.limited > 0
            || self.sched.is_elastic();
        let now = if looks { clock::now_ns() } else { self.seen_ns };
        self.seen_ns = now;
        let body = Body::new(self.slots.take(), if looks { now } else { 0 }, payload, extras);
        let size = body.size();
        let spec = Spec { function, size, items, retries, priority, backoff_ns };
        if let Some(observer) = &mut self.observer {
            let task = body.info(function, &self.functions);
            observer.tell(PoolEvent::TaskSubmitted { task });
        }
        if reads {
            // who submits without a pause leaves the lock to nobody else for long, and has at hand what it takes
            self.read_lanes(now, effects);
        }
        let key = self.sched.submit(spec, now, &mut self.actions);
        let slot = body.slot_ref(key);
        put(&mut self.bodies, key.index(), body);
        if !self.actions.is_empty() {
            self.attended_next = attended;
            self.perform(now, effects);
            self.attended_next = false;
        }
        slot
    }

    pub(super) fn check_open(&self) -> Result<(), SubmitError> {
        match (self.sched.phase(), self.sched.broken()) {
            (Phase::Running, _) => Ok(()),
            (_, Some(reason)) => Err(SubmitError::Broken(reason.reason())),
            (_, None) => Err(SubmitError::Closed),
        }
    }

    /// Whether waiting submitters should be woken: not for each single place, unless workers run out of tasks.
    #[inline]
    pub(super) fn has_room(&self, max_pending: usize) -> bool {
        let unfinished = self.sched.unfinished();
        let plenty = unfinished <= max_pending - max_pending / 4;
        unfinished < max_pending && (plenty || self.sched.is_starved())
    }

    /// Whether this key still means the task of this handle.
    pub(crate) fn is_task(&self, key: TaskKey, slot: &SlotRef) -> bool {
        let body = self.bodies.get(key.index()).and_then(Option::as_ref);
        body.is_some_and(|body| body.has(slot))
    }

    pub(crate) fn link(&self, worker: WorkerKey) -> Option<&Link> {
        self.links.get(worker.index())?.as_ref()
    }

    pub(crate) fn task_info(&self, key: TaskKey) -> Option<TaskInfo> {
        let body = self.bodies.get(key.index())?.as_ref()?;
        Some(body.info(self.sched.function(key)?, &self.functions))
    }

    pub(super) fn link_mut(&mut self, worker: WorkerKey) -> Option<&mut Link> {
        self.links.get_mut(worker.index())?.as_mut()
    }

    /// The link of a worker that is a process.
    pub(super) fn process_mut(&mut self, worker: WorkerKey) -> Option<&mut ProcessLink> {
        self.link_mut(worker)?.as_process_mut()
    }

    /// Tells the observer, if there is one.
    pub(super) fn tell(&mut self, event: impl FnOnce() -> PoolEvent) {
        if let Some(observer) = &mut self.observer {
            observer.tell(event());
        }
    }

    /// How long tasks have waited and run, and which part of the workers' time was used.
    pub(crate) fn times(&self) -> (Times, Times, f64) {
        let (run, wait) = (self.timings.run(), self.timings.wait());
        let available = self.sched.worker_time(clock::now_ns());
        let used = self.timings.busy_ns as f64 / available.max(1) as f64;
        (run, wait, used.min(1.0))
    }

    /// Leaves large arguments, which nobody needs any more, to the pool's thread.
    pub(super) fn lay_aside(&mut self, body: &mut Body) {
        let len = body.payload.len();
        if len > LARGE_BYTES && self.aside_bytes + len <= ASIDE_BYTES {
            self.aside.push(std::mem::replace(&mut body.payload, Payload::NONE));
            self.aside_bytes += len;
            self.hurry = true;
        }
    }

    /// Keeps what the task that a worker is running has printed, before its end is told.
    pub(super) fn keep_output(&self, worker: WorkerKey, lease: Lease) {
        let link = self.link(worker).and_then(Link::as_process);
        if let Some(output) = link.and_then(ProcessLink::captured) {
            self.put_output(worker, lease, output);
        }
    }

    /// Keeps the last lines of a dead worker's standard error for the error of its task, and has the rest written by the thread that does.
    pub(super) fn keep_last_lines(&mut self, worker: WorkerKey) {
        let Some(link) = self.process_mut(worker) else { return };
        link.keep_last_lines();
        let tag = link.tag;
        if let (Some(tagger), Some(tag)) = (&self.tagger, tag) {
            drop(tagger.finish_one(tag));
        }
    }

    pub(super) fn put_output(&self, worker: WorkerKey, lease: Lease, output: TaskOutput) {
        let holder = self.sched.worker(worker);
        let task = holder.and_then(|w| w.running_order().find(|(_, held)| *held == lease));
        if let Some((task, _)) = task
            && let Some(body) = self.bodies.get(task.index()).and_then(Option::as_ref)
        {
            body.slot().set_output(output);
        }
    }

    pub(super) fn close_spawner(&mut self) {
        self.spawner = None;
    }
}

/// Puts a value at a key of the scheduler's.
pub(super) fn put<T>(table: &mut Vec<Option<T>>, index: usize, value: T) {
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    table[index] = Some(value);
}
