//! The results of a map.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{AsyncResult, CompletionQueue, TaskRef, deadline};
use crate::error::TaskError;
use crate::task::chunk::Chunk;
use crate::task::job::Value;

/// The results of [`map_async`](crate::Pool::map_async), in the order of the input, as soon as all are there.
///
/// Dropping it detaches the tasks. It can be blocked on or awaited.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let pool = pool_core::Pool::new(2)?;
/// let squares = pool.map_async(|x: u64| x * x, 0..5)?;
/// assert_eq!(squares.get()?, [0, 1, 4, 9, 16]);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it detaches the tasks; use `drop` to say so"]
pub struct MapResult<R> {
    parts: Vec<Part<R>>,
    /// The outcomes of the first parts, so many.
    whole: Chunk<R>,
    added: usize,
    /// How many items there will be, as far as it is known before they are submitted.
    expected: usize,
    onto: DecodeOnto<R>,
    /// The tasks, if there is one handle for all of them.
    gathered: Option<Vec<TaskRef>>,
    fail_fast: bool,
    taken: bool,
}

/// So much memory is reserved for results that have not come yet: an iterator may promise anything.
const RESERVED: usize = 1 << 30;

/// A task, and what it has given if that was looked at before its turn.
struct Part<R> {
    handle: AsyncResult<Chunk<R>>,
    items: usize,
    chunk: OnceLock<Chunk<R>>,
}

impl<R> Part<R> {
    /// The outcome of a task that is ready.
    fn arrived(&self) -> &Chunk<R> {
        self.chunk.get_or_init(|| {
            outcome(self.handle.take().unwrap_or(Err(TaskError::AlreadyTaken)), self.items)
        })
    }

    /// Whether it is ready, and an item has failed.
    fn has_failed(&self) -> bool {
        self.handle.ready() && self.arrived().first_error().is_some()
    }

    /// Adds the outcome of a task that is ready.
    fn add_to(&mut self, whole: &mut Chunk<R>, onto: DecodeOnto<R>) {
        if let Some(chunk) = self.chunk.take() {
            return whole.append(chunk);
        }
        whole.extend(self.items, |whole| {
            let added = self.handle.take_with(|value, limit| onto(value, limit, whole));
            added.unwrap_or(Err(TaskError::AlreadyTaken))
        });
    }
}

/// How the result of a chunk is added to those before it.
type DecodeOnto<R> = fn(Value, u64, &mut Chunk<R>) -> Result<(), TaskError>;

impl<R> MapResult<R> {
    /// Without any parts yet.
    pub(crate) fn new(expected: usize, onto: DecodeOnto<R>) -> Self {
        MapResult {
            parts: Vec::new(),
            whole: Chunk::of_values(Vec::new()),
            added: 0,
            expected,
            onto,
            gathered: None,
            fail_fast: false,
            taken: false,
        }
    }

    /// One more part, of so many items.
    pub(crate) fn push(&mut self, handle: AsyncResult<Chunk<R>>, items: usize) {
        self.parts.push(Part { handle, items, chunk: OnceLock::new() });
    }

    /// Adds up what has arrived of the first parts, so that the memory in which it lay is used again for what comes next. Decoding it is the user's code.
    pub(crate) fn add_ready(&mut self) {
        while self.parts.get(self.added).is_some_and(|part| part.handle.task().slot().is_settled())
        {
            self.add_next();
        }
    }

    /// Adds the outcome of the next part, which is ready.
    fn add_next(&mut self) {
        if self.added == 0 && self.gathered.is_none() {
            let most = RESERVED / size_of::<R>().max(1);
            let known = self.parts.iter().map(|part| part.items).sum();
            self.whole = Chunk::with_capacity(self.expected.min(most).max(known));
        }
        self.parts[self.added].add_to(&mut self.whole, self.onto);
        self.added += 1;
    }

    /// One handle for the items of all these tasks.
    pub(crate) fn gathered(
        whole: AsyncResult<Chunk<R>>,
        items: usize,
        tasks: Vec<TaskRef>,
        onto: DecodeOnto<R>,
    ) -> Self {
        let mut map = MapResult { gathered: Some(tasks), ..MapResult::new(0, onto) };
        map.push(whole, items);
        map
    }

    /// The first error ends the rest.
    pub(crate) fn failing_fast(self) -> Self {
        MapResult { fail_fast: true, ..self }
    }

    /// Waits for all results. All items are run, also after one has failed, unless the call was to [`fail_fast`](crate::Call::fail_fast).
    ///
    /// # Errors
    /// The error of the first item, in the order of the input, that has no result.
    pub fn get(mut self) -> Result<Vec<R>, TaskError> {
        self.get_until(None).unwrap_or(Err(TaskError::AlreadyTaken))
    }

    /// Waits for all results for at most `timeout`. The tasks go on when the time is up, and the handle stays good.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`TaskError::NotReady`] when the time is up, [`TaskError::AlreadyTaken`] if an earlier call has given the results.
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<Vec<R>, TaskError> {
        self.get_until(Some(deadline(timeout))).unwrap_or(Err(TaskError::NotReady(timeout)))
    }

    fn get_until(&mut self, deadline: Option<Instant>) -> Option<Result<Vec<R>, TaskError>> {
        if self.taken {
            return Some(Err(TaskError::AlreadyTaken));
        }
        self.wait_for_failure(deadline);
        self.add_until(deadline).then(|| self.join())
    }

    /// Waits for one part after the other, and adds up what they give while the others go on. `false`: at the deadline.
    fn add_until(&mut self, deadline: Option<Instant>) -> bool {
        while let Some(part) = self.parts.get(self.added) {
            if !part.handle.task().wait(deadline) {
                return false;
            }
            self.add_next();
        }
        true
    }

