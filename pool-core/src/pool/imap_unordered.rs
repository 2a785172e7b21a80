//! The lazy map in the order in which results become ready.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::imap::{ChunkHandle, Feeder};
use super::options::Options;
use crate::error::TaskError;
use crate::handle::{CompletionQueue, deadline};
use crate::task::TaskFn;

impl Pool {
    /// Like [`imap`](Pool::imap), in the order in which results become ready. Those of tasks that take less than 0.1 ms may change places if they become ready before the iterator looks again.
    pub fn imap_unordered<F, A, Kind, I>(
        &self,
        function: F,
        items: I,
    ) -> ImapUnordered<'_, F::Output, I::IntoIter>
    where
        F: TaskFn<(A,), Kind>,
        A: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
        Kind: 'static,
    {
        self.task::<F, Kind>(function).imap_unordered(items)
    }
}

/// The iterator of [`Pool::imap_unordered`].
#[must_use = "iterators do nothing until they are asked for items"]
pub struct ImapUnordered<'pool, R, I: Iterator> {
    feeder: Feeder<'pool, R, I>,
    /// Quick ones that were submitted since this iterator last slept, and not ready when it last looked. Which of them becomes ready first does not matter as much as
    /// being told of each would cost.
    fresh: VecDeque<(ChunkHandle<R>, usize)>,
    /// Those whose tokens will come out of the queue.
    watched: HashMap<u64, (ChunkHandle<R>, usize)>,
    next_token: u64,
    completed: CompletionQueue,
}

/// Tasks that are not ready are looked through so far for those behind them that are: tasks begin in order, so these lie close together.
const LOOKED_THROUGH: usize = 64;

/// Quick tasks are waited for so long by the first of them, which takes no notice of each.
const MOMENT: Duration = Duration::from_millis(1);

impl<'pool, R, I: Iterator> ImapUnordered<'pool, R, I> {
    pub(super) fn new<F, A, Kind>(pool: &'pool Pool, items: I, options: Options) -> Self
    where
        F: TaskFn<(A,), Kind, Output = R>,
        A: Serialize + DeserializeOwned + Send + 'static,
        R: DeserializeOwned + 'static,
        I: Iterator<Item = A>,
        Kind: 'static,
    {
        ImapUnordered {
            feeder: Feeder::new::<F, A, Kind>(pool, items, options),
            fresh: VecDeque::new(),
            watched: HashMap::new(),
            next_token: 0,
            completed: CompletionQueue::new(),
        }
    }
}

impl<R, I: Iterator> ImapUnordered<'_, R, I> {
    /// Like `next`, for at most `timeout`: then it gives [`TaskError::NotReady`], and the next call goes on where this one has ended. The limit is that of waiting for a result:
    /// reading the input, and waiting for room if others have filled the pool, take their own time.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<R, TaskError>> {
        self.next_until(Some(deadline(timeout))).unwrap_or(Some(Err(TaskError::NotReady(timeout))))
    }

    /// `None` at the deadline.
    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Option<Result<R, TaskError>>> {
        let mut quick = None;
        while let Some(task) = self.feeder.next_task() {
            if *quick.get_or_insert_with(|| task.0.task().is_quick()) {
                self.fresh.push_back(task);
            } else {
                self.watch(task);
            }
        }
        if self.feeder.ready.is_empty() && !(self.fresh.is_empty() && self.watched.is_empty()) {
            self.take_ready();
            if self.feeder.ready.is_empty() {
                self.wait_a_moment(deadline);
                self.take_ready();
            }
            if self.feeder.ready.is_empty() {
                self.sleep(deadline)?;
            }
        }
        Some(self.feeder.consume())
    }

    /// Takes in what is ready.
    fn take_ready(&mut self) {
        while let Some(token) = self.completed.try_pop() {
            self.arrived(token);
        }
        let (mut place, mut skipped) = (0, 0);
        while skipped < LOOKED_THROUGH
            && let Some((handle, _)) = self.fresh.get(place)
        {
            if !handle.ready() {
                place += 1;
                skipped += 1;
            } else if let Some(task) = self.fresh.remove(place) {
                self.feeder.arrived(task);
            }
        }
    }

    fn watch(&mut self, task: (ChunkHandle<R>, usize)) {
        self.completed.watch(self.next_token, task.0.task());
        self.watched.insert(self.next_token, task);
        self.next_token += 1;
    }

    fn arrived(&mut self, token: u64) {
        if let Some(task) = self.watched.remove(&token) {
            self.feeder.arrived(task);
        }
    }

    /// If many are under way, the first one will be ready soon, and others with it. If it is not as quick as the others, it is not waited for again.
    fn wait_a_moment(&mut self, deadline: Option<Instant>) {
        if self.fresh.len() < LOOKED_THROUGH / 2 {
            return;
        }
        let soon = Instant::now() + MOMENT;
        let soon = deadline.map_or(soon, |deadline| deadline.min(soon));
        if let Some(first) = self.fresh.pop_front() {
            if first.0.task().wait(Some(soon)) {
                self.fresh.push_front(first);
            } else {
                self.watch(first);
            }
        }
    }

    /// Until any of them is ready, or until the deadline: `None`.
    fn sleep(&mut self, deadline: Option<Instant>) -> Option<()> {
        while let Some(task) = self.fresh.pop_front() {
            self.watch(task);
        }
        let token = self.completed.pop(deadline)?;
        self.arrived(token);
        Some(())
    }
}

impl<R, I: Iterator> Iterator for ImapUnordered<'_, R, I> {
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None)?
    }
}

impl<R, I: Iterator> fmt::Debug for ImapUnordered<'_, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapUnordered").field("ahead", &self.feeder.ahead).finish_non_exhaustive()
    }
}
