//! Handles: what a caller has of a task that was submitted.

mod map;
mod wait;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub use map::MapResult;
pub(crate) use map::outcome as chunk_outcome;
pub(crate) use wait::CompletionQueue;
pub use wait::{AsCompleted, as_completed, wait_all, wait_any, wait_any_timeout};

use crate::attach::Attachments;
use crate::dispatch::{Outcome, Shared, TaskSlot};
use crate::error::TaskError;
use crate::ids::TaskKey;
use crate::slot::Slot;
use crate::transport::status::Progress;

/// The result of a task, as soon as there is one: to be blocked on with [`get`](AsyncResult::get), or awaited on any executor.
///
/// The value can be taken once. Dropping the handle detaches the task: it goes on, and its result is thrown away.
/// Awaiting is cancel-safe: a dropped future leaves the task alone too.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let pool = pool_core::Pool::new(2)?;
/// let handle = pool.apply_async(u64::pow, (3, 4))?;
/// assert_eq!(handle.get()?, 81);
///
/// let handle = pool.apply_async(u64::pow, (3, 5))?;
/// assert_eq!(futures::executor::block_on(handle)?, 243);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the handle detaches the task; use `drop` to say so"]
pub struct AsyncResult<R> {
    task: TaskRef,
    decode: fn(&[u8], u64) -> Result<R, TaskError>,
}

/// A task, without the type of its result.
#[derive(Clone)]
pub(crate) struct TaskRef {
    shared: Arc<Shared>,
    slot: Arc<TaskSlot>,
    /// `None` for a task that was settled before it was submitted.
    key: Option<TaskKey>,
    /// Shared objects of the arguments: the result may name them.
    _kept: Attachments,
}

impl TaskRef {
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<TaskSlot>, key: Option<TaskKey>) -> TaskRef {
        TaskRef { shared, slot, key, _kept: Attachments::default() }
    }

    /// Keeps these objects as long as the handle lives, but no ends of pipes: those must be closed when the task has ended.
    pub(crate) fn keeping(self, attachments: Attachments) -> TaskRef {
        TaskRef { _kept: attachments.only_memory(), ..self }
    }

    pub(crate) fn slot(&self) -> &TaskSlot {
        &self.slot
    }

    fn wait(&self, deadline: Option<Instant>) -> bool {
        match self.key {
            Some(key) => self.shared.wait(key, &self.slot, deadline),
            None => true,
        }
    }

    fn cancel(&self) -> bool {
        let Some(key) = self.key else { return false };
        let is_cancelled = |outcome: &Outcome| *outcome == Err(TaskError::Cancelled);
        if self.slot.is_settled() {
            return false;
        }
        self.shared.cancel(key, &self.slot);
        self.slot.with(is_cancelled).unwrap_or(false)
    }

    fn pid(&self) -> Option<u32> {
        let key = self.key?;
        let core = self.shared.lock();
        if !core.is_task(key, &self.slot) {
            return None;
        }
        let (worker, lease) = core.sched.lease_of(key)?;
        let link = core.link(worker)?;
        matches!(link.page.progress(lease), Progress::Started { .. }).then_some(link.pid)
    }
}

impl<R> AsyncResult<R> {
    pub(crate) fn new(task: TaskRef, decode: fn(&[u8], u64) -> Result<R, TaskError>) -> Self {
        AsyncResult { task, decode }
    }

    /// A handle of a task that never was one.
    pub(crate) fn settled(
        shared: &Arc<Shared>,
        outcome: Outcome,
        decode: fn(&[u8], u64) -> Result<R, TaskError>,
    ) -> Self {
        let slot = Arc::new(Slot::of(outcome));
        AsyncResult::new(TaskRef::new(Arc::clone(shared), slot, None), decode)
    }

    pub(crate) fn task(&self) -> &TaskRef {
        &self.task
    }

    /// Waits for the result and gives it. Blocks as long as the task takes; use [`get_timeout`](Self::get_timeout) for a limit.
    ///
    /// # Errors
    /// The reason why there is no result: see [`TaskError`].
    pub fn get(self) -> Result<R, TaskError> {
        self.task.wait(None);
        self.take().unwrap_or(Err(TaskError::AlreadyTaken))
    }

    /// Waits for the result for at most `timeout` and gives it. The task goes on when the time is up, and the handle stays good.
    ///
    /// # Errors
    /// [`TaskError::NotReady`] when the time is up, [`TaskError::AlreadyTaken`] if an earlier call has given the result; else the reason
    /// why there is no result.
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<R, TaskError> {
        self.task.wait(Some(deadline(timeout)));
        self.take().unwrap_or(Err(TaskError::NotReady(timeout)))
    }

    /// Waits until the task has a result or has failed.
    pub fn wait(&self) {
        self.task.wait(None);
    }

    /// Waits for at most `timeout`; returns whether the task has a result or has failed.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.task.wait(Some(deadline(timeout)))
    }

    /// Whether the task has a result or has failed. Never blocks.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.task.slot.is_settled()
    }

    /// Whether the task has a result: `false` if it has failed, or is not [`ready`](Self::ready) yet. Never blocks.
    #[must_use]
    pub fn successful(&self) -> bool {
        self.task.slot.with(Result::is_ok).unwrap_or(false)
    }

    /// Ends the task with [`TaskError::Cancelled`]: if it has not been started, it never is; if it runs, its worker is killed and
    /// replaced. Returns whether it was cancelled: `false` if it had finished before. Never blocks.
    pub fn cancel(&self) -> bool {
        self.task.cancel()
    }

    /// The process id of the worker that is running the task; `None` while it waits and after it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.task.pid()
    }

    fn take(&self) -> Option<Result<R, TaskError>> {
        let outcome = self.task.slot.take()?;
        let limit = self.task.shared.settings.recipe.max_result;
        Some(match outcome {
            Some(Ok(bytes)) => (self.decode)(&bytes, limit),
            Some(Err(error)) => Err(error),
            None => Err(TaskError::AlreadyTaken),
        })
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R, TaskError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.task.slot.register(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(self.take().unwrap_or(Err(TaskError::AlreadyTaken)))
    }
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.task.slot.with(Result::is_ok) {
            Some(true) => "successful",
            Some(false) => "failed",
            None if self.ready() => "taken",
            None if self.pid().is_some() => "running",
            None => "waiting",
        };
        f.debug_struct("AsyncResult").field("state", &state).finish_non_exhaustive()
    }
}

/// A time so far away that it can't be added is for ever.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)))
}
