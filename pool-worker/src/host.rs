//! The executable that offers functions by name.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use pool_core::Registry;
use serde::{Deserialize, Serialize};

use crate::call::{self, CALL, Reply};
use crate::function::HostFn;

/// Run by hand with this, a host prints the names of its tasks, one a line.
pub const TASKS_FLAG: &str = "--tasks";

/// Run by hand with this, a host prints its [`HostInfo`] as one line of JSON. `pool-cli` asks so.
pub const TASKS_JSON_FLAG: &str = "--tasks=json";

/// What a host answers when it is asked for its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// The version of `pool-worker` that the host was built with.
    pub pool_worker: String,
    /// The names of its tasks, sorted.
    pub tasks: Vec<String>,
}

type Call = Box<dyn Fn(&[u8]) -> anyhow::Result<Vec<u8>> + Send + Sync>;

/// Functions under names, and the `main` of the executable that offers them.
///
/// ```no_run
/// fn shout(text: String) -> String {
///     text.to_uppercase()
/// }
///
/// fn main() -> std::process::ExitCode {
///     pool_worker::Host::new().task("shout", shout).run()
/// }
/// ```
#[derive(Default)]
pub struct Host {
    tasks: BTreeMap<String, Call>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("tasks", &self.tasks.keys()).finish()
    }
}

impl Host {
    /// A host without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a function of one argument under a name. See [`HostFn`] for what it may take and return.
    ///
    /// # Panics
    /// If the name is taken already: two tasks of one name are a mistake in the program.
    #[must_use]
    pub fn task<I, K>(mut self, name: impl Into<String>, f: impl HostFn<I, K>) -> Self {
        let name = name.into();
        let task = name.clone();
        let taken = self.tasks.insert(name, Box::new(move |input| f.call_json(&task, input)));
        assert!(taken.is_none(), "a host can't have two tasks of the same name");
        self
    }

    /// The names of the tasks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    /// The tasks as a registry, for a program that calls [`pool_core::init_with`] itself.
    pub fn into_registry(self) -> Registry {
        let tasks = Arc::new(self.tasks);
        let mut registry = Registry::new();
        let names: Vec<String> = tasks.keys().cloned().collect();
        for name in names {
            let tasks = Arc::clone(&tasks);
            registry = registry.register(name.clone(), move |input| tasks[&name](input));
        }
        registry.register(CALL, move |request| Ok(call(&tasks, request).to_bytes()))
    }

    /// The whole `main` of a host: call it first and return what it returns.
    ///
    /// In a worker process this call serves tasks and never returns. In a process that somebody started by hand it prints the
    /// names of the tasks (`--tasks`, or `--tasks=json` for programs) or says what the executable is for.
    pub fn run(self) -> ExitCode {
        let tasks: Vec<String> = self.names().map(str::to_owned).collect();
        pool_core::init_with(self.into_registry());
        let args: Vec<_> = std::env::args_os().skip(1).collect();
        let answer = answer(tasks, &args);
        let written = match &answer {
            Answer::Stdout(text) => {
                io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush())
            }
            Answer::Stderr(text) => io::stderr().write_all(text.as_bytes()),
        };
        match (answer, written) {
            (Answer::Stdout(_), Ok(())) => ExitCode::SUCCESS,
            (Answer::Stdout(_), Err(_)) => ExitCode::FAILURE,
            (Answer::Stderr(_), _) => ExitCode::from(USAGE),
        }
    }
}

/// Runs one task and reports on it.
fn call(tasks: &BTreeMap<String, Call>, request: &[u8]) -> Reply {
    Reply::measure(|| {
        let (name, input) =
            call::parse_request(request).ok_or_else(|| anyhow!("this is no request for a call"))?;
        let task = tasks.get(name).ok_or_else(|| anyhow!("this worker has no task `{name}`"))?;
        task(input)
    })
}

/// The exit code of a host that was run by hand without a known argument.
const USAGE: u8 = 2;

/// What a host says to somebody who runs it by hand.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Stdout(String),
    Stderr(String),
}

fn answer(tasks: Vec<String>, args: &[std::ffi::OsString]) -> Answer {
    match args {
        [flag] if flag == TASKS_FLAG => {
            Answer::Stdout(tasks.iter().flat_map(|name| [name.as_str(), "\n"]).collect())
        }
        [flag] if flag == TASKS_JSON_FLAG => {
            let info = HostInfo { pool_worker: env!("CARGO_PKG_VERSION").into(), tasks };
            let json = serde_json::to_string(&info).expect("strings can be written as JSON");
            Answer::Stdout(json + "\n")
        }
        [flag] if flag == "--help" || flag == "-h" => Answer::Stdout(about(&tasks)),
        _ => Answer::Stderr(about(&tasks)),
    }
}

fn about(tasks: &[String]) -> String {
    let names = if tasks.is_empty() { "(none)".into() } else { tasks.join(", ") };
    format!(
        "this is a worker executable: a pool starts it and calls its tasks by name\n\
         \n\
         tasks: {names}\n\
         \n\
         name it in a job file (worker = \"path/to/this\", task = \"...\") and run that with: pool-cli run job.toml\n\
         {TASKS_FLAG} prints the names of the tasks, {TASKS_JSON_FLAG} prints them as JSON\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        let host = Host::new().task("b", |n: u8| n).task("a", |n: u8| n);
        host.names().map(str::to_owned).collect()
    }

    #[test]
    fn run_by_hand_it_lists_its_tasks() {
        assert_eq!(answer(names(), &["--tasks".into()]), Answer::Stdout("a\nb\n".into()));
        let Answer::Stdout(json) = answer(names(), &["--tasks=json".into()]) else {
            panic!("not on stdout")
        };
        let info: HostInfo = serde_json::from_str(&json).unwrap();
        assert_eq!(info.tasks, ["a", "b"]);
    }

    #[test]
    fn run_by_hand_without_arguments_it_says_what_it_is_for() {
        let Answer::Stderr(text) = answer(names(), &[]) else { panic!("not on stderr") };
        assert!(text.contains("tasks: a, b\n"), "{text}");
        assert_eq!(answer(names(), &["--help".into()]), Answer::Stdout(text));
    }

    #[test]
    fn a_call_runs_any_task_by_name() {
        let host = Host::new().task("double", |n: u8| 2 * n);
        let result = |name, input| call(&host.tasks, &call::request(name, input)).result;
        assert_eq!(result("double", &b"21"[..]), Ok(b"42".to_vec()));
        assert!(
            result("double", b"x").unwrap_err().starts_with("task `double` can't read its input")
        );
        assert_eq!(result("triple", b"1"), Err("this worker has no task `triple`".into()));
    }

    #[test]
    #[should_panic(expected = "two tasks of the same name")]
    fn two_tasks_of_one_name_are_refused() {
        let _ = Host::new().task("a", |n: u8| n).task("a", |n: u8| n);
    }
}
