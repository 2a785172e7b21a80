//! The typed errors of building, submitting and results, and how a worker process ended.

use std::fmt;
use std::time::Duration;

use crate::ids::{TaskId, WorkerIndex};
use crate::process::ProcessError;

/// What a pool says that takes no more tasks.
const CLOSED: &str = "the pool is closed and takes no new tasks: submit all of them before close() or terminate(), or build another pool";

/// Why a task has no result.
///
/// ```
/// # fn explain(error: pool_core::TaskError) -> String {
/// use pool_core::{ExitCause, TaskError};
/// match error {
///     TaskError::WorkerLost { cause: ExitCause::Signaled { signal, .. }, .. } => format!("died by signal {signal}"),
///     TaskError::Panicked { message, location, .. } => format!("{message} at {location}"),
///     other => other.to_string(),
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The function returned an error; the text is its whole chain of causes.
    #[error("the task failed: {0}")]
    Failed(String),
    /// The function panicked. Its worker goes on.
    #[error("the task panicked at {location}: {message}")]
    Panicked {
        /// The panic message.
        message: String,
        /// `file:line:column`.
        location: String,
        /// The backtrace in the worker; empty if `RUST_BACKTRACE=0`.
        backtrace: String,
    },
    /// The worker process ended while it was running the task.
    #[error("{} (pid {pid}) {cause} while running {}{}", LostWorker(*worker, task), LostTask(*worker, task), LastLines(stderr))]
    #[non_exhaustive]
    WorkerLost {
        /// The worker's seat in the pool; [`WorkerIndex::PROCESS`] if it was a [`Process`](crate::Process).
        worker: WorkerIndex,
        /// Its process id.
        pid: u32,
        /// How the process ended.
        cause: ExitCause,
        /// The task that it was running.
        task: TaskInfo,
        /// The last lines that the worker had written to its standard error, at most 10 and 2 KiB, where the pool reads that: with
        /// [`Output::Tagged`](crate::Output::Tagged), where lines of its earlier tasks may be among them, and with [`Output::Captured`](crate::Output::Captured). Else empty.
        /// What is no UTF-8 is replaced. It may hold anything, also escape sequences; the message of this error shows them escaped.
        stderr: String,
    },
    /// The task ran longer than its time limit, so its worker was killed.
    #[error("the task exceeded its time limit and its worker was killed")]
    TimedOut,
    /// The task was cancelled: it never ran, or its worker was killed.
    #[error("the task was cancelled")]
    Cancelled,
    /// The pool was terminated or dropped before the task had finished.
    #[error("the pool was terminated or dropped before the task had finished")]
    Terminated,
    /// The pool takes no new tasks, as it was closed, terminated or dropped: there is no such task. What `apply`, `map` and `imap` give where others give [`SubmitError::Closed`].
    #[error("{CLOSED}")]
    Closed,
    /// The arguments could not be encoded in the parent, or the result could not be encoded in the worker.
    #[error("{0}")]
    Encode(String),
    /// The arguments could not be decoded in the worker, or the result could not be decoded in the parent.
    #[error("{0}")]
    Decode(String),
    /// Encoded arguments or an encoded result above the pool's limit.
    #[error(
        "the encoded {what} would take {size} bytes or more, the limit is {limit}; raise {setting}"
    )]
    TooLarge {
        /// Arguments or result.
        what: Oversize,
        /// Its size in bytes, or the size at which encoding was given up.
        size: u64,
        /// The limit in bytes.
        limit: u64,
        /// The builder's setting that raises the limit.
        setting: &'static str,
    },
    /// The task has cost too many workers and is not tried again.
    #[error("{task} has cost {workers} workers and is not tried again")]
    Quarantined {
        /// The task.
        task: TaskInfo,
        /// How many workers died while running it.
        workers: u32,
    },
    /// The pool's initializer failed in a worker, so no task can run.
    #[error("the initializer failed: {0}")]
    InitFailed(String),
    /// The pool can't start workers any more; the text says why.
    #[error("the pool is broken: {0}")]
    PoolBroken(String),
    /// An option of the call that this kind of pool can't keep; the text says which.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The result was not there within the time given to `get_timeout`. The task goes on.
    #[error("the result was not ready within {0:?}; the task goes on")]
    NotReady(Duration),
    /// The result has been taken from this handle already.
    #[error("the result has been taken from this handle already")]
    AlreadyTaken,
    /// A [`Process`](crate::Process) or [`Thread`](crate::Thread) has no result because it was not started, could not be, or can't be waited for.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// `worker 3`, or `process 3`.