    /// Of a map that fails fast: waits until an item has failed, and cancels the others then; or until all are there.
    fn wait_for_failure(&self, deadline: Option<Instant>) {
        if !self.fail_fast || self.end_if_failed() {
            return;
        }
        let parts = self.parts_left();
        let queue = CompletionQueue::new();
        let watch = |(index, part): (u64, &Part<R>)| queue.watch(index, part.handle.task());
        let wakers: Vec<Waker> = (0..).zip(parts).map(watch).collect();
        let mut failed = false;
        for _ in parts {
            let Some(index) = queue.pop(deadline) else { break };
            failed = parts[index as usize].has_failed();
            if failed {
                break;
            }
        }
        // called again and again with a time limit, this must leave nothing behind
        for (waker, part) in wakers.iter().zip(parts) {
            part.handle.task().slot().forget(waker);
        }
        if failed {
            self.cancel();
        }
    }

    /// Of a map that fails fast: if an item has failed, cancels the others. Never blocks.
    fn end_if_failed(&self) -> bool {
        let failed = self.fail_fast
            && (self.whole.first_error().is_some()
                || self.parts_left().iter().any(Part::has_failed));
        if failed {
            self.cancel();
        }
        failed
    }

    /// Those whose outcomes were not added up.
    fn parts_left(&self) -> &[Part<R>] {
        &self.parts[self.added..]
    }

    /// All values, or the error. Everything is ready.
    fn join(&mut self) -> Result<Vec<R>, TaskError> {
        let whole = self.take_whole();
        let error = if self.fail_fast { whole.cause() } else { whole.first_error() };
        error.map_or_else(|| whole.into_values(), Err)
    }

    fn take_whole(&mut self) -> Chunk<R> {
        self.add_until(None);
        self.taken = true;
        std::mem::replace(&mut self.whole, Chunk::of_values(Vec::new()))
    }

    /// Waits for all items and gives an outcome for each. A worker that dies takes the results of the chunk with it that it was
    /// working on: all items of that chunk then have the same error. If an earlier call has given the results, each is [`TaskError::AlreadyTaken`].
    ///
    /// If the call was to [`fail_fast`](crate::Call::fail_fast), it waits for the first failure only: what has not finished by then is [`TaskError::Cancelled`].
    #[must_use]
    pub fn get_each(mut self) -> Vec<Result<R, TaskError>> {
        if self.taken {
            let items = self.parts.iter().map(|part| part.items).sum();
            return (0..items).map(|_| Err(TaskError::AlreadyTaken)).collect();
        }
        self.wait_for_failure(None);
        self.take_whole().into_outcomes().collect()
    }

    /// Waits until all items have a result or have failed. If the call was to [`fail_fast`](crate::Call::fail_fast), the first failure ends the others.
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Like [`wait`](Self::wait), for at most `timeout`; returns whether all items have a result or have failed.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(Some(deadline(timeout)))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        self.wait_for_failure(deadline);
        self.parts.iter().all(|part| part.handle.task().wait(deadline))
    }

    /// Whether all items have a result or have failed. Never blocks. If the call was to [`fail_fast`](crate::Call::fail_fast), and an item has failed, it ends the others.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.end_if_failed();
        self.is_settled()
    }

    fn is_settled(&self) -> bool {
        self.parts.iter().all(|part| part.handle.ready())
    }

    /// Whether all items have a result: `false` also if some are not ready yet. Never blocks. Decodes results that nobody has waited for yet.
    #[must_use]
    pub fn successful(&self) -> bool {
        !self.taken
            && self.ready()
            && self.whole.first_error().is_none()
            && !self.parts_left().iter().any(Part::has_failed)
    }

    /// Has the waker woken when a chunk that is not ready becomes so: the first, or any if one that fails ends the others. `false`: all are ready.
    pub(super) fn register(&self, waker: &Waker) -> bool {
        let mut pending = false;
        for part in self.parts_left() {
            pending |= part.handle.task().register(waker);
            if pending && !self.fail_fast {
                return true;
            }
        }
        if pending {
            self.end_if_failed();
        }
        pending
    }

    pub(super) fn forget_all(&self, waker: &Waker) {
        self.parts.iter().for_each(|part| part.handle.task().slot().forget(waker));
    }

    /// Cancels what has not finished; returns whether anything was cancelled.
    pub fn cancel(&self) -> bool {
        let any = |any: bool, task: &TaskRef| task.cancel() | any;
        // the last ones first: a worker that becomes free by this must find nothing to begin
        match &self.gathered {
            Some(tasks) => tasks.iter().rev().fold(false, any),
            None => self.parts.iter().rev().map(|part| part.handle.task()).fold(false, any),
        }
    }
}

/// If the chunk as a whole has failed, so has each of its items.
pub(crate) fn outcome<R>(chunk: Result<Chunk<R>, TaskError>, items: usize) -> Chunk<R> {
    let mut whole = Chunk::of_values(Vec::new());
    whole.extend(items, |whole| chunk.map(|chunk| whole.append(chunk)));
    whole
}

impl<R: Unpin> Future for MapResult<R> {
    type Output = Result<Vec<R>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.taken {
            return Poll::Ready(Err(TaskError::AlreadyTaken));
        }
        if this.register(context.waker()) { Poll::Pending } else { Poll::Ready(this.join()) }
    }
}

impl<R> fmt::Debug for MapResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapResult").field("ready", &self.is_settled()).finish_non_exhaustive()
    }
}
