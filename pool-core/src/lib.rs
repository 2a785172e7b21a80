//! A pool of worker processes: what Python's `multiprocessing` is for Python.
mod backend;
mod boot;
mod codec;
mod dispatch;
mod error;
mod handle;
mod ids;
mod limits;
mod pool;
mod primitives;
mod sched;
mod slot;
mod sys;
mod task;
mod transport;
mod wire;
mod worker;

pub use backend::process::spawner::Output;
#[doc(hidden)]
pub use boot::__test_entry;
pub use boot::{init, init_with};
pub use error::{ExitCause, Oversize, PoolError, SubmitError, TaskError, TaskInfo, TrySubmitError};
pub use handle::{AsyncResult, MapResult, wait_any, wait_any_timeout};
pub use ids::{TaskId, WorkerIndex};
pub use pool::{Call, Imap, ImapUnordered, Pool, PoolBuilder, Stats, WorkerInfo, WorkerState};
pub use task::{Fallible, Plain, Registry, TaskFn};