struct LostWorker<'a>(WorkerIndex, &'a TaskInfo);

impl fmt::Display for LostWorker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WorkerIndex::PROCESS => write!(f, "process {}", self.1.id),
            seat => write!(f, "worker {seat}"),
        }
    }
}

/// `task 17 (my_app::decode)`, or `my_app::decode`: a process has only one.
struct LostTask<'a>(WorkerIndex, &'a TaskInfo);

impl fmt::Display for LostTask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WorkerIndex::PROCESS => f.write_str(&self.1.name),
            _ => self.1.fmt(f),
        }
    }
}

/// The last lines of a standard error, each on a line of its own.
struct LastLines<'a>(&'a str);

impl fmt::Display for LastLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str("; its standard error ends with")?;
        for line in self.0.lines() {
            f.write_str("\n  ")?;
            for character in line.chars() {
                // what a worker writes may not move the cursor of whoever reads the message
                match character.is_control() && character != '\t' {
                    true => write!(f, "{}", character.escape_default())?,
                    false => write!(f, "{character}")?,
                }
            }
        }
        Ok(())
    }
}

/// What was too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oversize {
    /// A task's arguments.
    Arguments,
    /// A task's result.
    Result,
}

impl fmt::Display for Oversize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Oversize::Arguments => "arguments",
            Oversize::Result => "result",
        })
    }
}

/// A task as error messages name it: `task 17 (my_app::decode)`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its number within the pool; for a [`Process`](crate::Process), the number of that.
    pub id: TaskId,
    /// The function's path, or the registered name.
    pub name: String,
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} ({})", self.id, self.name)
    }
}

/// How a worker process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitCause {
    /// It called `exit` with this code (also 0: a worker has no business to exit in a task).
    Exited(i32),
    /// It was killed by a signal.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
    /// The kernel killed it because memory had run out: of the machine, of the cgroup in which the program runs, or of the worker's own
    /// ([`cgroup_memory_limit`](crate::PoolBuilder::cgroup_memory_limit)). Of a worker with a cgroup of its own that is known. Of others it is a good guess: it got SIGKILL from outside, and the
    /// kernel's count of such kills, in the memory cgroup of the worker or, where there are none, on the whole machine, has gone up since a worker was last started or lost.
    OutOfMemory,
    /// It sent bytes that are no reply, so the pool killed it.
    Protocol,
    /// Somebody else collected its exit status.
    Unknown,
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitCause::Exited(code) => write!(f, "exited with code {code}"),
            ExitCause::Signaled { signal, core_dumped } => {
                write!(f, "was killed by signal {signal}")?;
                if let Some(name) = crate::sys::signal::name(*signal) {
                    write!(f, " ({name})")?;
                }
                if *core_dumped { f.write_str(", core dumped,") } else { Ok(()) }
            }
            ExitCause::OutOfMemory => f.write_str("was killed because memory had run out"),
            ExitCause::Protocol => f.write_str("sent a malformed reply and was killed"),
            ExitCause::Unknown => f.write_str(
                "ended (exit status unknown: this process ignores SIGCHLD or reaps strangers)",
            ),
        }
    }
}

/// Why a task was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The pool was closed, terminated or dropped.
    #[error("{CLOSED}")]
    Closed,
    /// The pool can't start workers any more; the text says why.
    #[error("the pool is broken: {0}")]
    Broken(String),
    /// An option of the call that this kind of pool can't keep; the text says which.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// For calls that submit and wait: a task that was not accepted has no result.
