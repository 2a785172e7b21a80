//! From settings to a pool: what makes no sense, or can't be kept, is refused.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::builder::Kind;
use super::confine::sealed;
use super::shareable::Shareable;
use super::{Pool, PoolBuilder};
use crate::backend::process::spawner::{Recipe, StartMethod, bad_variable};
use crate::boot::{self, Role};
use crate::dispatch::{Settings, Shared, Workers};
use crate::error::PoolError;
use crate::limits::{MAX_DEPTH, NAME_BYTES, SLOTS};
use crate::output::Output;
use crate::sched;
use crate::sys::cgroup::Delegated;
use crate::sys::{namespace, process};

impl<P: From<Pool>> PoolBuilder<P> {
    /// Starts the pool. Returns when all workers are ready; after the start timeout, one is enough.
    ///
    /// # Errors
    /// [`PoolError::Config`] for settings that make no sense, and for those that threads can't keep; [`PoolError::InitNotCalled`] or [`PoolError::StartFailed`] if workers
    /// don't come up, after a few attempts; [`PoolError::InitFailed`]; [`PoolError::NestedTooDeep`]; [`PoolError::Os`] if the system refuses threads or
    /// descriptors; [`PoolError::NoCgroup`] if a [`cgroup_memory_limit`](Self::cgroup_memory_limit) can't be had. Nothing is left running then.
    pub fn build(self) -> Result<P, PoolError> {
        Ok(P::from(Pool { shared: Shared::start(self.into_settings()?)? }))
    }
}

impl<P> PoolBuilder<P> {
    /// Checks what was set.
    pub(crate) fn into_settings(mut self) -> Result<Settings, PoolError> {
        if self.is_mixed {
            return Err(config(
                "both processes and threads were asked for, and a pool has one kind of worker: leave one of them out",
            ));
        }
        let role = match self.kind {
            Kind::Processes => check_role()?,
            Kind::Threads => boot::role(),
        };
        let workers = self.check_size()?;
        self.check_values()?;
        if self.kind == Kind::Threads {
            self.check_threads()?;
        }
        let name = self.name.take().unwrap_or_else(default_name);
        if name.len() > NAME_BYTES || name.contains('\0') {
            return Err(PoolError::Config(format!(
                "the pool's name must have at most {NAME_BYTES} bytes, none of them zero"
            )));
        }
        let initializer = self.initializer.take().transpose().map_err(PoolError::Config)?;
        let finalizer = self.finalizer.take().transpose().map_err(PoolError::Config)?;
        let preload = self.preload.take().transpose().map_err(PoolError::Config)?;
        if preload.is_some() && self.start_method != StartMethod::ForkServer {
            return Err(config(
                "preload is for start_method(StartMethod::ForkServer) only: without it, use initializer",
            ));
        }
        let seen = self.check_namespace()?;
        let shared = self.shared.take();
        if self.executable.is_some()
            && (preload.is_some()
                || initializer.is_some()
                || finalizer.is_some()
                || shared.is_some())
        {
            return Err(config(
                "an initializer, a finalizer and a shared object belong to this executable, and the workers are copies of another one",
            ));
        }
        let sched = sched::Config {
            workers,
            min_workers: self.min_size.map(|size| size as u32),
            idle_timeout_ns: self.idle_timeout.map(ns),
            max_tasks_per_child: self.max_tasks_per_child.map(NonZero::get),
            max_age_ns: self.max_age.map(ns),
            start_timeout_ns: ns(self.start_timeout),
            crash_limit: self.crash_limit,
            max_restarts: self.max_restarts.map(|(workers, within)| (workers, ns(within))),
        };
        Ok(Settings {
            max_result: self.max_result_bytes,
            sched,
            max_pending: self.max_pending,
            max_task: self.max_task_bytes,
            max_memory: self.max_memory,
            task_timeout: self.task_timeout,
            retries: self.retries,
            start_timeout: self.start_timeout,
            grace: self.grace,
            sandbox_required: self.sandbox.as_ref().is_some_and(|sandbox| sandbox.plan.required),
            initializer,
            finalizer,
            on_event: self.on_event.clone(),
            start_method: self.start_method,
            preload,
            cpus: self.cpus.iter().map(|&cpu| cpu as u32).collect(),
            niceness: self.niceness,
            workers: match self.kind {
                Kind::Threads => Workers::Threads { shared: shared.map(Shareable::into_object) },
                Kind::Processes => Workers::Processes(Box::new(self.into_recipe(
                    name.clone(),
                    role,
                    seen,
                    shared,
                )?)),
            },
            name,
        })
    }

