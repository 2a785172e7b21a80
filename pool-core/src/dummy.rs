//! The same names over threads, as Python's `multiprocessing.dummy`: a program moves between processes and threads by one line.
//!
//! ```
//! use pool_core::dummy::{Pool, Process, Queue, TaskError}; // or: use pool_core::{..};
//!
//! fn main() -> anyhow::Result<()> {
//!     pool_core::init(); // does nothing for threads
//!     let queue = Queue::unbounded()?;
//!     let pool = Pool::builder().processes(4).build()?;
//!     assert_eq!(pool.map(|x: u64| x * x, 0..3)?, [0, 1, 4]);
//!     let failed = pool.apply(|| -> anyhow::Result<()> { anyhow::bail!("no") }, ());
//!     assert_eq!(failed, Err(TaskError::Failed("no".to_owned())));
//!     let process = Process::spawn(|queue: Queue<u64>| queue.put(7).is_ok(), (queue.clone(),))?;
//!     assert_eq!((process.join()?, queue.get()?), (true, 7));
//!     Ok(())
//! }
//! ```

pub use crate::{
    Array, ArrayGuard, AsCompleted, AsyncResult, Barrier, BoundedSemaphore, BrokenBarrier, Call,
    Condition, Event, ExitCause, GetError, Imap, ImapUnordered, Lock, LockGuard, MapResult, Permit,
    Pipe, Poisoned, PoolError, PoolEvent, ProcessError, PutError, Queue, RLock, RLockGuard,
    RawArray, RawValue, RecvError, Semaphore, SendError, SharedBytes, Stats, SubmitError,
    TaskError, TaskId, TaskInfo, Times, TryLockError, TrySubmitError, Unfinished, Value,
    ValueGuard, Waitable, WorkerIndex, WorkerInfo, WorkerState, as_completed, current_process,
    first_error, init, wait, wait_all, wait_any, wait_any_timeout, worker,
};

/// A [`Thread`](crate::Thread), which has what a [`Process`](crate::Process) has but for `terminate` and `kill`: a thread can't be ended from outside.
pub use crate::{Thread as Process, ThreadBuilder as ProcessBuilder};

use std::fmt;
use std::ops::Deref;

/// [`Pool`](crate::Pool) whose [`new`](Pool::new) and [`builder`](Pool::builder) choose threads. It is one in everything else.
pub struct Pool(crate::Pool);

impl Pool {
    /// A pool of so many threads with default settings.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`].
    pub fn new(threads: usize) -> Result<Pool, PoolError> {
        crate::Pool::builder().threads(threads).build().map(Pool)
    }

    /// A pool of threads with other settings. [`processes`](crate::PoolBuilder::processes) sets the number of threads here.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::of_threads()
    }
}

/// [`PoolBuilder`](crate::PoolBuilder) of a [`Pool`] of threads.
pub type PoolBuilder = crate::PoolBuilder<Pool>;

impl Deref for Pool {
    type Target = crate::Pool;

    fn deref(&self) -> &crate::Pool {
        &self.0
    }
}

impl From<crate::Pool> for Pool {
    fn from(pool: crate::Pool) -> Pool {
        Pool(pool)
    }
}

impl From<Pool> for crate::Pool {
    fn from(pool: Pool) -> crate::Pool {
        pool.0
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