impl From<SubmitError> for TaskError {
    fn from(error: SubmitError) -> TaskError {
        match error {
            SubmitError::Closed => TaskError::Closed,
            SubmitError::Broken(reason) => TaskError::PoolBroken(reason),
            SubmitError::Unsupported(what) => TaskError::Unsupported(what),
        }
    }
}

/// Why a task was not accepted at once. All kinds hand the arguments back.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySubmitError<Args> {
    /// `max_pending` tasks are unfinished.
    #[error(
        "the pool is full: max_pending tasks are unfinished; try again later, or wait with apply_async"
    )]
    Full(Args),
    /// The pool was closed, terminated or dropped.
    #[error("{CLOSED}")]
    Closed(Args),
    /// The pool can't start workers any more; the text says why.
    #[error("the pool is broken: {0}")]
    Broken(String, Args),
    /// An option of the call that this kind of pool can't keep; the text says which.
    #[error("{0}")]
    Unsupported(&'static str, Args),
}

impl<Args> TrySubmitError<Args> {
    /// The arguments that were not accepted.
    pub fn into_args(self) -> Args {
        match self {
            TrySubmitError::Full(args)
            | TrySubmitError::Closed(args)
            | TrySubmitError::Broken(_, args)
            | TrySubmitError::Unsupported(_, args) => args,
        }
    }
}

impl<Args> fmt::Debug for TrySubmitError<Args> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySubmitError::Full(_) => "Full(..)",
            TrySubmitError::Closed(_) => "Closed(..)",
            TrySubmitError::Broken(..) => "Broken(..)",
            TrySubmitError::Unsupported(..) => "Unsupported(..)",
        })
    }
}

/// Why a pool could not be built, closed or joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A setting of the builder makes no sense; the text says which and why.
    #[error("{0}")]
    Config(String),
    /// The program's `main` does not call [`pool_core::init`](crate::init) first, so its workers can't work.
    #[error(
        "the worker never reached pool_core::init(): call it first in main (in a test crate: pool_core::test_support!())"
    )]
    InitNotCalled,
    /// Pools are nested too deeply.
    #[error(
        "pools are nested {depth} deep, the limit is {limit}; does each worker build a pool of its own?"
    )]
    NestedTooDeep {
        /// The depth that was asked for.
        depth: u32,
        /// The limit.
        limit: u32,
    },
    /// Workers can't be started; the text has the last reason.
    #[error("{0}")]
    StartFailed(String),
    /// The initializer failed in a worker.
    #[error("the initializer failed: {0}")]
    InitFailed(String),
    /// `join` was called on a pool that is still open.
    #[error("the pool is still open: call close() or terminate() before join()")]
    StillOpen,
    /// The workers were not gone within the time given to `join_timeout`.
    #[error("the workers were not gone within {0:?}")]
    TimedOut(Duration),
    /// The pool broke after it had been built; the text says why.
    #[error("the pool is broken: {0}")]
    Broken(String),
    /// There is no cgroup in which [`cgroup_memory_limit`](crate::PoolBuilder::cgroup_memory_limit) could be kept; the text says why, and what to do.
    #[error("cgroup_memory_limit can't be kept: {0}")]
    NoCgroup(String),
    /// There is no PID namespace for [`pid_namespace`](crate::PoolBuilder::pid_namespace); the text says why, and what to do.
    #[error("pid_namespace can't be had: {0}")]
    NoPidNamespace(String),
    /// A call from a worker's own callback or from the pool's own thread would wait for itself.
    #[error("this call would wait for itself: it was made on the pool's own thread")]
    WouldDeadlock,
    /// The operating system refused a resource.
    #[error("{what}: {error}")]
    Os {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        error: String,
    },
}

impl PoolError {
    /// Why the pool is broken, for errors that say themselves that it is.
    pub(crate) fn reason(&self) -> String {
        match self {
            PoolError::Broken(reason) => reason.clone(),
            other => other.to_string(),
        }
    }

    pub(crate) fn os(what: &'static str) -> impl Fn(std::io::Error) -> PoolError {
        move |error| PoolError::Os { what, error: error.to_string() }
    }
}