    fn into_recipe(
        self,
        pool: String,
        role: Role,
        seen: Option<u32>,
        shared: Option<Shareable>,
    ) -> Result<Recipe, PoolError> {
        let groups = match self.cgroup_memory_limit {
            Some(bytes) => Some(Arc::new(
                Delegated::find(self.cgroup_parent.as_deref(), bytes)
                    .map_err(PoolError::NoCgroup)?,
            )),
            None => None,
        };
        Ok(Recipe {
            groups,
            pool,
            role,
            executable: self.executable,
            env: self.env,
            // what untrusted code is to know of the environment is named
            env_clear: self.env_clear || self.sandbox.is_some(),
            current_dir: self.current_dir,
            stdout: self.stdout,
            stderr: self.stderr,
            max_result: self.max_result_bytes,
            memory_limit: self.memory_limit,
            fast_lane: self.fast_lane,
            cpus: self.cpus.iter().map(|&cpu| cpu as u32).collect(),
            niceness: self.niceness,
            shared: shared.map(Shareable::into_file).transpose()?,
            limits: self.limits,
            sandbox: self.sandbox.map(sealed).transpose()?,
            seen,
            member: None,
        })
    }

    /// The number by which this program must be seen from the namespace of the workers, if that is wanted.
    fn check_namespace(&self) -> Result<Option<u32>, PoolError> {
        if !self.pid_namespace {
            return Ok(None);
        }
        if self.start_method != StartMethod::ForkServer {
            return Err(config(
                "pid_namespace is for start_method(StartMethod::ForkServer) only: the fork server is the first process of it",
            ));
        }
        if self.sandbox.is_some() {
            return Err(config(
                "pid_namespace and sandbox exclude each other: confined workers don't see /proc, by which processes of several namespaces are told apart",
            ));
        }
        let missing = || PoolError::NoPidNamespace("/proc is not mounted".to_owned());
        Ok(Some(namespace::me_in_proc().ok_or_else(missing)?))
    }

    fn check_size(&self) -> Result<u32, PoolError> {
        let what = match self.kind {
            Kind::Processes => "processes",
            Kind::Threads => "threads",
        };
        let size = match self.size {
            Some(size) => size,
            None => std::thread::available_parallelism().map_or(1, NonZero::get),
        };
        let workers = check_workers(what, size)?;
        match self.min_size {
            Some(0) => Err(config("min_size must be at least 1")),
            Some(least) if least > size => Err(PoolError::Config(format!(
                "min_size is {least}, which is more than {size} {what}"
            ))),
            _ => Ok(workers),
        }
    }

