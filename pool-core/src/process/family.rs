//! Who is whose child: this process, its parent, its children.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ProcessError;
use super::child::Child;
use super::nursery::Nursery;
use crate::boot;
use crate::handle::deadline;
use crate::sys::pidfd::PidFd;
use crate::sys::poll::wait_readable;
use crate::sys::process;
use crate::sys::signal::GroupSignal;

/// The [processes](crate::Process) that this one has started and that live, the oldest first, detached ones included. Workers of pools are not among them:
/// [`Pool::workers`](crate::Pool::workers) tells of those.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Process, active_children};
/// let process = Process::spawn(std::thread::park, ())?;
/// let children = active_children();
/// assert_eq!(children[0].pid(), process.pid());
/// children[0].terminate()?;
/// children[0].wait();
/// assert!(active_children().is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn active_children() -> Vec<ChildProcess> {
    let children = Nursery::live().into_iter().map(ChildProcess);
    children.filter(ChildProcess::is_alive).collect()
}

/// A process that this one has started, without the type of its result. Clones mean the same process.
#[derive(Clone)]
pub struct ChildProcess(Arc<Child>);

impl ChildProcess {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.pid()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// Whether it ends with this process.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.0.daemon
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    /// See [`Process::exit_code`](crate::Process::exit_code).
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.0.exit_code()
    }

    /// See [`Process::terminate`](crate::Process::terminate).
    ///
    /// # Errors
    /// As there.
    pub fn terminate(&self) -> Result<(), ProcessError> {
        self.0.signal(GroupSignal::Terminate)
    }

    /// See [`Process::kill`](crate::Process::kill).
    ///
    /// # Errors
    /// As there.
    pub fn kill(&self) -> Result<(), ProcessError> {
        self.0.signal(GroupSignal::Kill)
    }

    /// Waits until it has ended; see [`Process::wait`](crate::Process::wait).
    pub fn wait(&self) -> bool {
        self.0.wait(None)
    }

    /// Waits for at most `timeout`; returns whether it has ended.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.wait(Some(deadline(timeout)))
    }
}

impl fmt::Debug for ChildProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildProcess")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

/// What this process is, whoever has started it.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Process, current_process};
/// assert_eq!(current_process().name(), "MainProcess");
/// let process = Process::builder().name("child").spawn(|| current_process().name().to_owned(), ())?;
/// assert_eq!(process.join()?, "child");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn current_process() -> CurrentProcess {
    CurrentProcess { pid: std::process::id() }
}

/// See [`current_process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentProcess {
    pid: u32,
}

impl CurrentProcess {
    /// `MainProcess` in the first program, else the name of the process or the pool's worker (`POOL-SEAT`).
    #[must_use]
    pub fn name(&self) -> &'static str {
        boot::name()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it ends with its parent. `false` in the first program, `true` in a worker of a pool.
    #[must_use]
    pub fn daemon(&self) -> bool {
        boot::family().is_some_and(|family| family.kin.daemon)
    }

    /// 0 in the first program, 1 in its workers and processes, 2 in theirs.
    #[must_use]
    pub fn depth(&self) -> u32 {
        boot::role().depth
    }
}

/// Who has started this process; `None` in the first program.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Process, parent_process};
/// assert!(parent_process().is_none());
/// let process = Process::spawn(|| parent_process().map(|parent| parent.pid()), ())?;
/// assert_eq!(process.join()?, Some(std::process::id()));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn parent_process() -> Option<ParentProcess> {
    let family = boot::family()?;
    Some(ParentProcess { name: &family.kin.parent_name, pid: family.parent, maker: family.maker })
}

/// See [`parent_process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentProcess {
    name: &'static str,
    pid: u32,
    /// The kernel's parent of this process, which ends with it if it is another one.
    maker: u32,
}

impl ParentProcess {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its name: see [`CurrentProcess::name`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.wait_timeout(Duration::ZERO)
    }

    /// Waits until it has ended. Of use only to a process that is no daemon: others end at the same time.
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Waits for at most `timeout`; returns whether it has ended.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(Some(deadline(timeout)))
    }

    /// A descriptor (a pidfd) that is readable when the parent has ended, to be polled with others. It belongs to the caller.
    ///
    /// # Errors
    /// [`ProcessError::Os`] if the parent has ended already, or the system refuses a descriptor.
    pub fn sentinel(&self) -> Result<OwnedFd, ProcessError> {
        let failed = ProcessError::os("cannot open the parent process");
        let pidfd = PidFd::open(self.maker).map_err(&failed)?;
        if self.is_orphan() {
            // that number may be a stranger's
            return Err(failed(std::io::Error::other("it has ended")));
        }
        Ok(pidfd.into())
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        if self.is_orphan() {
            return true;
        }
        match self.sentinel() {
            // an error means that it can't be polled, which is no answer
            Ok(pidfd) => wait_readable(pidfd.as_fd(), deadline).unwrap_or(false),
            Err(_) => self.is_orphan(),
        }
    }

    /// Orphans are given another parent. (0: the parent is outside this PID namespace.)
    fn is_orphan(&self) -> bool {
        !matches!(process::parent(), 0) && process::parent() != self.maker
    }
}
