//! One function in a process of its own: what Python's `multiprocessing.Process` is.

mod builder;
mod child;
mod error;
mod family;
mod nursery;
mod nursling;

use std::fmt;
use std::future::IntoFuture;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use builder::ProcessBuilder;
use child::Child;
pub use error::ProcessError;
pub use family::{
    ChildProcess, CurrentProcess, ParentProcess, active_children, current_process, parent_process,
};

use crate::error::TaskError;
use crate::handle::{Joinable, Joining, Pending, deadline};
use crate::output::TaskOutput;
use crate::primitives::unpoisoned;
use crate::sys::signal::GroupSignal;
use crate::task::job::Value;
use crate::task::{TaskFn, entry};

/// One function call in a process of its own, which is a copy of this executable.
///
/// The function is a [`TaskFn`] as for a [`Pool`](crate::Pool): a `fn` item or a closure that captures nothing; arguments and result are serde types.
/// [`join`](Process::join) gives the function's result. All methods take `&self`.
///
/// # Its end
/// The process ends when its function has returned, with [exit code](Process::exit_code) 0, or 1 if it has returned `Err` or panicked. A result of any size
/// is taken at once, so no process waits for somebody to join it. Dropping a `Process` detaches it, like a [`std::thread::JoinHandle`]: it goes on, and
/// is collected when it ends.
///
/// # Daemons
/// By default a process is killed when the program that started it ends, however it ends: nothing is left behind. With
/// [`daemon(false)`](ProcessBuilder::daemon) it goes on until its function has returned. Python asks its programs to wait at exit for those that are no
/// daemons; here nobody waits but who calls `join`. Daemons may have processes of their own, which Python forbids.
///
/// What a daemon has started in its process group is killed when it ends.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Process, TaskError};
///
/// let process = Process::spawn(|a: u64, b: u64| a * b, (6, 7))?;
/// assert_eq!(process.join()?, 42);
/// assert_eq!(process.exit_code(), Some(0));
///
/// let process = Process::spawn(|| -> anyhow::Result<()> { anyhow::bail!("no") }, ())?;
/// assert_eq!(process.join(), Err(TaskError::Failed("no".to_owned())));
/// assert_eq!(process.exit_code(), Some(1));
/// # Ok(())
/// # }
/// ```
pub struct Process<R> {
    child: Arc<Child>,
    decode: fn(Value) -> Result<R, TaskError>,
}

impl Process<()> {
    /// A process with other settings.
    pub fn builder() -> ProcessBuilder {
        ProcessBuilder::default()
    }
}

impl<R: Serialize + DeserializeOwned + Send + 'static> Process<R> {
    /// A process that calls `function` with `args`, created and started. Returns when the process exists.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let process = pool_core::Process::spawn(u64::pow, (2, 10))?;
    /// assert_eq!(process.join()?, 1024);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`start`](Process::start).
    pub fn spawn<F, Args, Kind>(function: F, args: Args) -> Result<Process<R>, ProcessError>
    where
        F: TaskFn<Args, Kind, Output = R>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        ProcessBuilder::default().spawn(function, args)
    }

    /// The same, not started yet: call [`start`](Process::start).
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let process = pool_core::Process::new(u64::pow, (2, 10));
    /// assert!(process.pid().is_none() && !process.is_alive());
    /// process.start()?;
    /// assert!(process.pid().is_some());
    /// assert_eq!(process.join()?, 1024);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new<F, Args, Kind>(function: F, args: Args) -> Process<R>
    where
        F: TaskFn<Args, Kind, Output = R>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        ProcessBuilder::default().build(function, args)
    }

    fn of(child: Child) -> Process<R> {
        Process { child: Arc::new(child), decode: entry::decode }
    }
}

impl<R> Process<R> {
    /// Starts it. Returns when the process exists, which takes about a millisecond, and its function and arguments are on their way (large ones follow
    /// in pieces).
    ///
    /// # Errors
    /// [`ProcessError::AlreadyStarted`] the second time; [`ProcessError::Closed`]; [`ProcessError::Encode`] if the arguments can't be encoded;
    /// [`ProcessError::Config`] for settings that make no sense; [`ProcessError::NestedTooDeep`]; [`ProcessError::Os`] if the system refuses
    /// a process, memory or descriptors. Nothing is left then, and it can be tried again.
    /// That the program never calls [`init`](crate::init) is told by [`join`](Process::join).
    pub fn start(&self) -> Result<(), ProcessError> {
        self.child.start()
    }

    /// Its name, which it has only for its users: see [`ProcessBuilder::name`].
    #[must_use]
    pub fn name(&self) -> String {
        self.child.name()
    }

    /// Gives it another name before it is started.
    ///
    /// # Errors
    /// [`ProcessError::AlreadyStarted`], [`ProcessError::Closed`].
    pub fn set_name(&self, name: impl Into<String>) -> Result<(), ProcessError> {
        self.child.set_name(name.into())
    }

