//! Asking a worker executable which tasks it has.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pool_worker::{HostInfo, TASKS_JSON_FLAG};

/// A host answers at once; this is for a machine under load, and for an executable that is no host.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer is a list of names; a program that prints more is no host.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Runs the executable with `--tasks=json` and reads its answer. The error says what it did instead.
pub(crate) fn ask(worker: &Path) -> Result<HostInfo, String> {
    let mut child = Command::new(worker)
        .arg(TASKS_JSON_FLAG)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("it can't be started: {error}"))?;
    let answer = read_answer(&mut child);
    // Whatever it does now, its answer is known.
    let _ = child.kill();
    let _ = child.wait();
    let answer = answer?;
    serde_json::from_slice(&answer).map_err(|_| {
        let text = String::from_utf8_lossy(&answer);
        match text.lines().next() {
            None => format!("asked for its tasks ({TASKS_JSON_FLAG}) it printed nothing"),
            Some(line) => {
                format!("asked for its tasks ({TASKS_JSON_FLAG}) it printed `{}`", shorten(line))
            }
        }
    })
}

fn read_answer(child: &mut Child) -> Result<Vec<u8>, String> {
    let Some(stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let (send, receive) = mpsc::channel();
    let read = move || {
        let mut answer = Vec::new();
        let end = stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
        // Nobody listens any more after the time limit.
        let _ = send.send(end.map(|_| answer));
    };
    let asked = Instant::now();
    thread::Builder::new().name("ask".into()).spawn(read).map_err(|error| error.to_string())?;
    match receive.recv_timeout(PATIENCE.saturating_sub(asked.elapsed())) {
        Ok(answer) => {
            answer.map_err(|error: io::Error| format!("its answer can't be read: {error}"))
        }
        Err(_) => {
            Err(format!("it did not answer {TASKS_JSON_FLAG} within {} s", PATIENCE.as_secs()))
        }
    }
}

fn shorten(line: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    let mut chars = line.chars();
    let start: String = chars.by_ref().take(SHOWN_CHARS).collect();
    if chars.next().is_some() { start + "..." } else { start }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn answer(script: &str) -> Result<HostInfo, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        ask(&path)
    }

    #[test]
    fn a_host_says_its_tasks_and_others_are_recognised() {
        let info =
            answer(r#"test "$1" = --tasks=json && echo '{"pool_worker":"1","tasks":["a"]}'"#)
                .unwrap();
        assert_eq!(info.tasks, ["a"]);
        assert_eq!(
            answer("exit 1").unwrap_err(),
            "asked for its tasks (--tasks=json) it printed nothing"
        );
        assert_eq!(
            answer("yes no").unwrap_err(),
            "asked for its tasks (--tasks=json) it printed `no`"
        );
        assert!(ask(Path::new("/no/such")).unwrap_err().starts_with("it can't be started: "));
    }
}
