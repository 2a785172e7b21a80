//! What the lock guards: the scheduler, and for each of its keys the things that it does not know: arguments, handles, processes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::Settings;
use crate::attach::Attachments;
use crate::backend::process::link::Link;
use crate::error::{SubmitError, TaskError, TaskInfo};
use crate::ids::{TaskId, TaskKey, WorkerKey};
use crate::limits::{ATTACHMENT_BYTES, INLINE_BYTES};
use crate::sched::{Action, Event, Phase, Scheduler, Spec};
use crate::slot::Slot;
use crate::sys::poll::Watch;
use crate::sys::{clock, process};
use crate::task::callee::Callee;
use crate::wire::from_worker::Header;

/// The bytes of a result, or why there is none.
pub(crate) type Outcome = Result<Vec<u8>, TaskError>;

pub(crate) type TaskSlot = Slot<Outcome>;

/// Encoded arguments.
#[derive(Debug)]
pub(crate) enum Payload {
    Inline(Vec<u8>),
    /// To be passed in pieces, for which it is shared with the link.
    Big(Arc<Vec<u8>>),
}

impl Payload {
    pub(crate) fn new(bytes: Vec<u8>) -> Payload {
        if bytes.len() > INLINE_BYTES {
            Payload::Big(Arc::new(bytes))
        } else {
            Payload::Inline(bytes)
        }
    }

    fn len(&self) -> usize {
        match self {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Big(bytes) => bytes.len(),
        }
    }
}

/// A task to be taken in.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) callee: Callee,
    pub(crate) name: Cow<'static, str>,
    pub(crate) payload: Payload,
    pub(crate) attachments: Attachments,
    pub(crate) items: u32,
    pub(crate) retries: u32,
    pub(crate) timeout: Option<Duration>,
    /// The caller waits for the result next, and reads the worker's replies itself.
    pub(crate) awaited: bool,
    pub(crate) slot: Arc<TaskSlot>,
}

/// A task that is not settled.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) id: TaskId,
    pub(super) name: Cow<'static, str>,
    pub(super) callee: Callee,
    pub(super) payload: Payload,
    /// Kept until the task is settled: it may be sent again.
    pub(super) attachments: Attachments,
    pub(super) limit_ns: Option<u64>,
    pub(super) slot: Arc<TaskSlot>,
}

impl Body {
    pub(super) fn info(&self) -> TaskInfo {
        TaskInfo { id: self.id, name: self.name.clone().into_owned() }
    }
}

/// A process to be started.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpawnRequest {
    pub(super) worker: WorkerKey,
    pub(super) seat: u32,
}

/// What is done after the lock was let go.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(super) settled: Vec<(Arc<TaskSlot>, Outcome)>,
    /// Arguments that nobody needs any more: freeing them takes time.
    pub(super) garbage: Vec<Payload>,
    /// Shared objects that may have lost their last user here: unmapping takes time too.
    pub(super) released: Vec<Attachments>,
    pub(super) phase_changed: bool,
    /// The pool's thread sleeps longer than it should now.
    pub(super) hurry: bool,
}

impl Drop for Effects {
    /// Also when the lock's owner panics: a task that the scheduler has settled is forgotten there, so its handle must be told.
    fn drop(&mut self) {
        for (slot, outcome) in self.settled.drain(..) {
            let settled = slot.settle(outcome);
            debug_assert!(settled.is_ok(), "the scheduler settles each task once");
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) sched: Scheduler,
    pub(super) settings: Arc<Settings>,
    pub(super) watch: Arc<Watch>,
    pub(super) links: Vec<Option<Link>>,
    pub(super) bodies: Vec<Option<Body>>,
    /// Scratch, empty between two events.
    pub(super) actions: Vec<Action>,
    pub(super) frames: Vec<(Header, Vec<u8>)>,
    pub(super) read_buffer: Vec<u8>,
    /// Workers that had more to say than one round takes.
    pub(super) unread: Vec<WorkerKey>,
    /// The outcome of the reply that is being told to the scheduler.
    pub(super) reply: Option<Outcome>,
    pub(super) next_id: u64,
    functions: HashMap<Callee, u32>,
    last_function: Option<(Callee, u32)>,
    pub(super) spawner: Option<mpsc::Sender<SpawnRequest>>,
    /// Tasks with a time limit, and when to look at those that run.
    pub(super) limited: usize,
    pub(super) next_limit_check: u64,
    /// Until when the pool's thread sleeps, at most.
    pub(super) sleeps_until: u64,
    pub(super) phase: Phase,
    /// The task that is being submitted will be attended: a parked worker may stay so.
    pub(super) attended_next: bool,
    pub(super) image: Option<[u64; 4]>,
    pub(super) oom_kills: Option<u64>,
}

impl Core {
    pub(super) fn new(
        settings: Arc<Settings>,
        watch: Arc<Watch>,
        spawner: mpsc::Sender<SpawnRequest>,
    ) -> Core {
        let is_copy = settings.recipe.executable.is_none();
        Core {
            sched: Scheduler::new(settings.sched.clone()),
            settings,
            watch,
            links: Vec::new(),
            bodies: Vec::new(),
            actions: Vec::new(),
            frames: Vec::new(),
            read_buffer: Vec::new(),
            unread: Vec::new(),
            reply: None,
            next_id: 1,
            functions: HashMap::new(),
            last_function: None,
            spawner: Some(spawner),
            limited: 0,
            next_limit_check: u64::MAX,
            sleeps_until: u64::MAX,
            phase: Phase::Running,
            attended_next: false,
            image: is_copy.then(|| process::image_id().ok()).flatten(),
            oom_kills: process::oom_kills(),
        }
    }

