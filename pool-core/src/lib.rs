//! A pool of worker **processes**: what Python's `multiprocessing` is for Python, for Rust.
//!
//! A task is an ordinary function plus its arguments. It runs in a copy of your own executable; the result comes back to a handle that can be
//! blocked on or awaited. A task that panics, aborts, overflows its stack, leaks, hangs or is killed for lack of memory costs itself and
//! nothing else: not the pool, not another task.
//!
//! ```
//! use std::time::Duration;
//! use pool_core::{Pool, TaskError};
//!
//! fn is_answer(p: u64) -> (u64, bool) {
//!     std::thread::sleep(Duration::from_millis(5));
//!     (p, p == 10)
//! }
//!
//! fn main() -> anyhow::Result<()> {
//!     pool_core::init(); // worker processes stay inside this call
//!     let pool = Pool::builder().processes(4).build()?;
//!     let handles: Vec<_> =
//!         (0..50).map(|i| pool.apply_async(is_answer, (i,))).collect::<Result<_, _>>()?;
//!     for handle in handles {
//!         if handle.get()?.1 {
//!             pool.terminate(); // signals every child; returns when they are gone
//!             break;
//!         }
//!     }
//!     pool.join()?;
//!     Ok(())
//! }
//! ```
//!
//! # Starting
//!
//! [`init()`] must come first in `main`: worker processes are copies of the executable, and this is where they become workers. In tests, put
//! [`test_support!`] into the test crate instead.
//!
//! # Tasks
//!
//! Any `fn` item, or closure **that captures nothing**, with up to 8 arguments; arguments and result are serde types. A function that returns
//! `anyhow::Result<T>` is *fallible*: its handle gives `T`, and an error arrives as [`TaskError::Failed`] with its whole chain as text. Every other
//! return value is plain data, a `Result<T, E>` of serde types included.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! # pool_core::init();
//! # let pool = pool_core::Pool::new(2)?;
//! use pool_core::TaskError;
//!
//! fn parse(text: String) -> anyhow::Result<u32> {
//!     Ok(text.parse()?)
//! }
//! assert_eq!(pool.apply(parse, ("17".to_owned(),))?, 17);
//! let error = pool.apply(parse, ("x".to_owned(),)).unwrap_err();
//! assert_eq!(error, TaskError::Failed("invalid digit found in string".to_owned()));
//! # Ok(())
//! # }
//! ```
//!
//! # Verbs
//!
//! | | one task | many |
//! |---|---|---|
//! | wait for the result | [`apply`](Pool::apply) | [`map`](Pool::map), [`starmap`](Pool::starmap) |
//! | have a handle | [`apply_async`](Pool::apply_async), [`try_apply_async`](Pool::try_apply_async) | [`map_async`](Pool::map_async), [`starmap_async`](Pool::starmap_async) |
//! | an iterator, bounded read-ahead | | [`imap`](Pool::imap), [`imap_unordered`](Pool::imap_unordered) |
//!
//! Options for one call come before the verb: `pool.task(f).timeout(d).apply_async(args)`, see [`Call`].
//!
//! # When things go wrong
//!
//! Each failure is a [`TaskError`] of the one task that it belongs to; the pool goes on with a new worker.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! # pool_core::init();
//! # let pool = pool_core::Pool::new(2)?;
//! use pool_core::{ExitCause, TaskError};
//!
//! let handle = pool.apply_async(|| -> () { std::process::abort() }, ())?;
//! match handle.get() {
//!     Err(TaskError::WorkerLost { cause: ExitCause::Signaled { signal, .. }, .. }) => assert_eq!(signal, 6),
//!     other => panic!("{other:?}"),
//! }
//! assert_eq!(pool.apply(u64::pow, (2, 8))?, 256, "the pool goes on");
//! # Ok(())
//! # }
//! ```
//!
//! A task is started **at most once**, unless [`retries`](Call::retries) were asked for. Tasks that a dead worker had not started are given to
//! another one. Every handle gets exactly one outcome.
//!
//! # Processes and threads
//!
//! A [`Process`] runs one function in a process of its own, a [`Thread`] in a thread; both give its result by `join`. [`wait()`] waits for the first of processes,
//! threads and tasks.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! # pool_core::init();
//! use pool_core::Process;
//!
//! let process = Process::builder().name("cruncher").spawn(u64::pow, (2, 10))?;
//! assert_eq!(process.join()?, 1024);
//! assert_eq!(process.exit_code(), Some(0));
//! # Ok(())
//! # }
//! ```
//!
//! # Shared objects
//!
//! A [`Manager`] keeps lists, maps, queues, locks and types of your own in a server process. Their proxies are plain values, to be passed to tasks.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! # pool_core::init();
//! # let pool = pool_core::Pool::new(2)?;
//! use pool_core::{Manager, manager::Dict};
//!
//! let manager = Manager::new()?;
//! let lengths: Dict<String, usize> = manager.dict([])?;
//! let measure = |lengths: Dict<String, usize>, word: String| -> anyhow::Result<()> {
//!     lengths.insert(&word, &word.len())?;
//!     Ok(())
//! };
//! pool.starmap(measure, ["a", "bcd"].map(|word| (lengths.clone(), word.to_owned())))?;
//! assert_eq!(lengths.get("bcd")?, Some(3));
//! # Ok(())
//! # }
//! ```
//!
//! # Stopping
//!
//! [`close`](Pool::close) and [`join`](Pool::join) let everything finish; [`terminate`](Pool::terminate) stops now; dropping the pool terminates it. If
//! the parent is killed, its workers are killed by the kernel.
//!
//! # Limits
//!
//! Linux only. Workers isolate faults; they run as the same user and are no security boundary. Memory is bounded by
//! [`max_pending`](PoolBuilder::max_pending), by what results the user keeps, and by what workers send.

mod backend;
mod boot;
mod codec;
mod dispatch;
pub mod dummy;
mod error;
mod events;
mod handle;
mod ids;
mod limits;
pub mod manager;
mod output;
mod pool;
mod primitives;
mod process;
mod sched;
mod slot;
mod sys;
mod task;
mod thread;
mod trace;
mod transport;
mod wire;
pub mod worker;

#[doc(hidden)]
pub use boot::__test_entry;
pub use boot::{init, init_with};
pub use dispatch::Times;
pub use error::{ExitCause, Oversize, PoolError, SubmitError, TaskError, TaskInfo, TrySubmitError};
pub use events::PoolEvent;
pub use handle::{
    AsCompleted, AsyncResult, CompletedStream, Joining, MapResult, Unfinished, Waitable,
    as_completed, first_error, wait, wait_all, wait_any, wait_any_timeout,
};
pub use ids::{TaskId, WorkerIndex};
pub use manager::Manager;
pub use output::{Output, TaskOutput};
pub use pool::{
    Call, Callback, Imap, ImapUnordered, OnSuccess, Pool, PoolBuilder, Stats, WorkerInfo,
    WorkerState,
};
pub use process::{
    ChildProcess, CurrentProcess, ParentProcess, Process, ProcessBuilder, ProcessError,
    active_children, current_process, parent_process,
};
pub use sys::process::die_with_parent;
pub use task::{Fallible, Plain, Registry, TaskFn};
pub use thread::{Thread, ThreadBuilder, ThreadFn, ThreadHandle};
