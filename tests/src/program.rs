//! Parent programs of their own: for what concerns a whole process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use crate::census::{self, COOKIE};
use crate::{Case, eventually};

/// A program that is going to be started.
#[derive(Debug)]
pub struct Program {
    command: Command,
}

impl Program {
    /// The program at this path, its processes marked as those of the test. It ends when its standard input is closed.
    #[must_use]
    pub fn new(case: &Case, path: &str, args: &[&str]) -> Program {
        let mut command = Command::new(path);
        command
            .args(args)
            .env(COOKIE, case.cookie())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Program { command }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Program {
        self.command.env(key, value);
        self
    }

    /// Runs it as another user, which only root can.
    #[must_use]
    pub fn user(mut self, id: u32) -> Program {
        std::os::unix::process::CommandExt::uid(&mut self.command, id);
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdin, stdout }
    }

    /// Runs it to its end: its status, standard output, and standard error.
    #[must_use]
    pub fn run(mut self) -> (ExitStatus, String, String) {
        let output = self.command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status, text(output.stdout), text(output.stderr))
    }
}

impl Program {
    /// Runs a program that reports what it holds as `before` and `after`: that must not have grown, and no file may be left.
    #[track_caller]
    pub fn assert_stays_flat(self, rss_slack_kib: u64) {
        let scratch = tempfile::tempdir().unwrap();
        let scratch = scratch.path().to_str().unwrap();
        let shared_before = census::entries("/dev/shm");
        let (status, stdout, stderr) = self.env("TMPDIR", scratch).run();
        assert!(status.success(), "{stderr}");
        let report = |what: &str| -> Vec<u64> {
            let line = stdout.lines().find_map(|line| line.strip_prefix(what)).unwrap();
            line.split_whitespace().map(|number| number.parse().unwrap()).collect()
        };
        let (before, after) = (report("before"), report("after"));
        assert_eq!(before[..3], after[..3], "descriptors, threads, children");
        let limit = before[3] + rss_slack_kib;
        assert!(after[3] <= limit, "memory in KiB: {} -> {}", before[3], after[3]);
        let left = census::entries(scratch);
        assert!(left.is_empty(), "files are left: {left:?}");
        assert_eq!(census::entries("/dev/shm"), shared_before);
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends it a line.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Kills it and collects it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        eventually(std::time::Duration::from_secs(60), "the program ends", || {
            self.child.try_wait().unwrap().is_some()
        });
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
