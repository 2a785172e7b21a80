//! How a pool is set up.

use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use super::Pool;
use super::shareable::Shareable;
use crate::backend::process::spawner::StartMethod;
use crate::dispatch::{EventHook, Hook};
use crate::limits::{DEFAULT_GRACE, DEFAULT_MAX_PENDING, DEFAULT_START_TIMEOUT};
use crate::output::Output;
use crate::sandbox::{Limit, Sandbox};
use crate::task::callee::Callee;

/// What kind of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Processes,
    Threads,
}

/// Settings of a pool that is to be built. See [`Pool::builder`].
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use std::time::Duration;
/// let pool = pool_core::Pool::builder()
///     .processes(2)
///     .task_timeout(Duration::from_secs(5))
///     .env("LC_ALL", "C")
///     .name("parsers")
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "call build()"]
pub struct PoolBuilder<P = Pool> {
    pub(super) kind: Kind,
    pub(super) size: Option<usize>,
    pub(super) min_size: Option<usize>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_tasks_per_child: Option<NonZero<u64>>,
    pub(super) max_age: Option<Duration>,
    pub(super) max_memory: Option<u64>,
    pub(super) max_restarts: Option<(u32, Duration)>,
    pub(super) crash_limit: u32,
    pub(super) max_pending: usize,
    pub(super) max_task_bytes: u64,
    pub(super) max_result_bytes: u64,
    pub(super) task_timeout: Option<Duration>,
    pub(super) retries: u32,
    pub(super) memory_limit: Option<u64>,
    pub(super) cgroup_memory_limit: Option<u64>,
    pub(super) cgroup_parent: Option<PathBuf>,
    pub(super) fast_lane: bool,
    pub(super) start_timeout: Duration,
    pub(super) grace: Duration,
    pub(super) initializer: Option<Result<Hook, String>>,
    pub(super) finalizer: Option<Result<Hook, String>>,
    pub(super) shared: Option<Shareable>,
    pub(super) start_method: StartMethod,
    pub(super) pid_namespace: bool,
    pub(super) preload: Option<Result<(Callee, Vec<u8>), String>>,
    pub(super) on_event: EventHook,
    pub(super) cpus: Vec<usize>,
    pub(super) niceness: Option<i32>,
    pub(super) limits: Vec<Limit>,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) executable: Option<PathBuf>,
    pub(super) env: Vec<(OsString, Option<OsString>)>,
    pub(super) env_clear: bool,
    pub(super) current_dir: Option<PathBuf>,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) name: Option<String>,
    /// Processes are threads.
    dummy: bool,
    /// Both kinds were asked for.
    pub(super) is_mixed: bool,
    /// What is built.
    built: PhantomData<fn() -> P>,
}

impl<P> PoolBuilder<P> {
    pub(super) fn new() -> PoolBuilder<P> {
        PoolBuilder {
            kind: Kind::Processes,
            size: None,
            min_size: None,
            idle_timeout: None,
            max_tasks_per_child: None,
            max_age: None,
            max_memory: None,
            max_restarts: None,
            crash_limit: u32::MAX,
            max_pending: DEFAULT_MAX_PENDING,
            max_task_bytes: u64::MAX >> 1,
            max_result_bytes: u64::MAX >> 1,
            task_timeout: None,
            retries: 0,
            memory_limit: None,
            cgroup_memory_limit: None,
            cgroup_parent: None,
            fast_lane: true,
            start_timeout: DEFAULT_START_TIMEOUT,
            grace: DEFAULT_GRACE,
            initializer: None,
            finalizer: None,
            shared: None,
            start_method: StartMethod::Spawn,
            pid_namespace: false,
            preload: None,
            on_event: EventHook::default(),
            cpus: Vec::new(),
            niceness: None,
            limits: Vec::new(),
            sandbox: None,
            executable: None,
            env: Vec::new(),
            env_clear: false,
            current_dir: None,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            name: None,
            dummy: false,
            is_mixed: false,
            built: PhantomData,
        }
    }

    /// Workers are threads, also where the program says processes.
    pub(crate) fn of_threads() -> PoolBuilder<P> {
        PoolBuilder { kind: Kind::Threads, dummy: true, ..PoolBuilder::new() }
    }

    /// Workers are processes, and there are so many. Default: processes, as many as there are CPUs that this process may use (affinity and cgroup quota honoured). A pool has one kind of worker:
    /// with both `processes` and [`threads`](Self::threads), [`build`](Self::build) fails.
    pub fn processes(self, processes: usize) -> Self {
        let kind = if self.dummy { Kind::Threads } else { Kind::Processes };
        self.workers(kind, processes)
    }

