//! The command in a real terminal: keys become signals there, for the whole group in front. `script` makes the terminal.

#![expect(clippy::print_stdout, reason = "says what it can't test here")]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::support::{Job, eventually};

/// A job of two tasks that wait at gates, in a terminal.
struct Terminal {
    job: Job,
    child: Child,
    keys: Option<ChildStdin>,
    gates: Vec<File>,
}

impl Terminal {
    /// Runs a line of shell in which `run` is the command. `None`: there is no `script` here.
    fn start(line: &str) -> Option<Terminal> {
        let mut probe = Command::new("script");
        let probe = probe.args(["-qfec", "bash -c true", "/dev/null"]).stdin(Stdio::null());
        if !probe.output().is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: no script(1) that makes a terminal");
            return None;
        }
        let text = "[pool]\nprocs = 2\nterm_grace = '200ms'\n[task]\ncommand = ['cat', 'gate{}']\n[inputs]\nrange = { end = 5 }\n";
        let job = Job::new(text).fifo("gate0").fifo("gate1");
        let command = format!("{} run -o results job.toml", env!("CARGO_BIN_EXE_pool-cli"));
        let job = job.script("line", &line.replace("run", &command));
        let mut child = Command::new("script")
            .args(["-qfec", "bash -m ./line", "/dev/null"])
            .current_dir(job.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keys = child.stdin.take();
        // opening a gate waits for the task behind it
        let gates = ["gate0", "gate1"].map(|gate| File::create(job.path(gate)).unwrap()).into();
        Some(Terminal { job, child, keys, gates })
    }

    fn press(&mut self, key: &[u8]) {
        self.keys.as_mut().unwrap().write_all(key).unwrap();
    }

    /// Reads what appears on the screen until this does.
    fn sees(&mut self, what: &str) -> String {
        let mut screen = Vec::new();
        while !String::from_utf8_lossy(&screen).contains(what) {
            let mut byte = [0];
            let read = self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(read, 1, "not seen: {what} in {}", String::from_utf8_lossy(&screen));
            screen.push(byte[0]);
        }
        String::from_utf8_lossy(&screen).into_owned()
    }

    fn outcomes(&self) -> Vec<String> {
        let results = std::fs::read_to_string(self.job.path("results")).unwrap_or_default();
        let outcome = |line: &str| {
            let result: serde_json::Value = serde_json::from_str(line).unwrap();
            result["outcome"].as_str().unwrap().to_owned()
        };
        results.lines().map(outcome).collect()
    }

    fn ends(mut self) -> Vec<String> {
        drop(self.keys.take());
        self.child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        self.child.wait().unwrap();
        // a gate without a reader is what is left of a command that was killed
        let waits = self.gates.iter_mut().any(|gate| gate.write_all(b"x").is_ok());
        assert!(!waits, "a command outlived the run");
        self.outcomes()
    }
}

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";
const CTRL_BACKSLASH: &[u8] = b"\x1c";

#[test]
fn row_58_ctrl_c_once_lets_what_runs_finish() {
    let Some(mut terminal) = Terminal::start("run; echo \"ended $?\"") else { return };
    terminal.press(CTRL_C);
    terminal.sees("SIGINT: waiting for 2 tasks that run");
    terminal.gates.clear();
    // a shell that sees its command die by SIGINT ends too: the loop around it does not go on
    assert_eq!(terminal.ends(), ["ok", "ok"]);
}

#[test]
fn row_58_ctrl_c_twice_kills_what_runs() {
    let Some(mut terminal) = Terminal::start("run") else { return };
    terminal.press(CTRL_C);
    terminal.sees("SIGINT: waiting for 2 tasks that run");
    terminal.press(CTRL_C);
    assert_eq!(terminal.ends(), ["cancelled", "cancelled"]);
}

#[test]
fn row_59_ctrl_backslash_ends_the_command_and_its_tasks() {
    let Some(mut terminal) = Terminal::start("ulimit -c 0; run; echo \"ended $?\"") else { return };
    terminal.press(CTRL_BACKSLASH);
    terminal.sees("ended 131");
    terminal.ends();
}

#[test]
fn row_59_sigterm_in_a_terminal() {
    let Some(mut terminal) =
        Terminal::start("run & pid=$!; read key; kill -TERM $pid; wait $pid; echo \"ended $?\"")
    else {
        return;
    };
    terminal.press(b"go on\n");
    terminal.sees("ended 143");
    assert_eq!(terminal.ends(), ["cancelled", "cancelled"]);
}

#[test]
fn row_60_ctrl_z_stops_the_command_and_fg_continues_it() {
    let Some(mut terminal) =
        Terminal::start("run; echo \"stopped $?\"; read key; fg; echo \"ended $?\"")
    else {
        return;
    };
    terminal.press(CTRL_Z);
    // 128 and SIGTSTP
    terminal.sees("stopped 148");
    // its workers are in groups of their own: what runs goes on and finishes meanwhile
    terminal.gates.clear();
    assert!(terminal.outcomes().is_empty(), "nobody has collected it yet");
    terminal.press(b"go on\n");
    terminal.sees("ended ");
    let outcomes = terminal.ends();
    assert_eq!(outcomes[..2], ["ok", "ok"], "{outcomes:?}");
    eventually("the others are reported too", || outcomes.len() == 5);
}