    /// Tells the scheduler and does what it wants.
    pub(super) fn event(&mut self, event: Event<'_>, now: u64, effects: &mut Effects) {
        self.sched.handle(event, now, &mut self.actions);
        self.perform(now, effects);
    }

    /// The pool is open, so this can't fail.
    pub(super) fn submit(&mut self, request: Request, effects: &mut Effects) -> TaskKey {
        let function = self.function(request.callee);
        let spec = Spec {
            function,
            size: request.payload.len() as u64
                + request.attachments.objects().len() as u64 * ATTACHMENT_BYTES,
            items: request.items,
            retries: request.retries,
        };
        let limit_ns =
            request.timeout.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        self.limited += usize::from(limit_ns.is_some());
        let body = Body {
            id: TaskId(self.next_id),
            name: request.name,
            callee: request.callee,
            payload: request.payload,
            attachments: request.attachments,
            limit_ns,
            slot: request.slot,
        };
        self.next_id += 1;
        let now = if self.sched.any_idle() { clock::now_ns() } else { 0 };
        let key = self.sched.submit(spec, now, &mut self.actions);
        put(&mut self.bodies, key.index(), body);
        if !self.actions.is_empty() {
            self.attended_next = request.awaited;
            self.perform(now, effects);
            self.attended_next = false;
        }
        key
    }

    /// The scheduler's number for a function. Most programs submit the same one many times.
    fn function(&mut self, callee: Callee) -> u32 {
        if let Some((last, function)) = self.last_function
            && last == callee
        {
            return function;
        }
        let known = self.functions.len() as u32;
        let function = *self.functions.entry(callee).or_insert(known);
        self.last_function = Some((callee, function));
        function
    }

    pub(super) fn check_open(&self) -> Result<(), SubmitError> {
        match (self.sched.phase(), self.sched.broken()) {
            (Phase::Running, _) => Ok(()),
            (_, Some(reason)) => Err(SubmitError::Broken(reason.to_string())),
            (_, None) => Err(SubmitError::Closed),
        }
    }

    /// Whether waiting submitters should be woken: not for each single place, unless workers run out of tasks.
    pub(super) fn has_room(&self, max_pending: usize) -> bool {
        let unfinished = self.sched.unfinished();
        let plenty = unfinished <= max_pending - max_pending / 4;
        unfinished < max_pending && (plenty || self.sched.is_starved())
    }

    /// Whether this key still means the task of this handle.
    pub(crate) fn is_task(&self, key: TaskKey, slot: &Arc<TaskSlot>) -> bool {
        let body = self.bodies.get(key.index()).and_then(Option::as_ref);
        body.is_some_and(|body| Arc::ptr_eq(&body.slot, slot))
    }

    pub(crate) fn link(&self, worker: WorkerKey) -> Option<&Link> {
        self.links.get(worker.index())?.as_ref()
    }

    pub(crate) fn task_info(&self, key: TaskKey) -> Option<TaskInfo> {
        self.bodies.get(key.index())?.as_ref().map(Body::info)
    }

    pub(super) fn link_mut(&mut self, worker: WorkerKey) -> Option<&mut Link> {
        self.links.get_mut(worker.index())?.as_mut()
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
