//! How a process is set up.

use std::any::type_name;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::child::{Child, Plan};
use super::{Process, ProcessError};
use crate::attach;
use crate::backend::process::spawner::{Member, Recipe, bad_variable};
use crate::boot::Role;
use crate::codec::{self, Unencodable};
use crate::limits::{DEFAULT_START_TIMEOUT, NAME_BYTES};
use crate::output::Output;
use crate::task::TaskFn;
use crate::task::callee::Callee;
use crate::task::entry;

/// Settings of a process that is to be started. See [`Process::builder`].
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Process;
/// let locale = || std::env::var("LC_ALL").ok();
/// let process = Process::builder().name("parser").env("LC_ALL", "C").spawn(locale, ())?;
/// assert_eq!(process.name(), "parser");
/// assert_eq!(process.join()?.as_deref(), Some("C"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "call spawn() or build()"]
pub struct ProcessBuilder {
    name: Option<String>,
    daemon: Option<bool>,
    settings: Settings,
}

/// What concerns only the start.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    env: Vec<(OsString, Option<OsString>)>,
    env_clear: bool,
    current_dir: Option<PathBuf>,
    stdout: Output,
    stderr: Output,
    memory_limit: Option<u64>,
    pub(super) start_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            env: Vec::new(),
            env_clear: false,
            current_dir: None,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            memory_limit: None,
            start_timeout: DEFAULT_START_TIMEOUT,
        }
    }
}

impl ProcessBuilder {
    /// The name, at most 200 bytes. Default: `Process-N` in the first program, `Process-N:M` in its `N`th process.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether the process is killed when this one ends, however it ends. Default: as this process; in the first program, `true`.
    ///
    /// With `false`, the process goes on when this one has ended, until its function has returned. Its result is lost then. Nobody waits for it:
    /// Python joins such processes at exit; here, call [`join`](Process::join) before `main` ends if that is wanted.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// Sets an environment variable for the process.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.settings.env.push((key.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable for the process.
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.settings.env.push((key.into(), None));
        self
    }

    /// The process gets only the variables set with [`env`](Self::env) (and one that tells it what it is).
    pub fn env_clear(mut self) -> Self {
        self.settings.env_clear = true;
        self
    }

    /// The working directory. Default: that of this process.
    pub fn current_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.current_dir = Some(path.into());
        self
    }

    /// Where its standard output goes. Default: to that of this process.
    pub fn stdout(mut self, output: Output) -> Self {
        self.settings.stdout = output;
        self
    }

    /// Where its standard error goes. Default: to that of this process.
    pub fn stderr(mut self, output: Output) -> Self {
        self.settings.stderr = output;
        self
    }

    /// How much address space, in bytes, the process and each one that it starts may have (`RLIMIT_AS`): what is mapped counts, used or not. An
    /// allocation beyond it fails, by which a Rust program aborts. Default: no limit.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.settings.memory_limit = Some(bytes);
        self
    }

    /// How long it may take to reach [`init`](crate::init). Then it is killed, and [`join`](Process::join) gives
    /// [`ProcessError::StartFailed`]. Default: 30 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.settings.start_timeout = timeout;
        self
    }

    /// A process that calls `function` with `args`, created and started. Returns when the process exists; it may take some more milliseconds until
    /// the function is called.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn spawn<F, Args, Kind>(
        self,
        function: F,
        args: Args,
    ) -> Result<Process<F::Output>, ProcessError>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let process = self.build(function, args);
        process.start().map(|()| process)
    }

    /// The same, not started yet: call [`Process::start`].
    pub fn build<F, Args, Kind>(self, _function: F, args: Args) -> Process<F::Output>
    where
        F: TaskFn<Args, Kind>,
        Args: Serialize + DeserializeOwned + Send + 'static,
    {
        let mut bytes = Vec::new();
        let (input, attachments) =
            attach::collect(|| codec::encode_value(&args, &mut bytes, u64::MAX >> 1));
        let input = input.map_err(|error| {
            let reason = match error {
                Unencodable::Refused(text) => text,
                Unencodable::TooLarge(size) => format!("they take {size} bytes or more"),
            };
            let name = type_name::<Args>();
            ProcessError::Encode(format!("cannot encode the arguments of type {name}: {reason}"))
        });
        let callee = Callee::of(entry::single::<F, Args, Kind>);
        let input = input.map(|()| Arc::new(bytes));
        let plan = Plan { settings: self.settings, callee, input, attachments };
        Process::of(Child::new(self.name, self.daemon, type_name::<F>(), plan))
    }
}

impl Settings {
    /// Checks what was set.
    pub(super) fn recipe(&self, role: Role, member: Member) -> Result<Recipe, ProcessError> {
        if let Some(name) = bad_variable(&self.env) {
            return Err(ProcessError::Config(format!(
                "the environment variable {name:?} can't be set: no '=' in the name, and no zero bytes"
            )));
        }
        if member.name.len() > NAME_BYTES || member.name.contains('\0') {
            return Err(ProcessError::Config(format!(
                "the process' name must have at most {NAME_BYTES} bytes, none of them zero"
            )));
        }
        Ok(Recipe {
            pool: String::new(),
            role,
            executable: None,
            env: self.env.clone(),
            env_clear: self.env_clear,
            current_dir: self.current_dir.clone(),
            stdout: self.stdout,
            stderr: self.stderr,
            max_result: u64::MAX >> 1,
            memory_limit: self.memory_limit,
            groups: None,
            fast_lane: true,
            cpus: Vec::new(),
            niceness: None,
            limits: Vec::new(),
            sandbox: None,
            shared: None,
            seen: None,
            member: Some(Box::new(member)),
        })
    }
}