    fn check_values(&self) -> Result<(), PoolError> {
        self.check_limits()?;
        if self.max_pending == 0 {
            return Err(config("max_pending must be at least 1"));
        }
        if self.crash_limit == 0 {
            return Err(config(
                "crash_limit must be at least 1: a task that costs none has no limit",
            ));
        }
        let times = [self.task_timeout, self.idle_timeout, self.max_age, Some(self.start_timeout)];
        if times.contains(&Some(Duration::ZERO)) {
            return Err(config("a time limit of zero leaves no time: leave it out for none"));
        }
        if self.idle_timeout.is_some() && self.min_size.is_none() {
            return Err(config("idle_timeout needs a min_size: without one, all workers stay"));
        }
        let limits = [
            ("memory_limit", self.memory_limit),
            ("cgroup_memory_limit", self.cgroup_memory_limit),
        ];
        if let Some((name, _)) =
            limits.iter().find(|(_, limit)| limit.is_some_and(|bytes| bytes < LEAST_MEMORY))
        {
            return Err(PoolError::Config(format!(
                "{name} is in bytes, and no worker can start with less than {LEAST_MEMORY}"
            )));
        }
        if self.cgroup_parent.is_some() && self.cgroup_memory_limit.is_none() {
            return Err(config(
                "cgroup_parent is for cgroup_memory_limit: without one, there are no cgroups",
            ));
        }
        if self.niceness.is_some_and(|niceness| !(-20..=19).contains(&niceness)) {
            return Err(config("niceness must be between -20 and 19"));
        }
        if let Some(&cpu) = self.cpus.iter().find(|&&cpu| !process::may_run_on(cpu)) {
            return Err(PoolError::Config(format!(
                "cpu_affinity names CPU {cpu}, which this process may not use"
            )));
        }
        if let Some(name) = bad_variable(&self.env) {
            return Err(PoolError::Config(format!(
                "the environment variable {name:?} can't be set: no '=' in the name, and no zero bytes"
            )));
        }
        Ok(())
    }

    /// What only processes can do.
    fn check_threads(&self) -> Result<(), PoolError> {
        let wanted = [
            (
                self.task_timeout.is_some(),
                "task_timeout",
                "a thread can't be killed when its time is up; use soft_timeout for a call",
            ),
            (
                self.start_method != StartMethod::Spawn,
                "start_method",
                "threads are not started as processes are",
            ),
            (self.pid_namespace, "pid_namespace", "threads are in that of this process"),
            (self.preload.is_some(), "preload", "threads use what this process has loaded"),
            (
                self.memory_limit.is_some(),
                "memory_limit",
                "threads share the memory of this process",
            ),
            (
                self.cgroup_memory_limit.is_some(),
                "cgroup_memory_limit",
                "threads share the memory of this process",
            ),
            (
                self.max_memory.is_some(),
                "max_memory_per_child",
                "threads share the memory of this process",
            ),
            (self.executable.is_some(), "executable", "threads run this program"),
            (
                !self.env.is_empty() || self.env_clear,
                "env",
                "threads share the environment of this process",
            ),
            (
                self.current_dir.is_some(),
                "current_dir",
                "threads share the working directory of this process",
            ),
            (
                self.stdout != Output::Inherit,
                "stdout",
                "threads share the standard output of this process",
            ),
            (
                self.stderr != Output::Inherit,
                "stderr",
                "threads share the standard error of this process",
            ),
            (!self.limits.is_empty(), "limit", "threads share the limits of this process"),
            (self.sandbox.is_some(), "sandbox", "threads share the rights of this process"),
        ];
        match wanted.iter().find(|(wanted, ..)| *wanted) {
            Some((_, setting, why)) => {
                Err(PoolError::Config(format!("{setting} is for processes only: {why}")))
            }
            None => Ok(()),
        }
    }
}

/// How many workers a pool may have.
pub(super) fn check_workers(what: &str, size: usize) -> Result<u32, PoolError> {
    match u32::try_from(size) {
        Ok(workers @ 1..=MAX_WORKERS) => Ok(workers),
        _ => Err(PoolError::Config(format!(
            "{what} must be between 1 and {MAX_WORKERS}, not {size}"
        ))),
    }
}

/// Whether this process may have worker processes.
fn check_role() -> Result<Role, PoolError> {
    boot::end_if_forgotten();
    let role = boot::role();
    if role.depth >= MAX_DEPTH {
        return Err(PoolError::NestedTooDeep { depth: role.depth + 1, limit: MAX_DEPTH });
    }
    Ok(role)
}

/// Less address space than any program has that links the standard library.
const LEAST_MEMORY: u64 = 4 << 20;

/// More than any machine can use; a larger number is a slip.
const MAX_WORKERS: u32 = 16_384;

const _: () = assert!(SLOTS <= u16::MAX as usize, "slots are numbered by u16");

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
