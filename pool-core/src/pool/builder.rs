//! How a pool is set up.

use std::ffi::{OsStr, OsString};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use crate::attach;
use crate::backend::process::spawner::{Output, Recipe};
use crate::boot;
use crate::codec;
use crate::dispatch::{Initializer, Settings, Shared};
use crate::error::PoolError;
use crate::limits::{DEFAULT_GRACE, DEFAULT_MAX_PENDING, DEFAULT_START_TIMEOUT, MAX_DEPTH, SLOTS};
use crate::sched;
use crate::task::TaskFn;
use crate::task::callee::Callee;
use crate::task::entry;

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
#[derive(Debug)]
#[must_use = "call build()"]
pub struct PoolBuilder {
    processes: Option<usize>,
    max_tasks_per_child: Option<NonZero<u64>>,
    max_pending: usize,
    max_task_bytes: u64,
    max_result_bytes: u64,
    task_timeout: Option<Duration>,
    retries: u32,
    memory_limit: Option<u64>,
    start_timeout: Duration,
    grace: Duration,
    initializer: Option<Result<Initializer, String>>,
    executable: Option<PathBuf>,
    env: Vec<(OsString, Option<OsString>)>,
    env_clear: bool,
    current_dir: Option<PathBuf>,
    stdout: Output,
    stderr: Output,
    name: Option<String>,
}

impl PoolBuilder {
    pub(super) fn new() -> PoolBuilder {
        PoolBuilder {
            processes: None,
            max_tasks_per_child: None,
            max_pending: DEFAULT_MAX_PENDING,
            max_task_bytes: u64::MAX >> 1,
            max_result_bytes: u64::MAX >> 1,
            task_timeout: None,
            retries: 0,
            memory_limit: None,
            start_timeout: DEFAULT_START_TIMEOUT,
            grace: DEFAULT_GRACE,
            initializer: None,
            executable: None,
            env: Vec::new(),
            env_clear: false,
            current_dir: None,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            name: None,
        }
    }

