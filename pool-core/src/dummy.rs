//! The same names over threads, as Python's `multiprocessing.dummy`: a program moves between processes and threads by one line.
//!
//! ```
//! use pool_core::dummy::{Pool, TaskError}; // or: use pool_core::{Pool, TaskError};
//!
//! fn main() -> anyhow::Result<()> {
//!     let pool = Pool::builder().processes(4).build()?;
//!     assert_eq!(pool.map(|x: u64| x * x, 0..3)?, [0, 1, 4]);
//!     let failed = pool.apply(|| -> anyhow::Result<()> { anyhow::bail!("no") }, ());
//!     assert_eq!(failed, Err(TaskError::Failed("no".to_owned())));
//!     Ok(())
//! }
//! ```

pub use crate::{
    AsCompleted, AsyncResult, Call, Imap, ImapUnordered, MapResult, PoolError, Stats, SubmitError,
    TaskError, TrySubmitError, WorkerInfo, WorkerState, as_completed, first_error, init, wait_all,
    wait_any, wait_any_timeout, worker,
};

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