    /// Its process id, also after its end; `None` before it is started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// Whether it ends with this process: see [`ProcessBuilder::daemon`].
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.child.daemon
    }

    /// Whether it was started and has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.child.is_alive()
    }

    /// How it ended; `None` before it is started and while it lives.
    ///
    /// 0: its function has returned. 1: its function has returned `Err` or panicked, or its result could not be encoded. `N`: it has called
    /// `exit(N)`. `-N`: it was killed by signal `N`. 255: it has no result, and somebody else has collected its status (this program ignores SIGCHLD, or reaps strangers).
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.child.exit_code()
    }

    /// What it has printed, when it has ended, if that is [captured](crate::Output::Captured); `None` if not, or if it has printed nothing.
    #[must_use]
    pub fn output(&self) -> Option<TaskOutput> {
        unpoisoned(self.child.output.lock()).clone()
    }

    /// Waits until the process has ended and gives its function's result; [tagged](crate::Output::Tagged) output has been written by then. A result can be taken once. It is given also if the process was killed after
    /// its function had returned: [`exit_code`](Process::exit_code) tells.
    ///
    /// # Errors
    /// The reason why there is no result: see [`TaskError`]. [`TaskError::WorkerLost`] if the process has ended without one;
    /// [`TaskError::AlreadyTaken`] the second time; [`TaskError::Process`] with [`ProcessError::NotStarted`], [`ProcessError::Closed`],
    /// [`ProcessError::ForkedCopy`], [`ProcessError::WouldDeadlock`] (in a waker), or [`ProcessError::InitNotCalled`] and
    /// [`ProcessError::StartFailed`] if the program is at fault.
    pub fn join(&self) -> Result<R, TaskError> {
        self.child.check_waitable()?;
        self.child.wait(None);
        self.take().unwrap_or(Err(TaskError::AlreadyTaken))
    }

    /// Like [`join`](Process::join), for at most `timeout`; zero does not wait at all. May be called again.
    ///
    /// # Errors
    /// As [`join`](Process::join), and [`TaskError::NotReady`] when the time is up.
    pub fn join_timeout(&self, timeout: Duration) -> Result<R, TaskError> {
        self.child.check_waitable()?;
        self.child.wait(Some(deadline(timeout)));
        self.take().unwrap_or(Err(TaskError::NotReady(timeout)))
    }

    /// Waits until the process has ended, and leaves its result where it is. Returns whether it has ended: `false`, at once, if it was not started or can't be
    /// waited for here.
    pub fn wait(&self) -> bool {
        self.child.wait(None)
    }

    /// Like [`wait`](Process::wait), for at most `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.child.wait(Some(deadline(timeout)))
    }

    /// Asks it and what it has started in its process group to end: SIGTERM, and SIGCONT in case it is stopped. Does nothing if it has ended. Does not
    /// wait for its end.
    ///
    /// # Errors
    /// [`ProcessError::NotStarted`], [`ProcessError::Closed`], [`ProcessError::ForkedCopy`].
    pub fn terminate(&self) -> Result<(), ProcessError> {
        self.child.signal(GroupSignal::Terminate)
    }

    /// Like [`terminate`](Process::terminate), with SIGKILL, which nobody can ignore.
    ///
    /// # Errors
    /// As [`terminate`](Process::terminate).
    pub fn kill(&self) -> Result<(), ProcessError> {
        self.child.signal(GroupSignal::Kill)
    }

    /// Gives up its result and its descriptor. From then on, every method that returns a `Result` gives [`ProcessError::Closed`], but this one; the
    /// others still tell what they know. There is no need to call it: dropping the `Process` does the same.
    ///
    /// # Errors
    /// [`ProcessError::StillAlive`].
    pub fn close(&self) -> Result<(), ProcessError> {
        self.child.close()
    }

    /// A descriptor that is readable when the process has ended, to be polled with others. It belongs to the caller and must not be read from. It
    /// may be asked for before the process is started.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let process = pool_core::Process::spawn(|| 1, ())?;
    /// let descriptor = process.sentinel()?; // for poll, epoll, or tokio's AsyncFd
    /// # drop(descriptor);
    /// # process.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ProcessError::Closed`], and [`ProcessError::Os`] if the system refuses a descriptor.
    pub fn sentinel(&self) -> Result<OwnedFd, ProcessError> {
        self.child.sentinel()
    }

    /// `None` as long as it has not ended.
    fn take(&self) -> Option<Result<R, TaskError>> {
        Some(match self.child.slot.take()? {
            Some(Ok(value)) => (self.decode)(value),
            Some(Err(error)) => Err(error),
            None => Err(TaskError::AlreadyTaken),
        })
    }
}

impl<R> Joinable<R> for Process<R> {
    fn poll_join(&self, waker: &Waker) -> Option<Result<R, TaskError>> {
        if let Err(error) = self.child.check_waitable()
            && error != ProcessError::WouldDeadlock
        {
            return Some(Err(error.into()));
        }
        if self.child.slot.register(waker) { None } else { self.take() }
    }

    fn forget(&self, waker: &Waker) {
        self.child.slot.forget(waker);
    }
}

/// Awaits the process' end: `(&process).await` is [`join`](Process::join) on any executor. Cancel-safe: a dropped future leaves the process alone.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use std::future::IntoFuture;
/// let process = pool_core::Process::spawn(u64::pow, (3, 5))?;
/// assert_eq!(futures::executor::block_on((&process).into_future())?, 243);
/// # Ok(())
/// # }
/// ```
impl<'a, R: 'a> IntoFuture for &'a Process<R> {
    type Output = Result<R, TaskError>;
    type IntoFuture = Joining<'a, R>;

    fn into_future(self) -> Joining<'a, R> {
        Joining::new(self)
    }
}

impl<R> Pending for Process<R> {
    fn register(&self, waker: &Waker) -> bool {
        self.child.slot.register(waker)
    }

    fn forget(&self, waker: &Waker) {
        self.child.slot.forget(waker);
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("exit_code", &self.exit_code())
            .finish_non_exhaustive()
    }
}

#[expect(dead_code, reason = "a process is shared between threads by reference")]
fn a_process_is_shareable() {
    fn check<T: Send + Sync>() {}
    check::<Process<std::cell::Cell<u8>>>();
}
