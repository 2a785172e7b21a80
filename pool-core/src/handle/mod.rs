//! Handles: what a caller has of a task that was submitted.

mod joining;
mod map;
mod queue;
mod wait;
mod waitable;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

pub(crate) use joining::Joinable;
pub use joining::Joining;
pub use map::MapResult;
pub(crate) use map::outcome as chunk_outcome;
pub(crate) use queue::CompletionQueue;
pub use wait::{
    AsCompleted, CompletedStream, Unfinished, as_completed, first_error, wait_all, wait_any,
    wait_any_timeout,
};
pub(crate) use waitable::{Pending, sentinel};
pub use waitable::{Waitable, wait};

use crate::dispatch::{Courier, Shared, SlotRef};
use crate::error::TaskError;
use crate::ids::TaskKey;
use crate::output::TaskOutput;
use crate::primitives::unpoisoned;
use crate::sys::clock;
use crate::task::job::{Value, opened};
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
    decode: Decode<R>,
}

/// How a result becomes a value; the number is the largest result of the pool, for messages.
pub(crate) type Decode<R> = fn(Value, u64) -> Result<R, TaskError>;

/// A task, without the type of its result.
#[derive(Clone)]
pub(crate) struct TaskRef(SlotRef);

impl TaskRef {
    #[inline]
    pub(crate) fn new(slot: SlotRef) -> TaskRef {
        TaskRef(slot)
    }

    #[inline]
    pub(crate) fn slot(&self) -> &SlotRef {
        &self.0
    }

    /// Has the waker woken when the task is settled; `false`: it is, and the waker was not kept.
    pub(crate) fn register(&self, waker: &Waker) -> bool {
        let kept = self.0.register(waker);
        if kept && let Some((pool, key)) = self.0.pool() {
            pool.expect(key, &self.0);
        }
        kept
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        if self.0.is_settled() {
            return true;
        }
        match self.0.pool() {
            Some((pool, key)) => pool.wait(key, &self.0, deadline),
            None => self.0.wait(deadline),
        }
    }

    /// Whether it is ready, or will be soon, once it has begun: by what was observed of its function.
    pub(crate) fn is_quick(&self) -> bool {
        let is_quick = |(pool, key): (Arc<Shared>, TaskKey)| {
            let core = pool.lock();
            core.is_task(key, &self.0) && core.is_quick(key)
        };
        self.0.pool().is_some_and(is_quick) || self.0.is_settled()
    }

    pub(crate) fn cancel(&self) -> bool {
        !self.0.is_settled() && self.0.pool().is_some_and(|(pool, key)| pool.cancel(key, &self.0))
    }

    fn pid(&self) -> Option<u32> {
        self.running().map(|(pid, _)| pid)
    }

    /// The process that runs the task, and since when by the monotonic clock.
    fn running(&self) -> Option<(u32, u64)> {
        let (pool, key) = self.0.pool()?;
        let core = pool.lock();
        let (link, lease) = core.running(key, &self.0)?;
        match link.page().progress(lease) {
            Progress::Started { at_ns } => Some((link.pid(), at_ns)),
            _ => None,
        }
    }

    fn request_cancel(&self) -> bool {
        self.0.pool().is_some_and(|(pool, key)| pool.ask_to_end(key, &self.0))
    }

    fn on_done(&self, callback: impl FnOnce() + Send + 'static) {
        let courier = Arc::clone(&self.0.pool_ref().courier);
        let errand = Arc::new(Errand { courier, callback: Mutex::new(Some(Box::new(callback))) });
        if !self.register(&Waker::from(Arc::clone(&errand))) {
            errand.wake();
        }
    }
}

/// A callback that is sent to its thread when a slot wakes it.
struct Errand {
    courier: Arc<Courier>,
    callback: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Wake for Errand {
    fn wake(self: Arc<Self>) {
        if let Some(callback) = unpoisoned(self.callback.lock()).take() {
            self.courier.send(callback);
        }
    }
}

impl<R> AsyncResult<R> {
    #[inline]
    pub(crate) fn new(task: TaskRef, decode: Decode<R>) -> Self {
        AsyncResult { task, decode }
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
        self.task.slot().is_settled()
    }

