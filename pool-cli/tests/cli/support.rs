//! A folder with a job in it, and the command run over that, with what differs between runs taken out of its output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a job file.
pub(crate) struct Job {
    folder: TempDir,
}

/// What a run said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code, or 128 and the signal as a shell would show it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Job {
    /// A folder whose `job.toml` has this text.
    pub(crate) fn new(text: &str) -> Job {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("job.toml"), text).unwrap();
        Job { folder }
    }

    /// Adds a file.
    pub(crate) fn file(self, name: &str, text: impl AsRef<[u8]>) -> Job {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Adds an executable shell script.
    pub(crate) fn script(self, name: &str, text: &str) -> Job {
        use std::os::unix::fs::PermissionsExt;
        let job = self.file(name, format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(job.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        job
    }

    /// Adds a named pipe, at which a task can be made to wait.
    pub(crate) fn fifo(self, name: &str) -> Job {
        assert!(Command::new("mkfifo").arg(self.path(name)).status().unwrap().success());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command with its folder as working directory and no input.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pool-cli"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("RUST_BACKTRACE", "0").env("COLUMNS", "100");
        command
    }

    /// Runs the command to its end.
    pub(crate) fn cli(&self, args: &[&str]) -> Ran {
        self.ran(self.command(args).output().unwrap())
    }

    /// `run job.toml` with more arguments.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.cli(&[&["run"], args, &["job.toml"]].concat())
    }

    /// What a finished command said, with the folder's name taken out.
    pub(crate) fn ran(&self, output: Output) -> Ran {
        use std::os::unix::process::ExitStatusExt;
        let folder = self.folder.path().to_str().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(folder, "[folder]");
        let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        Ran { code: code.unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ran {
    /// The results.
    pub(crate) fn results(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// One key of each result.
    pub(crate) fn all(&self, key: &str) -> Vec<Value> {
        self.results().iter().map(|result| result[key].clone()).collect()
    }

    /// All of it as one text, without times and process ids.
    pub(crate) fn redacted(&self) -> String {
        let stdout: String = self.stdout.lines().map(redact_result).collect();
        let stderr: String = self.stderr.lines().map(redact_text).collect();
        format!("exit code {}\n--- stdout\n{stdout}--- stderr\n{stderr}", self.code)
    }
}

fn redact_result(line: &str) -> String {
    let Ok(Value::Object(mut result)) = serde_json::from_str(line) else {
        return format!("{line}\n");
    };
    for (key, shown) in [("start", "[time]"), ("duration_s", "[time]"), ("worker_pid", "[pid]")] {
        if result.contains_key(key) {
            result[key] = shown.into();
        }
    }
    if let Some(error) = result.get_mut("error") {
        *error = redact_numbers(error.as_str().unwrap()).into();
    }
    format!("{}\n", Value::Object(result))
}

/// The last line of a summary has times, and messages have process ids.
fn redact_text(line: &str) -> String {
    match line.split_once("/s, ") {
        Some((times, rest)) if times.contains(" s, ") => format!("[times], {rest}\n"),
        _ => redact_numbers(line) + "\n",
    }
}

/// Takes out process ids and places in source files.
fn redact_numbers(text: &str) -> String {
    ["(pid ", ".rs:"].into_iter().fold(text.to_owned(), |text, mark| match text.split_once(mark) {
        None => text,
        Some((before, after)) => {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
            format!("{before}{mark}[number]{after}")
        }
    })
}

/// Waits for a condition that must come true soon.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    use std::time::{Duration, Instant};
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::yield_now();
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}