    /// Workers are threads of this process, and there are so many. Everything is the same then, but for what threads can't do: they can't be killed, so
    /// [`task_timeout`](Self::task_timeout) and whatever makes processes different from this one is refused by [`build`](Self::build), a running task can't be
    /// cancelled, and a task that aborts or overflows its stack takes the program along. What answers the loss of a worker is taken and has nothing to do, as a thread is not lost:
    /// [`retries`](Self::retries), [`crash_limit`](Self::crash_limit), [`max_restarts`](Self::max_restarts). Arguments and results are moved, not encoded, so [`max_task_bytes`](Self::max_task_bytes),
    /// [`max_result_bytes`](Self::max_result_bytes) and [`fast_lane`](Self::fast_lane) have no effect either; they are serde types all the same, and tasks may not capture
    /// ([`Thread`](crate::Thread) may). A task must not wait for other tasks of its own pool: when all threads wait, nothing goes on. With both `processes` and `threads`, `build` fails.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// let pool = pool_core::Pool::builder().threads(4).build()?;
    /// assert_eq!(pool.map(|x: u64| x * x, 0..4)?, [0, 1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn threads(self, threads: usize) -> Self {
        self.workers(Kind::Threads, threads)
    }

    fn workers(self, kind: Kind, size: usize) -> Self {
        let is_mixed = self.is_mixed || (self.size.is_some() && self.kind != kind);
        PoolBuilder { kind, size: Some(size), is_mixed, ..self }
    }

    /// The pool begins with so many workers and starts further ones, up to the number of [`processes`](Self::processes) or [`threads`](Self::threads), when tasks wait. Default: all of
    /// them at once.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use std::time::Duration;
    /// let pool = pool_core::Pool::builder()
    ///     .processes(8)
    ///     .min_size(1)
    ///     .idle_timeout(Duration::from_secs(60))
    ///     .build()?;
    /// assert_eq!(pool.workers().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn min_size(mut self, workers: usize) -> Self {
        self.min_size = Some(workers);
        self
    }

    /// How long a worker above the [`min_size`](Self::min_size) waits for a task before it leaves. Default: for ever.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Pins worker `i` to the CPU number `cpus[i % cpus.len()]`. Default: workers run on any CPU that this process may use.
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.cpus = cpus.into_iter().collect();
        self
    }

    /// The workers' niceness, from -20 (needs privileges) to 19: those of a higher one give way to others. Default: this process's.
    pub fn niceness(mut self, niceness: i32) -> Self {
        self.niceness = Some(niceness);
        self
    }

    /// A worker leaves after this many tasks (items, for maps), and a fresh one takes its place. Default: never.
    pub fn max_tasks_per_child(mut self, tasks: NonZero<u64>) -> Self {
        self.max_tasks_per_child = Some(tasks);
        self
    }

    /// A worker leaves when it has been ready for this long and has done at least one task, and a fresh one takes its place: between two tasks, so that nothing is
    /// lost. Default: never.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// A worker process whose resident memory, in bytes, is above this leaves after its current task, and a fresh one takes its place: against leaks. It is looked at some
    /// 20 times a second while the worker has tasks. For a limit that strikes at once, see [`memory_limit`](Self::memory_limit). Default: never.
    pub fn max_memory_per_child(mut self, bytes: u64) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// How many workers may end by themselves (crash, be killed by somebody else, exit) within a time: one more, and the pool is broken. Cancelled
    /// tasks and time limits don't count. Default: any number.
    pub fn max_restarts(mut self, workers: u32, within: Duration) -> Self {
        self.max_restarts = Some((workers, within));
        self
    }

    /// How many workers a task with [`retries`](Self::retries) may cost before it ends with [`TaskError::Quarantined`](crate::TaskError::Quarantined), however many retries are left.
    /// Default: no limit, the retries decide.
    pub fn crash_limit(mut self, workers: u32) -> Self {
        self.crash_limit = workers;
        self
    }

    /// How many tasks may be unfinished before [`apply_async`](Pool::apply_async) blocks. Default: 65,536. It bounds the memory that an endless
    /// submitting loop takes.
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.max_pending = tasks;
        self
    }

    /// The largest encoded arguments, in bytes; a task with larger ones fails with [`TaskError::TooLarge`](crate::TaskError::TooLarge).
    /// Default: no limit.
    pub fn max_task_bytes(mut self, bytes: u64) -> Self {
        self.max_task_bytes = bytes.min(u64::MAX >> 1);
        self
    }

    /// The largest encoded result, in bytes; a task with a larger one fails with [`TaskError::TooLarge`](crate::TaskError::TooLarge). A worker
    /// that announces more is killed. Default: no limit.
    pub fn max_result_bytes(mut self, bytes: u64) -> Self {
        self.max_result_bytes = bytes.min(u64::MAX >> 1);
        self
    }

    /// How long a task may run, counted from its start in the worker (not from its submission). Then its worker is killed and replaced, and
    /// the task ends with [`TaskError::TimedOut`](crate::TaskError::TimedOut). For a map, the limit is one of its chunk. Default: no limit.
    pub fn task_timeout(mut self, timeout: Duration) -> Self {
        self.task_timeout = Some(timeout);
        self
    }

    /// How many more times a task is started if its worker dies while running it, or if its time is up. Only for tasks that may run more than
    /// once. Default: 0, so that a task is started at most once.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How much address space, in bytes, a worker and each process that it starts may have (`RLIMIT_AS`): what is mapped counts, used or not. An allocation
    /// beyond it fails, by which a Rust program aborts, so the task ends with [`TaskError::WorkerLost`](crate::TaskError::WorkerLost) and signal 6.
    /// Default: no limit. [`cgroup_memory_limit`](Self::cgroup_memory_limit) limits what is used, and tells such an end as what it is.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// How much memory, in bytes, a worker together with all that it starts may use: each worker lives in a cgroup of its own. Beyond it the kernel kills, and the task ends
    /// with [`TaskError::WorkerLost`](crate::TaskError::WorkerLost) and [`ExitCause::OutOfMemory`](crate::ExitCause::OutOfMemory). There is no swap for what is above it. When a worker ends,
    /// however that happens, all that is left in its cgroup is killed, also what has left its process group. Default: no cgroups.
    ///
    /// The cgroups are made below the one in which this program runs or, with version 2, beside it, where the kernel allows it; or in [`cgroup_parent`](Self::cgroup_parent). They are gone when
    /// the pool is. If this program is killed, they are left behind, empty or not, and removed with what is in them by the next pool that makes cgroups in the same place.
    /// What the program does before [`init`](crate::init), and the memory that forked workers share, count for the parent's cgroup. With version 1 the kernel kills one process of the
    /// cgroup, which need not be the worker; with version 2 it kills all of it.
    ///
    /// [`build`](Self::build) fails with [`PoolError::NoCgroup`](crate::PoolError::NoCgroup) if this can't be had; there is no pool without a limit that was asked for.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{ExitCause, Pool, PoolError, TaskError};
    /// match Pool::builder().processes(1).cgroup_memory_limit(64 << 20).build() {
    ///     Err(PoolError::NoCgroup(why)) => println!("not here: {why}"),
    ///     pool => {
    ///         let outcome = pool?.apply(|| vec![1_u8; 256 << 20].len(), ());
    ///         assert!(matches!(outcome, Err(TaskError::WorkerLost { cause: ExitCause::OutOfMemory, .. })));
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn cgroup_memory_limit(mut self, bytes: u64) -> Self {
        self.cgroup_memory_limit = Some(bytes);
        self
    }

    /// The directory of the cgroup in which those of [`cgroup_memory_limit`](Self::cgroup_memory_limit) are made. This program must be allowed to make directories there, and to move
    /// processes into them; with version 2 there may be no processes in it. Default: what fits the cgroup in which this program runs.
    pub fn cgroup_parent(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cgroup_parent = Some(directory.into());
        self
    }

    /// Whether small tasks and results go through memory that the pool shares with each worker, which is quicker than sockets. For measurements, and where somebody
    /// wants to do without. Default: yes.
    pub fn fast_lane(mut self, on: bool) -> Self {
        self.fast_lane = on;
        self
    }

    /// How long a worker may take to become ready, the initializer included. Then it is killed, and another one is tried. Default: 30 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long children have from SIGTERM to SIGKILL when the pool is terminated. Default: 1 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Workers are copies of another executable, which calls [`init_with`](crate::init_with); only
    /// [`apply_named`](Pool::apply_named) can call its functions.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// Sets an environment variable for the workers.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable for the workers.
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.env.push((key.into(), None));
        self
    }

    /// Workers get only the variables set with [`env`](Self::env) (and one that tells them that they are workers).
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self
    }

    /// The workers' working directory. Default: the parent's.
    pub fn current_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(path.into());
        self
    }

    /// Where the workers' standard output goes. Default: to the parent's.
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Where the workers' standard error goes. Default: to the parent's.
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// A name for the pool, at most 200 bytes: its threads are called `NAME-io` and `NAME-spawner`, its worker processes `NAME-0`, `NAME-1`, ... Default:
    /// `pool`, `pool2`, ...
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<P> fmt::Debug for PoolBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("kind", &self.kind)
            .field("size", &self.size)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
