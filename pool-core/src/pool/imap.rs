//! Lazy maps: iterators that read their input only a bounded window ahead of their consumer.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZero;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::options::Options;
use super::submit::Function;
use crate::error::{SubmitError, TaskError};
use crate::handle::{AsyncResult, chunk_outcome, deadline};
use crate::limits::IMAP_AHEAD_PER_WORKER;
use crate::task::callee::Callee;
use crate::task::chunk::{self, Chunk};
use crate::task::{TaskFn, job};

impl Pool {
    /// Calls the function for each item; an iterator over the results in the order of the input.
    ///
    /// The input is read at most a window ahead of the consumer (64 items per worker, or `pool.task(f).window(n).imap(..)`), so an endless
    /// input runs in constant memory. Nothing is submitted before the first `next()`, which blocks until the first result is there. The
    /// error of an item does not end the iteration. After `close` or `terminate`, the iterator gives what was submitted and one error more, and
    /// ends. Dropping it detaches what was submitted.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(2)?;
    /// let first: Vec<u64> = pool.imap(|x: u64| x * x, 1..).take(3).collect::<Result<_, _>>()?;
    /// assert_eq!(first, [1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn imap<F, A, Kind, I>(&self, function: F, items: I) -> Imap<'_, F::Output, I::IntoIter>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
        Kind: 'static,
    {
        self.task::<F, Kind>(function).imap(items)
    }
}

pub(super) type ChunkHandle<R> = AsyncResult<Chunk<R>>;

/// The input side of both: reads and submits, never more than the window.
pub(super) struct Feeder<'pool, R, I: Iterator> {
    pool: &'pool Pool,
    items: I,
    exhausted: bool,
    function: Function<Vec<(I::Item,)>>,
    options: Options,
    chunk_size: usize,
    window: usize,
    /// Items submitted, or given out but not consumed.
    pub(super) ahead: usize,
    submit: SubmitChunk<R, I>,
    /// Outcomes that arrived and were not consumed.
    pub(super) ready: VecDeque<Result<R, TaskError>>,
    /// Why the pool took no more.
    refused: Option<TaskError>,
}

type SubmitChunk<R, I> = fn(
    &Pool,
    &Function<Vec<(<I as Iterator>::Item,)>>,
    &mut I,
    usize,
    &Options,
) -> Option<Result<(ChunkHandle<R>, usize), SubmitError>>;

impl<'pool, R, I: Iterator> Feeder<'pool, R, I> {
    pub(super) fn new<F, A, Kind>(pool: &'pool Pool, items: I, options: Options) -> Self
    where
        F: TaskFn<(A,), Kind, Output = R>,
        A: Serialize + DeserializeOwned + Send + 'static,
        R: DeserializeOwned + 'static,
        I: Iterator<Item = A>,
        Kind: 'static,
    {
        let workers = pool.shared().lock().sched.size() as usize;
        let chunk_size = options.chunk_size.map_or(1, NonZero::get);
        let window = options
            .window
            .map_or((IMAP_AHEAD_PER_WORKER * workers).saturating_mul(chunk_size), NonZero::get);
        Feeder {
            pool,
            items,
            exhausted: false,
            function: Function::new::<F>(
                Callee::of(chunk::run::<F, (A,), Kind>),
                job::chunk::<F, (A,), Kind>,
            ),
            options,
            chunk_size: chunk_size.min(window),
            window,
            ahead: 0,
            submit: submit_chunk::<R, A, I>,
            ready: VecDeque::new(),
            refused: None,
        }
    }

    /// The next task, if the window, the input and the pool allow one.
    pub(super) fn next_task(&mut self) -> Option<(ChunkHandle<R>, usize)> {
        if self.exhausted || self.ahead + self.chunk_size > self.window {
            return None;
        }
        let (chunk_size, options) = (self.chunk_size, &self.options);
        match (self.submit)(self.pool, &self.function, &mut self.items, chunk_size, options) {
            Some(Ok((task, items))) => {
                self.ahead += items;
                return Some((task, items));
            }
            Some(Err(error)) => self.refused = Some(error.into()),
            None => {}
        }
        self.exhausted = true;
        None
    }

    /// Takes the outcomes of a task in; waits for it.
    pub(super) fn arrived(&mut self, (task, items): (ChunkHandle<R>, usize)) {
        self.ready.extend(chunk_outcome(task.get(), items).into_outcomes());
    }

    /// The next outcome to be consumed; the last one is that the pool took no more.
    pub(super) fn consume(&mut self) -> Option<Result<R, TaskError>> {
        match self.ready.pop_front() {
            Some(result) => {
                self.ahead -= 1;
                Some(result)
            }
            None => self.refused.take().map(Err),
        }
    }
}

fn submit_chunk<R, A, I>(
    pool: &Pool,
    function: &Function<Vec<(A,)>>,
    items: &mut I,
    size: usize,
    options: &Options,
) -> Option<Result<(ChunkHandle<R>, usize), SubmitError>>
where
    A: Serialize + Send + 'static,
    R: DeserializeOwned + 'static,
    I: Iterator<Item = A>,
{
    let input: Vec<(A,)> = items.take(size).map(|item| (item,)).collect();
    if input.is_empty() {
        return None;
    }
    let count = input.len();
    let task = pool.submit(function, input, count, options, None);
    Some(task.map(|task| (AsyncResult::new(task, chunk::decode::<R>), count)))
}

/// The iterator of [`Pool::imap`].
#[must_use = "iterators do nothing until they are asked for items"]
pub struct Imap<'pool, R, I: Iterator> {
    feeder: Feeder<'pool, R, I>,
    tasks: VecDeque<(ChunkHandle<R>, usize)>,
}

impl<'pool, R, I: Iterator> Imap<'pool, R, I> {
    pub(super) fn new<F, A, Kind>(pool: &'pool Pool, items: I, options: Options) -> Self
    where
        F: TaskFn<(A,), Kind, Output = R>,
        A: Serialize + DeserializeOwned + Send + 'static,
        R: DeserializeOwned + 'static,
        I: Iterator<Item = A>,
        Kind: 'static,
    {
        let feeder = Feeder::new::<F, A, Kind>(pool, items, options);
        Imap { feeder, tasks: VecDeque::new() }
    }
}

impl<R, I: Iterator> Imap<'_, R, I> {
    /// Like `next`, for at most `timeout`: then it gives [`TaskError::NotReady`], and the next call goes on where this one has ended. The limit is that of waiting for a result:
    /// reading the input, and waiting for room if others have filled the pool, take their own time.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<R, TaskError>> {
        self.next_until(Some(deadline(timeout))).unwrap_or(Some(Err(TaskError::NotReady(timeout))))
    }

    /// `None` at the deadline.
    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Option<Result<R, TaskError>>> {
        while let Some(task) = self.feeder.next_task() {
            self.tasks.push_back(task);
        }
        if self.feeder.ready.is_empty()
            && let Some((handle, _)) = self.tasks.front()
        {
            if !handle.task().wait(deadline) {
                return None;
            }
            self.feeder.arrived(self.tasks.pop_front()?);
        }
        Some(self.feeder.consume())
    }
}

impl<R, I: Iterator> Iterator for Imap<'_, R, I> {
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None)?
    }
}

impl<R, I: Iterator> fmt::Debug for Imap<'_, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap").field("ahead", &self.feeder.ahead).finish_non_exhaustive()
    }
}