    /// Whether the task has a result: `false` if it has failed, or is not [`ready`](Self::ready) yet. Never blocks.
    #[must_use]
    pub fn successful(&self) -> bool {
        self.task.slot().with(Result::is_ok).unwrap_or(false)
    }

    /// Ends the task with [`TaskError::Cancelled`]: if it has not been started, it never is; if it runs, its worker process is killed and
    /// replaced. A task that runs on a thread can't be ended: it is only asked to, as by [`request_cancel`](Self::request_cancel), and `false` is returned. Returns whether it was cancelled: `false` if it had finished before. Never blocks.
    pub fn cancel(&self) -> bool {
        self.task.cancel()
    }

    /// Asks the task to come to an end: [`worker::cancelled`](crate::worker::cancelled) tells it from now on. What it makes of it is its own affair: its result, if it
    /// has one, is the result of the handle. A task that has not been started is [cancelled](Self::cancel). Returns whether the task had not finished before. Never blocks.
    pub fn request_cancel(&self) -> bool {
        self.task.request_cancel()
    }

    /// The process id of the worker that is running the task (of this process, for a thread); `None` while it waits and after it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.task.pid()
    }

    /// What the task has printed, when it is ready, if the pool [captures](crate::Output::Captured) it; `None` if not, or if it has printed nothing. A map's tasks are its chunks,
    /// whose output is not kept.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::Output;
    /// let pool = pool_core::Pool::builder().processes(1).stdout(Output::Captured).build()?;
    /// let handle = pool.apply_async(|| -> () { println!("so far"); std::process::abort() }, ())?;
    /// handle.wait();
    /// assert_eq!(handle.output().unwrap().stdout, b"so far\n");
    /// # handle.get().unwrap_err();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn output(&self) -> Option<TaskOutput> {
        self.task.slot().output()
    }

    /// When the worker has started the task; `None` while it waits and after it has ended.
    #[must_use]
    pub fn started_at(&self) -> Option<Instant> {
        let (_, at_ns) = self.task.running()?;
        let ago = Duration::from_nanos(clock::now_ns().saturating_sub(at_ns));
        Instant::now().checked_sub(ago)
    }

    /// Has `callback` called on the pool's callback thread as soon as the task has a result or has failed: at once if it has. May be called several times. To have the
    /// result in the callback, see [`Call::on_success`](crate::Call::on_success).
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(1)?;
    /// let handle = pool.apply_async(u64::pow, (3, 4))?;
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// handle.on_done(move || sender.send("done").unwrap());
    /// assert_eq!(receiver.recv()?, "done");
    /// assert!(handle.ready());
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_done(&self, callback: impl FnOnce() + Send + 'static) {
        self.task.on_done(callback);
    }

    /// `None`: not yet. What the slot keeps stays there until the result is decoded, which may name it.
    pub(super) fn take(&self) -> Option<Result<R, TaskError>> {
        self.take_with(self.decode)
    }

    /// The same with another function that decodes.
    pub(super) fn take_with<T>(
        &self,
        decode: impl FnOnce(Value, u64) -> Result<T, TaskError>,
    ) -> Option<Result<T, TaskError>> {
        let limit = self.task.slot().pool_ref().max_result;
        Some(match self.task.slot().take()? {
            Some(outcome) => opened(outcome, |value| decode(value, limit)),
            None => Err(TaskError::AlreadyTaken),
        })
    }
}

impl<R> Drop for AsyncResult<R> {
    fn drop(&mut self) {
        self.task.slot().abandon();
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R, TaskError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.task.register(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(self.take().unwrap_or(Err(TaskError::AlreadyTaken)))
    }
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.task.slot().with(Result::is_ok) {
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
