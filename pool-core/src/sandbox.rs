//! What a worker that runs untrusted code may do: the profiles, and limits on resources.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the code of tasks may do in its worker process: see [`PoolBuilder::sandbox`](crate::PoolBuilder::sandbox).
///
/// | in the worker | [`confined`](Sandbox::confined) | [`strict`](Sandbox::strict) |
/// |---|---|---|
/// | files | reads what lies in the system's directories of programs and libraries (`/usr`, `/lib`, ..), a few files in `/etc`, `/dev`, `/proc` and `/sys` that the standard library wants, and its own executable | none |
/// | besides | what [`read`](Sandbox::read) and [`write`](Sandbox::write) name | what [`read`](Sandbox::read) and [`write`](Sandbox::write) name |
/// | system calls | all but those that reach other processes, the network or the kernel's settings | only those that computing takes: memory, threads, clocks, its own signals, what is open already |
/// | new sockets, connections | no | no |
/// | other processes: start, signal, trace, read | no | no |
/// | environment | only what [`env`](crate::PoolBuilder::env) sets | the same |
/// | privileges, core dumps | no new ones, none | the same |
///
/// Whether a file exists, how large it is and whom it belongs to can be asked in both. What is not allowed fails with "operation not permitted" or "permission denied". Threads can be started. A worker is confined before the [initializer](crate::PoolBuilder::initializer)
/// runs; the [preload function](crate::PoolBuilder::preload) of a fork server is not confined, so that is the place to open what workers may not. Printing goes where it always goes: discard it with
/// [`stdout`](crate::PoolBuilder::stdout) if a task shall not write to the terminal.
///
/// Files are guarded by landlock (Linux 6.2 or later), system calls by seccomp. [`build`](crate::PoolBuilder::build) fails if the kernel lacks something, unless
/// [`best_effort`](Sandbox::best_effort) was asked for. The limits of all this are in docs/security.md: the kernel itself is in reach, and a task can use as much of the processor as it gets.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::{Pool, Sandbox};
/// let sandbox = Sandbox::strict().best_effort();
/// let pool = Pool::builder().processes(2).sandbox(sandbox).build()?;
/// let opened = pool.apply(|| std::fs::read("/etc/passwd").is_ok(), ())?;
/// assert!(!opened || !pool.sandbox_gaps().is_empty());
/// assert_eq!(pool.apply(u64::pow, (2, 10))?, 1024);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "pass it to PoolBuilder::sandbox"]
pub struct Sandbox {
    pub(crate) plan: Confinement,
}

impl Sandbox {
    /// For trusted code that handles untrusted data (a parser, a decoder): the programs' and libraries' files can be read, and system calls that do no harm outside work.
    pub fn confined() -> Sandbox {
        Sandbox::of(Profile::Confined)
    }

    /// For untrusted code: no files, and only the system calls that computing takes. A library that wants others gets "operation not permitted".
    pub fn strict() -> Sandbox {
        Sandbox::of(Profile::Strict)
    }

    fn of(profile: Profile) -> Sandbox {
        let plan =
            Confinement { profile, required: true, readable: Vec::new(), writable: Vec::new() };
        Sandbox { plan }
    }

    /// This file, or everything below this directory, can be read. It must exist when a worker starts.
    pub fn read(mut self, path: impl Into<PathBuf>) -> Sandbox {
        self.plan.readable.push(path.into().into_os_string());
        self
    }

    /// This file, or everything below this directory, can be read, written, created and removed. It must exist when a worker starts.
    pub fn write(mut self, path: impl Into<PathBuf>) -> Sandbox {
        self.plan.writable.push(path.into().into_os_string());
        self
    }

    /// Workers run also where the kernel can't keep all of this. What it could not is told by [`Pool::sandbox_gaps`](crate::Pool::sandbox_gaps) and
    /// [`PoolEvent::SandboxIncomplete`](crate::PoolEvent::SandboxIncomplete).
    pub fn best_effort(mut self) -> Sandbox {
        self.plan.required = false;
        self
    }
}

/// What a worker is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    pub(crate) profile: Profile,
    /// A worker that can't apply all of it runs nothing.
    pub(crate) required: bool,
    pub(crate) readable: Vec<OsString>,
    pub(crate) writable: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Profile {
    Confined,
    Strict,
}

/// A limit on what a worker process may take, which it can't raise again: see [`PoolBuilder::limit`](crate::PoolBuilder::limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Limit {
    /// Processor time of the worker, over all its tasks, in whole seconds (rounded up). Beyond it, it gets SIGXCPU (signal 24), and SIGKILL a second later.
    /// For the time of one task there is [`task_timeout`](crate::PoolBuilder::task_timeout); with this one goes
    /// [`max_tasks_per_child`](crate::PoolBuilder::max_tasks_per_child).
    CpuTime(Duration),
    /// The largest file that it may write, in bytes. A write beyond it ends it with SIGXFSZ (signal 25).
    FileSize(u64),
    /// How many descriptors it may have open; it needs some 10 for itself. Opening more fails.
    OpenFiles(u64),
    /// The largest core dump, in bytes; 0 for none.
    CoreSize(u64),
    /// The stack of the thread on which tasks run, in bytes. Beyond it, it ends with SIGSEGV (signal 11).
    Stack(u64),
}