    /// How many worker processes. Default: the CPUs that this process may use (affinity and cgroup quota honoured).
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = Some(processes);
        self
    }

    /// A function that each worker runs once, before its first task. If it fails or panics, the pool is broken: `build` gives
    /// [`PoolError::InitFailed`], and if that happens to a replacement, tasks end with
    /// [`TaskError::InitFailed`](crate::TaskError::InitFailed).
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use std::sync::OnceLock;
    /// static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
    ///
    /// let pool = pool_core::Pool::builder()
    ///     .processes(2)
    ///     .initializer(|n: u64| TABLE.set((0..n).map(|x| x * x).collect()).is_ok(), (100,))
    ///     .build()?;
    /// assert_eq!(pool.apply(|i: usize| TABLE.get().map(|table| table[i]), (9,))?, Some(81));
    /// # Ok(())
    /// # }
    /// ```
    pub fn initializer<F, Args, Kind>(mut self, _function: F, args: Args) -> Self
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let mut bytes = Vec::new();
        let (encoded, attachments) = attach::collect(|| {
            codec::encode(&args, &mut bytes, crate::limits::INLINE_BYTES as u64)
        });
        self.initializer = Some(match encoded {
            Ok(()) => Ok((Callee::of(entry::single::<F, Args, Kind>), bytes, attachments)),
            Err(codec::Unencodable::Refused(text)) => {
                Err(format!("the initializer's arguments can't be encoded: {text}"))
            }
            Err(codec::Unencodable::TooLarge(size)) => Err(format!(
                "the initializer's arguments have {size} bytes or more, the limit is {}",
                crate::limits::INLINE_BYTES
            )),
        });
        self
    }

    /// A worker leaves after this many tasks (items, for maps), and a fresh one takes its place. Default: never.
    pub fn max_tasks_per_child(mut self, tasks: NonZero<u64>) -> Self {
        self.max_tasks_per_child = Some(tasks);
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
    /// Default: no limit.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
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

    /// Starts the pool. Returns when all workers are ready; after the start timeout, one is enough.
    ///
    /// # Errors
    /// [`PoolError::Config`] for settings that make no sense; [`PoolError::InitNotCalled`] or [`PoolError::StartFailed`] if workers don't come up,
    /// after a few attempts; [`PoolError::InitFailed`]; [`PoolError::NestedTooDeep`]; [`PoolError::Os`] if the system refuses threads or
    /// descriptors. Nothing is left running then.
    pub fn build(self) -> Result<Pool, PoolError> {
        boot::end_if_forgotten();
        let role = boot::role();
        if role.depth >= MAX_DEPTH {
            return Err(PoolError::NestedTooDeep { depth: role.depth + 1, limit: MAX_DEPTH });
        }
        let workers = self.check_processes()?;
        if self.max_pending == 0 {
            return Err(config("max_pending must be at least 1"));
        }
        if self.task_timeout == Some(Duration::ZERO) || self.start_timeout.is_zero() {
            return Err(config("a time limit of zero leaves no time: leave it out for none"));
        }
        if let Some(name) =
            self.env.iter().find_map(|(name, value)| bad_variable(name, value.as_deref()))
        {
            return Err(PoolError::Config(format!(
                "the environment variable {name:?} can't be set: no '=' in the name, and no zero bytes"
            )));
        }
        let name = self.name.unwrap_or_else(default_name);
        if name.len() > MAX_NAME || name.contains('\0') {
            return Err(PoolError::Config(format!(
                "the pool's name must have at most {MAX_NAME} bytes, none of them zero"
            )));
        }
        let initializer = self.initializer.transpose().map_err(PoolError::Config)?;
        if initializer.is_some() && self.executable.is_some() {
            return Err(config(
                "an initializer is a function of this executable, and the workers are copies of another one",
            ));
        }
        let recipe = Recipe {
            pool: name,
            role,
            executable: self.executable,
            env: self.env,
            env_clear: self.env_clear,
            current_dir: self.current_dir,
            stdout: self.stdout,
            stderr: self.stderr,
            max_result: self.max_result_bytes,
            memory_limit: self.memory_limit,
        };
        let start_timeout_ns = u64::try_from(self.start_timeout.as_nanos()).unwrap_or(u64::MAX);
        let settings = Settings {
            recipe,
            sched: sched::Config {
                workers,
                max_tasks_per_child: self.max_tasks_per_child.map(NonZero::get),
                start_timeout_ns,
            },
            max_pending: self.max_pending,
            max_task: self.max_task_bytes,
            task_timeout: self.task_timeout,
            retries: self.retries,
            start_timeout: self.start_timeout,
            grace: self.grace,
            initializer,
        };
        Ok(Pool { shared: Shared::start(settings)? })
    }

    fn check_processes(&self) -> Result<u32, PoolError> {
        let processes = match self.processes {
            Some(processes) => processes,
            None => std::thread::available_parallelism().map_or(1, NonZero::get),
        };
        match u32::try_from(processes) {
            Ok(processes @ 1..=MAX_PROCESSES) => Ok(processes),
            _ => Err(PoolError::Config(format!(
                "processes must be between 1 and {MAX_PROCESSES}, not {processes}"
            ))),
        }
    }
}

/// More than any machine can use; a larger number is a slip.
const MAX_PROCESSES: u32 = 16_384;

/// The name travels in the first message to each worker.
const MAX_NAME: usize = 200;

const _: () = assert!(SLOTS <= u16::MAX as usize, "slots are numbered by u16");

/// The name of a variable that no environment can hold.
fn bad_variable<'a>(name: &'a OsStr, value: Option<&OsStr>) -> Option<&'a OsStr> {
    let zero = |text: &OsStr| text.as_bytes().contains(&0);
    let bad =
        name.is_empty() || name.as_bytes().contains(&b'=') || zero(name) || value.is_some_and(zero);
    bad.then_some(name)
}

fn config(text: &str) -> PoolError {
    PoolError::Config(text.to_owned())
}

fn default_name() -> String {
    static POOLS: AtomicU32 = AtomicU32::new(1);
    match POOLS.fetch_add(1, Ordering::Relaxed) {
        1 => "pool".to_owned(),
        n => format!("pool{n}"),
    }
}

#[expect(dead_code, reason = "a pool is shared between threads by reference")]
fn a_pool_is_shareable() {
    fn check<T: Send + Sync>() {}
    check::<Pool>();
    check::<Arc<Pool>>();
}
