//! `command`: runs a program and returns how it ended and what it wrote.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{anyhow, ensure};
use pool_core::command::{Command, Problem, Stream, run};
use serde::{Deserialize, Serialize};

use crate::Data;
use crate::call::unix_ms;

/// What is kept of each output stream if the spec does not say: enough for any message, too little to hurt in bulk.
pub const DEFAULT_OUTPUT_CAP_BYTES: u64 = 1 << 20;

/// After the command's exit its pipes may stay open this long before they count as leaked.
const LEAK_PATIENCE: Duration = Duration::from_millis(100);

/// A program to run, with its arguments and surroundings. There is no shell in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// The program, looked up on `PATH` if it has no slash, and its arguments.
    pub argv: Vec<Data>,
    /// Where it runs; the worker's own directory if absent.
    #[serde(default)]
    pub cwd: Option<Data>,
    /// Added to the worker's environment.
    #[serde(default)]
    pub env: Vec<(Data, Data)>,
    /// What it reads on its standard input; nothing if absent.
    #[serde(default)]
    pub stdin: Option<Data>,
    /// How much of each output stream is kept. The rest is read, counted and dropped.
    #[serde(default = "default_cap")]
    pub output_cap_bytes: u64,
}

fn default_cap() -> u64 {
    DEFAULT_OUTPUT_CAP_BYTES
}

/// The beginning of an output stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The first bytes, up to the cap.
    pub text: Data,
    /// How many there were in all.
    pub total_bytes: u64,
}

impl Captured {
    /// Whether there was more than is kept.
    pub fn truncated(&self) -> bool {
        self.total_bytes > self.text.as_bytes().len() as u64
    }

    pub(super) fn push(&mut self, bytes: &[u8], cap_bytes: u64) {
        self.total_bytes += bytes.len() as u64;
        let room = usize::try_from(cap_bytes).unwrap_or(usize::MAX) - self.text.as_bytes().len();
        self.text.extend(&bytes[..bytes.len().min(room)]);
    }
}

/// How a command ended and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOutput {
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Its standard output.
    pub stdout: Captured,
    /// Its standard error.
    pub stderr: Captured,
    /// Whether it left a process behind that holds its output open. What that one writes later is not captured.
    pub leaked: bool,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long it ran, in microseconds.
    pub duration_us: u64,
    /// The process id of the worker that ran it.
    pub worker_pid: u32,
}

impl CommandOutput {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.exit_code == Some(0)
    }
}

/// Runs the command to its end. A command that ran is a result, whatever its exit code; only one that could not be started
/// is an error.
pub fn command(spec: CommandSpec) -> anyhow::Result<CommandOutput> {
    let argv: Vec<&OsStr> = spec.argv.iter().map(Data::as_os_str).collect();
    let program = *argv.first().ok_or_else(|| anyhow!("the command is empty"))?;
    if let Some(cwd) = &spec.cwd {
        ensure!(
            cwd.as_path().is_dir(),
            "there is no directory {:?} to run the command in",
            cwd.as_path()
        );
    }
    let environment = spec.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    let environment: Vec<_> = environment.collect();
    let directory = spec.cwd.as_ref().map(Data::as_path);
    let command = Command { argv: &argv, environment: &environment, directory };
    let input = spec.stdin.as_ref().map(|text| text.as_bytes().to_vec());

    let started = Instant::now();
    let started_unix_ms = unix_ms(SystemTime::now());
    let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
    let ended = run(command, input, LEAK_PATIENCE, |stream, bytes| {
        let captured = match stream {
            Stream::Out => &mut stdout,
            Stream::Err => &mut stderr,
        };
        captured.push(bytes, spec.output_cap_bytes);
    });
    let ended = ended.map_err(|problem| match problem {
        Problem::Start(error) => explain_start(program, &error),
        Problem::Attend(error) => {
            anyhow::Error::new(error).context("the command's output can't be read")
        }
    })?;
    let duration = ended.at.duration_since(started);
    Ok(CommandOutput {
        exit_code: ended.status.code(),
        signal: ended.status.signal(),
        stdout,
        stderr,
        leaked: ended.is_held_open,
        started_unix_ms,
        duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        worker_pid: std::process::id(),
    })
}

