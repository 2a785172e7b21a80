//! The front door: `Pool`, its builder, and its verbs.

mod apply;
mod build;
mod builder;
mod call;
mod callbacks;
mod confine;
mod gather;
mod hooks;
mod imap;
mod imap_unordered;
mod info;
mod map;
mod options;
mod shareable;
mod submit;
mod suspend;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use builder::PoolBuilder;
pub use call::Call;
pub use callbacks::{Callback, OnSuccess};
pub use imap::Imap;
pub use imap_unordered::ImapUnordered;
pub use info::{Stats, WorkerInfo, WorkerState};

use crate::backend::process::spawner::StartMethod;
use crate::dispatch::Shared;
use serde::de::DeserializeOwned;

use crate::error::{PoolError, TaskError};
use crate::handle::deadline;
use crate::limits::DROP_GRACE;
use crate::sched::{Event, Phase};
use crate::task::entry;
use crate::task::job::opened;

/// A pool of worker processes.
///
/// All methods take `&self`, so that threads can share a pool by reference or in an `Arc`. Dropping it terminates it: what has not
/// finished ends with [`TaskError::Terminated`](crate::TaskError::Terminated). To let everything finish, call
/// [`close`](Pool::close) and [`join`](Pool::join) first.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// let pool = pool_core::Pool::new(4)?;
/// let lengths = pool.map(|text: String| text.len(), ["one".to_owned(), "three".to_owned()])?;
/// assert_eq!(lengths, [3, 5]);
/// pool.close();
/// pool.join()?;
/// # Ok(())
/// # }
/// ```
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool of `processes` worker processes with default settings. Returns when all of them are ready.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`].
    pub fn new(processes: usize) -> Result<Pool, PoolError> {
        Pool::builder().processes(processes).build()
    }

    /// A pool with other settings.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    /// Takes no more tasks. What was submitted still runs; workers leave when nothing is left for them. Never blocks; may be called
    /// again.
    pub fn close(&self) {
        self.shared.event(Event::Close);
    }

    /// Waits until all workers are gone and all callbacks have been called.
    ///
    /// # Errors
    /// [`PoolError::StillOpen`] unless the pool was closed or terminated; [`PoolError::Broken`] if it could not go on;
    /// [`PoolError::WouldDeadlock`] in a callback, and in a task of a worker thread.
    pub fn join(&self) -> Result<(), PoolError> {
        self.join_until(None)
    }

    /// Waits for at most `timeout` until all workers are gone.
    ///
    /// # Errors
    /// As [`join`](Pool::join), and [`PoolError::TimedOut`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), PoolError> {
        self.join_until(Some(timeout))
    }

    fn join_until(&self, given: Option<Duration>) -> Result<(), PoolError> {
        let timeout = given.map(deadline);
        if self.shared.lock().sched.phase() == Phase::Running {
            return Err(PoolError::StillOpen);
        }
        if self.shared.on_own_thread() {
            return Err(PoolError::WouldDeadlock);
        }
        if !self.shared.wait_stopped(timeout) {
            return Err(PoolError::TimedOut(given.unwrap_or_default()));
        }
        self.shared.reap_threads();
        if !self.shared.wait_for_callbacks(timeout) {
            return Err(PoolError::TimedOut(given.unwrap_or_default()));
        }
        match self.shared.lock().sched.broken() {
            Some(reason) => Err(PoolError::Broken(reason.reason())),
            None => Ok(()),
        }
    }

    /// Stops now: every child gets SIGTERM (and SIGCONT, in case it is stopped), and SIGKILL after the
    /// [grace period](PoolBuilder::grace), together with what it has started in its process group. Every task that has not finished ends with
    /// [`TaskError::Terminated`](crate::TaskError::Terminated).
    ///
    /// Returns when all children are gone, at the latest a second after the grace period: a child in an uninterruptible system call can't be
    /// killed by anybody, and is waited for by the pool's own thread. May be called from any thread, from a waker, and again.
    pub fn terminate(&self) {
        self.shared.stop(self.shared.settings.grace);
        let settings = &self.shared.settings;
        let has_groups = settings.recipe().is_some_and(|recipe| recipe.groups.is_some());
        if has_groups || settings.start_method == StartMethod::ForkServer {
            // the last thread ends what the workers have left behind
            self.shared.reap_threads();
        }
    }
}

impl Pool {
    /// From now on there are to be so many workers: the most, for a pool with a [`min_size`](PoolBuilder::min_size). Further ones are started at once (or when they are needed); those that
    /// are too many finish what they have begun, and leave. No task is lost. Never blocks.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::new(1)?;
    /// pool.resize(3)?;
    /// assert_eq!(pool.map(|x: u32| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PoolError::Config`] for 0 and for more than 16,384.
    pub fn resize(&self, workers: usize) -> Result<(), PoolError> {
        let workers = build::check_workers("workers", workers)?;
        self.shared.event(Event::Resize { workers });
        Ok(())
    }

    /// What the [finalizers](PoolBuilder::finalizer) of workers that have left have given, in the order of their leaving: one for each that has left in good order, none for those that were killed
    /// or have crashed (which are [counted](Stats::workers_lost), but for those that the end of the pool has killed). Each result is given once, so ask
    /// with the finalizer's own type. After [`join`](Pool::join), all are there; a pool that recycles its workers keeps them until they are asked for.
    pub fn finalized<R: DeserializeOwned + 'static>(&self) -> Vec<Result<R, TaskError>> {
        let outcomes = std::mem::take(&mut self.shared.lock().finalized);
        outcomes.into_iter().map(|outcome| opened(outcome, entry::decode)).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.shared.is_owner() {
            self.shared.stop(self.shared.settings.grace.min(DROP_GRACE));
            self.shared.reap_threads();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.shared.settings.name)
            .field("workers", &self.shared.lock().sched.size())
            .finish_non_exhaustive()
    }
}
