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
//! Options for one call come before the verb: `pool.task(f).timeout(d).apply_async(args)`, see [`Call`]: time limits that kill or ask, retries with pauses, priorities,
//! chunk sizes, callbacks.
//!
//! Many handles at once: [`wait_any`], [`wait_all`], [`first_error`], and [`as_completed`] as an iterator or a stream.
//!
//! # Workers
//!
//! What all tasks need is set up once per worker by the [`initializer`](PoolBuilder::initializer), or passed once with [`shared`](PoolBuilder::shared). The module [`worker`] is what a
//! task may ask: which worker runs it, that worker's state, and whether it should come to an end.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! # pool_core::init();
//! use pool_core::{Pool, worker};
//!
//! let pool = Pool::builder()
//!     .processes(2)
//!     .shared(vec![1u64, 10, 100])
//!     .initializer(|| worker::set_state(0u64), ())
//!     .build()?;
//! fn scale(x: u64, power: usize) -> u64 {
//!     *worker::state::<u64>() += 1; // this worker's own
//!     x * worker::shared::<Vec<u64>>()[power]
//! }
//! assert_eq!(pool.starmap(scale, [(3, 1), (4, 2)])?, [30, 400]);
//! # Ok(())
//! # }
//! ```
//!
//! The number of workers can be changed ([`Pool::resize`]) or follow the work ([`PoolBuilder::min_size`]). Workers are replaced after so many tasks, so much time, or if they have
//! grown too large. With [`threads`](PoolBuilder::threads) or the module [`dummy`], workers are threads. What happens is told to [`on_event`](PoolBuilder::on_event), and counted
//! in [`stats`](Pool::stats).
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
//! # Shared state
//!
//! Arguments are copied to a worker and results back. What parent and workers are to have in common is a shared object, passed like any other argument:
//!
//! | | |
//! |---|---|
//! | memory | [`SharedBytes`], a block that all read; [`Array`] and [`Value`] with a lock, [`RawArray`] and [`RawValue`] without |
//! | locks and their kin | [`Lock`], [`RLock`], [`Semaphore`], [`BoundedSemaphore`], [`Condition`], [`Event`], [`Barrier`] |
//! | messages | [`Queue`], many to many; [`Pipe`], two ends |
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! # pool_core::init();
//! # let pool = pool_core::Pool::new(2)?;
//! use pool_core::{Poisoned, Value};
//!
//! let counter = Value::new(0_u64)?;
//! let count = |counter: Value<u64>| {
//!     *counter.lock().unwrap_or_else(Poisoned::recover) += 1;
//! };
//! pool.map(count, vec![counter.clone(); 100])?;
//! assert_eq!(counter.get(), 100);
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `ndarray`, the guard of an [`Array`], and [`SharedBytes`], give views with several dimensions.
//!
//! Objects have no names, so nothing is left of them: the memory is freed with the last process that has it. They may be made anywhere, and go to workers, to workers of
//! workers, and through queues and pipes. A task's result may be an object that came with its arguments, but not one that was made in the worker: the parent takes no descriptors from
//! workers, except through a [`Queue`] or [`Pipe`].
//!
//! A process that is killed at any instruction blocks nobody: the next one gets its lock, [and is told](Poisoned), within some milliseconds.
//!
//! What is more than plain data lives in a [`Manager`]: lists, maps, queues, locks and types of your own in a server process. Their proxies are plain values, which may go anywhere.
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

mod attach;
mod backend;
mod boot;
mod codec;
#[doc(hidden)]
pub mod command;
mod dispatch;
pub mod dummy;
mod error;
mod events;
mod handle;
mod ids;
mod limits;
pub mod manager;
#[cfg(test)]
#[path = "../../tests/src/mutate.rs"]
mod mutate;
mod output;
#[cfg(feature = "parts")]
#[doc(hidden)]
pub mod parts;
mod pool;
mod primitives;
mod process;
mod queue;
mod sandbox;
mod sched;
mod shm;
mod slot;
mod small_bytes;
mod spin;
mod sync;
mod sys;
mod task;
mod thread;
mod trace;
mod transport;
mod wire;
pub mod worker;

pub use backend::process::spawner::StartMethod;
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
pub use queue::{GetError, Pipe, PutError, Queue, RecvError, SendError, TooManyDone};
pub use sandbox::{Limit, Sandbox};
pub use shm::{
    Array, ArrayGuard, RawArray, RawValue, SharedBytes, SharedInteger, Value, ValueGuard,
};
pub use sync::{
    Barrier, BoundedSemaphore, BrokenBarrier, Condition, Event, Lock, LockGuard, LockResult,
    OverRelease, Permit, Poisoned, RLock, RLockGuard, Recover, Relock, Semaphore, TryLockError,
    TryLockResult,
};
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub use sys::failpoint;
pub use sys::process::die_with_parent;
pub use task::{Fallible, Plain, Registry, TaskFn};
pub use thread::{Thread, ThreadBuilder, ThreadFn, ThreadHandle};

/// The programs of this page are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/from-python.md")]
mod from_python {}
