//! The results of a map.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{AsyncResult, deadline};
use crate::error::TaskError;
use crate::task::chunk::Chunk;

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
    chunks: Vec<(AsyncResult<Chunk<R>>, usize)>,
    /// For the future: what has been awaited.
    awaited: Vec<Chunk<R>>,
}

impl<R> MapResult<R> {
    /// Handles with the number of their items.
    pub(crate) fn new(chunks: Vec<(AsyncResult<Chunk<R>>, usize)>) -> Self {
        MapResult { chunks, awaited: Vec::new() }
    }

    /// Waits for all results. All items are run, also after one has failed.
    ///
    /// # Errors
    /// The error of the first item, in the order of the input, that has no result.
    pub fn get(self) -> Result<Vec<R>, TaskError> {
        join(self.take_chunks())
    }

    /// Waits for all items and gives an outcome for each. A worker that dies takes the results of the chunk with it that it was
    /// working on: all items of that chunk then have the same error.
    #[must_use]
    pub fn get_each(self) -> Vec<Result<R, TaskError>> {
        self.take_chunks().into_iter().flat_map(Chunk::into_outcomes).collect()
    }

    fn take_chunks(self) -> Vec<Chunk<R>> {
        let MapResult { chunks, awaited: mut taken } = self;
        for (chunk, items) in chunks.into_iter().skip(taken.len()) {
            taken.push(outcome(chunk.get(), items));
        }
        taken
    }

    /// Waits until all items have a result or have failed.
    pub fn wait(&self) {
        self.chunks.iter().for_each(|(chunk, _)| chunk.wait());
    }

    /// Waits for at most `timeout`; returns whether all items have a result or have failed.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let deadline = deadline(timeout);
        self.chunks.iter().all(|(chunk, _)| {
            chunk.wait_timeout(deadline.saturating_duration_since(Instant::now()))
        })
    }

    /// Whether all items have a result or have failed. Never blocks.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.chunks.iter().all(|(chunk, _)| chunk.ready())
    }

    /// Cancels what has not finished; returns whether anything was cancelled.
    pub fn cancel(&self) -> bool {
        self.chunks.iter().fold(false, |any, (chunk, _)| chunk.cancel() | any)
    }
}

/// If the chunk as a whole has failed, so has each of its items.
pub(crate) fn outcome<R>(chunk: Result<Chunk<R>, TaskError>, items: usize) -> Chunk<R> {
    match chunk {
        Ok(chunk) if chunk.is_for(items) => chunk,
        Ok(_) => {
            let text = format!("the worker's answer is not one outcome for each of {items} items");
            Chunk::failed(items, &TaskError::Decode(text))
        }
        Err(error) => Chunk::failed(items, &error),
    }
}

/// All values, or the first error.
fn join<R>(chunks: Vec<Chunk<R>>) -> Result<Vec<R>, TaskError> {
    let mut all = Vec::new();
    for chunk in chunks {
        let mut values = chunk.into_values()?;
        if all.is_empty() {
            all = values;
        } else {
            all.append(&mut values);
        }
    }
    Ok(all)
}

impl<R: Unpin> Future for MapResult<R> {
    type Output = Result<Vec<R>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some((chunk, items)) = this.chunks.get_mut(this.awaited.len()) {
            let Poll::Ready(ready) = Pin::new(chunk).poll(context) else { return Poll::Pending };
            this.awaited.push(outcome(ready, *items));
        }
        Poll::Ready(join(std::mem::take(&mut this.awaited)))
    }
}

impl<R> fmt::Debug for MapResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapResult").field("ready", &self.ready()).finish_non_exhaustive()
    }
}
