//! Waiting for the first of many.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::queue::CompletionQueue;
use super::{AsyncResult, deadline};

/// Waits until one of the tasks has a result or has failed, and gives its index; `None` only if there are no handles.
///
/// Of several that are ready, the first in the slice is given. Call [`AsyncResult::get`] on the handle to have the result.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let pool = pool_core::Pool::new(2)?;
/// let mut handles: Vec<_> =
///     (0..4u64).map(|i| pool.apply_async(u64::pow, (i, 2))).collect::<Result<_, _>>()?;
/// let mut squares = Vec::new();
/// while let Some(index) = pool_core::wait_any(&handles) {
///     squares.push(handles.swap_remove(index).get()?);
/// }
/// squares.sort();
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn wait_any<R>(handles: &[AsyncResult<R>]) -> Option<usize> {
    wait_any_until(handles, None)
}

/// Like [`wait_any`], for at most `timeout`; `None` if nothing was ready by then.
#[must_use]
pub fn wait_any_timeout<R>(handles: &[AsyncResult<R>], timeout: Duration) -> Option<usize> {
    wait_any_until(handles, Some(deadline(timeout)))
}

/// Waits until all tasks have a result or have failed.
pub fn wait_all<R>(handles: &[AsyncResult<R>]) {
    handles.iter().for_each(AsyncResult::wait);
}

/// Waits until one of the tasks has failed, and gives its index; `None` when all have a result.
///
/// Of several that have failed already, the first in the slice is given. Call [`AsyncResult::get`] on the handle to have the error.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let pool = pool_core::Pool::new(2)?;
/// let parse = |text: String| -> anyhow::Result<u32> { Ok(text.parse()?) };
/// let handles: Vec<_> = ["1", "two", "3"]
///     .into_iter()
///     .map(|text| pool.apply_async(parse, (text.to_owned(),)))
///     .collect::<Result<_, _>>()?;
/// assert_eq!(pool_core::first_error(&handles), Some(1));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn first_error<R>(handles: &[AsyncResult<R>]) -> Option<usize> {
    // one whose value was taken has not failed
    let failed =
        |handle: &AsyncResult<R>| handle.task().slot().with(Result::is_err).unwrap_or(false);
    if let Some(index) = handles.iter().position(failed) {
        return Some(index);
    }
    let watched = Watched::new(handles);
    (0..handles.len())
        .filter_map(|_| watched.queue.pop(None))
        .map(|index| index as usize)
        .find(|&index| failed(&handles[index]))
}

/// The handles in the order in which they become ready: an iterator whose `next()` blocks until the next task has a result or has failed.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let pool = pool_core::Pool::new(2)?;
/// let handles: Vec<_> =
///     (0..4u64).map(|i| pool.apply_async(u64::pow, (i, 2))).collect::<Result<_, _>>()?;
/// let mut squares = Vec::new();
/// for ready in pool_core::as_completed(handles) {
///     squares.push(ready.get()?);
/// }
/// squares.sort();
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok(())
/// # }
/// ```
pub fn as_completed<R>(handles: impl IntoIterator<Item = AsyncResult<R>>) -> AsCompleted<R> {
    let queue = CompletionQueue::new();
    let handles: HashMap<u64, AsyncResult<R>> = (0..).zip(handles).collect();
    for (&token, handle) in &handles {
        queue.watch(token, handle.task());
    }
    AsCompleted { queue, of: handles.len(), handles }
}

/// The iterator of [`as_completed`]. Dropping it detaches the tasks that are left.
#[must_use = "iterators do nothing until they are asked for items"]
pub struct AsCompleted<R> {
    queue: CompletionQueue,
    handles: HashMap<u64, AsyncResult<R>>,
    of: usize,
}

impl<R> AsCompleted<R> {
    /// Like `next`, for at most `timeout`: zero only looks.
    ///
    /// # Errors
    /// [`Unfinished`] if no further task has a result or has failed by then. They go on, and the iterator stays good.
    pub fn next_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<AsyncResult<R>>, Unfinished> {
        if self.handles.is_empty() {
            return Ok(None);
        }
        match self.queue.pop(Some(deadline(timeout))) {
            Some(token) => Ok(self.handles.remove(&token)),
            None => Err(Unfinished { unfinished: self.handles.len(), of: self.of }),
        }
    }

    /// The same handles in the same order as a `Stream`, for any executor.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use futures::StreamExt;
    /// let pool = pool_core::Pool::new(2)?;
    /// let handles: Vec<_> =
    ///     (0..4u64).map(|i| pool.apply_async(u64::pow, (i, 2))).collect::<Result<_, _>>()?;
    /// let mut ready = pool_core::as_completed(handles).into_stream();
    /// futures::executor::block_on(async {
    ///     let mut sum = 0;
    ///     while let Some(handle) = ready.next().await {
    ///         sum += handle.await?;
    ///     }
    ///     assert_eq!(sum, 14);
    ///     anyhow::Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self) -> CompletedStream<R> {
        CompletedStream(self)
    }
}

/// [`AsCompleted`] as a `Stream`. Dropping it detaches the tasks that are left.
#[must_use = "streams do nothing until they are polled"]
pub struct CompletedStream<R>(AsCompleted<R>);

impl<R> Stream for CompletedStream<R> {
    type Item = AsyncResult<R>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let AsCompleted { queue, handles, .. } = &mut self.get_mut().0;
        if handles.is_empty() {
            return Poll::Ready(None);
        }
        match queue.poll(context.waker()) {
            Some(token) => Poll::Ready(handles.remove(&token)),
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<R> Unpin for CompletedStream<R> {}

impl<R> fmt::Debug for CompletedStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Not all tasks had ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{unfinished} of {of} tasks are unfinished")]
pub struct Unfinished {
    /// How many go on.
    pub unfinished: usize,
    /// How many there were.
    pub of: usize,
}

impl<R> Iterator for AsCompleted<R> {
    type Item = AsyncResult<R>;

    fn next(&mut self) -> Option<AsyncResult<R>> {
        if self.handles.is_empty() {
            return None;
        }
        let token = self.queue.pop(None)?;
        self.handles.remove(&token)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.handles.len(), Some(self.handles.len()))
    }
}

impl<R> ExactSizeIterator for AsCompleted<R> {}

impl<R> fmt::Debug for AsCompleted<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("left", &self.handles.len()).finish_non_exhaustive()
    }
}

fn wait_any_until<R>(handles: &[AsyncResult<R>], deadline: Option<Instant>) -> Option<usize> {
    if let Some(ready) = handles.iter().position(AsyncResult::ready) {
        return Some(ready);
    }
    if handles.is_empty() {
        return None;
    }
    Watched::new(handles).queue.pop(deadline).map(|index| index as usize)
}

/// Handles that are watched for a while. Called in a loop, this must leave nothing behind in the tasks that are not ready.
struct Watched<'a, R> {
    handles: &'a [AsyncResult<R>],
    wakers: Vec<Waker>,
    queue: CompletionQueue,
}

impl<'a, R> Watched<'a, R> {
    fn new(handles: &'a [AsyncResult<R>]) -> Watched<'a, R> {
        let queue = CompletionQueue::new();
        let watch = |(index, handle): (u64, &AsyncResult<R>)| queue.watch(index, handle.task());
        let wakers = (0..).zip(handles).map(watch).collect();
        Watched { handles, wakers, queue }
    }
}

impl<R> Drop for Watched<'_, R> {
    fn drop(&mut self) {
        for (waker, handle) in self.wakers.iter().zip(self.handles) {
            handle.task().slot().forget(waker);
        }
    }
}
