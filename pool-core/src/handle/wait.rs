//! Waiting for the first of many.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::{AsyncResult, TaskRef, deadline};
use crate::primitives::unpoisoned;

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
    AsCompleted { queue, handles }
}

/// The iterator of [`as_completed`]. Dropping it detaches the tasks that are left.
#[must_use = "iterators do nothing until they are asked for items"]
pub struct AsCompleted<R> {
    queue: CompletionQueue,
    handles: HashMap<u64, AsyncResult<R>>,
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
    let queue = CompletionQueue::new();
    let watched: Vec<Waker> =
        (0..).zip(handles).map(|(index, handle)| queue.watch(index, handle.task())).collect();
    let ready = queue.pop(deadline);
    // called in a loop, this must leave nothing behind in the tasks that are not ready
    for (waker, handle) in watched.iter().zip(handles) {
        handle.task().slot().forget(waker);
    }
    ready.map(|index| index as usize)
}

/// Tells which tasks are ready, in the order in which they became so.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompletionQueue(Arc<Completions>);

#[derive(Debug, Default)]
struct Completions {
    ready: Mutex<VecDeque<u64>>,
    any: Condvar,
}

/// Wakes a queue with the token of one task.
struct Token {
    queue: Arc<Completions>,
    token: u64,
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.queue.push(self.token);
    }
}

impl Completions {
    fn push(&self, token: u64) {
        unpoisoned(self.ready.lock()).push_back(token);
        self.any.notify_one();
    }
}

impl CompletionQueue {
    pub(crate) fn new() -> CompletionQueue {
        CompletionQueue::default()
    }

    /// The token will come out of the queue, once.
    pub(crate) fn watch(&self, token: u64, task: &TaskRef) -> Waker {
        let queue = Arc::clone(&self.0);
        let waker = Waker::from(Arc::new(Token { queue, token }));
        if !task.slot().register(&waker) {
            self.0.push(token);
        }
        waker
    }

    /// Waits for the next token; `None` at the deadline.
    pub(crate) fn pop(&self, deadline: Option<Instant>) -> Option<u64> {
        let mut ready = unpoisoned(self.0.ready.lock());
        loop {
            if let Some(token) = ready.pop_front() {
                return Some(token);
            }
            ready = match deadline {
                None => unpoisoned(self.0.any.wait(ready)),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.0.any.wait_timeout(ready, left);
                    unpoisoned(waited).0
                }
            };
        }
    }
}