fn explain_start(program: &OsStr, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "no such program; is it installed, and on PATH if it has no slash"
        }
        io::ErrorKind::PermissionDenied => "it is not executable; try chmod +x",
        io::ErrorKind::ArgumentListTooLong => {
            "its arguments are too long; pass them through stdin or a file"
        }
        _ => return anyhow!("can't start {program:?}: {error}"),
    };
    anyhow!("can't start {program:?}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(argv: &[&str]) -> CommandSpec {
        CommandSpec {
            argv: argv.iter().map(|arg| Data::from(*arg)).collect(),
            cwd: None,
            env: Vec::new(),
            stdin: None,
            output_cap_bytes: DEFAULT_OUTPUT_CAP_BYTES,
        }
    }

    fn sh(script: &str) -> CommandSpec {
        spec(&["sh", "-c", script])
    }

    #[test]
    fn an_exit_code_is_a_result_with_both_outputs() {
        let output = command(sh("echo out; echo err >&2; exit 3")).unwrap();
        assert_eq!((output.exit_code, output.signal, output.leaked), (Some(3), None, false));
        assert_eq!(output.stdout.text.as_bytes(), b"out\n");
        assert_eq!(output.stderr.text.as_bytes(), b"err\n");
        assert_eq!(output.worker_pid, std::process::id());
    }

    #[test]
    fn a_signal_is_a_result() {
        let output = command(sh("kill -SEGV $$")).unwrap();
        assert_eq!((output.exit_code, output.signal), (None, Some(11)));
        assert!(!output.success());
    }

    #[test]
    fn big_output_on_both_pipes_does_not_deadlock() {
        let mut spec = sh(
            "head -c 3000000 /dev/zero >&2; head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2",
        );
        spec.output_cap_bytes = 4;
        let output = command(spec).unwrap();
        assert_eq!((output.stdout.total_bytes, output.stderr.total_bytes), (5_000_000, 6_000_000));
        assert_eq!((output.stdout.text.as_bytes(), output.stdout.truncated()), (&[0; 4][..], true));
    }

    #[test]
    fn input_reaches_the_command_even_when_it_is_bigger_than_a_pipe() {
        let mut cat = spec(&["wc", "-c"]);
        cat.stdin = Some(Data::from(vec![b'x'; 1 << 20]));
        assert_eq!(command(cat).unwrap().stdout.text.to_text().trim(), "1048576");
        let mut ignores_it = spec(&["true"]);
        ignores_it.stdin = Some(Data::from(vec![b'x'; 1 << 20]));
        assert!(command(ignores_it).unwrap().success());
        let no_input = command(spec(&["cat"])).unwrap();
        assert_eq!(no_input.stdout.total_bytes, 0);
    }

    #[test]
    fn a_process_left_behind_is_reported_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        let mut spec = sh("mkfifo \"$GATE\"; cat \"$GATE\" & echo before");
        spec.env = vec![(Data::from("GATE"), Data::from(gate.clone()))];
        let output = command(spec).unwrap();
        // The process that was left behind holds the output until the test opens and closes the gate.
        drop(std::fs::File::create(gate).unwrap());
        assert_eq!((output.exit_code, output.leaked), (Some(0), true));
        assert_eq!(output.stdout.text.as_bytes(), b"before\n");
    }

    #[test]
    fn directory_and_environment_are_the_commands_own() {
        let mut spec = sh("pwd; echo $WORD");
        spec.cwd = Some(Data::from("/"));
        spec.env = vec![(Data::from("WORD"), Data::from("set"))];
        assert_eq!(command(spec).unwrap().stdout.text.as_bytes(), b"/\nset\n");
    }

    #[test]
    fn a_command_that_can_not_start_says_why() {
        let error = |spec| format!("{:#}", command(spec).unwrap_err());
        assert_eq!(
            error(spec(&["no-such-program-here"])),
            "can't start \"no-such-program-here\": no such program; is it installed, and on PATH if it has no slash"
        );
        assert_eq!(error(spec(&["/"])), "can't start \"/\": it is not executable; try chmod +x");
        assert_eq!(error(spec(&[])), "the command is empty");
        let mut lost = spec(&["true"]);
        lost.cwd = Some(Data::from("/no/such"));
        assert_eq!(error(lost), "there is no directory \"/no/such\" to run the command in");
    }

    #[test]
    fn what_crosses_the_wire_is_json() {
        let spec: CommandSpec =
            serde_json::from_str(r#"{"argv":["true",{"base64":"/w=="}]}"#).unwrap();
        assert_eq!(spec.argv[1].as_bytes(), b"\xff");
        assert_eq!(spec.output_cap_bytes, DEFAULT_OUTPUT_CAP_BYTES);
        assert!(serde_json::from_str::<CommandSpec>(r#"{"argv":[],"shell":true}"#).is_err());
    }
}
